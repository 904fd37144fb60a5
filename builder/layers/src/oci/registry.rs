//! A repository of a registry: its manifests and blobs, with patience.
//!
//! `oci-client` speaks the protocol; what is here is what it leaves to its caller: retries with a growing pause, downloads
//! that go on where they broke off, digest and length checked while the bytes come, tokens renewed, errors sorted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use imgbuild_progress::Progress;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};

use super::Options;
use super::auth::Found;
use super::digest::{Digest, Hasher};
use super::error::OciError;
use super::fault::{Fault, RetryPolicy, classify, network};
use super::manifest::MANIFEST_TYPES;
use super::reference::is_loopback;
use super::tls::{Tls, USER_AGENT};
use super::token::{Wanted, authorize};
use crate::cache::{CacheError, Partial};

/// Requests for one file, all in all, however much each of them brought.
const MOST_REQUESTS: u32 = 200;

/// One repository. Used from several threads at once.
pub(crate) struct Remote {
    runtime: Arc<tokio::runtime::Runtime>,
    reference: Reference,
    registry: String,
    base: String,
    client: Client,
    http: reqwest::Client,
    found: Found,
    retry: RetryPolicy,
    /// How often a token has been got; the lock is held while one is being got.
    tokens: Mutex<u32>,
}

/// Where a blob's bytes go.
pub(crate) struct Download<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) size: u64,
    pub(crate) partial: &'a mut Partial,
    /// Told how many bytes there are now.
    pub(crate) on_bytes: &'a mut dyn FnMut(u64),
    pub(crate) progress: &'a dyn Progress,
    /// Set when another blob of the image has failed.
    pub(crate) cancelled: &'a AtomicBool,
}

impl Remote {
    pub(crate) fn new(
        runtime: Arc<tokio::runtime::Runtime>,
        options: &Options,
        reference: &Reference,
    ) -> Result<Self, OciError> {
        let registry = reference.resolve_registry().to_owned();
        let found = options.auth.find(reference.registry(), reference.repository())?;
        let tls = Tls::new(options.ca_file.as_deref(), &options.retry, is_loopback(&registry))?;
        let may_be_plain = is_loopback(&registry) || options.insecure.iter().any(|listed| is_listed(listed, &registry));
        let plain = may_be_plain && !runtime.block_on(tls.is_spoken_by(&registry));
        // This machine is not behind a proxy for itself; a proxy for no host at all takes the place of the environment's.
        let no_proxy = is_loopback(&registry).then(|| "http://127.0.0.1:9".to_owned());
        let config = tls.configure(ClientConfig {
            protocol: if plain { ClientProtocol::HttpsExcept(vec![registry.clone()]) } else { ClientProtocol::Https },
            read_timeout: Some(options.retry.stalled_after),
            connect_timeout: Some(options.retry.stalled_after),
            user_agent: USER_AGENT,
            http_proxy: no_proxy.clone(),
            https_proxy: no_proxy,
            no_proxy: Some("*,0.0.0.0/0,::/0".to_owned()),
            // We renew tokens when they are refused, not when we guess that they may be.
            default_token_expiration_secs: 24 * 3600,
            ..ClientConfig::default()
        });
        Ok(Self {
            runtime,
            reference: reference.clone(),
            base: format!("{}://{registry}", if plain { "http" } else { "https" }),
            registry,
            client: Client::try_from(config).map_err(|e| OciError::client(&e))?,
            http: tls.into_http(),
            found,
            retry: options.retry.clone(),
            tokens: Mutex::new(0),
        })
    }

    /// The digest that a tag stands for now. The manifest itself is not fetched, which some registries count.
    pub(crate) fn digest_of(&self, reference: &Reference, progress: &dyn Progress) -> Result<Digest, OciError> {
        let what = name(reference);
        let text = self.patiently(&what, progress, || {
            self.runtime.block_on(self.client.fetch_manifest_digest(reference, &RegistryAuth::Anonymous))
        })?;
        text.parse().map_err(|e| OciError::Manifest { what, reason: format!("{} calls it {e}", self.registry) })
    }

