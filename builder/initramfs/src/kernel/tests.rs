use imgbuild_tree::RootTree;

use super::*;
use crate::Layout;

/// A root with these kernels; each image is empty of meaning.
fn root(files: &[&str], directories: &[&str]) -> RootTree {
    let mut layout = Layout::new(0);
    for path in files {
        layout.file(path, 0o644, b"image".as_slice().into()).unwrap();
    }
    for path in directories {
        layout.directory(path, 0o755).unwrap();
    }
    layout.into_tree()
}

/// The head of an x86 image that says this release.
fn x86(release: &str) -> Vec<u8> {
    let mut image = vec![0; 0x600];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
    let text = format!("{release} (builder@host) #1 SMP");
    image[0x500..0x500 + text.len()].copy_from_slice(text.as_bytes());
    image
}

#[test]
fn debians_layout() {
    let tree = root(
        &["/boot/vmlinuz-6.1.0-9-amd64", "/boot/initrd.img-6.1.0-9-amd64", "/boot/System.map-6.1.0-9-amd64"],
        &["/usr/lib/modules/6.1.0-9-amd64/kernel"],
    );
    let kernel = Kernel::find(&tree, Some("6.1.*")).unwrap();
    assert_eq!((kernel.release.as_str(), kernel.path.as_str()), ("6.1.0-9-amd64", "/boot/vmlinuz-6.1.0-9-amd64"));
    assert_eq!(kernel.modules, "/usr/lib/modules/6.1.0-9-amd64");
    assert_eq!(kernel.config, None);
}

#[test]
fn a_merged_usr_and_an_image_beside_the_modules() {
    let mut layout = Layout::new(0);
    layout.symlink("/lib", "usr/lib").unwrap();
    layout.file("/usr/lib/modules/6.9.1-2.fc40.x86_64/vmlinuz", 0o644, b"image".as_slice().into()).unwrap();
    layout.file("/usr/lib/modules/6.9.1-2.fc40.x86_64/config", 0o644, b"CONFIG_RD_ZSTD=y\n".as_slice().into()).unwrap();
    let kernel = Kernel::find(&layout.into_tree(), None).unwrap();
    assert_eq!(kernel.release, "6.9.1-2.fc40.x86_64");
    assert_eq!(kernel.modules, "/lib/modules/6.9.1-2.fc40.x86_64");
    assert_eq!(kernel.config.unwrap().get("RD_ZSTD"), Setting::Builtin);
}

#[test]
fn an_image_in_both_places_is_one_kernel() {
    let tree = root(&["/boot/vmlinuz-6.9.1", "/usr/lib/modules/6.9.1/vmlinuz"], &[]);
    assert_eq!(Kernel::find(&tree, None).unwrap().path, "/boot/vmlinuz-6.9.1");
}

#[test]
fn no_kernel_lists_what_is_there() {
    let error = Kernel::find(&root(&[], &["/boot"]), None).unwrap_err();
    assert!(error.to_string().starts_with("no kernel: the root has none; install one"), "{error}");
    let tree = root(&["/boot/vmlinuz-5.10.0-1-amd64", "/boot/vmlinuz-6.6.1"], &[]);
    let error = Kernel::find(&tree, Some("6.1.*")).unwrap_err();
    assert!(
        error.to_string().starts_with("no kernel matches version \"6.1.*\": the root has 5.10.0-1-amd64, 6.6.1;"),
        "{error}"
    );
}

#[test]
fn several_kernels_are_never_chosen_from() {
    let tree = root(&["/boot/vmlinuz-6.1.0-9-amd64", "/boot/vmlinuz-6.1.0-10-amd64"], &[]);
    for glob in [None, Some("6.1.*"), Some("6.1.0-?*-amd64")] {
        let error = Kernel::find(&tree, glob).unwrap_err();
        assert!(error.to_string().contains("6.1.0-10-amd64, 6.1.0-9-amd64; name one of them"), "{error}");
    }
    assert!(matches!(Kernel::find(&tree, Some("6.1.0-9-*")), Err(Error::NoModules { .. })));
}

#[test]
fn a_kernel_without_modules_says_where_they_should_be() {
    let error = Kernel::find(&root(&["/boot/vmlinuz-6.1.0"], &["/lib/modules/6.1.1"]), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel 6.1.0 has no modules: the root has no directory /lib/modules/6.1.0 or /usr/lib/modules/6.1.0"
    );
}

#[test]
fn an_image_of_another_release_is_refused() {
    let find = |image: Vec<u8>| {
        let mut layout = Layout::new(0);
        layout.file("/boot/vmlinuz-6.1.0-9-amd64", 0o644, image.into()).unwrap();
        layout.directory("/lib/modules/6.1.0-9-amd64", 0o755).unwrap();
        Kernel::find(&layout.into_tree(), None)
    };
    assert!(find(x86("6.1.0-9-amd64")).is_ok());
    let error = find(x86("6.1.0-8-amd64")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/boot/vmlinuz-6.1.0-9-amd64: the file name says 6.1.0-9-amd64, the kernel in it 6.1.0-8-amd64; image and \
         modules would not fit together"
    );
    assert!(find(Vec::new()).unwrap_err().to_string().contains("an empty file is no kernel"));
    // Cut off anywhere, it is refused or taken by its name, but nothing breaks.
    let whole = x86("6.1.0-9-amd64");
    for length in 1..whole.len() {
        let _ = find(whole[..length].to_vec());
    }
}

#[test]
fn a_broken_glob_is_named() {
    let error = Kernel::find(&root(&["/boot/vmlinuz-6.1.0"], &[]), Some("6.[1")).unwrap_err();
    assert!(error.to_string().starts_with("\"6.[1\" is no glob: "), "{error}");
}

#[test]
fn configurations() {
    let config =
        Config::parse("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D=\"text\"\nCONFIG_E=8\n\nnoise\n");
    let settings = ["A", "B", "C", "D", "E", "F"].map(|name| config.get(name));
    use Setting::{Builtin, Module, Off};
    assert_eq!(settings, [Off, Builtin, Module, Off, Off, Off]);
}
