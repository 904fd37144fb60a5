//! Archives and single files as layers: what a download or a local tar holds, under a folder of the image.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgbuild_tree::{Content, Entry, EntryKind, Metadata};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ahead::read_ahead;
use crate::cache::{Cache, CacheError, Partial};
use crate::decompress::{Compression, Decompressor};
use crate::oci::{Digest, TARS};
use crate::tar::{TarError, read_tar_known};

mod zip;

/// Bucket that says which tar an archive unpacks to ([`Unpacked`]), by the SHA-256 of the archive.
const BUCKET: &str = "archives-v2";

/// Why an archive or a file cannot be had.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is compressed, and broken or cut short.
    #[error("{}: cannot be unpacked", path.display())]
    Unpack {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A broken zip archive, or one that holds what cannot be taken.
    #[error("{}: {reason}", path.display())]
    Zip {
        /// The archive.
        path: PathBuf,
        /// What is wrong, with the name of the member.
        reason: String,
    },
    /// Neither a tar nor a zip archive.
    #[error("{}: neither a tar nor a zip archive", path.display())]
    NoArchive {
        /// The file.
        path: PathBuf,
    },
    /// Something else than a regular file.
    #[error("{}: is no regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// It was written to while it was read.
    #[error("{}: was changed while it was unpacked; build again", path.display())]
    Changed {
        /// The archive.
        path: PathBuf,
    },
    /// The tar inside is broken.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Whom an archive's files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Whom the archive says: a root file system, packed as root.
    Archive,
    /// `root:root`: a release, whose owners are those of the machine it was made on.
    Root,
}

/// What a file is, told from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// A tar archive, plain or compressed.
    Tar,
    /// A zip archive.
    Zip,
    /// No archive: a file to be taken as it is, be it compressed or not.
    Plain,
}

impl ArchiveKind {
    /// Looks at the first bytes, decompressing where needed.
    ///
    /// # Errors
    /// When the file cannot be read. A broken compressed file is no archive.
    pub fn detect(path: &Path) -> Result<Self, ArchiveError> {
        let io = |source| ArchiveError::Io { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(io)?;
        let mut first = Vec::with_capacity(4);
        Read::by_ref(&mut file).take(4).read_to_end(&mut first).map_err(io)?;
        // The second is an empty archive's.
        if first == *b"PK\x03\x04" || first == *b"PK\x05\x06" {
            return Ok(Self::Zip);
        }
        file.rewind().map_err(io)?;
        let mut block = Vec::with_capacity(512);
        let read = Decompressor::new(BufReader::new(file)).and_then(|d| d.take(512).read_to_end(&mut block));
        match read {
            Err(e) if e.raw_os_error().is_some() => Err(io(e)),
            _ if is_tar(&block) => Ok(Self::Tar),
            _ => Ok(Self::Plain),
        }
    }
}

/// Whether a block is a tar header, by its checksum; the magic alone is missing in the oldest kind.
fn is_tar(block: &[u8]) -> bool {
    let Ok(block) = <&[u8; 512]>::try_from(block) else { return false };
    let header = tar_core::Header::from_bytes(block);
    !header.is_empty() && header.verify_checksum().is_ok()
}

/// What an archive holds, under the folder `to` of the image. The archive's own root folder leaves `to` the metadata it
/// has. `sha256`, in lower-case hex, is that of the archive; what has to be unpacked is kept in the cache under it.
///
/// # Errors
/// When it is no archive, broken, cut short, or holds what must not be in a layer.
pub fn archive_entries(
    archive: &Path,
    sha256: &str,
    to: &str,
    owners: Owners,
    cache: &Cache,
) -> Result<Vec<Entry<Content>>, ArchiveError> {
    let io = |source| ArchiveError::Io { path: archive.to_path_buf(), source };
    let tar = match ArchiveKind::detect(archive)? {
        ArchiveKind::Plain => {
            // The reason may be that it is broken; then say that.
            let mut file =
                Decompressor::new(BufReader::new(File::open(archive).map_err(io)?)).map_err(|e| unpack(archive, e))?;
            io::copy(&mut file, &mut io::sink()).map_err(|e| unpack(archive, e))?;
            return Err(ArchiveError::NoArchive { path: archive.to_path_buf() });
        }
        ArchiveKind::Zip => unpacked(sha256, cache, |into| {
            zip::to_tar(archive, into)?;
            check_unchanged(archive, sha256, cache)
        })?,
        ArchiveKind::Tar => {
            let file = BufReader::new(File::open(archive).map_err(io)?);
            let plain = Decompressor::new(file).map_err(|e| unpack(archive, e))?;
            if plain.compression() == Compression::None {
                archive.to_path_buf()
            } else {
                unpacked(sha256, cache, |into| {
                    let write =
                        |chunk: &[u8]| into.write_all(chunk).map_err(|e| CacheError::write(into.partial.path(), e));
                    read_ahead(plain, write)?.map_err(|e| unpack(archive, e))?;
                    check_unchanged(archive, sha256, cache)
                })?
            }
        }
    };
    let file = File::open(&tar).map_err(|source| ArchiveError::Io { path: tar.clone(), source })?;
    // Messages name what the user gave, not the copy in the cache.
    let mut entries = read_tar_known(Arc::new(file), archive.into(), &tar, cache)?;
    for entry in &mut entries {
        move_to(entry, to.as_bytes());
        if owners == Owners::Root {
            (entry.meta.uid, entry.meta.gid) = (0, 0);
        }
    }
    Ok(entries)
}

/// What comes of an archive is kept under its hash, which was taken before: it must be of the same bytes.
fn check_unchanged(archive: &Path, sha256: &str, cache: &Cache) -> Result<(), ArchiveError> {
    let path = || archive.to_path_buf();
    let now = crate::stamp::sha256(archive, cache).map_err(|source| ArchiveError::Io { path: path(), source })?;
    if now == sha256 { Ok(()) } else { Err(ArchiveError::Changed { path: path() }) }
}

/// What the cache remembers of an archive whose tar it once made.
#[derive(Serialize, Deserialize)]
struct Unpacked {
    digest: Digest,
    size: u64,
}

/// The plain tar of the archive with this SHA-256, in the cache among those of image layers; if it is not there, or not as
/// long as it was, `make` writes it.
fn unpacked(
    sha256: &str,
    cache: &Cache,
    make: impl FnOnce(&mut Hashed<'_>) -> Result<(), ArchiveError>,
) -> Result<PathBuf, ArchiveError> {
    let (tars, archives) = (cache.bucket(TARS), cache.bucket(BUCKET));
    let known = || -> Result<Option<PathBuf>, CacheError> {
        let known = archives.get(sha256)?.and_then(|path| std::fs::read(path).ok());
        match known.and_then(|bytes| serde_json::from_slice::<Unpacked>(&bytes).ok()) {
            Some(unpacked) => tars.get_sized(&unpacked.digest.key(), unpacked.size),
            None => Ok(None),
        }
    };
    if let Some(tar) = known()? {
        return Ok(tar);
    }
    archives.remove(sha256)?;
    let mut made = None;
    let pointer = archives.insert(sha256, |pointer| -> Result<(), ArchiveError> {
        let mut unpacked = None;
        let tar = tars.insert_named(|partial| -> Result<String, ArchiveError> {
            let mut into = Hashed { partial, hasher: Digest::sha256_hasher(), size: 0 };
            make(&mut into)?;
            let Unpacked { digest, size } = unpacked.insert(Unpacked { digest: into.hasher.finish(), size: into.size });
            // One that was cut short does not stay in the way.
            tars.get_sized(&digest.key(), *size)?;
            Ok(digest.key())
        })?;
        let json = serde_json::to_vec(&unpacked).unwrap_or_default();
        pointer.write_all(&json).map_err(|e| CacheError::write(pointer.path(), e))?;
        made = Some(tar);
        Ok(())
    })?;
    match made {
        Some(tar) => Ok(tar),
        // Another build made it meanwhile.
        None => known()?.ok_or_else(|| ArchiveError::Io { path: pointer, source: io::ErrorKind::NotFound.into() }),
    }
}

/// Hashes and counts on the way into the cache.
struct Hashed<'a> {
    partial: &'a mut Partial,
    hasher: crate::oci::Hasher,
    size: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.partial.write(buf)?;
        self.hasher.update(buf.get(..written).unwrap_or(buf));
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.partial.flush()
    }
}

