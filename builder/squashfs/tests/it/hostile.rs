//! Images that are broken, by accident or on purpose: an error or a tree, never a panic, and in time.

use std::time::{Duration, Instant};

use imgbuild_squashfs::read::{Image, ImageFile, Limits, ReadError};
use imgbuild_squashfs::{Compression, Fragments, Options};
use imgbuild_tree::{Content, FileContent, Kind, Tree};

use crate::kinds::COMPRESSIONS;
use crate::readers::bytes;
use crate::trees::{everything, file, noise, options, text};

/// Broken images are read with less work than whole ones.
const LIMITS: Limits = Limits { work: 32 << 20 };

fn source() -> Tree<Content> {
    let mut tree = everything();
    for number in 0..50 {
        file(&mut tree, &format!("small/{number}"), text(number, 100 * number as usize));
    }
    file(&mut tree, "text", text(1, 40_000));
    file(&mut tree, "noise", noise(2, 20_000));
    file(&mut tree, "sparse", [vec![0; 10_000], text(5, 10_000), vec![0; 10_000]].concat());
    tree
}

/// Reads all that there is; of files that say they are long only the ends.
fn read_all(bytes: Vec<u8>) -> Result<usize, ReadError> {
    let tree = Image::new(Content::from(bytes), LIMITS)?.tree()?;
    let mut read = 0;
    for item in tree.walk() {
        if let Kind::Regular(content) = &tree.node(item.id).kind {
            read += read_ends(content).unwrap_or(0);
        }
    }
    Ok(read)
}

fn read_ends(content: &ImageFile) -> std::io::Result<usize> {
    let mut buf = vec![0; content.len().min(1 << 20) as usize];
    content.read_exact_at(&mut buf, 0)?;
    let last = content.len() - buf.len() as u64;
    content.read_exact_at(&mut buf, last)?;
    Ok(buf.len())
}

/// Numbers that are the same every time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn assert_in_time(what: &str, read: impl FnOnce()) {
    let start = Instant::now();
    read();
    assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", start.elapsed());
}

#[test]
fn flipped_bytes() {
    for (number, compression) in COMPRESSIONS.into_iter().enumerate() {
        let fragments = if number % 2 == 0 { Fragments::SmallFiles } else { Fragments::SmallFilesAndTails };
        let whole = bytes(&source(), &Options { compression, fragments, ..options() });
        // Half of the changes go where they hurt: into the superblock and the tables behind the data.
        let tables = usize::try_from(u64::from_le_bytes(whole[64..72].try_into().unwrap())).unwrap();
        for seed in 0..300 {
            let mut random = Random(0x1234_5678 + 977 * seed + number as u64);
            let mut broken = whole.clone();
            for _ in 0..=random.below(3) {
                let at = match random.below(4) {
                    0 => random.below(96),
                    1 => tables + random.below(whole.len() - tables),
                    _ => random.below(whole.len()),
                };
                broken[at] ^= 1 + random.below(255) as u8;
            }
            assert_in_time(&format!("{compression:?}, seed {seed}"), || drop(read_all(broken)));
        }
    }
}

#[test]
fn truncated_images() {
    for compression in COMPRESSIONS {
        let whole = bytes(&source(), &Options { compression, ..options() });
        for seed in 0..40 {
            let len = Random(99 + seed).below(whole.len() - 4096);
            assert!(read_all(whole[..len].to_vec()).is_err(), "{compression:?}, {len} bytes");
            // With a superblock that admits it.
            let mut broken = whole[..len.max(96)].to_vec();
            broken[40..48].copy_from_slice(&(len as u64).to_le_bytes());
            assert!(read_all(broken).is_err(), "{compression:?}, {len} bytes, said so");
        }
    }
}

/// An image whose metadata is not compressed, to be patched.
struct Patch {
    bytes: Vec<u8>,
}

impl Patch {
    fn new(tree: &Tree<Content>) -> Self {
        Self { bytes: bytes(tree, &Options { compression: Compression::None, ..options() }) }
    }

