use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use imgbuild_tree::{Content, Metadata, NodeId, RootTree};

use super::*;

fn add(tree: &mut RootTree, directory: NodeId, name: &[u8], meta: Metadata, kind: Kind<Content>) -> NodeId {
    let id = tree.add(Node { meta, kind });
    tree.link(directory, name, id);
    id
}

fn meta(mode: u16) -> Metadata {
    Metadata { mtime: 1_600_000_000, uid: 7, gid: 3_000_000, ..Metadata::root_owned(mode) }
}

/// One of every kind of thing, odd names and sizes.
fn sample() -> RootTree {
    let mut tree = RootTree::new();
    let directory = add(&mut tree, NodeId::ROOT, b"dir", meta(0o1751), Kind::Directory(BTreeMap::new()));
    add(&mut tree, directory, b"empty", meta(0o4755), Kind::Regular(Vec::new().into()));
    for size in 1..=5 {
        let content = vec![b'x'; size];
        add(&mut tree, directory, format!("size{size}").as_bytes(), meta(0o644), Kind::Regular(content.into()));
    }
    let large: Vec<u8> = (0..700_000u32).map(|n| (n * 7 / 3) as u8).collect();
    add(&mut tree, directory, b"large", meta(0o600), Kind::Regular(large.into()));
    add(&mut tree, directory, b"not \xff\xfe utf-8\n", meta(0o644), Kind::Regular(b"odd"[..].into()));
    add(&mut tree, directory, &[b'n'; 255], meta(0o644), Kind::Regular(b"long"[..].into()));
    add(&mut tree, directory, b"link", meta(0o777), Kind::Symlink(b"../dir/size3"[..].into()));
    add(&mut tree, directory, b"fifo", meta(0o640), Kind::Fifo);
    add(&mut tree, directory, b"char", meta(0o620), Kind::CharDevice { major: 4, minor: 300 });
    add(&mut tree, directory, b"block", meta(0o660), Kind::BlockDevice { major: 259, minor: 1 });
    let file = add(&mut tree, directory, b"a", meta(0o644), Kind::Regular(b"three names"[..].into()));
    tree.link(directory, b"b", file);
    tree.link(NodeId::ROOT, b"z", file);
    tree
}

fn archive(tree: &RootTree) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = write_tree(tree, &mut bytes).unwrap();
    assert_eq!(length, bytes.len() as u64);
    bytes
}

fn cpio(archive: &[u8], arguments: &[&str], folder: &Path) -> String {
    let mut command = Command::new("cpio");
    command.args(arguments).current_dir(folder).env("TZ", "UTC").env("LC_ALL", "C");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cpio is installed");
    let mut stdin = child.stdin.take().unwrap();
    let bytes = archive.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn gnu_cpio_unpacks_what_went_in() {
    let mut tree = sample();
    // Making devices takes root; the listing has them.
    let directory = tree.resolve("/dir").unwrap();
    assert!(tree.unlink(directory, b"char").is_some() && tree.unlink(directory, b"block").is_some());
    let folder = tempfile::tempdir().unwrap();
    cpio(&archive(&tree), &["-idm", "--no-preserve-owner", "--quiet"], folder.path());
    for item in tree.walk().skip(1) {
        let path = folder.path().join(OsStr::from_bytes(&item.path[1..]));
        let found = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let node = tree.node(item.id);
        if !matches!(node.kind, Kind::Symlink(_)) {
            assert_eq!(found.mode() & 0o7777, u32::from(node.meta.mode), "{}", path.display());
        }
        // GNU cpio sets a directory's time before it fills it, and a link's not at all.
        if !matches!(node.kind, Kind::Directory(_) | Kind::Symlink(_)) {
            assert_eq!(found.mtime(), node.meta.mtime, "{}", path.display());
        }
        match &node.kind {
            Kind::Directory(_) => assert!(found.is_dir()),
            Kind::Regular(content) => {
                let mut bytes = vec![0; content.len() as usize];
                content.read_exact_at(&mut bytes, 0).unwrap();
                assert!(fs::read(&path).unwrap() == bytes, "{}", path.display());
                assert_eq!(found.nlink(), u64::from(tree.link_counts()[item.id.index()]), "{}", path.display());
            }
            Kind::Symlink(target) => {
                assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes(), &**target)
            }
            Kind::Fifo => assert!(found.file_type().is_fifo()),
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Socket => unreachable!(),
        }
    }
}

