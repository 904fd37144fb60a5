//! The on-disk format: numbers, flags and the superblock. Everything is little-endian.
//!
//! Positions are bytes from the start of the image. A *reference* to something in a table of metadata blocks is the
//! position of its block, relative to the table's start, shifted left by 16, plus the offset in the uncompressed block.

use crate::{Compression, Fragments, Options};

/// `hsqs`.
pub(crate) const MAGIC: u32 = 0x7371_7368;
/// Size of the superblock.
pub(crate) const SUPERBLOCK_SIZE: usize = 96;
/// Uncompressed size of a metadata block; only the last one of a table may be shorter.
pub(crate) const METADATA_SIZE: usize = 8192;
/// In a metadata block's 16-bit header: stored as it is.
pub(crate) const METADATA_RAW: u16 = 1 << 15;
/// In a data block's 32-bit size: stored as it is.
pub(crate) const BLOCK_RAW: u32 = 1 << 24;
/// Images are padded to a multiple of this, so that any block device holds all of it.
pub(crate) const PADDING: u64 = 4096;
/// Stands for "none" where a 32-bit index is expected.
pub(crate) const NO_INDEX: u32 = u32::MAX;
/// Stands for "no such table" in the superblock.
pub(crate) const NO_TABLE: u64 = u64::MAX;

/// Smallest and largest size of a data block.
pub(crate) const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4096..=1 << 20;
/// Longest name of a directory entry, in bytes.
pub(crate) const NAME_MAX: usize = 256;
/// Longest symbolic link, in bytes.
pub(crate) const SYMLINK_MAX: usize = 65_535;
/// Longest name of an extended attribute, its prefix included, in bytes (Linux's `XATTR_NAME_MAX`).
pub(crate) const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute, in bytes (Linux's `XATTR_SIZE_MAX`).
pub(crate) const XATTR_VALUE_MAX: usize = 65_536;
/// Entries that one directory header can stand before.
pub(crate) const RUN_MAX: usize = 256;

/// Bits of the superblock's flags.
pub(crate) mod flag {
    /// Inodes are not compressed.
    pub(crate) const RAW_INODES: u16 = 0x0001;
    /// Data blocks are not compressed.
    pub(crate) const RAW_DATA: u16 = 0x0002;
    /// Fragment blocks are not compressed.
    pub(crate) const RAW_FRAGMENTS: u16 = 0x0008;
    /// There are no fragments.
    pub(crate) const NO_FRAGMENTS: u16 = 0x0010;
    /// Tails of files longer than a block are in fragments too.
    pub(crate) const ALWAYS_FRAGMENTS: u16 = 0x0020;
    /// Files with the same content are stored once.
    pub(crate) const DUPLICATES: u16 = 0x0040;
    /// There is an export table.
    pub(crate) const EXPORT: u16 = 0x0080;
    /// Extended attributes are not compressed.
    pub(crate) const RAW_XATTRS: u16 = 0x0100;
    /// There are no extended attributes.
    pub(crate) const NO_XATTRS: u16 = 0x0200;
    /// The compressor's options follow the superblock.
    pub(crate) const COMPRESSOR_OPTIONS: u16 = 0x0400;
    /// The id table is not compressed.
    pub(crate) const RAW_IDS: u16 = 0x0800;
}

/// Numbers of compressors in the superblock.
pub(crate) mod compressor {
    pub(crate) const GZIP: u16 = 1;
    /// LZMA as it was before xz; no Linux reads it.
    pub(crate) const LZMA: u16 = 2;
    pub(crate) const LZO: u16 = 3;
    pub(crate) const XZ: u16 = 4;
    pub(crate) const LZ4: u16 = 5;
    pub(crate) const ZSTD: u16 = 6;
}

/// Compression levels that are not written down.
pub(crate) mod default_level {
    pub(crate) const GZIP: u32 = 9;
    pub(crate) const LZO: u32 = 8;
    pub(crate) const ZSTD: u32 = 15;
}

/// Little-endian integers at the end of a buffer.
pub(crate) trait Put {
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
}

/// Where the tables are and how many of what there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Superblock {
    pub(crate) inodes: u32,
    pub(crate) fragments: u32,
    pub(crate) ids: u16,
    /// Reference to the root's inode.
    pub(crate) root: u64,
    /// End of the last table; padding is not counted.
    pub(crate) bytes_used: u64,
    pub(crate) id_table: u64,
    pub(crate) xattr_table: u64,
    pub(crate) inode_table: u64,
    pub(crate) directory_table: u64,
    pub(crate) fragment_table: u64,
    pub(crate) export_table: u64,
}

