//! What went wrong with a request, and whether another one may go better.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_client::errors::{OciDistributionError, OciErrorCode};

use super::error::OciError;

/// A failed request, by what to do about it.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Asking again changes nothing.
    Fatal(OciError),
    /// Too many requests, an ailing server, a connection that broke: ask again after a pause.
    Transient(OciError),
    /// There was no connection at all. It may be a restart or a lost packet, more often it is a typo: ask again, less often.
    Unreachable(OciError),
    /// 401: a token that has run out, or no permission. The detail is what the registry said.
    Unauthorized(String),
}

/// How often and how slowly to ask again. A server's `Retry-After` does not count: the client library keeps it to itself.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Requests in a row that may fail without a new byte having come.
    pub attempts: u32,
    /// The first pause; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How long a connection may say nothing.
    pub stalled_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(15),
            stalled_after: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// The pause before attempt number `failed + 1`, or nothing when it is time to give up.
    pub(crate) fn pause(&self, fault: &Fault, failed: u32) -> Option<Duration> {
        let attempts = match fault {
            Fault::Transient(_) => self.attempts,
            Fault::Unreachable(_) => self.attempts.min(3),
            Fault::Fatal(_) | Fault::Unauthorized(_) => return None,
        };
        if failed >= attempts {
            return None;
        }
        let doubled = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(16));
        // Many builders that lost the same registry should not all come back in the same instant.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        Some(doubled.min(self.longest_pause).mul_f64(0.75 + f64::from(nanos % 1000) / 2000.0))
    }
}

impl Fault {
    /// The error for the user once it is final; `tried` says which credentials were used.
    pub(crate) fn into_error(self, registry: &str, what: &str, tried: &str) -> OciError {
        match self {
            Self::Fatal(error) | Self::Transient(error) | Self::Unreachable(error) => error,
            Self::Unauthorized(detail) => refused(registry, what, "401", detail, tried),
        }
    }
}

pub(crate) fn refused(registry: &str, what: &str, status: &str, detail: String, tried: &str) -> OciError {
    OciError::Refused {
        registry: registry.to_owned(),
        what: what.to_owned(),
        status: status.to_owned(),
        detail,
        tried: tried.to_owned(),
    }
}

/// Sorts what the client library says.
pub(crate) fn classify(error: OciDistributionError, registry: &str, what: &str, tried: &str) -> Fault {
    match error {
        OciDistributionError::RequestError(error) => network(&error, registry, what),
        OciDistributionError::IoError(error) => network(&error, registry, what),
        OciDistributionError::UnauthorizedError { .. } => Fault::Unauthorized(String::new()),
        OciDistributionError::AuthenticationFailure(reason) => Fault::Unauthorized(one_line(&reason)),
        OciDistributionError::ServerError { code, message, .. } => {
            status(code, &code.to_string(), one_line(&message), registry, what, tried)
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let detail: Vec<_> = envelope.errors.iter().map(|e| e.message.trim().to_owned()).collect();
            let detail = one_line(&detail.join("; "));
            let code =
                envelope.errors.into_iter().next().map_or(OciErrorCode::Other("no error code".to_owned()), |e| e.code);
            // The library hides the status when there is an envelope; the code stands for it.
            let number = match &code {
                OciErrorCode::Unauthorized => 401,
                OciErrorCode::Denied => 403,
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::BlobUnknown
                | OciErrorCode::ManifestBlobUnknown
                | OciErrorCode::NotFound => 404,
                OciErrorCode::Toomanyrequests => 429,
                _ => 400,
            };
            let name = match code {
                OciErrorCode::Other(name) => name,
                known => format!("{known:?}"),
            };
            status(number, &name, detail, registry, what, tried)
        }
        OciDistributionError::DigestError(error) => match error {
            oci_client::errors::DigestError::VerificationError { expected, actual } => match expected.parse() {
                Ok(expected) => Fault::Fatal(OciError::DigestMismatch {
                    what: format!("{what} from {registry}"),
                    expected,
                    found: actual,
                }),
                Err(_) => strange(registry, what, format!("the registry calls it {expected}, which is no digest")),
            },
            other => strange(registry, what, other.to_string()),
        },
        other => strange(registry, what, other.to_string()),
    }
}

fn strange(registry: &str, what: &str, reason: String) -> Fault {
    Fault::Fatal(OciError::Manifest { what: format!("{what} from {registry}"), reason })
}

/// Sorts an HTTP status. `name` is how it is shown.
pub(crate) fn status(code: u16, name: &str, detail: String, registry: &str, what: &str, tried: &str) -> Fault {
    let (registry, what) = (registry.to_owned(), what.to_owned());
    match code {
        401 => Fault::Unauthorized(detail),
        403 => Fault::Fatal(refused(&registry, &what, name, detail, tried)),
        404 => Fault::Fatal(OciError::NotFound { registry, what, detail }),
        408 | 429 | 500.. => Fault::Transient(OciError::Status { registry, what, status: name.to_owned(), detail }),
        _ => Fault::Fatal(OciError::Status { registry, what, status: name.to_owned(), detail }),
    }
}

/// A body that a server sent instead of an answer, cut to what fits a message.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// The error and everything below it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        causes.push(cause);
        // What an io::Error wraps is not its source(): that is the wrapped error's source.
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source());
    }
    causes
}

/// What TLS said, if it was TLS that failed.
pub(crate) fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    causes(error).into_iter().find_map(|cause| cause.downcast_ref::<rustls::Error>())
}

/// Sorts an error of the HTTP client or of a stream, by its innermost cause: the outer ones say "error sending request".
pub(crate) fn network(error: &(dyn Error + 'static), registry: &str, what: &str) -> Fault {
    let fault = |problem: String| OciError::Network { registry: registry.to_owned(), what: what.to_owned(), problem };
    let causes = causes(error);
    if let Some(tls) = tls_error(error) {
        return Fault::Fatal(fault(tls_problem(tls)));
    }
    let innermost = causes.last().map_or_else(String::new, ToString::to_string);
    if causes.iter().any(|cause| cause.to_string() == "dns error") {
        return Fault::Unreachable(fault(format!("its name cannot be resolved: {innermost}")));
    }
    let timed_out = |cause: &&(dyn Error + 'static)| {
        cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout)
            || cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut)
    };
    let connecting =
        causes.iter().any(|cause| cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect));
    match (connecting, causes.iter().any(timed_out)) {
        (true, true) => {
            Fault::Unreachable(fault("nothing answers at its address (time-out while connecting)".to_owned()))
        }
        (true, false) => Fault::Unreachable(fault(format!("no connection: {innermost}"))),
        (false, true) => Fault::Transient(fault("it stopped sending (time-out)".to_owned())),
        (false, false) => Fault::Transient(fault(format!("the connection broke: {innermost}"))),
    }
}

fn tls_problem(error: &rustls::Error) -> String {
    use rustls::CertificateError as C;
    match error {
        rustls::Error::InvalidCertificate(C::UnknownIssuer) => {
            "its certificate is signed by no authority that is known here; give the authority's certificate with IMGBUILD_CA_FILE".to_owned()
        }
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS; if it is meant to be plain HTTP, list it in IMGBUILD_INSECURE_REGISTRIES".to_owned()
        }
        other => format!("TLS: {other}"),
    }
}
