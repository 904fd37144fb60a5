//! What can go wrong between a reference and its layers.

use std::io;
use std::path::PathBuf;

use super::digest::Digest;
use crate::cache::CacheError;

/// An image that cannot be had, or is not what it says.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A file with credentials that cannot be used.
    #[error("cannot use the credentials in {}: {reason}", path.display())]
    AuthFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A credential helper that failed.
    #[error("the credential helper {helper}, named for {registry} in {}, failed: {reason}", path.display())]
    CredentialHelper {
        /// The program.
        helper: String,
        /// What it was asked for.
        registry: String,
        /// The file that names it.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// 401, 403, or a token server's refusal.
    #[error("{registry} refuses {what} ({status}{}); {tried}", said(detail))]
    Refused {
        /// The registry.
        registry: String,
        /// The image, or what of it was asked for.
        what: String,
        /// HTTP status, or the registry's error code.
        status: String,
        /// What the registry said, if anything.
        detail: String,
        /// Which credentials were used and where they are from, or where none were found.
        tried: String,
    },
    /// 404.
    #[error("{registry} has no {what}; check name and tag{}", said(detail))]
    NotFound {
        /// The registry.
        registry: String,
        /// The reference or blob.
        what: String,
        /// What the registry said, if anything.
        detail: String,
    },
    /// No connection, or one that broke too often.
    #[error("cannot fetch {what} from {registry}: {problem}")]
    Network {
        /// The registry.
        registry: String,
        /// The reference or blob.
        what: String,
        /// What happened, in words that tell DNS, connection, TLS and time-out apart.
        problem: String,
    },
    /// Any other HTTP status, after retries where they make sense.
    #[error("{registry} answers {what} with {status}{}", said(detail))]
    Status {
        /// The registry.
        registry: String,
        /// The reference or blob.
        what: String,
        /// HTTP status, or the registry's error code.
        status: String,
        /// What the registry said, if anything.
        detail: String,
    },
    /// Bytes that are not what their name says.
    #[error("{what} does not have the digest it was asked for: expected {expected}, found {found}")]
    DigestMismatch {
        /// The thing and where it came from.
        what: String,
        /// As asked for.
        expected: Digest,
        /// As found.
        found: String,
    },
    /// More or fewer bytes than the manifest says.
    #[error("{what} has {found} bytes, but its manifest says {expected}")]
    SizeMismatch {
        /// The thing and where it came from.
        what: String,
        /// As the manifest says.
        expected: u64,
        /// At least so many were found.
        found: u64,
    },
    /// A layer that unpacks to something else than the image's config says.
    #[error("layer {layer} unpacks to {found}, but the image's config says {expected}: the image is damaged or forged")]
    DiffIdMismatch {
        /// The compressed layer.
        layer: Digest,
        /// As the config says.
        expected: Digest,
        /// As found.
        found: Digest,
    },
    /// A manifest, index or config that makes no sense.
    #[error("{what}: {reason}")]
    Manifest {
        /// The reference, or digest.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A Docker image manifest of version 2, schema 1.
    #[error(
        "{what} has a schema 1 manifest, which names its layers without sizes or types and was retired in 2017; push the image again with a present-day tool"
    )]
    Schema1 {
        /// The reference.
        what: String,
    },
    /// An index without the wanted architecture.
    #[error("{what} is not made for {wanted}; it is there for {}", list(found))]
    NoPlatform {
        /// The reference.
        what: String,
        /// The recipe's architecture.
        wanted: String,
        /// What the index has.
        found: Vec<String>,
    },
    /// A layer of a kind that no root file system can be made of.
    #[error("layer {digest} of {what} has the media type '{media_type}': {reason}")]
    MediaType {
        /// The reference.
        what: String,
        /// The layer.
        digest: Digest,
        /// Its type.
        media_type: String,
        /// Why not.
        reason: &'static str,
    },
    /// A folder or archive that is not what its prefix says.
    #[error("{} is no {kind}: {reason}", path.display())]
    NotA {
        /// The folder or archive.
        path: PathBuf,
        /// `OCI layout`, `OCI archive`, `docker archive`.
        kind: &'static str,
        /// What is missing or wrong.
        reason: String,
    },
    /// No tag given, and several images to choose from.
    #[error("{} holds several images; name one of them: {}", path.display(), list(found))]
    Ambiguous {
        /// The layout or archive.
        path: PathBuf,
        /// The tags there are.
        found: Vec<String>,
    },
    /// A tag or digest that is not there.
    #[error("{} holds no image '{wanted}'; it holds {}", path.display(), list(found))]
    NoSuchImage {
        /// The layout or archive.
        path: PathBuf,
        /// The tag or digest.
        wanted: String,
        /// The tags there are.
        found: Vec<String>,
    },
    /// Not in the cache, and the network is off limits.
    #[error("{what} is not in the cache and --offline keeps it from being fetched; build once without --offline")]
    Offline {
        /// Digest and reference.
        what: String,
    },
    /// A layer that cannot be decompressed.
    #[error("cannot decompress layer {layer} of {}", path.display())]
    Decompress {
        /// The layer.
        layer: Digest,
        /// The file it is in.
        path: PathBuf,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the registry client: {reason}")]
    Client {
        /// Why.
        reason: String,
    },
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl OciError {
    /// Whether the input was had but is not what it should be, as opposed to not being had at all.
    #[must_use]
    pub fn is_verification(&self) -> bool {
        matches!(
            self,
            Self::DigestMismatch { .. }
                | Self::SizeMismatch { .. }
                | Self::DiffIdMismatch { .. }
                | Self::Decompress { .. }
        )
    }
}

impl OciError {
    /// [`OciError::Client`] with everything that the error and its sources say.
    pub(crate) fn client(error: &dyn std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            reason = format!("{reason}: {source}");
            next = source.source();
        }
        Self::Client { reason }
    }
}

fn said(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
}
