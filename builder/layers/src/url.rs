//! Downloads named by URL and SHA-256.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgbuild_progress::Progress;
use sha2::{Digest, Sha256};
use thiserror::Error;
use ureq::http::StatusCode;

use crate::cache::{Cache, CacheError, Claim, Partial};

/// How often a download is taken up again after it broke off.
const ATTEMPTS: u32 = 5;
/// No byte for this long breaks a download off.
const SILENCE: Duration = Duration::from_secs(60);
/// Read at a time.
const CHUNK: usize = 256 << 10;

/// Why a download cannot be had.
#[derive(Debug, Error)]
pub enum UrlError {
    /// The server said no.
    #[error("{url}: the server answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status line's code and reason.
        status: String,
    },
    /// The server cannot be reached, or the connection broke too often.
    #[error("{url}: {reason} ({attempts} attempts)")]
    Transport {
        /// What was asked for.
        url: String,
        /// The last failure.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The bytes are not those that the recipe names.
    #[error(
        "{url}: the download has sha256 {found}, the recipe says {expected}; if the new file is what you want, put its hash in the recipe"
    )]
    Hash {
        /// What was asked for.
        url: String,
        /// The recipe's hash.
        expected: String,
        /// The download's.
        found: String,
    },
    /// `--offline`, and the cache has no such file.
    #[error("{url}: --offline, and the cache has no file with sha256 {sha256}; build once without --offline")]
    Offline {
        /// What would be asked for.
        url: String,
        /// Its hash.
        sha256: String,
    },
    /// The extra certificates cannot be read.
    #[error("cannot read the certificates in {}: {reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// How downloads are made.
#[derive(Debug, Clone)]
pub struct Downloader<'a> {
    agent: ureq::Agent,
    offline: bool,
    cache: &'a Cache,
}

/// Why one attempt did not end the download.
enum Broken {
    /// Nothing will change that.
    Final(UrlError),
    /// Trying again may help.
    Again(String),
}

impl<'a> Downloader<'a> {
    /// `ca_file`: certificates in PEM that are trusted besides the system's.
    ///
    /// # Errors
    /// When `ca_file` cannot be read.
    pub fn new(cache: &'a Cache, offline: bool, ca_file: Option<&Path>) -> Result<Self, UrlError> {
        Self::with_silence(cache, offline, ca_file, SILENCE)
    }

    /// `silence`: for how long a server may send nothing.
    fn with_silence(
        cache: &'a Cache,
        offline: bool,
        ca_file: Option<&Path>,
        silence: Duration,
    ) -> Result<Self, UrlError> {
        let tls = ureq::tls::TlsConfig::builder().root_certs(roots(ca_file)?).build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .user_agent(concat!("imgbuild/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(silence))
            // That one ends with the headers.
            .timeout_per_read(Some(silence))
            .build()
            .into();
        Ok(Self { agent, offline, cache })
    }

    /// The path of the download in the cache, which holds just the bytes that `sha256` names.
    ///
    /// # Errors
    /// When it cannot be had, or has another hash.
    pub fn fetch(&self, url: &str, sha256: &str, task: &str, progress: &dyn Progress) -> Result<PathBuf, UrlError> {
        let bucket = self.cache.bucket("urls-v1");
        if let (true, None) = (self.offline, bucket.get(sha256)?) {
            return Err(UrlError::Offline { url: url.to_owned(), sha256: sha256.to_owned() });
        }
        let waiting = || progress.detail(format!("{task}: another build is downloading {url}"));
        match bucket.claim(sha256, true, waiting)? {
            Claim::Present(path) => {
                progress.finished(task, "from cache".to_owned());
                Ok(path)
            }
            Claim::Mine(partial) => self.download(url, sha256, partial, task, progress),
        }
    }

    fn download(
        &self,
        url: &str,
        sha256: &str,
        mut partial: Partial,
        task: &str,
        progress: &dyn Progress,
    ) -> Result<PathBuf, UrlError> {
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                progress.detail(format!("{task}: {reason}; trying again"));
                std::thread::sleep(Duration::from_millis(250 << attempt));
            }
            match self.attempt(url, &mut partial, task, progress) {
                Ok((_, found)) if found == sha256 => {
                    let size = partial.written()?;
                    let path = partial.commit()?;
                    progress.finished(task, format!("{size} bytes downloaded"));
                    return Ok(path);
                }
                Ok((start, found)) => {
                    partial.rewind_to(0)?;
                    // A resumed file may be half of one version and half of the next: a whole one settles it.
                    if start == 0 || attempt + 1 == ATTEMPTS {
                        partial.forget();
                        return Err(UrlError::Hash { url: url.to_owned(), expected: sha256.to_owned(), found });
                    }
                    reason = format!("the download has sha256 {found}");
                }
                Err(Broken::Final(e)) => return Err(e),
                Err(Broken::Again(why)) => reason = why,
            }
        }
        Err(UrlError::Transport { url: url.to_owned(), reason, attempts: ATTEMPTS })
    }

