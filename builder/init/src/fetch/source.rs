//! What is wrong with one source.

use std::time::Duration;

use super::http;

/// What to check where the root is larger than the memory.
pub(super) const TOO_SMALL: &str =
    "the machine's memory against the image's budget (`imgbuild inspect`); prune the image or compress it harder";

/// What is wrong with each source, by URL.
pub type Failures = Vec<(String, SourceError)>;

/// What is wrong with one source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The server answered, with something else.
    #[error(
        "HTTP status {code}{}{}",
        http::reason(*.code),
        .retry_after.map(|wait| format!(" (Retry-After: {} s)", wait.as_secs())).unwrap_or_default()
    )]
    Status {
        /// The status.
        code: u16,
        /// How long the server asks to be left alone (RFC 9110, section 10.2.3).
        retry_after: Option<Duration>,
    },
    /// It has a file of another length.
    #[error("the file there has {found} bytes, expected {expected}")]
    Length {
        /// Bytes there.
        found: u64,
        /// Bytes that the build wrote down.
        expected: u64,
    },
    /// What it has does not fit into the machine's memory.
    #[error("{0}")]
    Memory(String),
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
    /// The server is not who it should be, or does not speak TLS as we do.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server sends slower than is worth waiting for while there is another one.
    #[error("only {} KiB/s over {} s (netboot.min_speed={})", .rate / 1024, .window.as_secs(), .least / 1024)]
    Slow {
        /// Bytes a second.
        rate: u64,
        /// How long it was measured.
        window: Duration,
        /// Bytes a second that there should have been.
        least: u64,
    },
    /// A document is larger than it may be.
    #[error("more than the {most} bytes that it may have")]
    TooLarge {
        /// What it may have.
        most: u64,
    },
    /// The URL is not one.
    #[error("not a URL that can be fetched: {0}")]
    Url(String),
}

impl SourceError {
    /// Whether another attempt may go better.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Slow { .. } => true,
            Self::Status { code, .. } => matches!(code, 408 | 425 | 429 | 500..),
            Self::Length { .. }
            | Self::Memory(_)
            | Self::NoLength
            | Self::Hash { .. }
            | Self::TooLarge { .. }
            | Self::Tls(_)
            | Self::Url(_) => false,
        }
    }

    /// How long the server asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(super) fn what_to_check(&self) -> &'static str {
        match self {
            Self::Status { code: 404, .. } => "that this version is published, and the path in netboot.root=",
            Self::Status { code: 403 | 401, .. } => "the permissions of the file on the boot server",
            Self::Status { .. } => "the boot server's error log",
            Self::Length { .. } | Self::Hash { .. } => {
                "whether boot script, initrd and root are of one version: a stale boot.ipxe, or a root that was overwritten \
                 (a published version must never change)"
            }
            Self::Memory(_) => TOO_SMALL,
            Self::NoLength => "the boot server: it must serve files with Content-Length",
            Self::Connection { .. } => "the boot server, its firewall, and the network between",
            Self::Slow { .. } => {
                "the cable and the switch port's speed and duplex, and how many nodes the boot server feeds at once"
            }
            Self::Tls(_) => {
                "the server's certificate: its names and dates, this node's clock (the log's first lines; netboot.time= raises it), and \
                 that the recipe's [root] ca has who signed it"
            }
            Self::TooLarge { .. } => "that the URL is that of the document",
            Self::Url(_) => "netboot.root= on the kernel command line",
        }
    }
}
