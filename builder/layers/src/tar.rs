//! Tar archives as layers: headers become [`Entry`]s, contents stay where they are in the file.
//!
//! What is read: ustar, GNU (long names, base-256 numbers, old sparse files) and PAX (long names, sizes, extended
//! attributes as `SCHILY.xattr.*` and `LIBARCHIVE.xattr.*`, sparse files 0.0, 0.1 and 1.0). Whiteouts are those of the
//! OCI image specification. Data of a kind that carries none (directories, links, devices) is taken to be absent,
//! whatever the size field says, as Go's reader does that container engines use.
//!
//! What is refused, because two readers could disagree about it or because it would leave the root: a `..` in a path or
//! a hard link's target, a NUL in a path, numbers that do not fit, sparse maps out of order, kinds we do not know.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgbuild_tree::{Content, Entry, EntryKind, Extent, Metadata, Origin};
use tar_core::parse::{Limits, ParseError, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, SparseEntry};
use thiserror::Error;

mod headers;
mod pax;
mod window;

pub(crate) use headers::read_tar_known;
use pax::Records;
use window::Window;

/// Tar's unit of length, in bytes.
const BLOCK: u64 = 512;
/// The most that the extended headers of one entry may hold, in bytes; an attribute has at most 64 KiB.
const MAX_METADATA: u32 = 4 << 20;
/// The most that an entry's headers may take in all, sparse map included, in bytes.
const MAX_HEADERS: usize = 64 << 20;
/// Linux's limit of paths and link targets, in bytes.
const PATH_MAX: u32 = 4096;
/// The longest file taken, in bytes: ext4's limit, 16 TiB. A hole costs the archive nothing but the image its block
/// lists.
const MAX_FILE: u64 = 16 << 40;
/// What a 32-bit time stamp can hold, signed or not: 1901-12-13 to 2106-02-07. Times beyond are clamped.
const TIMES: std::ops::RangeInclusive<i64> = i32::MIN as i64..=u32::MAX as i64;