    /// Goes on where the partial file ends. Returns where that was, and the hash of the whole.
    fn attempt(
        &self,
        url: &str,
        partial: &mut Partial,
        task: &str,
        progress: &dyn Progress,
    ) -> Result<(u64, String), Broken> {
        let cache = |e: CacheError| Broken::Final(e.into());
        let have = partial.written().map_err(cache)?;
        let mut request = self.agent.get(url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let mut response = request.call().map_err(|e| Broken::Again(e.to_string()))?;
        let status = response.status();
        let start = match status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT if starts_at(&response, have) => have,
            // The file is shorter than what is here: it is another one.
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
                partial.rewind_to(0).map_err(cache)?;
                return Err(Broken::Again(format!("the server cannot go on at byte {have}")));
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Broken::Again(format!("the server answers {status}")));
            }
            status => return Err(Broken::Final(UrlError::Status { url: url.to_owned(), status: status.to_string() })),
        };
        partial.rewind_to(start).map_err(cache)?;
        let length = response.body().content_length();
        if let Some(length) = length {
            partial.require_space(length).map_err(cache)?;
        }
        let mut hash = Sha256::new();
        rehash(partial, start, &mut hash).map_err(|e| Broken::Again(e.to_string()))?;
        progress.started(task, length.map(|l| l + start));
        let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; CHUNK];
        let mut done = start;
        loop {
            let read =
                body.read(&mut buffer).map_err(|e| Broken::Again(format!("broke off after {done} bytes: {e}")))?;
            if read == 0 {
                break;
            }
            let path = partial.path().to_owned();
            partial.write_all(&buffer[..read]).map_err(|e| match e.kind() {
                std::io::ErrorKind::StorageFull => cache(CacheError::full(&path, length)),
                _ => Broken::Again(format!("cannot write {}: {e}", path.display())),
            })?;
            hash.update(&buffer[..read]);
            done += read as u64;
            progress.advanced(task, done);
        }
        match length {
            Some(length) if done - start != length => {
                Err(Broken::Again(format!("broke off after {done} of {} bytes", start + length)))
            }
            _ => Ok((start, hex::encode(hash.finalize()))),
        }
    }
}

/// Whether a partial answer begins where it was asked to (RFC 9110, 14.4).
fn starts_at(response: &ureq::http::Response<ureq::Body>, offset: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
    range.strip_prefix("bytes ").is_some_and(|r| r.starts_with(&format!("{offset}-")))
}

/// Hashes what is here already, and leaves the file at its end.
fn rehash(partial: &Partial, len: u64, hash: &mut Sha256) -> std::io::Result<()> {
    let mut file = partial.file();
    file.rewind()?;
    let mut buffer = vec![0; CHUNK];
    let mut left = len;
    while left > 0 {
        let take = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..take])?;
        hash.update(&buffer[..take]);
        left -= take as u64;
    }
    file.seek(std::io::SeekFrom::Start(len))?;
    Ok(())
}

/// The system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded), and those in `extra`.
fn roots(extra: Option<&Path>) -> Result<ureq::tls::RootCerts, UrlError> {
    let system = rustls_native_certs::load_native_certs();
    let mut all: Vec<_> =
        system.certs.iter().map(|der| ureq::tls::Certificate::from_der(der.as_ref()).to_owned()).collect();
    let Some(path) = extra else { return Ok(ureq::tls::RootCerts::new_with_certs(&all)) };
    let failed = |reason: String| UrlError::Certificates { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    let before = all.len();
    for item in ureq::tls::parse_pem(&pem) {
        match item.map_err(|e| failed(e.to_string()))? {
            ureq::tls::PemItem::Certificate(certificate) => all.push(certificate),
            _ => return Err(failed("it holds something else than certificates".to_owned())),
        }
    }
    if all.len() == before {
        return Err(failed("it holds no certificate".to_owned()));
    }
    Ok(ureq::tls::RootCerts::new_with_certs(&all))
}

#[cfg(test)]
mod tests;
