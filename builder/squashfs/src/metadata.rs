//! Tables made of metadata blocks: 8 KiB each, compressed one by one, each with a 16-bit header.

use crate::codec::Codec;
use crate::format::{METADATA_RAW, METADATA_SIZE, Put};
use crate::{Compression, Error};

/// A place in a table of metadata blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Start of the block on disk, relative to the table.
    pub(crate) block: u32,
    /// Offset in the uncompressed block.
    pub(crate) offset: u16,
}

impl Place {
    /// As inodes, the superblock and the tables point at it.
    pub(crate) fn reference(self) -> u64 {
        u64::from(self.block) << 16 | u64::from(self.offset)
    }
}

/// A table that grows in memory, already compressed.
pub(crate) struct MetadataWriter {
    table: &'static str,
    codec: Codec,
    /// The block that is being filled; never full between calls.
    raw: Vec<u8>,
    packed: Vec<u8>,
}

impl MetadataWriter {
    pub(crate) fn new(table: &'static str, compression: Compression) -> Result<Self, Error> {
        let raw = Vec::with_capacity(METADATA_SIZE);
        Ok(Self { table, codec: Codec::for_tables(compression)?, raw, packed: Vec::new() })
    }

    /// Where the next byte goes.
    pub(crate) fn place(&self) -> Result<Place, Error> {
        let block = u32::try_from(self.packed.len()).map_err(|_| Error::TableTooLarge { table: self.table })?;
        // A block that is full has been written: the offset is below 8192.
        Ok(Place { block, offset: self.raw.len() as u16 })
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let take = bytes.len().min(METADATA_SIZE - self.raw.len());
            let (now, later) = bytes.split_at(take);
            self.raw.extend_from_slice(now);
            bytes = later;
            if self.raw.len() == METADATA_SIZE {
                self.end_block()?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), Error> {
        // At most 8192, which leaves the top bit free.
        match self.codec.pack(&self.raw)? {
            Some(packed) => {
                self.packed.put_u16(packed.len() as u16);
                self.packed.extend_from_slice(packed);
            }
            None => {
                self.packed.put_u16(METADATA_RAW | self.raw.len() as u16);
                self.packed.extend_from_slice(&self.raw);
            }
        }
        self.raw.clear();
        Ok(())
    }

    /// Ends the last block, however short, and returns the table.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, Error> {
        if !self.raw.is_empty() {
            self.end_block()?;
        }
        Ok(self.packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_blocks_agree() {
        let mut writer = MetadataWriter::new("test", Compression::None).unwrap();
        let mut places = Vec::new();
        for len in [0, 1, 8190, 1, 8192, 20_000] {
            places.push(writer.place().unwrap());
            writer.write(&vec![len as u8; len]).unwrap();
        }
        let at = |block, offset| Place { block, offset };
        assert_eq!(places, [at(0, 0), at(0, 0), at(0, 1), at(0, 8191), at(8194, 0), at(16_388, 0)]);
        let table = writer.finish().unwrap();
        assert_eq!(table.len(), 4 * 8194 + 2 + 20_000 - 2 * 8192);
        assert_eq!(table[..3], [0x00, 0xa0, 1]);
        assert_eq!(Place { block: 0x1234, offset: 0x56 }.reference(), 0x1234_0056);
    }

    #[test]
    fn blocks_are_compressed_when_that_helps() {
        let mut writer = MetadataWriter::new("test", Compression::Zstd { level: 9 }).unwrap();
        writer.write(&[7; 8192]).unwrap();
        writer.write(&[1, 2, 3]).unwrap();
        let table = writer.finish().unwrap();
        let first = u16::from_le_bytes([table[0], table[1]]);
        assert!(first < 100);
        assert_eq!(table[2 + usize::from(first)..], [3, 0x80, 1, 2, 3]);
    }
}
