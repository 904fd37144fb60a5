//! Puts bundles on a boot server and moves the pointers.
//!
//! A boot server is a folder that any HTTP server can serve (design §7):
//!
//! ```text
//! /boot.ipxe                      one entry point for every machine
//! /nodes/52-54-00-12-34-56.ipxe   what one machine boots; yours to write
//! /nodes/default.ipxe             what all others boot; written once, then yours
//! /channels/worker/stable.ipxe    the pointer: chains to one version
//! /images/worker/1.4.2/…          a bundle; never rewritten
//! /catalog.json                   what is there, for people and tools
//! ```
//!
//! The order of work is what makes it safe at any moment, a power cut included: the version is copied under another
//! name, read back and compared with its `SHA256SUMS`, renamed; the pointer is replaced by a rename, last of all that
//! a boot depends on. The pointer also holds its own history, so that a rollback is one rename as well.

mod catalog;
mod disk;
mod entry;
mod error;
mod image;
mod pointer;
mod site;

pub use catalog::{CATALOG, Catalog, ChannelEntry, ImageEntry};
pub use error::Error;
pub use pointer::{Pointer, VersionId};
pub use site::{Move, Published, Stored, catalog, channel, publish, roll_forward, rollback};
