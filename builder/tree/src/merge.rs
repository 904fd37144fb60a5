//! Layers onto a tree.
//!
//! A layer is an ordered list of [`Entry`]. [`Tree::apply`] lays it over what is there, as the layer chapter of the OCI
//! image specification says: whiteouts and opaque directories hide only what lower layers brought, wherever in the
//! layer they stand. They are therefore worked off first, against the tree as the lower layers left it; then the
//! other entries take effect one after the other.

use std::collections::{BTreeMap, HashSet};

use thiserror::Error;

use crate::tree::components;
use crate::{Kind, Metadata, Node, NodeId, Origin, Tree};

mod place;

use place::{Place, shown};

/// One change that a layer makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<C> {
    /// Path below the root; a leading `/` or `./` does not matter, a `..` component is an error.
    pub path: Box<[u8]>,
    /// Owner, mode, times, extended attributes; ignored by whiteouts and hard links.
    pub meta: Metadata,
    /// What it is.
    pub kind: EntryKind<C>,
}

/// What an entry puts at its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind<C> {
    /// A directory; one that stands already keeps its content and takes the new metadata. A symbolic link that stands
    /// there gives way to it, even one to a directory: only *parents* are looked up through links.
    Directory,
    /// A directory that only has to be there, because something is in it: one that stands already keeps its metadata
    /// as well, so that an overlay with `root/.profile` leaves `/root` the mode it has. For the rest as
    /// [`EntryKind::Directory`].
    Parent,
    /// A regular file.
    Regular(C),
    /// A symbolic link and what it holds.
    Symlink(Box<[u8]>),
    /// A second name for the file at this path, of this layer or a lower one.
    HardLink(Box<[u8]>),
    /// A character device, by major and minor number.
    CharDevice(u32, u32),
    /// A block device, by major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A Unix socket. Archives do not hold any; trees turned back into entries may.
    Socket,
    /// Nothing: what lower layers have at this path (the path without `.wh.`) goes.
    Whiteout,
    /// Nothing: what lower layers have inside this directory goes (`.wh..wh..opq`).
    Opaque,
}

/// A name that became another kind of thing when a layer was applied; the lint rules judge these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeChange {
    /// Absolute path.
    pub path: Vec<u8>,
    /// What lower layers had there, in a word ([`crate::Kind::name`]).
    pub from: &'static str,
    /// What stands there now.
    pub to: &'static str,
    /// Which layer did it.
    pub origin: Origin,
    /// Whose node was replaced.
    pub replaced: Origin,
}

/// Why a layer cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MergeError {
    /// The path would leave the root.
    #[error("{path}: a path in a layer must stay inside the root")]
    Outside {
        /// As it stands in the layer.
        path: String,
    },
    /// A hard link to something that is not there.
    #[error("{path}: hard link to {target}, which neither this layer nor one below it has, or which a whiteout hides")]
    DanglingHardLink {
        /// The new name.
        path: String,
        /// What it should be a name for.
        target: String,
    },
    /// A hard link to a directory.
    #[error("{path}: hard link to {target}, which is a directory")]
    DirectoryHardLink {
        /// The new name.
        path: String,
        /// What it should be a name for.
        target: String,
    },
    /// A parent is neither a directory nor a link to one.
    #[error("{path}: {reason}")]
    Parent {
        /// As it stands in the layer.
        path: String,
        /// What is wrong with its parent.
        reason: String,
    },
    /// The layer has something else than a directory for the root itself.
    #[error("{path}: the root of a layer must be a directory")]
    Root {
        /// As it stands in the layer.
        path: String,
    },
    /// No file system takes this name.
    #[error("{path}: a file name cannot hold a NUL byte")]
    Name {
        /// As it stands in the layer.
        path: String,
    },
}

impl<C> Tree<C> {
    /// Lays one layer over the tree; entries take effect in order, whiteouts before everything else. Of several entries
    /// for one path the last one counts. Parents are looked up as the kernel would inside the root, through symbolic
    /// links; missing ones are made, `root:root 0755`, with [`Origin::BUILDER`].
    ///
    /// Returns the names that lower layers had and that are another kind of thing now, in bytewise order.
    ///
    /// # Errors
    /// The first entry that cannot be applied; the tree is then half changed and to be dropped.
    pub fn apply(&mut self, origin: Origin, entries: Vec<Entry<C>>) -> Result<Vec<TypeChange>, MergeError> {
        let mut merge = Merge::new(self, origin);
        merge.hide(&entries)?;
        for entry in entries {
            merge.put(entry)?;
        }
        Ok(merge.type_changes())
    }
}

