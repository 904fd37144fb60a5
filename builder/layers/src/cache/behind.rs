//! Bytes that go to the disk while more of them are written, so that nobody has to wait for all of them at the end.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::direct::Direct;

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
    /// Set from outside.
    straight: Arc<AtomicBool>,
    direct: Option<Direct>,
}

impl WriteBehind {
    /// Writes to `file` from where it stands.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, behind: Behind::default(), straight: Arc::default(), direct: None }
    }

    /// To be set before the first byte if the file will be written straight from its beginning to its end, as fast as can be,
    /// and not be read soon: then its bytes go past the page cache, where the file system can do that.
    #[must_use]
    pub fn straight(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.straight)
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
        self.settle()?;
        self.behind.finish()?;
        Ok(self.file)
    }

    /// Goes on in the usual way.
    fn settle(&mut self) -> io::Result<()> {
        let Some(direct) = self.direct.take() else { return Ok(()) };
        let end = direct.finish()?;
        self.file.seek(SeekFrom::Start(end)).map(drop)
    }
}

impl Write for WriteBehind {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.straight.swap(false, Ordering::Relaxed)
            && self.file.stream_position()? == 0
            && self.file.metadata()?.len() == 0
        {
            // Not every file system can.
            self.direct = Direct::begin(&self.file).ok();
        }
        if let Some(direct) = &mut self.direct {
            return direct.write(buf);
        }
        let written = self.file.write(buf)?;
        self.behind.wrote(&self.file, written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.settle()?;
        self.file.flush()
    }
}

impl Seek for WriteBehind {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.settle()?;
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_goes_straight_is_there_whatever_its_length() {
        // Beside the source: /tmp may be in memory, where nothing goes past the page cache.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for len in [0, 1, 4096, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, (70 << 20) + 4097] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let path = folder.path().join(len.to_string());
            let mut out = WriteBehind::new(File::create(&path).unwrap());
            out.straight().store(true, Ordering::Relaxed);
            for chunk in bytes.chunks(777_777) {
                out.write_all(chunk).unwrap();
            }
            assert_eq!(out.direct.is_some(), len > 0);
            out.finish().unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "{len}");
        }
    }

    #[test]
    fn what_went_straight_can_be_written_over_and_gone_on_with() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("file");
        let mut out = WriteBehind::new(File::create(&path).unwrap());
        out.straight().store(true, Ordering::Relaxed);
        out.write_all(&vec![1; 9 << 20]).unwrap();
        assert_eq!(out.stream_position().unwrap(), 9 << 20);
        out.write_all(b"end").unwrap();
        out.seek(SeekFrom::Start(2)).unwrap();
        out.write_all(b"\xff").unwrap();
        out.finish().unwrap();
        let found = std::fs::read(&path).unwrap();
        assert_eq!((found.len(), &found[..4], &found[9 << 20..]), ((9 << 20) + 3, &[1, 1, 0xff, 1][..], &b"end"[..]));
    }

    #[test]
    fn what_was_begun_in_the_usual_way_goes_on_so() {
        let mut out = WriteBehind::new(tempfile::tempfile().unwrap());
        out.write_all(b"begun").unwrap();
        out.straight().store(true, Ordering::Relaxed);
        out.write_all(b" so").unwrap();
        assert!(out.direct.is_none());
        let (mut file, mut found) = (out.finish().unwrap(), String::new());
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut found).unwrap();
        assert_eq!(found, "begun so");
    }

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
