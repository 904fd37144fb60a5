//! The superblock, and the options of the compressor behind it.

use std::fmt;

use imgbuild_tree::FileContent;

use super::error::{At, ReadError};
use crate::format::{BLOCK_SIZES, MAGIC, METADATA_RAW, NO_TABLE, SUPERBLOCK_SIZE, compressor, default_level, flag};

const PART: &str = "superblock";

/// What compresses an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// Deflate in a zlib wrapper.
    Gzip,
    /// LZMA as it was before xz; no Linux reads it.
    Lzma,
    /// LZO1X.
    Lzo,
    /// LZMA2 in an xz container.
    Xz,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compressor {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            compressor::GZIP => Self::Gzip,
            compressor::LZMA => Self::Lzma,
            compressor::LZO => Self::Lzo,
            compressor::XZ => Self::Xz,
            compressor::LZ4 => Self::Lz4,
            compressor::ZSTD => Self::Zstd,
            _ => return None,
        })
    }

    /// Its name, as mksquashfs spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Lzma => "lzma",
            Self::Lzo => "lzo",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How an image was written, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    const NAMES: [(u16, &'static str); 11] = [
        (flag::RAW_INODES, "uncompressed inodes"),
        (flag::RAW_DATA, "uncompressed data"),
        (flag::RAW_FRAGMENTS, "uncompressed fragments"),
        (flag::NO_FRAGMENTS, "no fragments"),
        (flag::ALWAYS_FRAGMENTS, "tails in fragments"),
        (flag::DUPLICATES, "duplicates stored once"),
        (flag::EXPORT, "exportable"),
        (flag::RAW_XATTRS, "uncompressed extended attributes"),
        (flag::NO_XATTRS, "no extended attributes"),
        (flag::COMPRESSOR_OPTIONS, "compressor options"),
        (flag::RAW_IDS, "uncompressed ids"),
    ];

    /// What the bits that are set stand for, in words; unknown ones are left out.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Self::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| *name).collect()
    }
}

/// What an image says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// What compresses it.
    pub compressor: Compressor,
    /// At which level: what the image says, or the compressor's default where it does not. `None` for compressors without
    /// levels.
    pub level: Option<u32>,
    /// Bytes in a data block.
    pub block_size: u32,
    /// How it was written.
    pub flags: Flags,
    /// Inodes; a file with several names has one.
    pub inodes: u32,
    /// Fragment blocks.
    pub fragments: u32,
    /// Different user and group ids.
    pub ids: u16,
    /// When it was made, in seconds since 1970-01-01 UTC.
    pub created: u32,
    /// Its size in bytes, without what it may be padded with.
    pub bytes_used: u64,
    pub(super) tables: Tables,
}

/// Where the tables are; all but the first two may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tables {
    /// Reference to the root's inode.
    pub(super) root: u64,
    pub(super) inodes: u64,
    pub(super) directories: u64,
    pub(super) fragments: Option<u64>,
    pub(super) ids: u64,
    pub(super) xattrs: Option<u64>,
}

impl Superblock {
    /// Reads it and checks that it is the beginning of an image that can be read.
    pub(super) fn read(source: &dyn FileContent) -> Result<Self, ReadError> {
        let io = |source| ReadError::Io { position: 0, source };
        let mut bytes = [0; SUPERBLOCK_SIZE];
        let present = source.len().min(SUPERBLOCK_SIZE as u64) as usize;
        source.read_exact_at(&mut bytes[..present], 0).map_err(io)?;
        if !bytes.starts_with(&MAGIC.to_le_bytes()) {
            return Err(ReadError::NotSquashfs { found: bytes[..present.min(4)].to_vec() });
        }
        if present < SUPERBLOCK_SIZE {
            return Err(ReadError::Truncated { expected: SUPERBLOCK_SIZE as u64, found: source.len() });
        }
        let mut superblock = Self::parse(&bytes)?;
        if superblock.bytes_used > source.len() {
            return Err(ReadError::Truncated { expected: superblock.bytes_used, found: source.len() });
        }
        superblock.check_tables()?;
        if superblock.flags.0 & flag::COMPRESSOR_OPTIONS != 0
            && let Some(level) = &mut superblock.level
        {
            *level = written_level(superblock.compressor, source)?;
        }
        Ok(superblock)
    }

