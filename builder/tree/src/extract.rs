//! A tree, or parts of it, as entries again: an OCI image that a recipe takes as one layer is flattened on its own
//! first, then laid over what earlier layers made.

use std::collections::HashMap;

use thiserror::Error;

use crate::tree::components;
use crate::{Entry, EntryKind, Kind, LookupError, MergeError, Metadata, Node, NodeId, Origin, Tree, TypeChange};

/// Why a path cannot be taken out of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExtractError {
    /// It is not there.
    #[error("{path} is not in the image; the nearest folder that is: {nearest}")]
    Missing {
        /// The path asked for.
        path: String,
        /// The longest beginning of it that exists.
        nearest: String,
    },
    /// It leads through something that is no folder, or round in circles.
    #[error("{path} cannot be had from the image")]
    Lookup {
        /// The path asked for.
        path: String,
        /// Why.
        #[source]
        source: LookupError,
    },
    /// A whole folder's content has no name of its own to take along.
    #[error("{from} cannot be put inside {to}, since it has no name; write {to} without the slash at its end")]
    Nameless {
        /// The path asked for.
        from: String,
        /// Where it should go.
        to: String,
    },
}

impl<C: Clone> Tree<C> {
    /// The whole tree as the entries of one layer: applied to an empty tree they give this tree again. Over another
    /// tree they act like a layer without whiteouts; folders that no layer stated (see [`Tree::apply`]) leave the
    /// metadata of what stands there alone.
    #[must_use]
    pub fn to_entries(&self) -> Vec<Entry<C>> {
        let mut taken = Taken::new(self);
        taken.take(NodeId::ROOT, Vec::new());
        taken.entries
    }

    /// Lays another tree over this one, as [`Tree::apply`] lays its [`Tree::to_entries`]; where nothing stands yet it is taken as
    /// it is.
    ///
    /// # Errors
    /// As [`Tree::apply`].
    pub fn lay(&mut self, origin: Origin, mut other: Self) -> Result<Vec<TypeChange>, MergeError> {
        if self.len() > 1 || self.node(NodeId::ROOT).meta.origin != Origin::BUILDER {
            return self.apply(origin, other.to_entries());
        }
        for (index, node) in other.nodes.iter_mut().enumerate() {
            if !implied(index == NodeId::ROOT.index(), node) {
                node.meta.origin = origin;
            }
        }
        *self = other;
        Ok(Vec::new())
    }

    /// Chosen paths, each under a new one, as the entries of one layer. Each pair is where from and where to.
    ///
    /// Parents in `from` are looked up through symbolic links. A symbolic link at its end is taken as a link, unless
    /// a `/` follows it. Folders come with all that is in them; hard links between taken files are kept. `to` is the new name;
    /// with a `/` at its end it is the folder that `from` goes into under its own name.
    ///
    /// # Errors
    /// The first path that is not there.
    pub fn extract<'p>(
        &self,
        paths: impl IntoIterator<Item = (&'p [u8], &'p [u8])>,
    ) -> Result<Vec<Entry<C>>, ExtractError> {
        let mut taken = Taken::new(self);
        for (from, to) in paths {
            let follow = from.last() == Some(&b'/');
            let found = if follow { self.resolve(from) } else { self.resolve_no_follow(from) };
            let id = found.map_err(|e| self.missing(from, e))?;
            if follow && !self.node(id).kind.is_directory() {
                let source = LookupError::NotADirectory(shown(from));
                return Err(ExtractError::Lookup { path: shown(from), source });
            }
            let mut target = to.to_vec();
            let root_to_root = components(from).chain(components(to)).next().is_none();
            if to.last() == Some(&b'/') && !root_to_root {
                let name = components(from).next_back().filter(|name| *name != b"..");
                let nameless = || ExtractError::Nameless { from: shown(from), to: shown(to) };
                target.extend_from_slice(name.ok_or_else(nameless)?);
            }
            taken.take(id, target);
        }
        Ok(taken.entries)
    }

    fn missing(&self, path: &[u8], error: LookupError) -> ExtractError {
        if !matches!(error, LookupError::NotFound(_)) {
            return ExtractError::Lookup { path: shown(path), source: error };
        }
        let mut nearest = b"/".to_vec();
        let mut here = Vec::new();
        for component in components(path) {
            here.push(b'/');
            here.extend_from_slice(component);
            if self.resolve(&here).is_err() {
                break;
            }
            nearest.clone_from(&here);
        }
        ExtractError::Missing { path: shown(path), nearest: shown(&nearest) }
    }
}

/// Entries on their way out.
struct Taken<'t, C> {
    tree: &'t Tree<C>,
    entries: Vec<Entry<C>>,
    /// The first new name of each node that has several.
    names: HashMap<NodeId, Box<[u8]>>,
    links: Vec<u32>,
}

impl<'t, C: Clone> Taken<'t, C> {
    fn new(tree: &'t Tree<C>) -> Self {
        Self { tree, entries: Vec::new(), names: HashMap::new(), links: tree.link_counts() }
    }

    fn take(&mut self, id: NodeId, path: Vec<u8>) {
        let mut todo = vec![(id, path)];
        while let Some((id, path)) = todo.pop() {
            let node = self.tree.node(id);
            let kind = match &node.kind {
                Kind::Directory(children) => {
                    for (name, child) in children.iter().rev() {
                        let mut below = path.clone();
                        below.push(b'/');
                        below.extend_from_slice(name);
                        todo.push((*child, below));
                    }
                    if implied(id == NodeId::ROOT, node) {
                        continue;
                    }
                    EntryKind::Directory
                }
                Kind::Regular(content) => EntryKind::Regular(content.clone()),
                Kind::Symlink(target) => EntryKind::Symlink(target.clone()),
                Kind::CharDevice { major, minor } => EntryKind::CharDevice(*major, *minor),
                Kind::BlockDevice { major, minor } => EntryKind::BlockDevice(*major, *minor),
                Kind::Fifo => EntryKind::Fifo,
                Kind::Socket => EntryKind::Socket,
            };
            let path: Box<[u8]> = path.into();
            let kind = self.second_name(id, &path).unwrap_or(kind);
            self.entries.push(Entry { path, meta: node.meta.clone(), kind });
        }
    }

    /// The hard link to make, where the node has been taken already.
    fn second_name(&mut self, id: NodeId, path: &[u8]) -> Option<EntryKind<C>> {
        if self.tree.node(id).kind.is_directory() || self.links.get(id.index()).is_none_or(|count| *count < 2) {
            return None;
        }
        if let Some(first) = self.names.get(&id) {
            return Some(EntryKind::HardLink(first.clone()));
        }
        self.names.insert(id, path.into());
        None
    }
}

/// Whether a directory will come back by itself, since it only leads to something.
fn implied<C>(is_root: bool, node: &Node<C>) -> bool {
    (is_root || matches!(&node.kind, Kind::Directory(children) if !children.is_empty()))
        && node.meta.origin == Origin::BUILDER
        && node.meta == Metadata::root_owned(0o755)
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests;
