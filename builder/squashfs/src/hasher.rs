//! What is written, hashed on a thread of its own.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest as _, Sha256};

use crate::reuse::Digest;

/// Pieces that wait to be hashed at most.
const WAITING: usize = 8;

/// A thread that hashes what it is sent, and sends the buffers back.
pub(crate) struct Hasher {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Digest>,
}

impl Hasher {
    pub(crate) fn start() -> io::Result<Self> {
        let (full, come) = sync_channel(WAITING);
        let (back, empty) = channel();
        let thread = thread::Builder::new().name("hash".to_owned()).spawn(move || hash(&come, &back))?;
        Ok(Self { full, empty, thread })
    }

    /// Takes the next piece, and returns a buffer to be used again, whatever is in it.
    pub(crate) fn take(&self, piece: Vec<u8>) -> Vec<u8> {
        // The thread ends when it is told to, and not before.
        let _ = self.full.send(piece);
        self.empty.try_recv().unwrap_or_default()
    }

    /// The SHA-256 of all pieces.
    pub(crate) fn finish(self) -> Digest {
        drop(self.full);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn hash(come: &Receiver<Vec<u8>>, back: &Sender<Vec<u8>>) -> Digest {
    let mut hash = Sha256::new();
    for piece in come {
        hash.update(&piece);
        // At the end nobody wants it any more.
        let _ = back.send(piece);
    }
    hash.finalize().into()
}
