//! SHA-256 beside the download, on another processor: it is the slower of the two where the processor has no
//! instructions for it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};

/// Bytes in a buffer.
const BUFFER: usize = 256 * 1024;
/// Buffers on their way.
const QUEUE: usize = 4;

/// A hash in the making.
pub(super) struct Hashing {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    worker: JoinHandle<String>,
}

impl Hashing {
    pub(super) fn start() -> Self {
        let (full, incoming) = sync_channel::<Vec<u8>>(QUEUE);
        let (used, empty): (Sender<Vec<u8>>, _) = channel();
        let worker = thread::spawn(move || {
            let mut hash = Sha256::new();
            for buffer in incoming {
                hash.update(&buffer);
                let _ = used.send(buffer);
            }
            hex(&hash.finalize())
        });
        Self { full, empty, worker }
    }

    /// A buffer to read into; used ones come back.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.empty.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        buffer
    }

    pub(super) fn update(&self, buffer: Vec<u8>) {
        // The worker ends only when this end does.
        let _ = self.full.send(buffer);
    }

    /// The digest in lower-case hex.
    pub(super) fn finish(self) -> String {
        drop(self.full);
        self.worker.join().unwrap_or_default()
    }
}

/// Length and SHA-256 of a file.
///
/// # Errors
///
/// Those of reading it.
pub fn file_digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut size = 0_u64;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((size, hex(&hash.finalize()))),
            Ok(length) => {
                hash.update(buffer.get(..length).unwrap_or_default());
                size = size.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_parts_in_order() {
        let hashing = Hashing::start();
        hashing.update(b"a".to_vec());
        hashing.update(b"bc".to_vec());
        // FIPS 180-2, appendix B.1.
        assert_eq!(hashing.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), b"abc").unwrap();
        let (size, digest) = file_digest(&folder.path().join("f")).unwrap();
        assert_eq!((size, &digest[..8]), (3, "ba7816bf"));
    }
}