fn unpack(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Unpack { path: path.to_path_buf(), source }
}

/// Puts a path of the archive under a folder of the image.
fn move_to(entry: &mut Entry<Content>, to: &[u8]) {
    let below = |path: &[u8]| -> Box<[u8]> { [to, b"/", path].concat().into() };
    if matches!(entry.kind, EntryKind::Directory) && entry.path.split(|b| *b == b'/').all(|c| c.is_empty() || c == b".")
    {
        entry.kind = EntryKind::Parent;
    }
    if let EntryKind::HardLink(target) = &mut entry.kind {
        *target = below(target);
    }
    entry.path = below(&entry.path);
}

/// One file of the host as a layer: `to` is its path in the image, or with a `/` at its end the folder it goes into
/// under its own name. It belongs to `root:root` and gets `mode` and `mtime` (seconds since 1970).
///
/// # Errors
/// When it cannot be read, or is no regular file.
pub fn file_entry(path: &Path, to: &str, mode: u16, mtime: i64) -> Result<Entry<Content>, ArchiveError> {
    use std::os::unix::ffi::OsStrExt;
    let io = |source| ArchiveError::Io { path: path.to_path_buf(), source };
    let found = std::fs::metadata(path).map_err(io)?;
    if !found.is_file() {
        return Err(ArchiveError::NotAFile { path: path.to_path_buf() });
    }
    // Opened once, so that what may not be read fails here and not half-way through the image.
    drop(File::open(path).map_err(io)?);
    let mut target = to.as_bytes().to_vec();
    if to.ends_with('/') {
        target.extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
    }
    Ok(Entry {
        path: target.into(),
        meta: Metadata { mtime, ..Metadata::root_owned(mode & 0o7777) },
        kind: EntryKind::Regular(Content::Path { path: path.into(), len: found.len() }),
    })
}

#[cfg(test)]
mod tests;
