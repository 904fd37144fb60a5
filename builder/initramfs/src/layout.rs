//! Lays files out in a tree for a segment.

use imgbuild_tree::{Content, Kind, Metadata, Node, NodeId, RootTree};

use crate::error::{Error, Result};

/// A tree under construction: all `root:root`, all with one time. Parent directories appear as they are needed.
#[derive(Debug)]
pub struct Layout {
    tree: RootTree,
    mtime: i64,
}

impl Layout {
    /// An empty tree in which everything has this modification time, in seconds since 1970.
    #[must_use]
    pub fn new(mtime: i64) -> Self {
        let mut tree = RootTree::new();
        tree.node_mut(NodeId::ROOT).meta.mtime = mtime;
        Self { tree, mtime }
    }

    /// Puts a directory; one that an entry below it brought takes this mode.
    ///
    /// # Errors
    /// When something else has its name or the name of a parent.
    pub fn directory(&mut self, path: &str, mode: u16) -> Result<()> {
        let id = self.descend(path, path.as_bytes())?;
        self.tree.node_mut(id).meta.mode = mode;
        Ok(())
    }

    /// Puts a regular file, and returns its id for further names.
    ///
    /// # Errors
    /// When something has its name, or something that is no directory the name of a parent.
    pub fn file(&mut self, path: &str, mode: u16, content: Content) -> Result<NodeId> {
        self.put(path, mode, Kind::Regular(content))
    }

    /// Puts a symbolic link.
    ///
    /// # Errors
    /// As [`Layout::file`].
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<NodeId> {
        self.put(path, 0o777, Kind::Symlink(target.as_bytes().into()))
    }

    /// Gives a file of this layout a further name.
    ///
    /// # Errors
    /// As [`Layout::file`].
    pub fn link(&mut self, path: &str, id: NodeId) -> Result<()> {
        let (parent, name) = split(path);
        let parent = self.descend(path, parent)?;
        let kind = self.tree.node(id).kind.name();
        match self.tree.children(parent).and_then(|children| children.get(name)) {
            Some(taken) => {
                Err(Error::Taken { path: path.to_owned(), taken: self.tree.node(*taken).kind.name(), wanted: kind })
            }
            None => {
                self.tree.link(parent, name, id);
                Ok(())
            }
        }
    }

    /// The tree.
    #[must_use]
    pub fn into_tree(self) -> RootTree {
        self.tree
    }

    fn put(&mut self, path: &str, mode: u16, kind: Kind<Content>) -> Result<NodeId> {
        let id = self.tree.add(self.node(mode, kind));
        self.link(path, id)?;
        Ok(id)
    }

    fn node(&self, mode: u16, kind: Kind<Content>) -> Node<Content> {
        Node { meta: Metadata { mtime: self.mtime, ..Metadata::root_owned(mode) }, kind }
    }

    /// The directory at `path`, made where it is missing; `whole` is what the caller wants to put, for messages.
    fn descend(&mut self, whole: &str, path: &[u8]) -> Result<NodeId> {
        let mut here = NodeId::ROOT;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            let next = self.tree.children(here).and_then(|children| children.get(name)).copied();
            here = match next {
                Some(id) => id,
                None => {
                    let id = self.tree.add(self.node(0o755, Kind::Directory(Default::default())));
                    self.tree.link(here, name, id);
                    id
                }
            };
            let kind = &self.tree.node(here).kind;
            if !kind.is_directory() {
                return Err(Error::Taken { path: whole.to_owned(), taken: kind.name(), wanted: "directory" });
            }
        }
        Ok(here)
    }
}

fn split(path: &str) -> (&[u8], &[u8]) {
    let path = path.as_bytes();
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
