//! Every kind of inode, read by every reader.

use std::process::Command;

use imgbuild_squashfs::{Compression, Options, content_bytes, write};
use imgbuild_tree::{Content, Kind, Metadata, NodeId, Tree};

use crate::readers::{Image, assert_folder_is, assert_unsquashfs_reads, run};
use crate::trees::{TIME, everything, file, meta, options, put, with_xattr};

/// All of them; what has options that readers may trip over, with more than one.
pub(crate) const COMPRESSIONS: [Compression; 8] = [
    Compression::Zstd { level: 3 },
    Compression::Gzip { level: 6 },
    Compression::Xz { level: 1 },
    Compression::Xz { level: 6 },
    Compression::Lz4 { high: false },
    Compression::Lz4 { high: true },
    Compression::Lzo,
    Compression::None,
];

#[test]
fn unsquashfs_reads_everything() {
    for compression in COMPRESSIONS {
        assert_unsquashfs_reads(&everything(), &Options { compression, ..options() });
    }
}

#[test]
fn the_kernel_reads_everything() {
    for compression in COMPRESSIONS {
        let options = Options { compression, ..options() };
        let image = Image::new(&everything(), &options);
        let mount = image.mount();
        assert_folder_is(&mount.at, &everything(), &options, "kernel");
    }
}

#[test]
fn sqfs2tar_reads_everything_but_sockets() {
    let mut tree = everything();
    let run = tree.resolve("/run").unwrap();
    tree.unlink(run, b"socket");
    tree.unlink(run, b"socket-x");
    for compression in COMPRESSIONS {
        let options = Options { compression, ..options() };
        assert_folder_is(&Image::new(&tree, &options).sqfs2tar(), &tree, &options, "sqfs2tar");
    }
}

#[test]
fn an_empty_tree_is_an_image() {
    let tree = Tree::new();
    let image = assert_unsquashfs_reads(&tree, &options());
    assert_folder_is(&image.mount().at, &tree, &options(), "kernel");
    assert_eq!((image.summary.inodes, image.summary.fragments, image.summary.bytes_used), (1, 0, 4096));
}

