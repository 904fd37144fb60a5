use std::path::Path;
use std::process::Command;

use imgbuild_tree::FileContent;

use super::*;
use crate::testing::{RELEASE, Root};

/// Modules a_one, b and c, and indexes that name two more.
fn root() -> Root {
    let mut root = Root::new();
    for module in ["kernel/net/a-one.ko", "kernel/net/b.ko", "extra/c.ko"] {
        root.put_modules(module, b"a module");
    }
    root.put_modules(
        "modules.dep",
        b"kernel/net/gone.ko:\nkernel/net/a-one.ko: kernel/net/b.ko\nkernel/net/b.ko:\nextra/c.ko: kernel/net/b.ko\nlost.ko:\n",
    );
    root.put_modules(
        "modules.alias",
        b"# Aliases\nalias pci:v00008086d* gone\nalias pci:v00008086d* c\nalias pci:v00008086d* a_one\nalias net-pf-1 b\nalias net-pf-10 lost\n",
    );
    root.put_modules("modules.symbols", b"alias symbol:x b\nalias symbol:xy gone\nalias symbol:xyz c\n");
    root.put_modules("modules.softdep", b"softdep gone pre: b\nsoftdep c post: a_one\n");
    root.put_modules("modules.devname", b"# Nodes\ngone g c10:1\nb net/b c10:2\n");
    root.put_modules("modules.order", b"kernel/net/gone.ko\nkernel/net/b.ko\n");
    for index in ["dep", "alias", "symbols"] {
        root.put_modules(&format!("modules.{index}.bin"), b"old");
    }
    root
}

fn content(tree: &RootTree, name: &str) -> Vec<u8> {
    let path = format!("/lib/modules/{RELEASE}/{name}");
    read(&path, &regular(tree, &path).unwrap(), u64::MAX).unwrap()
}

#[test]
fn what_is_gone_is_in_no_index() {
    let mut tree = root().tree();
    let all = reindex(&mut tree).unwrap();
    assert_eq!(all, [Reindexed { release: RELEASE.into(), gone: 2, left: 3 }]);
    let text = |name| String::from_utf8(content(&tree, name)).unwrap();
    assert_eq!(text("modules.dep").lines().count(), 3);
    assert_eq!(
        text("modules.alias"),
        "# Aliases\nalias pci:v00008086d* c\nalias pci:v00008086d* a_one\nalias net-pf-1 b\n"
    );
    assert_eq!(text("modules.symbols"), "alias symbol:x b\nalias symbol:xyz c\n");
    assert_eq!(text("modules.softdep"), "softdep c post: a_one\n");
    assert_eq!(text("modules.devname"), "# Nodes\nb net/b c10:2\n");
    assert_eq!(text("modules.order"), "kernel/net/b.ko\n");
    // A second time there is nothing to do.
    assert!(reindex(&mut tree).unwrap().is_empty());
}

#[test]
fn where_nothing_is_gone_depmods_own_files_stay() {
    let mut root = root();
    root.put_modules("kernel/net/gone.ko", b"a module");
    root.put_modules("lost.ko", b"a module");
    let mut tree = root.tree();
    assert!(reindex(&mut tree).unwrap().is_empty());
    assert_eq!(content(&tree, "modules.dep.bin"), b"old");
}

#[test]
fn an_index_that_was_taken_out_stays_out() {
    let mut tree = root().tree();
    let directory = tree.resolve(format!("/lib/modules/{RELEASE}")).unwrap();
    tree.unlink(directory, b"modules.symbols.bin");
    reindex(&mut tree).unwrap();
    assert!(tree.resolve(format!("/lib/modules/{RELEASE}/modules.symbols.bin")).is_err());
}

/// What kmod's own `modprobe` says to these arguments in a folder with the modules directory.
fn modprobe(folder: &Path, args: &[&str]) -> (bool, String, String) {
    let output = Command::new("/sbin/modprobe")
        .args(["-d", folder.to_str().unwrap(), "-S", RELEASE])
        .args(args)
        .output()
        .expect("modprobe runs: install kmod");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(folder.to_str().unwrap(), "");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn modprobe_reads_the_binary_indexes() {
    let mut tree = root().tree();
    reindex(&mut tree).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let modules = folder.path().join("lib/modules").join(RELEASE);
    for item in tree.walk() {
        let Kind::Regular(content) = &tree.node(item.id).kind else { continue };
        let path = folder.path().join(String::from_utf8(item.path).unwrap().trim_start_matches('/'));
        let mut bytes = vec![0; usize::try_from(content.len()).unwrap()];
        content.read_exact_at(&mut bytes, 0).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    // So that what it says is from the binary forms.
    for text in ["dep", "alias", "symbols"] {
        std::fs::remove_file(modules.join(format!("modules.{text}"))).unwrap();
    }
    for empty in ["builtin", "builtin.alias"] {
        std::fs::write(modules.join(format!("modules.{empty}.bin")), Trie::default().to_bytes()).unwrap();
    }
    let shown = |args: &[&str]| modprobe(folder.path(), &[&["--show-depends"], args].concat());
    let at = |path: &str| format!("insmod /lib/modules/{RELEASE}/{path} \n");
    assert_eq!(shown(&["a-one"]).1, at("kernel/net/b.ko") + &at("kernel/net/a-one.ko"));
    let aliased = shown(&["pci:v00008086d00001234"]).1;
    assert!(aliased.contains(&at("extra/c.ko")) && aliased.contains(&at("kernel/net/a-one.ko")), "{aliased}");
    assert!(!aliased.contains("gone"), "{aliased}");
    assert_eq!(shown(&["net-pf-1"]).1, at("kernel/net/b.ko"));
    let symbol = shown(&["symbol:xyz"]).1;
    assert!(symbol.starts_with(&(at("kernel/net/b.ko") + &at("extra/c.ko"))), "{symbol}");
    for gone in ["gone", "lost", "net-pf-10", "symbol:xy"] {
        let (success, _, stderr) = shown(&[gone]);
        assert!(!success && stderr.contains("not found"), "{gone}: {stderr}");
    }
}
