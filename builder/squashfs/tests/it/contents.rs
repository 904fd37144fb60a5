//! Contents of every length and shape.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::sync::Arc;

use imgbuild_squashfs::{Compression, Fragments, Options, write};
use imgbuild_tree::{Content, Extent, FileContent, Kind, Metadata, Node, NodeId, Tree};

use crate::readers::{Image, Mount, assert_folder_is, assert_unsquashfs_reads, run};
use crate::trees::{file, noise, options, text};

#[test]
fn lengths_around_the_block_size_with_every_block_size() {
    for log in 12..=20 {
        let block_size = 1 << log;
        let mut tree = Tree::new();
        for (number, len) in [0, 1, block_size - 1, block_size, block_size + 1, 2 * block_size, 3 * block_size - 1]
            .into_iter()
            .enumerate()
        {
            file(&mut tree, &format!("text{number}"), text(len as u64, len));
            file(&mut tree, &format!("noise{number}"), noise(len as u64, len));
        }
        for fragments in [Fragments::Never, Fragments::SmallFiles, Fragments::SmallFilesAndTails] {
            let options = Options {
                block_size: block_size as u32,
                fragments,
                compression: Compression::Zstd { level: 1 },
                ..options()
            };
            let image = assert_unsquashfs_reads(&tree, &options);
            if fragments == Fragments::SmallFilesAndTails {
                assert_folder_is(&image.mount().at, &tree, &options, "kernel");
            }
            assert_eq!(image.summary.fragments == 0, fragments == Fragments::Never);
        }
    }
}

#[test]
fn gzip_and_nothing_come_back_too() {
    let mut tree = Tree::new();
    for len in [1, 100, 4096, 5000, 20_000, 300_000] {
        file(&mut tree, &format!("text{len}"), text(len as u64, len));
        file(&mut tree, &format!("noise{len}"), noise(len as u64, len));
    }
    for level in [1, 6, 9] {
        let options = Options { compression: Compression::Gzip { level }, block_size: 131_072, ..options() };
        assert_unsquashfs_reads(&tree, &options);
    }
    assert_unsquashfs_reads(&tree, &Options { compression: Compression::None, ..options() });
}

#[test]
fn what_does_not_compress_is_stored_as_it_is() {
    let mut tree = Tree::new();
    file(&mut tree, "noise", noise(1, 64 * 4096));
    file(&mut tree, "small", noise(2, 100));
    for compression in [Compression::Zstd { level: 19 }, Compression::Gzip { level: 9 }, Compression::None] {
        let image = assert_unsquashfs_reads(&tree, &Options { compression, ..options() });
        assert_eq!(image.summary.data_bytes_out, 64 * 4096 + 100);
    }
}

#[test]
fn equal_files_are_stored_once() {
    let mut tree = Tree::new();
    for (name, seed, len) in [("large", 1, 50_000), ("small", 2, 500), ("exact", 3, 8192)] {
        for copy in 0..4 {
            file(&mut tree, &format!("{copy}/{name}"), noise(seed, len));
        }
    }
    let image = assert_unsquashfs_reads(&tree, &options());
    assert_eq!(image.summary.duplicates, 9);
    assert_eq!(image.summary.data_bytes_out, 50_000 + 500 + 8192);
    assert_eq!(image.summary.data_bytes_in, 4 * (50_000 + 500 + 8192));
}

#[test]
fn files_that_only_begin_alike_stay_apart() {
    let mut tree = Tree::new();
    let shared = noise(1, 8192);
    for number in 0..4_u8 {
        // Same length and first blocks; the difference is in the tail, in the last byte, or in the first block.
        file(&mut tree, &format!("tail{number}"), [&shared[..], &[number; 77]].concat());
        let mut last = noise(9, 20_000);
        last[19_999] = number;
        file(&mut tree, &format!("last{number}"), last);
        let mut first = noise(10, 20_000);
        first[5] = number;
        file(&mut tree, &format!("first{number}"), first);
        file(&mut tree, &format!("short{number}"), vec![b'a' + number; 77]);
    }
    let image = assert_unsquashfs_reads(&tree, &options());
    assert_folder_is(&image.mount().at, &tree, &options(), "kernel");
    assert_eq!(image.summary.duplicates, 0);
}

