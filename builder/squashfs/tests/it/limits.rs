//! As far as the format goes, and one step further.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use imgbuild_squashfs::{Error, Options, write};
use imgbuild_tree::{Content, Kind, Metadata, Node, NodeId, Tree};

use crate::readers::{Image, assert_folder_is, assert_unsquashfs_reads, run};
use crate::trees::{file, meta, options, put, with_xattr};

fn refusal(tree: &Tree<Content>) -> Error {
    write(tree, std::io::Cursor::new(Vec::new()), &options(), &|_| {}).unwrap_err()
}

#[test]
fn a_hundred_thousand_names_in_a_folder() {
    let mut tree: Tree<Content> = Tree::new();
    let folder = put(&mut tree, "many", meta(0o755), Kind::Directory(Default::default()));
    for number in 0..100_000_u32 {
        let kind = if number % 1000 == 0 { Kind::Directory(Default::default()) } else { Kind::Fifo };
        let id = tree.add(Node { meta: meta(0o644), kind });
        tree.link(folder, format!("a name of some length {number:x}").as_bytes(), id);
    }
    let image = Image::new(&tree, &options());
    let mount = image.mount();
    let many = mount.at.join("many");
    let mut names: Vec<_> = many.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected = tree.children(folder).unwrap().keys();
    assert!(names.iter().map(|name| name.as_encoded_bytes()).eq(expected.map(|name| &**name)));
    assert_eq!(many.metadata().unwrap().nlink(), 102);
    // Look-ups go through the index: each of these must lead to its own inode, names that do not exist nowhere.
    for number in (0..100_000_u32).step_by(997) {
        let stat = many.join(format!("a name of some length {number:x}")).symlink_metadata().unwrap();
        assert_eq!(stat.is_dir(), number % 1000 == 0);
    }
    for name in ["a", "a name of some length 5000x", "zzz", "a name of some length 100000"] {
        assert!(!many.join(name).exists());
    }
    let listed = image.ask("unsquashfs", &["-lls"]);
    assert_eq!(listed.lines().count(), 100_002);
    assert_eq!(run(Command::new("sqfs2tar").arg(image.path())).len() % 512, 0);
}

#[test]
fn folders_whose_listings_just_fit_a_block_and_just_do_not() {
    for extra in 0..40 {
        let mut tree: Tree<Content> = Tree::new();
        // 31 entries of 264 bytes are 8184, headers 12 and more.
        for number in 0..30 {
            let name = format!("d/{number:02}{}", "n".repeat(253));
            put(&mut tree, &name, meta(0o644), Kind::Fifo);
        }
        put(&mut tree, &format!("d/x{}", "x".repeat(215 + extra)), meta(0o644), Kind::Fifo);
        put(&mut tree, "d/y", meta(0o644), Kind::Fifo);
        put(&mut tree, "d/z", meta(0o644), Kind::Fifo);
        put(&mut tree, "e/z", meta(0o644), Kind::Fifo);
        let image = Image::new(&tree, &options());
        assert_folder_is(&image.mount().at, &tree, &options(), "kernel");
        if extra % 10 == 0 {
            assert_folder_is(&image.unsquash(), &tree, &options(), "unsquashfs");
        }
    }
}

#[test]
fn a_hard_link_to_a_number_far_away_in_the_same_block() {
    let mut tree: Tree<Content> = Tree::new();
    for number in 0..40_000_u32 {
        put(&mut tree, &format!("a/{number:05}"), meta(0o600), Kind::Fifo);
    }
    let near = put(&mut tree, "z/near", meta(0o640), Kind::Fifo);
    let far = tree.resolve("/a/00000").unwrap();
    let folder = put(&mut tree, "m", meta(0o755), Kind::Directory(Default::default()));
    for (name, id) in [(b"1", near), (b"2", far), (b"3", near)] {
        tree.link(folder, name, id);
    }
    let image = Image::new(&tree, &options());
    let mount = image.mount();
    let inode = |path: &str| mount.at.join(path).metadata().unwrap().ino();
    assert_eq!([inode("m/1"), inode("m/2"), inode("m/3")], [inode("z/near"), inode("a/00000"), inode("z/near")]);
    assert!(inode("z/near") - inode("a/00000") > 32_768);
    assert!(image.ask("unsquashfs", &["-lls"]).contains("squashfs-root/m/3"));
}

