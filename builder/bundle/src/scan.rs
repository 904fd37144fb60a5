//! One pass over the content of every file: hashes for the SBOM, secrets and what a program is for the lint, what a file resembles
//! for its place in the image.

use imgbuild_squashfs::{Sketch, Sketcher};
use imgbuild_tree::{Content, FileContent, Kind, NodeId, RootTree};
use memchr::memmem;
use rayon::prelude::*;
use regex::bytes::Regex;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

use crate::Error;

/// Of squashfs, in bytes: longer files share no block with others.
const LONGEST_BLOCK: u64 = 1 << 20;
/// Read at a time.
const CHUNK: usize = 1 << 20;
/// A secret that straddles two chunks is found when it is no longer than this from its header to its first full line.
const OVERLAP: usize = 4 << 10;
/// Tokens are looked for in files up to this size: they stand in configuration, and random text of the same shape in
/// programs and data.
const TOKEN_FILE: u64 = 256 << 10;

/// A PEM private key with at least one full line of its base64 body. The header alone stands in every TLS library.
static PRIVATE_KEY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"-----BEGIN ([A-Z0-9]+ ){0,3}PRIVATE KEY( BLOCK)?-----\r?\n([ \t]*[A-Za-z-]+: [^\n]*\n)*\s*[A-Za-z0-9+/=]{40,}\r?\n",
    )
    .ok()
});

/// A key as a kubeconfig or a Secret holds it: base64 of `-----BEGIN …`, in a field for keys.
static ENCODED_KEY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"(?i-u:key)[A-Za-z.-]*["']?[ \t]*:[ \t]*["']?LS0tLS1CRUdJTi[A-Za-z0-9+/]{40,}"#).ok()
});

/// A Kubernetes bootstrap token (`[a-z0-9]{6}.[a-z0-9]{16}`) where a token is expected, as
/// <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/> has it.
static BOOTSTRAP_TOKEN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"(?i-u:token)[A-Za-z-]*["']?[ \t]*[:= ][ \t]*["']?[a-z0-9]{6}\.[a-z0-9]{16}(?-u:\b)"#).ok()
});

/// What the pass found out about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// Its node.
    pub id: NodeId,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// SHA-1 of its content, which SPDX 2.3 asks for.
    pub sha1: [u8; 20],
    /// What should not be in an image, if anything.
    pub secret: Option<Secret>,
    /// What a kernel would run it as.
    pub format: Format,
    /// What it resembles, where squashfs may want to know that.
    pub sketch: Option<Sketch>,
}

/// What a kernel would run a file as, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Nothing of this.
    Data,
    /// An ELF program or shared library; not what a linker or the kernel's module loader takes.
    Elf,
    /// A script: it begins with `#!`.
    Script,
}

impl Format {
    /// Of a file that begins so.
    fn of(head: &[u8]) -> Self {
        // `e_type` stands in the byte order of the file; one of the two bytes is zero.
        let kind = |low: usize, high: usize| u16::from_le_bytes([head[low], head[high]]);
        match head {
            [b'#', b'!', ..] => Self::Script,
            [0x7f, b'E', b'L', b'F', _, order, ..] if head.len() >= 18 => {
                match if *order == 2 { kind(17, 16) } else { kind(16, 17) } {
                    2 | 3 => Self::Elf,
                    _ => Self::Data,
                }
            }
            _ => Self::Data,
        }
    }
}

/// Something that everyone who can reach the boot server would read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// A PEM private key.
    PrivateKey,
    /// A Kubernetes bootstrap token.
    BootstrapToken,
}

impl Secret {
    /// The thing in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PrivateKey => "a private key",
            Self::BootstrapToken => "a Kubernetes bootstrap token",
        }
    }
}

/// Bytes that [`Found::to_bytes`] makes.
pub const FOUND_BYTES: usize = 32 + 20 + 1 + 1 + 1 + Sketch::BYTES;