#[test]
fn the_superblock_says_what_was_asked_for() {
    let image = Image::new(&everything(), &Options { compression: Compression::Gzip { level: 6 }, ..options() });
    let said = image.ask("unsquashfs", &["-UTC", "-stat"]);
    for line in [
        "Creation or last append time Tue Nov 14 22:13:20 2023",
        "Compression gzip",
        "compression-level 6",
        "Block size 4096",
        "Filesystem is exportable via NFS",
        "Number of inodes 25",
        // 0, 100, 1000, 3000000, 4000000000
        "Number of ids 5",
        // the root's, sticky's, ping's, lib's and those of two devices, fifo and socket
        "Number of xattr ids 8",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}

#[test]
fn link_counts_are_those_of_the_names() {
    let image = Image::new(&everything(), &options());
    let mount = image.mount();
    let links = |path: &str| run(Command::new("stat").args(["--format=%h"]).arg(mount.at.join(path))).trim().to_owned();
    assert_eq!(links("usr/bin/sudo"), "2");
    assert_eq!(links("zz-ping"), "2");
    assert_eq!(links("lib"), "2");
    assert_eq!(links("far"), "1");
    assert_eq!(links("empty"), "2");
    // dev, empty, etc, late, run, sticky, usr
    assert_eq!(links("."), "9");
}

#[test]
fn capabilities_work_as_getcap_sees_them() {
    let image = Image::new(&everything(), &options());
    let mount = image.mount();
    let said = run(Command::new("getcap").arg(mount.at.join("usr/bin/ping")));
    assert!(said.trim().ends_with("cap_net_raw=ep"), "{said}");
}

#[test]
fn extended_attributes_squashfs_has_no_prefix_for_are_listed() {
    let mut tree = Tree::new();
    let mut acl = with_xattr(0o755, "system.posix_acl_access", b"\x02\0\0\0");
    acl.xattrs.insert(b"user."[..].into(), b"no name"[..].into());
    acl.xattrs.insert(b"user.kept"[..].into(), b"yes"[..].into());
    put(&mut tree, "var/log/journal", acl, Kind::Directory(Default::default()));
    let acl = with_xattr(0o644, "system.posix_acl_access", b"\x02\0\0\0");
    put(&mut tree, "var/log/other", acl, Kind::Regular(Vec::new().into()));
    let image = Image::new(&tree, &options());
    let dropped: Vec<_> =
        image.summary.dropped_xattrs.iter().map(|d| (d.name.as_str(), d.first.as_str(), d.files)).collect();
    assert_eq!(dropped, [("system.posix_acl_access", "/var/log/journal", 2), ("user.", "/var/log/journal", 1)]);
    for path in ["/var/log/journal", "/var/log/other"] {
        let id = tree.resolve(path).unwrap();
        tree.node_mut(id).meta.xattrs.retain(|name, _| &**name == b"user.kept");
    }
    assert_folder_is(&image.unsquash(), &tree, &options(), "unsquashfs");
}

#[test]
fn repeated_attribute_values_of_any_length_come_back() {
    let mut tree = Tree::new();
    for (number, len) in [0, 1, 8, 64, 65, 200, 1500].into_iter().enumerate() {
        let value = vec![b'v'; len];
        // The same value under several names and sets, and one set that many files share.
        for copy in 0..3 {
            let mut meta = with_xattr(0o644, "user.shared", &value);
            meta.xattrs.insert(format!("security.n{copy}").into_bytes().into(), value.clone().into());
            put(&mut tree, &format!("f{number}-{copy}"), meta.clone(), Kind::Regular(Vec::new().into()));
            put(&mut tree, &format!("g{number}-{copy}"), meta, Kind::Regular(Vec::new().into()));
        }
    }
    let image = assert_unsquashfs_reads(&tree, &options());
    assert_folder_is(&image.mount().at, &tree, &options(), "kernel");
    assert_folder_is(&image.sqfs2tar(), &tree, &options(), "sqfs2tar");
    assert!(image.ask("unsquashfs", &["-stat"]).contains("Number of xattr ids 21"));
}

#[test]
fn more_attribute_sets_than_one_block_of_the_lookup_table_holds() {
    let mut tree = Tree::new();
    for number in 0..1500 {
        let meta = with_xattr(0o644, "user.number", format!("{number:04}").as_bytes());
        put(&mut tree, &format!("d{}/f{number}", number % 7), meta, Kind::Regular(Vec::new().into()));
    }
    let image = assert_unsquashfs_reads(&tree, &options());
    assert_folder_is(&image.mount().at, &tree, &options(), "kernel");
}

#[test]
fn times_are_clamped_to_what_was_asked_for() {
    let mut tree: Tree<Content> = Tree::new();
    for (name, mtime) in [("before", -5), ("inside", 7), ("after", i64::from(TIME) + 1), ("end", i64::MAX)] {
        put(&mut tree, name, Metadata { mtime, ..meta(0o644) }, Kind::Fifo);
    }
    let image = Image::new(&tree, &options());
    let unpacked = crate::folder::load(&image.unsquash()).unwrap();
    let mtime = |name: &str| unpacked.node(unpacked.resolve(name).unwrap()).meta.mtime;
    assert_eq!([mtime("before"), mtime("inside"), mtime("after"), mtime("end")], [0, 7, TIME.into(), TIME.into()]);
}

#[test]
fn progress_ends_at_the_content_bytes_of_the_tree() {
    let mut tree = everything();
    file(&mut tree, "copy-of-hostname", b"worker\n".to_vec());
    let seen = std::sync::Mutex::new(Vec::new());
    let summary =
        write(&tree, std::io::Cursor::new(Vec::new()), &options(), &|done| seen.lock().unwrap().push(done)).unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.is_sorted());
    assert!(seen.len() > 5);
    assert_eq!(seen.last(), Some(&content_bytes(&tree).unwrap()));
    assert_eq!(summary.data_bytes_in, content_bytes(&tree).unwrap());
    assert_eq!(summary.duplicates, 1);
}

#[test]
fn an_image_may_begin_anywhere_in_the_output() {
    use std::io::{Seek, SeekFrom, Write};

    let alone = crate::readers::bytes(&everything(), &options());
    let mut out = std::io::Cursor::new(Vec::new());
    out.write_all(&[7; 512]).unwrap();
    write(&everything(), &mut out, &options(), &|_| {}).unwrap();
    assert_eq!(out.stream_position().unwrap(), 512 + alone.len() as u64);
    out.seek(SeekFrom::Start(0)).unwrap();
    assert!(out.get_ref()[..512].iter().all(|b| *b == 7));
    assert!(out.get_ref()[512..] == alone);
}

#[test]
fn nodes_without_a_name_are_not_in_the_image() {
    let mut tree = everything();
    let with_all = Image::new(&tree, &options()).summary.inodes;
    let etc = tree.unlink(NodeId::ROOT, b"etc");
    assert!(etc.is_some());
    // etc itself and its two files that have no other name
    assert_eq!(Image::new(&tree, &options()).summary.inodes, with_all - 3);
    assert_unsquashfs_reads(&tree, &options());
}
