use super::*;
use crate::testing::{Root, module};

#[test]
fn compressed_modules_are_decompressed() {
    let plain = module(&[("alias", "pci:v*")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    io_write(&mut gzip, &plain);
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
    io_write(&mut xz, &plain);
    let mut root = Root::new();
    root.put_modules("kernel/a.ko", &plain);
    root.put_modules("kernel/b.ko.gz", &gzip.finish().unwrap());
    root.put_modules("kernel/c-d.ko.xz", &xz.finish().unwrap());
    root.put_modules("kernel/e.ko.zst", &zstd::encode_all(&plain[..], 19).unwrap());
    let index = root.index();
    let paths: Vec<_> = index.modules().collect();
    assert_eq!(paths, [("a", "kernel/a.ko"), ("b", "kernel/b.ko"), ("c_d", "kernel/c-d.ko"), ("e", "kernel/e.ko")]);
    for (name, file) in &index.files {
        let (content, info) = file.load().unwrap();
        assert_eq!(kernel::read("", &content, LIMIT).unwrap(), plain, "{name}");
        assert_eq!(info.aliases, ["pci:v*"]);
    }
}

fn io_write(out: &mut impl std::io::Write, bytes: &[u8]) {
    out.write_all(bytes).unwrap();
}

#[test]
fn of_two_files_modules_dep_says_which() {
    let root = || {
        let mut root = Root::new();
        root.put_module("kernel/igb.ko", &[("alias", "kernel")]);
        root.put_module("updates/dkms/igb.ko", &[("alias", "updates")]);
        root.put_module("extra/igb.ko", &[("alias", "extra")]);
        root
    };
    assert_eq!(root().index().files["igb"].path, "updates/dkms/igb.ko");
    let mut with_dep = root();
    with_dep.put_modules("modules.dep", b"extra/igb.ko:\nkernel/other.ko: extra/igb.ko\n");
    assert_eq!(with_dep.index().files["igb"].path, "extra/igb.ko");
}

#[test]
fn links_to_modules_count_and_links_to_folders_do_not() {
    let mut root = Root::new();
    root.put("/lib/modules/6.0/extra/kmod.ko", &module(&[]));
    root.put("/usr/src/linux/drivers/other.ko", &module(&[]));
    root.symlink("/lib/modules/6.1.0-7-test/weak-updates/kmod.ko", "/lib/modules/6.0/extra/kmod.ko");
    root.symlink("/lib/modules/6.1.0-7-test/weak-updates/gone.ko", "/nowhere.ko");
    root.symlink("/lib/modules/6.1.0-7-test/build", "/usr/src/linux");
    let tree = root.tree();
    let kernel = Kernel::find(&tree, None).unwrap();
    let index = ModuleIndex::load(&tree, &kernel).unwrap();
    assert_eq!(index.modules().collect::<Vec<_>>(), [("kmod", "weak-updates/kmod.ko")]);
    assert!(index.files["kmod"].load().is_ok());
}

#[test]
fn aliases_of_files_built_ins_and_the_index() {
    let root = || {
        let mut root = Root::new();
        root.put_module("kernel/one.ko", &[("alias", "platform:some-name"), ("alias", "pci:v*")]);
        root.put_modules("modules.builtin", b"kernel/crypto/sha256_generic.ko\n");
        root.put_modules("modules.builtin.modinfo", b"sha256_generic.alias=sha256\0sha256_generic.license=GPL\0");
        root
    };
    let index = root().index();
    assert_eq!(index.lookup("platform:some-name").unwrap(), ["one"]);
    assert_eq!(index.lookup("one").unwrap(), ["one"]);
    for nothing in ["sha256", "sha256-generic", "pci:v*", "unheard"] {
        assert_eq!(index.lookup(nothing).unwrap(), [""; 0], "{nothing}");
    }
    let mut with_file = root();
    with_file.put_modules("modules.alias", b"# comment\nalias md5 first\nalias md5 second-half\nalias broken\n");
    let index = with_file.index();
    assert_eq!(index.lookup("md5").unwrap(), ["first", "second_half"]);
    assert_eq!(index.lookup("platform:some-name").unwrap(), [""; 0], "the index is believed where there is one");
}

#[test]
fn near_names() {
    let all = ["virtio_net", "virtio_blk", "mlx5_core", "mlx4_core", "e1000", "e1000e", "megaraid_sas"];
    for (name, expected) in [
        ("virtio_nte", &["virtio_net"][..]),
        ("mlx_core", &["mlx4_core", "mlx5_core"]),
        ("e100", &["e1000"]),
        ("megaraid", &["megaraid_sas"]),
        ("nothing_like_it", &[]),
        ("x", &[]),
    ] {
        assert_eq!(nearest(name, all.iter().copied()), expected, "{name}");
    }
}
