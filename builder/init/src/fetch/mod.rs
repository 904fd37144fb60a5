//! The root from a boot server into its place, hashed while it streams, resumed after a break.

mod backoff;
mod document;
mod hashing;
mod http;
pub mod memory;
mod ranges;
mod source;
mod speed;
mod tls;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use crate::net::dns::Names;
use crate::{say, warning};
pub use backoff::Patience;
use backoff::Queue;
pub use document::document;
use hashing::Hashing;
pub use hashing::file_digest;
pub(crate) use hashing::hex;
pub use http::Client;
pub use ranges::MOST_CONNECTIONS;
use ranges::{PIECE, Ranges};
pub use source::{Failures, SourceError};
use speed::Speed;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine is too small.
    #[error(
        "not enough memory: needs {} MiB (the root's {} and {} to run in), has {} MiB available of {}",
        memory::mebibytes(.size.saturating_add(memory::MARGIN)), memory::mebibytes(*.size),
        memory::mebibytes(memory::MARGIN), memory::mebibytes(*.available), memory::mebibytes(*.total)
    )]
    Memory {
        /// Bytes of the root.
        size: u64,
        /// Bytes available.
        available: u64,
        /// Bytes that the machine has.
        total: u64,
    },
    /// No source gave the root.
    #[error("{}", .0.iter().map(|(url, error)| format!("{url}: {error}")).collect::<Vec<_>>().join("\n"))]
    Sources(Failures),
    /// The file in memory could not be written.
    #[error("write {offset} bytes into the root's place in memory")]
    Write {
        /// At which offset.
        offset: u64,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The place for the file could not be made.
    #[error("{0}")]
    Place(String),
}

impl Error {
    /// What a field engineer should look at.
    #[must_use]
    pub fn what_to_check(&self) -> String {
        match self {
            Self::Memory { .. } => source::TOO_SMALL.into(),
            Self::Sources(errors) => what_to_check(errors),
            Self::Write { .. } | Self::Place(_) => "the machine's memory".into(),
        }
    }
}

/// What a field engineer should look at when no source gave what was wanted.
pub(crate) fn what_to_check(failures: &Failures) -> String {
    let mut advice: Vec<&str> = failures.iter().map(|(_, error)| error.what_to_check()).collect();
    advice.dedup();
    advice.join("\n")
}

/// What to fetch.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where from, in order.
    pub urls: &'a [String],
    /// Its SHA-256, lower case.
    pub sha256: &'a str,
    /// Its length in bytes; where the hash is overridden nobody knows.
    pub size: Option<u64>,
    /// Bytes a second below which a source is left while there is another one.
    pub least_speed: u64,
    /// How many requests there are at once for pieces of it, up to [`MOST_CONNECTIONS`].
    pub connections: u32,
}

/// Fetches a file. `place` makes the file to write into, once its length is known and before the first byte is asked for
/// or, where only the server knows, read. Where only servers know, and they differ, it is called again, and may throw away
/// what it made before.
///
/// # Errors
///
/// [`Error::Sources`] when every source failed for good or too often, [`Error::Write`], and what `place` says; but that
/// there is not memory enough for what one server has is a failure of that source.
pub fn fetch(
    wanted: &Wanted<'_>,
    names: Names,
    patience: Patience,
    place: &mut dyn FnMut(u64) -> Result<File, Error>,
) -> Result<File, Error> {
    let mut download = Download::new(wanted, place, patience)?;
    let client = Client::new(names);
    let mut queue = Queue::new(wanted.urls, patience);
    loop {
        let before = download.arrived;
        for turn in queue.turns() {
            let (url, alone) = queue.begin(turn);
            match download.attempt(&client, &url, alone)? {
                Ok(()) => return download.finish(),
                Err(error) => {
                    warning!("{url}: {error}");
                    queue.failed(turn, error);
                }
            }
        }
        match queue.next_round(download.arrived > before) {
            Some(wait) => thread::sleep(wait),
            None => return Err(Error::Sources(queue.errors())),
        }
    }
}

