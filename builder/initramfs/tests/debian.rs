//! Debian's real kernel packages, as `apt-get download` brings them: a whole modules directory, `depmod` and `cpio` as
//! the judges. The packages stay in the target folder.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use imgbuild_initramfs::{Compression, Initrd, Kernel, ModuleClosure, ModuleIndex, reindex, sets};
use imgbuild_progress::Silent;
use imgbuild_tree::{Content, Kind, Metadata, Node, NodeId, RootTree};

/// Runs a program that must succeed, and returns what it prints.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The unpacked package that `meta` depends on, fetched once.
fn package(meta: &str) -> PathBuf {
    let depends = run(Command::new("apt-cache").args(["depends", "--important", meta]));
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).expect("a kernel package").trim();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    fs::create_dir_all(&cache).expect("cache");
    let lock = fs::File::create(cache.join(format!("{name}.lock"))).expect("lock");
    lock.lock().expect("lock");
    let place = cache.join(name);
    if !place.exists() {
        let partial = tempfile::tempdir_in(&cache).expect("folder");
        run(Command::new("apt-get").args(["download", "-q", name]).current_dir(partial.path()));
        let file = fs::read_dir(partial.path()).expect("folder").next().expect("a package").expect("entry").path();
        let root = partial.path().join("root");
        run(Command::new("dpkg-deb").arg("-x").arg(file).arg(&root));
        fs::rename(root, &place).expect("rename");
    }
    place
}

