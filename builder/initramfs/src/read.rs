//! Reads an initrd back: every archive in it, as the kernel unpacks them one over the other.
//!
//! Nothing in an initrd is trusted: lengths are checked before they are believed, and what would take more memory than
//! [`MAX_UNPACKED`] is refused.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imgbuild_tree::{Content, Kind, Metadata, Node, NodeId, Origin, Tree};
use thiserror::Error;

use crate::cpio::{MAGIC, PATH_MAX, TRAILER};

/// Bytes of memory that an initrd may take: the files of its compressed segments, and names and [`ENTRY`] bytes for each file
/// and folder.
pub const MAX_UNPACKED: u64 = 1 << 30;
/// What a file or folder takes in memory besides name and content, in bytes, and a little more.
const ENTRY: u64 = 512;
/// How a zstd frame begins (RFC 8878 §3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes of a header without the name.
const HEADER: usize = 110;
const BUFFER: usize = 64 << 10;

/// Why an initrd cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file cannot be read, or a frame cannot be decompressed.
    #[error("at byte {offset}")]
    Io {
        /// Where in the file.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The bytes are not what the kernel takes.
    #[error("at byte {offset}: {reason}; this reads newc archives, plain or compressed with zstd")]
    Malformed {
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

type Result<T> = std::result::Result<T, ReadError>;

/// Reads an initrd. Files of uncompressed segments stay where they are, the others come into memory.
///
/// # Errors
/// When it cannot be read, is cut short, or is compressed with something else than zstd.
pub fn read(path: &Path, file: File) -> Result<Tree<Content>> {
    read_within(path, file, MAX_UNPACKED)
}

fn read_within(path: &Path, file: File, limit: u64) -> Result<Tree<Content>> {
    let mut stored = Stored { file: Arc::new(file), path: path.into(), position: 0, buffer: Vec::new(), used: 0 };
    let mut unpacking = Unpacking { tree: Tree::new(), budget: Budget { limit, left: limit } };
    loop {
        stored.skip_zeros()?;
        let offset = stored.position;
        match stored.peek()? {
            None => return Ok(unpacking.tree),
            Some(ZSTD_MAGIC) => {
                let mut frames = Frames { state: Some(State::End(&mut stored)) };
                while unpacking.archive(&mut frames)? {}
            }
            Some(start) if MAGIC.starts_with(&start) => drop(unpacking.archive(&mut stored)?),
            Some(start) => return Err(malformed(offset, format!("no archive begins with {start:02x?}"))),
        }
    }
}

fn malformed(offset: u64, reason: impl Into<String>) -> ReadError {
    ReadError::Malformed { offset, reason: reason.into() }
}

/// What archives are read from.
trait Source: Read {
    /// Where the file stands, for messages.
    fn offset(&self) -> u64;
    /// The next `len` bytes as a file's content.
    fn content(&mut self, len: u64, budget: &mut Budget) -> Result<Content>;
}

/// Bytes that may come into memory.
struct Budget {
    limit: u64,
    left: u64,
}

impl Budget {
    fn charge(&mut self, offset: u64, bytes: u64) -> Result<()> {
        let too_much = || malformed(offset, format!("it takes more than {} bytes of memory", self.limit));
        self.left = self.left.checked_sub(bytes).ok_or_else(too_much)?;
        Ok(())
    }
}

/// The initrd's own bytes.
struct Stored {
    file: Arc<File>,
    path: Arc<Path>,
    /// Of the next byte to be read.
    position: u64,
    buffer: Vec<u8>,
    /// How much of the buffer has been read.
    used: usize,
}

impl Stored {
    fn peek(&self) -> Result<Option<[u8; 4]>> {
        let mut start = [0; 4];
        match self.file.read_exact_at(&mut start, self.position) {
            Ok(()) => Ok(Some(start)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(source) => Err(ReadError::Io { offset: self.position, source }),
        }
    }

    fn skip_zeros(&mut self) -> Result<()> {
        loop {
            let offset = self.position;
            let bytes = self.fill_buf().map_err(|source| ReadError::Io { offset, source })?;
            let zeros = bytes.iter().take_while(|b| **b == 0).count();
            let more = zeros == bytes.len() && zeros > 0;
            self.consume(zeros);
            if !more {
                return Ok(());
            }
        }
    }

    fn jump(&mut self, len: u64) {
        self.position += len;
        self.buffer.clear();
        self.used = 0;
    }
}

impl BufRead for Stored {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used >= self.buffer.len() {
            self.buffer.resize(BUFFER, 0);
            self.used = 0;
            let read = self.file.read_at(&mut self.buffer, self.position);
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        Ok(self.buffer.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.used += amount;
        self.position += amount as u64;
    }
}

impl Read for Stored {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buf)?;
        self.consume(read);
        Ok(read)
    }
}

impl Source for Stored {
    fn offset(&self) -> u64 {
        self.position
    }

    fn content(&mut self, len: u64, _: &mut Budget) -> Result<Content> {
        let offset = self.position;
        let size = self.file.metadata().map_err(|source| ReadError::Io { offset, source })?.len();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(malformed(offset, format!("a file of {len} bytes goes beyond the end")));
        }
        self.jump(len);
        Ok(Content::Range { file: self.file.clone(), path: self.path.clone(), offset, len })
    }
}

/// zstd frames that follow each other without a gap.
struct Frames<'a> {
    /// There but while it changes.
    state: Option<State<'a>>,
}

