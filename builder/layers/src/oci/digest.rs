//! Digests: the names of things in a registry (OCI image specification, "Digests").

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256, Sha512};

/// `sha256:HEX` or `sha512:HEX`, lower case; what every OCI blob is named by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A string that is no digest, or one of an algorithm that nobody may rely on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no digest: sha256: and 64, or sha512: and 128 lower-case hexadecimal digits are expected")]
pub struct DigestError {
    /// What was there instead.
    pub text: String,
}

impl Digest {
    /// The SHA-256 of some bytes.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Self::sha256_hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The whole of it: `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// `sha256/HEX`: the path below `blobs/` in an OCI layout, and the key in the cache.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.algorithm(), self.hex())
    }

    /// The algorithm and the first twelve digits: enough for people.
    #[must_use]
    pub fn short(&self) -> &str {
        let end = self.algorithm().len() + 1 + 12;
        self.0.get(..end).unwrap_or(&self.0)
    }

    /// A hasher that gives such digests as [`Digest::sha256`].
    #[must_use]
    pub(crate) fn sha256_hasher() -> Hasher {
        Hasher::Sha256(Sha256::new())
    }

    /// A hasher of this digest's algorithm.
    #[must_use]
    pub(crate) fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" { Hasher::Sha512(Sha512::new()) } else { Hasher::Sha256(Sha256::new()) }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = |digits: &str, len| {
            digits.len() == len && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let sound = match text.split_once(':') {
            Some(("sha256", digits)) => hex(digits, 64),
            Some(("sha512", digits)) => hex(digits, 128),
            _ => false,
        };
        if sound { Ok(Self(text.to_owned())) } else { Err(DigestError { text: text.to_owned() }) }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes on their way to a digest.
#[derive(Debug, Clone)]
pub(crate) enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Takes more bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all of them.
    #[must_use]
    pub(crate) fn finish(self) -> Digest {
        let (algorithm, sum) = match self {
            Self::Sha256(hasher) => ("sha256", hasher.finalize().to_vec()),
            Self::Sha512(hasher) => ("sha512", hasher.finalize().to_vec()),
        };
        let mut text = format!("{algorithm}:");
        for byte in sum {
            text.push_str(&format!("{byte:02x}"));
        }
        Digest(text)
    }
}

impl Write for Hasher {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that hashes and counts what passes through it.
#[derive(Debug)]
pub(crate) struct HashingReader<'a, R> {
    inner: R,
    hasher: Hasher,
    read: &'a AtomicU64,
}

impl<'a, R: Read> HashingReader<'a, R> {
    /// Reads `inner`, hashes with `hasher` and counts in `read`, which can be looked at while a decoder has the reader.
    pub(crate) fn new(inner: R, hasher: Hasher, read: &'a AtomicU64) -> Self {
        Self { inner, hasher, read }
    }

    /// Reads to the end, which a decoder need not have reached, and returns the digest of everything.
    ///
    /// # Errors
    /// When the rest cannot be read.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        let mut buf = [0; 8192];
        while self.read(&mut buf)? > 0 {}
        Ok(self.hasher.finish())
    }
}

impl<R: Read> Read for HashingReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if let Some(bytes) = buf.get(..n) {
            self.hasher.update(bytes);
        }
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: Digest = empty.parse().unwrap();
        assert_eq!(digest, Digest::sha256(b""));
        assert_eq!(digest.to_string(), empty);
        assert_eq!(digest.short(), "sha256:e3b0c44298fc");
        assert_eq!(digest.key(), empty.replace(':', "/"));
        let long = format!("sha512:{}", "0f".repeat(64)).parse::<Digest>().unwrap();
        assert_eq!(long.hasher().finish().algorithm(), "sha512");
    }

    #[test]
    fn refuses_what_could_leave_its_folder_or_match_twice() {
        for text in
            ["", "sha256:", "sha256:../../etc/passwd", "md5:00", &format!("sha256:{}", "A".repeat(64)), "sha256"]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_hashing_reader_counts_what_the_decoder_left() {
        let read = AtomicU64::new(0);
        let mut reader = HashingReader::new(&b"abcdef"[..], Digest::sha256(b"").hasher(), &read);
        reader.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(read.load(Ordering::Relaxed), 2);
        assert_eq!(reader.finish().unwrap(), Digest::sha256(b"abcdef"));
        assert_eq!(read.load(Ordering::Relaxed), 6);
    }
}
