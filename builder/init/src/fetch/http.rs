//! One request, with what its answer means.

use std::io::Read;
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;
use ureq::http::{HeaderMap, StatusCode, header};

use super::{MOST_CONNECTIONS, SourceError, tls};
use crate::net::dns::Names;

/// A boot server that takes longer to accept is as good as dead.
const CONNECT: Duration = Duration::from_secs(10);
/// A read that brings nothing for so long is a broken connection; a slow one is not.
const STALLED: Duration = Duration::from_secs(20);
/// A report is not worth more.
const REPORT: Duration = Duration::from_secs(15);

/// An HTTP client that resolves names itself.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
}

/// The beginning of an answer.
pub struct Response {
    /// Where in the file the body begins.
    pub offset: u64,
    /// How long the file is, if the server says so.
    pub total: Option<u64>,
    /// Whether it is the part that was asked for, and not all of the file.
    pub is_part: bool,
    /// The bytes from there on.
    pub body: Box<dyn Read + Send>,
}

impl Client {
    /// A client with these name servers.
    #[must_use]
    pub fn new(names: Names) -> Self {
        let config = tls::configure(Config::builder())
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("netboot-init/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(STALLED))
            .timeout_per_read(Some(STALLED))
            .max_idle_connections_per_host(MOST_CONNECTIONS as usize)
            .build();
        Self { agent: Agent::with_parts(config, tls::connector(), names) }
    }

    /// Asks for a file from an offset on. `expected` is its whole length, where it is known.
    ///
    /// # Errors
    ///
    /// [`SourceError`] when there is no connection, another status than 200 or 206, or another length.
    pub fn get(&self, url: &str, offset: u64, expected: Option<u64>) -> Result<Response, SourceError> {
        self.range(url, offset, None, expected)
    }

    /// As [`Client::get`], for no more than `most` bytes.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub fn range(
        &self,
        url: &str,
        offset: u64,
        most: Option<u64>,
        expected: Option<u64>,
    ) -> Result<Response, SourceError> {
        let mut request = self.agent.get(url);
        if let Some(most) = most {
            let last = offset.saturating_add(most).saturating_sub(1);
            request = request.header(header::RANGE, format!("bytes={offset}-{last}"));
        } else if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        let response = request.call().map_err(|error| describe(error, offset, expected))?;
        let (head, body) = response.into_parts();
        let start = judge(head.status, &head.headers, offset, expected)?;
        let is_part = head.status == StatusCode::PARTIAL_CONTENT;
        Ok(Response { offset: start.offset, total: start.total, is_part, body: Box::new(body.into_reader()) })
    }

    /// Sends a JSON document.
    ///
    /// # Errors
    ///
    /// [`SourceError`] when there is no connection, or another status than 2xx.
    pub fn post(&self, url: &str, json: &[u8]) -> Result<(), SourceError> {
        let request = self.agent.post(url).header(header::CONTENT_TYPE, "application/json");
        let sent = request.config().timeout_global(Some(REPORT)).build().send(json);
        let status = sent.map_err(|error| describe(error, 0, None))?.status();
        if status.is_success() { Ok(()) } else { Err(SourceError::Status { code: status.as_u16(), retry_after: None }) }
    }
}

