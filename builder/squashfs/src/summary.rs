//! What was written.

/// What is in an image that was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Size of the image in bytes, padding included: a multiple of 4096.
    pub bytes_used: u64,
    /// Inodes; a file with several names has one.
    pub inodes: u32,
    /// Bytes of all files, holes and duplicates included.
    pub data_bytes_in: u64,
    /// Bytes that their blocks take in the image.
    pub data_bytes_out: u64,
    /// Bytes of files in blocks that a store had, so that they were not compressed again.
    pub data_bytes_reused: u64,
    /// Fragment blocks.
    pub fragments: u32,
    /// Files stored by pointing at another one's content.
    pub duplicates: u32,
    /// Blocks of other files stored by pointing at blocks that the image had already.
    pub duplicate_blocks: u64,
    /// SHA-256 of the image, padding included, if it was written from its beginning to its end: with a store that had (nearly) all
    /// blocks and told their outlines.
    pub sha256: Option<crate::Digest>,
    /// Extended attributes that squashfs cannot hold, by name.
    pub dropped_xattrs: Vec<DroppedXattr>,
}

/// An extended attribute that was left out, because squashfs has no number for its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedXattr {
    /// Its full name.
    pub name: String,
    /// The first file that has it.
    pub first: String,
    /// How many files have it.
    pub files: u64,
}
