//! The root tree: layers laid over each other, then made fit to boot.

use std::collections::BTreeSet;

use imgbuild_layers::Watch;
use imgbuild_layers::cache::Cache;
use imgbuild_layers::source::{Sources, merge};
use imgbuild_progress::Progress;
use imgbuild_recipe::{Lock, Recipe};
use imgbuild_tree::{Kind, Metadata, Node, NodeId, Origin, RootTree, TypeChange};

use crate::failure::{Code, Failure, OrFail, Outcome};
use crate::locking;

/// Layers in one image; their numbers are [`Origin`]s.
const MOST_LAYERS: usize = 1000;

/// A merged root.
pub(super) struct Made {
    pub(super) tree: RootTree,
    pub(super) type_changes: Vec<TypeChange>,
    pub(super) layers: Vec<MadeLayer>,
    /// The files of this machine that go into the bundle.
    pub(super) watch: Watch,
}

/// Fails if one of the files that go into the bundle is another one by now: half of the bundle could be of each.
pub(super) fn check_untouched(watch: &Watch) -> Outcome {
    match watch.changed() {
        None => Ok(()),
        Some(path) => {
            let message = format!("{} was changed while the build read it; build again", path.display());
            Err(Failure::message(Code::Input, message))
        }
    }
}

/// What the manifest says about a layer.
pub(super) struct MadeLayer {
    pub(super) source: String,
    pub(super) digest: String,
}

/// Fetches every layer and lays it over those before it.
pub(super) fn assemble(recipe: &Recipe, sources: &Sources<'_>, lock: Option<&Lock>, cache: &Cache) -> Outcome<Made> {
    if recipe.layers.len() > MOST_LAYERS {
        let message = format!("the recipe has {} layers; {MOST_LAYERS} is the most", recipe.layers.len());
        return Err(Failure::message(Code::Usage, message));
    }
    let mut watch = Watch::default();
    recipe.hooks.iter().map(|hook| &hook.script).chain(&recipe.root.ca).for_each(|path| watch.add(path));
    let mut made = Made { tree: RootTree::new(), type_changes: Vec::new(), layers: Vec::new(), watch };
    for (number, layer) in recipe.layers.iter().enumerate() {
        let pinned = match lock {
            Some(lock) => locking::pinned(lock, recipe, layer, cache)?,
            None => None,
        };
        let fetched = sources.fetch(layer, pinned).map_err(input)?;
        let origin = Origin(u16::try_from(number).unwrap_or(Origin::BUILDER.0));
        made.type_changes.extend(merge(&mut made.tree, origin, layer, fetched.files).map_err(input)?);
        made.watch.extend(fetched.watch);
        made.layers.push(MadeLayer { source: fetched.source, digest: fetched.digest });
    }
    Ok(made)
}

/// The exit code of a layer that cannot be had: 3, or 4 where it is not what its hash says.
pub(crate) fn input(error: imgbuild_layers::source::LayerError) -> Failure {
    let code = if error.is_verification() { Code::Verification } else { Code::Input };
    Failure::new(code, error)
}

/// Takes out what the node does not need in its root, and puts in what it needs to boot. The names of the files that went.
pub(super) fn finish(
    recipe: &Recipe,
    tree: &mut RootTree,
    boots: bool,
    progress: &dyn Progress,
) -> Outcome<BTreeSet<Box<[u8]>>> {
    if boots {
        take_out_kernels(tree);
    }
    let owned = |globs: &mut dyn Iterator<Item = &str>| globs.map(str::to_owned).collect::<Vec<_>>();
    let (paths, keep) = (owned(&mut recipe.prune.all_paths()), owned(&mut recipe.prune.all_keep()));
    let pruned = imgbuild_layers::prune(tree, &paths, &keep).or_fail(Code::Usage)?;
    for pattern in &pruned.patterns {
        progress.detail(format!("pruned {}: {} names, {} bytes", pattern.pattern, pattern.names, pattern.bytes));
    }
    for unmatched in &pruned.unmatched {
        let instead = unmatched.instead.as_ref().map(|i| format!("; {i} would match")).unwrap_or_default();
        let message = format!("[prune] {} matches nothing{instead}", unmatched.pattern);
        // Which modules there are is the kernel's matter: a recipe is for several.
        if unmatched.pattern.starts_with("/usr/lib/modules/") {
            progress.detail(message);
        } else {
            progress.warning(message);
        }
    }
    for kernel in imgbuild_initramfs::reindex(tree).or_fail(Code::Failed)? {
        let imgbuild_initramfs::Reindexed { release, gone, left } = kernel;
        progress.detail(format!(
            "kernel {release}: {left} modules are left of {}, and so in modprobe's indexes",
            gone + left
        ));
    }
    if boots {
        for path in ["/dev", "/proc", "/sys", "/run"] {
            directory(tree, path, 0o755)?;
        }
        directory(tree, "/tmp", 0o1777)?;
    }
    for tmpfs in &recipe.tmpfs {
        directory(tree, &tmpfs.path, 0o755)?;
    }
    Ok(pruned.files)
}

