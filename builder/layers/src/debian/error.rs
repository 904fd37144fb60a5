//! What can go wrong with a `debian` layer.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::TarError;
use crate::cache::CacheError;

/// What can go wrong with a `debian` layer.
#[derive(Debug, Error)]
pub enum DebianError {
    /// mmdebstrap cannot be run.
    #[error("cannot run mmdebstrap; install it (apt-get install mmdebstrap)")]
    Start {
        /// Why.
        source: io::Error,
    },
    /// mmdebstrap failed.
    #[error("mmdebstrap ended with {status}:\n{said}")]
    Failed {
        /// How it ended.
        status: String,
        /// Its words about the cause.
        said: String,
    },
    /// A repository's index cannot be had.
    #[error("cannot fetch {url}: {reason}")]
    Index {
        /// Where the index should be.
        url: String,
        /// What apt said.
        reason: String,
    },
    /// A repository's index has no date.
    #[error("{url} is no InRelease file: it has no Date")]
    NoDate {
        /// Where the index is.
        url: String,
    },
    /// A key file cannot be read.
    #[error("cannot read the repository key {}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `--offline`, and the cache has no such layer.
    #[error("--offline, and the cache does not hold these packages; build once without --offline")]
    Offline,
    /// The repositories no longer have what the lock names.
    #[error(
        "the repositories no longer give what the lock names: {}; run imgbuild lock, or name a snapshot in the \
         recipe", differences.join(", ")
    )]
    Moved {
        /// One sentence for each package.
        differences: Vec<String>,
    },
    /// The root has no list of packages.
    #[error("{reason}")]
    PackageList {
        /// What is wrong.
        reason: String,
    },
    /// A temporary file cannot be written.
    #[error("cannot write below {}", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The tar that mmdebstrap wrote cannot be read.
    #[error("the root that mmdebstrap wrote cannot be read")]
    Tar {
        /// Why.
        source: TarError,
    },
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}