/// One layer on its way onto the tree.
struct Merge<'t, C> {
    tree: &'t mut Tree<C>,
    origin: Origin,
    /// Nodes from this index on are of this layer.
    first_own: usize,
    /// What lower layers had at names that this layer replaced or hid: kind and origin by absolute path.
    before: BTreeMap<Vec<u8>, (&'static str, Origin)>,
    /// The parent looked up last, by the parent's path as the layer spells it: entries of one folder mostly come
    /// together.
    last_parent: Option<(Vec<u8>, Place)>,
}

impl<'t, C> Merge<'t, C> {
    fn new(tree: &'t mut Tree<C>, origin: Origin) -> Self {
        let first_own = tree.len();
        Self { tree, origin, first_own, before: BTreeMap::new(), last_parent: None }
    }

    /// Takes away what the layer's whiteouts and opaque directories hide.
    fn hide(&mut self, entries: &[Entry<C>]) -> Result<(), MergeError> {
        if !entries.iter().any(|e| matches!(e.kind, EntryKind::Whiteout | EntryKind::Opaque)) {
            return Ok(());
        }
        let own_directories: HashSet<Vec<u8>> =
            entries.iter().filter(|e| is_directory(&e.kind)).map(|e| normal(&e.path)).collect();
        for entry in entries {
            match entry.kind {
                EntryKind::Whiteout => {
                    let (parent, name) = split(&entry.path)?;
                    let Some(name) = name else { return Err(MergeError::Root { path: shown(&entry.path) }) };
                    if let Some(place) = self.hidden_directory(&parent, &own_directories, &entry.path)? {
                        self.hide_name(&place, name);
                    }
                }
                EntryKind::Opaque => {
                    check(&entry.path)?;
                    let directory = normal(&entry.path);
                    if let Some(place) = self.hidden_directory(&directory, &own_directories, &entry.path)? {
                        let names: Vec<Box<[u8]>> =
                            self.tree.children(place.id).into_iter().flatten().map(|(name, _)| name.clone()).collect();
                        for name in names {
                            self.hide_name(&place, &name);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The lower directory that a whiteout works in. `None` where lower layers have none there, and also where they have a
    /// symbolic link that this layer turns into a directory of its own: what the link leads to is then not what the
    /// whiteout means.
    fn hidden_directory(
        &self,
        directory: &[u8],
        own_directories: &HashSet<Vec<u8>>,
        path: &[u8],
    ) -> Result<Option<Place>, MergeError> {
        let ends = directory.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
        for end in ends.chain([directory.len()]) {
            let prefix = &directory[..end];
            if own_directories.contains(prefix)
                && self.tree.resolve_no_follow(prefix).is_ok_and(|id| !self.tree.node(id).kind.is_directory())
            {
                return Ok(None);
            }
        }
        place::find(self.tree, directory, path)
    }

    fn hide_name(&mut self, place: &Place, name: &[u8]) {
        if let Some(id) = self.tree.unlink(place.id, name) {
            self.remember(place, name, id);
        }
    }

    /// Notes what a lower layer had at a name before this layer takes it.
    fn remember(&mut self, place: &Place, name: &[u8], id: NodeId) {
        if id.index() < self.first_own {
            let node = self.tree.node(id);
            let was = (node.kind.name(), node.meta.origin);
            self.before.entry(place.join(name)).or_insert(was);
        }
    }

    fn put(&mut self, entry: Entry<C>) -> Result<(), MergeError> {
        let Entry { path, mut meta, kind } = entry;
        if matches!(kind, EntryKind::Whiteout | EntryKind::Opaque) {
            return Ok(());
        }
        meta.origin = self.origin;
        let (parent, name) = split(&path)?;
        let Some(name) = name else {
            if !is_directory(&kind) {
                return Err(MergeError::Root { path: shown(&path) });
            }
            if matches!(kind, EntryKind::Directory) {
                self.tree.node_mut(NodeId::ROOT).meta = meta;
            }
            return Ok(());
        };
        let place = self.parent(parent, &path)?;
        let there = self.tree.children(place.id).and_then(|c| c.get(name)).copied();
        let kind = match kind {
            EntryKind::Directory | EntryKind::Parent => {
                if let Some(id) = there
                    && self.tree.node(id).kind.is_directory()
                {
                    if matches!(kind, EntryKind::Directory) {
                        self.tree.node_mut(id).meta = meta;
                    }
                    return Ok(());
                }
                Kind::Directory(BTreeMap::new())
            }
            EntryKind::HardLink(target) => {
                let id = self.hard_link_target(&path, &target)?;
                self.name(&place, name, there, id);
                return Ok(());
            }
            EntryKind::Regular(content) => Kind::Regular(content),
            EntryKind::Symlink(target) => Kind::Symlink(target),
            EntryKind::CharDevice(major, minor) => Kind::CharDevice { major, minor },
            EntryKind::BlockDevice(major, minor) => Kind::BlockDevice { major, minor },
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::Socket => Kind::Socket,
            EntryKind::Whiteout | EntryKind::Opaque => return Ok(()),
        };
        let id = self.tree.add(Node { meta, kind });
        self.name(&place, name, there, id);
        Ok(())
    }

    /// Gives `id` its name, in the place of what stood `there`.
    fn name(&mut self, place: &Place, name: &[u8], there: Option<NodeId>, id: NodeId) {
        if there == Some(id) {
            return;
        }
        if let Some(old) = there {
            self.remember(place, name, old);
            if matches!(self.tree.node(old).kind, Kind::Directory(_) | Kind::Symlink(_)) {
                self.last_parent = None;
            }
        }
        self.tree.link(place.id, name, id);
    }

    fn hard_link_target(&self, path: &[u8], target: &[u8]) -> Result<NodeId, MergeError> {
        let dangling = || MergeError::DanglingHardLink { path: shown(path), target: shown(target) };
        let (parent, name) = split(target)?;
        let Some(name) = name else {
            return Err(MergeError::DirectoryHardLink { path: shown(path), target: shown(target) });
        };
        let place = place::find(self.tree, &parent, path)?.ok_or_else(dangling)?;
        let id = self.tree.children(place.id).and_then(|c| c.get(name)).copied().ok_or_else(dangling)?;
        if self.tree.node(id).kind.is_directory() {
            return Err(MergeError::DirectoryHardLink { path: shown(path), target: shown(target) });
        }
        Ok(id)
    }

    /// The directory an entry goes to, made where it is missing.
    fn parent(&mut self, parent: Vec<u8>, path: &[u8]) -> Result<Place, MergeError> {
        if let Some((last, place)) = &self.last_parent
            && *last == parent
        {
            return Ok(place.clone());
        }
        let place = place::make(self.tree, &parent, path)?;
        self.last_parent = Some((parent, place.clone()));
        Ok(place)
    }

    fn type_changes(self) -> Vec<TypeChange> {
        let mut changes = Vec::new();
        for (path, (from, replaced)) in self.before {
            let Ok(id) = self.tree.resolve_no_follow(&path) else { continue };
            let to = self.tree.node(id).kind.name();
            if from != to {
                changes.push(TypeChange { path, from, to, origin: self.origin, replaced });
            }
        }
        changes
    }
}

fn is_directory<C>(kind: &EntryKind<C>) -> bool {
    matches!(kind, EntryKind::Directory | EntryKind::Parent)
}

/// A path in one spelling: no leading slash, no `.`, no empty components.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(path.len());
    for component in components(path) {
        if !normal.is_empty() {
            normal.push(b'/');
        }
        normal.extend_from_slice(component);
    }
    normal
}

fn check(path: &[u8]) -> Result<(), MergeError> {
    if path.contains(&0) {
        return Err(MergeError::Name { path: shown(path) });
    }
    if components(path).any(|c| c == b"..") {
        return Err(MergeError::Outside { path: shown(path) });
    }
    Ok(())
}

/// The parent's path in its one spelling, and the last component; none for the root.
fn split(path: &[u8]) -> Result<(Vec<u8>, Option<&[u8]>), MergeError> {
    check(path)?;
    let Some(name) = components(path).next_back() else { return Ok((Vec::new(), None)) };
    let mut parent = normal(path);
    parent.truncate(parent.len() - name.len());
    if parent.last() == Some(&b'/') {
        parent.pop();
    }
    Ok((parent, Some(name)))
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