    fn parse(bytes: &[u8; SUPERBLOCK_SIZE]) -> Result<Self, ReadError> {
        let u16_at = |at| u16::from_le_bytes(part(bytes, at));
        let u32_at = |at| u32::from_le_bytes(part(bytes, at));
        let u64_at = |at| u64::from_le_bytes(part(bytes, at));
        let table = |at| Some(u64_at(at)).filter(|position| *position != NO_TABLE);
        let (major, minor) = (u16_at(28), u16_at(30));
        if (major, minor) != (4, 0) {
            return Err(ReadError::Unsupported { found: format!("version {major}.{minor}"), taken: "version 4.0" });
        }
        let number = u16_at(20);
        let compressor = Compressor::from_number(number).ok_or_else(|| ReadError::Unsupported {
            found: format!("compressor {number}"),
            taken: "1 to 6: gzip, lzma, lzo, xz, lz4 and zstd",
        })?;
        let (block_size, log) = (u32_at(12), u16_at(22));
        if !BLOCK_SIZES.contains(&block_size) || 1_u32.checked_shl(log.into()) != Some(block_size) {
            let reason = format!("a block size of {block_size} bytes, which should be 2 to the power of {log}");
            return Err(ReadError::corrupt(PART, At::byte(12), reason));
        }
        Ok(Self {
            compressor,
            level: match compressor {
                Compressor::Gzip => Some(default_level::GZIP),
                Compressor::Lzo => Some(default_level::LZO),
                Compressor::Zstd => Some(default_level::ZSTD),
                Compressor::Lzma | Compressor::Xz | Compressor::Lz4 => None,
            },
            block_size,
            flags: Flags(u16_at(24)),
            inodes: u32_at(4),
            fragments: u32_at(16),
            ids: u16_at(26),
            created: u32_at(8),
            bytes_used: u64_at(40),
            tables: Tables {
                root: u64_at(32),
                inodes: u64_at(64),
                directories: u64_at(72),
                fragments: table(80),
                ids: u64_at(48),
                xattrs: table(56),
            },
        })
    }

    /// The tables stand behind the data, inodes first, and end before the image does.
    fn check_tables(&self) -> Result<(), ReadError> {
        let tables = &self.tables;
        let places = [
            (64, "inode", SUPERBLOCK_SIZE as u64, tables.inodes),
            (72, "directory", tables.inodes, tables.directories),
            (80, "fragment", tables.directories, tables.fragments.unwrap_or(tables.directories)),
            (48, "id", tables.directories, tables.ids),
            (56, "extended attribute", tables.directories, tables.xattrs.unwrap_or(tables.directories)),
        ];
        for (at, table, first, position) in places {
            if position < first || position > self.bytes_used {
                let end = self.bytes_used;
                let reason = format!("the {table} table at byte {position}, which should be from {first} to {end}");
                return Err(ReadError::corrupt(PART, At::byte(at), reason));
            }
        }
        Ok(())
    }
}

/// The level in the options behind the superblock.
fn written_level(compressor: Compressor, source: &dyn FileContent) -> Result<u32, ReadError> {
    let position = SUPERBLOCK_SIZE as u64;
    let mut block = [0; 10];
    // There is at least an id table behind it.
    source.read_exact_at(&mut block, position).map_err(|source| ReadError::Io { position, source })?;
    let header = u16::from_le_bytes(part(&block, 0));
    let len = match compressor {
        Compressor::Zstd => 4,
        _ => 8,
    };
    // Never compressed: a few bytes do not become fewer.
    if header != METADATA_RAW | len {
        let reason = format!("a block header of {header:#06x}, where {len} uncompressed bytes should follow");
        return Err(ReadError::corrupt("compressor options", At::byte(position), reason));
    }
    // LZO has the number of its algorithm before the level.
    let at = if compressor == Compressor::Lzo { 6 } else { 2 };
    Ok(u32::from_le_bytes(part(&block, at)))
}

/// `N` bytes from `at` on, zeros where there are none.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}
