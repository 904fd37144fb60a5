//! Why an image cannot be read.

use std::fmt;
use std::io;

use thiserror::Error;

/// A place in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Bytes from the beginning of the image.
    pub position: u64,
    /// Where a metadata block begins at that position: bytes from its beginning, once it is decompressed.
    pub offset: Option<usize>,
}

impl At {
    /// A place outside of metadata blocks.
    pub(super) fn byte(position: u64) -> Self {
        Self { position, offset: None }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            None => write!(f, "byte {}", self.position),
            Some(offset) => write!(f, "byte {offset} of the metadata block at byte {}", self.position),
        }
    }
}

/// Why an image cannot be read. Paths are absolute within the image; bytes that are not UTF-8 show as `�`.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file that holds the image cannot be read.
    #[error("cannot read the squashfs image at byte {position}")]
    Io {
        /// Bytes from the beginning of the image.
        position: u64,
        /// Why.
        source: io::Error,
    },
    /// The file does not begin like an image.
    #[error("not a squashfs image: it begins with \"{}\", not \"hsqs\"", .found.escape_ascii())]
    NotSquashfs {
        /// Its first bytes, at most 4.
        found: Vec<u8>,
    },
    /// An image of a kind that this reader does not know.
    #[error("the squashfs image has {found}; this reader takes {taken}")]
    Unsupported {
        /// What it has.
        found: String,
        /// What it should have.
        taken: &'static str,
    },
    /// The file is shorter than the image in it.
    #[error("the squashfs image is cut short: it should have {expected} bytes, there are {found}; fetch it again")]
    Truncated {
        /// What the superblock says, in bytes.
        expected: u64,
        /// What is there, in bytes.
        found: u64,
    },
    /// Something in the image makes no sense.
    #[error("the squashfs image is broken: {part} at {at}: {reason}")]
    Corrupt {
        /// What is broken.
        part: &'static str,
        /// Where it stands.
        at: At,
        /// What was found there.
        reason: String,
    },
    /// A compressed block is none.
    #[error("the squashfs image is broken: {part} at byte {position} cannot be decompressed")]
    Decompress {
        /// What the block belongs to.
        part: &'static str,
        /// Where it begins, in bytes from the beginning of the image.
        position: u64,
        /// What the decompressor said.
        source: io::Error,
    },
    /// There is more to read than the limits allow.
    #[error(
        "the squashfs image has more files, names or attributes than fit into {limit} bytes of work: raise the limit if \
         you trust the image"
    )]
    Limit {
        /// [`super::Limits::work`].
        limit: u64,
    },
    /// What stands at a path cannot be read.
    #[error("{path}: cannot be read from the image")]
    Path {
        /// The path.
        path: String,
        /// Why.
        source: Box<ReadError>,
    },
}

impl ReadError {
    /// Something that makes no sense.
    pub(super) fn corrupt(part: &'static str, at: At, reason: impl Into<String>) -> Self {
        Self::Corrupt { part, at, reason: reason.into() }
    }

    /// The same as seen by who reads a file.
    pub(super) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, self)
    }
}
