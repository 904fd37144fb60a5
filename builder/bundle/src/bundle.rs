//! A bundle on disk: opened, verified.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::manifest::{self, FileEntry, Manifest};
use crate::sbom::{self, Document};
use crate::{Error, sums};

/// The kernel's file name in a bundle.
pub const KERNEL: &str = "vmlinuz";
/// The initrd's file name in a bundle.
pub const INITRD: &str = "initrd.img";
/// The root's file name in a bundle.
pub const ROOT: &str = "root.squashfs";

/// A bundle whose manifest has been read.
#[derive(Debug, Clone)]
pub struct Bundle {
    path: PathBuf,
    manifest: Manifest,
}

impl Bundle {
    /// Reads the manifest of the bundle in this folder.
    ///
    /// # Errors
    /// When the folder holds none, or one of another schema.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let file = path.join(manifest::FILE_NAME);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Err(Error::NotABundle { path, reason: format!("it has no {}", manifest::FILE_NAME) });
            }
            Err(source) => return Err(Error::Io { action: "cannot read", path: file, source }),
        };
        let schema: Schema = parse(&path, &bytes)?;
        if schema.schema != manifest::SCHEMA {
            let reason = format!(
                "its manifest has schema {}, this imgbuild reads {}; use the imgbuild that built it",
                schema.schema,
                manifest::SCHEMA
            );
            return Err(Error::NotABundle { path, reason });
        }
        let manifest: Manifest = parse(&path, &bytes)?;
        if let Some(name) = manifest.files.keys().find(|name| !is_plain_name(name)) {
            return Err(Error::NotABundle { path, reason: format!("its manifest names a file {name:?}") });
        }
        Ok(Self { path, manifest })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The path of one of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// SHA-256 of `manifest.json` in lower-case hex: what names this very bundle.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn manifest_sha256(&self) -> Result<String, Error> {
        Ok(hash(&self.file(manifest::FILE_NAME))?.sha256)
    }

    /// Reads the SBOM.
    ///
    /// # Errors
    /// When it is missing or not in its format.
    pub fn sbom(&self) -> Result<Document, Error> {
        let path = self.file(sbom::FILE_NAME);
        let bytes =
            std::fs::read(&path).map_err(|source| Error::Io { action: "cannot read", path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|e| Error::NotABundle {
            path: self.path.clone(),
            reason: format!("{}:{}:{}: {e}", sbom::FILE_NAME, e.line(), e.column()),
        })
    }

    /// Reads every file and compares it with the manifest and with `SHA256SUMS`.
    ///
    /// # Errors
    /// The first file that is missing, has another size or hash, or is listed in one of the two only.
    pub fn verify(&self) -> Result<(), Error> {
        let listed = self.sums()?;
        let mut expected: BTreeMap<String, Option<&FileEntry>> =
            self.manifest.files.iter().map(|(name, entry)| (name.clone(), Some(entry))).collect();
        expected.insert(manifest::FILE_NAME.to_owned(), None);
        if let Some(name) = expected.keys().find(|name| !listed.contains_key(*name)) {
            return Err(self.damaged(sums::FILE_NAME, format!("a line for {name}"), "none".to_owned()));
        }
        if let Some(name) = listed.keys().find(|name| !expected.contains_key(*name)) {
            return Err(self.damaged(manifest::FILE_NAME, format!("an entry for {name}"), "none".to_owned()));
        }
        for (name, entry) in expected {
            let found = hash(&self.file(&name))?;
            if let Some(entry) = entry {
                if entry.size != found.size {
                    let size = |bytes| format!("{bytes} bytes");
                    return Err(self.damaged(&name, size(entry.size), size(found.size)));
                }
                if entry.sha256 != found.sha256 {
                    return Err(self.damaged(
                        &name,
                        format!("sha256:{}", entry.sha256),
                        format!("sha256:{}", found.sha256),
                    ));
                }
            }
            if listed.get(&name) != Some(&found.sha256) {
                let sum = listed.get(&name).map_or("none", String::as_str);
                return Err(self.damaged(&name, format!("sha256:{sum}"), format!("sha256:{}", found.sha256)));
            }
        }
        Ok(())
    }

    fn sums(&self) -> Result<BTreeMap<String, String>, Error> {
        let path = self.file(sums::FILE_NAME);
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Io {
            action: "cannot read",
            path: path.clone(),
            source,
        })?;
        sums::parse(&text).map_err(|line| Error::NotABundle {
            path: self.path.clone(),
            reason: format!("{}:{line}: not a line of sha256sum", sums::FILE_NAME),
        })
    }

    fn damaged(&self, name: &str, expected: String, found: String) -> Error {
        Error::Damaged { path: self.file(name), expected, found }
    }
}

