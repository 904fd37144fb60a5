//! How an image is to be written.

use crate::Error;
use crate::format::BLOCK_SIZES;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Zstandard (kernels from 4.14 on).
    Zstd {
        /// 1 (fast) to 22 (small).
        level: u32,
    },
    /// Deflate in a zlib wrapper, which squashfs calls gzip.
    Gzip {
        /// 1 (fast) to 9 (small).
        level: u32,
    },
    /// LZMA2 in an xz container: the smallest there is, and the slowest to read.
    Xz {
        /// 1 (fast) to 9 (small), as the presets of xz(1). Those differ in their dictionaries only from 6 on, and a
        /// dictionary never needs more than the block has: 6 to 9 give the same.
        level: u32,
    },
    /// LZ4 (kernels from 3.19 on): the fastest to read.
    Lz4 {
        /// Whether to take long for smaller blocks, as `mksquashfs -Xhc`; reading costs the same.
        high: bool,
    },
    /// LZO1X, for kernels that have nothing better.
    Lzo,
    /// Everything as it is, metadata too.
    None,
}

/// What compresses; a test compares it with Cargo.lock.
const LIBRARIES: &str =
    "liblzma-sys 0.4.9, lz4-sys 1.11.1+lz4-1.10.0, lzokay 2.0.1, zlib-rs 0.6.8, zstd-sys 2.1.2+zstd.1.5.7";

/// What `codec` asks of them beyond the level. Whoever changes that changes this.
const TUNING: &str = "zstd tables 18 19 3, 19 20, 19 20 4";

impl Compression {
    /// Names everything that decides what becomes of a block: the settings, and the releases of this crate and of the
    /// libraries, since another one may compress otherwise.
    #[must_use]
    pub fn fingerprint(self) -> String {
        format!("{self:?}, imgbuild-squashfs {}, {LIBRARIES}, {TUNING}", env!("CARGO_PKG_VERSION"))
    }
}

/// Which files share fragment blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fragments {
    /// None: every file has blocks of its own, the last one short.
    Never,
    /// Files shorter than a block.
    SmallFiles,
    /// Files shorter than a block, and what longer ones have beyond their last full block. Smaller, but reading the end
    /// of such a file costs one more block.
    SmallFilesAndTails,
}

/// How to write an image. The image depends on all of it but [`Options::threads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The compressor for data and metadata.
    pub compression: Compression,
    /// Bytes in a data block: a power of two from 4096 to 1048576. Larger compresses better; reading one byte means
    /// decompressing a block.
    pub block_size: u32,
    /// Which files share fragment blocks.
    pub fragments: Fragments,
    /// Worker threads; 0 is one for each core.
    pub threads: usize,
    /// Creation time of the image in seconds since 1970-01-01 UTC. Modification times after it are set back to it, and
    /// those before 1970 become 0, which is the earliest the format has.
    pub time: u32,
}

impl Default for Options {
    /// zstd at level 9, blocks of 1 MiB, small files in fragments, a thread for each core, time 0.
    fn default() -> Self {
        Self {
            compression: Compression::Zstd { level: 9 },
            block_size: 1 << 20,
            fragments: Fragments::SmallFiles,
            threads: 0,
            time: 0,
        }
    }
}

impl Options {
    /// Checks that the numbers are within their bounds; [`crate::write`] does so before anything else.
    ///
    /// # Errors
    /// [`Error::BlockSize`], [`Error::Level`].
    pub fn validate(&self) -> Result<(), Error> {
        if !BLOCK_SIZES.contains(&self.block_size) || !self.block_size.is_power_of_two() {
            return Err(Error::BlockSize { found: self.block_size });
        }
        let (algorithm, level, max) = match self.compression {
            Compression::Zstd { level } => ("zstd", level, 22),
            Compression::Gzip { level } => ("gzip", level, 9),
            Compression::Xz { level } => ("xz", level, 9),
            Compression::Lz4 { .. } | Compression::Lzo | Compression::None => return Ok(()),
        };
        if !(1..=max).contains(&level) {
            return Err(Error::Level { algorithm, found: level, max });
        }
        Ok(())
    }

    /// How many workers to start.
    pub(crate) fn workers(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n.min(1024),
        }
    }

    /// The modification time as the image has it.
    pub(crate) fn clamp(&self, mtime: i64) -> u32 {
        u32::try_from(mtime.max(0)).unwrap_or(u32::MAX).min(self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_names_the_libraries_that_are_used() {
        let lock = include_str!("../../../Cargo.lock");
        for library in LIBRARIES.split(", ") {
            let (name, version) = library.split_once(' ').unwrap();
            let package = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            assert!(lock.contains(&package), "{library} is not what Cargo.lock has: change LIBRARIES");
        }
    }
}
