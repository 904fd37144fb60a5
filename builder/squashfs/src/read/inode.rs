//! Inodes. Each kind has a basic form and an extended one.

use imgbuild_tree::Kind;

use super::error::{At, ReadError};
use super::file::{Layout, Tail};
use super::metadata::{Cursor, MetadataReader, Region};
use super::tables::{Fragments, check_block};
use crate::format::{BLOCK_RAW, NO_INDEX, SYMLINK_MAX};
use crate::inode::EXTENDED;

/// What an inode says.
pub(super) struct Inode {
    /// Where it stands.
    pub(super) at: At,
    pub(super) number: u32,
    pub(super) mode: u16,
    /// Indices in the id table.
    pub(super) uid: u16,
    pub(super) gid: u16,
    pub(super) mtime: u32,
    /// Index in the table of extended attributes.
    pub(super) xattrs: Option<u32>,
    /// What it is; a directory is empty still.
    pub(super) kind: Kind<Layout>,
    /// Where a directory's entries are.
    pub(super) listing: Option<Listing>,
}

/// Where the entries of a directory are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listing {
    /// Position of the metadata block, relative to the directory table.
    pub(super) block: u32,
    /// Offset in it.
    pub(super) offset: u16,
    /// Length in bytes.
    pub(super) len: u32,
}

/// What the inodes of an image are read with.
pub(super) struct InodeReader {
    pub(super) region: Region,
    pub(super) fragments: Fragments,
}

impl InodeReader {
    /// Reads the inode at a reference.
    pub(super) fn read(&self, reader: &mut MetadataReader<'_>, reference: u64) -> Result<Inode, ReadError> {
        let block_size = reader.image.superblock.block_size;
        let mut cursor = reader.cursor_at(self.region, reference)?;
        let at = cursor.at();
        let kind = cursor.u16()?;
        let mode = cursor.u16()?;
        let (uid, gid) = (cursor.u16()?, cursor.u16()?);
        let (mtime, number) = (cursor.u32()?, cursor.u32()?);
        let extended = kind > EXTENDED;
        let mut listing = None;
        let mut regular = None;
        // Those of extended directories and files stand among the rest.
        let mut xattrs = NO_INDEX;
        let parsed = match kind {
            1 | 8 => {
                listing = directory(&mut cursor, extended, &mut xattrs)?;
                Kind::Directory(Default::default())
            }
            2 | 9 => {
                let file = Regular::read(&mut cursor, extended, block_size)?;
                xattrs = file.xattrs;
                let layout = file.blocks(&mut cursor, block_size)?;
                regular = Some(file);
                Kind::Regular(layout)
            }
            3 | 10 => Kind::Symlink(symlink(&mut cursor)?),
            4 | 11 => {
                let (major, minor) = device(&mut cursor)?;
                Kind::BlockDevice { major, minor }
            }
            5 | 12 => {
                let (major, minor) = device(&mut cursor)?;
                Kind::CharDevice { major, minor }
            }
            6 | 13 => {
                cursor.u32()?; // link count
                Kind::Fifo
            }
            7 | 14 => {
                cursor.u32()?; // link count
                Kind::Socket
            }
            _ => return Err(cursor.corrupt(at, format!("an inode of type {kind}, which should be 1 to 14"))),
        };
        if extended && !matches!(parsed, Kind::Directory(_) | Kind::Regular(_)) {
            xattrs = cursor.u32()?;
        }
        // Some writers put the file type into the mode too.
        if mode & !0o7777 != 0 && mode & !0o7777 != parsed.type_bits() {
            return Err(cursor.corrupt(at, format!("a {} with mode {mode:#o}", parsed.name())));
        }
        let mut inode = Inode {
            at,
            number,
            mode: mode & 0o7777,
            uid,
            gid,
            mtime,
            xattrs: Some(xattrs).filter(|index| *index != NO_INDEX),
            kind: parsed,
            listing,
        };
        if let (Some(file), Kind::Regular(layout)) = (regular, &mut inode.kind) {
            layout.tail = file.tail(self, reader, at)?;
        }
        Ok(inode)
    }
}

fn directory(cursor: &mut Cursor<'_, '_>, extended: bool, xattrs: &mut u32) -> Result<Option<Listing>, ReadError> {
    let (block, size, offset);
    if extended {
        cursor.u32()?; // link count
        size = cursor.u32()?;
        block = cursor.u32()?;
        cursor.u32()?; // parent
        cursor.u16()?; // how many index entries follow
        offset = cursor.u16()?;
        *xattrs = cursor.u32()?;
    } else {
        block = cursor.u32()?;
        cursor.u32()?; // link count
        size = cursor.u16()?.into();
        offset = cursor.u16()?;
        cursor.u32()?; // parent
    }
    // `.` and `..` count, and are not stored.
    let len = size.saturating_sub(3);
    Ok((len > 0).then_some(Listing { block, offset, len }))
}

