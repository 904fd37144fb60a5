//! Images are written and read back with other people's tools: unsquashfs, the kernel, sqfs2tar.
//!
//! Runs as root, as the owners, devices and capabilities in the trees want it, with squashfs-tools, squashfs-tools-ng
//! and tar installed.

// Clippy knows tests by their attribute, not the functions they share.
#![allow(clippy::panic, clippy::unwrap_used)]

mod contents;
mod deterministic;
mod dump;
mod failures;
mod folder;
mod foreign;
mod hostile;
mod kinds;
mod limits;
mod random;
mod readers;
mod reading;
mod reuse;
mod trees;
