//! Bytes that go to the disk past the page cache, and are hashed on their way: a file that is written from its beginning to its end,
//! at the pace of the disk or of SHA-256.
//!
//! The page cache costs a copy, and a page for each 4 KiB that nobody asks for again soon. Past it (`O_DIRECT`, open(2)) memory,
//! places and lengths have to be whole blocks: bytes are gathered in pieces, one thread hashes them, and others write them, so that
//! the disk has the next piece in hand while more are made. Whoever has bytes puts them where they are hashed and written from.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use memmap2::{Advice, MmapMut};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use sha2::{Digest as _, Sha256};

/// What pieces end at: no disk's block is larger.
const ALIGN: usize = 4096;
/// A piece, in bytes: the larger, the fewer waits for the disk, and the more memory that is cleared first, which takes long where a
/// hypervisor has to find it (and six times as long for huge pages, which are what it is given back first).
const PIECE: usize = 1 << 20;
/// What may be put at once, in bytes, and therefore may reach beyond a piece.
const LONGEST: usize = 1 << 20;
const _: () = assert!(LONGEST <= PIECE, "what reaches beyond a piece is less than the next one");
/// Threads that write, and so pieces that the disk has in hand.
const THREADS: usize = 2;
/// Pieces that each of them brings, beside the first: those are filled, hashed, written, or wait for that, so that nobody waits for a
/// disk that is slow for a moment.
const PIECES: usize = 3;
/// Room that the file is given ahead, in bytes: a write that makes it longer has to wait for the one before it.
const ROOM: u64 = 32 << 20;

/// A file's bytes on their way.
#[derive(Debug)]
pub struct Direct {
    file: File,
    /// What is being filled.
    piece: Piece,
    /// Up to where the file has room.
    room: u64,
    done: Receiver<Done>,
    /// Until all is handed over.
    full: Option<Sender<Piece>>,
    hasher: Option<JoinHandle<[u8; 32]>>,
    writers: Vec<JoinHandle<()>>,
}

/// A piece that can be filled, unless something went wrong with it.
type Done = io::Result<Piece>;

#[derive(Debug)]
struct Piece {
    /// Begins with a page, as it has to, and has room for what reaches beyond the piece.
    memory: MmapMut,
    len: usize,
    /// Where it goes in the file.
    at: u64,
}

impl Piece {
    fn new() -> io::Result<Self> {
        let memory = MmapMut::map_anon(PIECE + LONGEST)?;
        // All at once, and not page by page as it is filled. What is beyond the piece is seldom used to its end; not every kernel can.
        let _ = memory.advise_range(Advice::PopulateWrite, 0, PIECE + LONGEST / 4);
        Ok(Self { memory, len: 0, at: 0 })
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(..self.len).unwrap_or_default()
    }
}

impl Direct {
    /// Writes `file` from its beginning on; it must be empty. What that takes is made by other threads: best some time before
    /// there is something to write.
    ///
    /// # Errors
    /// When there is no memory, or no thread, to be had.
    pub fn begin(file: &File) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flag = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        // Not every file system takes the flag.
        let past = OpenOptions::new().write(true).custom_flags(flag).open(path).or_else(|_| file.try_clone())?;
        let (back, done) = channel();
        let (hashed, come) = channel();
        let come = Arc::new(Mutex::new(come));
        let mut writers = Vec::new();
        for _ in 0..THREADS {
            let (past, plain, come, back) = (past.try_clone()?, file.try_clone()?, come.clone(), back.clone());
            let write = move || {
                (0..PIECES).for_each(|_| drop(back.send(Piece::new())));
                write_all(&past, &plain, &come, &back);
            };
            writers.push(Builder::new().name("direct".to_owned()).spawn(write)?);
        }
        let (full, come) = channel();
        let hasher = Builder::new().name("hash".to_owned()).spawn(move || hash_all(come, &hashed))?;
        let (file, piece) = (file.try_clone()?, Piece::new()?);
        Ok(Self { file, piece, room: 0, done, full: Some(full), hasher: Some(hasher), writers })
    }

    /// Lets `fill` put the next `len` bytes of the file into their place, no more than 1 MiB; false if it does not, and has put
    /// nothing there.
    ///
    /// # Errors
    /// What went wrong with earlier bytes.
    pub fn put(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8]) -> bool) -> io::Result<bool> {
        let end = self.piece.len + len.min(LONGEST);
        let place = self.piece.memory.get_mut(self.piece.len..end).filter(|place| place.len() == len);
        let place = place.ok_or_else(|| io::Error::other(format!("{len} bytes at once are too many")))?;
        if !fill(place) {
            return Ok(false);
        }
        self.piece.len = end;
        if self.piece.len >= PIECE {
            self.send()?;
        }
        Ok(true)
    }

    /// Hands the full piece on, and gets an empty one; what reaches beyond the piece goes there.
    fn send(&mut self) -> io::Result<()> {
        let mut next = self.done.recv().map_err(io::Error::other)??;
        let beyond = self.piece.memory.get(PIECE..self.piece.len).unwrap_or_default();
        next.memory
            .get_mut(..beyond.len())
            .ok_or_else(|| io::Error::other("a piece is too short"))?
            .copy_from_slice(beyond);
        (next.len, next.at) = (beyond.len(), self.piece.at + PIECE as u64);
        if next.at > self.room {
            self.room = next.at.saturating_add(ROOM);
            // Where it cannot be had beforehand, it is had by writing, and what is wrong is said then.
            let _ = fallocate(&self.file, FallocateFlags::empty(), 0, self.room);
        }
        let mut full = std::mem::replace(&mut self.piece, next);
        full.len = PIECE;
        self.hand_over(full)
    }

    fn hand_over(&self, piece: Piece) -> io::Result<()> {
        let ended = || io::Error::other("the thread that hashes has ended");
        self.full.as_ref().ok_or_else(ended)?.send(piece).map_err(|_| ended())
    }

    /// Waits until all was written, and returns the SHA-256 of it.
    ///
    /// # Errors
    /// What went wrong with any of it.
    pub fn finish(mut self) -> io::Result<[u8; 32]> {
        let end = self.piece.at + self.piece.len as u64;
        let last = std::mem::replace(&mut self.piece, Piece { memory: MmapMut::map_anon(ALIGN)?, len: 0, at: 0 });
        self.hand_over(last)?;
        let digest = self.join().ok_or_else(|| io::Error::other("nothing was hashed"))?;
        self.done.try_iter().try_for_each(|done| done.map(drop))?;
        if self.room > end {
            self.file.set_len(end)?;
        }
        Ok(digest)
    }

    /// Waits for all threads.
    fn join(&mut self) -> Option<[u8; 32]> {
        self.full = None;
        let digest = self.hasher.take().map(JoinHandle::join);
        let ends: Vec<_> = self.writers.drain(..).map(JoinHandle::join).collect();
        ends.into_iter().for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        digest.map(|digest| digest.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Direct {
    /// Nothing is written any more when it is gone.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = self.join();
        }
    }
}

