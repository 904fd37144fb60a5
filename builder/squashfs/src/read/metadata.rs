//! Tables made of metadata blocks: 8 KiB each, compressed one by one, each with a 16-bit header.

use std::sync::Arc;

use super::cache::Cache;
use super::error::{At, ReadError};
use super::image::Inner;
use crate::format::{METADATA_RAW, METADATA_SIZE};

/// Decompressed metadata blocks that are kept: 8 MiB of them. Inodes and directories are mostly read from front to back;
/// hard links and extended attributes lead elsewhere.
const CACHE_BLOCKS: usize = 1024;

/// Where the blocks of a table may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    /// What is in it, for messages.
    pub(super) part: &'static str,
    /// Position of its first byte.
    pub(super) start: u64,
    /// Position behind its last one.
    pub(super) end: u64,
}

/// A decompressed block.
#[derive(Clone)]
struct Block {
    bytes: Arc<[u8]>,
    /// Where the next one begins.
    next: u64,
}

/// Reads metadata, and counts how much: this is where [`super::Limits`] hold.
pub(super) struct MetadataReader<'i> {
    pub(super) image: &'i Inner,
    blocks: Cache<u64, Block>,
    /// What is left of the work allowed.
    left: u64,
}

impl<'i> MetadataReader<'i> {
    pub(super) fn new(image: &'i Inner) -> Self {
        Self { image, blocks: Cache::new(CACHE_BLOCKS), left: image.limits.work }
    }

    /// Takes `bytes` off what may still be done.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), ReadError> {
        self.left = self.left.checked_sub(bytes).ok_or(ReadError::Limit { limit: self.image.limits.work })?;
        Ok(())
    }

    /// Begins to read at `offset` of the block that stands `block` bytes behind the region's start.
    pub(super) fn cursor(&mut self, region: Region, block: u64, offset: u16) -> Result<Cursor<'_, 'i>, ReadError> {
        let position = region.start.saturating_add(block);
        let (bytes, offset) = (self.block(region, position)?, usize::from(offset));
        if offset >= bytes.bytes.len() {
            let reason = format!("the block ends after {} bytes", bytes.bytes.len());
            return Err(ReadError::corrupt(region.part, At { position, offset: Some(offset) }, reason));
        }
        Ok(Cursor { reader: self, region, position, block: bytes, offset })
    }

    /// As [`MetadataReader::cursor`], by what the format calls a reference.
    pub(super) fn cursor_at(&mut self, region: Region, reference: u64) -> Result<Cursor<'_, 'i>, ReadError> {
        // The lower 16 bits.
        self.cursor(region, reference >> 16, reference as u16)
    }

    fn block(&mut self, region: Region, position: u64) -> Result<Block, ReadError> {
        let Region { part, start, end } = region;
        let corrupt = |reason: String| Err(ReadError::corrupt(part, At::byte(position), reason));
        // A block has a header and at least one byte.
        if position < start || position.saturating_add(2) >= end {
            return corrupt(format!("no metadata block can begin there: the table is from byte {start} to {end}"));
        }
        if let Some(block) = self.blocks.get(&position) {
            // Regions may overlap in a broken image: a block that is good for one need not be for another.
            if block.next <= end {
                return Ok(block);
            }
        }
        let mut header = [0; 2];
        self.image.read(part, &mut header, position)?;
        let header = u16::from_le_bytes(header);
        let len = usize::from(header & !METADATA_RAW);
        let next = position + 2 + len as u64;
        if len == 0 || len > METADATA_SIZE {
            return corrupt(format!("a metadata block of {len} bytes on disk, which should be 1 to {METADATA_SIZE}"));
        }
        if next > end {
            return corrupt(format!("the metadata block ends at byte {next}, the table at byte {end}"));
        }
        self.charge(METADATA_SIZE as u64)?;
        let mut bytes = vec![0; METADATA_SIZE];
        let unpacked = if header & METADATA_RAW != 0 {
            self.image.read(part, &mut bytes[..len], position + 2)?;
            len
        } else {
            self.image.unpack(part, position + 2, len, &mut bytes)?
        };
        if unpacked == 0 {
            return corrupt("a metadata block without content".to_owned());
        }
        bytes.truncate(unpacked);
        let block = Block { bytes: bytes.into(), next };
        self.blocks.insert(position, block.clone());
        Ok(block)
    }
}

/// Reads on, from one block into the next.
pub(super) struct Cursor<'r, 'i> {
    reader: &'r mut MetadataReader<'i>,
    region: Region,
    /// Where the block begins.
    position: u64,
    block: Block,
    /// Of the next byte.
    offset: usize,
}

impl<'i> Cursor<'_, 'i> {
    /// Where the next byte is.
    pub(super) fn at(&self) -> At {
        At { position: self.position, offset: Some(self.offset) }
    }

    /// What is read makes no sense.
    pub(super) fn corrupt(&self, at: At, reason: impl Into<String>) -> ReadError {
        ReadError::corrupt(self.region.part, at, reason)
    }

    /// The reader, to count work.
    pub(super) fn reader(&mut self) -> &mut MetadataReader<'i> {
        self.reader
    }

    /// Fills `buf`.
    pub(super) fn read(&mut self, mut buf: &mut [u8]) -> Result<(), ReadError> {
        self.reader.charge(buf.len() as u64)?;
        while !buf.is_empty() {
            let rest = self.block.bytes.get(self.offset..).unwrap_or_default();
            if rest.is_empty() {
                let next = self.block.next;
                self.block = self.reader.block(self.region, next)?;
                (self.position, self.offset) = (next, 0);
                continue;
            }
            let take = rest.len().min(buf.len());
            let (now, later) = buf.split_at_mut(take);
            now.copy_from_slice(&rest[..take]);
            self.offset += take;
            buf = later;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ReadError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, ReadError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ReadError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// `len` bytes, which the caller has found to be few.
    pub(super) fn bytes(&mut self, len: usize) -> Result<Box<[u8]>, ReadError> {
        let mut bytes = vec![0; len];
        self.read(&mut bytes)?;
        Ok(bytes.into())
    }
}