#[test]
fn blocks_that_are_there_in_a_row_are_stored_once() {
    const BLOCK: usize = 4096;
    let mut tree = Tree::new();
    let whole = noise(1, 10 * BLOCK + 100);
    let with_hole = |bytes: &[u8]| [&vec![0; 2 * BLOCK], bytes].concat();
    let mut changed = whole[..5 * BLOCK].to_vec();
    changed[4 * BLOCK + 1] ^= 1;
    let mut before = imgbuild_squashfs::Summary::default();
    for (name, bytes, shared) in [
        ("0", whole.clone(), false),
        ("1-beginning", whole[..3 * BLOCK].to_vec(), true),
        ("2-middle", whole[3 * BLOCK..7 * BLOCK].to_vec(), true),
        ("3-end", whole[8 * BLOCK..].to_vec(), true),
        ("4-behind-a-hole", with_hole(&whole[BLOCK..4 * BLOCK]), true),
        ("5-changed", changed, false),
        ("6-shifted", whole[1..=4 * BLOCK].to_vec(), false),
        ("7-not-in-a-row", [&whole[..BLOCK], &whole[2 * BLOCK..3 * BLOCK]].concat(), false),
        ("8-one-block", whole[9 * BLOCK..10 * BLOCK].to_vec(), true),
    ] {
        file(&mut tree, name, bytes.clone());
        let options = Options { block_size: BLOCK as u32, fragments: Fragments::Never, ..options() };
        let image = assert_unsquashfs_reads(&tree, &options);
        assert_folder_is(&image.mount().at, &tree, &options, "kernel");
        let grown = image.summary.data_bytes_out - before.data_bytes_out;
        assert_eq!(grown == 0, shared, "{name} took {grown} bytes");
        let more = image.summary.duplicate_blocks - before.duplicate_blocks;
        assert_eq!(more > 0, shared, "{name}: {more} blocks");
        before = image.summary.clone();
    }
}

/// What is taken back at the very end of a long image leaves nothing behind but zeros.
#[test]
fn an_image_that_ends_with_blocks_that_were_there_before() {
    let mut tree = Tree::new();
    let whole = noise(1, 50 * 4096);
    file(&mut tree, "a", whole.clone());
    file(&mut tree, "b", whole[4096..].to_vec());
    let options = Options { block_size: 4096, compression: Compression::Zstd { level: 1 }, ..options() };
    let mut out = io::Cursor::new(Vec::new());
    let summary = write(&tree, &mut out, &options, &|_| {}).unwrap();
    assert_eq!((summary.duplicate_blocks, out.position()), (49, summary.bytes_used));
    let bytes = out.into_inner();
    assert!(bytes.len() as u64 > summary.bytes_used);
    assert!(bytes[summary.bytes_used as usize..].iter().all(|byte| *byte == 0));
    let image = assert_unsquashfs_reads(&tree, &options);
    assert_folder_is(&image.mount().at, &tree, &options, "kernel");
}

#[test]
fn zeros_take_no_room() {
    let mut tree = Tree::new();
    let block = 4096;
    file(&mut tree, "all", vec![0; 100 * block]);
    file(&mut tree, "all-and-a-bit", vec![0; 100 * block + 1]);
    file(&mut tree, "end", [noise(1, block), vec![0; 9 * block]].concat());
    file(&mut tree, "begin", [vec![0; 9 * block], noise(2, block)].concat());
    file(&mut tree, "middle", [noise(3, block), vec![0; 7 * block], noise(4, block)].concat());
    file(&mut tree, "less-than-a-block", vec![0; 100]);
    for fragments in [Fragments::Never, Fragments::SmallFiles, Fragments::SmallFilesAndTails] {
        let options = Options { fragments, ..options() };
        let image = assert_unsquashfs_reads(&tree, &options);
        let mount = image.mount();
        assert_folder_is(&mount.at, &tree, &options, "kernel");
        assert!(image.summary.data_bytes_out <= 4 * block as u64 + 50, "{:?}", image.summary);
        let on_disk = |name: &str| mount.at.join(name).metadata().unwrap().blocks() * 512;
        assert_eq!(on_disk("all"), 0);
        assert_eq!(on_disk("middle"), 2 * block as u64);
    }
}

#[test]
fn a_sparse_file_over_four_gib() {
    const LEN: u64 = (5 << 30) + 12_345;
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("packed");
    std::fs::write(&packed, noise(1, 30_000)).unwrap();
    let extents = [(0, 0, 10_000), ((1 << 32) - 5000, 10_000, 10_000), (LEN - 10_000, 20_000, 10_000)];
    let extents: Vec<_> = extents
        .iter()
        .map(|(logical, physical, len)| Extent { logical: *logical, physical: *physical, len: *len })
        .collect();
    let mut tree = Tree::new();
    let content = Content::Sparse {
        file: Arc::new(File::open(&packed).unwrap()),
        path: packed.as_path().into(),
        extents: extents.into(),
        len: LEN,
    };
    file(&mut tree, "sparse", content.clone());
    file(&mut tree, "small", b"behind it".to_vec());
    let image = Image::new(&tree, &Options { block_size: 1 << 20, ..options() });
    assert!(image.summary.bytes_used < 50_000, "{:?}", image.summary);
    let mount = image.mount();
    let stat = mount.at.join("sparse").metadata().unwrap();
    assert_eq!(stat.len(), LEN);
    assert!(stat.blocks() * 512 < 5 << 20);
    let found = Content::Path { path: mount.at.join("sparse").into(), len: LEN };
    for offset in [0, 9_000, 1 << 31, (1 << 32) - 6000, 1 << 32, LEN - 10_001, LEN - 9_000] {
        let (mut is, mut should) = (vec![1; 9000], vec![2; 9000]);
        found.read_exact_at(&mut is, offset).unwrap();
        content.read_exact_at(&mut should, offset).unwrap();
        assert!(is == should, "at {offset}");
    }
    let unpacked = image.unsquash().join("sparse").metadata().unwrap();
    assert_eq!(unpacked.len(), LEN);
}

