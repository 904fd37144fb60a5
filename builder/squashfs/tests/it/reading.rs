//! Our own images, read by our own reader.

use std::sync::Arc;

use imgbuild_squashfs::read::{Compressor, Image, Limits, ReadError};
use imgbuild_squashfs::{Compression, Fragments, Options, write};
use imgbuild_tree::{Content, DumpOptions, Extent, FileContent, Kind, Node, NodeId, Tree};

use crate::dump::{assert_same, dump};
use crate::kinds::COMPRESSIONS;
use crate::readers::{assert_we_read, bytes};
use crate::trees::{TIME, everything, file, meta, noise, options, put, text, with_xattr};

#[test]
fn everything_comes_back() {
    for compression in COMPRESSIONS {
        assert_we_read(&everything(), &Options { compression, ..options() });
    }
}

#[test]
fn the_superblock_says_how_the_image_was_written() {
    let expected = [
        (Compressor::Zstd, Some(3)),
        (Compressor::Gzip, Some(6)),
        (Compressor::Xz, None),
        (Compressor::Xz, None),
        (Compressor::Lz4, None),
        (Compressor::Lz4, None),
        (Compressor::Lzo, Some(8)),
        (Compressor::Gzip, Some(9)),
    ];
    for (compression, (compressor, level)) in COMPRESSIONS.into_iter().zip(expected) {
        let options = Options { compression, ..options() };
        let bytes = bytes(&everything(), &options);
        let image = Image::from_bytes(bytes.clone()).unwrap();
        let said = image.superblock();
        assert_eq!((said.compressor, said.level), (compressor, level));
        assert_eq!((said.block_size, said.inodes, said.ids, said.created), (4096, 25, 5, TIME));
        assert!(said.fragments > 0);
        // Padding does not count.
        assert_eq!(said.bytes_used.next_multiple_of(4096), bytes.len() as u64);
        let names = said.flags.names();
        assert!(names.contains(&"exportable") && names.contains(&"duplicates stored once"), "{names:?}");
        assert_eq!(names.contains(&"uncompressed data"), compression == Compression::None);
    }
}

#[test]
fn every_block_size_and_way_of_packing_comes_back() {
    let mut tree = everything();
    for number in 0..20 {
        file(&mut tree, &format!("small/{number}"), text(number, 500 + 997 * number as usize));
    }
    for len in [4095, 4096, 4097, 8192, 65_537, 1 << 20, (1 << 20) + 1, 3_000_000] {
        file(&mut tree, &format!("text/{len}"), text(1, len));
        file(&mut tree, &format!("noise/{len}"), noise(1, len));
        file(&mut tree, &format!("zeros/{len}"), vec![0; len]);
    }
    for log in [12, 14, 17, 20] {
        for fragments in [Fragments::Never, Fragments::SmallFiles, Fragments::SmallFilesAndTails] {
            for compression in [Compression::Zstd { level: 1 }, Compression::Lz4 { high: false }, Compression::None] {
                assert_we_read(&tree, &Options { compression, fragments, block_size: 1 << log, ..options() });
            }
        }
    }
}

#[test]
fn the_dump_of_a_tree_works_on_an_image() {
    let mut tree = everything();
    for path in ["far", "late"] {
        let id = tree.resolve(path).unwrap();
        tree.node_mut(id).meta.mtime = 7;
    }
    let shown = DumpOptions { mtime: true, content: true, origin: false };
    let image = Image::from_bytes(bytes(&tree, &options())).unwrap();
    let found = image.tree().unwrap().dump(shown).unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_same(&lines(&found), &lines(&tree.dump(shown).unwrap()), "dump");
}

#[test]
fn twenty_thousand_names_and_long_shared_attributes() {
    let mut tree: Tree<Content> = Tree::new();
    let folder = put(&mut tree, "many", meta(0o755), Kind::Directory(Default::default()));
    for number in 0..20_000_u32 {
        let kind = if number % 1000 == 0 { Kind::Directory(Default::default()) } else { Kind::Fifo };
        let id = tree.add(Node { meta: meta(0o644), kind });
        tree.link(folder, format!("a name of some length {number:x}").as_bytes(), id);
    }
    for number in 0..300_u32 {
        let mut meta = with_xattr(0o644, "user.shared", &[b'v'; 1500]);
        meta.xattrs.insert(b"security.own"[..].into(), noise(number.into(), 9000).into());
        put(&mut tree, &format!("x/{number}"), meta, Kind::Regular(Vec::new().into()));
    }
    assert_we_read(&tree, &options());
}