/// The kernel is a file of the bundle, and the distribution's initrd is not used: in the root they would only take RAM.
fn take_out_kernels(tree: &mut RootTree) {
    const BOOT: [&[u8]; 3] = [b"vmlinuz", b"initrd", b"System.map"];
    for folder in ["/", "/boot"] {
        let Ok(id) = tree.resolve(folder) else { continue };
        let names: Vec<Box<[u8]>> = match tree.children(id) {
            Some(children) => children.keys().filter(|n| BOOT.iter().any(|b| n.starts_with(b))).cloned().collect(),
            None => continue,
        };
        for name in names {
            let file = tree.children(id).and_then(|c| c.get(&name)).copied();
            if file.is_some_and(|file| !tree.node(file).kind.is_directory()) {
                tree.unlink(id, &name);
            }
        }
    }
}

/// Makes a folder and those above it, where they are missing.
fn directory(tree: &mut RootTree, path: &str, mode: u16) -> Outcome {
    let mut so_far = String::new();
    let mut parent = NodeId::ROOT;
    let parts: Vec<_> = path.split('/').filter(|p| !p.is_empty()).collect();
    for (depth, part) in parts.iter().enumerate() {
        so_far = format!("{so_far}/{part}");
        parent = match tree.resolve(&so_far) {
            Ok(id) if tree.node(id).kind.is_directory() => id,
            Ok(id) => {
                let message =
                    format!("{so_far} is a {}; {path} must be a folder to mount on", tree.node(id).kind.name());
                return Err(Failure::message(Code::Failed, message));
            }
            Err(_) => {
                let mode = if depth + 1 == parts.len() { mode } else { 0o755 };
                let kind = Kind::Directory(std::collections::BTreeMap::new());
                let id = tree.add(Node { meta: Metadata::root_owned(mode), kind });
                tree.link(parent, part.as_bytes(), id);
                id
            }
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::Content;

    use super::*;

    fn put(tree: &mut RootTree, folder: &str, name: &str) {
        directory(tree, folder, 0o755).unwrap();
        let id = tree.add(Node { meta: Metadata::root_owned(0o644), kind: Kind::Regular(Content::from(vec![1])) });
        tree.link(tree.resolve(folder).unwrap(), name.as_bytes(), id);
    }

    #[test]
    fn kernels_leave_their_configuration_behind() {
        let mut tree = RootTree::new();
        for name in ["vmlinuz-6.1.0", "initrd.img-6.1.0", "System.map-6.1.0", "config-6.1.0"] {
            put(&mut tree, "/boot", name);
        }
        put(&mut tree, "/", "vmlinuz.old");
        take_out_kernels(&mut tree);
        let left: Vec<_> = tree.walk().map(|i| String::from_utf8(i.path).unwrap()).collect();
        assert_eq!(left, ["/", "/boot", "/boot/config-6.1.0"]);
    }

    #[test]
    fn a_mount_point_that_is_a_file() {
        let mut tree = RootTree::new();
        put(&mut tree, "/var/lib", "kubelet");
        let error = directory(&mut tree, "/var/lib/kubelet", 0o755).unwrap_err().to_string();
        assert!(error.contains("/var/lib/kubelet is a regular file"), "{error}");
    }

    #[test]
    fn folders_are_made_through_links() {
        let mut tree = RootTree::new();
        directory(&mut tree, "/usr/lib", 0o755).unwrap();
        let link = tree.add(Node { meta: Metadata::root_owned(0o777), kind: Kind::Symlink((*b"usr/lib").into()) });
        tree.link(NodeId::ROOT, b"lib", link);
        directory(&mut tree, "/lib/x/y", 0o1777).unwrap();
        let id = tree.resolve("/usr/lib/x/y").unwrap();
        assert_eq!(tree.node(id).meta.mode, 0o1777);
    }
}