/// Names what [`Found`] means. Whoever changes what is looked for changes it.
pub const VERSION: &str = "sha256 sha1 secrets-1 formats-1 sketches-1";

/// What the pass found out about a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Its SHA-1.
    pub sha1: [u8; 20],
    /// What should not be in an image, if anything.
    pub secret: Option<Secret>,
    /// What a kernel would run it as.
    pub format: Format,
    /// What it resembles, if it is shorter than squashfs's longest blocks.
    pub sketch: Option<Sketch>,
}

impl Found {
    /// For keeping.
    #[must_use]
    pub fn to_bytes(self) -> [u8; FOUND_BYTES] {
        let mut bytes = [0; FOUND_BYTES];
        bytes[..32].copy_from_slice(&self.sha256);
        bytes[32..52].copy_from_slice(&self.sha1);
        bytes[52] = match self.secret {
            None => 0,
            Some(Secret::PrivateKey) => 1,
            Some(Secret::BootstrapToken) => 2,
        };
        bytes[53] = match self.format {
            Format::Data => 0,
            Format::Elf => 1,
            Format::Script => 2,
        };
        if let Some(sketch) = self.sketch {
            bytes[54] = 1;
            bytes[55..].copy_from_slice(&sketch.to_bytes());
        }
        bytes
    }

    /// What [`Found::to_bytes`] made; nothing if it did not.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; FOUND_BYTES]) -> Option<Self> {
        let secret = match bytes[52] {
            0 => None,
            1 => Some(Secret::PrivateKey),
            2 => Some(Secret::BootstrapToken),
            _ => return None,
        };
        let format = match bytes[53] {
            0 => Format::Data,
            1 => Format::Elf,
            2 => Format::Script,
            _ => return None,
        };
        let sketch = match bytes[54] {
            0 => None,
            1 => Some(Sketch::from_bytes(bytes.last_chunk()?)),
            _ => return None,
        };
        Some(Self {
            sha256: bytes[..32].try_into().ok()?,
            sha1: bytes[32..52].try_into().ok()?,
            secret,
            format,
            sketch,
        })
    }
}

/// Remembers what passes found out about contents that cannot change.
pub trait Memory: Sync {
    /// What an earlier pass found.
    fn recall(&self, content: &Content) -> Option<Found>;
    /// What this one found.
    fn remember(&self, content: &Content, found: Found);
}

/// Reads every regular file of the tree once (a file with several names once), on all cores; those that `memory` knows not
/// at all.
///
/// The result is in the order of the tree's first walk, so that it does not depend on the number of threads.
///
/// # Errors
/// The first file that cannot be read.
pub fn scan(tree: &RootTree, memory: Option<&dyn Memory>) -> Result<Vec<Scanned>, Error> {
    let mut seen = vec![false; tree.len()];
    let files: Vec<_> = tree
        .ids()
        .filter(|id| !std::mem::replace(&mut seen[id.index()], true))
        .filter_map(|id| match &tree.node(id).kind {
            Kind::Regular(content) => Some((id, content)),
            _ => None,
        })
        .collect();
    files
        .into_par_iter()
        .map(|(id, content)| {
            let found = match memory.and_then(|memory| memory.recall(content)) {
                Some(found) => found,
                None => {
                    let found = read(content).map_err(|source| Error::Content { path: path(tree, id), source })?;
                    if let Some(memory) = memory {
                        memory.remember(content, found);
                    }
                    found
                }
            };
            let Found { sha256, sha1, secret, format, sketch } = found;
            Ok(Scanned { id, size: content.len(), sha256, sha1, secret, format, sketch })
        })
        .collect()
}

/// The first name of a node.
fn path(tree: &RootTree, id: NodeId) -> String {
    let item = tree.walk().find(|item| item.id == id);
    item.map(|item| String::from_utf8_lossy(&item.path).into_owned()).unwrap_or_default()
}