/// 5 GiB and a bit, with data at the beginning, in the middle and at the end.
#[test]
fn a_sparse_file_over_four_gibibytes() {
    const LEN: u64 = (5 << 30) + 123;
    let data = noise(3, 3 * 100_000);
    let mut backing = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut backing, &data).unwrap();
    let extent = |number: u64, logical| Extent { logical, physical: number * 100_000, len: 100_000 };
    let extents = [extent(0, 0), extent(1, (4 << 30) - 50_000), extent(2, LEN - 100_000)];
    let content = Content::Sparse {
        file: Arc::new(backing.reopen().unwrap()),
        path: backing.path().into(),
        extents: extents.into(),
        len: LEN,
    };
    let mut tree = Tree::new();
    file(&mut tree, "large", content);
    let image = Image::from_bytes(bytes(&tree, &Options { block_size: 1 << 20, ..options() })).unwrap();
    let tree = image.tree().unwrap();
    let Kind::Regular(large) = &tree.node(tree.resolve("/large").unwrap()).kind else { panic!("no file") };
    assert_eq!(large.len(), LEN);
    let read = |at: u64, len: usize| {
        let mut bytes = vec![7; len];
        large.read_exact_at(&mut bytes, at).unwrap();
        bytes
    };
    assert!(read(0, 100_000) == data[..100_000]);
    assert!(read((4 << 30) - 50_000, 100_000) == data[100_000..200_000]);
    assert!(read(LEN - 100_000, 100_000) == data[200_000..]);
    assert!(read(100_000, 5 << 20).iter().all(|byte| *byte == 0));
    assert!(read((4 << 30) + 50_000, 5 << 20).iter().all(|byte| *byte == 0));
    let beyond = large.read_exact_at(&mut [0; 2], LEN - 1).unwrap_err();
    assert_eq!(beyond.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn any_range_of_a_file_can_be_read_from_any_thread() {
    let mut expected = [text(1, 50_000), vec![0; 20_000], noise(2, 30_000)].concat();
    expected.extend(text(3, 777));
    for fragments in [Fragments::Never, Fragments::SmallFilesAndTails] {
        let mut tree = Tree::new();
        file(&mut tree, "file", expected.clone());
        file(&mut tree, "other", text(9, 3000));
        let image = Image::from_bytes(bytes(&tree, &Options { fragments, ..options() })).unwrap();
        let tree = image.tree().unwrap();
        let Kind::Regular(file) = &tree.node(tree.resolve("/file").unwrap()).kind else { panic!("no file") };
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (file, expected) = (file.clone(), &expected);
                scope.spawn(move || {
                    for number in 0..500_u64 {
                        let at = number.wrapping_mul(7919 + 2 * thread) as usize % expected.len();
                        let len = (number as usize * 131 % 9000).min(expected.len() - at);
                        let mut bytes = vec![7; len];
                        file.read_exact_at(&mut bytes, at as u64).unwrap();
                        assert!(bytes == expected[at..at + len], "{len} bytes from {at}");
                    }
                });
            }
        });
    }
}

#[test]
fn an_image_inside_an_image_is_read_where_it_is() {
    let inner = bytes(&everything(), &options());
    let mut tree = Tree::new();
    file(&mut tree, "inner.squashfs", inner);
    let outer = Image::from_bytes(bytes(&tree, &options())).unwrap().tree().unwrap();
    let Kind::Regular(inner) = &outer.node(outer.resolve("/inner.squashfs").unwrap()).kind else { panic!("no file") };
    let inner = Image::new(inner.clone(), Limits::default()).unwrap();
    assert_same(&dump(&inner.tree().unwrap(), &options()), &dump(&everything(), &options()), "inner");
}

#[test]
fn an_image_in_a_file_is_read_from_there_and_may_be_padded() {
    let mut file = tempfile::tempfile().unwrap();
    write(&everything(), &mut file, &options(), &|_| {}).unwrap();
    file.set_len(1 << 20).unwrap();
    let image = Image::open(file).unwrap();
    let clone = image.clone();
    let tree = image.tree().unwrap();
    drop((image, clone));
    assert_same(&dump(&tree, &options()), &dump(&everything(), &options()), "from a file");
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    let whole = bytes(&everything(), &options());
    let open = |bytes: &[u8]| Image::from_bytes(bytes.to_vec()).unwrap_err().to_string();
    assert_eq!(open(b""), "not a squashfs image: it begins with \"\", not \"hsqs\"");
    assert_eq!(open(b"\x7fELF and so on"), "not a squashfs image: it begins with \"\\x7fELF\", not \"hsqs\"");
    assert!(matches!(
        Image::from_bytes(whole[..95].to_vec()).unwrap_err(),
        ReadError::Truncated { expected: 96, found: 95 }
    ));
    let patched = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        open(&bytes)
    };
    assert_eq!(patched(28, 3), "the squashfs image has version 3.0; this reader takes version 4.0");
    assert!(patched(20, 7).starts_with("the squashfs image has compressor 7;"));
    assert_eq!(
        patched(12, 1),
        "the squashfs image is broken: superblock at byte 12: a block size of 4097 bytes, which should be 2 to the \
         power of 12"
    );
    assert!(patched(71, 1).contains("superblock at byte 64: the inode table at byte 7205"));
    let short = open(&whole[..whole.len() - 4096]);
    assert!(short.contains("cut short") && short.contains("fetch it again"), "{short}");
}

#[test]
fn work_is_limited() {
    let mut tree = everything();
    for number in 0..5000 {
        put(&mut tree, &format!("many/{number}"), meta(0o644), Kind::Fifo);
    }
    let read = |work| Image::new(Content::from(bytes(&tree, &options())), Limits { work }).unwrap().tree();
    for work in [0, 10_000, 1_000_000] {
        let error = match read(work).unwrap_err() {
            ReadError::Path { source, .. } => *source,
            other => other,
        };
        assert!(matches!(error, ReadError::Limit { limit } if limit == work), "{error}");
    }
    assert_eq!(read(4_000_000).unwrap().len(), 5000 + 26);
}

#[test]
fn the_root_is_the_first_node() {
    let tree = Image::from_bytes(bytes(&everything(), &options())).unwrap().tree().unwrap();
    assert_eq!(tree.node(NodeId::ROOT).meta.mode, 0o751);
}
