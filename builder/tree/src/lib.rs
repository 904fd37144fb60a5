//! A root file system in memory.
//!
//! Layers become [`Entry`] lists, [`Tree::apply`] merges them, and the squashfs and cpio writers read the result. The tree
//! is flat: nodes live in one table and directories name them by [`NodeId`], so a hard link is nothing but a second
//! name for one id. It is generic over what a regular file's content is; [`Content`] is what the builder uses: bytes in
//! memory or a range of a file in the cache, never an unpacked copy.

mod content;
mod dump;
mod extract;
mod merge;
mod node;
mod tree;

pub use content::{Content, Extent, FileContent, sha256};
pub use dump::{DumpError, DumpOptions};
pub use extract::ExtractError;
pub use merge::{Entry, EntryKind, MergeError, TypeChange};
pub use node::{Kind, Metadata, Node, NodeId, Origin, Xattrs};
pub use tree::{LookupError, Tree, Walk, WalkItem};

/// The tree the builder works on.
pub type RootTree = Tree<Content>;