struct Download<'a> {
    wanted: &'a Wanted<'a>,
    place: &'a mut dyn FnMut(u64) -> Result<File, Error>,
    file: Option<File>,
    hashing: Hashing,
    /// Bytes of the file that are there.
    received: u64,
    /// Bytes that came over the network; never set back.
    arrived: u64,
    /// Whether what is there came in several pieces.
    pieced: bool,
    total: Option<u64>,
    /// Requests at once; fewer after each attempt with several that failed.
    connections: u32,
    patience: Patience,
    progress: Progress,
}

impl<'a> Download<'a> {
    fn new(
        wanted: &'a Wanted<'a>,
        place: &'a mut dyn FnMut(u64) -> Result<File, Error>,
        patience: Patience,
    ) -> Result<Self, Error> {
        let mut download = Self {
            wanted,
            place,
            file: None,
            hashing: Hashing::start(),
            received: 0,
            arrived: 0,
            pieced: false,
            total: None,
            connections: wanted.connections.min(MOST_CONNECTIONS),
            patience,
            progress: Progress::new(),
        };
        if let Some(size) = wanted.size {
            download.make_place(size)?;
        }
        Ok(download)
    }

    fn make_place(&mut self, size: u64) -> Result<(), Error> {
        self.file = Some((self.place)(size)?);
        self.total = Some(size);
        Ok(())
    }

    fn start_over(&mut self) {
        self.hashing = Hashing::start();
        self.received = 0;
        self.pieced = false;
    }

    /// Starts over, also with the length if it was only a server that said it: the next one may have another file.
    fn forget(&mut self) {
        self.start_over();
        if self.wanted.size.is_none() {
            self.total = None;
            self.file = None;
        }
    }

    /// How many bytes the first request is for, where there are to be several at once.
    fn first_piece(&self) -> Option<u64> {
        let left = self.total.map(|total| total.saturating_sub(self.received));
        (self.connections > 1 && left.is_none_or(|left| left > PIECE)).then_some(PIECE)
    }

    /// After a failure: it may have been several requests at once that the server, or something between, did not like.
    fn ask_less(&mut self) {
        self.connections = (self.connections / 2).max(1);
    }

    /// One request, or several at once. The outer error ends everything, the inner one only this attempt. A source that is `alone` may be as
    /// slow as it likes: there is no other one to go to.
    fn attempt(&mut self, client: &Client, url: &str, alone: bool) -> Result<Result<(), SourceError>, Error> {
        if self.received > 0 {
            say!("GET {url} from byte {}", self.received);
            self.pieced = true;
        } else {
            say!("GET {url}");
        }
        let piece = self.first_piece();
        let mut response = match client.range(url, self.received, piece, self.total) {
            Ok(response) => response,
            Err(error @ SourceError::Length { .. }) if self.wanted.size.is_none() => {
                warning!("{url}: {error}; who is right is not known, so from the beginning");
                self.forget();
                return self.attempt(client, url, alone);
            }
            Err(error) => {
                if piece.is_some() && matches!(error, SourceError::Status { .. }) {
                    self.ask_less();
                }
                return Ok(Err(error));
            }
        };
        if response.offset != self.received {
            say!("{url}: the server does not resume; from the beginning");
            self.start_over();
        }
        match (self.total, response.total) {
            (None, Some(size)) => match self.make_place(size) {
                Err(error @ Error::Memory { .. }) => return Ok(Err(SourceError::Memory(error.to_string()))),
                made => made?,
            },
            (None, None) => return Ok(Err(SourceError::NoLength)),
            (Some(_), _) => {}
        }
        let streamed = match (piece, self.total) {
            (Some(_), Some(total)) if response.is_part => {
                say!("{url}: {} requests at once", self.connections);
                self.pieced = true;
                match Ranges::start(client, url, response, total, self.connections) {
                    Ok(mut ranges) => self.stream(&mut ranges, url, alone)?,
                    Err(error) => Err(self.broken(&error.to_string())),
                }
            }
            _ => self.stream(&mut response.body, url, alone)?,
        };
        if let Err(error) = streamed {
            // One that was left for being slow has not shown that it minds.
            if !matches!(error, SourceError::Slow { .. }) {
                self.ask_less();
            }
            return Ok(Err(error));
        }
        let found = std::mem::replace(&mut self.hashing, Hashing::start()).finish();
        if found == self.wanted.sha256 {
            return Ok(Ok(()));
        }
        let bytes = self.received;
        let pieced = self.pieced;
        self.forget();
        let error = SourceError::Hash { found, expected: self.wanted.sha256.to_owned(), bytes };
        if pieced {
            // The pieces may be of different files: this source deserves an attempt of its own.
            self.connections = 1;
            warning!("{url}: {error}; it came in pieces, so once more in one");
            return self.attempt(client, url, alone);
        }
        Ok(Err(error))
    }

