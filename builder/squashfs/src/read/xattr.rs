//! Extended attributes.

use std::collections::HashMap;

use imgbuild_tree::Xattrs;

use super::error::{At, ReadError};
use super::metadata::{MetadataReader, Region};
use super::tables::Indexed;
use crate::format::{SUPERBLOCK_SIZE, XATTR_NAME_MAX, XATTR_VALUE_MAX};
use crate::xattr::{OUT_OF_LINE, PREFIXES};

const PART: &str = "extended attributes";
/// What an attribute takes besides its bytes, roughly.
const ATTRIBUTE_WORK: u64 = 64;

/// The extended attributes of an image: sets that inodes name by number.
pub(super) struct XattrTable {
    sets: Option<Sets>,
    /// Sets that were read.
    known: HashMap<u32, (Xattrs, u64)>,
}

struct Sets {
    /// Where each set is: reference, count and size.
    table: Indexed,
    /// The attributes.
    pairs: Region,
}

impl XattrTable {
    pub(super) fn read(reader: &mut MetadataReader<'_>) -> Result<Self, ReadError> {
        let Some(position) = reader.image.superblock.tables.xattrs else {
            return Ok(Self { sets: None, known: HashMap::new() });
        };
        let mut header = [0; 16];
        reader.image.read("extended attribute table", &mut header, position)?;
        let (words, _) = header.as_chunks();
        let [first, second] = [words[0], words[1]].map(u64::from_le_bytes);
        if first < SUPERBLOCK_SIZE as u64 || first > position {
            let reason = format!("attributes from byte {first} on, which should stand before the table");
            return Err(ReadError::corrupt("extended attribute table", At::byte(position), reason));
        }
        // The lower 32 bits.
        let count = second as u32;
        let table = Indexed::read(reader, "extended attribute table", position + 16, count, 16)?;
        let pairs = Region { part: PART, start: first, end: position };
        Ok(Self { sets: Some(Sets { table, pairs }), known: HashMap::new() })
    }

    /// The set with this number; `None` where there is none.
    pub(super) fn get(&mut self, reader: &mut MetadataReader<'_>, number: u32) -> Result<Option<Xattrs>, ReadError> {
        if let Some((set, size)) = self.known.get(&number) {
            reader.charge(*size)?;
            return Ok(Some(set.clone()));
        }
        let Some(sets) = &self.sets else { return Ok(None) };
        let Some(mut cursor) = sets.table.entry(reader, number)? else { return Ok(None) };
        let (reference, count) = (cursor.u64()?, cursor.u32()?);
        let set = sets.read(reader, reference, count)?;
        // One copy is kept, another one returned.
        let size = set.iter().map(|(name, value)| (name.len() + value.len()) as u64 + ATTRIBUTE_WORK).sum();
        reader.charge(size)?;
        self.known.insert(number, (set.clone(), size));
        Ok(Some(set))
    }
}

impl Sets {
    fn read(&self, reader: &mut MetadataReader<'_>, reference: u64, count: u32) -> Result<Xattrs, ReadError> {
        let mut set = Xattrs::new();
        if count == 0 {
            return Ok(set);
        }
        let mut cursor = reader.cursor_at(self.pairs, reference)?;
        let mut out_of_line = Vec::new();
        for _ in 0..count {
            cursor.reader().charge(ATTRIBUTE_WORK)?;
            let at = cursor.at();
            let (kind, len) = (cursor.u16()?, cursor.u16()?);
            let prefix = PREFIXES.iter().find(|(_, number)| *number == kind & !OUT_OF_LINE);
            let Some((prefix, _)) = prefix else {
                return Err(cursor.corrupt(at, format!("an attribute of type {kind:#06x}, which is unknown")));
            };
            let (full, len) = (prefix.len() + usize::from(len), usize::from(len));
            if len == 0 || full > XATTR_NAME_MAX {
                let reason = format!("an attribute with a name of {full} bytes, prefix included; Linux takes 255");
                return Err(cursor.corrupt(at, reason));
            }
            let name: Box<[u8]> = [*prefix, &cursor.bytes(len)?].concat().into();
            if name.contains(&0) || set.contains_key(&name) {
                let fault = if name.contains(&0) { "has a NUL in it" } else { "is there twice" };
                let reason = format!("the attribute name \"{}\" {fault}", name.escape_ascii());
                return Err(cursor.corrupt(at, reason));
            }
            let at = cursor.at();
            let len = cursor.u32()?;
            if kind & OUT_OF_LINE != 0 {
                if len != 8 {
                    return Err(cursor.corrupt(at, format!("a reference to a value of {len} bytes instead of 8")));
                }
                out_of_line.push((name.clone(), cursor.u64()?));
                set.insert(name, Box::default());
            } else {
                let value = value(&mut cursor, at, len)?;
                set.insert(name, value);
            }
        }
        for (name, reference) in out_of_line {
            let mut cursor = reader.cursor_at(self.pairs, reference)?;
            let at = cursor.at();
            let len = cursor.u32()?;
            let value = value(&mut cursor, at, len)?;
            set.insert(name, value);
        }
        Ok(set)
    }
}

fn value(cursor: &mut super::metadata::Cursor<'_, '_>, at: At, len: u32) -> Result<Box<[u8]>, ReadError> {
    if len as usize > XATTR_VALUE_MAX {
        return Err(cursor.corrupt(at, format!("an attribute value of {len} bytes; Linux takes 65536")));
    }
    cursor.bytes(len as usize)
}
