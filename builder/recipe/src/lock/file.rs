//! The lock as a file.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Lock, LockedLayer, LockedSource, VERSION};
use crate::Recipe;
use crate::oci::is_sha256;

const HEADER: &str =
    "# Written by `imgbuild lock`: the exact inputs of this image. Keep it under version control; do not edit it.\n";

/// Why a lock could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file cannot be read.
    #[error("cannot read the lock {}", path.display())]
    Read {
        /// The lock.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the lock {}", path.display())]
    Write {
        /// The lock.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has another format than this program writes.
    #[error("the lock {} has format {found}, this imgbuild knows format {VERSION}: {}", path.display(),
        if *found > VERSION.into() { "use a newer imgbuild" } else { "write it anew with `imgbuild lock`" })]
    Version {
        /// The lock.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Version control left both sides of a conflict in it.
    #[error("the lock {}:{line} has an unresolved merge conflict: take either side, then run `imgbuild lock`", path.display())]
    Conflict {
        /// The lock.
        path: PathBuf,
        /// The line of the first marker.
        line: usize,
    },
    /// The file is no lock.
    #[error("the lock {}:{line}:{column} is broken: {message}; write it anew with `imgbuild lock`", path.display())]
    Broken {
        /// The lock.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A value in the file is none of its kind.
    #[error("the lock {} is broken: {message}; write it anew with `imgbuild lock`", path.display())]
    Invalid {
        /// The lock.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl Recipe {
    /// Where its lock lies: `NAME.lock` in the folder of the first recipe file.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        self.dir.join(format!("{}.lock", self.image.name))
    }
}

impl Lock {
    /// Reads a lock; `None` where there is no such file.
    ///
    /// # Errors
    /// When it cannot be read or is no lock.
    pub fn load(path: &Path) -> Result<Option<Self>, LockError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LockError::Read { path: path.to_owned(), source }),
        };
        Self::parse(&bytes, path).map(Some)
    }

    /// Reads a lock's text; `path` is for messages.
    ///
    /// # Errors
    /// When it is no lock.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, LockError> {
        let invalid = |message: String| LockError::Invalid { path: path.to_owned(), message };
        let text = std::str::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8 text".to_owned()))?;
        if let Some(index) = text.lines().position(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "))
        {
            return Err(LockError::Conflict { path: path.to_owned(), line: index + 1 });
        }
        let broken = |start: usize, message: &str| {
            let before = text.get(..start).unwrap_or_default();
            LockError::Broken {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1,
                message: message.trim().replace('\n', ", "),
            }
        };
        let from_toml = |error: toml::de::Error| broken(error.span().map_or(0, |span| span.start), error.message());
        // Read as carefully as a recipe first: depth is bounded there.
        let (_, syntax) = crate::load::document(text, 0);
        if let Some(error) = syntax.first() {
            return Err(broken(error.range.start, &error.message));
        }
        let table: toml::Table = toml::from_str(text).map_err(from_toml)?;
        match table.get("version").and_then(toml::Value::as_integer) {
            Some(found) if found == i64::from(VERSION) => {}
            Some(found) => return Err(LockError::Version { path: path.to_owned(), found }),
            None => return Err(invalid("it does not say its version".to_owned())),
        }
        let lock: Self = toml::from_str(text).map_err(from_toml)?;
        lock.check().map_err(invalid)?;
        Ok(lock)
    }

    /// What a build takes from the lock must look like what it is.
    fn check(&self) -> Result<(), String> {
        for (index, layer) in self.layers.iter().enumerate() {
            if self.layers.iter().take(index).any(|other| other.name == layer.name) {
                return Err(format!("two layers are called `{}`", layer.name));
            }
            let hash = layer.source.hash();
            let hex = match layer.source {
                LockedSource::Oci { .. } | LockedSource::Overlay { .. } => hash.strip_prefix("sha256:").unwrap_or(""),
                _ => hash,
            };
            if !is_sha256(hex) {
                return Err(format!("layer `{}` has {hash:?} where a SHA-256 belongs", layer.name));
            }
            if let LockedSource::Debian { packages, .. } = &layer.source
                && let Some(package) = packages.iter().find(|p| !p.sha256.is_empty() && !is_sha256(&p.sha256))
            {
                return Err(format!("package `{}` has {:?} where a SHA-256 belongs", package.name, package.sha256));
            }
        }
        if let Some(ca) = self.ca.as_ref().filter(|ca| !is_sha256(ca)) {
            return Err(format!("`ca` is {ca:?} where a SHA-256 belongs"));
        }
        match self.hooks.iter().find(|hook| !is_sha256(&hook.sha256)) {
            Some(hook) => Err(format!("hook `{}` has {:?} where a SHA-256 belongs", hook.name, hook.sha256)),
            None => Ok(()),
        }
    }

    /// Its text: the same lock is the same bytes.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = HEADER.to_owned();
        pair(&mut text, "", "version", &self.version.to_string());
        pair(&mut text, "", "recipe", &string(&self.recipe));
        pair(&mut text, "", "arch", &string(self.arch.as_str()));
        if let Some(ca) = &self.ca {
            pair(&mut text, "", "ca", &string(ca));
        }
        for layer in &self.layers {
            text.push_str("\n[[layer]]\n");
            write_layer(&mut text, layer);
        }
        for hook in &self.hooks {
            text.push_str("\n[[hook]]\n");
            pair(&mut text, "", "name", &string(&hook.name));
            pair(&mut text, "", "stage", &string(hook.stage.as_str()));
            pair(&mut text, "", "script", &string(&hook.script));
            pair(&mut text, "", "sha256", &string(&hook.sha256));
        }
        text
    }

    /// Writes it: the old file or the new one is there at any moment. Returns whether anything changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<bool, LockError> {
        let text = self.to_toml();
        if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(false);
        }
        write_whole(path, text.as_bytes()).map_err(|source| LockError::Write { path: path.to_owned(), source })?;
        Ok(true)
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As any file is made: the user's umask takes its share.
    let permissions = std::fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(".lock-").permissions(permissions).tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Writing to a `String` never fails.