enum State<'a> {
    Inside(Box<zstd::Decoder<'static, &'a mut Stored>>),
    End(&'a mut Stored),
}

impl Read for Frames<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let stored = match self.state.take() {
                None => return Ok(0),
                Some(State::Inside(mut decoder)) => {
                    let read = decoder.read(buf)?;
                    if read > 0 || buf.is_empty() {
                        self.state = Some(State::Inside(decoder));
                        return Ok(read);
                    }
                    decoder.finish()
                }
                Some(State::End(stored)) => stored,
            };
            let another = stored.peek().map_err(io::Error::other)? == Some(ZSTD_MAGIC);
            if !another {
                self.state = Some(State::End(stored));
                return Ok(0);
            }
            self.state = Some(State::Inside(Box::new(zstd::Decoder::with_buffer(stored)?.single_frame())));
        }
    }
}

impl Source for Frames<'_> {
    fn offset(&self) -> u64 {
        match &self.state {
            Some(State::Inside(decoder)) => decoder.get_ref().position,
            Some(State::End(stored)) => stored.position,
            None => 0,
        }
    }

    fn content(&mut self, len: u64, budget: &mut Budget) -> Result<Content> {
        let offset = self.offset();
        budget.charge(offset, len)?;
        let mut bytes = Vec::new();
        let read =
            self.by_ref().take(len).read_to_end(&mut bytes).map_err(|source| ReadError::Io { offset, source })?;
        if (read as u64) < len {
            return Err(malformed(offset, format!("a file of {len} bytes ends after {read}")));
        }
        Ok(Content::from(bytes))
    }
}

struct Unpacking {
    tree: Tree<Content>,
    budget: Budget,
}

/// One entry's header: the fields that matter, in their order.
struct Header {
    inode: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    mtime: u32,
    size: u32,
    major: u32,
    minor: u32,
    name: Vec<u8>,
}

impl Unpacking {
    /// Reads one archive up to its trailer; `false` if there was nothing but padding.
    fn archive(&mut self, source: &mut impl Source) -> Result<bool> {
        // Names of one file, by the number that they share.
        let mut links: HashMap<u32, NodeId> = HashMap::new();
        let mut first = true;
        while let Some(header) = header(source, first)? {
            first = false;
            if header.name == TRAILER {
                return Ok(true);
            }
            self.entry(&header, source, &mut links)?;
        }
        Ok(false)
    }

    fn entry(&mut self, header: &Header, source: &mut impl Source, links: &mut HashMap<u32, NodeId>) -> Result<()> {
        let offset = source.offset();
        let shown = || String::from_utf8_lossy(&header.name).into_owned();
        let path: Vec<_> = header.name.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
        if path.contains(&b"..".as_slice()) {
            return Err(malformed(offset, format!("{} leads out of the archive", shown())));
        }
        self.budget.charge(offset, ENTRY + header.name.len() as u64)?;
        let content = source.content(u64::from(header.size), &mut self.budget)?;
        padding(source, u64::from(header.size))?;
        let Some((name, parents)) = path.split_last() else { return Ok(()) };
        let parent = self.folder(parents, offset)?;
        let kind = match header.mode & 0o170_000 {
            0o040_000 => {
                let id = self.folder(&path, offset)?;
                self.tree.node_mut(id).meta = metadata(header);
                return Ok(());
            }
            0o100_000 => Kind::Regular(content),
            0o120_000 => Kind::Symlink(
                bytes(&content, header.size)
                    .ok_or_else(|| malformed(offset, format!("{}: a link target of {} bytes", shown(), header.size)))?,
            ),
            0o020_000 => Kind::CharDevice { major: header.major, minor: header.minor },
            0o060_000 => Kind::BlockDevice { major: header.major, minor: header.minor },
            0o010_000 => Kind::Fifo,
            0o140_000 => Kind::Socket,
            other => return Err(malformed(offset, format!("{}: there is no file type {other:o}", shown()))),
        };
        let id = match links.get(&header.inode) {
            Some(id) if header.links > 1 => {
                // The data stands with the last of the names.
                if header.size > 0 {
                    self.tree.node_mut(*id).kind = kind;
                }
                *id
            }
            _ => {
                let id = self.tree.add(Node { meta: metadata(header), kind });
                if header.links > 1 {
                    links.insert(header.inode, id);
                }
                id
            }
        };
        self.tree.link(parent, name, id);
        Ok(())
    }

