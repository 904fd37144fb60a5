//! Bytes that go to the disk past the page cache, for a file that is written from its beginning to its end at the disk's own pace.
//!
//! The page cache costs a copy, and a page for each 4 KiB that nobody asks for again soon. Past it (`O_DIRECT`, open(2)) memory,
//! places and lengths have to be whole blocks: bytes are gathered in pieces, which threads write, so that the disk has the next
//! piece in hand while more are made.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{FallocateFlags, OFlags, fallocate};

/// What pieces begin at, in memory and in the file: no disk's block is larger.
const ALIGN: usize = 4096;
/// A piece, in bytes: the larger, the fewer waits for the disk.
const PIECE: usize = 2 << 20;
/// Threads, and so pieces that the disk has in hand.
const THREADS: usize = 2;
/// Pieces that wait for each thread, so that nobody who fills them waits for a disk that is slow for a moment.
const WAITING: usize = 2;
/// Pieces at most: all that are on their way, and the one that is being filled.
const PIECES: usize = THREADS * (1 + WAITING) + 1;
/// Room that the file is given ahead, in bytes: a write that makes it longer has to wait for the one before it.
const ROOM: u64 = 32 << 20;

/// A file's bytes on their way.
#[derive(Debug)]
pub(super) struct Direct {
    /// As it was given, for what is no whole block.
    file: File,
    /// The same past the page cache.
    past: File,
    /// What is being filled.
    piece: Piece,
    /// Up to where the file has room.
    room: u64,
    full: Vec<SyncSender<Piece>>,
    /// The thread whose turn it is.
    turn: usize,
    done: Receiver<Done>,
    /// Pieces that exist.
    pieces: usize,
    threads: Vec<JoinHandle<()>>,
}

/// A piece that can be filled again, and how it went.
type Done = (Piece, io::Result<()>);

#[derive(Debug)]
struct Piece {
    memory: Vec<u8>,
    /// Where the aligned part of `memory` begins.
    begin: usize,
    len: usize,
    /// Where it goes in the file.
    at: u64,
}

impl Piece {
    fn new(at: u64) -> Self {
        let memory = vec![0; PIECE + ALIGN];
        // Never more than ALIGN for bytes; were it, the system would refuse the piece, and it would be written in the usual way.
        let begin = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { memory, begin, len: 0, at }
    }

    /// Takes as many bytes as there is room for.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(PIECE - self.len);
        let to = self.begin + self.len;
        if let (Some(to), Some(from)) = (self.memory.get_mut(to..to + taken), bytes.get(..taken)) {
            to.copy_from_slice(from);
        }
        self.len += taken;
        taken
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(self.begin..self.begin + self.len).unwrap_or_default()
    }
}

impl Direct {
    /// Begins at the beginning of `file`, which is empty.
    pub(super) fn begin(file: &File) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flag = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let past = OpenOptions::new().write(true).custom_flags(flag).open(path)?;
        let (back, done) = channel();
        let (mut full, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..THREADS {
            let (send, come) = sync_channel(WAITING);
            let (past, plain, back) = (past.try_clone()?, file.try_clone()?, back.clone());
            threads
                .push(thread::Builder::new().name("direct".to_owned()).spawn(move || run(&past, &plain, come, back))?);
            full.push(send);
        }
        let file = file.try_clone()?;
        Ok(Self { file, past, piece: Piece::new(0), room: 0, full, turn: 0, done, pieces: 1, threads })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len == PIECE {
            self.send()?;
        }
        Ok(self.piece.take(bytes))
    }

    /// Hands the full piece to a thread, and gets an empty one.
    fn send(&mut self) -> io::Result<()> {
        let next = self.piece.at + self.piece.len as u64;
        let empty = if self.pieces < PIECES {
            self.pieces += 1;
            Piece::new(next)
        } else {
            let (piece, result) = self.done.recv().map_err(io::Error::other)?;
            result?;
            Piece { len: 0, at: next, ..piece }
        };
        if next > self.room {
            self.room = next.saturating_add(ROOM);
            // Where it cannot be had beforehand, it is had by writing, and what is wrong is said then.
            let _ = fallocate(&self.file, FallocateFlags::empty(), 0, self.room);
        }
        let full = std::mem::replace(&mut self.piece, empty);
        let thread = self.full.get(self.turn % THREADS).ok_or_else(|| io::Error::other("no thread writes"))?;
        self.turn += 1;
        thread.send(full).map_err(|_| io::Error::other("a thread that writes has ended"))
    }

    /// Waits until all was written, and returns where the file ends.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        drop(std::mem::take(&mut self.full));
        for thread in std::mem::take(&mut self.threads) {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        self.done.try_iter().try_for_each(|(_, result)| result)?;
        let end = self.piece.at + self.piece.len as u64;
        let (whole, rest) = self.piece.bytes().split_at(self.piece.len / ALIGN * ALIGN);
        write(&self.past, &self.file, whole, self.piece.at)?;
        self.file.write_all_at(rest, self.piece.at + whole.len() as u64)?;
        if self.room > end {
            self.file.set_len(end)?;
        }
        Ok(end)
    }
}

fn run(past: &File, plain: &File, come: Receiver<Piece>, back: Sender<Done>) {
    for piece in come {
        let written = write(past, plain, piece.bytes(), piece.at);
        // Nobody wants it back when all has been handed over.
        let _ = back.send((piece, written));
    }
}

fn write(past: &File, plain: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    match past.write_all_at(bytes, at) {
        // A file system that takes the flag and not the pieces, or not in this place.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => plain.write_all_at(bytes, at),
        written => written,
    }
}