fn hash_all(come: Receiver<Piece>, hashed: &Sender<Piece>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for piece in come {
        hash.update(piece.bytes());
        // They end when they are told to, and not before.
        let _ = hashed.send(piece);
    }
    hash.finalize().into()
}

fn write_all(past: &File, plain: &File, come: &Mutex<Receiver<Piece>>, back: &Sender<Done>) {
    // Whoever is free takes the next one.
    let next = || come.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(piece) = next() {
        let (whole, rest) = piece.bytes().split_at(piece.len / ALIGN * ALIGN);
        let written =
            write(past, plain, whole, piece.at).and_then(|()| plain.write_all_at(rest, piece.at + whole.len() as u64));
        // Nobody wants it back when all has been handed over.
        let _ = back.send(written.map(|()| piece));
    }
}

fn write(past: &File, plain: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    match past.write_all_at(bytes, at) {
        // A file system that takes the flag and not the pieces, or not in this place.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => plain.write_all_at(bytes, at),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside the source: /tmp may be in memory, where nothing goes past the page cache.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    fn put_all(out: &mut Direct, bytes: &[u8], at_once: usize) {
        for chunk in bytes.chunks(at_once) {
            let mut copy = |to: &mut [u8]| {
                to.copy_from_slice(chunk);
                true
            };
            assert!(out.put(chunk.len(), &mut copy).unwrap());
        }
    }

    #[test]
    fn what_is_put_is_there_whatever_its_length() {
        let folders = [folder(), tempfile::tempdir_in("/dev/shm").unwrap()];
        for len in [0, 1, 4096, PIECE - 1, PIECE, PIECE + 1, (70 << 20) + 4097] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            for (folder, at_once) in folders.iter().zip([LONGEST, 777_777]) {
                let path = folder.path().join(len.to_string());
                let mut out = Direct::begin(&File::create(&path).unwrap()).unwrap();
                put_all(&mut out, &bytes, at_once);
                assert_eq!(out.finish().unwrap(), <[u8; 32]>::from(Sha256::digest(&bytes)), "{len}");
                assert!(std::fs::read(&path).unwrap() == bytes, "{len}");
            }
        }
    }

    #[test]
    fn what_is_not_put_leaves_no_gap() {
        let folder = folder();
        let path = folder.path().join("file");
        let mut out = Direct::begin(&File::create(&path).unwrap()).unwrap();
        put_all(&mut out, b"one ", LONGEST);
        assert!(!out.put(LONGEST, &mut |_| false).unwrap());
        put_all(&mut out, b"two", LONGEST);
        let too_much = out.put(LONGEST + 1, &mut |_| true).unwrap_err();
        assert_eq!(too_much.to_string(), "1048577 bytes at once are too many");
        out.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one two");
    }

    #[test]
    fn what_is_given_up_is_not_written_to_any_more() {
        let folder = folder();
        let file = File::create(folder.path().join("file")).unwrap();
        let mut out = Direct::begin(&file).unwrap();
        put_all(&mut out, &vec![1; 20 << 20], LONGEST);
        drop(out);
        file.set_len(0).unwrap();
        file.write_all_at(b"another way", 0).unwrap();
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"another way");
    }

    #[test]
    fn a_full_disk_is_told() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut out = Direct::begin(&full).unwrap();
        put_all(&mut out, &vec![1; 5 << 20], LONGEST);
        assert_eq!(out.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
