//! An image, opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use imgbuild_tree::{Content, FileContent, Tree};

use super::cache::Cache;
use super::decompress::Decompressor;
use super::error::{At, ReadError};
use super::file::ImageFile;
use super::superblock::Superblock;
use super::tree;

/// What the caches of decompressed blocks may take, in bytes.
const CACHE_SIZE: usize = 16 << 20;
/// How many blocks are kept at most, however small.
const CACHE_BLOCKS: usize = 64;
/// Decompressors kept for the next read; each has a context and a block's worth of room.
const IDLE_DECOMPRESSORS: usize = 16;

/// How far the reader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What [`Image::tree`] may take, in bytes: all metadata as it is read and decompressed, extended attributes once for
    /// each inode that has them, the path of every name, and 256 for each name. The memory taken stays within a few
    /// times that, and the time grows with it.
    pub work: u64,
}

impl Default for Limits {
    /// 1 GiB of work: about two million files.
    fn default() -> Self {
        Self { work: 1 << 30 }
    }
}

/// A squashfs image to be read. Cheap to clone; can be used from any thread.
#[derive(Clone)]
pub struct Image {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("superblock", &self.inner.superblock).finish_non_exhaustive()
    }
}

impl Image {
    /// Opens the image in a file, which stays open as long as the image or a file of its tree lives.
    ///
    /// # Errors
    /// When the file cannot be read, or its superblock is not that of an image that can be.
    pub fn open(file: File) -> Result<Self, ReadError> {
        let len = file.metadata().map_err(|source| ReadError::Io { position: 0, source })?.len();
        Self::new(OpenFile { file, len }, Limits::default())
    }

    /// Takes an image in memory.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ReadError> {
        Self::new(Content::from(bytes), Limits::default())
    }

    /// Takes an image from anything that can be read at an offset: a file of another image, a range of an archive.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn new(source: impl FileContent + 'static, limits: Limits) -> Result<Self, ReadError> {
        let superblock = Superblock::read(&source)?;
        let blocks = (CACHE_SIZE / superblock.block_size as usize).min(CACHE_BLOCKS);
        Ok(Self {
            inner: Arc::new(Inner {
                source: Box::new(source),
                superblock,
                limits,
                blocks: Mutex::new(Cache::new(blocks)),
                idle: Mutex::new(Vec::new()),
            }),
        })
    }

    /// What the image says of itself.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.inner.superblock
    }

    /// Reads all inodes, directories and extended attributes. Contents stay in the image; block lists have been checked,
    /// the blocks themselves have not. Every node's origin is layer 0.
    ///
    /// # Errors
    /// The first thing that cannot be read or makes no sense, with the path and the place in the image.
    pub fn tree(&self) -> Result<Tree<ImageFile>, ReadError> {
        tree::read(&self.inner)
    }
}

/// A file with the length that it had when it was opened.
struct OpenFile {
    file: File,
    len: u64,
}

impl FileContent for OpenFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Which block is meant: where it stands, its size word, and how many bytes it should have (0 for a fragment block, which
/// may have any number).
pub(super) type BlockKey = (u64, u32, usize);

/// What clones of an image and the files of its trees share.
pub(super) struct Inner {
    source: Box<dyn FileContent>,
    pub(super) superblock: Superblock,
    pub(super) limits: Limits,
    blocks: Mutex<Cache<BlockKey, Arc<[u8]>>>,
    idle: Mutex<Vec<Decompressor>>,
}

impl Inner {
    /// Fills `buf` with what stands at a position of the image.
    pub(super) fn read(&self, part: &'static str, buf: &mut [u8], position: u64) -> Result<(), ReadError> {
        let end = self.superblock.bytes_used;
        if position.checked_add(buf.len() as u64).is_none_or(|last| last > end) {
            let reason = format!("{} bytes reach beyond the end of the image, byte {end}", buf.len());
            return Err(ReadError::corrupt(part, At::byte(position), reason));
        }
        self.source.read_exact_at(buf, position).map_err(|source| ReadError::Io { position, source })
    }

    /// Decompresses the `len` bytes at `position` into `out` and returns how many bytes that gives.
    pub(super) fn unpack(
        &self,
        part: &'static str,
        position: u64,
        len: usize,
        out: &mut [u8],
    ) -> Result<usize, ReadError> {
        let failed = |source| ReadError::Decompress { part, position, source };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decompressor = match idle {
            Some(decompressor) => decompressor,
            None => Decompressor::new(self.superblock.compressor).map_err(failed)?,
        };
        decompressor.packed.resize(len, 0);
        let done =
            self.read(part, &mut decompressor.packed, position).and_then(|()| decompressor.unpack(out).map_err(failed));
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_DECOMPRESSORS {
            idle.push(decompressor);
        }
        done
    }

    /// A block from the cache.
    pub(super) fn cached(&self, key: BlockKey) -> Option<Arc<[u8]>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
    }

    /// Puts a block into the cache.
    pub(super) fn keep(&self, key: BlockKey, block: Arc<[u8]>) {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).insert(key, block);
    }
}
