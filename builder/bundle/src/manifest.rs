//! `manifest.json`: what a bundle is, for tools.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The schema this version writes; it reads this one only.
pub const SCHEMA: u32 = 1;
/// The manifest's file name in a bundle.
pub const FILE_NAME: &str = "manifest.json";

/// The whole of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format; [`SCHEMA`].
    pub schema: u32,
    /// The image's name.
    pub name: String,
    /// The image's version.
    pub version: String,
    /// Machine type in Debian's and OCI's spelling: `amd64`, `arm64`.
    pub arch: String,
    /// `SOURCE_DATE_EPOCH` of the build, in seconds since 1970-01-01 UTC.
    pub build_time: i64,
    /// Kernel release (`6.1.0-41-amd64`); none in a root-only bundle.
    pub kernel: Option<Kernel>,
    /// Every other file of the bundle but `SHA256SUMS`, by name.
    pub files: BTreeMap<String, FileEntry>,
    /// What the root was made of, in order.
    pub layers: Vec<LayerEntry>,
    /// How the root reaches the node: `fetch` or `embed`.
    pub delivery: String,
    /// RAM budget and what the image needs, by boot phase.
    pub ram: Ram,
    /// What `imgbuild test` asserts: the recipe's `[[test]]` tables as they stand there.
    pub tests: Vec<serde_json::Value>,
    /// Version of imgbuild.
    pub tool_version: String,
}

/// The kernel of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Its release as `uname -r` prints it.
    pub release: String,
    /// The recipe's command line, without what the boot server adds.
    pub cmdline: Vec<String>,
    /// Modules in the initrd, by name, sorted.
    pub modules: Vec<String>,
    /// Firmware files in the initrd, below `/lib/firmware`, sorted.
    pub firmware: Vec<String>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileEntry {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
}

/// A layer that went into the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LayerEntry {
    /// Its name in the recipe.
    pub name: String,
    /// Where it came from, pinned: `registry.example.com/os/debian@sha256:…`, `https://…`, `debian bookworm`, a folder.
    pub source: String,
    /// Digest of the input: image manifest, file, package list, or overlay tree (`sha256:…`).
    pub digest: String,
    /// Where it stands in the recipe: `recipes/worker.toml:12`.
    pub recipe: String,
    /// Files that the final root has from it.
    pub files: u64,
    /// Their bytes, uncompressed, hard links counted once.
    pub bytes: u64,
}

/// RAM in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ram {
    /// `[budget] ram`; 0 where the recipe says nothing.
    pub budget: u64,
    /// What the kernel needs to unpack the initrd: compressed and unpacked side by side, plus the kernel itself.
    pub unpack: u64,
    /// What the download needs: unpacked initrd plus the root.
    pub fetch: u64,
    /// What is taken at rest: the root in RAM plus the allowance for the system.
    pub rest: u64,
}