#[test]
fn gnu_cpio_lists_owners_and_times() {
    let listing = cpio(&archive(&sample()), &["-itvn"], Path::new("/"));
    let line = listing.lines().find(|line| line.ends_with("dir/large")).expect(&listing);
    assert_eq!(line.split_whitespace().take(5).collect::<Vec<_>>(), ["-rw-------", "1", "7", "3000000", "700000"]);
    assert!(line.contains("Sep 13  2020"), "{line}");
    let line = listing.lines().find(|line| line.ends_with("dir/block")).expect(&listing);
    assert!(line.starts_with("brw-rw----") && line.contains("259,   1"), "{line}");
    let line = listing.lines().find(|line| line.ends_with("dir/char")).expect(&listing);
    assert!(line.starts_with("crw--w----") && line.contains("  4, 300"), "{line}");
}

/// The layout of `Documentation/driver-api/early-userspace/buffer-format.rst`, byte by byte.
#[test]
fn an_archive_of_one_file() {
    let mut tree = RootTree::new();
    add(&mut tree, NodeId::ROOT, b"init", meta(0o755), Kind::Regular(b"hello"[..].into()));
    let expected = [
        "070701",
        "00000001",
        "000081ED",
        "00000007",
        "002DC6C0",
        "00000001",
        "5F5E1000",
        "00000005",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000005",
        "00000000",
        "init\0",
        "\0",
        "hello\0\0\0",
        "070701",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000001",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "0000000B",
        "00000000",
        "TRAILER!!!\0\0\0\0",
    ];
    assert_eq!(String::from_utf8(archive(&tree)).unwrap(), expected.concat());
}

#[test]
fn names_of_one_file_share_a_number_and_the_last_has_the_data() {
    let archive = archive(&sample());
    let mut entries = BTreeMap::new();
    let mut at = 0;
    while at < archive.len() {
        let field = |n: usize| {
            let digits = std::str::from_utf8(&archive[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            u32::from_str_radix(digits, 16).unwrap()
        };
        let (inode, links, size, name_size) = (field(0), field(4), field(6), field(11) as usize);
        let name = String::from_utf8_lossy(&archive[at + 110..at + 109 + name_size]).into_owned();
        at = (at + 110 + name_size).next_multiple_of(4) + (size as usize).next_multiple_of(4);
        entries.insert(name, (inode, links, size));
    }
    let (a, b, z) = (entries["dir/a"], entries["dir/b"], entries["z"]);
    assert_eq!((a.1, a.2, b.2, z.2), (3, 0, 0, 11));
    assert!(a.0 == b.0 && b.0 == z.0);
    let mut numbers: Vec<u32> = entries.values().map(|entry| entry.0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    // The trailer's 0, then one number for each node without a gap: everything but two further names and the root.
    assert_eq!(numbers, (0..=sample().len() as u32 - 1).collect::<Vec<_>>());
}

#[test]
fn what_would_be_lost_is_refused() {
    struct Huge;
    impl FileContent for Huge {
        fn len(&self) -> u64 {
            1 << 32
        }
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Err(io::Error::other("not to be read"))
        }
    }
    let refuse = |path: &[u8], meta: Metadata, kind: Kind<Huge>| {
        let node = Node { meta, kind };
        let member = Member { path, node: &node, inode: 1, links: 1, with_data: true };
        let mut out = Vec::new();
        let error = Writer::new(&mut out).member(&member).expect_err("it cannot be represented").to_string();
        assert!(out.is_empty(), "{error}: and yet something was written");
        error
    };
    let error = refuse(b"big", meta(0o644), Kind::Regular(Huge));
    assert_eq!(error, "big: 4294967296 bytes, and a newc archive holds files below 4 GiB only");
    let mut capable = meta(0o755);
    capable.xattrs.insert(b"security.capability"[..].into(), b"x"[..].into());
    assert!(refuse(b"ping", capable, Kind::Fifo).contains("security.capability"));
    for time in [-1, 1 << 32] {
        let error = refuse(b"old", Metadata { mtime: time, ..meta(0o644) }, Kind::Fifo);
        assert!(error.contains(&time.to_string()), "{error}");
    }
    let long = vec![b'n'; 4096];
    for name in [&b""[..], b"/init", b"a//b", b"a/../b", b"./a", b"a/", b"a\0b", b"TRAILER!!!", &long] {
        refuse(name, meta(0o644), Kind::Fifo);
    }
    refuse(b"link", meta(0o777), Kind::Symlink(vec![b't'; 4096].into()));
    refuse(b"link", meta(0o777), Kind::Symlink(Box::default()));
}

#[test]
fn an_unreadable_file_is_named() {
    let mut tree = RootTree::new();
    let content = Content::Path { path: Path::new("/nonexistent/source").into(), len: 3 };
    add(&mut tree, NodeId::ROOT, b"copy", meta(0o644), Kind::Regular(content));
    let error = write_tree(&tree, &mut Vec::new()).expect_err("there is nothing to read");
    assert_eq!(error.to_string(), "/copy: cannot be read");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("/nonexistent/source"), "{source}");
}