    fn stream(&mut self, body: &mut dyn Read, url: &str, alone: bool) -> Result<Result<(), SourceError>, Error> {
        let total = self.total.unwrap_or_default();
        let mut speed = Speed::new(self.wanted.least_speed, self.patience.speed_window);
        loop {
            let mut buffer = self.hashing.buffer();
            let length = match read_full(body, &mut buffer, speed.end_of_window()) {
                Ok(0) if self.received == total => return Ok(Ok(())),
                Ok(0) => return Ok(Err(self.broken("the connection ended early"))),
                Ok(length) => length,
                Err((0, e)) => return Ok(Err(self.broken(&e.to_string()))),
                // What came before the error counts; the next read meets the error again, or the end.
                Err((length, _)) => length,
            };
            let after = self.received.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            if after > total {
                return Ok(Err(SourceError::Length { found: after, expected: total }));
            }
            let bytes = buffer.get(..length).unwrap_or_default();
            if let Some(file) = &self.file {
                file.write_all_at(bytes, self.received)
                    .map_err(|source| Error::Write { offset: self.received, source })?;
            }
            buffer.truncate(length);
            self.hashing.update(buffer);
            self.arrived = self.arrived.saturating_add(after - self.received);
            speed.take(after - self.received);
            self.received = after;
            self.progress.at(after, total);
            match speed.too_slow() {
                Some(slow) if alone => self.progress.crawls(url, &slow, total - after),
                Some(slow) if after < total => return Ok(Err(slow)),
                _ => {}
            }
        }
    }

    fn broken(&self, why: &str) -> SourceError {
        SourceError::Connection { why: why.to_owned(), received: self.received, total: self.total }
    }

    fn finish(self) -> Result<File, Error> {
        let seconds = self.progress.started.elapsed().as_secs_f64();
        say!("root: {} MiB in {seconds:.1} s, SHA-256 is right", memory::mebibytes(self.received));
        self.file.ok_or_else(|| Error::Place("the root has no place".into()))
    }
}

/// Fills the buffer as far as the source gives, or until a point in time; an error comes with what was read before it.
fn read_full(source: &mut dyn Read, buffer: &mut [u8], until: Instant) -> Result<usize, (usize, io::Error)> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(n) => {
                length += n;
                if Instant::now() >= until {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err((length, e)),
        }
    }
    Ok(length)
}

/// A line every tenth.
struct Progress {
    started: Instant,
    told: u64,
}

impl Progress {
    fn new() -> Self {
        Self { started: Instant::now(), told: 0 }
    }

    fn at(&mut self, received: u64, total: u64) {
        let tenth = received.saturating_mul(10).checked_div(total).unwrap_or(10);
        if tenth <= self.told || tenth >= 10 {
            return;
        }
        self.told = tenth;
        #[allow(clippy::cast_precision_loss)] // for people
        let rate = received as f64 / 1_048_576.0 / self.started.elapsed().as_secs_f64().max(0.001);
        say!("root: {} % of {} MiB, {rate:.1} MiB/s", tenth * 10, memory::mebibytes(total));
    }

    /// A line for whoever waits before a source that is slow and the only one.
    fn crawls(&mut self, url: &str, slow: &SourceError, left: u64) {
        if let SourceError::Slow { rate, .. } = slow {
            let minutes = left.checked_div(*rate).unwrap_or(u64::MAX) / 60;
            warning!("{url}: {slow}; there is no other source to go to; about {minutes} min to go");
        }
    }
}

#[cfg(test)]
mod tests;
