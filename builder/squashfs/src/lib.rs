//! Writes squashfs 4.0 images from a [`Tree`], and [reads](read) them back.
//!
//! Nothing is unpacked and nothing needs privileges: ownership, modes, times, extended attributes (file capabilities
//! among them), devices and hard links come from the tree, contents from [`FileContent`]. The same tree and the same
//! [`Options`] give the same bytes, on any machine and with any number of threads.
//!
//! ```
//! use imgbuild_squashfs::{Compression, Options, write};
//! use imgbuild_tree::{Content, Kind, Metadata, Node, NodeId, Tree};
//!
//! let mut tree = Tree::new();
//! let hello = Kind::Regular(Content::from(&b"hello\n"[..]));
//! let hello = tree.add(Node { meta: Metadata::root_owned(0o644), kind: hello });
//! tree.link(NodeId::ROOT, b"hello", hello);
//! tree.link(NodeId::ROOT, b"again", hello); // a hard link
//!
//! let mut image = std::io::Cursor::new(Vec::new());
//! let options = Options { compression: Compression::Gzip { level: 9 }, ..Options::default() };
//! let summary = write(&tree, &mut image, &options, &|_bytes_done| {})?;
//! assert_eq!(summary.inodes, 2);
//! assert_eq!(summary.bytes_used, image.get_ref().len() as u64);
//! assert_eq!(&image.get_ref()[..4], b"hsqs");
//! # Ok::<(), imgbuild_squashfs::Error>(())
//! ```
//!
//! # What is in an image
//!
//! | part | notes |
//! |---|---|
//! | superblock | 96 bytes; written last, so that a torn image is none, but for the case below |
//! | compressor options | only where they are not the default |
//! | data | the blocks of files, and fragment blocks that hold many small files each |
//! | inodes, directories | large directories with an index |
//! | fragments, export, ids, extended attributes | look-up tables; export is what NFS needs |
//!
//! Files with the same content are stored once; so are the blocks of a file where all of them lie in a row already; blocks
//! of zeros not at all. A block that does not become smaller is stored as it is. Extended inodes are used only where the
//! basic ones have no room.
//!
//! # Never compressing twice
//!
//! [`write_known()`] takes the digests of files that are known already and a [`BlockStore`] of blocks packed earlier. A block
//! is named by the digests of what goes into it and by the compression, so it is found without reading anything. Small
//! files are put into fragment blocks layer by layer ([`imgbuild_tree::Origin`]), those that have much in common ([`Sketch`]) next
//! to each other, and where one block ends depends on the files around there alone: a change costs the blocks around it.
//!
//! If nearly all blocks are there, and the store tells their [`Outline`]s, then the image is written from its first byte to its
//! last, superblock first, and hashed on the way; one that is torn lacks the tables at its end, and cannot be mounted either.
//!
//! # Limits
//!
//! Names have at most 256 bytes, symbolic links 65535 (Linux follows at most 4095), the tree at most 65535 different
//! owners. Squashfs has the extended attributes of `user.`, `trusted.` and `security.` only: others, POSIX ACLs
//! (`system.posix_acl_access`) among them, are left out and listed in [`Summary::dropped_xattrs`].

mod chunks;
mod codec;
mod data;
mod directory;
mod duplicates;
mod error;
mod foreseen;
mod format;
mod inode;
mod inodes;
mod inventory;
mod ledger;
mod metadata;
mod options;
mod order;
mod packer;
mod pipeline;
mod plan;
pub mod read;
mod reuse;
mod runs;
mod sink;
mod sketch;
mod summary;
mod tables;
mod whole;
mod xattr;

