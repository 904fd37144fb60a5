//! Fetches a file into memory as a node fetches its root: what `ci/parallel-ranges` measures.
//!
//! `fetch URL SHA256 BYTES CONNECTIONS`

use std::{env, error::Error, fs::File};

use netboot_init::fetch::{Error as FetchError, Patience, Wanted, fetch};
use netboot_init::net::dns::Names;
use rustix::fs::{MemfdFlags, memfd_create};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, sha256, size, connections] = arguments.as_slice() else {
        return Err("usage: fetch URL SHA256 BYTES CONNECTIONS".into());
    };
    let urls = [url.clone()];
    let wanted =
        Wanted { urls: &urls, sha256, size: Some(size.parse()?), least_speed: 0, connections: connections.parse()? };
    let place = |error: rustix::io::Errno| FetchError::Place(error.to_string());
    let mut place = |_| memfd_create("root", MemfdFlags::CLOEXEC).map(File::from).map_err(place);
    fetch(&wanted, Names::new(Vec::new(), Vec::new()), Patience::default(), &mut place)?;
    Ok(())
}
