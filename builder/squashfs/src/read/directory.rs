//! Directory listings: runs of entries, each run behind a header that says what its entries have in common.

use super::error::ReadError;
use super::inode::Listing;
use super::metadata::{MetadataReader, Region};
use crate::format::{NAME_MAX, RUN_MAX};

/// What a name takes besides its bytes, roughly: here, its node, its place in the tree.
const NAME_WORK: u64 = 256;

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Box<[u8]>,
    /// The inode's number.
    pub(super) number: u32,
    /// Where the inode is.
    pub(super) inode: u64,
    /// Its basic type.
    pub(super) kind: u16,
}

/// Reads the entries of a directory, which stand in bytewise order.
pub(super) fn read(reader: &mut MetadataReader<'_>, region: Region, listing: Listing) -> Result<Vec<Entry>, ReadError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut cursor = reader.cursor(region, listing.block.into(), listing.offset)?;
    let mut left = listing.len;
    while left > 0 {
        let at = cursor.at();
        left = left.checked_sub(12).ok_or_else(|| cursor.corrupt(at, ends(12, left)))?;
        let count = cursor.u32()?;
        let (block, first) = (u64::from(cursor.u32()?), cursor.u32()?);
        if count >= RUN_MAX as u32 {
            let reason = format!("a header before {} entries, which should be 1 to {RUN_MAX}", u64::from(count) + 1);
            return Err(cursor.corrupt(at, reason));
        }
        for _ in 0..=count {
            let at = cursor.at();
            left = left.checked_sub(8).ok_or_else(|| cursor.corrupt(at, ends(8, left)))?;
            let (offset, delta) = (cursor.u16()?, cursor.u16()?.cast_signed());
            let (kind, len) = (cursor.u16()?, u32::from(cursor.u16()?) + 1);
            left = left.checked_sub(len).ok_or_else(|| cursor.corrupt(at, ends(len, left)))?;
            if len as usize > NAME_MAX {
                return Err(cursor.corrupt(at, format!("a name of {len} bytes, which should be 1 to {NAME_MAX}")));
            }
            let name = cursor.bytes(len as usize)?;
            let shown = name.escape_ascii();
            if *name == *b"." || *name == *b".." || name.contains(&b'/') || name.contains(&0) {
                return Err(cursor.corrupt(at, format!("\"{shown}\", which cannot be a file name")));
            }
            if let Some(last) = entries.last()
                && *last.name >= *name
            {
                let reason = format!("the name \"{shown}\" after \"{}\", out of order", last.name.escape_ascii());
                return Err(cursor.corrupt(at, reason));
            }
            cursor.reader().charge(NAME_WORK)?;
            let number = first.wrapping_add_signed(delta.into());
            entries.push(Entry { name, number, inode: block << 16 | u64::from(offset), kind });
        }
    }
    Ok(entries)
}

fn ends(needed: u32, left: u32) -> String {
    format!("{needed} bytes are to come, but the directory has only {left} more")
}
