//! The tree, put together from directories and inodes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use imgbuild_tree::{Kind, Metadata, Node, NodeId, Origin, Tree};

use super::directory::{self, Entry};
use super::error::ReadError;
use super::file::ImageFile;
use super::image::Inner;
use super::inode::{Inode, InodeReader, Listing};
use super::metadata::{MetadataReader, Region};
use super::tables::{self, Fragments};
use super::xattr::XattrTable;
use crate::inode::basic_type;

/// The longest path shown in a message, in bytes.
const SHOWN_PATH: usize = 4096;

/// Reads all of an image but contents.
pub(super) fn read(image: &Arc<Inner>) -> Result<Tree<ImageFile>, ReadError> {
    let tables = image.superblock.tables;
    let mut reader = MetadataReader::new(image);
    let inodes = InodeReader {
        region: Region { part: "inode table", start: tables.inodes, end: tables.directories },
        fragments: Fragments::read(&mut reader)?,
    };
    // What stands next behind the directories, as far as the superblock knows: some blocks of that table come before.
    let behind = [tables.fragments, Some(tables.ids), tables.xattrs];
    let end = behind.into_iter().flatten().fold(image.superblock.bytes_used, u64::min);
    let mut builder = Builder {
        image,
        ids: tables::ids(&mut reader)?,
        xattrs: XattrTable::read(&mut reader)?,
        reader,
        inodes,
        directories: Region { part: "directory table", start: tables.directories, end },
        tree: Tree::new(),
        known: HashMap::new(),
        numbers: HashSet::new(),
        parents: HashMap::new(),
    };
    builder.run()?;
    Ok(builder.tree)
}

/// A directory whose entries are still to be read.
struct Pending {
    id: NodeId,
    listing: Option<Listing>,
    /// Length of its path in bytes.
    path: u64,
}

struct Builder<'i> {
    image: &'i Arc<Inner>,
    reader: MetadataReader<'i>,
    ids: Vec<u32>,
    xattrs: XattrTable,
    inodes: InodeReader,
    directories: Region,
    tree: Tree<ImageFile>,
    /// Inodes that were read, by reference.
    known: HashMap<u64, (u32, NodeId)>,
    /// Their numbers.
    numbers: HashSet<u32>,
    /// The directories that directories are in, for messages.
    parents: HashMap<NodeId, NodeId>,
}

