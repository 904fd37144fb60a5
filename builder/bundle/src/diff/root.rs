//! A root that is to be compared or drawn, with what is known of its files besides what the tree says.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use imgbuild_tree::{FileContent, Kind, NodeId, Tree};
use rayon::prelude::*;

use super::DiffError;
use super::owners::Owners;
use crate::sbom::Document;

/// A root with what its SBOM and its package managers' lists say of its files.
#[derive(Debug)]
pub struct Root<C> {
    /// The bundle or image it is from, for messages.
    pub path: PathBuf,
    /// The files.
    pub tree: Tree<C>,
    /// Which package each file belongs to.
    pub owners: Owners,
    /// What the SBOM says, by absolute path.
    known: HashMap<String, Known>,
}

#[derive(Debug, PartialEq, Eq)]
struct Known {
    layer: String,
    sha256: Option<String>,
    size: u64,
}

impl<C: FileContent> Root<C> {
    /// Puts together what is known of a root.
    ///
    /// # Errors
    /// When a package list in the root cannot be read.
    pub fn new(path: &Path, tree: Tree<C>, sbom: Option<&Document>) -> Result<Self, DiffError> {
        let owners = Owners::read(&tree).map_err(|(inside, source)| content_error(path, inside, source))?;
        let mut known = HashMap::new();
        let mut ambiguous = Vec::new();
        for file in sbom.iter().flat_map(|document| &document.files) {
            let sha256 = file.checksums.iter().find(|c| c.algorithm == "SHA256").map(|c| c.checksum_value.clone());
            let entry = Known { layer: file.layer().to_owned(), sha256, size: file.size() };
            if known.insert(file.path().to_owned(), entry).is_some() {
                // Names that are no UTF-8 can look alike in JSON; what is said of them is said of neither.
                ambiguous.push(file.path().to_owned());
            }
        }
        for path in ambiguous {
            known.remove(&path);
        }
        Ok(Self { path: path.to_owned(), tree, owners, known })
    }

    /// Every name in the root with what it stands for, but the root folder's.
    pub(super) fn names(&self) -> BTreeMap<Vec<u8>, NodeId> {
        self.tree.walk().filter(|item| item.id != NodeId::ROOT).map(|item| (item.path, item.id)).collect()
    }

    /// Whether there is an SBOM.
    pub(crate) fn knows_layers(&self) -> bool {
        !self.known.is_empty()
    }

    /// The layer that a regular file came from, where there is an SBOM.
    pub(crate) fn layer(&self, path: &[u8]) -> Option<&str> {
        self.known(path).map(|known| known.layer.as_str())
    }

    /// What the SBOM says of a file, if that can be said in JSON.
    fn known(&self, path: &[u8]) -> Option<&Known> {
        self.known.get(std::str::from_utf8(path).ok()?)
    }

    /// The SHA-256 that the SBOM has for a file of this length.
    fn known_sha256(&self, path: &[u8], len: u64) -> Option<&str> {
        // Another length, and the SBOM speaks of another root.
        self.known(path).filter(|known| known.size == len)?.sha256.as_deref()
    }

    /// The length of a regular file.
    pub(crate) fn len(&self, id: NodeId) -> Option<u64> {
        match &self.tree.node(id).kind {
            Kind::Regular(content) => Some(content.len()),
            _ => None,
        }
    }

    /// SHA-256 of these files in lower-case hex: the SBOM's where it has one, else their content is read, on all cores.
    pub(super) fn hashes(&self, wanted: &BTreeMap<NodeId, &[u8]>) -> Result<HashMap<NodeId, String>, DiffError> {
        let all: Vec<_> = wanted.iter().collect();
        all.into_par_iter()
            .filter_map(|(id, path)| {
                let Kind::Regular(content) = &self.tree.node(*id).kind else { return None };
                if let Some(known) = self.known_sha256(path, content.len()) {
                    return Some(Ok((*id, known.to_owned())));
                }
                let read = imgbuild_tree::sha256(content);
                Some(match read {
                    Ok(hash) => Ok((*id, crate::hex(hash))),
                    Err(source) => Err(content_error(&self.path, String::from_utf8_lossy(path).into_owned(), source)),
                })
            })
            .collect()
    }

    /// The SBOM's hash of a file, for those that were not compared by their content.
    pub(super) fn sbom_sha256(&self, path: &[u8], id: NodeId) -> Option<String> {
        self.known_sha256(path, self.len(id)?).map(str::to_owned)
    }

    /// Each regular file once, under its first name, with its length in bytes.
    pub(crate) fn files(&self) -> Vec<(Vec<u8>, NodeId, u64)> {
        let mut seen = vec![false; self.tree.len()];
        self.tree
            .walk()
            .filter_map(|item| self.len(item.id).map(|len| (item.path, item.id, len)))
            .filter(|(_, id, _)| !std::mem::replace(&mut seen[id.index()], true))
            .collect()
    }
}

fn content_error(root: &Path, path: String, source: std::io::Error) -> DiffError {
    DiffError::Content { root: root.to_owned(), path, source }
}