/// Content that is never zero, told by its number, and costs nothing.
struct Marked(u64, u64);

impl FileContent for Marked {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mark = (self.0 << 32 | offset >> 20).to_le_bytes();
        buf.fill(0);
        let take = mark.len().min(buf.len());
        buf[..take].copy_from_slice(&mark[..take]);
        Ok(())
    }
}

/// A file in which the zeros of long writes become holes, as the disk has better things to do.
struct Holes(File);

impl Write for Holes {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        match buf.split_at_checked(4096) {
            Some((first, rest)) if *rest == ZEROS[..rest.len()] => {
                self.0.write_all(first)?;
                self.0.seek_relative(rest.len() as i64)?;
                Ok(buf.len())
            }
            _ => self.0.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for Holes {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.0.seek(pos)
    }
}

#[test]
fn an_image_over_four_gib() {
    const LENS: [u64; 3] = [(1 << 32) - 1, 1 << 20, (5 << 20) + 7];
    let mut tree = Tree::new();
    for (number, len) in (0..).zip(LENS) {
        let kind = Kind::Regular(Marked(number + 1, len));
        let id = tree.add(Node { meta: Metadata::root_owned(0o644), kind });
        tree.link(NodeId::ROOT, format!("{number}").as_bytes(), id);
    }
    let options = Options { compression: Compression::None, block_size: 1 << 20, ..options() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let summary = write(&tree, Holes(File::create(&path).unwrap()), &options, &|_| {}).unwrap();
    assert!(summary.bytes_used > LENS.iter().sum());
    let mount = Mount::of(&path, &folder.path().join("mount"));
    for (number, len) in (0..).zip(LENS) {
        let file = File::open(mount.at.join(format!("{number}"))).unwrap();
        assert_eq!(file.metadata().unwrap().len(), len);
        for offset in [0, 2 << 20, 1 << 30, (len - 4096) >> 20 << 20].into_iter().filter(|at| at + 4096 <= len) {
            let (mut is, mut should) = ([1; 4096], [2; 4096]);
            file.read_exact_at(&mut is, offset).unwrap();
            Marked(number + 1, len).read_exact_at(&mut should, offset).unwrap();
            assert!(is == should, "file {number} at {offset}");
        }
    }
    let listed = run(Command::new("unsquashfs").arg("-lls").arg(&path));
    for (number, len) in LENS.iter().enumerate() {
        let line = listed.lines().find(|line| line.ends_with(&format!("/{number}")));
        assert!(line.unwrap().contains(&len.to_string()), "{listed}");
    }
}

#[test]
fn three_hundred_names_of_one_file() {
    let mut tree = Tree::new();
    let id = file(&mut tree, "a/first", text(1, 100_000));
    for number in 0..299 {
        let folder = if number % 2 == 0 { tree.resolve("/a").unwrap() } else { NodeId::ROOT };
        tree.link(folder, format!("name{number}").as_bytes(), id);
    }
    let image = assert_unsquashfs_reads(&tree, &options());
    let mount = image.mount();
    assert_folder_is(&mount.at, &tree, &options(), "kernel");
    assert_eq!(mount.at.join("name1").metadata().unwrap().nlink(), 300);
    assert_eq!(image.summary.inodes, 3);
    assert_eq!(image.summary.data_bytes_in, 100_000);
}

#[test]
fn contents_come_from_ranges_and_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let layer = folder.path().join("layer");
    std::fs::write(&layer, noise(1, 100_000)).unwrap();
    let open = Arc::new(File::open(&layer).unwrap());
    let mut tree = Tree::new();
    for (number, (offset, len)) in [(0, 100_000), (512, 7), (1024, 50_000), (99_999, 1)].into_iter().enumerate() {
        let path = layer.as_path().into();
        file(&mut tree, &format!("range{number}"), Content::Range { file: open.clone(), path, offset, len });
    }
    file(&mut tree, "whole", Content::Path { path: layer.as_path().into(), len: 100_000 });
    let image = assert_unsquashfs_reads(&tree, &options());
    assert_eq!(image.summary.duplicates, 1);
}