    /// A manifest's bytes, which have that digest.
    pub(crate) fn manifest(&self, digest: &Digest, progress: &dyn Progress) -> Result<Vec<u8>, OciError> {
        let reference = self.reference.clone_with_digest(digest.to_string());
        let what = name(&reference);
        let (bytes, _) = self.patiently(&what, progress, || {
            let pull = self.client.pull_manifest_raw(&reference, &RegistryAuth::Anonymous, MANIFEST_TYPES);
            self.runtime.block_on(pull)
        })?;
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            let (what, found) = (format!("{what} from {}", self.registry), found.to_string());
            return Err(OciError::DigestMismatch { what, expected: digest.clone(), found });
        }
        Ok(bytes.to_vec())
    }

    /// Repeats a request until it succeeds or there is no point in it.
    fn patiently<T>(
        &self,
        what: &str,
        progress: &dyn Progress,
        mut request: impl FnMut() -> Result<T, oci_client::errors::OciDistributionError>,
    ) -> Result<T, OciError> {
        let mut failed = 0;
        let mut renewed = false;
        loop {
            let mut tokens = 0;
            let result = self.authorized().and_then(|count| {
                tokens = count;
                request().map_err(|e| classify(e, &self.registry, what, &self.found.tried))
            });
            let fault = match result {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            if self.renew_after(&fault, tokens, &mut renewed) {
                continue;
            }
            failed += 1;
            self.pause_or_fail(fault, failed, what, "", progress)?;
        }
    }

    /// Downloads a blob into its partial file, going on after whatever is in it already.
    ///
    /// # Errors
    /// When it cannot be had whole, or is not what its digest and size say; then the partial file is marked for deletion.
    pub(crate) fn download(&self, mut download: Download<'_>) -> Result<(), OciError> {
        let what = format!("blob {} of {}", download.digest, self.reference.repository());
        let inherited = download.partial.written()?.min(download.size);
        let mut state = Received { hasher: download.digest.hasher(), len: 0 };
        if download.partial.written()? > download.size {
            download.partial.rewind_to(0)?;
        } else {
            state.take_existing(download.partial, inherited)?;
        }
        let mut resumed = state.len > 0;
        loop {
            download.partial.require_space(download.size - state.len)?;
            self.receive(&what, &mut download, &mut state)?;
            let found = std::mem::replace(&mut state.hasher, download.digest.hasher()).finish();
            if found == *download.digest {
                return Ok(());
            }
            if !resumed {
                download.partial.forget();
                let (what, found) = (format!("{what} from {}", self.registry), found.to_string());
                return Err(OciError::DigestMismatch { what, expected: download.digest.clone(), found });
            }
            // What an earlier process left may be what is wrong: once more from the start.
            download.progress.detail(format!("{what}: what was there from an earlier try is damaged; starting over"));
            download.partial.rewind_to(0)?;
            (state.len, resumed) = (0, false);
        }
    }

    /// Makes requests until all bytes are there.
    fn receive(&self, what: &str, download: &mut Download<'_>, state: &mut Received) -> Result<(), OciError> {
        let (mut failed, mut renewed, mut furthest) = (0, false, state.len);
        for _ in 0..MOST_REQUESTS {
            if state.len == download.size {
                return Ok(());
            }
            let mut tokens = 0;
            let result = self.authorized().and_then(|count| {
                tokens = count;
                self.request_blob(what, download, state)
            });
            let Err(fault) = result else { continue };
            if state.len > furthest {
                (furthest, failed, renewed) = (state.len, 0, false);
            }
            if self.renew_after(&fault, tokens, &mut renewed) {
                continue;
            }
            failed += 1;
            let at = format!(" at {} of {} bytes", state.len, download.size);
            self.pause_or_fail(fault, failed, what, &at, download.progress)?;
        }
        let problem = format!("the connection broke {MOST_REQUESTS} times");
        Err(OciError::Network { registry: self.registry.clone(), what: what.to_owned(), problem })
    }

    /// One request, and whatever it brings.
    fn request_blob(&self, what: &str, download: &mut Download<'_>, state: &mut Received) -> Result<(), Fault> {
        let digest = download.digest.as_str();
        let sorted = |e| classify(e, &self.registry, what, &self.found.tried);
        let response = if state.len == 0 {
            self.runtime.block_on(self.client.pull_blob_stream(&self.reference, digest)).map(BlobResponse::Full)
        } else {
            self.runtime.block_on(self.client.pull_blob_stream_partial(&self.reference, digest, state.len, None))
        };
        let response = match response {
            Ok(response) => response,
            Err(oci_client::errors::OciDistributionError::ServerError { code: 416, .. }) if state.len > 0 => {
                return state.restart(download).map_err(|e| Fault::Fatal(e.into()));
            }
            Err(e) => return Err(sorted(e)),
        };
        let rest = download.size - state.len;
        let mut stream = match response {
            BlobResponse::Partial(stream) if stream.content_length.is_none_or(|len| len == rest) => stream,
            // Some other range than the one asked for: of no use.
            BlobResponse::Partial(_) => return state.restart(download).map_err(|e| Fault::Fatal(e.into())),
            BlobResponse::Full(stream) => {
                // It does not know Range, or nothing is there yet.
                state.restart(download).map_err(|e| Fault::Fatal(e.into()))?;
                if let Some(found) = stream.content_length.filter(|len| *len != download.size) {
                    download.partial.forget();
                    return Err(Fault::Fatal(self.wrong_size(what, download.size, found)));
                }
                stream
            }
        };
        while let Some(chunk) = self.runtime.block_on(stream.next()) {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                // The library hashes too; what it finds at the end we are about to find ourselves.
                Err(_) if state.len == download.size => return Ok(()),
                Err(e) => return Err(network(&e, &self.registry, what)),
            };
            if download.cancelled.load(Ordering::Relaxed) {
                let problem = "given up because another layer failed".to_owned();
                return Err(Fault::Fatal(OciError::Network {
                    registry: self.registry.clone(),
                    what: what.to_owned(),
                    problem,
                }));
            }
            let len = state.len.saturating_add(chunk.len() as u64);
            if len > download.size {
                download.partial.forget();
                return Err(Fault::Fatal(self.wrong_size(what, download.size, len)));
            }
            state.take(&chunk, download).map_err(|e| Fault::Fatal(e.into()))?;
        }
        if state.len < download.size {
            let problem = "the connection broke: it ended before the last byte".to_owned();
            return Err(Fault::Transient(OciError::Network {
                registry: self.registry.clone(),
                what: what.to_owned(),
                problem,
            }));
        }
        Ok(())
    }

    fn wrong_size(&self, what: &str, expected: u64, found: u64) -> OciError {
        OciError::SizeMismatch { what: format!("{what} from {}", self.registry), expected, found }
    }

    /// Makes sure that there is a token, and says how many there have been.
    fn authorized(&self) -> Result<u32, Fault> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if *tokens == 0 {
            let wanted = Wanted {
                base: &self.base,
                registry: &self.registry,
                repository: self.reference.repository(),
                found: &self.found,
            };
            self.runtime.block_on(async {
                let auth = authorize(&self.http, &wanted).await?;
                if auth != RegistryAuth::Anonymous {
                    let stored = self.client.auth(&self.reference, &auth, RegistryOperation::Pull).await;
                    stored.map_err(|e| classify(e, &self.registry, "/v2/", &self.found.tried))?;
                }
                Ok(())
            })?;
            *tokens = 1;
        }
        Ok(*tokens)
    }

    /// After a 401 with a token: whether it is worth trying with a new one, which is then the next one used. Once in a row.
    fn renew_after(&self, fault: &Fault, used: u32, renewed: &mut bool) -> bool {
        if !matches!(fault, Fault::Unauthorized(_)) || used == 0 || std::mem::replace(renewed, true) {
            return false;
        }
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        *tokens = 0;
        true
    }

    /// Waits before the next try, or returns the error that it was. `at` says how far it had come.
    fn pause_or_fail(
        &self,
        fault: Fault,
        failed: u32,
        what: &str,
        at: &str,
        progress: &dyn Progress,
    ) -> Result<(), OciError> {
        let pause = self.retry.pause(&fault, failed);
        let error = fault.into_error(&self.registry, what, &self.found.tried);
        let Some(pause) = pause else { return Err(error) };
        progress.detail(format!("{error}{at}; trying again in {:.1} s", pause.as_secs_f64()));
        std::thread::sleep(pause);
        Ok(())
    }
}

