use std::io::Write;

use imgbuild_tree::FileContent;

use super::*;
use crate::Layout;
use crate::segment::{self, Compression};

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn unpack(bytes: &[u8]) -> Result<Tree<Content>> {
    read(Path::new("initrd.img"), file(bytes))
}

fn content(tree: &Tree<Content>, path: &str) -> String {
    let Kind::Regular(content) = &tree.node(tree.resolve(path).unwrap()).kind else { panic!("{path} is no file") };
    let mut bytes = vec![0; content.len() as usize];
    content.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn layer(files: &[(&str, &str)]) -> imgbuild_tree::RootTree {
    let mut layout = Layout::new(7);
    for (path, text) in files {
        layout.file(path, 0o755, Content::from(text.as_bytes())).unwrap();
    }
    layout.into_tree()
}

/// Plain, compressed, plain: as a build with microcode and an embedded root writes it.
fn three() -> Vec<u8> {
    let mut linked = Layout::new(7);
    let id = linked.file("/netboot/one", 0o644, Content::from(&b"linked"[..])).unwrap();
    linked.link("/netboot/two", id).unwrap();
    linked.file("/init", 0o755, Content::from(&b"init"[..])).unwrap();
    let mut bytes = Vec::new();
    segment::write(&layer(&[("/kernel/x86/microcode", "micro")]), Compression::None, &mut bytes).unwrap();
    segment::write(&linked.into_tree(), Compression::default(), &mut bytes).unwrap();
    segment::write(&layer(&[("/netboot/root.squashfs", "root"), ("/init", "later")]), Compression::None, &mut bytes)
        .unwrap();
    bytes
}

#[test]
fn every_segment_lies_over_those_before() {
    let tree = unpack(&three()).unwrap();
    assert_eq!(content(&tree, "/kernel/x86/microcode"), "micro");
    assert_eq!(content(&tree, "/netboot/root.squashfs"), "root");
    assert_eq!(content(&tree, "/init"), "later");
    assert_eq!((content(&tree, "/netboot/one"), content(&tree, "/netboot/two")), ("linked".into(), "linked".into()));
    assert_eq!(tree.resolve("/netboot/one").unwrap(), tree.resolve("/netboot/two").unwrap());
    let init = tree.node(tree.resolve("/init").unwrap());
    assert_eq!((init.meta.mode, init.meta.mtime), (0o755, 7));
}

#[test]
fn what_the_cpio_program_writes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/motd"), "hello").unwrap();
    std::os::unix::fs::symlink("motd", dir.path().join("etc/link")).unwrap();
    std::fs::hard_link(dir.path().join("etc/motd"), dir.path().join("etc/again")).unwrap();
    let made = std::process::Command::new("sh")
        .args(["-c", "find . | cpio --quiet -o -H newc"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let tree = unpack(&made.stdout).unwrap();
    assert_eq!((content(&tree, "/etc/link"), content(&tree, "/etc/again")), ("hello".into(), "hello".into()));
    // The same in two frames, as a parallel compressor makes them.
    let middle = made.stdout.len() / 2;
    let (one, two) = made.stdout.split_at(middle);
    let frames = [one, two].map(|part| zstd::encode_all(part, 1).unwrap()).concat();
    assert_eq!(content(&unpack(&frames).unwrap(), "/etc/again"), "hello");
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let whole = three();
    for cut in (1..whole.len()).step_by(7) {
        // A cut in the padding between two segments loses nothing that was begun.
        let _ = unpack(&whole[..cut]);
    }
    for at in (0..whole.len()).step_by(3) {
        for value in [b'F', 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = unpack(&bytes);
        }
    }
    let error = unpack(b"\x1f\x8b\x08\0 gzip").unwrap_err().to_string();
    assert!(error.starts_with("at byte 0: no archive begins with [1f, 8b, 08, 00]"), "{error}");
    let mut huge = three();
    let header = huge.windows(21).position(|w| w == b"kernel/x86/microcode\0").unwrap() - 110;
    huge[header + 54..header + 62].copy_from_slice(b"FFFFFFFF");
    let error = unpack(&huge).unwrap_err().to_string();
    assert!(error.contains("a file of 4294967295 bytes goes beyond the end"), "{error}");
}

#[test]
fn entries_without_content_are_counted_too() {
    let names: Vec<String> = (0..2000).map(|number| format!("/f{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let deep = format!("/{}x", "d/".repeat(2000));
    for (files, nodes) in [(many, 2001), (vec![(deep.as_str(), "")], 2002)] {
        for compression in [Compression::None, Compression::default()] {
            let bytes = segment::to_bytes(&layer(&files), compression).unwrap();
            let read = |limit| read_within(Path::new("initrd.img"), file(&bytes), limit).map(|tree| tree.len());
            assert_eq!(read(16 << 20).unwrap(), nodes);
            let error = read(1_000_000).unwrap_err().to_string();
            assert!(error.contains("it takes more than 1000000 bytes of memory"), "{error}");
        }
    }
}

#[test]
fn a_path_out_of_the_archive_is_refused() {
    let bytes = segment::to_bytes(&layer(&[("/a/xx/y", "z")]), Compression::None).unwrap();
    let text = bytes.windows(7).position(|w| w == b"a/xx/y\0").unwrap();
    let mut hostile = bytes;
    hostile[text..text + 7].copy_from_slice(b"a/../y\0");
    let error = unpack(&hostile).unwrap_err().to_string();
    assert!(error.contains("a/../y leads out of the archive"), "{error}");
}