    /// The folder at a path, made if it is missing, in the place of anything else that stands there.
    fn folder(&mut self, path: &[&[u8]], offset: u64) -> Result<NodeId> {
        let mut here = NodeId::ROOT;
        for name in path {
            let there = self.tree.children(here).and_then(|children| children.get(*name)).copied();
            here = match there.filter(|id| self.tree.node(*id).kind.is_directory()) {
                Some(id) => id,
                None => {
                    self.budget.charge(offset, ENTRY + name.len() as u64)?;
                    let kind = Kind::Directory(std::collections::BTreeMap::new());
                    let id = self.tree.add(Node { meta: Metadata::root_owned(0o755), kind });
                    self.tree.link(here, name, id);
                    id
                }
            };
        }
        Ok(here)
    }
}

fn metadata(header: &Header) -> Metadata {
    Metadata {
        mode: (header.mode & 0o7777) as u16,
        uid: header.uid,
        gid: header.gid,
        mtime: i64::from(header.mtime),
        xattrs: imgbuild_tree::Xattrs::new(),
        origin: Origin::BUILDER,
    }
}

/// A link target.
fn bytes(content: &Content, len: u32) -> Option<Box<[u8]>> {
    use imgbuild_tree::FileContent;
    let mut bytes = vec![0; (1..PATH_MAX).contains(&(len as usize)).then_some(len as usize)?];
    content.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes.into())
}

/// The next header with its name; nothing where a compressed segment ends before a `first` one.
fn header(source: &mut impl Source, first: bool) -> Result<Option<Header>> {
    let offset = source.offset();
    let failed = |source| ReadError::Io { offset, source };
    let mut raw = [0; HEADER];
    // Archives in one segment may be padded, to 4 bytes at least.
    loop {
        let mut word = [0; 4];
        let read = source.by_ref().take(4).read(&mut word).map_err(failed)?;
        if read == 0 && first {
            return Ok(None);
        }
        source.read_exact(word.get_mut(read..).unwrap_or_default()).map_err(failed)?;
        if !(first && word == [0; 4]) {
            raw[..4].copy_from_slice(&word);
            break;
        }
    }
    source.read_exact(&mut raw[4..]).map_err(failed)?;
    let Some(fields) = raw.strip_prefix(MAGIC).and_then(fields) else {
        return Err(malformed(offset, "not a header of a newc archive"));
    };
    let [inode, mode, uid, gid, links, mtime, size, _, _, major, minor, name_size, _] = fields;
    let length = name_size as usize;
    if !(1..=PATH_MAX).contains(&length) {
        return Err(malformed(offset, format!("a name of {name_size} bytes")));
    }
    let mut name = vec![0; length];
    source.read_exact(&mut name).map_err(failed)?;
    name.pop();
    if name.contains(&0) {
        return Err(malformed(offset, "a name with a NUL in it"));
    }
    padding(source, HEADER as u64 + u64::from(name_size))?;
    Ok(Some(Header { inode, mode, uid, gid, links, mtime, size, major, minor, name }))
}

/// Thirteen numbers of eight hex digits.
fn fields(digits: &[u8]) -> Option<[u32; 13]> {
    let mut fields = [0; 13];
    for (field, digits) in fields.iter_mut().zip(digits.chunks_exact(8)) {
        let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *field = u32::from_str_radix(text, 16).ok()?;
    }
    Some(fields)
}

/// Skips to the next multiple of 4 after `len` bytes.
fn padding(source: &mut impl Source, len: u64) -> Result<()> {
    let offset = source.offset();
    let mut rest = [0; 3];
    let wanted = rest.get_mut(..((4 - len % 4) % 4) as usize).unwrap_or_default();
    source.read_exact(wanted).map_err(|source| ReadError::Io { offset, source })
}

#[cfg(test)]
mod tests;
