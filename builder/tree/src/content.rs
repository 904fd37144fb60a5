//! Where the bytes of a regular file are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The content of a regular file, read at any offset from any thread.
pub trait FileContent: Send + Sync {
    /// Length in bytes, holes included.
    fn len(&self) -> u64;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` with the bytes from `offset` on; holes read as zeros.
    ///
    /// # Errors
    /// When the bytes cannot be had; `UnexpectedEof` when `offset + buf.len()` lies beyond [`FileContent::len`] or the
    /// underlying file became shorter. The message names the underlying file.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A piece of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it lies in the sparse file, in bytes.
    pub logical: u64,
    /// Where it lies in the underlying file, in bytes.
    pub physical: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Bytes in memory, or a range of a file that stays open, or a file opened when it is read. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Content {
    /// In memory: small or generated files.
    Bytes(Arc<[u8]>),
    /// A range of an open file: a member of a layer's tar in the cache.
    Range {
        /// The open file.
        file: Arc<File>,
        /// Its path, for messages.
        path: Arc<Path>,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Ranges of an open file with holes between them.
    Sparse {
        /// The open file.
        file: Arc<File>,
        /// Its path, for messages.
        path: Arc<Path>,
        /// The data, ascending and without overlap.
        extents: Arc<[Extent]>,
        /// Length in bytes, holes included.
        len: u64,
    },
    /// A whole file, opened for each read so that an overlay of thousands of files needs no thousands of descriptors.
    Path {
        /// Where it is.
        path: Arc<Path>,
        /// Its length in bytes when it was looked at; a file of another length since then is an error.
        len: u64,
    },
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl FileContent for Content {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Range { len, .. } | Self::Sparse { len, .. } | Self::Path { len, .. } => *len,
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read beyond the end of the file"));
        }
        match self {
            Self::Bytes(bytes) => {
                let start = offset as usize;
                buf.copy_from_slice(&bytes[start..start + buf.len()]);
                Ok(())
            }
            Self::Range { file, path, offset: first, .. } => {
                file.read_exact_at(buf, first + offset).map_err(|e| named(path, e))
            }
            Self::Sparse { file, path, extents, .. } => {
                read_sparse(file, extents, buf, offset).map_err(|e| named(path, e))
            }
            Self::Path { path, len } => read_path(path, *len, buf, offset).map_err(|e| named(path, e)),
        }
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn read_path(path: &Path, len: u64, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let file = File::open(path)?;
    let found = file.metadata()?.len();
    if found != len {
        return Err(io::Error::other(format!("the file changed during the build: {len} bytes, now {found}")));
    }
    file.read_exact_at(buf, offset)
}

fn read_sparse(file: &File, extents: &[Extent], buf: &mut [u8], offset: u64) -> io::Result<()> {
    buf.fill(0);
    let end = offset + buf.len() as u64;
    let first = extents.partition_point(|e| e.logical + e.len <= offset);
    for extent in extents[first..].iter().take_while(|e| e.logical < end) {
        let from = extent.logical.max(offset);
        let to = (extent.logical + extent.len).min(end);
        let physical = extent.physical + (from - extent.logical);
        file.read_exact_at(&mut buf[(from - offset) as usize..(to - offset) as usize], physical)?;
    }
    Ok(())
}

/// The SHA-256 of a content.
///
/// # Errors
/// When it cannot be read.
pub fn sha256<C: FileContent + ?Sized>(content: &C) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; content.len().min(1 << 20) as usize];
    let mut offset = 0;
    while offset < content.len() {
        let take = (content.len() - offset).min(buf.len() as u64) as usize;
        content.read_exact_at(&mut buf[..take], offset)?;
        hash.update(&buf[..take]);
        offset += take as u64;
    }
    Ok(hash.finalize().into())
}
