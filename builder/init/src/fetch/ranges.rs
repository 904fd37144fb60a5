//! A file by several requests at once, each for a piece of it, read in order as if it came by one.

use std::io::{self, Cursor, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::{Client, http::Response};

/// How many requests at once there may be: a boot server has its nodes to serve as well.
pub const MOST_CONNECTIONS: u32 = 8;
/// Bytes that one request asks for. There are twice as many pieces in memory as requests at once, at most.
pub(super) const PIECE: u64 = 2 << 20;
/// Bytes that are handed on at a time, at most.
const CHUNK: usize = 64 * 1024;

/// The bytes of the file in order. Those who fetch end when this does.
pub(super) struct Ranges {
    pieces: Receiver<Arriving>,
    piece: Option<Arriving>,
    chunk: Cursor<Vec<u8>>,
    /// Bytes that have not come into `chunk` yet.
    left: u64,
    failed: Option<String>,
}

/// A piece on its way, at the end where it is read.
struct Arriving {
    chunks: Receiver<Result<Vec<u8>, String>>,
    left: u64,
}

/// The same at the end where it is fetched.
struct Piece {
    offset: u64,
    length: u64,
    chunks: Sender<Result<Vec<u8>, String>>,
}

/// What those who fetch have in common.
struct Work {
    client: Client,
    url: String,
    total: u64,
    ahead: Mutex<Ahead>,
}

/// The first piece that nobody fetches yet, and where those that somebody does are queued.
struct Ahead {
    offset: u64,
    queue: SyncSender<Arriving>,
}

impl Ranges {
    /// `first` answers the request for the first piece.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub(super) fn start(client: &Client, url: &str, first: Response, total: u64, connections: u32) -> io::Result<Self> {
        let left = total.saturating_sub(first.offset);
        let (queue, pieces) = sync_channel(connections as usize);
        let ahead = Mutex::new(Ahead { offset: first.offset, queue });
        let work = Arc::new(Work { client: client.clone(), url: url.to_owned(), total, ahead });
        let mut begun = work.take().map(|piece| (piece, first));
        for _ in 0..connections {
            let (work, begun) = (Arc::clone(&work), begun.take());
            thread::Builder::new().spawn(move || work.fetch_all(begun))?;
        }
        Ok(Self { pieces, piece: None, chunk: Cursor::default(), left, failed: None })
    }

    fn fail(&mut self, why: String) -> io::Error {
        io::Error::other(self.failed.insert(why).clone())
    }
}

impl Read for Ranges {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.chunk.read(into)?;
            if length > 0 || into.is_empty() || self.left == 0 {
                return Ok(length);
            }
            if let Some(why) = &self.failed {
                return Err(io::Error::other(why.clone()));
            }
            let Some(piece) = self.piece.as_mut().filter(|piece| piece.left > 0) else {
                match self.pieces.recv() {
                    Ok(piece) => self.piece = Some(piece),
                    Err(_) => return Err(self.fail("nobody fetches the rest".to_owned())),
                }
                continue;
            };
            match piece.chunks.recv() {
                Ok(Ok(chunk)) => {
                    piece.left = piece.left.saturating_sub(chunk.len() as u64);
                    self.left = self.left.saturating_sub(chunk.len() as u64);
                    self.chunk = Cursor::new(chunk);
                }
                Ok(Err(why)) => return Err(self.fail(why)),
                Err(_) => return Err(self.fail("a piece was left by who fetched it".to_owned())),
            }
        }
    }
}

impl Work {
    /// The next piece, unless there is none, or nobody reads any more. Waits while enough of them wait to be read.
    fn take(&self) -> Option<Piece> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = ahead.offset;
        let length = self.total.saturating_sub(offset).min(PIECE);
        if length == 0 {
            return None;
        }
        let (chunks, arriving) = channel();
        ahead.queue.send(Arriving { chunks: arriving, left: length }).ok()?;
        ahead.offset = offset.saturating_add(length);
        Some(Piece { offset, length, chunks })
    }

    fn fetch_all(&self, begun: Option<(Piece, Response)>) {
        let (mut piece, mut begun) = begun.unzip();
        while let Some(next) = piece.take().or_else(|| self.take()) {
            if let Err(why) = self.fetch(&next, begun.take()) {
                // Nobody may want to know any more.
                let _ = next.chunks.send(Err(why));
                return;
            }
        }
    }

    /// Returns early where nobody reads any more.
    fn fetch(&self, piece: &Piece, begun: Option<Response>) -> Result<(), String> {
        let ask = || self.client.range(&self.url, piece.offset, Some(piece.length), Some(self.total));
        let mut response = begun.map_or_else(ask, Ok).map_err(|error| error.to_string())?;
        if !response.is_part {
            return Err("the server answers with the whole file where it was asked for a part".into());
        }
        let mut left = piece.length;
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = match response.body.read(&mut buffer) {
                Ok(0) if left == 0 => return Ok(()),
                Ok(0) => return Err("the connection ended early".into()),
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.to_string()),
            };
            left = left.checked_sub(length as u64).ok_or("the server sends more than it was asked for")?;
            // Of its own length: what the network brings at a time may be much less than there was room for.
            if piece.chunks.send(Ok(buffer.get(..length).unwrap_or_default().to_vec())).is_err() {
                return Ok(());
            }
        }
    }
}