fn symlink(cursor: &mut Cursor<'_, '_>) -> Result<Box<[u8]>, ReadError> {
    cursor.u32()?; // link count
    let at = cursor.at();
    let len = cursor.u32()? as usize;
    if len == 0 || len > SYMLINK_MAX {
        return Err(cursor.corrupt(at, format!("a symbolic link of {len} bytes, which should be 1 to {SYMLINK_MAX}")));
    }
    let target = cursor.bytes(len)?;
    if target.contains(&0) {
        return Err(cursor.corrupt(at, format!("a symbolic link with a NUL in it: \"{}\"", target.escape_ascii())));
    }
    Ok(target)
}

/// A device's number, as Linux's `new_encode_dev` packs it.
fn device(cursor: &mut Cursor<'_, '_>) -> Result<(u32, u32), ReadError> {
    cursor.u32()?; // link count
    let packed = cursor.u32()?;
    Ok((packed >> 8 & 0xfff, packed & 0xff | packed >> 12 & 0xf_ff00))
}

/// The head of a regular file's inode.
struct Regular {
    start: u64,
    len: u64,
    fragment: u32,
    offset: u32,
    xattrs: u32,
    /// Bytes in the fragment.
    tail: u32,
}

impl Regular {
    fn read(cursor: &mut Cursor<'_, '_>, extended: bool, block_size: u32) -> Result<Self, ReadError> {
        let at = cursor.at();
        let mut file = if extended {
            let (start, len) = (cursor.u64()?, cursor.u64()?);
            cursor.u64()?; // bytes in holes
            cursor.u32()?; // link count
            let (fragment, offset, xattrs) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
            Self { start, len, fragment, offset, xattrs, tail: 0 }
        } else {
            let (start, fragment, offset) = (cursor.u32()?.into(), cursor.u32()?, cursor.u32()?);
            Self { start, len: cursor.u32()?.into(), fragment, offset, xattrs: NO_INDEX, tail: 0 }
        };
        if i64::try_from(file.len).is_err() {
            return Err(cursor.corrupt(at, format!("a file of {} bytes, more than a file can have", file.len)));
        }
        if file.fragment != NO_INDEX {
            // Less than a block.
            file.tail = (file.len % u64::from(block_size)) as u32;
        }
        Ok(file)
    }

    /// Reads the list of blocks.
    fn blocks(&self, cursor: &mut Cursor<'_, '_>, block_size: u32) -> Result<Layout, ReadError> {
        let mut layout = Layout::new(self.len);
        let in_blocks = self.len - u64::from(self.tail);
        let count = in_blocks.div_ceil(block_size.into());
        // Before the first of them is read: the length of a file costs nothing to claim.
        cursor.reader().charge(count.saturating_mul(4))?;
        let mut position = self.start;
        for number in 0..count {
            let at = cursor.at();
            let word = cursor.u32()?;
            if word == 0 {
                continue;
            }
            let image = cursor.reader().image;
            let end = check_block(image, position, word).map_err(|reason| cursor.corrupt(at, reason))?;
            let expected = (in_blocks - number * u64::from(block_size)).min(block_size.into());
            if word & BLOCK_RAW != 0 && u64::from(word & !BLOCK_RAW) != expected {
                let found = word & !BLOCK_RAW;
                let reason = format!("an uncompressed block of {found} bytes, which should be {expected}");
                return Err(cursor.corrupt(at, reason));
            }
            layout.push(number, position, word);
            position = end;
        }
        layout.shrink();
        Ok(layout)
    }

    /// Where the end of the file is, if in a fragment.
    fn tail(&self, inodes: &InodeReader, reader: &mut MetadataReader<'_>, at: At) -> Result<Option<Tail>, ReadError> {
        if self.tail == 0 {
            return Ok(None);
        }
        let number = self.fragment;
        let corrupt = |reason| ReadError::corrupt(inodes.region.part, at, reason);
        let Some(fragment) = inodes.fragments.get(reader, number)? else {
            let count = reader.image.superblock.fragments;
            return Err(corrupt(format!("the end of the file in fragment {number}, but there are only {count}")));
        };
        let room = match fragment.size & BLOCK_RAW {
            0 => reader.image.superblock.block_size,
            _ => fragment.size & !BLOCK_RAW,
        };
        let (offset, len) = (self.offset, self.tail);
        if offset.checked_add(len).is_none_or(|end| end > room) {
            let reason = format!("{len} bytes from byte {offset} of fragment {number}, which has at most {room}");
            return Err(corrupt(reason));
        }
        Ok(Some(Tail { fragment, offset: offset as usize }))
    }
}
