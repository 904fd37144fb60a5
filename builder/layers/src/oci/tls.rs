//! Whom to trust, and who speaks TLS at all.

use std::error::Error as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig};

use super::error::OciError;
use super::fault::{RetryPolicy, tls_error};

/// What registries see of us.
pub(crate) const USER_AGENT: &str = concat!("imgbuild/", env!("CARGO_PKG_VERSION"));
/// How long to wait for an answer in TLS: a plain server may wait for a request line that never comes.
const PROBE: Duration = Duration::from_secs(2);

/// An HTTP client that trusts the right authorities, and the means to make the client library do so too.
pub(crate) struct Tls {
    http: reqwest::Client,
    /// Authorities besides the system's.
    roots: Vec<Certificate>,
}

impl Tls {
    /// Trusts the system's authorities and those of `ca_file`. `direct`: no proxy, whatever the environment says.
    pub(crate) fn new(ca_file: Option<&Path>, retry: &RetryPolicy, direct: bool) -> Result<Self, OciError> {
        // The client looks for a provider of TLS's cryptography in the process; a second call finds the first's.
        let _ = rustls::crypto::ring::default_provider().install_default();
        system_authorities()?;
        let roots = ca_file.map(certificates).transpose()?.unwrap_or_default();
        let http = client(&roots, retry, direct).map_err(|e| OciError::client(&e))?;
        Ok(Self { http, roots })
    }

    pub(crate) fn configure(&self, config: ClientConfig) -> ClientConfig {
        ClientConfig { extra_root_certificates: self.roots.clone(), ..config }
    }

    pub(crate) fn into_http(self) -> reqwest::Client {
        self.http
    }

    /// Whether a registry that may be spoken to in plain HTTP has TLS all the same. One whose certificate is no good has it:
    /// it is not to be believed without.
    pub(crate) async fn is_spoken_by(&self, registry: &str) -> bool {
        match self.http.get(format!("https://{registry}/v2/")).timeout(PROBE).send().await {
            Ok(_) => true,
            Err(e) => tls_error(&e).is_some_and(|e| !matches!(e, rustls::Error::InvalidMessage(_))),
        }
    }
}

/// Fails if the system has no authorities, as a container's base image often has none. `oci-client` 0.18 panics then, whatever it
/// is configured with: its constructor makes a default client too.
fn system_authorities() -> Result<(), OciError> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let tried = reqwest::Client::builder().build();
        tried.map(drop).map_err(|e| e.source().map_or_else(|| e.to_string(), ToString::to_string))
    });
    found.clone().map_err(|reason| OciError::Client {
        reason: format!("{reason}; install the package ca-certificates, or set SSL_CERT_FILE to a file of authorities"),
    })
}

fn client(roots: &[Certificate], retry: &RetryPolicy, direct: bool) -> Result<reqwest::Client, reqwest::Error> {
    let roots = roots.iter().map(|root| reqwest::Certificate::from_pem(&root.data)).collect::<Result<Vec<_>, _>>()?;
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .read_timeout(retry.stalled_after)
        .connect_timeout(retry.stalled_after)
        .tls_certs_merge(roots);
    if direct { builder.no_proxy() } else { builder }.build()
}

/// The certificates of a PEM file, one by one: the client takes no more than the first of each piece.
fn certificates(path: &Path) -> Result<Vec<Certificate>, OciError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let bytes = std::fs::read(path).map_err(|source| OciError::Read { path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&bytes);
    let found: Vec<_> = text
        .split(BEGIN)
        .skip(1)
        .filter_map(|rest| rest.split_once(END))
        .map(|(body, _)| format!("{BEGIN}{body}{END}\n").into_bytes())
        .map(|data| Certificate { encoding: CertificateEncoding::Pem, data })
        .collect();
    if found.is_empty() {
        let reason = format!("{} holds no certificate in PEM form", path.display());
        return Err(OciError::Client { reason });
    }
    Ok(found)
}
