//! Inodes as bytes. Each kind has a basic form and an extended one; the extended one is taken only where the basic one
//! has no room.

use imgbuild_tree::{Kind, Node};

use crate::data::Layout;
use crate::directory::Listing;
use crate::format::{NO_INDEX, Put};
use crate::inventory::Number;

/// What the extended form adds to the number of a basic type.
pub(crate) const EXTENDED: u16 = 7;

/// The basic type of a node, which directory entries carry too.
pub(crate) fn basic_type<C>(kind: &Kind<C>) -> u16 {
    match kind {
        Kind::Directory(_) => 1,
        Kind::Regular(_) => 2,
        Kind::Symlink(_) => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::CharDevice { .. } => 5,
        Kind::Fifo => 6,
        Kind::Socket => 7,
    }
}

/// What every inode has.
pub(crate) struct Common<'t, C> {
    pub(crate) node: &'t Node<C>,
    pub(crate) number: Number,
    pub(crate) links: u32,
    /// Indices in the id table.
    pub(crate) uid: u16,
    pub(crate) gid: u16,
    pub(crate) mtime: u32,
    /// Index in the table of extended attributes.
    pub(crate) xattrs: Option<u32>,
}

impl<C> Common<'_, C> {
    fn header(&self, extended: bool) -> Vec<u8> {
        let kind = basic_type(&self.node.kind) + if extended { EXTENDED } else { 0 };
        let mut out = Vec::with_capacity(64);
        out.put_u16(kind);
        out.put_u16(self.node.meta.mode & 0o7777);
        out.put_u16(self.uid);
        out.put_u16(self.gid);
        out.put_u32(self.mtime);
        out.put_u32(self.number);
        out
    }

    fn put_xattrs(&self, out: &mut Vec<u8>) {
        out.put_u32(self.xattrs.unwrap_or(NO_INDEX));
    }

    /// A directory whose entries are in `listing`.
    pub(crate) fn directory(&self, listing: &Listing<'_>, parent: Number) -> Vec<u8> {
        // Readers count `.` and `..` in, which are not stored.
        let size = listing.len + 3;
        let small = u16::try_from(size).ok().filter(|_| listing.index.is_empty() && self.xattrs.is_none());
        let mut out = self.header(small.is_none());
        if let Some(size) = small {
            out.put_u32(listing.place.block);
            out.put_u32(self.links);
            out.put_u16(size);
            out.put_u16(listing.place.offset);
            out.put_u32(parent);
            return out;
        }
        out.put_u32(self.links);
        out.put_u32(size);
        out.put_u32(listing.place.block);
        out.put_u32(parent);
        // The listing sees to it that there are no more than 65535.
        out.put_u16(listing.index.len() as u16);
        out.put_u16(listing.place.offset);
        self.put_xattrs(&mut out);
        for entry in &listing.index {
            out.put_u32(entry.position);
            out.put_u32(entry.block);
            // Names have 1 to 256 bytes.
            out.put_u32(entry.name.len() as u32 - 1);
            out.extend_from_slice(entry.name);
        }
        out
    }

    /// A regular file of `len` bytes; an empty one has no layout.
    pub(crate) fn regular(&self, len: u64, layout: Option<&Layout>) -> Vec<u8> {
        let empty = Layout::default();
        let layout = layout.unwrap_or(&empty);
        let (fragment, offset) = layout.fragment.map_or((NO_INDEX, 0), |place| (place.fragment, place.offset));
        let plain = self.links == 1 && self.xattrs.is_none() && layout.sparse == 0;
        let small = u32::try_from(layout.start).ok().zip(u32::try_from(len).ok()).filter(|_| plain);
        let mut out = self.header(small.is_none());
        out.reserve(40 + 4 * layout.sizes.len());
        if let Some((start, len)) = small {
            out.put_u32(start);
            out.put_u32(fragment);
            out.put_u32(offset);
            out.put_u32(len);
        } else {
            out.put_u64(layout.start);
            out.put_u64(len);
            out.put_u64(layout.sparse);
            out.put_u32(self.links);
            out.put_u32(fragment);
            out.put_u32(offset);
            self.put_xattrs(&mut out);
        }
        for size in &layout.sizes {
            out.put_u32(*size);
        }
        out
    }

    /// A symbolic link that holds `target`.
    pub(crate) fn symlink(&self, target: &[u8]) -> Vec<u8> {
        let mut out = self.header(self.xattrs.is_some());
        out.put_u32(self.links);
        // At most 65535 bytes.
        out.put_u32(target.len() as u32);
        out.extend_from_slice(target);
        if self.xattrs.is_some() {
            self.put_xattrs(&mut out);
        }
        out
    }

    /// A device, as Linux's `new_encode_dev` packs its number: minor in bits 0 to 7 and 20 to 31, major in 8 to 19.
    pub(crate) fn device(&self, major: u32, minor: u32) -> Vec<u8> {
        let mut out = self.header(self.xattrs.is_some());
        out.put_u32(self.links);
        out.put_u32(minor & 0xff | major << 8 | (minor & !0xff) << 12);
        if self.xattrs.is_some() {
            self.put_xattrs(&mut out);
        }
        out
    }

    /// A named pipe or a socket.
    pub(crate) fn ipc(&self) -> Vec<u8> {
        let mut out = self.header(self.xattrs.is_some());
        out.put_u32(self.links);
        if self.xattrs.is_some() {
            self.put_xattrs(&mut out);
        }
        out
    }
}