/// The bytes of a blob that are in its partial file.
struct Received {
    hasher: Hasher,
    len: u64,
}

impl Received {
    /// Hashes the first `len` bytes of the file, which are there from an earlier try.
    fn take_existing(&mut self, partial: &mut Partial, len: u64) -> Result<(), OciError> {
        use std::os::unix::fs::FileExt as _;
        let mut buf = vec![0; 1 << 18];
        while self.len < len {
            let take = usize::try_from(len - self.len).unwrap_or(usize::MAX).min(buf.len());
            let Some(chunk) = buf.get_mut(..take) else { break };
            let read = partial.file().read_exact_at(chunk, self.len);
            read.map_err(|source| OciError::Read { path: partial.path().to_owned(), source })?;
            self.hasher.update(chunk);
            self.len += take as u64;
        }
        Ok(partial.rewind_to(self.len)?)
    }

    fn take(&mut self, chunk: &[u8], download: &mut Download<'_>) -> Result<(), CacheError> {
        use std::io::Write as _;
        if let Err(e) = download.partial.write_all(chunk) {
            let path = download.partial.path();
            return Err(match CacheError::is_full(&e) {
                true => CacheError::full(path, Some(download.size - self.len)),
                false => CacheError::write(path, e),
            });
        }
        self.hasher.update(chunk);
        self.len += chunk.len() as u64;
        (download.on_bytes)(self.len);
        Ok(())
    }

