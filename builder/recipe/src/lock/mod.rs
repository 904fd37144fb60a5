//! The lock: every input of a recipe pinned, in `NAME.lock` beside it.
//!
//! Paths in a lock are relative to its folder, so that it is the same on every machine.

mod changes;
mod file;

use serde::{Deserialize, Serialize};

pub use self::changes::{Change, LocalHashes};
pub use self::file::LockError;
use crate::Recipe;
use crate::layer::{Layer, Source};
use crate::recipe::{Arch, Hook, Stage};

/// The schema this version reads and writes.
pub const VERSION: u32 = 1;

/// The whole of a lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Version of this format; [`VERSION`].
    pub version: u32,
    /// The image's name.
    pub recipe: String,
    /// The image's machine type.
    pub arch: Arch,
    /// SHA-256 of `root.ca`, lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// One for each layer, in the recipe's order.
    #[serde(rename = "layer", default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LockedLayer>,
    /// One for each hook, in the recipe's order.
    #[serde(rename = "hook", default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<LockedHook>,
}

/// A layer, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedLayer {
    /// Its name in the recipe.
    pub name: String,
    /// What it is pinned to.
    #[serde(flatten)]
    pub source: LockedSource,
}

/// What a layer is pinned to. Paths are relative to the lock's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LockedSource {
    /// An OCI image.
    Oci {
        /// The image as the recipe names it, with a local path relative to the lock's folder.
        image: String,
        /// Digest of the manifest for the image's machine type: `sha256:…`.
        digest: String,
    },
    /// A download.
    Url {
        /// Its URL.
        url: String,
        /// Its SHA-256, lower-case hex.
        sha256: String,
    },
    /// A local tar.
    Tar {
        /// Its path.
        path: String,
        /// Its SHA-256, lower-case hex.
        sha256: String,
    },
    /// A local file.
    File {
        /// Its path.
        path: String,
        /// Its SHA-256, lower-case hex.
        sha256: String,
    },
    /// Debian packages.
    Debian {
        /// The suite.
        suite: String,
        /// The mirror, if the recipe names one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mirror: Option<String>,
        /// The time of the archive, if the recipe gives one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<String>,
        /// The packages that the recipe asks for, sorted.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        asked: Vec<String>,
        /// SHA-256 over all that the recipe says about the layer, keys included; lower-case hex.
        inputs: String,
        /// `SOURCE_DATE_EPOCH` of the layer: when the newest of its package indexes was made, in seconds since 1970-01-01
        /// UTC.
        epoch: i64,
        /// The packages that are installed, sorted by name.
        #[serde(rename = "package", default, skip_serializing_if = "Vec::is_empty")]
        packages: Vec<LockedPackage>,
    },
    /// A local folder.
    Overlay {
        /// Its path.
        path: String,
        /// Hash of what is in it, names, modes and contents: `sha256:…`.
        tree: String,
    },
}

/// A Debian package, pinned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture: `amd64`, `all`.
    pub arch: String,
    /// SHA-256 of the `.deb`, lower-case hex; empty where no package list has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
}

/// A hook, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedHook {
    /// Its name.
    pub name: String,
    /// When it runs.
    pub stage: Stage,
    /// Its script, relative to the lock's folder.
    pub script: String,
    /// SHA-256 of the script, lower-case hex.
    pub sha256: String,
}

/// What a layer was found to be, to be locked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pin {
    /// `oci`: the manifest's digest (`sha256:…`); `tar`, `file`: SHA-256 of the file in hex; `overlay`: hash of the
    /// tree; `debian`: SHA-256 of what the recipe says about it. Of no meaning for `url`, whose recipe has the hash.
    pub hash: String,
    /// `debian`: `SOURCE_DATE_EPOCH` of the layer.
    pub epoch: i64,
    /// `debian`: the packages that are installed.
    pub packages: Vec<LockedPackage>,
}

impl LockedLayer {
    /// A layer of a recipe, pinned to what it was found to be.
    #[must_use]
    pub fn new(recipe: &Recipe, layer: &Layer, pin: Pin) -> Self {
        let source = match &layer.source {
            Source::Oci(oci) => LockedSource::Oci { image: oci.image.relative_to(&recipe.dir), digest: pin.hash },
            Source::Url(url) => LockedSource::Url { url: url.url.clone(), sha256: url.sha256.clone() },
            Source::Tar(tar) => LockedSource::Tar { path: recipe.relative(&tar.path), sha256: pin.hash },
            Source::File(file) => LockedSource::File { path: recipe.relative(&file.path), sha256: pin.hash },
            Source::Overlay(overlay) => LockedSource::Overlay { path: recipe.relative(&overlay.path), tree: pin.hash },
            Source::Debian(debian) => {
                let mut asked = debian.packages.clone();
                asked.sort();
                asked.dedup();
                let mut packages = pin.packages;
                packages.sort();
                LockedSource::Debian {
                    suite: debian.suite.clone(),
                    mirror: debian.mirror.clone(),
                    snapshot: debian.snapshot.clone(),
                    asked,
                    inputs: pin.hash,
                    epoch: pin.epoch,
                    packages,
                }
            }
        };
        Self { name: layer.name.clone(), source }
    }
}

impl LockedSource {
    /// The key that stands for it in a recipe.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Oci { .. } => "oci",
            Self::Url { .. } => "url",
            Self::Tar { .. } => "tar",
            Self::File { .. } => "file",
            Self::Debian { .. } => "debian",
            Self::Overlay { .. } => "overlay",
        }
    }

    /// The hash that it is pinned to, as [`Pin::hash`] has it.
    #[must_use]
    pub fn hash(&self) -> &str {
        match self {
            Self::Oci { digest, .. } => digest,
            Self::Url { sha256, .. } | Self::Tar { sha256, .. } | Self::File { sha256, .. } => sha256,
            Self::Debian { inputs, .. } => inputs,
            Self::Overlay { tree, .. } => tree,
        }
    }
}

impl LockedHook {
    /// A hook of a recipe, pinned to the SHA-256 of its script in hex.
    #[must_use]
    pub fn new(recipe: &Recipe, hook: &Hook, sha256: String) -> Self {
        Self { name: hook.name.clone(), stage: hook.stage, script: recipe.relative(&hook.script), sha256 }
    }
}

#[cfg(test)]
mod tests;