/// Why an archive cannot be read. `archive` is the file read, offsets are in bytes from its beginning (after
/// decompression).
#[derive(Debug, Error)]
pub enum TarError {
    /// The file itself cannot be read.
    #[error("{archive}: cannot be read")]
    Io {
        /// The archive.
        archive: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive ends too early.
    #[error(
        "{archive}: cut short: {entry} should reach to byte {end}, but the archive ends at byte {found}; fetch it again"
    )]
    Truncated {
        /// The archive.
        archive: PathBuf,
        /// Path of the entry that is not whole.
        entry: String,
        /// Where it should end.
        end: u64,
        /// Where the archive ends.
        found: u64,
    },
    /// A header that is none.
    #[error("{archive}: broken tar header at byte {offset}, after {previous}")]
    Header {
        /// The archive.
        archive: PathBuf,
        /// Where the header stands.
        offset: u64,
        /// The entry before it.
        previous: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// An entry that cannot be taken as it is.
    #[error("{archive}: {entry}: {reason} (header at byte {offset})")]
    Entry {
        /// The archive.
        archive: PathBuf,
        /// Where its header stands.
        offset: u64,
        /// Its path.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads an uncompressed tar archive. Only headers are read; contents become ranges of `file`. `path` names the archive in
/// messages. Entries keep the archive's order; their origin is [`Origin::BUILDER`] until they are applied.
///
/// # Errors
/// When the archive is broken, cut short, or holds something that must not be in a layer.
pub fn read_tar(file: Arc<File>, path: Arc<Path>) -> Result<Vec<Entry<Content>>, TarError> {
    let io = |source| TarError::Io { archive: path.to_path_buf(), source };
    let len = file.metadata().map_err(io)?.len();
    let mut window = Window::new(&file, len);
    let mut parser = Parser::new(Limits {
        max_metadata_size: MAX_METADATA,
        max_path_len: Some(PATH_MAX),
        max_sparse_entries: 1 << 20,
        ..Limits::new()
    });
    // tar-core would refuse a negative mtime; `Records` checks what it then lets pass.
    parser.set_ignore_pax_errors(true);
    let archive = Archive { file: &file, path: &path, len, empty: Content::from(&b""[..]) };
    let mut entries = Vec::new();
    let mut previous = String::from("the beginning");
    let mut wanted = BLOCK as usize;
    loop {
        let offset = window.at();
        let input = window.bytes(wanted).map_err(io)?;
        let header =
            |source| TarError::Header { archive: path.to_path_buf(), offset, previous: previous.clone(), source };
        check_sizes(input).map_err(header)?;
        let skip = match parser.parse(input).map_err(header)? {
            ParseEvent::NeedData { min_bytes } => {
                let available = input.len();
                if min_bytes <= available || min_bytes > MAX_HEADERS {
                    return Err(header(ParseError::MetadataTooLarge {
                        size: min_bytes as u64,
                        limit: MAX_HEADERS as u32,
                    }));
                }
                if (available as u64) == len - offset {
                    // Archives without the two closing blocks, or with only one of them, are whole all the same.
                    if input.iter().all(|b| *b == 0) {
                        break;
                    }
                    let end = offset.saturating_add(min_bytes as u64);
                    let entry = format!("the header after {previous}");
                    return Err(TarError::Truncated { archive: path.to_path_buf(), entry, end, found: len });
                }
                wanted = min_bytes.max(wanted.saturating_mul(2));
                continue;
            }
            ParseEvent::End { .. } => break,
            ParseEvent::GlobalExtensions { consumed, pax_data } => {
                check_global(pax_data).map_err(|reason| TarError::Entry {
                    archive: path.to_path_buf(),
                    offset,
                    entry: "global PAX header".to_owned(),
                    reason,
                })?;
                consumed as u64
            }
            ParseEvent::Entry { consumed, entry } => {
                let read = Header { archive: &archive, offset, data: offset + consumed as u64, entry: &entry };
                let stored = read.entry(None, &mut entries)?;
                previous = String::from_utf8_lossy(&entry.path).into_owned();
                consumed as u64 + stored
            }
            ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                let read = Header { archive: &archive, offset, data: offset + consumed as u64, entry: &entry };
                let stored = read.entry(Some((&sparse_map, real_size)), &mut entries)?;
                previous = String::from_utf8_lossy(&entry.path).into_owned();
                consumed as u64 + stored
            }
        };
        window.skip(skip);
        wanted = BLOCK as usize;
    }
    Ok(entries)
}

/// The file the entries' contents are ranges of.
struct Archive<'a> {
    file: &'a Arc<File>,
    path: &'a Arc<Path>,
    len: u64,
    empty: Content,
}

/// One parsed header.
struct Header<'a> {
    archive: &'a Archive<'a>,
    /// Where the header stands.
    offset: u64,
    /// Where the content begins.
    data: u64,
    entry: &'a ParsedEntry<'a>,
}

