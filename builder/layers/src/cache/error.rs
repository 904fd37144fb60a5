//! What can go wrong with the cache.

use std::io;
use std::path::{Path, PathBuf};

use super::free_space;

/// A cache that does not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither `$IMGBUILD_CACHE` nor a home.
    #[error("no place for the cache: set IMGBUILD_CACHE to a folder (XDG_CACHE_HOME and HOME are not set either)")]
    NoPlace,
    /// The folder cannot be had.
    #[error("cannot open the cache {}; set IMGBUILD_CACHE to a folder that you may write", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key that could leave its bucket.
    #[error("'{key}' cannot be the key of a cache entry")]
    Key {
        /// The key.
        key: String,
    },
    /// An entry of a tar that is imported is cut short, or not what its name says.
    #[error("the tar to import is damaged at {entry}: {reason}; export or copy it again")]
    Import {
        /// The entry's bucket and key.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No space left, or over quota.
    #[error("no space for {}: {}{}", path.display(), needs(*needed), has(*free))]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// How many more bytes it needs, if that is known.
        needed: Option<u64>,
        /// How many there are, if that is known.
        free: Option<u64>,
    },
    /// Anything else.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn needs(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "the disk is full".to_owned(), |bytes| format!("{bytes} more bytes are needed"))
}

fn has(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(", {bytes} bytes are free"))
}

impl CacheError {
    /// A failed file system call; a full disk becomes [`CacheError::DiskFull`].
    pub fn write(path: &Path, source: io::Error) -> Self {
        if Self::is_full(&source) { Self::full(path, None) } else { Self::io("write", path, source) }
    }

    /// Whether an I/O error says that the disk or the user's quota is full.
    #[must_use]
    pub fn is_full(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn full(path: &Path, needed: Option<u64>) -> Self {
        Self::DiskFull { path: path.to_owned(), needed, free: free_space(path) }
    }
}
