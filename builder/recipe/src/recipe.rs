//! The recipe: what an image is made of and what it promises.
//!
//! The doc comments of these fields are the reference page and the JSON schema; they speak to people who write
//! recipes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::Test;
use crate::layer::{Layer, LayerTable};
use crate::paths;
use crate::values::{ByteSize, Mode, Seconds, Size};

/// What an image is made of and what it promises.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Recipe files to merge before this one, relative to it. A file that several include is read once. In a loaded
    /// recipe the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// The image's name and version.
    pub image: Image,
    /// Parameters: `${name}` in any string stands for one, `$${` for a plain `${`. A string that is nothing but
    /// `${name}` takes the parameter's value with its type, and as an item of a list all items of one that is a list.
    /// `--set params.name=value` overrides one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub params: BTreeMap<String, toml::Value>,
    /// Where the files of the image come from, in order of application.
    #[serde(rename = "layer", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<LayerTable>")]
    pub layers: Vec<Layer>,
    /// What to leave out of the merged root.
    #[serde(default)]
    pub prune: Prune,
    /// The kernel and what the initrd needs of it. Without this table the bundle holds a root and no boot files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// The squashfs root.
    #[serde(default)]
    pub root: Root,
    /// File systems in RAM, mounted before the system starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<Tmpfs>,
    /// Scripts run at boot.
    #[serde(rename = "hook", default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Limits that the build and the test hold the image to.
    #[serde(default)]
    pub budget: Budget,
    /// What `imgbuild test` asserts in the booted system, over every boot path.
    #[serde(rename = "test", default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<Test>,
    /// What the lint lets pass.
    #[serde(default)]
    pub lint: Lint,
    /// The folder of the first recipe file, absolute; the lock lies here, and paths in locks and manifests start here.
    #[serde(skip)]
    pub dir: PathBuf,
    /// The files it was read from, each before those that it includes, as the user named them; `<stdin>` for standard
    /// input.
    #[serde(skip)]
    pub files: Vec<PathBuf>,
}

impl Recipe {
    /// An absolute path as seen from the first recipe's folder: the same on every machine.
    #[must_use]
    pub fn relative(&self, path: &Path) -> String {
        paths::relative(&self.dir, path)
    }
}

/// The image's name and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its name: lower-case letters, digits, `.`, `_` and `-`. The bundle's folder is `NAME-VERSION`.
    pub name: String,
    /// Its version: letters, digits, `.`, `_`, `+`, `~` and `-`. By default it is derived from the content's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Machine type.
    #[serde(default)]
    pub arch: Arch,
    /// Every time stamp in the image is at most this, in seconds since 1970-01-01 UTC. The environment variable
    /// `SOURCE_DATE_EPOCH` wins over it; by default it is the newest time stamp of the inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_date_epoch: Option<u32>,
}

/// Machine type, in Debian's and OCI's spelling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    #[default]
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Arch {
    /// Its name, as Debian and OCI spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What to leave out of the merged root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Absolute paths to leave out, with everything below them; `*`, `?`, `[…]` stay within a name, `**` crosses
    /// folders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Absolute paths to keep although `paths`, of this table or of a group, takes them; the same globs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
    /// More of the same, by a name under which another recipe can replace it.
    #[serde(rename = "group", default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<PruneGroup>,
}

impl Prune {
    /// What is left out: the table's own globs, then those of the groups.
    pub fn all_paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().chain(self.groups.iter().flat_map(|group| &group.paths)).map(String::as_str)
    }

    /// What is kept nonetheless, in the same order.
    pub fn all_keep(&self) -> impl Iterator<Item = &str> {
        self.keep.iter().chain(self.groups.iter().flat_map(|group| &group.keep)).map(String::as_str)
    }
}

/// What belongs together of that which is left out. A recipe that wants it back replaces the group by an empty one:
/// `--set prune.group.NAME.paths=[]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneGroup {
    /// Its name.
    pub name: String,
    /// As in `[prune]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// As in `[prune]`: it wins over the `paths` of every group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
}

/// The kernel, taken out of the root, and what the initrd needs of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Which release, as `uname -r` prints it; `*` and `?` are wildcards. Exactly one kernel of the root must match.
    #[serde(default = "any")]
    pub version: String,
    /// Modules for the initrd: named sets like `net/virtio`, module names, or globs over paths below `kernel/`. What
    /// they depend on comes along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// Firmware for the initrd.
    #[serde(default)]
    pub firmware: Firmware,
    /// Kernel command line, one parameter or several in a string.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmdline: Vec<String>,
}

fn any() -> String {
    "*".to_owned()
}

impl Default for Kernel {
    fn default() -> Self {
        Self { version: any(), modules: Vec::new(), firmware: Firmware::default(), cmdline: Vec::new() }
    }
}

/// Which firmware goes into the initrd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// Every file that the chosen modules ask for; one that the root lacks is a lint error.
    #[default]
    Needed,
    /// Those files that the chosen modules ask for and the root has.
    Present,
    /// None: the modules load theirs from the root, once it is there.
    None,
}

