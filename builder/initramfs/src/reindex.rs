//! Indexes of a modules directory that say what is in it.
//!
//! `depmod` wrote them for every module of the kernel's package. When some of these are taken out of the root, `modprobe`
//! would still find their names, and fail on their files, and udev would try anew for every device. Here the lines of what
//! is gone are taken out, and the binary forms, which `libkmod` reads, are made of what is left, as depmod makes them.

mod trie;

use std::collections::{BTreeSet, HashMap};

use imgbuild_tree::{Content, Kind, NodeId, Origin, RootTree};

use self::trie::Trie;
use crate::error::Result;
use crate::index::{INDEX_LIMIT, module_name};
use crate::kernel::{MODULE_ROOTS, read, regular};
use crate::modinfo::normalise_alias;

/// A modules directory whose indexes were mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reindexed {
    /// The kernel's release.
    pub release: String,
    /// How many modules are gone.
    pub gone: usize,
    /// How many are left.
    pub left: usize,
}

/// Takes what is gone out of the indexes of every modules directory of the root. A directory without `modules.dep`, or
/// one whose modules are all there, stays as it is.
///
/// # Errors
/// When an index cannot be read.
pub fn reindex(tree: &mut RootTree) -> Result<Vec<Reindexed>> {
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for root in MODULE_ROOTS {
        // In a merged /usr both are one.
        let Ok(id) = tree.resolve(root) else { continue };
        if !seen.insert(id) {
            continue;
        }
        let releases: Vec<String> = tree
            .children(id)
            .into_iter()
            .flatten()
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
            .collect();
        for release in releases {
            let directory = format!("{root}/{release}");
            if let Some((gone, left)) = mend(tree, &directory)? {
                all.push(Reindexed { release, gone, left });
            }
        }
    }
    Ok(all)
}

/// One modules directory: how many modules are gone and left, if any are gone.
fn mend(tree: &mut RootTree, directory: &str) -> Result<Option<(usize, usize)>> {
    let Some(dep) = text(tree, directory, "modules.dep")? else { return Ok(None) };
    let there = |path: &str| tree.resolve(format!("{directory}/{path}")).is_ok();
    let path = |line: &str| line.split(':').next().unwrap_or_default().trim().to_owned();
    let (kept, lost): (Vec<&str>, Vec<&str>) =
        dep.lines().partition(|line| path(line).is_empty() || there(&path(line)));
    let names: Vec<String> = kept.iter().map(|line| module_name(&path(line))).collect();
    let mut gone: BTreeSet<String> = lost.iter().map(|line| module_name(&path(line))).collect();
    for name in &names {
        gone.remove(name);
    }
    if lost.is_empty() {
        return Ok(None);
    }
    // depmod ranks what several modules have by the modules' order, which is that of the lines.
    let mut ranks = HashMap::new();
    for (rank, name) in (0_u32..).zip(&names) {
        ranks.entry(name.clone()).or_insert(rank);
    }
    let rank = |name: &str| ranks.get(name).copied().unwrap_or(u32::MAX);

    let order = text(tree, directory, "modules.order")?;
    let order = order.map(|text| lines(text.lines().filter(|line| there(line.trim()))));
    let mut dep_trie = Trie::default();
    for (line, name) in kept.iter().zip(&names) {
        dep_trie.insert(name, line, rank(name));
    }
    put(tree, directory, "modules.dep", lines(kept.iter().copied()));
    put(tree, directory, "modules.dep.bin", dep_trie.to_bytes());
    if let Some(order) = order {
        put(tree, directory, "modules.order", order);
    }
    for index in ["modules.alias", "modules.symbols", "modules.softdep", "modules.devname"] {
        let Some(text) = text(tree, directory, index)? else { continue };
        let kept: Vec<&str> =
            text.lines().filter(|line| !module_of(index, line).is_some_and(|m| gone.contains(&m))).collect();
        put(tree, directory, index, lines(kept.iter().copied()));
        if matches!(index, "modules.alias" | "modules.symbols") {
            let mut trie = Trie::default();
            for line in &kept {
                if let ["alias", alias, module] = *line.split_whitespace().collect::<Vec<_>>() {
                    // The text has aliases as modules spell them, the binary form as modprobe looks them up.
                    trie.insert(&normalise_alias(alias), module, rank(&module_name(module)));
                }
            }
            put(tree, directory, &format!("{index}.bin"), trie.to_bytes());
        }
    }
    Ok(Some((lost.len(), names.len())))
}

/// The module that a line of an index is about.
fn module_of(index: &str, line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    match index {
        // `alias PATTERN MODULE`
        "modules.alias" | "modules.symbols" => (words.next()? == "alias").then(|| words.nth(1)).flatten(),
        // `softdep MODULE pre: …`
        "modules.softdep" => (words.next()? == "softdep").then(|| words.next()).flatten(),
        // `MODULE dev c10:200`
        _ => words.next(),
    }
    .map(module_name)
}

fn lines<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut out = String::new();
    for line in lines {
        out.push_str(line);
        out.push('\n');
    }
    out.into_bytes()
}

fn text(tree: &RootTree, directory: &str, name: &str) -> Result<Option<String>> {
    let path = format!("{directory}/{name}");
    let Some(content) = regular(tree, &path) else { return Ok(None) };
    Ok(Some(String::from_utf8_lossy(&read(&path, &content, INDEX_LIMIT)?).into_owned()))
}

/// Gives a file that is there another content. One that was taken out, or is no file, stays out.
fn put(tree: &mut RootTree, directory: &str, name: &str, bytes: Vec<u8>) {
    let Ok(id) = tree.resolve(format!("{directory}/{name}")) else { return };
    if id != NodeId::ROOT && matches!(tree.node(id).kind, Kind::Regular(_)) {
        let node = tree.node_mut(id);
        node.kind = Kind::Regular(Content::from(bytes));
        node.meta.origin = Origin::BUILDER;
    }
}

#[cfg(test)]
mod tests;
