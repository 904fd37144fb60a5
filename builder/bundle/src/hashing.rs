//! A file that is hashed while it is written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use sha2::{Digest as _, Sha256};

/// Read at once, in bytes: little enough to stay in a processor's cache.
const STEP: usize = 1 << 18;

/// Passes bytes on to a file, and has a thread read and hash what has been written, so that the hash is there when the file is. This
/// can only be done while the file is written from its beginning to its end.
#[derive(Debug)]
pub struct Hashing<W> {
    out: W,
    path: PathBuf,
    worth_it: fn(&[u8]) -> bool,
    position: u64,
    reader: State,
}

#[derive(Debug)]
enum State {
    NotBegun,
    Begun(Reader),
    GivenUp,
}

impl<W: Write + Seek> Hashing<W> {
    /// Writes to `out`, which is the empty file at `path`. The first bytes written decide whether it is `worth_it`: whether no other
    /// place than the end will be written to after them.
    pub fn new(out: W, path: PathBuf, worth_it: fn(&[u8]) -> bool) -> Self {
        Self { out, path, worth_it, position: 0, reader: State::NotBegun }
    }

    /// The file, and the SHA-256 of all that was written; none if it was not written from its beginning to its end.
    #[must_use]
    pub fn finish(mut self) -> (W, Option<[u8; 32]>) {
        let hash = match std::mem::replace(&mut self.reader, State::GivenUp) {
            State::Begun(reader) => reader.finish(),
            State::NotBegun | State::GivenUp => None,
        };
        (self.out, hash)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buf)?;
        if written > 0 && self.position == 0 && matches!(self.reader, State::NotBegun) {
            let reader = if (self.worth_it)(buf) { Reader::start(self.path.clone()).ok() } else { None };
            self.reader = reader.map_or(State::GivenUp, State::Begun);
        }
        self.position += written as u64;
        if let State::Begun(reader) = &self.reader {
            reader.wrote(self.position);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Seek> Seek for Hashing<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = self.out.seek(to)?;
        if position != self.position {
            self.position = position;
            self.reader = State::GivenUp;
        }
        Ok(position)
    }
}

/// A thread that hashes a file as it grows.
#[derive(Debug)]
struct Reader {
    progress: Arc<(Mutex<Progress>, Condvar)>,
    thread: Option<JoinHandle<io::Result<[u8; 32]>>>,
}

#[derive(Debug, Default)]
struct Progress {
    written: u64,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing more comes.
    Whole,
    /// Nobody wants to know any more.
    Off,
}

impl Reader {
    fn start(path: PathBuf) -> io::Result<Self> {
        let progress = Arc::<(Mutex<Progress>, Condvar)>::default();
        let theirs = Arc::clone(&progress);
        let thread = thread::Builder::new().name("hash".to_owned()).spawn(move || follow(&path, &theirs))?;
        Ok(Self { progress, thread: Some(thread) })
    }

    fn tell(&self, what: impl FnOnce(&mut Progress)) {
        what(&mut self.progress.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.progress.1.notify_one();
    }

    fn wrote(&self, position: u64) {
        self.tell(|progress| progress.written = position);
    }

    /// The hash; none if the file could not be read.
    fn finish(mut self) -> Option<[u8; 32]> {
        self.tell(|progress| progress.end = Some(End::Whole));
        self.thread.take()?.join().ok()?.ok()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.tell(|progress| progress.end = Some(End::Off));
            let _ = thread.join();
        }
    }
}

fn follow(path: &std::path::Path, progress: &(Mutex<Progress>, Condvar)) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer, mut done) = (Sha256::new(), vec![0; STEP], 0);
    loop {
        let guard = progress.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |progress: &mut Progress| progress.end.is_none() && progress.written == done;
        let guard = progress.1.wait_while(guard, waits).unwrap_or_else(PoisonError::into_inner);
        let (written, end) = (guard.written, guard.end);
        drop(guard);
        match end {
            Some(End::Off) => return Err(io::ErrorKind::Interrupted.into()),
            Some(End::Whole) if done == written => return Ok(hash.finalize().into()),
            _ => {}
        }
        while done < written {
            let step = (written - done).min(STEP as u64) as usize;
            file.read_exact(&mut buffer[..step])?;
            hash.update(&buffer[..step]);
            done += step as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(len: usize, chunk: usize, change: impl FnOnce(&mut Hashing<File>)) -> (Vec<u8>, Option<[u8; 32]>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut out = Hashing::new(File::create(&path).unwrap(), path.clone(), |first| first.starts_with(b"yes"));
        let bytes: Vec<u8> = b"yes".iter().copied().chain((0..len).map(|at| (at % 251) as u8)).collect();
        for piece in bytes.chunks(chunk) {
            out.write_all(piece).unwrap();
        }
        change(&mut out);
        let hash = out.finish().1;
        (std::fs::read(&path).unwrap(), hash)
    }

    #[test]
    fn the_hash_is_that_of_the_file() {
        for (len, chunk) in [(0, 10), (1, 10), (100_000, 7777), (3_000_000, 1 << 20), (5_000_000, 300_000)] {
            let (bytes, hash) = make(len, chunk, |_| {});
            assert_eq!(hash, Some(Sha256::digest(&bytes).into()), "{len} bytes");
        }
    }

    #[test]
    fn a_seek_to_where_it_is_changes_nothing_and_any_other_gives_up() {
        let (bytes, hash) = make(1000, 10, |out| {
            assert_eq!(out.stream_position().unwrap(), 1003);
            out.write_all(b"more").unwrap();
        });
        assert_eq!(hash, Some(Sha256::digest(&bytes).into()));
        let (bytes, hash) = make(1_000_000, 1000, |out| {
            out.seek(SeekFrom::Start(5)).unwrap();
            out.write_all(b"x").unwrap();
        });
        assert_eq!((bytes[5], hash), (b'x', None));
        // Neither from its beginning on, if it is not the first time.
        let (_, hash) = make(10, 10, |out| {
            out.seek(SeekFrom::Start(0)).unwrap();
            out.write_all(b"yes").unwrap();
        });
        assert_eq!(hash, None);
    }

    #[test]
    fn what_does_not_begin_so_is_not_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut out = Hashing::new(File::create(&path).unwrap(), path, |first| first.starts_with(b"yes"));
        out.write_all(b"no").unwrap();
        out.write_all(b"yes").unwrap();
        assert_eq!(out.finish().1, None);
    }
}
