//! The `newc` archive, as the kernel reads it: `Documentation/driver-api/early-userspace/buffer-format.rst`.
//!
//! What the format or the kernel's reader would lose without a word is an error here: files of 4 GiB and more, names
//! longer than `PATH_MAX`, times before 1970 or after 2106, extended attributes.
//!
//! Inode numbers are ours, from 1 in the order of the archive, so that they are the same in every build and never
//! wrap: readers join files of one number to one file. A hard link is a further entry of the same number. The data
//! stands with the last of them, the others have length 0, as `cpio` writes it and all readers expect.

use std::io::{self, Write};

use imgbuild_tree::{FileContent, Kind, Node, Tree};

use crate::error::{Error, Result};

pub(crate) const MAGIC: &[u8] = b"070701";
pub(crate) const TRAILER: &[u8] = b"TRAILER!!!";
/// Linux's `PATH_MAX`, the final NUL included: the kernel skips longer names and link targets without a word.
pub(crate) const PATH_MAX: usize = 4096;
const CHUNK: usize = 256 << 10;

/// One entry of an archive.
#[derive(Debug)]
pub struct Member<'a, C> {
    /// Path without a leading slash.
    pub path: &'a [u8],
    /// Owner, mode, time and what it is.
    pub node: &'a Node<C>,
    /// Its number; entries that share one are names of one file.
    pub inode: u32,
    /// How many names the file has.
    pub links: u32,
    /// Whether this entry carries the file's data: the last of its names does.
    pub with_data: bool,
}

/// Writes an archive to `out` as it goes. Nothing is complete before [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Begins an archive. `out` should be buffered.
    pub fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    /// Adds one entry. The kernel makes no parent directories: they must have come before.
    ///
    /// # Errors
    /// When the entry cannot be represented, its content cannot be read, or `out` cannot be written.
    pub fn member<C: FileContent>(&mut self, member: &Member<'_, C>) -> Result<()> {
        let &Member { path, node, inode, links, with_data } = member;
        check_name(path)?;
        if let Kind::Symlink(target) = &node.kind
            && !(1..PATH_MAX).contains(&target.len())
        {
            let reason = format!("a link target of {} bytes, and the kernel takes 1 to {}", target.len(), PATH_MAX - 1);
            return Err(unrepresentable(path, reason));
        }
        if let Some((name, _)) = node.meta.xattrs.first_key_value() {
            let name = String::from_utf8_lossy(name);
            return Err(unrepresentable(path, format!("a newc archive has no extended attributes, and it has {name}")));
        }
        let mtime = u32::try_from(node.meta.mtime).map_err(|_| {
            unrepresentable(
                path,
                format!("a newc archive cannot hold the time {} (seconds since 1970)", node.meta.mtime),
            )
        })?;
        let size = match &node.kind {
            Kind::Regular(content) if with_data => content.len(),
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let size = u32::try_from(size).map_err(|_| {
            unrepresentable(path, format!("{size} bytes, and a newc archive holds files below 4 GiB only"))
        })?;
        let device = match node.kind {
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (major, minor),
            _ => (0, 0),
        };
        let mode = u32::from(node.kind.type_bits() | (node.meta.mode & 0o7777));
        self.header(path, [inode, mode, node.meta.uid, node.meta.gid, links, mtime, size, device.0, device.1])?;
        match &node.kind {
            Kind::Regular(content) if with_data => self.content(path, content)?,
            Kind::Symlink(target) if target.len() >= PATH_MAX || target.is_empty() => {
                let reason =
                    format!("a link target of {} bytes, and the kernel takes 1 to {}", target.len(), PATH_MAX - 1);
                return Err(unrepresentable(path, reason));
            }
            Kind::Symlink(target) => self.put(target)?,
            _ => {}
        }
        self.align()
    }

    /// Ends the archive and returns `out` and how many bytes were written, a multiple of 4.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn finish(mut self) -> Result<(W, u64)> {
        self.header(TRAILER, [0, 0, 0, 0, 1, 0, 0, 0, 0])?;
        Ok((self.out, self.written))
    }

    /// Magic, then inode, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize,
    /// check as 8 hex digits each, then the name with a NUL, padded to 4.
    fn header(&mut self, name: &[u8], fields: [u32; 9]) -> Result<()> {
        let [inode, mode, uid, gid, links, mtime, size, major, minor] = fields;
        // At most PATH_MAX: `check_name` saw to it.
        let name_size = name.len() as u32 + 1;
        let mut header = Vec::with_capacity(110 + name.len() + 4);
        header.extend_from_slice(MAGIC);
        for field in [inode, mode, uid, gid, links, mtime, size, 0, 0, major, minor, name_size, 0] {
            write!(header, "{field:08X}").map_err(Error::Write)?;
        }
        header.extend_from_slice(name);
        header.push(0);
        self.put(&header)?;
        self.align()
    }

    fn content<C: FileContent>(&mut self, path: &[u8], content: &C) -> Result<()> {
        let length = content.len();
        let mut buffer = vec![0; length.min(CHUNK as u64) as usize];
        let mut offset = 0;
        while offset < length {
            let take = (length - offset).min(CHUNK as u64) as usize;
            content.read_exact_at(&mut buffer[..take], offset).map_err(|e| read_error(path, e))?;
            self.put(&buffer[..take])?;
            offset += take as u64;
        }
        Ok(())
    }

    fn align(&mut self) -> Result<()> {
        let padding = (4 - self.written % 4) % 4;
        self.put(&[0; 3][..padding as usize])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::Write)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Writes a whole tree as one archive, parents first, names bytewise, and returns how many bytes that were. The root