impl Builder<'_> {
    fn run(&mut self) -> Result<(), ReadError> {
        let root = self.image.superblock.tables.root;
        let listing = self.root(root).map_err(|source| self.named(NodeId::ROOT, None, source))?;
        let mut todo = vec![Pending { id: NodeId::ROOT, listing, path: 0 }];
        while let Some(Pending { id, listing, path }) = todo.pop() {
            let Some(listing) = listing else { continue };
            let entries = directory::read(&mut self.reader, self.directories, listing);
            for entry in entries.map_err(|source| self.named(id, None, source))? {
                let path = path + 1 + entry.name.len() as u64;
                let added = self.reader.charge(path).and_then(|()| self.add(id, &entry));
                let added = added.map_err(|source| self.named(id, Some(&entry.name), source))?;
                if let Some((id, listing)) = added {
                    todo.push(Pending { id, listing, path });
                }
            }
        }
        Ok(())
    }

    fn root(&mut self, reference: u64) -> Result<Option<Listing>, ReadError> {
        let inode = self.inodes.read(&mut self.reader, reference)?;
        if !inode.kind.is_directory() {
            let reason = format!("the root is a {}, which should be a directory", inode.kind.name());
            return Err(ReadError::corrupt("inode table", inode.at, reason));
        }
        self.number(&inode)?;
        self.known.insert(reference, (inode.number, NodeId::ROOT));
        let listing = inode.listing;
        *self.tree.node_mut(NodeId::ROOT) = self.node(inode)?;
        Ok(listing)
    }

    /// Adds a name; a directory comes back with where its entries are.
    fn add(&mut self, parent: NodeId, entry: &Entry) -> Result<Option<(NodeId, Option<Listing>)>, ReadError> {
        if let Some((number, id)) = self.known.get(&entry.inode).copied() {
            let kind = &self.tree.node(id).kind;
            if kind.is_directory() {
                return Err(self.disagrees(entry, "a directory that has another name already".to_owned()));
            }
            if (number, basic_type(kind)) != (entry.number, entry.kind) {
                let reason = format!("inode {number} of type {}", basic_type(kind));
                return Err(self.disagrees(entry, reason));
            }
            self.tree.link(parent, &entry.name, id);
            return Ok(None);
        }
        let inode = self.inodes.read(&mut self.reader, entry.inode)?;
        if (inode.number, basic_type(&inode.kind)) != (entry.number, entry.kind) {
            let reason = format!("inode {} of type {}", inode.number, basic_type(&inode.kind));
            return Err(self.disagrees(entry, reason));
        }
        self.number(&inode)?;
        let (listing, is_directory) = (inode.listing, inode.kind.is_directory());
        let node = self.node(inode)?;
        let id = self.tree.add(node);
        self.known.insert(entry.inode, (entry.number, id));
        self.tree.link(parent, &entry.name, id);
        if !is_directory {
            return Ok(None);
        }
        self.parents.insert(id, parent);
        Ok(Some((id, listing)))
    }

    /// Takes note of an inode's number: every inode has one of its own.
    fn number(&mut self, inode: &Inode) -> Result<(), ReadError> {
        let (number, count) = (inode.number, self.image.superblock.inodes);
        let reason = if number == 0 || number > count {
            format!("inode number {number}, which should be 1 to {count}")
        } else if self.numbers.insert(number) {
            return Ok(());
        } else {
            format!("inode number {number}, which another inode has too")
        };
        Err(ReadError::corrupt("inode table", inode.at, reason))
    }

    fn node(&mut self, inode: Inode) -> Result<Node<ImageFile>, ReadError> {
        let corrupt = |reason| ReadError::corrupt("inode table", inode.at, reason);
        let id = |index: u16| {
            let id = self.ids.get(usize::from(index)).copied();
            id.ok_or_else(|| corrupt(format!("owner {index} of the id table, which has {}", self.ids.len())))
        };
        let (uid, gid) = (id(inode.uid)?, id(inode.gid)?);
        let xattrs = match inode.xattrs {
            None => Default::default(),
            Some(number) => self
                .xattrs
                .get(&mut self.reader, number)?
                .ok_or_else(|| corrupt(format!("set {number} of extended attributes, which is not there")))?,
        };
        let meta = Metadata { mode: inode.mode, uid, gid, mtime: inode.mtime.into(), xattrs, origin: Origin(0) };
        let kind = match inode.kind {
            Kind::Regular(layout) => Kind::Regular(ImageFile::new(self.image, layout)),
            Kind::Directory(children) => Kind::Directory(children),
            Kind::Symlink(target) => Kind::Symlink(target),
            Kind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            Kind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            Kind::Fifo => Kind::Fifo,
            Kind::Socket => Kind::Socket,
        };
        Ok(Node { meta, kind })
    }

    /// A directory entry and the inode it names do not fit together.
    fn disagrees(&self, entry: &Entry, found: String) -> ReadError {
        let at = super::At {
            position: self.inodes.region.start.saturating_add(entry.inode >> 16),
            // The lower 16 bits.
            offset: Some(usize::from(entry.inode as u16)),
        };
        let wanted = format!("the directory has inode {} of type {} there", entry.number, entry.kind);
        ReadError::corrupt("inode table", at, format!("{found}, but {wanted}"))
    }

    /// The error with the path of the directory, or of a name in it.
    fn named(&self, directory: NodeId, name: Option<&[u8]>, source: ReadError) -> ReadError {
        let mut names: Vec<&[u8]> = name.into_iter().collect();
        let (mut here, mut len) = (directory, 0);
        while let Some(parent) = self.parents.get(&here).copied() {
            let mut children = self.tree.children(parent).into_iter().flatten();
            let name = children.find(|(_, id)| **id == here).map_or(&b"?"[..], |(name, _)| name);
            len += name.len() + 1;
            if len > SHOWN_PATH {
                names.push(b"...");
                break;
            }
            names.push(name);
            here = parent;
        }
        let mut path = String::new();
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(&String::from_utf8_lossy(name));
        }
        if path.is_empty() {
            path.push('/');
        }
        ReadError::Path { path, source: Box::new(source) }
    }
}
