//! Packs a folder, as mksquashfs would: `pack FOLDER IMAGE [zstd:9|gzip:9|none] [BLOCK SIZE] [THREADS]`.

#![allow(clippy::print_stdout)]

#[path = "../tests/it/folder.rs"]
mod folder;

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use imgbuild_squashfs::{Compression, Options, write};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, image, rest @ ..] = arguments.as_slice() else {
        return Err("usage: pack FOLDER IMAGE [zstd:9|gzip:9|none] [BLOCK SIZE] [THREADS]".into());
    };
    let mut options = Options::default();
    if let Some(compression) = rest.first() {
        options.compression = match compression.split_once(':') {
            Some(("zstd", level)) => Compression::Zstd { level: level.parse()? },
            Some(("gzip", level)) => Compression::Gzip { level: level.parse()? },
            None if compression == "none" => Compression::None,
            _ => return Err(format!("{compression}: not zstd:LEVEL, gzip:LEVEL or none").into()),
        };
    }
    if let Some(block_size) = rest.get(1) {
        options.block_size = block_size.parse()?;
    }
    if let Some(threads) = rest.get(2) {
        options.threads = threads.parse()?;
    }
    let tree = folder::load(Path::new(folder))?;
    let start = Instant::now();
    let summary = write(&tree, File::create(image)?, &options, &|_| {})?;
    println!("{summary:#?}\n{:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