    fn u64(&self, at: usize) -> usize {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap()) as usize
    }

    /// Where some bytes stand, which are there once behind `from`.
    fn find(&self, wanted: &[u8], from: usize) -> usize {
        let mut found = self.bytes.windows(wanted.len()).enumerate().skip(from).filter(|(_, w)| *w == wanted);
        let at = found.next().unwrap().0;
        assert!(found.next().is_none(), "more than once");
        at
    }

    fn put(&mut self, at: usize, patch: &[u8]) {
        self.bytes[at..at + patch.len()].copy_from_slice(patch);
    }

    /// The inode of the file with a number: these trees have one metadata block of inodes.
    fn inode(&self, number: u32) -> usize {
        let mtime = 1_600_000_000_u32;
        self.find(&[mtime.to_le_bytes(), number.to_le_bytes()].concat(), self.u64(64)) - 8
    }

    /// The root's inode.
    fn root(&self) -> usize {
        self.u64(64) + 2 + self.u64(32)
    }

    /// What reading it says.
    fn error(self) -> String {
        let image = match Image::new(Content::from(self.bytes), LIMITS) {
            Ok(image) => image,
            Err(error) => return error.to_string(),
        };
        match image.tree().unwrap_err() {
            ReadError::Path { path, source } => format!("{path}: {source}"),
            other => other.to_string(),
        }
    }
}

fn assert_says(found: &str, expected: &[&str]) {
    for expected in expected {
        assert!(found.contains(expected), "{expected:?} is not in {found:?}");
    }
}

fn two_folders() -> Patch {
    let mut tree = Tree::new();
    file(&mut tree, "aa/one", b"1".to_vec());
    file(&mut tree, "aa/two", b"2".to_vec());
    file(&mut tree, "bb/three", b"3".to_vec());
    Patch::new(&tree)
}

#[test]
fn names_that_are_no_names() {
    for (name, shown) in [(b"o/e", "o/e"), (b"o\0e", "o\\x00e"), (b"/ne", "/ne")] {
        let mut patch = two_folders();
        let at = patch.find(b"one", patch.u64(72));
        patch.put(at, name);
        let said = patch.error();
        assert_says(
            &said,
            &["/aa: ", "directory table at byte ", &format!("\"{shown}\", which cannot be a file name")],
        );
    }
    for (good, name) in [(&b"y"[..], &b"."[..]), (b"yy", b"..")] {
        let mut tree = Tree::new();
        file(&mut tree, &format!("aa/{}", good.escape_ascii()), b"1".to_vec());
        let mut patch = Patch::new(&tree);
        let at = patch.find(good, patch.u64(72));
        patch.put(at, name);
        assert_says(&patch.error(), &["/aa: ", "which cannot be a file name"]);
    }
}

#[test]
fn names_twice_and_out_of_order() {
    for (name, after) in [(b"one", "one"), (b"aaa", "one")] {
        let mut patch = two_folders();
        let at = patch.find(b"two", patch.u64(72));
        patch.put(at, name);
        assert_says(&patch.error(), &["/aa: ", &format!("after \"{after}\", out of order")]);
    }
}

/// A directory entry is made to name another inode: place, number and type are taken from another entry.
fn redirect(patch: &mut Patch, name: &[u8], to: &[u8]) {
    let directories = patch.u64(72);
    let (name, to) = (patch.find(name, directories) - 8, patch.find(to, directories) - 8);
    let (header, to_header) = (name - 12, to - 12);
    let copy = patch.bytes[to_header..to_header + 12].to_vec();
    patch.put(header + 4, &copy[4..]);
    let copy = patch.bytes[to..to + 6].to_vec();
    patch.put(name, &copy);
}

#[test]
fn a_directory_in_itself() {
    let mut tree = Tree::new();
    file(&mut tree, "aa/bb/cc", b"1".to_vec());
    // bb in aa becomes aa.
    let mut patch = Patch::new(&tree);
    redirect(&mut patch, b"bb", b"aa");
    assert_says(&patch.error(), &["/aa/bb: ", "a directory that has another name already"]);
    // cc in bb becomes bb.
    let mut patch = Patch::new(&tree);
    redirect(&mut patch, b"cc", b"bb");
    assert_says(&patch.error(), &["/aa/bb/cc: ", "a directory that has another name already"]);
}

#[test]
fn inodes_that_disagree_with_the_directory() {
    // The entry's type.
    let mut patch = two_folders();
    let at = patch.find(b"three", patch.u64(72));
    patch.put(at - 4, &1_u16.to_le_bytes());
    assert_says(&patch.error(), &["/bb/three: ", "inode 6 of type 2, but the directory has inode 6 of type 1 there"]);
    // The inode's number.
    let mut patch = two_folders();
    let at = patch.inode(6);
    patch.put(at + 12, &5_u32.to_le_bytes());
    assert_says(&patch.error(), &["/bb/three: ", "inode 5 of type 2, but the directory has inode 6"]);
    // An inode that is none.
    let mut patch = two_folders();
    let at = patch.inode(6);
    patch.put(at, &15_u16.to_le_bytes());
    assert_says(&patch.error(), &["/bb/three: ", "an inode of type 15, which should be 1 to 14"]);
    // An owner that is none.
    let mut patch = two_folders();
    let at = patch.inode(6);
    patch.put(at + 4, &77_u16.to_le_bytes());
    assert_says(&patch.error(), &["/bb/three: ", "owner 77 of the id table, which has 3"]);
}

