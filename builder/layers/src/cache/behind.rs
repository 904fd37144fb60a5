//! Bytes that go to the disk while more of them are written, so that nobody has to wait for all of them at the end.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Written between two calls to the disk, in bytes.
const STEP: u64 = 16 << 20;

/// What sends a file's bytes to the disk from time to time, on a thread of its own.
#[derive(Debug, Default)]
pub(super) struct Behind {
    since: u64,
    thread: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl Behind {
    /// So many bytes more were written to `file`.
    pub(super) fn wrote(&mut self, file: &File, bytes: usize) {
        self.since = self.since.saturating_add(bytes as u64);
        if self.since < STEP {
            return;
        }
        self.since = 0;
        if self.thread.is_none() {
            self.thread = start(file).ok();
        }
        if let Some((wake, _)) = &self.thread {
            // If it is at it still, it will be told again.
            let _ = wake.try_send(());
        }
    }

    /// Waits for the thread. The system tells of an error once: who writes on has to know what it said.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let Some((wake, thread)) = self.thread.take() else { return Ok(()) };
        drop(wake);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn start(file: &File) -> io::Result<(SyncSender<()>, JoinHandle<io::Result<()>>)> {
    let file = file.try_clone()?;
    let (wake, woken) = sync_channel(1);
    let work = move || woken.iter().try_for_each(|()| file.sync_data());
    Ok((wake, thread::Builder::new().name("write behind".to_owned()).spawn(work)?))
}

/// A file whose bytes go to the disk while more are written to it.
#[derive(Debug)]
pub struct WriteBehind {
    file: File,
    behind: Behind,
}

impl WriteBehind {
    /// Writes to `file` from where it stands.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, behind: Behind::default() }
    }

    /// The file as it is now.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file, much of which has reached the disk. To be sure of the rest, sync it.
    ///
    /// # Errors
    /// When the disk did not take something.
    pub fn finish(mut self) -> io::Result<File> {
        self.behind.finish()?;
        Ok(self.file)
    }
}

impl Write for WriteBehind {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buf)?;
        self.behind.wrote(&self.file, written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for WriteBehind {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_written_is_there_whatever_its_length() {
        for len in [0, 1, STEP as usize - 1, 3 * STEP as usize + 5] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let mut out = WriteBehind::new(tempfile::tempfile().unwrap());
            for chunk in bytes.chunks(1 << 20) {
                out.write_all(chunk).unwrap();
            }
            assert_eq!(out.behind.thread.is_some(), len as u64 > STEP);
            out.seek(SeekFrom::Start(0)).unwrap();
            if len > 0 {
                out.write_all(b"\xff").unwrap();
            }
            let (mut file, mut found) = (out.finish().unwrap(), Vec::new());
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut found).unwrap();
            assert_eq!(found.len(), len);
            assert!(found.get(1..) == bytes.get(1..) && found.first().is_none_or(|first| *first == 0xff));
        }
    }
}