impl Header<'_> {
    fn refuse(&self, reason: impl Into<String>) -> TarError {
        TarError::Entry {
            archive: self.archive.path.to_path_buf(),
            offset: self.offset,
            entry: self.entry.path_lossy().into_owned(),
            reason: reason.into(),
        }
    }

    /// Adds what the header says to `entries` and returns how far the next header is from the content's beginning.
    fn entry(&self, sparse: Option<(&[SparseEntry], u64)>, entries: &mut Vec<Entry<Content>>) -> Result<u64, TarError> {
        let records = Records::read(self.entry.pax).map_err(|reason| self.refuse(reason))?;
        let path = self.name(&self.entry.path)?;
        let type_flag = self.entry.header.as_ustar().typeflag[0];
        let kind = match self.entry.entry_type {
            EntryType::Regular if type_flag == 0 && path.last() == Some(&b'/') => EntryType::Directory,
            kind => kind,
        };
        let stored = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => self.stored(sparse, &records)?,
            // A volume label or a list of a directory's names: data that is no file.
            EntryType::Other(b'V' | b'D') => self.stored(None, &records)?,
            _ => 0,
        };
        let end = self.data + stored;
        if end > self.archive.len {
            return Err(TarError::Truncated {
                archive: self.archive.path.to_path_buf(),
                entry: self.entry.path_lossy().into_owned(),
                end,
                found: self.archive.len,
            });
        }
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
                EntryKind::Regular(self.content(sparse, stored)?)
            }
            EntryType::Link => EntryKind::HardLink(self.name(self.target()?)?.into()),
            EntryType::Symlink => EntryKind::Symlink(self.symlink()?),
            EntryType::Char | EntryType::Block => {
                let major = self.entry.dev_major.unwrap_or(0);
                let minor = self.entry.dev_minor.unwrap_or(0);
                if kind == EntryType::Char {
                    EntryKind::CharDevice(major, minor)
                } else {
                    EntryKind::BlockDevice(major, minor)
                }
            }
            EntryType::Directory | EntryType::Other(b'D') => EntryKind::Directory,
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::Other(b'V') => return Ok(stored.next_multiple_of(BLOCK)),
            _ => {
                let shown = char::from(type_flag).escape_default();
                return Err(self.refuse(format!("unknown kind of entry '{shown}'; repack the archive with GNU tar")));
            }
        };
        if let Some(entry) = marked(path, kind).map_err(|reason| self.refuse(reason))? {
            let meta = match entry.kind {
                EntryKind::Whiteout | EntryKind::Opaque => Metadata::root_owned(0),
                _ => self.metadata(records)?,
            };
            entries.push(Entry { meta, ..entry });
        }
        Ok(stored.next_multiple_of(BLOCK))
    }

    fn metadata(&self, records: Records) -> Result<Metadata, TarError> {
        let id = |what: &str, id: u64| {
            u32::try_from(id).map_err(|_| self.refuse(format!("{what} {id} is more than 32 bits can hold")))
        };
        let mtime = records.mtime.unwrap_or(self.entry.mtime.cast_signed());
        Ok(Metadata {
            mode: (self.entry.mode & 0o7777) as u16,
            uid: id("uid", self.entry.uid)?,
            gid: id("gid", self.entry.gid)?,
            mtime: mtime.clamp(*TIMES.start(), *TIMES.end()),
            xattrs: records.xattrs,
            origin: Origin::BUILDER,
        })
    }

    /// How many bytes of content the archive holds for this entry.
    fn stored(&self, sparse: Option<(&[SparseEntry], u64)>, records: &Records) -> Result<u64, TarError> {
        let field = &self.entry.header.as_ustar().size;
        if records.size.is_none() && field[0] & 0x80 != 0 && (field[0] != 0x80 || field[1..4] != [0; 3]) {
            return Err(self.refuse("its size is more than 64 bits can hold"));
        }
        let mut size = self.entry.size;
        if let Some((map, _)) = sparse
            && records.sparse_1_0
            && records.size.is_some()
        {
            // The PAX size covers the map too, which has been read already.
            size = map.iter().try_fold(0_u64, |sum, e| sum.checked_add(e.length)).unwrap_or(u64::MAX);
        }
        if size > MAX_FILE {
            return Err(self.refuse(format!("its size, {size} bytes, is more than the {MAX_FILE} a file can have")));
        }
        Ok(size)
    }

    fn content(&self, sparse: Option<(&[SparseEntry], u64)>, stored: u64) -> Result<Content, TarError> {
        let (file, path) = (self.archive.file, self.archive.path);
        match sparse {
            None if stored == 0 => Ok(self.archive.empty.clone()),
            None => Ok(Content::Range { file: file.clone(), path: path.clone(), offset: self.data, len: stored }),
            Some((map, len)) => {
                let extents = extents(map, self.data, stored, len).map_err(|reason| self.refuse(reason))?;
                Ok(Content::Sparse { file: file.clone(), path: path.clone(), extents: extents.into(), len })
            }
        }
    }

    fn target(&self) -> Result<&[u8], TarError> {
        self.entry.link_target.as_deref().ok_or_else(|| self.refuse("a link without a target"))
    }

    fn symlink(&self) -> Result<Box<[u8]>, TarError> {
        let target = self.target()?;
        if target.contains(&0) {
            return Err(self.refuse("a NUL byte in the link's target"));
        }
        Ok(target.into())
    }

    /// A path below the root, without NULs that fill a field up.
    fn name<'p>(&self, path: &'p [u8]) -> Result<&'p [u8], TarError> {
        let end = path.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let path = &path[..end];
        if path.contains(&0) {
            return Err(self.refuse("a NUL byte in a path"));
        }
        if path.split(|b| *b == b'/').any(|component| component == b"..") {
            let shown = String::from_utf8_lossy(path);
            return Err(self.refuse(format!("the path {shown} must stay inside the root, without any \"..\"")));
        }
        Ok(path)
    }
}

