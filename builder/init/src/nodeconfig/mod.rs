//! This node's configuration: what `netboot.config=` names, a JSON document of the boot server.
//!
//! It gives the node its name, values to its hooks, and files to its root, so that simple cases need no hook. It is
//! checked as a whole before anything of it is used, and every mistake is named with its place and what was found there.

mod read;
mod schema;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::rootfs;

pub use read::{Parsed, parse};
pub use schema::{FIELDS, Field, Kind, json_schema, markdown};

/// The most bytes that a configuration may have: it is data for people, and it lies in memory.
pub const MOST_BYTES: u64 = 1024 * 1024;

/// A node's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// Host name, with or without a domain.
    pub hostname: Option<String>,
    /// Environment variables for the hooks, by name.
    pub variables: BTreeMap<String, String>,
    /// Files for the new root, in order.
    pub files: Vec<ConfigFile>,
}

/// A file for the new root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Absolute, without `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it is to hold.
    pub contents: String,
}

impl NodeConfig {
    /// Writes the files into the new root, owned by root. Symbolic links on their way lead into it, never out of it.
    ///
    /// # Errors
    ///
    /// [`Error::File`] with the path.
    pub fn write_files(&self, root: &Path) -> Result<()> {
        for file in &self.files {
            rootfs::write(root, &file.path, file.contents.as_bytes(), file.mode)?;
        }
        Ok(())
    }
}

/// Keeps the document as it came, for hooks that want more of it, in a file that only root reads.
///
/// # Errors
///
/// [`Error::File`].
pub fn keep(folder: &Path, document: &[u8]) -> Result<()> {
    write_private(&folder.join("config.json"), document)
}

/// Writes a file that only root reads: what is in the node's configuration may be nobody else's business.
///
/// # Errors
///
/// [`Error::File`].
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> Result<()> {
    // The mode first.
    fs::write(path, "")
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
        .and_then(|()| fs::write(path, contents))
        .map_err(Error::file("write", path))
}

#[cfg(test)]
mod tests;
