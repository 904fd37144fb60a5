//! Files: added, removed, changed, renamed.

use std::collections::{BTreeMap, HashMap};

use imgbuild_tree::{FileContent, Kind, NodeId, Xattrs};
use schemars::JsonSchema;
use serde::Serialize;

use super::root::Root;
use super::{Change, DiffError};

/// How the files of two roots differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Files {
    /// Names that only the second has.
    pub added: u64,
    /// Names that only the first has.
    pub removed: u64,
    /// Names that both have, for something that differs in more than its time.
    pub changed: u64,
    /// Regular files that have the same content under another name.
    pub renamed: u64,
    /// Names whose modification time alone differs; they are not in `list`.
    pub time_only: u64,
    /// Each of the others: the largest difference in size first, then what changes rights, then the rest, by path.
    pub list: Vec<FileChange>,
}

/// A name that stands for something else than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FileChange {
    /// What happened to it.
    pub change: Change,
    /// Absolute path in the second root; in the first, if it was removed. What is no UTF-8 in it is replaced by U+FFFD.
    pub path: String,
    /// Of a renamed file: its path in the first root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Of a changed or renamed file: what differs.
    pub what: Vec<Aspect>,
    /// Bytes that the file is larger than before, uncompressed.
    pub growth: i64,
    /// In the first root.
    pub before: Option<FileState>,
    /// In the second root.
    pub after: Option<FileState>,
}

impl FileChange {
    /// Whether it is, or was, a folder.
    pub(super) fn is_folder(&self) -> bool {
        self.after.as_ref().or(self.before.as_ref()).is_some_and(|state| state.kind == "directory")
    }

    /// Whether somebody may have other rights than before.
    pub(super) fn concerns_rights(&self) -> bool {
        self.what.iter().any(|aspect| aspect.is_about_rights())
    }
}

/// What differs about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Aspect {
    /// It is another kind of thing: a file that was a link.
    Type,
    /// Owner or group.
    Owner,
    /// Permission bits.
    Mode,
    /// Extended attributes, file capabilities among them.
    Xattrs,
    /// The bytes of a regular file.
    Content,
    /// Where a symbolic link leads.
    Target,
    /// The numbers of a device.
    Device,
}

impl Aspect {
    /// The aspect in a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Owner => "owner",
            Self::Mode => "mode",
            Self::Xattrs => "xattrs",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
        }
    }

    /// Whether a difference can give somebody rights that they did not have.
    fn is_about_rights(self) -> bool {
        matches!(self, Self::Type | Self::Owner | Self::Mode | Self::Xattrs)
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FileState {
    /// `regular file`, `directory`, `symbolic link`, `character device`, `block device`, `named pipe`, `socket`.
    pub kind: &'static str,
    /// Length of a regular file in bytes; else 0.
    pub size: u64,
    /// Permission bits in octal: `4755`.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a regular file, where it had to be known to compare or the SBOM has it: SHA-256 in lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Of a symbolic link: where it leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Of a device: `MAJOR:MINOR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Extended attributes, values in lower-case hex.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// Layer that a regular file came from, where the bundle has an SBOM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Package that it belongs to, by the root's package manager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
}

/// Two roots, with the hashes of what had to be hashed.
struct Comparison<'a, A, B> {
    a: &'a Root<A>,
    b: &'a Root<B>,
    hashes_a: HashMap<NodeId, String>,
    hashes_b: HashMap<NodeId, String>,
}