/// The squashfs root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// How it reaches the node.
    #[serde(default)]
    pub delivery: Delivery,
    /// How it is compressed.
    #[serde(default)]
    pub compression: Compression,
    /// The tmpfs that takes what is written to it.
    #[serde(default)]
    pub overlay: Overlay,
    /// A file of certificates in PEM, relative to this file: with it the initrd fetches over `https://` as well, and
    /// believes servers whose certificate one of these has signed, and no others. It makes the initrd half a megabyte
    /// larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// How the root reaches the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// The initrd downloads it.
    #[default]
    Fetch,
    /// It is inside the initrd, as a squashfs. A root that is the initramfs itself is not offered: runc cannot `pivot_root` there, so no container would start.
    Embed,
}

impl Delivery {
    /// Its name in recipes and manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Embed => "embed",
        }
    }
}

/// How the root is compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    /// The algorithm.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Level: 1 to 22 for zstd, 1 to 9 for gzip and xz, where 6 to 9 give the same, 1 to 12 for lz4, where it is fast up to
    /// 2 and small from 3 on, 1 to 9 for lzo, where it means nothing; by default 9.
    #[serde(default = "level")]
    pub level: u8,
    /// Size of a block: a power of two from 4K to 1M; by default 1M. Larger blocks compress better; reading a byte
    /// unpacks a whole block.
    #[serde(default = "block")]
    pub block: ByteSize,
}

fn level() -> u8 {
    9
}

fn block() -> ByteSize {
    ByteSize(1 << 20)
}

impl Default for Compression {
    fn default() -> Self {
        Self { algorithm: Algorithm::default(), level: level(), block: block() }
    }
}

/// A compression algorithm of squashfs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Zstandard: as small as xz nearly, read many times faster.
    #[default]
    Zstd,
    /// Deflate, for kernels before 4.14.
    Gzip,
    /// LZMA2: the smallest, and many times slower to read.
    Xz,
    /// LZ4: the fastest to read, and larger than gzip.
    Lz4,
    /// LZO, for kernels that have nothing else.
    Lzo,
}

impl Algorithm {
    /// Its name in recipes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Lzo => "lzo",
        }
    }
}

/// The tmpfs that takes what is written to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// How large it may grow; by default 25% of RAM.
    #[serde(default = "quarter")]
    pub size: Size,
}

fn quarter() -> Size {
    Size::Percent(25)
}

impl Default for Overlay {
    fn default() -> Self {
        Self { size: quarter() }
    }
}

/// A file system in RAM, mounted before the system starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Mount point, absolute. It names the table: one of a later file replaces that of an earlier file.
    pub path: String,
    /// How large it may grow. Required: a tmpfs without a size promises half the RAM.
    pub size: Size,
    /// Permission bits of its top folder; by default 0755.
    #[serde(default = "folder_mode")]
    pub mode: Mode,
    /// Where it stands: `recipes/worker.toml:40`.
    #[serde(skip)]
    pub place: String,
}

/// Permission bits of a folder when nothing else is said.
pub(crate) fn folder_mode() -> Mode {
    Mode(0o755)
}

/// A script run at boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Its name, by which the hooks of a stage are ordered (`LC_ALL=C`); by default the script's file name.
    #[schemars(with = "Option<String>")]
    pub name: String,
    /// When it runs.
    pub stage: Stage,
    /// The script, relative to this file.
    #[schemars(with = "String")]
    pub script: PathBuf,
    /// After which time it is killed; by default 60s.
    #[serde(default = "minute")]
    pub timeout: Seconds,
    /// What follows when it fails or is killed.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Where it stands: `recipes/worker.toml:40`.
    #[serde(skip)]
    pub place: String,
}

pub(crate) fn minute() -> Seconds {
    Seconds(60)
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// In the initrd, before the network is touched.
    PreNetwork,
    /// In the new root, after its mounts, before its init.
    PreInit,
    /// In the running system, after its network is up.
    Online,
}

impl Stage {
    /// Its name in recipes; also the folder of its scripts in the initrd.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreNetwork => "pre-network",
            Self::PreInit => "pre-init",
            Self::Online => "online",
        }
    }
}

/// What follows when a hook fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Say so and go on.
    Continue,
    /// Say so, pause, reboot.
    #[default]
    Reboot,
    /// Say so and stop.
    Halt,
}

/// Limits that the build and the test hold the image to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// RAM of the smallest node this image must boot on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<ByteSize>,
    /// The squashfs root is at most this large.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<ByteSize>,
}

/// What the lint lets pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lint {
    /// Findings that are meant to be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Allow>,
}

/// A lint rule that may be broken, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// The rule's name, as the finding prints it.
    pub rule: String,
    /// Where: an absolute path or glob; by default everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Why; it is printed with the build's report.
    pub reason: String,
    /// Where it stands: `recipes/worker.toml:40`.
    #[serde(skip)]
    pub place: String,
}
