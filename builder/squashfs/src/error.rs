//! Why an image cannot be written.

use std::io;

use thiserror::Error;

/// Why an image cannot be written. Paths are absolute within the tree; bytes that are not UTF-8 show as `�`.
#[derive(Debug, Error)]
pub enum Error {
    /// The block size is out of range.
    #[error("a squashfs block size must be a power of two from 4096 to 1048576, not {found}")]
    BlockSize {
        /// What was asked for, in bytes.
        found: u32,
    },
    /// The compression level is out of range.
    #[error("the level of {algorithm} must be 1 to {max}, not {found}")]
    Level {
        /// The compressor.
        algorithm: &'static str,
        /// What was asked for.
        found: u32,
        /// The highest there is.
        max: u32,
    },
    /// The content of a file cannot be read.
    #[error("cannot read the content of {path}")]
    Read {
        /// The file in the tree.
        path: String,
        /// What the content said.
        source: io::Error,
    },
    /// The image cannot be written: the disk is full, say.
    #[error("cannot write the squashfs image")]
    Write(#[source] io::Error),
    /// The compressor failed, which means that memory is short.
    #[error("cannot compress a block")]
    Compress(#[source] io::Error),
    /// No worker thread could be started.
    #[error("cannot start a compression thread")]
    Thread(#[source] io::Error),
    /// A name that no path can have.
    #[error("{directory}: {name:?} cannot be a file name: rename it")]
    Name {
        /// The directory it is in.
        directory: String,
        /// The name.
        name: String,
    },
    /// A name longer than the format has room for.
    #[error("{directory}: the name {name:?} has {len} bytes, squashfs takes 256: shorten it")]
    NameTooLong {
        /// The directory it is in.
        directory: String,
        /// The name.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
    /// A symbolic link that squashfs cannot hold.
    #[error("{path}: a symbolic link must hold 1 to 65535 bytes without NUL, not {len}{}", if *.has_nul { " with NUL" } else { "" })]
    Symlink {
        /// The link.
        path: String,
        /// How many bytes it holds.
        len: usize,
        /// Whether there is a NUL among them.
        has_nul: bool,
    },
    /// A device number that squashfs cannot hold.
    #[error("{path}: device {major}:{minor} is beyond what squashfs holds (major up to 4095, minor up to 1048575)")]
    Device {
        /// The device file.
        path: String,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// An extended attribute that Linux would not let anybody read.
    #[error(
        "{path}: extended attribute {name:?} has a name of {} and a value of {value_len} bytes, \
         Linux takes 255 and 65536: drop or shorten it",
        name.len()
    )]
    XattrTooLong {
        /// The file.
        path: String,
        /// The attribute.
        name: String,
        /// Length of the value in bytes.
        value_len: usize,
    },
    /// A file longer than Linux can address.
    #[error("{path}: {len} bytes are more than a file can have")]
    FileTooLong {
        /// The file.
        path: String,
        /// Its length in bytes.
        len: u64,
    },
    /// More user and group ids than the format can number.
    #[error("the tree has {found} different user and group ids, squashfs takes 65535: give files fewer owners")]
    TooManyIds {
        /// How many there are.
        found: usize,
    },
    /// A table outgrew the format's 32-bit positions.
    #[error("the {table} table of the image would exceed 4 GiB: split the tree into several images")]
    TableTooLarge {
        /// Which table.
        table: &'static str,
    },
    /// The tree is no tree.
    #[error("{path}: {reason}")]
    Malformed {
        /// Where.
        path: String,
        /// What is wrong there.
        reason: &'static str,
    },
}