/// The entry for a path, whiteout markers understood; none for what aufs left behind. The metadata is for the caller
/// to fill in.
fn marked(path: &[u8], kind: EntryKind<Content>) -> Result<Option<Entry<Content>>, String> {
    const WHITEOUT: &[u8] = b".wh.";
    const RESERVED: &[u8] = b".wh..wh.";
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    let at = trimmed.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    let (folder, name) = trimmed.split_at(at);
    let make = |path: Vec<u8>, kind| Ok(Some(Entry { path: path.into(), meta: Metadata::root_owned(0), kind }));
    if name == b".wh..wh..opq" {
        return make(folder.to_vec(), EntryKind::Opaque);
    }
    // .wh..wh.plnk, .wh..wh.aufs, .wh..wh.orph and what is in them
    if path.split(|b| *b == b'/').any(|component| component.starts_with(RESERVED)) {
        return Ok(None);
    }
    match name.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err("a whiteout without a name".to_owned()),
        Some(hidden) => make([folder, hidden].concat(), EntryKind::Whiteout),
        None => make(path.to_vec(), kind),
    }
}

/// Where the pieces of a sparse file lie in the archive; an error in words where the map makes no sense.
fn extents(map: &[SparseEntry], data: u64, stored: u64, len: u64) -> Result<Vec<Extent>, String> {
    if len > MAX_FILE {
        return Err(format!("its size, {len} bytes, is more than the {MAX_FILE} a file can have"));
    }
    let mut extents = Vec::with_capacity(map.len());
    let (mut used, mut last) = (0_u64, 0_u64);
    for piece in map {
        let broken = || format!("its sparse map is broken at byte {} of the file", piece.offset);
        let end = piece.offset.checked_add(piece.length).filter(|end| *end <= len).ok_or_else(broken)?;
        if piece.offset < last {
            return Err(broken());
        }
        let physical = data + used;
        used = used.checked_add(piece.length).filter(|used| *used <= stored).ok_or_else(broken)?;
        last = end;
        if piece.length > 0 {
            extents.push(Extent { logical: piece.offset, physical, len: piece.length });
        }
    }
    Ok(extents)
}

/// Checks how long the extended headers say they are, before tar-core adds the lengths up: 0.1.0 lets the sum overflow.
fn check_sizes(input: &[u8]) -> Result<(), ParseError> {
    let mut rest = input;
    while let Some(block) = rest.first_chunk::<512>() {
        let header = tar_core::Header::from_bytes(block);
        let mut skip = BLOCK;
        if !header.is_empty() {
            match header.entry_type() {
                EntryType::GnuLongName | EntryType::GnuLongLink | EntryType::XHeader | EntryType::XGlobalHeader => {}
                _ => return Ok(()),
            }
            let size = header.entry_size()?;
            if size > u64::from(MAX_METADATA) {
                return Err(ParseError::MetadataTooLarge { size, limit: MAX_METADATA });
            }
            skip += size.next_multiple_of(BLOCK);
        }
        rest = rest.get(skip as usize..).unwrap_or_default();
    }
    Ok(())
}

/// Global PAX headers are ignored, as Go's reader and with it the container engines do; one that would change paths or
/// sizes is refused, since readers differ about it.
fn check_global(data: &[u8]) -> Result<(), String> {
    const DECISIVE: [&str; 3] = ["path", "linkpath", "size"];
    for record in pax::records(data) {
        let (key, _) = record?;
        if DECISIVE.iter().any(|name| name.as_bytes() == key) || key.starts_with(b"GNU.sparse.") {
            let shown = String::from_utf8_lossy(key);
            return Err(format!("it sets {shown} for all entries, which readers understand in different ways"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