#[test]
fn lengths_that_nothing_stands_behind() {
    // A file of 4 GiB less a byte without a list of blocks: what stands behind it is read as one.
    let mut patch = two_folders();
    let at = patch.inode(6);
    patch.put(at + 20, &u32::MAX.to_le_bytes());
    patch.put(at + 28, &u32::MAX.to_le_bytes());
    assert_says(&patch.error(), &["/bb/three: ", "inode table at byte "]);
    // A fragment that is not there, and one that is too short.
    let mut patch = two_folders();
    let at = patch.inode(6);
    patch.put(at + 20, &9_u32.to_le_bytes());
    assert_says(&patch.error(), &["/bb/three: ", "the end of the file in fragment 9, but there are only 1"]);
    let mut patch = two_folders();
    let at = patch.inode(6);
    patch.put(at + 24, &3_u32.to_le_bytes());
    assert_says(&patch.error(), &["/bb/three: ", "1 bytes from byte 3 of fragment 0, which has at most 3"]);
    // A directory that is longer than it is.
    let mut patch = two_folders();
    let root = patch.root();
    patch.put(root + 24, &u16::MAX.to_le_bytes());
    assert_says(&patch.error(), &["/: ", "directory table at byte "]);
}

/// Ten thousand entries that all name a set of attributes of 64 KiB, and inodes that claim all memory there is.
#[test]
fn attributes_that_multiply_are_counted_every_time() {
    let mut tree = Tree::new();
    for number in 0..2000 {
        let meta = crate::trees::with_xattr(0o644, "user.shared", &[b'v'; 60_000]);
        crate::trees::put(&mut tree, &format!("{number}"), meta, Kind::Regular(Vec::new().into()));
    }
    let image = bytes(&tree, &options());
    assert!(image.len() < 100_000);
    let said = Patch { bytes: image }.error();
    assert_says(&said, &["more files, names or attributes than fit into 33554432 bytes of work"]);
}

#[test]
fn counts_that_no_table_has() {
    // Fragments, and ids, counted by the superblock.
    let mut patch = two_folders();
    patch.put(16, &u32::MAX.to_le_bytes());
    assert_says(&patch.error(), &["fragment table at byte ", "for 4294967295 entries, but the image ends at byte "]);
    let mut patch = two_folders();
    patch.put(26, &u16::MAX.to_le_bytes());
    assert_says(&patch.error(), &["id table at byte "]);
    // Tables that overlap, or are where none can be.
    for at in [48, 64, 72, 80] {
        for position in [0_u64, 95, 1 << 40, u64::MAX - 1] {
            let mut patch = two_folders();
            patch.put(at, &position.to_le_bytes());
            assert_says(&patch.error(), &["broken", "byte"]);
        }
    }
    // A root that is anywhere else.
    for root in [u64::MAX, 1 << 40, 0xffff, 5] {
        let mut patch = two_folders();
        patch.put(32, &root.to_le_bytes());
        assert_says(&patch.error(), &["/: ", "inode table at byte "]);
    }
}

#[test]
fn contents_that_cannot_be_decompressed_are_errors_of_who_reads_them() {
    let mut tree = Tree::new();
    file(&mut tree, "text", text(1, 20_000));
    for compression in COMPRESSIONS.into_iter().filter(|compression| *compression != Compression::None) {
        let mut bytes = bytes(&tree, &Options { compression, fragments: Fragments::Never, ..options() });
        // Behind the superblock and the compressor's options.
        bytes[110..1000].fill(0xff);
        let tree = Image::from_bytes(bytes).unwrap().tree().unwrap();
        let Kind::Regular(file) = &tree.node(tree.resolve("/text").unwrap()).kind else { panic!("no file") };
        let error = file.read_exact_at(&mut [0; 4096], 0).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{compression:?}: {error}");
        assert_says(&error.to_string(), &["data block at byte "]);
    }
}

#[path = "../../../../tests/fuzz/bodies/squashfs_read.rs"]
mod squashfs_read;

/// The corpus of the fuzzer, through the code that the fuzzer runs.
#[test]
fn the_corpus_of_the_fuzzer() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/squashfs_read");
    let mut files = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let is_seed = path.file_name().unwrap().as_encoded_bytes().starts_with(b"seed-");
        assert_in_time(&path.display().to_string(), || {
            let read = squashfs_read::run(&std::fs::read(&path).unwrap());
            assert!(read || !is_seed, "{}", path.display());
        });
        files += 1;
    }
    assert!(files >= 17, "{files}");
}