    fn restart(&mut self, download: &mut Download<'_>) -> Result<(), CacheError> {
        self.hasher = download.digest.hasher();
        self.len = 0;
        download.partial.rewind_to(0)
    }
}

/// What a reference names in its registry, for messages that name the registry too.
fn name(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{}@{digest}", reference.repository()),
        (None, tag) => format!("{}:{}", reference.repository(), tag.unwrap_or("latest")),
    }
}

/// Whether `registry` (`HOST[:PORT]`) is what the list's entry names; one without a port names every port.
fn is_listed(listed: &str, registry: &str) -> bool {
    let host =
        registry.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map(|(host, _)| host);
    listed == registry || host == Some(listed)
}

#[cfg(test)]
mod tests {
    use super::is_listed;

    #[test]
    fn a_listed_host_without_a_port_stands_for_all_of_its_ports() {
        for (listed, registry, covered) in [
            ("lab.example", "lab.example", true),
            ("lab.example", "lab.example:5000", true),
            ("lab.example:5000", "lab.example:5000", true),
            ("lab.example:5000", "lab.example:5001", false),
            ("lab.example:5000", "lab.example", false),
            ("lab.example", "evil-lab.example", false),
            ("[fd00::1]", "[fd00::1]:5000", true),
            ("10.0.0.1", "10.0.0.10", false),
        ] {
            assert_eq!(is_listed(listed, registry), covered, "{listed} {registry}");
        }
    }
}
