//! The root from a boot server into its place, hashed while it streams, resumed after a break.

mod hashing;
mod http;
pub mod memory;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use crate::net::dns::Names;
use crate::{say, warning};
use hashing::Hashing;
pub use hashing::file_digest;
pub(crate) use hashing::hex;
pub use http::Client;

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
    Sources(Vec<(String, SourceError)>),
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
            Self::Memory { .. } => {
                "the machine's memory against the image's budget (`imgbuild inspect`); prune the image or \
                                    compress it harder"
                    .into()
            }
            Self::Sources(errors) => {
                let mut advice: Vec<&str> = errors.iter().map(|(_, error)| error.what_to_check()).collect();
                advice.dedup();
                advice.join("\n")
            }
            Self::Write { .. } | Self::Place(_) => "the machine's memory".into(),
        }
    }
}

/// What is wrong with one source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The server answered, with something else.
    #[error("HTTP status {code}{}", http::reason(*.code))]
    Status {
        /// The status.
        code: u16,
    },
    /// It has a file of another length.
    #[error("the file there has {found} bytes, expected {expected}")]
    Length {
        /// Bytes there.
        found: u64,
        /// Bytes that the build wrote down.
        expected: u64,
    },
    /// The server does not say how long the file is, and nobody else does.
    #[error("no Content-Length, and the size is not known otherwise")]
    NoLength,
    /// All bytes arrived, and they are others.
    #[error("SHA-256 is {found}, expected {expected} ({bytes} bytes, all received)")]
    Hash {
        /// What arrived.
        found: String,
        /// What the build wrote down.
        expected: String,
        /// How much arrived.
        bytes: u64,
    },
    /// The connection could not be made, or broke.
    #[error("{why} (after {received} bytes{})", .total.map(|t| format!(" of {t}")).unwrap_or_default())]
    Connection {
        /// In the system's words.
        why: String,
        /// Bytes received up to then, over all attempts.
        received: u64,
        /// Bytes that there are.
        total: Option<u64>,
    },
    /// The URL is not one.
    #[error("not a URL that can be fetched: {0}")]
    Url(String),
}

impl SourceError {
    /// Whether another attempt may go better.
    fn is_passing(&self) -> bool {
        match self {
            Self::Connection { .. } => true,
            Self::Status { code } => matches!(code, 408 | 425 | 429 | 500..),
            Self::Length { .. } | Self::NoLength | Self::Hash { .. } | Self::Url(_) => false,
        }
    }

    fn what_to_check(&self) -> &'static str {
        match self {
            Self::Status { code: 404 } => "that this version is published, and the path in netboot.root=",
            Self::Status { code: 403 | 401 } => "the permissions of the file on the boot server",
            Self::Status { .. } => "the boot server's error log",
            Self::Length { .. } | Self::Hash { .. } => {
                "whether boot script, initrd and root are of one version: a stale boot.ipxe, or a root that was overwritten \
                 (a published version must never change)"
            }
            Self::NoLength => "the boot server: it must serve files with Content-Length",
            Self::Connection { .. } => "the boot server, its firewall, and the network between",
            Self::Url(_) => "netboot.root= on the kernel command line",
        }
    }
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
}

/// How long to wait between rounds of attempts.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// After the first round that brought nothing; then doubled.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
    /// How many rounds without a single byte are too many.
    pub rounds: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(15), rounds: 10 }
    }
}

/// Fetches a file. `place` makes the file to write into, once its length is known and before the first byte is asked for
/// or, where only the server knows, read.
///
/// # Errors
///
/// [`Error::Sources`] when every source failed for good or too often, [`Error::Write`], and what `place` says.
pub fn fetch(
    wanted: &Wanted<'_>,
    names: Names,
    patience: Patience,
    place: &mut dyn FnMut(u64) -> Result<File, Error>,
) -> Result<File, Error> {
    let mut download = Download::new(wanted, place)?;
    let client = Client::new(names);
    let mut sources: Vec<(String, Option<SourceError>)> = wanted.urls.iter().map(|url| (url.clone(), None)).collect();
    let mut idle_rounds = 0;
    loop {
        let before = download.arrived;
        for (url, trouble) in &mut sources {
            if trouble.as_ref().is_some_and(|error| !error.is_passing()) {
                continue;
            }
            match download.attempt(&client, url)? {
                Ok(()) => return download.finish(),
                Err(error) => {
                    warning!("{url}: {error}");
                    *trouble = Some(error);
                }
            }
        }
        let hopeless = sources.iter().all(|(_, trouble)| trouble.as_ref().is_some_and(|error| !error.is_passing()));
        idle_rounds = if download.arrived > before { 0 } else { idle_rounds + 1 };
        if hopeless || idle_rounds >= patience.rounds {
            return Err(Error::Sources(sources.into_iter().filter_map(|(url, error)| Some((url, error?))).collect()));
        }
        let wait = (patience.first * 2_u32.saturating_pow(idle_rounds.saturating_sub(1))).min(patience.longest);
        say!("next attempt in {:.0} s", wait.as_secs_f32().ceil());
        thread::sleep(wait);
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
    progress: Progress,
}

impl<'a> Download<'a> {
    fn new(wanted: &'a Wanted<'a>, place: &'a mut dyn FnMut(u64) -> Result<File, Error>) -> Result<Self, Error> {
        let mut download = Self {
            wanted,
            place,
            file: None,
            hashing: Hashing::start(),
            received: 0,
            arrived: 0,
            pieced: false,
            total: None,
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

    /// One request. The outer error ends everything, the inner one only this attempt.
    fn attempt(&mut self, client: &Client, url: &str) -> Result<Result<(), SourceError>, Error> {
        if self.received > 0 {
            say!("GET {url} from byte {}", self.received);
            self.pieced = true;
        } else {
            say!("GET {url}");
        }
        let mut response = match client.get(url, self.received, self.total) {
            Ok(response) => response,
            Err(error) => return Ok(Err(error)),
        };
        if response.offset != self.received {
            say!("{url}: the server does not resume; from the beginning");
            self.start_over();
        }
        match (self.total, response.total) {
            (None, Some(size)) => self.make_place(size)?,
            (None, None) => return Ok(Err(SourceError::NoLength)),
            (Some(_), _) => {}
        }
        if let Err(error) = self.stream(&mut response.body)? {
            return Ok(Err(error));
        }
        let found = std::mem::replace(&mut self.hashing, Hashing::start()).finish();
        if found == self.wanted.sha256 {
            return Ok(Ok(()));
        }
        let bytes = self.received;
        let pieced = self.pieced;
        self.start_over();
        let error = SourceError::Hash { found, expected: self.wanted.sha256.to_owned(), bytes };
        if pieced {
            // The pieces may be of different files: this source deserves an attempt of its own.
            warning!("{url}: {error}; it came in pieces, so once more in one");
            return self.attempt(client, url);
        }
        Ok(Err(error))
    }

    fn stream(&mut self, body: &mut dyn Read) -> Result<Result<(), SourceError>, Error> {
        let total = self.total.unwrap_or_default();
        loop {
            let mut buffer = self.hashing.buffer();
            let length = match read_full(body, &mut buffer) {
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
            self.received = after;
            self.progress.at(after, total);
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

/// Fills the buffer as far as the source gives; an error comes with what was read before it.
fn read_full(source: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, (usize, io::Error)> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(n) => length += n,
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
}

#[cfg(test)]
mod tests;
