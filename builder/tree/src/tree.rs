//! The tree itself: look-up, change, walk.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::{Kind, Metadata, Node, NodeId};

/// Symbolic links followed in one look-up before it is taken for a loop, as Linux's `MAXSYMLINKS`.
pub(crate) const MAX_LINKS: u32 = 40;

/// A root file system.
#[derive(Debug, Clone)]
pub struct Tree<C> {
    pub(crate) nodes: Vec<Node<C>>,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LookupError {
    /// A component does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// A component that should be a directory is something else.
    #[error("{0} is no directory")]
    NotADirectory(String),
    /// Symbolic links go round in circles.
    #[error("too many symbolic links in {0}")]
    Loop(String),
}

/// One step of [`Tree::walk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkItem {
    /// Absolute path, `/` for the root.
    pub path: Vec<u8>,
    /// What stands there.
    pub id: NodeId,
}

impl<C> Default for Tree<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> Tree<C> {
    /// A tree with nothing but a root directory, `root:root 0755`.
    #[must_use]
    pub fn new() -> Self {
        Self { nodes: vec![Node { meta: Metadata::root_owned(0o755), kind: Kind::Directory(BTreeMap::new()) }] }
    }

    /// How many nodes the table holds, those no longer reachable included: one more than the largest
    /// [`NodeId::index`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the root directory is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children(NodeId::ROOT).is_none_or(BTreeMap::is_empty)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node<C> {
        &self.nodes[id.index()]
    }

    /// A node, to be changed.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node<C> {
        &mut self.nodes[id.index()]
    }

    /// The names in a directory in bytewise order; `None` where `id` is something else.
    #[must_use]
    pub fn children(&self, id: NodeId) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match &self.node(id).kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }

    pub(crate) fn children_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<Box<[u8]>, NodeId>> {
        match &mut self.node_mut(id).kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// Adds a node without a name; [`Tree::link`] gives it one.
    pub fn add(&mut self, node: Node<C>) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }

    /// Gives `id` the name `name` in `directory`; what had the name before loses it and is returned. `None` also where
    /// `directory` is no directory.
    pub fn link(&mut self, directory: NodeId, name: &[u8], id: NodeId) -> Option<NodeId> {
        self.children_mut(directory)?.insert(name.into(), id)
    }

    /// Takes a name out of a directory and returns what it stood for.
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children_mut(directory)?.remove(name)
    }

    /// Finds what a path stands for, as `stat` would inside the root: symbolic links are followed, the last one too,
    /// absolute ones and `..` stay within the root.
    ///
    /// # Errors
    /// When a component is missing or no directory, or links form a loop.
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Result<NodeId, LookupError> {
        self.resolve_with(path.as_ref(), true)
    }

    /// As [`Tree::resolve`], but a symbolic link as the last component is not followed (`lstat`).
    ///
    /// # Errors
    /// As [`Tree::resolve`].
    pub fn resolve_no_follow(&self, path: impl AsRef<[u8]>) -> Result<NodeId, LookupError> {
        self.resolve_with(path.as_ref(), false)
    }

    fn resolve_with(&self, path: &[u8], follow_last: bool) -> Result<NodeId, LookupError> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let mut stack = vec![NodeId::ROOT];
        let mut todo: Vec<Box<[u8]>> = components(path).rev().map(Into::into).collect();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if &*name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let here = stack[stack.len() - 1];
            let children = self.children(here).ok_or_else(|| LookupError::NotADirectory(shown()))?;
            let id = *children.get(&name).ok_or_else(|| LookupError::NotFound(shown()))?;
            match &self.node(id).kind {
                Kind::Symlink(target) if follow_last || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(LookupError::Loop(shown()));
                    }
                    if target.first() == Some(&b'/') {
                        stack.truncate(1);
                    }
                    todo.extend(components(target).rev().map(Into::into));
                }
                _ => stack.push(id),
            }
        }
        Ok(stack[stack.len() - 1])
    }

    /// Every name in the tree, parents before children, children in bytewise order, the root first. A node with
    /// several names comes once for each.
    pub fn walk(&self) -> Walk<'_, C> {
        Walk { tree: self, stack: vec![WalkItem { path: b"/".to_vec(), id: NodeId::ROOT }] }
    }

    /// What stands at each name, in the order of [`Tree::walk`]: for whoever does not need the paths, which cost most of a walk.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        let mut stack = vec![NodeId::ROOT];
        std::iter::from_fn(move || {
            let id = stack.pop()?;
            if let Some(children) = self.children(id) {
                stack.extend(children.values().rev());
            }
            Some(id)
        })
    }

    /// How many names each node has, by [`NodeId::index`]: the hard link count of files. Directories count as one.
    #[must_use]
    pub fn link_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.len()];
        for id in self.ids() {
            counts[id.index()] += 1;
        }
        counts
    }
}

/// The components of a path, `.` and empty ones left out.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".")
}

/// Iterator of [`Tree::walk`].
#[derive(Debug)]
pub struct Walk<'a, C> {
    tree: &'a Tree<C>,
    stack: Vec<WalkItem>,
}

impl<C> Iterator for Walk<'_, C> {
    type Item = WalkItem;

    fn next(&mut self) -> Option<WalkItem> {
        let item = self.stack.pop()?;
        if let Some(children) = self.tree.children(item.id) {
            for (name, id) in children.iter().rev() {
                let mut path = Vec::with_capacity(item.path.len() + 1 + name.len());
                path.extend_from_slice(&item.path);
                if path.last() != Some(&b'/') {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                self.stack.push(WalkItem { path, id: *id });
            }
        }
        Some(item)
    }
}