/// The first thing to know about a manifest.
#[derive(serde::Deserialize)]
struct Schema {
    schema: u32,
}

fn parse<T: serde::de::DeserializeOwned>(bundle: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::NotABundle {
        path: bundle.to_owned(),
        reason: format!("{}:{}:{}: {e}", manifest::FILE_NAME, e.line(), e.column()),
    })
}

/// A name that stays in its folder.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0', '\n'])
}

/// Size and SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
pub fn hash(path: &Path) -> Result<FileEntry, Error> {
    let failed = |source| Error::Io { action: "cannot read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        size += read as u64;
    }
    Ok(FileEntry { size, sha256: crate::hex(hash.finalize()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bundle;

    #[test]
    fn a_whole_bundle_verifies() {
        let dir = tempfile::tempdir().unwrap();
        bundle(dir.path());
        Bundle::open(dir.path()).unwrap().verify().unwrap();
    }

    #[test]
    fn every_kind_of_damage_is_named() {
        type Damage = fn(&Path);
        let cases: [(Damage, &str); 6] = [
            (|d| std::fs::write(d.join(ROOT), "roof").unwrap(), "root.squashfs: expected sha256:"),
            (|d| std::fs::write(d.join(ROOT), "longer").unwrap(), "root.squashfs: expected 4 bytes, found 6 bytes"),
            (|d| std::fs::remove_file(d.join(ROOT)).unwrap(), "cannot read"),
            (|d| std::fs::write(d.join(sums::FILE_NAME), "").unwrap(), "SHA256SUMS: expected a line for"),
            (|d| std::fs::write(d.join(sums::FILE_NAME), "x\n").unwrap(), "SHA256SUMS:1: not a line of sha256sum"),
            (
                |d| {
                    let path = d.join(manifest::FILE_NAME);
                    let text = std::fs::read_to_string(&path).unwrap().replace("worker", "marker");
                    std::fs::write(path, text).unwrap();
                },
                "manifest.json: expected sha256:",
            ),
        ];
        for (damage, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            bundle(dir.path());
            damage(dir.path());
            let error = Bundle::open(dir.path()).unwrap().verify().unwrap_err().to_string();
            assert!(error.contains(expected), "{error} does not say {expected}");
        }
    }

    #[test]
    fn what_is_no_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let error = |d: &Path| Bundle::open(d).unwrap_err().to_string();
        assert!(error(dir.path()).ends_with("it has no manifest.json"));
        let write = |text: &str| std::fs::write(dir.path().join(manifest::FILE_NAME), text).unwrap();
        write("{\"schema\": 99}");
        assert!(error(dir.path()).contains("schema 99"), "{}", error(dir.path()));
        write("{\n  oops");
        assert!(error(dir.path()).contains("manifest.json:2:"), "{}", error(dir.path()));
    }

    #[test]
    fn a_manifest_cannot_name_files_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        bundle(dir.path());
        let path = dir.path().join(manifest::FILE_NAME);
        let text = std::fs::read_to_string(&path).unwrap().replace("\"root.squashfs\"", "\"../../etc/shadow\"");
        std::fs::write(&path, text).unwrap();
        assert!(Bundle::open(dir.path()).unwrap_err().to_string().contains("../../etc/shadow"));
    }
}
