//! Nodes: what a name in a directory stands for.

use std::collections::BTreeMap;

/// Extended attributes by full name (`security.capability`), values as bytes.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Index of a node in its tree. Valid only for the tree that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// The root directory of every tree.
    pub const ROOT: Self = Self(0);

    /// The id as an index, for tables that run parallel to the tree's (see [`crate::Tree::len`]).
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which layer a node came from: the position of the layer in the recipe, or one of the constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(pub u16);

impl Origin {
    /// Made by imgbuild itself: folders nobody shipped, mount points, `/etc/machine-id`.
    pub const BUILDER: Self = Self(u16::MAX);
}

/// What every node has, whatever its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with set-uid, set-gid and sticky: `0o7777` at most, no file type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970-01-01 UTC.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// The layer that last set this node.
    pub origin: Origin,
}

impl Metadata {
    /// `root:root` with this mode, time 0, no extended attributes, made by the builder.
    #[must_use]
    pub fn root_owned(mode: u16) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: 0, xattrs: Xattrs::new(), origin: Origin::BUILDER }
    }
}

/// What kind of thing a node is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<C> {
    /// A directory: names (one path component each, never empty, `.`, `..` or with a `/` or NUL) in bytewise order.
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    /// A regular file.
    Regular(C),
    /// A symbolic link and the bytes it holds.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

impl<C> Kind<C> {
    /// The kind in a word, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::Regular(_) => "regular file",
            Self::Symlink(_) => "symbolic link",
            Self::CharDevice { .. } => "character device",
            Self::BlockDevice { .. } => "block device",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
        }
    }

    /// The file type bits of `st_mode` (`S_IFDIR` and so on).
    #[must_use]
    pub fn type_bits(&self) -> u16 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice { .. } => 0o020_000,
            Self::Directory(_) => 0o040_000,
            Self::BlockDevice { .. } => 0o060_000,
            Self::Regular(_) => 0o100_000,
            Self::Symlink(_) => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }
}

/// One inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<C> {
    /// Owner, mode, times, extended attributes, origin.
    pub meta: Metadata,
    /// What it is.
    pub kind: Kind<C>,
}
