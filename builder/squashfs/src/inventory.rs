//! One walk over the tree before anything is written: every node gets its inode number, and what the format cannot
//! hold is found here.

use std::collections::{BTreeMap, BTreeSet};

use imgbuild_tree::{FileContent, Kind, Node, NodeId, Tree};

use crate::Error;
use crate::format::{NAME_MAX, SYMLINK_MAX};

/// An inode number: 1 for the root.
pub(crate) type Number = u32;

/// What is known of an inode before it is written.
pub(crate) struct Inode<'t, C> {
    /// Its id in the tree.
    pub(crate) id: NodeId,
    pub(crate) node: &'t Node<C>,
    /// The directory that first names it; 0 for the root.
    pub(crate) parent: Number,
    /// Its first name; empty for the root.
    pub(crate) name: &'t [u8],
    /// Its link count: names; for a directory 2 and one for each subdirectory.
    pub(crate) links: u32,
}

/// All inodes of a tree.
///
/// Numbers run through a directory's children in the order of their names before they go on in its subdirectories, so
/// that the entries of a directory nearly always have numbers close to each other.
pub(crate) struct Inventory<'t, C> {
    /// By number, the first one being 1.
    inodes: Vec<Inode<'t, C>>,
    /// By index of the node; 0 for those that have no name.
    numbers: Vec<Number>,
    /// Parents before children.
    directories: Vec<Number>,
    /// Every user and group id, ascending.
    ids: Vec<u32>,
}

impl<'t, C: FileContent> Inventory<'t, C> {
    /// Walks the tree.
    pub(crate) fn new(tree: &'t Tree<C>) -> Result<Self, Error> {
        let mut inventory =
            Self { inodes: Vec::new(), numbers: vec![0; tree.len()], directories: Vec::new(), ids: Vec::new() };
        let root = tree.node(NodeId::ROOT);
        if !root.kind.is_directory() {
            return Err(Error::Malformed { path: "/".to_owned(), reason: "the root must be a directory" });
        }
        inventory.inodes.push(Inode { id: NodeId::ROOT, node: root, parent: 0, name: b"", links: 2 });
        if let Some(number) = inventory.numbers.get_mut(NodeId::ROOT.index()) {
            *number = 1;
        }
        let mut todo = vec![1];
        while let Some(directory) = todo.pop() {
            inventory.directories.push(directory);
            let first = todo.len();
            for (name, id) in inventory.children(directory) {
                if let Some(number) = inventory.add(tree, directory, name, *id)? {
                    todo.push(number);
                }
            }
            // Taken from the end: turned round, so that the first name comes first.
            todo[first..].reverse();
        }
        inventory.ids = inventory.all_ids()?;
        Ok(inventory)
    }

    /// Takes in one name; a number is returned where it is that of a directory to be walked.
    fn add(&mut self, tree: &'t Tree<C>, parent: Number, name: &'t [u8], id: NodeId) -> Result<Option<Number>, Error> {
        self.check_name(parent, name)?;
        let malformed = |inventory: &Self, reason| {
            let path = inventory.path_of(parent, name);
            Err(Error::Malformed { path, reason })
        };
        let Some(slot) = self.numbers.get(id.index()) else {
            return malformed(self, "the name stands for a node of another tree");
        };
        if let Some(known) = slot.checked_sub(1) {
            let inode = &mut self.inodes[known as usize];
            if inode.node.kind.is_directory() {
                return malformed(self, "a directory can have only one name");
            }
            inode.links = inode.links.saturating_add(1);
            return Ok(None);
        }
        let node = tree.node(id);
        let is_directory = node.kind.is_directory();
        // The superblock counts inodes in 32 bits, and the root's parent is the number after the last.
        let Some(number) = u32::try_from(self.inodes.len() + 1).ok().filter(|n| *n < u32::MAX) else {
            return Err(Error::TableTooLarge { table: "inode" });
        };
        self.numbers[id.index()] = number;
        self.inodes.push(Inode { id, node, parent, name, links: if is_directory { 2 } else { 1 } });
        self.check_kind(number)?;
        if !is_directory {
            return Ok(None);
        }
        let above = &mut self.inodes[parent as usize - 1];
        above.links = above.links.saturating_add(1);
        Ok(Some(number))
    }

