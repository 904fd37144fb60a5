//! A sliding view of a file: headers are read, contents jumped over.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much is read at once, in bytes: the headers of some links and folders, or a small file and what follows it. Most of
/// a tar is contents, which nobody reads here; a longer piece costs more than the calls it saves.
const PIECE: usize = 8 << 10;

pub(super) struct Window<'f> {
    file: &'f File,
    /// Length of the file.
    len: u64,
    /// What the buffer holds, and where in the file that begins.
    buffer: Vec<u8>,
    start: u64,
    /// Where the reader stands.
    at: u64,
}

impl<'f> Window<'f> {
    pub(super) fn new(file: &'f File, len: u64) -> Self {
        Self { file, len, buffer: Vec::new(), start: 0, at: 0 }
    }

    /// Where the next byte stands in the file.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Goes on by `count` bytes; the caller has checked that they are there.
    pub(super) fn skip(&mut self, count: u64) {
        self.at = self.at.saturating_add(count).min(self.len);
    }

    /// At least `wanted` bytes from here on, or all that are left.
    pub(super) fn bytes(&mut self, wanted: usize) -> io::Result<&[u8]> {
        let left = self.len - self.at;
        let wanted = left.min(wanted as u64) as usize;
        if self.held() < wanted {
            let size = left.min(wanted.max(PIECE) as u64) as usize;
            self.buffer.resize(size, 0);
            self.file.read_exact_at(&mut self.buffer, self.at)?;
            self.start = self.at;
        }
        let from = (self.at - self.start) as usize;
        Ok(&self.buffer[from.min(self.buffer.len())..])
    }

    /// How many bytes from here on the buffer holds.
    fn held(&self) -> usize {
        let end = self.start + self.buffer.len() as u64;
        if self.at < self.start { 0 } else { end.saturating_sub(self.at) as usize }
    }
}