use std::io::{Seek, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use imgbuild_tree::{FileContent, Tree};

pub use error::Error;
pub use options::{Compression, Fragments, Options};
pub use reuse::{BlockKey, BlockStore, Digest, Form, Known, Outline, Packed, Straight, fingerprint};
pub use sketch::{Sketch, Sketcher};
pub use summary::{DroppedXattr, Summary};

use data::{Data, Work};
use format::SUPERBLOCK_SIZE;
use inventory::Inventory;
use sink::Sink;
use tables::Tables;
use whole::Whole;
use xattr::XattrTable;

/// Writes an image of `tree` to `out`, beginning at its current position and leaving it behind the image. The output
/// should be empty from there on: nothing is truncated. Behind the image, which ends at [`Summary::bytes_used`], zeros can
/// be left where the last blocks turned out to be in it already.
///
/// `progress` is called on the calling thread after every block, with the uncompressed bytes done so far; the last value
/// is the [`content_bytes`] of the tree.
///
/// # Errors
/// What the format cannot hold is found before the first byte of content is read; then a content that cannot be read,
/// or an output that cannot be written. What was written by then is no image: its superblock is zero, or its tables are missing.
pub fn write<C: FileContent, W: Write + Seek>(
    tree: &Tree<C>,
    out: W,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Summary, Error> {
    write_known(tree, out, options, &Known::default(), progress)
}

/// As [`write()`], and gives the same bytes, but reads and compresses only what is not known from before.
///
/// # Errors
/// As [`write()`].
pub fn write_known<C: FileContent, W: Write + Seek>(
    tree: &Tree<C>,
    out: W,
    options: &Options,
    known: &Known<'_>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Summary, Error> {
    options.validate()?;
    let inventory = Inventory::new(tree)?;
    let xattrs = XattrTable::new(&inventory, options.compression)?;
    let work = Work::new(&inventory, options, known)?;
    let path = |file: usize| inventory.path(work.numbers[file]);
    let origin = |file: usize| inventory.inode(work.numbers[file]).node.meta.origin;
    let sources = work.sources(&path);
    // An image may have to be begun again.
    let reached = AtomicU64::new(0);
    let progress = |done| progress(reached.fetch_max(done, Ordering::Relaxed).max(done));
    // Behind the superblock.
    let head = format::compressor_options(options.compression).unwrap_or_default();
    let start = (SUPERBLOCK_SIZE + head.len()) as u64;

    let foreseen = match (known.blocks, known.straight) {
        (Some(store), Some(straight)) => {
            foreseen::foresee(&work, &sources, options, store, start)?.map(|image| (image, straight))
        }
        _ => None,
    };
    if let Some((image, straight)) = foreseen {
        let tables = Tables::new(&inventory, &image.data, &xattrs, options, image.end)?;
        if let Some(mut out) = straight().map(Whole::new) {
            out.write(&tables.superblock)?;
            out.write(&head)?;
            if image.write(&mut out, &progress)? {
                image.save(origin);
                tables.pieces.iter().try_for_each(|piece| out.write(piece))?;
                let (bytes_used, sha256) = out.finish()?;
                return Ok(Summary { sha256: Some(sha256), ..summary(bytes_used, &inventory, &image.data, xattrs) });
            }
            // A block is not what the store said: it has to be made, and everything behind it may lie elsewhere.
        }
    }
    let mut sink = Sink::new(out)?;
    sink.write(&[0; SUPERBLOCK_SIZE])?;
    sink.write(&head)?;
    let data = data::write(&work, &sources, &mut sink, options, known.blocks, &origin, &progress)?;
    let tables = Tables::new(&inventory, &data, &xattrs, options, sink.position())?;
    tables.pieces.iter().try_for_each(|piece| sink.write(piece))?;
    let bytes_used = sink.finish()?;
    sink.put_superblock(&tables.superblock)?;
    Ok(summary(bytes_used, &inventory, &data, xattrs))
}

fn summary<C: FileContent>(bytes_used: u64, inventory: &Inventory<'_, C>, data: &Data, xattrs: XattrTable) -> Summary {
    Summary {
        bytes_used,
        inodes: inventory.len(),
        data_bytes_in: data.bytes_in,
        data_bytes_out: data.bytes_out,
        data_bytes_reused: data.bytes_reused,
        fragments: data.fragment_count(),
        duplicates: data.duplicates,
        duplicate_blocks: data.duplicate_blocks,
        dropped_xattrs: xattrs.dropped,
        sha256: None,
    }
}

/// The bytes of all files of a tree, a file with several names counted once: what [`write()`]'s progress counts up to.
///
/// # Errors
/// What the format cannot hold, as [`write()`].
pub fn content_bytes<C: FileContent>(tree: &Tree<C>) -> Result<u64, Error> {
    let inventory = Inventory::new(tree)?;
    let lens = inventory.iter().map(|(_, inode)| match &inode.node.kind {
        imgbuild_tree::Kind::Regular(content) => content.len(),
        _ => 0,
    });
    Ok(lens.fold(0, u64::saturating_add))
}