#[test]
fn five_thousand_owners() {
    let mut tree: Tree<Content> = Tree::new();
    for number in 0..5000_u32 {
        let meta = Metadata { uid: 7 * number, gid: u32::MAX - 1 - number, ..meta(0o600) };
        put(&mut tree, &format!("{}/{number}", number % 10), meta, Kind::Fifo);
    }
    let image = assert_unsquashfs_reads(&tree, &options());
    assert_folder_is(&image.mount().at, &tree, &options(), "kernel");
}

#[test]
fn as_many_owners_as_the_table_numbers_and_one_more() {
    let mut tree: Tree<Content> = Tree::new();
    // With root, who owns the root directory, 65535.
    for number in 1..65_535_u32 {
        let meta = Metadata { uid: number, gid: number, ..meta(0o600) };
        put(&mut tree, &format!("{}/{number}", number % 256), meta, Kind::Fifo);
    }
    let image = Image::new(&tree, &options());
    assert!(image.ask("unsquashfs", &["-stat"]).contains("Number of ids 65535"));
    let mount = image.mount();
    for number in [1, 255, 2048, 2049, 40_000, 65_534_u32] {
        let stat = mount.at.join(format!("{}/{number}", number % 256)).metadata().unwrap();
        assert_eq!((stat.uid(), stat.gid()), (number, number));
    }
    put(&mut tree, "one more", Metadata { gid: 70_000, ..meta(0o600) }, Kind::Fifo);
    assert!(matches!(refusal(&tree), Error::TooManyIds { found: 65_536 }));
}

#[test]
fn names_of_256_bytes_and_one_more() {
    let mut tree: Tree<Content> = Tree::new();
    let longest = "n".repeat(256);
    put(&mut tree, &format!("d/{longest}"), meta(0o644), Kind::Fifo);
    let image = Image::new(&tree, &options());
    assert!(image.ask("unsquashfs", &["-lls"]).contains(&longest));
    assert!(image.mount().at.join("d").join(&longest).exists());
    put(&mut tree, &format!("d/e/{longest}x"), meta(0o644), Kind::Fifo);
    let error = refusal(&tree).to_string();
    assert!(error.starts_with("/d/e: the name \"nnn") && error.contains("257 bytes"), "{error}");
}