fn describe(error: ureq::Error, received: u64, total: Option<u64>) -> SourceError {
    match error {
        ureq::Error::BadUri(why) => SourceError::Url(why),
        ureq::Error::Http(why) => SourceError::Url(why.to_string()),
        ureq::Error::Timeout(which) => {
            SourceError::Connection { why: format!("no answer in time ({which})"), received, total }
        }
        error if tls::is_of_tls(&error) => SourceError::Tls(tls::words(&error)),
        // ureq's own words repeat the kind: "io: Connection refused".
        ureq::Error::Io(why) => SourceError::Connection { why: why.to_string(), received, total },
        other => SourceError::Connection { why: other.to_string(), received, total },
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Start {
    offset: u64,
    total: Option<u64>,
}

/// What status and headers mean for a request from `offset` on.
fn judge(status: StatusCode, headers: &HeaderMap, offset: u64, expected: Option<u64>) -> Result<Start, SourceError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let start = match status {
        StatusCode::OK => {
            let length = text(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
            Start { offset: 0, total: length }
        }
        StatusCode::PARTIAL_CONTENT => match text(header::CONTENT_RANGE).and_then(content_range) {
            Some((first, total)) if first == offset => Start { offset, total },
            _ => {
                let why = "the server answers with another range than asked for".to_owned();
                return Err(SourceError::Connection { why, received: offset, total: expected });
            }
        },
        other => {
            let retry_after = text(header::RETRY_AFTER).and_then(retry_after);
            return Err(SourceError::Status { code: other.as_u16(), retry_after });
        }
    };
    match (start.total, expected) {
        (Some(found), Some(expected)) if found != expected => Err(SourceError::Length { found, expected }),
        _ => Ok(start),
    }
}

/// `Retry-After` in seconds. The other form, a date, says nothing to a machine whose clock may be wrong.
fn retry_after(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

/// `bytes FIRST-LAST/TOTAL`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

/// A status in words, with a blank before them.
pub(super) fn reason(code: u16) -> String {
    let status = StatusCode::from_u16(code).ok();
    status.and_then(|status| status.canonical_reason()).map(|words| format!(" {words}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_whole_file_and_the_rest_of_one() {
        let whole = headers(&[(header::CONTENT_LENGTH, "100")]);
        assert_eq!(judge(StatusCode::OK, &whole, 0, Some(100)).unwrap(), Start { offset: 0, total: Some(100) });
        // A server that does not resume sends all of it.
        assert_eq!(judge(StatusCode::OK, &whole, 40, None).unwrap(), Start { offset: 0, total: Some(100) });
        let rest = headers(&[(header::CONTENT_LENGTH, "60"), (header::CONTENT_RANGE, "bytes 40-99/100")]);
        let start = Start { offset: 40, total: Some(100) };
        assert_eq!(judge(StatusCode::PARTIAL_CONTENT, &rest, 40, Some(100)).unwrap(), start);
        let no_length = judge(StatusCode::OK, &headers(&[]), 0, None).unwrap();
        assert_eq!(no_length, Start { offset: 0, total: None });
    }

    #[test]
    fn status_length_and_range_are_told_apart() {
        let whole = headers(&[(header::CONTENT_LENGTH, "100")]);
        assert!(matches!(
            judge(StatusCode::NOT_FOUND, &whole, 0, Some(100)),
            Err(SourceError::Status { code: 404, .. })
        ));
        let length = judge(StatusCode::OK, &whole, 0, Some(99));
        assert!(matches!(length, Err(SourceError::Length { found: 100, expected: 99 })));
        let wrong = headers(&[(header::CONTENT_RANGE, "bytes 0-99/100")]);
        assert!(matches!(judge(StatusCode::PARTIAL_CONTENT, &wrong, 40, None), Err(SourceError::Connection { .. })));
        let broken = headers(&[(header::CONTENT_RANGE, "lines 1-2")]);
        assert!(matches!(judge(StatusCode::PARTIAL_CONTENT, &broken, 0, None), Err(SourceError::Connection { .. })));
    }

    #[test]
    fn a_server_may_ask_to_be_left_alone() {
        let asked = |value: &str| {
            let error = judge(StatusCode::SERVICE_UNAVAILABLE, &headers(&[(header::RETRY_AFTER, value)]), 0, None);
            error.unwrap_err().retry_after()
        };
        assert_eq!(asked(" 120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(asked("-1"), None);
    }

    #[test]
    fn statuses_have_words() {
        let words = |code, retry_after| SourceError::Status { code, retry_after }.to_string();
        assert_eq!(words(404, None), "HTTP status 404 Not Found");
        assert_eq!(words(799, None), "HTTP status 799");
        let wait = Some(Duration::from_secs(7));
        assert_eq!(words(503, wait), "HTTP status 503 Service Unavailable (Retry-After: 7 s)");
    }
}