fn pair(text: &mut String, indent: &str, key: &str, value: &str) {
    let _ = writeln!(text, "{indent}{key} = {value}");
}

fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn write_layer(text: &mut String, layer: &LockedLayer) {
    pair(text, "", "name", &string(&layer.name));
    pair(text, "", "kind", &string(layer.source.kind()));
    match &layer.source {
        LockedSource::Oci { image, digest } => {
            pair(text, "", "image", &string(image));
            pair(text, "", "digest", &string(digest));
        }
        LockedSource::Url { url, sha256 } => {
            pair(text, "", "url", &string(url));
            pair(text, "", "sha256", &string(sha256));
        }
        LockedSource::Tar { path, sha256 } | LockedSource::File { path, sha256 } => {
            pair(text, "", "path", &string(path));
            pair(text, "", "sha256", &string(sha256));
        }
        LockedSource::Overlay { path, tree } => {
            pair(text, "", "path", &string(path));
            pair(text, "", "tree", &string(tree));
        }
        LockedSource::Debian { suite, mirror, snapshot, asked, inputs, epoch, packages } => {
            pair(text, "", "suite", &string(suite));
            for (key, value) in [("mirror", mirror), ("snapshot", snapshot)] {
                if let Some(value) = value {
                    pair(text, "", key, &string(value));
                }
            }
            let asked: Vec<String> = asked.iter().map(|name| string(name)).collect();
            pair(text, "", "asked", &format!("[{}]", asked.join(", ")));
            pair(text, "", "inputs", &string(inputs));
            pair(text, "", "epoch", &epoch.to_string());
            // A line for each, so that version control shows what moved.
            text.push_str("package = [\n");
            for package in packages {
                let fields = [("name", &package.name), ("version", &package.version), ("arch", &package.arch)];
                let mut fields: Vec<String> = fields.iter().map(|(k, v)| format!("{k} = {}", string(v))).collect();
                if !package.sha256.is_empty() {
                    fields.push(format!("sha256 = {}", string(&package.sha256)));
                }
                let _ = writeln!(text, "    {{ {} }},", fields.join(", "));
            }
            text.push_str("]\n");
        }
    }
}