/// A tree of a folder's files, which stay where they are.
fn tree(folder: &Path) -> RootTree {
    fn fill(tree: &mut RootTree, directory: NodeId, folder: &Path) {
        for entry in fs::read_dir(folder).expect("folder") {
            let entry = entry.expect("entry");
            let (path, name) = (entry.path(), entry.file_name());
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            let kind = if metadata.is_dir() {
                Kind::Directory(BTreeMap::new())
            } else if metadata.is_symlink() {
                Kind::Symlink(fs::read_link(&path).expect("link").as_os_str().as_encoded_bytes().into())
            } else {
                Kind::Regular(Content::Path { path: Arc::from(path.as_path()), len: metadata.len() })
            };
            let id = tree.add(Node { meta: Metadata::root_owned(0o755), kind });
            tree.link(directory, name.as_encoded_bytes(), id);
            if metadata.is_dir() {
                fill(tree, id, &path);
            }
        }
    }
    let mut tree = RootTree::new();
    fill(&mut tree, NodeId::ROOT, folder);
    tree
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// `depmod` over a copy (of links) of the kernel's modules, and a tree of it.
fn depmod(place: &Path, release: &str) -> (tempfile::TempDir, PathBuf) {
    let copy = tempfile::tempdir_in(place.parent().expect("cache")).expect("folder");
    let root = copy.path().join("root");
    run(Command::new("cp").arg("-al").arg(place).arg(&root));
    run(Command::new("depmod").arg("-b").arg(&root).arg(release));
    let modules = root.join("lib/modules").join(release);
    (copy, modules)
}

/// Lines of an index file that say something.
fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// `PATH: PATHS` as a map. The order of the paths is checked to be one in which they can be loaded.
fn dependencies(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let split = |line| -> Option<(&str, Vec<&str>)> {
        let (path, needs): (&str, &str) = str::split_once(line, ':')?;
        Some((path, needs.split_whitespace().collect()))
    };
    let all: BTreeMap<&str, Vec<&str>> = text.lines().filter_map(split).collect();
    for (path, needs) in &all {
        for (at, needed) in needs.iter().enumerate() {
            let before = &all[needed];
            assert!(before.iter().all(|farther| needs[at..].contains(farther)), "{path}: {needed} comes too early");
        }
    }
    all.into_iter().map(|(path, needs)| (path, needs.into_iter().collect())).collect()
}

#[test]
fn every_module_of_a_kernel_as_depmod_sees_it() {
    let place = package("linux-image-cloud-amd64");
    let tree = tree(&place);
    let kernel = Kernel::find(&tree, Some("6.*-cloud-amd64")).expect("kernel");
    let index = ModuleIndex::load(&tree, &kernel).expect("index");
    // The package has no modules.dep and no modules.alias: all of this comes from the modules themselves.
    let all = ModuleClosure::resolve(&index, &words(&["kernel/**"])).expect("closure");
    let (_copy, judged) = depmod(&place, &kernel.release);
    let expected = |name: &str| fs::read_to_string(judged.join(name)).expect("an index");
    assert!(all.modules.len() > 1000, "{}", all.modules.len());
    let (ours, theirs) = (all.modules_dep(), expected("modules.dep"));
    assert_eq!(dependencies(&ours), dependencies(&theirs));
    assert_eq!(lines(&all.modules_alias()), lines(&expected("modules.alias")));
    // A list of all soft dependencies, aliases looked up; depmod copies them as they are.
    let softdep = all.modules_softdep(&index).expect("softdep");
    assert!(lines(&softdep).contains("softdep btrfs pre: blake2b_generic xxhash_generic"), "{softdep}");
}

#[test]
fn an_index_by_depmod_changes_nothing() {
    let place = package("linux-image-cloud-amd64");
    let bare = tree(&place);
    let kernel = Kernel::find(&bare, None).expect("kernel");
    let (copy, _) = depmod(&place, &kernel.release);
    let indexed = tree(&copy.path().join("root"));
    let resolve = |tree: &RootTree| {
        let index = ModuleIndex::load(tree, &kernel).expect("index");
        let closure = ModuleClosure::resolve(&index, &words(&["net/cloud", "xfs", "btrfs"])).expect("closure");
        (closure.modules_dep(), closure.modules_softdep(&index).expect("softdep"), closure.modules_alias())
    };
    assert_eq!(resolve(&bare), resolve(&indexed));
}

#[test]
fn indexes_without_pruned_modules_are_those_that_depmod_would_write() {
    let place = package("linux-image-cloud-amd64");
    let release = Kernel::find(&tree(&place), None).expect("kernel").release;
    let (copy, judged) = depmod(&place, &release);
    let mut pruned = tree(&copy.path().join("root"));
    let kernel = format!("/lib/modules/{release}/kernel");
    // Nothing that stays needs one of these.
    for (parent, name) in [("fs", "btrfs"), ("fs", "nfsd"), ("fs", "xfs"), ("net", "sctp"), ("net", "tipc")] {
        let folder = pruned.resolve(format!("{kernel}/{parent}")).expect("folder");
        pruned.unlink(folder, name.as_bytes()).expect("a folder to prune");
        fs::remove_dir_all(judged.join("kernel").join(parent).join(name)).expect("the same");
    }
    let all = reindex(&mut pruned).expect("reindex");
    assert!(all.len() == 1 && all[0].gone >= 5, "{all:?}");
    run(Command::new("depmod").arg("-b").arg(copy.path().join("root")).arg(&release));
    let ours = |name: &str| {
        let id = pruned.resolve(format!("/lib/modules/{release}/{name}")).expect("an index");
        match &pruned.node(id).kind {
            Kind::Regular(Content::Bytes(bytes)) => bytes.to_vec(),
            other => panic!("{name} was not written: {other:?}"),
        }
    };
    let text = |name: &str| String::from_utf8(ours(name)).expect("text");
    // depmod puts the dependencies of a module into another order, in which they can be loaded as well.
    assert_eq!(
        dependencies(&text("modules.dep")),
        dependencies(&fs::read_to_string(judged.join("modules.dep")).expect("an index"))
    );
    for name in ["alias", "alias.bin", "symbols", "symbols.bin", "softdep", "devname"] {
        let name = format!("modules.{name}");
        assert!(ours(&name) == fs::read(judged.join(&name)).expect("an index"), "{name} is another");
    }
}

/// A member that no kernel has would be a typing error.
#[test]
fn members_of_named_sets_exist() {
    let tree = tree(&package("linux-image-amd64"));
    let kernel = Kernel::find(&tree, None).expect("kernel");
    let index = ModuleIndex::load(&tree, &kernel).expect("index");
    let sets: Vec<String> = sets::SETS.iter().map(|set| set.name.to_owned()).collect();
    let closure = ModuleClosure::resolve(&index, &sets).expect("closure");
    let absent: BTreeSet<&str> = closure.absent.iter().map(|absent| absent.member).collect();
    // Not on amd64, or not in Debian 12.
    assert_eq!(absent, BTreeSet::from(ABSENT));
}

const ABSENT: [&str; 1] = ["ionic"];

#[test]
fn an_initrd_for_servers_from_the_full_kernel() {
    let tree = tree(&package("linux-image-amd64"));
    let kernel = Kernel::find(&tree, Some("6.1.*")).expect("kernel");
    let index = ModuleIndex::load(&tree, &kernel).expect("index");
    let request = words(&["net/virtio", "net/common-server", "storage/nvme"]);
    let modules = ModuleClosure::resolve(&index, &request).expect("closure");
    assert_eq!(modules.unbootable, Vec::<String>::new());
    let initrd = Initrd {
        tree: &tree,
        kernel: &kernel,
        index: &index,
        modules: &modules,
        init: b"a stand-in",
        config: b"{}",
        hooks: &[("pre-init/network.sh".to_owned(), b"#!/bin/sh\n".as_slice().into())],
        files: &[],
        mtime: 1_700_000_000,
        firmware: true,
        compression: Compression::default(),
        microcode: true,
        store: None,
    };
    let mut bytes = Vec::new();
    let built = initrd.build(&mut bytes, &Silent).expect("initrd");
    assert_eq!((built.size, bytes.len() % 512), (bytes.len() as u64, 0));
    assert!(built.size < 11_000_000, "{} bytes; and 1 MB for netboot-init: the budget is 12 MB", built.size);
    assert!(built.unpacked_size < 64 << 20, "{} bytes unpacked", built.unpacked_size);
    for module in
        ["overlay", "squashfs", "loop", "virtio_net", "mlx5_core", "ice", "bnxt_en", "tg3", "r8169", "realtek"]
    {
        assert!(built.modules.iter().any(|name| name == module), "{module} is not in {:?}", built.modules);
    }
    let mut again = Vec::new();
    initrd.build(&mut again, &Silent).expect("again");
    assert!(again == bytes, "it differs from the one before");
}