/// Compares the files of two roots. Content is compared by its SHA-256: the SBOM's where both have one, else it is read,
/// and only where the length does not tell already.
///
/// # Errors
/// When a file that has to be read cannot be.
pub(super) fn compare<A: FileContent, B: FileContent>(a: &Root<A>, b: &Root<B>) -> Result<Files, DiffError> {
    let (names_a, names_b) = (a.names(), b.names());
    let (hashes_a, hashes_b) = hashes(a, &names_a, b, &names_b)?;
    let both = Comparison { a, b, hashes_a, hashes_b };
    let mut found = Files::default();
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for (path, id) in &names_a {
        match names_b.get(path) {
            None => removed.push((path.as_slice(), *id)),
            Some(other) => both.changed(path, *id, *other, &mut found),
        }
    }
    added.extend(names_b.iter().filter(|(path, _)| !names_a.contains_key(*path)).map(|(p, id)| (p.as_slice(), *id)));
    both.renamed(&mut removed, &mut added, &mut found);
    for (path, id) in removed {
        let before = both.before(path, id);
        let growth = -signed(before.size);
        found.removed += 1;
        found.list.push(only(Change::Removed, path, growth, Some(before), None));
    }
    for (path, id) in added {
        let after = both.after(path, id);
        let growth = signed(after.size);
        found.added += 1;
        found.list.push(only(Change::Added, path, growth, None, Some(after)));
    }
    found.list.sort_by_cached_key(|change| {
        (std::cmp::Reverse(change.growth.unsigned_abs()), !change.concerns_rights(), change.path.clone())
    });
    Ok(found)
}

type Hashes = HashMap<NodeId, String>;

/// Hashes of the files whose length alone does not tell whether they are equal: those of one name and length, and for
/// renames those that only one root has and whose length only-in-the-other files have, too.
fn hashes<A: FileContent, B: FileContent>(
    a: &Root<A>,
    names_a: &BTreeMap<Vec<u8>, NodeId>,
    b: &Root<B>,
    names_b: &BTreeMap<Vec<u8>, NodeId>,
) -> Result<(Hashes, Hashes), DiffError> {
    type Wanted<'a> = BTreeMap<NodeId, &'a [u8]>;
    let (mut wanted_a, mut wanted_b) = (Wanted::new(), Wanted::new());
    let mut alone_a: BTreeMap<u64, Wanted<'_>> = BTreeMap::new();
    for (path, id) in names_a {
        let Some(len) = a.len(*id) else { continue };
        match names_b.get(path) {
            None if len > 0 => drop(alone_a.entry(len).or_default().insert(*id, path)),
            Some(other) if b.len(*other) == Some(len) => {
                wanted_a.insert(*id, path);
                wanted_b.insert(*other, path);
            }
            _ => {}
        }
    }
    for (path, id) in names_b.iter().filter(|(path, _)| !names_a.contains_key(*path)) {
        if let Some(same_length) = b.len(*id).and_then(|len| alone_a.get(&len)) {
            wanted_b.insert(*id, path);
            wanted_a.extend(same_length);
        }
    }
    Ok((a.hashes(&wanted_a)?, b.hashes(&wanted_b)?))
}