impl Superblock {
    /// The superblock's bytes.
    pub(crate) fn encode(&self, options: &Options) -> Vec<u8> {
        let mut out = Vec::with_capacity(SUPERBLOCK_SIZE);
        out.put_u32(MAGIC);
        out.put_u32(self.inodes);
        out.put_u32(options.time);
        out.put_u32(options.block_size);
        out.put_u32(self.fragments);
        out.put_u16(compressor_id(options.compression));
        // A block size is a power of two of at most 2^20.
        out.put_u16(options.block_size.trailing_zeros() as u16);
        out.put_u16(self.flags(options));
        out.put_u16(self.ids);
        out.put_u16(4);
        out.put_u16(0);
        out.put_u64(self.root);
        out.put_u64(self.bytes_used);
        out.put_u64(self.id_table);
        out.put_u64(self.xattr_table);
        out.put_u64(self.inode_table);
        out.put_u64(self.directory_table);
        out.put_u64(self.fragment_table);
        out.put_u64(self.export_table);
        debug_assert_eq!(out.len(), SUPERBLOCK_SIZE);
        out
    }

    fn flags(&self, options: &Options) -> u16 {
        let mut flags = flag::DUPLICATES;
        if self.export_table != NO_TABLE {
            flags |= flag::EXPORT;
        }
        match options.fragments {
            Fragments::Never => flags |= flag::NO_FRAGMENTS,
            Fragments::SmallFiles => {}
            Fragments::SmallFilesAndTails => flags |= flag::ALWAYS_FRAGMENTS,
        }
        if compressor_options(options.compression).is_some() {
            flags |= flag::COMPRESSOR_OPTIONS;
        }
        if options.compression == Compression::None {
            flags |= flag::RAW_INODES | flag::RAW_DATA | flag::RAW_FRAGMENTS | flag::RAW_XATTRS | flag::RAW_IDS;
        }
        flags
    }
}

/// The compressor's number. Nothing compressed counts as gzip, which every kernel with squashfs is likeliest to have.
fn compressor_id(compression: Compression) -> u16 {
    match compression {
        Compression::Gzip { .. } | Compression::None => compressor::GZIP,
        Compression::Lzo => compressor::LZO,
        Compression::Xz { .. } => compressor::XZ,
        Compression::Lz4 { .. } => compressor::LZ4,
        Compression::Zstd { .. } => compressor::ZSTD,
    }
}

/// The block of options behind the superblock. Readers only show it, so it is left out where all is default; that of LZ4
/// has to be there, as Linux refuses to mount without.
pub(crate) fn compressor_options(compression: Compression) -> Option<Vec<u8>> {
    const GZIP_WINDOW_BITS: u16 = 15;
    /// The block format, which LZ4's own tools call legacy.
    const LZ4_VERSION: u32 = 1;
    const LZ4_HIGH: u32 = 1;
    let mut options = Vec::new();
    match compression {
        Compression::None
        | Compression::Zstd { level: default_level::ZSTD }
        | Compression::Gzip { level: default_level::GZIP } => return None,
        // xz's dictionary is the block size, and LZO compresses about as LZO1X-999 does: the defaults of both.
        Compression::Xz { .. } | Compression::Lzo => return None,
        Compression::Zstd { level } => options.put_u32(level),
        Compression::Gzip { level } => {
            options.put_u32(level);
            options.put_u16(GZIP_WINDOW_BITS);
            options.put_u16(0); // the default strategy only
        }
        Compression::Lz4 { high } => {
            options.put_u32(LZ4_VERSION);
            options.put_u32(if high { LZ4_HIGH } else { 0 });
        }
    }
    let mut block = Vec::new();
    block.put_u16(METADATA_RAW | options.len() as u16);
    block.extend_from_slice(&options);
    Some(block)
}
