//! The nested sizes that the page draws.

use std::collections::BTreeMap;

use serde::Serialize;

/// Up to so many files each is drawn by itself.
const ALL: usize = 4000;
/// Beyond, what is smaller than this part of the whole is put together: a map of two million pixels gives it a hundred.
const PART: u64 = 20_000;
/// Folders are nested so deep; below, the rest of a path is the file's name. Much deeper ones cannot be seen, and each takes room
/// on the stack here and in the browser.
const DEEPEST: usize = 100;

/// A file.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    /// Absolute path.
    pub(super) path: String,
    /// Bytes.
    pub(super) size: u64,
    /// Bytes that it takes in the image, estimated.
    pub(super) stored: u64,
    /// Its layer.
    pub(super) layer: Option<String>,
    /// Its package.
    pub(super) package: Option<String>,
    /// Bytes that it had before, if it was there.
    pub(super) before: Option<u64>,
    /// Its change.
    pub(super) status: Status,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Status {
    /// It is as it was, or there is nothing to compare with.
    #[serde(rename = "s")]
    Same,
    #[serde(rename = "a")]
    Added,
    #[serde(rename = "r")]
    Removed,
    #[serde(rename = "c")]
    Changed,
    #[serde(rename = "m")]
    Renamed,
}

/// What stands above the map.
#[derive(Debug, Serialize)]
pub(super) struct Heading {
    pub(super) title: String,
    pub(super) facts: String,
    /// What it is compared with.
    pub(super) against: Option<String>,
    pub(super) changes: Option<String>,
}

/// What the page's script is given.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    pub(super) heading: Heading,
    /// Names by the numbers in the nodes; the largest first.
    pub(super) layers: Vec<String>,
    pub(super) packages: Vec<String>,
    pub(super) root: Node,
}

/// A folder, a file, or several files that are too small to be drawn one by one. Short names: there are thousands.
#[derive(Debug, Default, Serialize)]
pub(super) struct Node {
    /// Its name; empty for several files.
    #[serde(rename = "n")]
    pub(super) name: String,
    /// Bytes; of folders, the page adds them up.
    #[serde(rename = "s", skip_serializing_if = "is_zero")]
    pub(super) size: u64,
    /// Bytes in the image, estimated.
    #[serde(rename = "c", skip_serializing_if = "is_zero")]
    pub(super) stored: u64,
    /// Bytes before, where that is another number.
    #[serde(rename = "b", skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<u64>,
    /// Number of its layer; -1 for several.
    #[serde(rename = "l", skip_serializing_if = "Option::is_none")]
    pub(super) layer: Option<i64>,
    /// Number of its package; -1 for several.
    #[serde(rename = "p", skip_serializing_if = "Option::is_none")]
    pub(super) package: Option<i64>,
    /// What became of it.
    #[serde(rename = "d", skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<Status>,
    /// How many files it stands for, if that is several.
    #[serde(rename = "f", skip_serializing_if = "Option::is_none")]
    pub(super) files: Option<u64>,
    /// What is in a folder.
    #[serde(rename = "k", skip_serializing_if = "Option::is_none")]
    pub(super) children: Option<Vec<Self>>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A folder while files are put into it.
#[derive(Default)]
struct Folder {
    folders: BTreeMap<String, Folder>,
    files: Vec<(String, Leaf)>,
    size: u64,
}

/// Nests the files.
pub(super) fn page(heading: &Heading, leaves: Vec<Leaf>) -> Page {
    let names = |of: fn(&Leaf) -> Option<&String>| {
        let mut sums: BTreeMap<&String, u64> = BTreeMap::new();
        leaves
            .iter()
            .for_each(|leaf| of(leaf).into_iter().for_each(|name| *sums.entry(name).or_default() += leaf.size));
        let mut names: Vec<_> = sums.into_iter().collect();
        names.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        names.into_iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let (layers, packages) = (names(|leaf| leaf.layer.as_ref()), names(|leaf| leaf.package.as_ref()));
    let number = |names: &[String]| -> BTreeMap<String, i64> { names.iter().cloned().zip(0..).collect() };
    let numbers = Numbers { layers: number(&layers), packages: number(&packages) };
    let total: u64 = leaves.iter().map(|leaf| leaf.size).sum();
    let cut = if leaves.len() <= ALL { 0 } else { total / PART };
    let mut root = Folder::default();
    for leaf in leaves {
        let mut here = &mut root;
        let mut rest = leaf.path.trim_start_matches('/');
        here.size += leaf.size;
        for _ in 0..DEEPEST {
            let Some((folder, below)) = rest.split_once('/') else { break };
            here = here.folders.entry(folder.to_owned()).or_default();
            here.size += leaf.size;
            rest = below;
        }
        here.files.push((rest.to_owned(), leaf));
    }
    let heading = Heading {
        title: heading.title.clone(),
        facts: heading.facts.clone(),
        against: heading.against.clone(),
        changes: heading.changes.clone(),
    };
    Page { heading, layers, packages, root: numbers.folder(String::new(), root, cut) }
}

struct Numbers {
    layers: BTreeMap<String, i64>,
    packages: BTreeMap<String, i64>,
}

impl Numbers {
    fn folder(&self, name: String, folder: Folder, cut: u64) -> Node {
        let mut children = Vec::new();
        let mut small: BTreeMap<Status, Vec<(String, Leaf)>> = BTreeMap::new();
        for (name, inside) in folder.folders {
            if inside.size < cut {
                gather(&name, inside, &mut small);
            } else {
                children.push(self.folder(name, inside, cut));
            }
        }
        for (name, leaf) in folder.files {
            if leaf.size < cut {
                small.entry(leaf.status).or_default().push((name, leaf));
            } else {
                children.push(self.leaf(name, &leaf));
            }
        }
        for leaves in small.into_values() {
            match &leaves[..] {
                [(name, leaf)] => children.push(self.leaf(name.clone(), leaf)),
                several => children.push(self.several(several)),
            }
        }
        Node { name, children: Some(children), ..Node::default() }
    }

    fn leaf(&self, name: String, leaf: &Leaf) -> Node {
        Node {
            name,
            size: leaf.size,
            stored: leaf.stored,
            before: leaf.before.filter(|before| *before != leaf.size),
            layer: leaf.layer.as_ref().and_then(|name| self.layers.get(name)).copied(),
            package: leaf.package.as_ref().and_then(|name| self.packages.get(name)).copied(),
            status: (leaf.status != Status::Same).then_some(leaf.status),
            files: None,
            children: None,
        }
    }

    fn several(&self, leaves: &[(String, Leaf)]) -> Node {
        let each = || leaves.iter().map(|(_, leaf)| self.leaf(String::new(), leaf));
        let common = |of: fn(&Node) -> Option<i64>| {
            each().map(|node| of(&node)).reduce(|one, two| if one == two { one } else { Some(-1) }).flatten()
        };
        Node {
            name: String::new(),
            size: each().map(|node| node.size).sum(),
            stored: each().map(|node| node.stored).sum(),
            before: None,
            layer: common(|node| node.layer),
            package: common(|node| node.package),
            status: each().find_map(|node| node.status),
            files: Some(leaves.len() as u64),
            children: None,
        }
    }
}

/// The files of a folder too small to be drawn, and of those in it.
fn gather(name: &str, folder: Folder, small: &mut BTreeMap<Status, Vec<(String, Leaf)>>) {
    for (inside, folder) in folder.folders {
        gather(&format!("{name}/{inside}"), folder, small);
    }
    for (file, leaf) in folder.files {
        small.entry(leaf.status).or_default().push((format!("{name}/{file}"), leaf));
    }
}
