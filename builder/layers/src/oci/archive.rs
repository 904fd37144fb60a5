//! Members of a tar archive by name, and contents as readers.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use imgbuild_tree::{Content, EntryKind, FileContent};

use super::error::OciError;
use crate::cache::Cache;
use crate::decompress::{Compression, Decompressor};
use crate::tar::read_tar;

/// Symbolic links followed from one member to the next before it is called a circle.
const MOST_LINKS: usize = 16;

/// An archive whose members can be had in any order.
pub(crate) struct Archive {
    members: HashMap<Vec<u8>, EntryKind<Content>>,
}

impl Archive {
    /// Reads the headers of the tar at `path`. A compressed one is decompressed into an unnamed file first, since nobody can
    /// jump about in it otherwise.
    pub(crate) fn open(path: &Path, kind: &'static str, cache: &Cache) -> Result<Self, OciError> {
        let read = |source| OciError::Read { path: path.to_owned(), source };
        let not_a = |e: &dyn std::error::Error| {
            let mut reason = e.to_string();
            if let Some(source) = e.source() {
                reason = format!("{reason}: {source}");
            }
            OciError::NotA { path: path.to_owned(), kind, reason }
        };
        let file = File::open(path).map_err(read)?;
        let decoder = Decompressor::new(BufReader::with_capacity(1 << 17, &file)).map_err(|e| not_a(&e))?;
        let file = if decoder.compression() == Compression::None {
            drop(decoder);
            file
        } else {
            let scratch = cache.scratch()?;
            copy_or_full(decoder, &scratch, cache.dir()).map_err(|e| match e {
                CopyError::Read(e) => not_a(&e),
                CopyError::Write(e) => e.into(),
            })?;
            scratch
        };
        let entries = read_tar(Arc::new(file), path.into()).map_err(|e| not_a(&e))?;
        Ok(Self { members: entries.into_iter().map(|entry| (normal(&entry.path), entry.kind)).collect() })
    }

    /// The content of a regular member; links are followed.
    pub(crate) fn get(&self, name: &str) -> Option<&Content> {
        let mut name = normal(name.as_bytes());
        for _ in 0..MOST_LINKS {
            name = match self.members.get(&name)? {
                EntryKind::Regular(content) => return Some(content),
                EntryKind::HardLink(target) => normal(target),
                // From the folder that holds the link, as a file system has it.
                EntryKind::Symlink(target) if !target.starts_with(b"/") => {
                    let folder =
                        name.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| name.get(..at).unwrap_or_default());
                    normal(&[folder, b"/", target].concat())
                }
                EntryKind::Symlink(target) => normal(target),
                _ => return None,
            };
        }
        None
    }
}

/// `/`-separated without empty, `.` and `..` parts; `..` never leaves the top.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// A content read from its beginning to its end.
pub(crate) struct ContentReader<'a> {
    content: &'a Content,
    at: u64,
}

impl<'a> ContentReader<'a> {
    pub(crate) fn new(content: &'a Content) -> Self {
        Self { content, at: 0 }
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.content.len().saturating_sub(self.at);
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let Some(buf) = buf.get_mut(..take) else { return Ok(0) };
        if !buf.is_empty() {
            self.content.read_exact_at(buf, self.at)?;
            self.at += take as u64;
        }
        Ok(take)
    }
}

/// The whole of a small content; one over `most` bytes is refused before it is read.
pub(crate) fn read_small(content: &Content, most: u64) -> io::Result<Vec<u8>> {
    if content.len() > most {
        return Err(io::Error::other(format!("{} bytes, where {most} are plenty", content.len())));
    }
    let mut bytes = Vec::new();
    ContentReader::new(content).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Which side of a copy failed.
pub(crate) enum CopyError {
    Read(io::Error),
    Write(crate::cache::CacheError),
}

/// Copies everything into a file of the cache; a full disk is told apart.
fn copy_or_full(mut from: impl Read, mut to: &File, place: &Path) -> Result<(), CopyError> {
    use std::io::Write as _;
    let mut buf = vec![0; 1 << 17];
    loop {
        let n = match from.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(CopyError::Read(e)),
        };
        let chunk = buf.get(..n).unwrap_or_default();
        to.write_all(chunk).map_err(|e| CopyError::Write(crate::cache::CacheError::write(place, e)))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_plain_and_stay_inside() {
        for (path, plain) in [("./a//b/", "a/b"), ("a/../b", "b"), ("../../x", "x"), ("/", "")] {
            assert_eq!(normal(path.as_bytes()), plain.as_bytes());
        }
    }
}