fn read(content: &impl FileContent) -> std::io::Result<Found> {
    let (mut sha256, mut sha1) = (Sha256::new(), Sha1::new());
    let size = content.len();
    let mut buffer = vec![0; OVERLAP + CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
    let (mut kept, mut offset, mut secret, mut program, mut format) = (0, 0, None, false, Format::Data);
    let mut sketcher = (0 < size && size < LONGEST_BLOCK).then(Sketcher::default);
    while offset < size {
        let take = (size - offset).min((buffer.len() - OVERLAP) as u64) as usize;
        let filled = kept + take;
        content.read_exact_at(&mut buffer[kept..filled], offset)?;
        sha256.update(&buffer[kept..filled]);
        sha1.update(&buffer[kept..filled]);
        if let Some(sketcher) = &mut sketcher {
            sketcher.update(&buffer[kept..filled]);
        }
        // Cryptographic libraries carry keys for their self-tests; nobody hides a key of their own in a program.
        if offset == 0 {
            program = buffer[..filled].starts_with(b"\x7fELF");
            format = Format::of(&buffer[..filled]);
        }
        secret = secret.or_else(|| if program { None } else { find(&buffer[..filled], size) });
        offset += take as u64;
        kept = filled.min(OVERLAP);
        buffer.copy_within(filled - kept..filled, 0);
    }
    let sketch = sketcher.map(|sketcher| sketcher.finish());
    Ok(Found { sha256: sha256.finalize().into(), sha1: sha1.finalize().into(), secret, format, sketch })
}

fn find(bytes: &[u8], size: u64) -> Option<Secret> {
    let matches = |regex: &LazyLock<Option<Regex>>| regex.as_ref().is_some_and(|r| r.is_match(bytes));
    if memmem::find(bytes, b"PRIVATE KEY").is_some() && matches(&PRIVATE_KEY) {
        return Some(Secret::PrivateKey);
    }
    if memmem::find(bytes, b"LS0tLS1CRUdJTi").is_some() && matches(&ENCODED_KEY) {
        return Some(Secret::PrivateKey);
    }
    let text = size <= TOKEN_FILE && memchr::memchr(0, bytes).is_none();
    (text && matches(&BOOTSTRAP_TOKEN)).then_some(Secret::BootstrapToken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::put;

    #[test]
    fn what_is_remembered_is_not_read() {
        struct Known(Found, std::sync::Mutex<Vec<u64>>);
        impl Memory for Known {
            fn recall(&self, content: &Content) -> Option<Found> {
                (content.len() == 3).then_some(self.0)
            }
            fn remember(&self, content: &Content, found: Found) {
                assert_ne!(found, self.0);
                self.1.lock().unwrap().push(content.len());
            }
        }
        for secret in [None, Some(Secret::PrivateKey), Some(Secret::BootstrapToken)] {
            let mut found = Found { sha256: [1; 32], sha1: [2; 20], secret, format: Format::Script, sketch: None };
            assert_eq!(Found::from_bytes(&found.to_bytes()), Some(found));
            found.sketch = Some(Sketcher::default().finish());
            assert_eq!(Found::from_bytes(&found.to_bytes()), Some(found));
            let mut tree = RootTree::new();
            put(&mut tree, "/a", b"abc");
            put(&mut tree, "/b", b"abcd");
            let memory = Known(found, std::sync::Mutex::default());
            let scanned = scan(&tree, Some(&memory)).unwrap();
            assert_eq!((scanned[0].sha256, scanned[0].secret), ([1; 32], secret));
            assert_eq!(scanned[1].sha256, <[u8; 32]>::from(Sha256::digest(b"abcd")));
            assert_eq!(*memory.1.lock().unwrap(), [4]);
        }
        assert_eq!(Found::from_bytes(&[9; FOUND_BYTES]), None);
    }

    const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAA\n";

    fn secret(content: &[u8]) -> Option<Secret> {
        let mut tree = RootTree::new();
        put(&mut tree, "/x", content);
        scan(&tree, None).unwrap()[0].secret
    }

    #[test]
    fn hashes_are_right_over_several_chunks() {
        let bytes: Vec<u8> = (0..3 * CHUNK + 17).map(|i| (i * 7 % 251) as u8).collect();
        let mut tree = RootTree::new();
        put(&mut tree, "/x", &bytes);
        let scanned = &scan(&tree, None).unwrap()[0];
        assert_eq!(scanned.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_eq!(scanned.sha1, <[u8; 20]>::from(Sha1::digest(&bytes)));
        assert_eq!(scanned.size, bytes.len() as u64);
    }

    #[test]
    fn a_key_is_found_wherever_it_stands() {
        assert_eq!(secret(KEY.as_bytes()), Some(Secret::PrivateKey));
        for before in [CHUNK - 20, CHUNK - 60, CHUNK, 2 * CHUNK - 1] {
            let mut bytes = vec![b' '; before];
            bytes.extend_from_slice(KEY.as_bytes());
            bytes.extend(vec![b' '; CHUNK]);
            assert_eq!(secret(&bytes), Some(Secret::PrivateKey), "key after {before} bytes");
        }
    }

    #[test]
    fn programs_are_known_by_their_first_bytes() {
        let elf = |order: u8, kind: [u8; 2]| [&b"\x7fELF\x02"[..], &[order], &[0; 10], &kind].concat();
        for (bytes, format) in [
            (elf(1, [2, 0]), Format::Elf),
            (elf(1, [3, 0]), Format::Elf),
            (elf(2, [0, 3]), Format::Elf),
            (elf(1, [1, 0]), Format::Data),
            (elf(2, [3, 0]), Format::Data),
            (b"\x7fELF\x02\x01".to_vec(), Format::Data),
            (b"#!/bin/sh\n".to_vec(), Format::Script),
            (b"#".to_vec(), Format::Data),
            (Vec::new(), Format::Data),
        ] {
            let mut tree = RootTree::new();
            put(&mut tree, "/x", &bytes);
            assert_eq!(scan(&tree, None).unwrap()[0].format, format, "{bytes:?}");
        }
    }

    #[test]
    fn a_key_inside_yaml() {
        let indented = KEY.replace('\n', "\n    ");
        assert_eq!(secret(format!("stringData:\n  tls.key: |\n    {indented}\n").as_bytes()), Some(Secret::PrivateKey));
        let encoded = "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpNSUlFcEFJQkFBS0NBUUVBdzBN";
        assert_eq!(
            secret(format!("users:\n- user:\n    client-key-data: {encoded}\n").as_bytes()),
            Some(Secret::PrivateKey)
        );
        assert_eq!(secret(format!("certificate-authority-data: {encoded}\n").as_bytes()), None);
    }

    #[test]
    fn a_programs_self_test_is_no_secret() {
        // As libgnutls of Debian 12 has one.
        let mut bytes = b"\x7fELF".to_vec();
        bytes.extend(vec![0; 3 * CHUNK]);
        bytes.extend_from_slice(KEY.as_bytes());
        assert_eq!(secret(&bytes), None);
    }

    #[test]
    fn the_words_alone_are_no_key() {
        assert_eq!(secret(b"-----BEGIN RSA PRIVATE KEY-----\n\0-----END RSA PRIVATE KEY-----\n"), None);
        assert_eq!(secret(b"-----BEGIN CERTIFICATE-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA7bq2\n"), None);
    }

    #[test]
    fn bootstrap_tokens_where_a_token_is_expected() {
        assert_eq!(secret(b"    token: abcdef.0123456789abcdef\n"), Some(Secret::BootstrapToken));
        assert_eq!(secret(b"kubeadm join --token abcdef.0123456789abcdef x"), Some(Secret::BootstrapToken));
        assert_eq!(secret(b"see abcdef.0123456789abcdef for more"), None);
        assert_eq!(secret(b"token: abcdef.0123456789abcdefff\n"), None);
    }
}
