//! Reading on a thread of its own: what decompresses goes on while what it made is hashed and written.

use std::io::{self, ErrorKind, Read};
use std::sync::mpsc::sync_channel;
use std::thread;

/// Handed over at a time, in bytes.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait.
const AHEAD: usize = 8;

/// Reads to the end, on a thread of its own, and hands everything to `each` on the calling one, in order.
///
/// # Errors
/// The first of `each`, then nothing more is read; else the inner result is the reader's, and `each` has had all that was
/// read before it.
pub(crate) fn read_ahead<E>(
    mut reader: impl Read + Send,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<io::Result<()>, E> {
    thread::scope(|scope| {
        let (full, filled) = sync_channel::<Vec<u8>>(AHEAD);
        // Buffers go round, so that memory is touched once.
        let (back, used) = sync_channel::<Vec<u8>>(AHEAD + 2);
        let read = move || -> io::Result<()> {
            loop {
                let mut chunk = used.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
                chunk.resize(CHUNK, 0);
                let (len, end) = fill(&mut reader, &mut chunk);
                chunk.truncate(len);
                if full.send(chunk).is_err() {
                    // Nobody wants it any more.
                    return Ok(());
                }
                if let Some(end) = end {
                    return end;
                }
            }
        };
        let reading = match thread::Builder::new().name("read ahead".to_owned()).spawn_scoped(scope, read) {
            Ok(thread) => thread,
            Err(error) => return Ok(Err(error)),
        };
        for chunk in filled {
            each(&chunk)?;
            // The reader may have ended.
            let _ = back.try_send(chunk);
        }
        Ok(reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Reads until the buffer is full, and says how far it came and what ended it before.
fn fill(reader: &mut impl Read, chunk: &mut [u8]) -> (usize, Option<io::Result<()>>) {
    let mut len = 0;
    while let Some(room) = chunk.get_mut(len..).filter(|room| !room.is_empty()) {
        match reader.read(room) {
            Ok(0) => return (len, Some(Ok(()))),
            Ok(read) => len += read,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return (len, Some(Err(e))),
        }
    }
    (len, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes, a few at a time, and then fails or ends.
    struct Source {
        left: usize,
        fails: bool,
    }

    impl Read for Source {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.left == 0 && self.fails {
                return Err(io::Error::other("cut"));
            }
            let take = buf.len().min(self.left).min(10_007);
            for (at, byte) in buf.iter_mut().take(take).enumerate() {
                *byte = ((self.left - at) % 251) as u8;
            }
            self.left -= take;
            Ok(take)
        }
    }

    #[test]
    fn everything_comes_in_order_and_then_the_end() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 5] {
            for fails in [false, true] {
                let mut got = Vec::new();
                let end = read_ahead(Source { left: len, fails }, |chunk| {
                    got.extend_from_slice(chunk);
                    Ok::<(), ()>(())
                });
                let mut wanted = Vec::new();
                let _ = Source { left: len, fails: false }.read_to_end(&mut wanted);
                assert!(got == wanted, "{len}");
                assert_eq!(end.unwrap().is_err(), fails);
            }
        }
    }

    #[test]
    fn nothing_more_is_read_once_nobody_wants_it() {
        let mut calls = 0;
        let end = read_ahead(Source { left: usize::MAX, fails: false }, |_| {
            calls += 1;
            if calls == 3 { Err("full") } else { Ok(()) }
        });
        assert_eq!((end.unwrap_err(), calls), ("full", 3));
    }
}
