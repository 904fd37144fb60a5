//! The embedded boot server: files over plain HTTP/1.1, and nothing else.
//!
//! `imgbuild serve` runs it over a published folder, `imgbuild boot` and `imgbuild test` over the files of a bundle on
//! loopback. It answers GET and HEAD with ranges, validators and lengths, so that a download that broke can go on
//! where it stopped. What it serves is a [`Tree`]; who asked for what goes to a callback, as an [`Access`].
//!
//! ```no_run
//! # fn main() -> Result<(), imgbuild_serve::Error> {
//! use imgbuild_serve::{Server, Tree};
//! let server = Server::bind("127.0.0.1:0", Tree::folder("/srv/boot")?)?;
//! let url = format!("http://{}/boot.ipxe", server.address());
//! # let _ = url;
//! server.stop(std::time::Duration::from_secs(5));
//! # Ok(())
//! # }
//! ```

mod access;
mod answer;
mod cut;
mod server;
mod tree;

pub use access::{Access, OnAccess};
pub use cut::Cut;
pub use server::Server;
pub use tree::{Refusal, Tree};

use std::{io, net::SocketAddr, path::PathBuf};

/// Why a server cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder to serve is not there or cannot be read.
    #[error("cannot serve {path}; give an existing folder that this user can read")]
    Folder {
        /// The folder as it was given.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is something else than a folder.
    #[error("cannot serve {path}, which is not a folder; give the folder that `imgbuild publish` wrote to")]
    NotAFolder {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The text is no address to listen on.
    #[error("`{address}` is no address to listen on; write HOST:PORT, such as 0.0.0.0:8080 or [::]:8080")]
    Address {
        /// The address as it was given.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address}; is another server running there? Port 0 takes any free port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No threads or no event loop could be had.
    #[error("cannot start the server's threads")]
    Start(#[source] io::Error),
}
