//! Segments: what the kernel reads one after the other from one initrd.
//!
//! Each is a cpio archive, compressed or not, and zero-padded to 512 bytes. The kernel wants every one to begin at a
//! multiple of 4; neither plain concatenation nor the EFI stub sees to it, and the kernel boots without what it cannot
//! find. An uncompressed segment of early microcode must be the first.

use std::io::{self, Write};

use imgbuild_tree::{DumpOptions, FileContent, Tree};
use sha2::{Digest as _, Sha256};

use crate::cpio;
use crate::error::{Error, Result};

/// Every segment's length is a multiple of this many bytes.
pub const ALIGNMENT: u64 = 512;
/// The lowest zstd level.
pub const MIN_LEVEL: i32 = 1;
/// The highest zstd level. From 20 on the window, which the kernel holds in memory, is 32 MiB and more; the kernel
/// refuses over 128 MiB (`ZSTD_WINDOWSIZE_MAX` in `lib/decompress_unzstd.c`).
pub const MAX_LEVEL: i32 = 19;
/// Level 9: an initrd of server drivers takes 1.4 s of CPU and 6.1 MB, with level 19 12.6 s and 5.4 MB.
pub const DEFAULT_LEVEL: i32 = 9;

/// Compressing threads; each holds a few windows of memory.
const MOST_WORKERS: usize = 8;

/// How a segment is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is: for what is compressed already (a squashfs) or what the kernel must find before it can decompress.
    None,
    /// One zstd frame with a checksum of its content, at this level ([`MIN_LEVEL`] to [`MAX_LEVEL`]).
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(DEFAULT_LEVEL)
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the archive before compression.
    pub unpacked: u64,
    /// Bytes written, padding included: a multiple of [`ALIGNMENT`].
    pub stored: u64,
}

/// Appends a tree as one segment to `out`, which must itself stand at a multiple of [`ALIGNMENT`].
///
/// The same tree and compression give the same bytes, with the same version of zstd and any number of processors.
///
/// # Errors
/// As [`cpio::Writer::member`]; a level out of range.
pub fn write<C: FileContent, W: Write>(tree: &Tree<C>, compression: Compression, out: W) -> Result<Written> {
    write_observed(tree, compression, out, |_| {})
}

/// As [`write`]; `observe` is called, often, with the bytes of the archive that went in so far.
///
/// # Errors
/// As [`write`].
pub fn write_observed<C: FileContent, W: Write>(
    tree: &Tree<C>,
    compression: Compression,
    out: W,
    observe: impl FnMut(u64),
) -> Result<Written> {
    let mut out = Counter { out, count: 0, observe: |_| {} };
    let unpacked = match compression {
        Compression::None => cpio::write_tree(tree, Counter { out: &mut out, count: 0, observe })?,
        Compression::Zstd(level) if !(MIN_LEVEL..=MAX_LEVEL).contains(&level) => {
            return Err(Error::Level { level, min: MIN_LEVEL, max: MAX_LEVEL });
        }
        Compression::Zstd(level) => {
            let mut encoder = zstd::Encoder::new(&mut out, level).map_err(Error::Write)?;
            encoder.include_checksum(true).map_err(Error::Write)?;
            // Where zstd cuts its input into jobs depends on the level alone, as long as there is at least one worker.
            let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
            encoder.multithread(workers as u32).map_err(Error::Write)?;
            let unpacked = cpio::write_tree(tree, Counter { out: &mut encoder, count: 0, observe })?;
            encoder.finish().map_err(Error::Write)?;
            unpacked
        }
    };
    let padding = (ALIGNMENT - out.count % ALIGNMENT) % ALIGNMENT;
    out.write_all(&[0; ALIGNMENT as usize][..padding as usize]).map_err(Error::Write)?;
    out.flush().map_err(Error::Write)?;
    Ok(Written { unpacked, stored: out.count })
}

/// A tree as one segment in memory.
///
/// # Errors
/// As [`write`].
pub fn to_bytes<C: FileContent>(tree: &Tree<C>, compression: Compression) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(tree, compression, &mut bytes)?;
    Ok(bytes)
}

/// Keeps compressed segments, each with the length of its archive behind it, from one build to the next: drivers and
/// firmware stay the same while configurations change.
///
/// A store is a convenience: what goes wrong in it is its own affair. What it hands out it must have checked.
pub trait SegmentStore {
    /// The segment of this name, if it is there.
    fn load(&self, key: &str) -> Option<Vec<u8>>;
    /// Takes a segment that [`SegmentStore::load`] did not have.
    fn save(&self, key: &str, segment: &[u8]);
}

/// Names a segment by all that decides its bytes.
///
/// # Errors
/// When a content cannot be read.
pub(crate) fn key<C: FileContent>(tree: &Tree<C>, compression: Compression) -> Result<String> {
    let dump = tree
        .dump(DumpOptions { mtime: true, content: true, origin: false })
        .map_err(|e| Error::Read { path: e.path, source: e.source })?;
    let mut hash = Sha256::new();
    let (zstd, ours) = (zstd::zstd_safe::version_string(), env!("CARGO_PKG_VERSION"));
    hash.update(format!("segment 1, {compression:?}, zstd {zstd}, imgbuild-initramfs {ours}\n"));
    hash.update(dump);
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Counter<W, F> {
    out: W,
    count: u64,
    observe: F,
}

impl<W: Write, F: FnMut(u64)> Write for Counter<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.count += written as u64;
        (self.observe)(self.count);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