    fn check_name(&self, directory: Number, name: &[u8]) -> Result<(), Error> {
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            return Err(Error::Name { directory: self.path(directory), name: shown(name) });
        }
        if name.len() > NAME_MAX {
            let directory = self.path(directory);
            return Err(Error::NameTooLong { directory, name: shown(name), len: name.len() });
        }
        Ok(())
    }

    fn check_kind(&self, number: Number) -> Result<(), Error> {
        match &self.inode(number).node.kind {
            Kind::Symlink(target) => {
                let (len, has_nul) = (target.len(), target.contains(&0));
                if len == 0 || len > SYMLINK_MAX || has_nul {
                    return Err(Error::Symlink { path: self.path(number), len, has_nul });
                }
            }
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                if *major >= 1 << 12 || *minor >= 1 << 20 {
                    return Err(Error::Device { path: self.path(number), major: *major, minor: *minor });
                }
            }
            Kind::Regular(content) => {
                let len = content.len();
                if i64::try_from(len).is_err() {
                    return Err(Error::FileTooLong { path: self.path(number), len });
                }
            }
            Kind::Directory(_) | Kind::Fifo | Kind::Socket => {}
        }
        Ok(())
    }

    fn all_ids(&self) -> Result<Vec<u32>, Error> {
        let ids: BTreeSet<u32> = self.inodes.iter().flat_map(|i| [i.node.meta.uid, i.node.meta.gid]).collect();
        if u16::try_from(ids.len()).is_err() {
            return Err(Error::TooManyIds { found: ids.len() });
        }
        Ok(ids.into_iter().collect())
    }
}

impl<'t, C> Inventory<'t, C> {
    /// How many inodes there are.
    pub(crate) fn len(&self) -> u32 {
        // Checked while they were added.
        self.inodes.len() as u32
    }

    pub(crate) fn inode(&self, number: Number) -> &Inode<'t, C> {
        &self.inodes[number as usize - 1]
    }

    /// All inodes with their numbers, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Number, &Inode<'t, C>)> {
        (1..).zip(&self.inodes)
    }

    /// The number of a node that has a name.
    pub(crate) fn number(&self, id: NodeId) -> Number {
        self.numbers[id.index()]
    }

    /// The names in a directory.
    pub(crate) fn children(&self, directory: Number) -> &'t BTreeMap<Box<[u8]>, NodeId> {
        static NONE: BTreeMap<Box<[u8]>, NodeId> = BTreeMap::new();
        match &self.inode(directory).node.kind {
            Kind::Directory(children) => children,
            _ => &NONE,
        }
    }

    /// Every directory, parents before children.
    pub(crate) fn directories(&self) -> &[Number] {
        &self.directories
    }

    /// The id table: every user and group id once, ascending.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Where an id stands in the table.
    pub(crate) fn id_index(&self, id: u32) -> u16 {
        // All ids are in the table, which has no more than 2^16 - 1.
        self.ids.partition_point(|known| *known < id) as u16
    }

    /// An inode's first path, for messages.
    pub(crate) fn path(&self, number: Number) -> String {
        if number == 1 {
            return "/".to_owned();
        }
        let inode = self.inode(number);
        self.path_of(inode.parent, inode.name)
    }

    fn path_of(&self, mut parent: Number, name: &[u8]) -> String {
        let mut names = vec![name];
        while parent > 1 {
            let inode = self.inode(parent);
            names.push(inode.name);
            parent = inode.parent;
        }
        names.iter().rev().flat_map(|name| ["/".into(), String::from_utf8_lossy(name)]).collect()
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
