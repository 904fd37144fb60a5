//! Sizes, and what layers, folders and packages contribute to the difference.

use std::collections::BTreeMap;

use imgbuild_tree::FileContent;
use schemars::JsonSchema;
use serde::Serialize;

use super::files::signed;
use super::{Pair, Root, Side};
use crate::inspect::top_folder;

/// How large the parts are, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Sizes {
    /// The squashfs image.
    pub root_compressed: Pair<u64>,
    /// The root's regular files, hard links counted once.
    pub root_unpacked: Pair<u64>,
    /// How many regular files that is.
    pub root_files: Pair<u64>,
    /// The initrd; null where there is none, and where a bundle is compared with an image.
    pub initrd: Pair<Option<u64>>,
    /// The initrd's files; null where there is none.
    pub initrd_unpacked: Pair<Option<u64>>,
    /// The kernel; null where there is none.
    pub kernel: Pair<Option<u64>>,
}

impl Sizes {
    pub(super) fn of(before: &Side, after: &Side) -> Self {
        let pair = |of: &dyn Fn(&Side) -> u64| Pair { before: of(before), after: of(after) };
        let bundles = before.manifest().is_some() && after.manifest().is_some();
        let optional = |of: &dyn Fn(&Side) -> Option<u64>| {
            if bundles { Pair { before: of(before), after: of(after) } } else { Pair::default() }
        };
        let file = |side: &Side, name: &str| Some(side.manifest()?.files.get(name)?.size);
        Self {
            root_compressed: pair(&|side| side.root_size),
            root_unpacked: pair(&|side| side.root.files().iter().map(|(_, _, len)| len).sum()),
            root_files: pair(&|side| side.root.files().len() as u64),
            initrd: optional(&|side| file(side, crate::INITRD)),
            initrd_unpacked: optional(&|side| {
                side.initrd.as_ref().map(|initrd| initrd.root.files().iter().map(|(_, _, len)| len).sum())
            }),
            kernel: optional(&|side| file(side, crate::KERNEL)),
        }
    }
}

/// What layers, folders and packages contribute to the difference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Contributions {
    /// By layer, where both are bundles; a null name stands for files that are in no layer.
    pub layers: Vec<Contribution>,
    /// By folder: two levels below `/usr` and `/var`, one elsewhere.
    pub folders: Vec<Contribution>,
    /// By package; a null name stands for files that are in no package.
    pub packages: Vec<Contribution>,
}

/// What one of them has, in uncompressed bytes of regular files, hard links counted once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Contribution {
    /// Which; null for what belongs to none.
    pub name: Option<String>,
    /// Bytes in the first root.
    pub before: u64,
    /// Bytes in the second root.
    pub after: u64,
    /// The difference.
    pub growth: i64,
    /// Files in the first root.
    pub files_before: u64,
    /// Files in the second root.
    pub files_after: u64,
}

type Sums = BTreeMap<Option<String>, [(u64, u64); 2]>;

impl Contributions {
    /// By layer only where both say what their layers are.
    pub(super) fn of<A: FileContent, B: FileContent>(a: &Root<A>, b: &Root<B>) -> Self {
        let mut sums = [Sums::new(), Sums::new(), Sums::new()];
        add(a, 0, &mut sums);
        add(b, 1, &mut sums);
        let [mut layers, folders, packages] = sums.map(largest_first);
        if !(a.knows_layers() && b.knows_layers()) {
            layers.clear();
        }
        Self { layers, folders, packages }
    }
}

fn add<C: FileContent>(root: &Root<C>, side: usize, [layers, folders, packages]: &mut [Sums; 3]) {
    for (path, id, len) in root.files() {
        let keys = [
            (&mut *layers, root.layer(&path).map(str::to_owned)),
            (&mut *folders, Some(top_folder(&String::from_utf8_lossy(&path)))),
            (&mut *packages, root.owners.package(id).map(str::to_owned)),
        ];
        for (sums, key) in keys {
            if let Some(sum) = sums.entry(key).or_default().get_mut(side) {
                sum.0 += len;
                sum.1 += 1;
            }
        }
    }
}

fn largest_first(sums: Sums) -> Vec<Contribution> {
    let mut all: Vec<_> = sums
        .into_iter()
        .filter(|(_, [before, after])| before != after)
        .map(|(name, [(before, files_before), (after, files_after)])| Contribution {
            name,
            before,
            after,
            growth: signed(after) - signed(before),
            files_before,
            files_after,
        })
        .collect();
    all.sort_by(|a, b| (b.growth.unsigned_abs(), &a.name).cmp(&(a.growth.unsigned_abs(), &b.name)));
    all
}
