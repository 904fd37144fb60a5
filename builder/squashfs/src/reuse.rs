//! Blocks that were compressed before.
//!
//! What a block becomes depends on the bytes that go into it and on the compression alone. So whoever knows the digests of
//! the files can name a block before it is read, and a [`BlockStore`] can hand out what became of it the last time.

use imgbuild_tree::{NodeId, Origin};
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use crate::options::Compression;
use crate::sketch::Sketch;

/// SHA-256 of a file's content.
pub type Digest = [u8; 32];

/// Names a block by what goes into it: the pieces of which files, and how they are compressed.
pub type BlockKey = [u8; 32];

/// A change of what a key stands for gives all blocks new names.
const FORMAT: &[u8] = b"imgbuild-squashfs block 1\0";

/// A block as it is in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packed<'a> {
    /// Nothing but zeros: not stored at all.
    Hole,
    /// Compressed.
    Compressed(&'a [u8]),
    /// As it was: it would not have become smaller.
    Raw(&'a [u8]),
}

/// How a block that [`BlockStore::load`] put into the buffer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Nothing but zeros; the buffer is empty.
    Hole,
    /// Compressed.
    Compressed,
    /// As it was.
    Raw,
}

/// What is known of a packed block without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    /// How it is stored.
    pub form: Form,
    /// Its length as it is stored, in bytes; 0 for a hole.
    pub len: u32,
    /// The [`fingerprint()`] of these bytes.
    pub fingerprint: u32,
}

/// The lower half of the XXH3-64 of a packed block: blocks with different ones differ.
#[must_use]
pub fn fingerprint(packed: &[u8]) -> u32 {
    xxh3_64(packed) as u32
}

/// Keeps packed blocks from one image to the next.
///
/// A store is a convenience: what goes wrong in it is its own affair, and the image is the same without it. What it hands
/// out it must have checked; the writer takes it as it is.
pub trait BlockStore: Sync {
    /// What is known of a block before it is read. With a store that knows this of all blocks, or nearly all, an image is
    /// written in one go from its beginning to its end.
    fn outline(&self, key: &BlockKey) -> Option<Outline> {
        let _ = key;
        None
    }

    /// Puts the block into `buffer`, whose content is replaced; nothing if it is not there, or not whole. Called by many
    /// threads at once.
    fn load(&self, key: &BlockKey, buffer: &mut Vec<u8>) -> Option<Form>;

    /// As [`BlockStore::load`], into memory of the length that [`BlockStore::outline`] has told; what is in it is of no account where
    /// nothing is returned.
    fn load_exact(&self, key: &BlockKey, to: &mut [u8]) -> Option<Form> {
        let mut buffer = Vec::new();
        let form = self.load(key, &mut buffer)?;
        if buffer.len() != to.len() {
            return None;
        }
        to.copy_from_slice(&buffer);
        Some(form)
    }

    /// Takes a block that [`BlockStore::load`] did not have, made of files of this origin. Called in the order of the image,
    /// which is always the same.
    fn save(&self, key: &BlockKey, origin: Origin, block: Packed<'_>);
}

/// Takes an image from its first byte to its last, and hashes it on the way. What was taken is given up if this is dropped before
/// it is finished.
pub trait Straight {
    /// Lets `fill` put the next `len` bytes into their place, no more than 1 MiB. False if it did not, and the image cannot be had
    /// this way.
    ///
    /// # Errors
    /// What went wrong with the output.
    fn put(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8]) -> bool) -> std::io::Result<bool>;

    /// Waits until all of it is written, and returns its SHA-256.
    ///
    /// # Errors
    /// What went wrong with the output.
    fn finish(self: Box<Self>) -> std::io::Result<Digest>;
}

/// What is known beforehand, so that files need not be read and blocks not be compressed again.
#[derive(Default, Clone, Copy)]
pub struct Known<'a> {
    /// For each node of the tree, by [`NodeId::index`], the digest of its content; may be shorter than the tree. A wrong
    /// one puts another file's content into the image.
    pub digests: &'a [Option<Digest>],
    /// Likewise what each resembles. A wrong one puts it among files that it is not like.
    pub sketches: &'a [Option<Sketch>],
    /// Where packed blocks are kept.
    pub blocks: Option<&'a dyn BlockStore>,
    /// Called when it turns out that hardly anything is left to do but to copy such blocks, before the first byte is written: the
    /// image goes there then, and not to the output. If nothing is returned, or a block cannot be had, it is written to the output
    /// from its beginning on.
    pub straight: Option<&'a dyn Fn() -> Option<Box<dyn Straight + 'a>>>,
}

impl std::fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("digests", &self.digests.len()).finish_non_exhaustive()
    }
}

impl Known<'_> {
    /// The digest of a node's content, if it is known.
    pub(crate) fn digest(&self, id: NodeId) -> Option<Digest> {
        self.digests.get(id.index()).copied().flatten()
    }

    /// What a node's content resembles, if it is known.
    pub(crate) fn sketch(&self, id: NodeId) -> Option<Sketch> {
        self.sketches.get(id.index()).copied().flatten()
    }
}

/// Part of a block: so many bytes of a file, from there on.
pub(crate) struct KeyPiece {
    pub(crate) digest: Digest,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// Names blocks for one compression.
#[derive(Clone)]
pub(crate) struct Namer(Sha256);

impl Namer {
    pub(crate) fn new(compression: Compression) -> Self {
        let mut hash = Sha256::new();
        hash.update(FORMAT);
        hash.update(compression.fingerprint().as_bytes());
        hash.update([0]);
        Self(hash)
    }

    /// The name of a block of these pieces. A fragment block is stored even if it is nothing but zeros.
    pub(crate) fn name(&self, fragment: bool, pieces: impl Iterator<Item = KeyPiece>) -> BlockKey {
        let mut hash = self.0.clone();
        hash.update([u8::from(fragment)]);
        for piece in pieces {
            hash.update(piece.digest);
            hash.update(piece.offset.to_le_bytes());
            hash.update(piece.len.to_le_bytes());
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_depends_on_everything_that_goes_into_the_block() {
        let piece = |digest: u8, offset, len| KeyPiece { digest: [digest; 32], offset, len };
        let zstd = Namer::new(Compression::Zstd { level: 9 });
        let names = [
            zstd.name(false, [piece(1, 0, 10)].into_iter()),
            zstd.name(true, [piece(1, 0, 10)].into_iter()),
            zstd.name(false, [piece(2, 0, 10)].into_iter()),
            zstd.name(false, [piece(1, 1, 10)].into_iter()),
            zstd.name(false, [piece(1, 0, 11)].into_iter()),
            zstd.name(true, [piece(1, 0, 10), piece(2, 0, 1)].into_iter()),
            zstd.name(true, [piece(2, 0, 1), piece(1, 0, 10)].into_iter()),
            Namer::new(Compression::Zstd { level: 8 }).name(false, [piece(1, 0, 10)].into_iter()),
            Namer::new(Compression::Gzip { level: 9 }).name(false, [piece(1, 0, 10)].into_iter()),
        ];
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
    }
}