#[test]
fn names_that_are_no_names() {
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        let mut tree = Tree::new();
        let id = file(&mut tree, "d/file", Vec::new());
        let folder = tree.resolve("/d").unwrap();
        tree.link(folder, name, id);
        match refusal(&tree) {
            Error::Name { directory, name: found } => {
                assert_eq!((directory.as_str(), found.as_bytes()), ("/d", name));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn symbolic_links_up_to_65535_bytes() {
    let mut tree: Tree<Content> = Tree::new();
    for len in [1, 100, 4095] {
        put(&mut tree, &format!("l{len}"), meta(0o777), Kind::Symlink(vec![b'x'; len].into()));
    }
    let image = assert_unsquashfs_reads(&tree, &options());
    assert_folder_is(&image.mount().at, &tree, &options(), "kernel");
    // More than Linux follows, but squashfs-tools reads it.
    put(&mut tree, "longest", meta(0o777), Kind::Symlink(vec![b'x'; 65_535].into()));
    let listed = Image::new(&tree, &options()).ask("unsquashfs", &["-lls"]);
    assert!(listed.contains(&format!("longest -> {}", "x".repeat(65_535))));

    for (target, len, has_nul) in
        [(vec![b'x'; 65_536], 65_536, false), (Vec::new(), 0, false), (b"a\0b".to_vec(), 3, true)]
    {
        let mut tree: Tree<Content> = Tree::new();
        put(&mut tree, "d/link", meta(0o777), Kind::Symlink(target.into()));
        match refusal(&tree) {
            Error::Symlink { path, len: found, has_nul: nul } => {
                assert_eq!((path.as_str(), found, nul), ("/d/link", len, has_nul));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn device_numbers_beyond_linux() {
    for (major, minor) in [(4096, 0), (0, 1 << 20), (u32::MAX, u32::MAX)] {
        for kind in [Kind::CharDevice { major, minor }, Kind::BlockDevice { major, minor }] {
            let mut tree: Tree<Content> = Tree::new();
            put(&mut tree, "dev/x", meta(0o600), kind);
            assert_eq!(
                refusal(&tree).to_string(),
                format!(
                    "/dev/x: device {major}:{minor} is beyond what squashfs holds (major up to 4095, minor up to 1048575)"
                )
            );
        }
    }
}

#[test]
fn extended_attributes_as_long_as_linux_takes_and_longer() {
    let name = format!("trusted.{}", "n".repeat(255 - 8));
    let mut tree = Tree::new();
    // ext4 holds a few KiB only: the kernel reads this one.
    put(&mut tree, "f", with_xattr(0o644, &name, &vec![b'v'; 65_536]), Kind::Regular(Vec::new().into()));
    let image = Image::new(&tree, &options());
    assert_folder_is(&image.mount().at, &tree, &options(), "kernel");

    for (name, len) in [(format!("{name}x"), 1), ("user.a".to_owned(), 65_537)] {
        let mut tree = Tree::new();
        put(&mut tree, "f", with_xattr(0o644, &name, &vec![b'v'; len]), Kind::Regular(Vec::new().into()));
        assert!(
            matches!(refusal(&tree), Error::XattrTooLong { path, value_len, .. } if path == "/f" && value_len == len)
        );
    }
}

#[test]
fn folders_three_thousand_deep() {
    let mut tree: Tree<Content> = Tree::new();
    put(&mut tree, &("d/".repeat(3000) + "end"), meta(0o644), Kind::Fifo);
    let image = Image::new(&tree, &options());
    assert_eq!(image.summary.inodes, 3002);
    // 3000 directories in a path are beyond PATH_MAX, but not beyond find, which goes step by step.
    let mount = image.mount();
    let depth = run(Command::new("find").arg(&mount.at).args(["-type", "d", "-printf", "%d\n"]));
    assert_eq!(depth.lines().last(), Some("3000"));
}

#[test]
fn trees_that_are_none() {
    let mut tree: Tree<Content> = Tree::new();
    let folder = put(&mut tree, "a/b", meta(0o755), Kind::Directory(Default::default()));
    tree.link(folder, b"up", NodeId::ROOT);
    assert_eq!(refusal(&tree).to_string(), "/a/b/up: a directory can have only one name");

    let mut tree: Tree<Content> = Tree::new();
    let folder = put(&mut tree, "a/b", meta(0o755), Kind::Directory(Default::default()));
    tree.link(NodeId::ROOT, b"c", folder);
    assert!(matches!(refusal(&tree), Error::Malformed { .. }));

    let mut other: Tree<Content> = Tree::new();
    let foreign = (0..50).map(|_| file(&mut other, "f", Vec::new())).last().unwrap();
    let mut tree: Tree<Content> = Tree::new();
    tree.link(NodeId::ROOT, b"foreign", foreign);
    assert_eq!(refusal(&tree).to_string(), "/foreign: the name stands for a node of another tree");

    let mut tree: Tree<Content> = Tree::new();
    tree.node_mut(NodeId::ROOT).kind = Kind::Fifo;
    assert_eq!(refusal(&tree).to_string(), "/: the root must be a directory");
}

#[test]
fn options_out_of_range() {
    use imgbuild_squashfs::Compression::{Gzip, Xz, Zstd};

    for block_size in [0, 1, 2048, 4095, 5000, (1 << 20) + 1, 1 << 21, u32::MAX] {
        let error = Options { block_size, ..options() }.validate().unwrap_err();
        assert!(matches!(error, Error::BlockSize { found } if found == block_size));
    }
    let out_of_range = |level| [Gzip { level }, Xz { level }];
    let levels = [0, 10].into_iter().flat_map(out_of_range).chain([Zstd { level: 0 }, Zstd { level: 23 }]);
    for compression in levels {
        let error = Options { compression, ..options() }.validate().unwrap_err();
        assert!(matches!(error, Error::Level { .. }), "{error}");
    }
    for level in 1..=22 {
        Options { compression: Zstd { level }, ..options() }.validate().unwrap();
    }
    for level in 1..=9 {
        Options { compression: Gzip { level }, ..options() }.validate().unwrap();
        Options { compression: Xz { level }, ..options() }.validate().unwrap();
    }
}
