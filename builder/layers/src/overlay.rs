//! A folder of the user's as a layer.
//!
//! What a version control system does not keep, an overlay does not take from the disk either, so that every clone
//! gives the same image: everything is `root:root`, files are 0755 where their owner may execute them and else 0644,
//! folders 0755, times are one given time. A folder that stands in lower layers keeps the owner and mode it has there.
//! The file [`MANIFEST`] in the overlay says otherwise where that is wanted, and makes links. `.gitkeep` files, which only hold empty
//! folders in git, are left out.

use std::fs::{self, Metadata as DiskMetadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use imgbuild_tree::{Content, Entry, EntryKind, Metadata, sha256};
use sha2::{Digest, Sha256};
use thiserror::Error;
use walkdir::WalkDir;

use crate::glob::GlobError;

mod manifest;

pub use manifest::MANIFEST;
use manifest::Manifest;

/// Why an overlay cannot be read.
#[derive(Debug, Error)]
pub enum OverlayError {
    /// The folder is none.
    #[error("{}: the overlay is no folder", path.display())]
    NotAFolder {
        /// The overlay.
        path: PathBuf,
    },
    /// Something in it cannot be read.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something that is no file, folder or link.
    #[error("{}: a {kind} cannot be in an overlay; let tmpfiles.d or an OCI layer make it", path.display())]
    Special {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A whiteout.
    #[error("{}: an overlay adds and replaces; take paths out with [prune] in the recipe", path.display())]
    Whiteout {
        /// The file.
        path: PathBuf,
    },
    /// The manifest is no TOML of the right form.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A path of the manifest is no glob.
    #[error("{}: a path cannot be used", path.display())]
    ManifestGlob {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        source: GlobError,
    },
    /// The manifest speaks of something that is not there.
    #[error("{}: {pattern} matches nothing in the overlay; mend or remove the entry", path.display())]
    Unmatched {
        /// The manifest.
        path: PathBuf,
        /// Its pattern.
        pattern: String,
    },
}

/// Reads a folder. Entries come parents first, names in bytewise order; contents are read from the disk when they are
/// needed. `mtime` becomes the time of everything, in seconds since 1970.
///
/// # Errors
/// When something cannot be read or cannot be in an overlay, and when the manifest is wrong.
pub fn read_overlay(folder: &Path, mtime: i64) -> Result<Vec<Entry<Content>>, OverlayError> {
    let io = |path: &Path, source| OverlayError::Io { path: path.to_path_buf(), source };
    let root = fs::canonicalize(folder).map_err(|e| io(folder, e))?;
    if !root.is_dir() {
        return Err(OverlayError::NotAFolder { path: folder.to_path_buf() });
    }
    let manifest = Manifest::read(&root.join(MANIFEST))?;
    let mut said = manifest.matcher();
    let mut entries = Vec::new();
    for found in WalkDir::new(&root).min_depth(1).sort_by(|a, b| a.file_name().as_bytes().cmp(b.file_name().as_bytes()))
    {
        let found = found.map_err(|e| {
            let path = e.path().unwrap_or(&root).to_path_buf();
            OverlayError::Io { path, source: e.into() }
        })?;
        let path = found.path();
        let name = found.file_name().as_bytes();
        if name == b".gitkeep" || (found.depth() == 1 && name == MANIFEST.as_bytes()) {
            continue;
        }
        if name.starts_with(b".wh.") {
            return Err(OverlayError::Whiteout { path: path.to_path_buf() });
        }
        let disk = fs::symlink_metadata(path).map_err(|e| io(path, e))?;
        let inside = path.as_os_str().as_bytes().strip_prefix(root.as_os_str().as_bytes()).unwrap_or_default();
        let absolute = if inside.first() == Some(&b'/') { inside.to_vec() } else { [b"/", inside].concat() };
        let kind = kind(path, &disk)?;
        let mut meta = Metadata { mtime, ..Metadata::root_owned(mode(&kind, &disk)) };
        let kind = said.apply(&absolute, kind, &mut meta);
        entries.push(Entry { path: absolute.into(), meta, kind });
    }
    for link in &manifest.links {
        let path = link.path.as_bytes();
        if entries.iter().any(|entry| *entry.path == *path) {
            let reason = format!("[[link]] {}: the overlay has that path already; remove one of the two", link.path);
            return Err(OverlayError::Manifest { path: root.join(MANIFEST), reason });
        }
        let mut meta = Metadata { mtime, ..Metadata::root_owned(0o777) };
        let kind = said.apply(path, EntryKind::Symlink(link.target.as_bytes().into()), &mut meta);
        entries.push(Entry { path: path.into(), meta, kind });
    }
    said.finish()?;
    Ok(entries)
}

fn kind(path: &Path, disk: &DiskMetadata) -> Result<EntryKind<Content>, OverlayError> {
    let kind = disk.file_type();
    let special = |kind| Err(OverlayError::Special { path: path.to_path_buf(), kind });
    if kind.is_dir() {
        Ok(EntryKind::Parent)
    } else if kind.is_file() {
        Ok(EntryKind::Regular(Content::Path { path: path.into(), len: disk.len() }))
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(|source| OverlayError::Io { path: path.to_path_buf(), source })?;
        Ok(EntryKind::Symlink(target.as_os_str().as_bytes().into()))
    } else if kind.is_socket() {
        special("socket")
    } else if kind.is_fifo() {
        special("named pipe")
    } else {
        special("device")
    }
}

fn mode(kind: &EntryKind<Content>, disk: &DiskMetadata) -> u16 {
    match kind {
        EntryKind::Symlink(_) => 0o777,
        EntryKind::Regular(_) if disk.permissions().mode() & 0o100 == 0 => 0o644,
        _ => 0o755,
    }
}

/// The SHA-256 of what entries are and hold, in their order, times left out: what a lock keeps of an overlay, a file or
/// a hook. The same on every machine that has the same files.
///
/// # Errors
/// When a content cannot be read.
pub fn entries_sha256(entries: &[Entry<Content>]) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    // Every piece goes with its length before it, so that no two lists look alike.
    let mut piece = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for Entry { path, meta, kind } in entries {
        piece(path);
        piece(&(meta.xattrs.len() as u64).to_le_bytes());
        for (name, value) in &meta.xattrs {
            piece(name);
            piece(value);
        }
        piece(format!("{:o} {} {}", meta.mode, meta.uid, meta.gid).as_bytes());
        match kind {
            EntryKind::Directory => piece(b"directory"),
            EntryKind::Parent => piece(b"parent"),
            EntryKind::Regular(content) => {
                piece(b"file");
                piece(&sha256(content)?);
            }
            EntryKind::Symlink(target) => {
                piece(b"link");
                piece(target);
            }
            EntryKind::HardLink(target) => {
                piece(b"hard link");
                piece(target);
            }
            EntryKind::CharDevice(major, minor) => piece(format!("char {major} {minor}").as_bytes()),
            EntryKind::BlockDevice(major, minor) => piece(format!("block {major} {minor}").as_bytes()),
            EntryKind::Fifo => piece(b"fifo"),
            EntryKind::Socket => piece(b"socket"),
            EntryKind::Whiteout => piece(b"whiteout"),
            EntryKind::Opaque => piece(b"opaque"),
        }
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests;
