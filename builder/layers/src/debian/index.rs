//! The signed indexes of package repositories: what state they are in, for the price of a few kilobytes.

use std::process::Command;

use sha2::{Digest, Sha256};

use super::DebianError;
use super::sources::SourceLine;

/// Comes with apt, which mmdebstrap needs; it knows the machine's proxies and credentials.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// The state of some repositories.
#[derive(Debug)]
pub(super) struct Indexes {
    /// SHA-256 over all of their indexes.
    pub(super) digest: String,
    /// When the newest was made, in seconds since 1970-01-01 UTC.
    pub(super) epoch: i64,
}

/// Fetches the `InRelease` of each repository. Their signatures are checked by mmdebstrap when it uses them.
pub(super) fn fetch(lines: &[SourceLine]) -> Result<Indexes, DebianError> {
    let scratch = tempfile::Builder::new()
        .prefix("imgbuild-index-")
        .tempdir()
        .map_err(|source| DebianError::Scratch { path: std::env::temp_dir(), source })?;
    let mut hash = Sha256::new();
    let mut epoch = 0;
    for (number, line) in lines.iter().enumerate() {
        let url = line.in_release_url();
        let file = scratch.path().join(number.to_string());
        let failed = |reason: String| DebianError::Index { url: url.clone(), reason };
        let output = Command::new(APT_HELPER)
            // The sandbox user cannot write into a private folder, and there is nothing here to protect from it.
            .args(["-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3", "download-file", &url])
            .arg(&file)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .map_err(|e| failed(format!("cannot run {APT_HELPER} ({e}); install apt")))?;
        if !output.status.success() {
            return Err(failed(last_words(&output.stderr)));
        }
        let bytes = std::fs::read(&file).map_err(|e| failed(e.to_string()))?;
        let made = date(&bytes).ok_or_else(|| DebianError::NoDate { url: url.clone() })?;
        epoch = epoch.max(made);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    Ok(Indexes { digest: hex::encode(hash.finalize()), epoch })
}

/// The errors of apt's own words, in one line.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let errors: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("E: ")).collect();
    if errors.is_empty() { text.trim().to_owned() } else { errors.join("; ") }
}

/// The `Date` of a Release file, which is in the format of RFC 2822 with `UTC` for the zone.
fn date(in_release: &[u8]) -> Option<i64> {
    let text = String::from_utf8_lossy(in_release);
    let value = text.lines().find_map(|line| line.strip_prefix("Date:"))?.trim();
    let value = value.strip_suffix("UTC").map(|v| format!("{v}+0000")).unwrap_or_else(|| value.to_owned());
    jiff::fmt::rfc2822::parse(&value).ok().map(|zoned| zoned.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_a_release() {
        let text = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nDate: Sat, 17 May 2025 08:58:04 UTC\n";
        assert_eq!(date(text), Some(1_747_472_284));
        assert_eq!(date(b"Date: Tue, 14 Nov 2023 22:13:20 +0000\n"), Some(1_700_000_000));
        assert_eq!(date(b"Date: soon\n"), None);
        assert_eq!(date(b"<html>"), None);
    }

    #[test]
    fn a_dead_mirror_is_named() {
        let line = SourceLine {
            uri: "http://127.0.0.1:9/debian".into(),
            suite: "bookworm".into(),
            components: vec!["main".into()],
            options: Vec::new(),
        };
        let error = fetch(&[line]).unwrap_err().to_string();
        assert!(error.starts_with("cannot fetch http://127.0.0.1:9/debian/dists/bookworm/InRelease: "), "{error}");
    }
}
