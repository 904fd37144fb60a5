//! Finding the directory that an entry goes to, inside the root whatever the symbolic links say.

use crate::tree::{MAX_LINKS, components};
use crate::{Kind, MergeError, Metadata, Node, NodeId, Tree};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A directory, and its path with all links resolved. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) id: NodeId,
    /// Absolute, without a slash at the end; empty for the root.
    path: Rc<[u8]>,
}

impl Place {
    /// The absolute path of a name in this directory.
    pub(super) fn join(&self, name: &[u8]) -> Vec<u8> {
        [&self.path, b"/".as_slice(), name].concat()
    }
}

/// The directory at `directory`, through symbolic links; `None` where there is none.
pub(super) fn find<C>(tree: &Tree<C>, directory: &[u8], path: &[u8]) -> Result<Option<Place>, MergeError> {
    let mut way = Way::new(directory);
    while let Some(name) = way.next() {
        let Some(children) = tree.children(way.here()) else { return Ok(None) };
        let Some(id) = children.get(&name).copied() else { return Ok(None) };
        if !way.step(tree, &name, id, path)? {
            return Ok(None);
        }
    }
    Ok(Some(way.arrived()))
}

/// The directory at `directory`, through symbolic links; what is missing is made.
pub(super) fn make<C>(tree: &mut Tree<C>, directory: &[u8], path: &[u8]) -> Result<Place, MergeError> {
    let mut way = Way::new(directory);
    while let Some(name) = way.next() {
        let here = way.here();
        let id = match tree.children(here).and_then(|children| children.get(&name)) {
            Some(id) => *id,
            None => {
                let id = tree.add(Node { meta: Metadata::root_owned(0o755), kind: Kind::Directory(BTreeMap::new()) });
                tree.link(here, &name, id);
                id
            }
        };
        if !way.step(tree, &name, id, path)? {
            let reason = format!("{} is a {}, not a directory", way.show(&name), tree.node(id).kind.name());
            return Err(MergeError::Parent { path: shown(path), reason });
        }
    }
    Ok(way.arrived())
}

/// A walk down from the root.
struct Way {
    /// Where we are, and the length of the path before each step.
    stack: Vec<(NodeId, usize)>,
    path: Vec<u8>,
    /// Components still to go, the next one last.
    todo: Vec<Box<[u8]>>,
    links: u32,
}

impl Way {
    fn new(directory: &[u8]) -> Self {
        let todo = components(directory).rev().map(Into::into).collect();
        Self { stack: vec![(NodeId::ROOT, 0)], path: Vec::new(), todo, links: 0 }
    }

    fn here(&self) -> NodeId {
        self.stack.last().map_or(NodeId::ROOT, |(id, _)| *id)
    }

    /// The next name to look up. Links may say `..`; the root's parent is the root.
    fn next(&mut self) -> Option<Box<[u8]>> {
        loop {
            let name = self.todo.pop()?;
            if &*name != b".." {
                return Some(name);
            }
            if self.stack.len() > 1
                && let Some((_, len)) = self.stack.pop()
            {
                self.path.truncate(len);
            }
        }
    }

    /// Goes to `id`, or on to where it links; false where it is neither a directory nor a link.
    fn step<C>(&mut self, tree: &Tree<C>, name: &[u8], id: NodeId, path: &[u8]) -> Result<bool, MergeError> {
        match &tree.node(id).kind {
            Kind::Directory(_) => {
                self.stack.push((id, self.path.len()));
                self.path.push(b'/');
                self.path.extend_from_slice(name);
                Ok(true)
            }
            Kind::Symlink(target) => {
                self.links += 1;
                if self.links > MAX_LINKS {
                    let reason = format!("{} leads round in circles of symbolic links", self.show(name));
                    return Err(MergeError::Parent { path: shown(path), reason });
                }
                if target.first() == Some(&b'/') {
                    self.stack.truncate(1);
                    self.path.clear();
                }
                self.todo.extend(components(target).rev().map(Into::into));
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn show(&self, name: &[u8]) -> String {
        format!("{}/{}", shown(&self.path), shown(name))
    }

    fn arrived(self) -> Place {
        Place { id: self.here(), path: self.path.into() }
    }
}

pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
