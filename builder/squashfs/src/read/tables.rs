//! Look-up tables: metadata blocks that are found through an index of their positions.

use super::error::{At, ReadError};
use super::image::Inner;
use super::metadata::{Cursor, MetadataReader, Region};
use crate::format::{BLOCK_RAW, METADATA_SIZE, SUPERBLOCK_SIZE};

/// A table of `count` entries of equal size.
pub(super) struct Indexed {
    /// Where the metadata blocks may be: anywhere before the index.
    region: Region,
    count: u32,
    /// Divides the size of a metadata block.
    entry: usize,
    /// The position of every metadata block.
    blocks: Vec<u64>,
}

impl Indexed {
    pub(super) fn read(
        reader: &mut MetadataReader<'_>,
        part: &'static str,
        index: u64,
        count: u32,
        entry: usize,
    ) -> Result<Self, ReadError> {
        let blocks = (u64::from(count) * entry as u64).div_ceil(METADATA_SIZE as u64);
        let len = 8 * blocks;
        let end = reader.image.superblock.bytes_used;
        if index.saturating_add(len) > end {
            let reason = format!("an index of {len} bytes for {count} entries, but the image ends at byte {end}");
            return Err(ReadError::corrupt(part, At::byte(index), reason));
        }
        reader.charge(len)?;
        let mut bytes = vec![0; len as usize];
        reader.image.read(part, &mut bytes, index)?;
        let (words, _) = bytes.as_chunks();
        let region = Region { part, start: SUPERBLOCK_SIZE as u64, end: index };
        Ok(Self { region, count, entry, blocks: words.iter().map(|word| u64::from_le_bytes(*word)).collect() })
    }

    /// Begins to read the entry with this number; `None` where there is none.
    pub(super) fn entry<'r, 'i>(
        &self,
        reader: &'r mut MetadataReader<'i>,
        number: u32,
    ) -> Result<Option<Cursor<'r, 'i>>, ReadError> {
        if number >= self.count {
            return Ok(None);
        }
        let at = number as usize * self.entry;
        let Some(position) = self.blocks.get(at / METADATA_SIZE) else { return Ok(None) };
        // A position before the region wraps to one far behind it.
        let block = position.wrapping_sub(self.region.start);
        // Below 8192.
        reader.cursor(self.region, block, (at % METADATA_SIZE) as u16).map(Some)
    }
}

/// The id table.
pub(super) fn ids(reader: &mut MetadataReader<'_>) -> Result<Vec<u32>, ReadError> {
    let superblock = &reader.image.superblock;
    let (index, count) = (superblock.tables.ids, superblock.ids);
    let table = Indexed::read(reader, "id table", index, count.into(), 4)?;
    let mut ids = Vec::with_capacity(count.into());
    for number in 0..u32::from(count) {
        if let Some(mut cursor) = table.entry(reader, number)? {
            ids.push(cursor.u32()?);
        }
    }
    Ok(ids)
}

/// A fragment block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Where it stands.
    pub(super) position: u64,
    /// Its size on disk, with [`BLOCK_RAW`] where it is not compressed.
    pub(super) size: u32,
}

/// The fragment table.
pub(super) struct Fragments {
    table: Option<Indexed>,
}

impl Fragments {
    pub(super) fn read(reader: &mut MetadataReader<'_>) -> Result<Self, ReadError> {
        let superblock = &reader.image.superblock;
        let (index, count) = (superblock.tables.fragments, superblock.fragments);
        let table = match index {
            Some(index) if count > 0 => Some(Indexed::read(reader, "fragment table", index, count, 16)?),
            _ => None,
        };
        Ok(Self { table })
    }

    /// A fragment block, checked to be inside the image; `None` where there is none with this number.
    pub(super) fn get(&self, reader: &mut MetadataReader<'_>, number: u32) -> Result<Option<Fragment>, ReadError> {
        let Some(table) = &self.table else { return Ok(None) };
        let image = reader.image;
        let Some(mut cursor) = table.entry(reader, number)? else { return Ok(None) };
        let at = cursor.at();
        let fragment = Fragment { position: cursor.u64()?, size: cursor.u32()? };
        check_block(image, fragment.position, fragment.size).map_err(|reason| cursor.corrupt(at, reason))?;
        Ok(Some(fragment))
    }
}

/// Checks a block's size word, and that the block is inside the image; what is wrong comes back in words.
pub(super) fn check_block(image: &Inner, position: u64, word: u32) -> Result<u64, String> {
    let size = word & !BLOCK_RAW;
    let superblock = &image.superblock;
    if size == 0 || size > superblock.block_size {
        return Err(format!("a block of {size} bytes on disk, which should be 1 to {}", superblock.block_size));
    }
    let end = position.checked_add(size.into()).filter(|end| *end <= superblock.bytes_used);
    end.filter(|_| position >= SUPERBLOCK_SIZE as u64).ok_or_else(|| {
        format!("a block of {size} bytes at byte {position}, outside of the image's {} bytes", superblock.bytes_used)
    })
}
