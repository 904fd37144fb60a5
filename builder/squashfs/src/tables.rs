//! The tables behind the data area, and the superblock, which points at them.

use imgbuild_tree::FileContent;

use crate::data::Data;
use crate::format::{METADATA_SIZE, Put, Superblock};
use crate::inodes;
use crate::inventory::Inventory;
use crate::metadata::MetadataWriter;
use crate::xattr::XattrTable;
use crate::{Compression, Error, Options};

/// What comes behind the data area, piece by piece, and where.
pub(crate) struct Tail {
    position: u64,
    pieces: Vec<Vec<u8>>,
}

impl Tail {
    /// Begins at this position of the image.
    pub(crate) fn new(position: u64) -> Self {
        Self { position, pieces: Vec::new() }
    }

    /// Where the next piece lies.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn add(&mut self, piece: Vec<u8>) {
        self.position += piece.len() as u64;
        self.pieces.push(piece);
    }

    /// Adds a table of metadata blocks that readers find through an index, and returns the index: the absolute position of
    /// every block, still to be added.
    pub(crate) fn add_blocks(
        &mut self,
        table: &'static str,
        compression: Compression,
        raw: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let mut writer = MetadataWriter::new(table, compression)?;
        let mut index = Vec::with_capacity(8 * raw.len().div_ceil(METADATA_SIZE));
        for block in raw.chunks(METADATA_SIZE) {
            index.put_u64(self.position + u64::from(writer.place()?.block));
            writer.write(block)?;
        }
        self.add(writer.finish()?);
        Ok(index)
    }

    /// Adds such a table with its index behind it and returns where the index is, which is what the superblock names.
    fn add_indexed(&mut self, table: &'static str, compression: Compression, raw: &[u8]) -> Result<u64, Error> {
        let index = self.add_blocks(table, compression, raw)?;
        let start = self.position;
        self.add(index);
        Ok(start)
    }
}

/// All tables, ready to be written.
pub(crate) struct Tables {
    /// Behind each other, from the data area's end on.
    pub(crate) pieces: Vec<Vec<u8>>,
    pub(crate) superblock: Vec<u8>,
}

impl Tables {
    /// Makes the tables of an image whose data area ends at `position`.
    pub(crate) fn new<C: FileContent>(
        inventory: &Inventory<'_, C>,
        data: &Data,
        xattrs: &XattrTable,
        options: &Options,
        position: u64,
    ) -> Result<Self, Error> {
        let compression = options.compression;
        let tables = inodes::write(inventory, data, xattrs, options)?;
        // The kernel checks that the tables stand in this order and end where the next one begins.
        let mut tail = Tail::new(position);
        let inode_table = tail.position();
        tail.add(tables.inodes);
        let directory_table = tail.position();
        tail.add(tables.directories);
        let fragment_table = tail.add_indexed("fragment", compression, &data.fragment_table())?;
        let export_table = tail.add_indexed("export", compression, &tables.export)?;
        let id_table = tail.add_indexed("id", compression, &id_table(inventory.ids()))?;
        let xattr_table = xattrs.write(&mut tail, compression)?;
        let superblock = Superblock {
            inodes: inventory.len(),
            fragments: data.fragment_count(),
            // Checked when they were collected.
            ids: inventory.ids().len() as u16,
            root: tables.root,
            bytes_used: tail.position(),
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        };
        Ok(Self { pieces: tail.pieces, superblock: superblock.encode(options) })
    }
}

fn id_table(ids: &[u32]) -> Vec<u8> {
    let mut table = Vec::with_capacity(4 * ids.len());
    for id in ids {
        table.put_u32(*id);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_the_absolute_position_of_every_block() {
        let mut tail = Tail::new(96);
        let start = tail.add_indexed("test", Compression::None, &[7; 8192 + 16]).unwrap();
        assert_eq!(start, 96 + 8194 + 18);
        assert_eq!(tail.add_indexed("test", Compression::None, &[]).unwrap(), start + 16);
        let mut tail = Tail::new(96);
        let index = tail.add_blocks("test", Compression::None, &[7; 8192 + 16]).unwrap();
        assert_eq!(index, [96_u64.to_le_bytes(), (96 + 8194_u64).to_le_bytes()].concat());
        assert_eq!(tail.position(), 96 + 8194 + 18);
    }
}