/// directory itself has no entry: there is one already where an archive is unpacked.
///
/// # Errors
/// As [`Writer::member`].
pub fn write_tree<C: FileContent, W: Write>(tree: &Tree<C>, out: W) -> Result<u64> {
    let mut left = tree.link_counts();
    let links = left.clone();
    let mut inodes = vec![0u32; tree.len()];
    let mut next = 1u32;
    let mut writer = Writer::new(out);
    for item in tree.walk() {
        let (node, at) = (tree.node(item.id), item.id.index());
        let path = item.path.strip_prefix(b"/").unwrap_or(&item.path);
        if path.is_empty() {
            continue;
        }
        if inodes[at] == 0 {
            inodes[at] = next;
            next =
                next.checked_add(1).ok_or_else(|| unrepresentable(path, "more than 4 294 967 295 files".to_owned()))?;
        }
        left[at] -= 1;
        // Only regular files: the kernel, too, has the other kinds once for each name.
        let linked = matches!(node.kind, Kind::Regular(_));
        writer.member(&Member {
            path,
            node,
            inode: inodes[at],
            links: if linked { links[at] } else { 1 },
            with_data: !linked || left[at] == 0,
        })?;
    }
    writer.finish().map(|(_, written)| written)
}

fn check_name(path: &[u8]) -> Result<()> {
    let reason = if path.is_empty() || path.first() == Some(&b'/') {
        "a path in an initrd is relative and not empty".to_owned()
    } else if path.len() >= PATH_MAX {
        format!("a path of {} bytes, and the kernel skips those over {}", path.len(), PATH_MAX - 1)
    } else if path.contains(&0) {
        "a path with a NUL byte".to_owned()
    } else if path == TRAILER {
        "this name ends an archive".to_owned()
    } else if path.split(|b| *b == b'/').any(|part| matches!(part, b"" | b"." | b"..")) {
        "a path with an empty component, `.` or `..`".to_owned()
    } else {
        return Ok(());
    };
    Err(unrepresentable(path, reason))
}

fn unrepresentable(path: &[u8], reason: String) -> Error {
    Error::Unrepresentable { path: String::from_utf8_lossy(path).into_owned(), reason }
}

fn read_error(path: &[u8], source: io::Error) -> Error {
    Error::Read { path: format!("/{}", String::from_utf8_lossy(path)), source }
}

#[cfg(test)]
mod tests;