impl<A: FileContent, B: FileContent> Comparison<'_, A, B> {
    /// Notes how a name that both have differs, if it does.
    fn changed(&self, path: &[u8], id: NodeId, other: NodeId, found: &mut Files) {
        let what = self.aspects(id, other);
        if what.is_empty() {
            found.time_only += u64::from(self.a.tree.node(id).meta.mtime != self.b.tree.node(other).meta.mtime);
            return;
        }
        let (before, after) = (self.before(path, id), self.after(path, other));
        found.changed += 1;
        found.list.push(FileChange {
            change: Change::Changed,
            path: lossy(path),
            from: None,
            what,
            growth: signed(after.size) - signed(before.size),
            before: Some(before),
            after: Some(after),
        });
    }

    /// Takes those files out of both lists that have the same content, and notes them as renamed.
    fn renamed(&self, removed: &mut Vec<(&[u8], NodeId)>, added: &mut Vec<(&[u8], NodeId)>, found: &mut Files) {
        let mut by_hash: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, (_, id)) in removed.iter().enumerate() {
            if let Some(hash) = self.hashes_a.get(id).filter(|_| self.a.len(*id).is_some_and(|len| len > 0)) {
                by_hash.entry(hash).or_default().push(index);
            }
        }
        let mut gone = vec![false; removed.len()];
        added.retain(|(path, id)| {
            let Some(candidates) = self.hashes_b.get(id).and_then(|hash| by_hash.get_mut(hash.as_str())) else {
                return true;
            };
            // Of several, the one that kept its name.
            let same_name = |index: &usize| removed.get(*index).is_some_and(|(old, _)| name(old) == name(path));
            let Some(position) = candidates.iter().position(same_name).or((!candidates.is_empty()).then_some(0)) else {
                return true;
            };
            let index = candidates.remove(position);
            let Some((old, old_id)) = removed.get(index).copied() else { return true };
            gone[index] = true;
            found.renamed += 1;
            found.list.push(FileChange {
                change: Change::Renamed,
                path: lossy(path),
                from: Some(lossy(old)),
                what: self.aspects(old_id, *id),
                growth: 0,
                before: Some(self.before(old, old_id)),
                after: Some(self.after(path, *id)),
            });
            false
        });
        let mut gone = gone.into_iter();
        removed.retain(|_| !gone.next().unwrap_or(false));
    }

    /// In what two nodes differ, times aside.
    fn aspects(&self, id: NodeId, other: NodeId) -> Vec<Aspect> {
        let (a, b) = (self.a.tree.node(id), self.b.tree.node(other));
        let mut what = Vec::new();
        let mut note = |differs: bool, aspect| what.extend(differs.then_some(aspect));
        note(a.kind.type_bits() != b.kind.type_bits(), Aspect::Type);
        note((a.meta.uid, a.meta.gid) != (b.meta.uid, b.meta.gid), Aspect::Owner);
        note(a.meta.mode != b.meta.mode, Aspect::Mode);
        note(a.meta.xattrs != b.meta.xattrs, Aspect::Xattrs);
        match (&a.kind, &b.kind) {
            (Kind::Regular(one), Kind::Regular(two)) => {
                let differs = one.len() != two.len() || self.hashes_a.get(&id) != self.hashes_b.get(&other);
                note(differs, Aspect::Content);
            }
            (Kind::Symlink(one), Kind::Symlink(two)) => note(one != two, Aspect::Target),
            (one, two) if one.type_bits() == two.type_bits() => note(device(one) != device(two), Aspect::Device),
            _ => {}
        }
        what
    }

    fn before(&self, path: &[u8], id: NodeId) -> FileState {
        state(self.a, &self.hashes_a, path, id)
    }

    fn after(&self, path: &[u8], id: NodeId) -> FileState {
        state(self.b, &self.hashes_b, path, id)
    }
}

fn only(change: Change, path: &[u8], growth: i64, before: Option<FileState>, after: Option<FileState>) -> FileChange {
    FileChange { change, path: lossy(path), from: None, what: Vec::new(), growth, before, after }
}

fn state<C: FileContent>(root: &Root<C>, hashes: &HashMap<NodeId, String>, path: &[u8], id: NodeId) -> FileState {
    let node = root.tree.node(id);
    let size = root.len(id);
    FileState {
        kind: node.kind.name(),
        size: size.unwrap_or(0),
        mode: format!("{:04o}", node.meta.mode),
        uid: node.meta.uid,
        gid: node.meta.gid,
        sha256: size.and_then(|_| hashes.get(&id).cloned().or_else(|| root.sbom_sha256(path, id))),
        target: match &node.kind {
            Kind::Symlink(target) => Some(lossy(target)),
            _ => None,
        },
        device: device(&node.kind).map(|(major, minor)| format!("{major}:{minor}")),
        xattrs: readable(&node.meta.xattrs),
        layer: size.and_then(|_| root.layer(path)).map(str::to_owned),
        package: root.owners.package(id).map(str::to_owned),
    }
}

fn device<C>(kind: &Kind<C>) -> Option<(u32, u32)> {
    match kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => Some((*major, *minor)),
        _ => None,
    }
}

fn readable(xattrs: &Xattrs) -> BTreeMap<String, String> {
    xattrs.iter().map(|(name, value)| (lossy(name), hex::encode(value))).collect()
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Lengths of files are below 2^63.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
