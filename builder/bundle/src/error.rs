//! What can go wrong with a bundle.

use std::io;
use std::path::PathBuf;

use thiserror::Error as ThisError;

/// What can go wrong with a bundle.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A file of the root cannot be read.
    #[error("cannot read {path} of the root")]
    Content {
        /// Its path in the root.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A package list in the root is not in its format.
    #[error("{path} in the root: {reason}")]
    PackageList {
        /// Its path in the root.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of a bundle cannot be read or written.
    #[error("{action} {}", path.display())]
    Io {
        /// `cannot read`, `cannot write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that is no bundle has the new bundle's name.
    #[error("{} is there and is no bundle; move it away, or build into another folder (-o)", path.display())]
    InTheWay {
        /// What is there.
        path: PathBuf,
    },
    /// A folder is no bundle.
    #[error("{} is no bundle: {reason}", path.display())]
    NotABundle {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// A bundle's file is not what its manifest or `SHA256SUMS` says.
    #[error("{}: expected {expected}, found {found}; the bundle is damaged, build or copy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Size or hash that was promised.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A bundle without a kernel was to be booted.
    #[error("{name} {version} has no kernel, so nothing can boot it; give its recipe a [kernel]")]
    NoKernel {
        /// The image's name.
        name: String,
        /// The image's version.
        version: String,
    },
    /// A kernel parameter would not reach the kernel as it was written.
    #[error("[kernel] cmdline: `{word}` would not come through every boot loader: {reason}; write it without")]
    CommandLine {
        /// The parameter.
        word: String,
        /// What would become of it.
        reason: &'static str,
    },
}
