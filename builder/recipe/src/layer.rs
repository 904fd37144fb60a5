//! Layers: where the files of an image come from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::oci::OciSource;
use crate::values::Mode;

/// A source of files. Layers are applied in the recipe's order, later ones over earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "LayerTable")]
pub struct Layer {
    /// Its name, unique in the recipe.
    pub name: String,
    /// Where its files come from.
    pub source: Source,
    /// Where it stands, as the user named the file: `recipes/worker.toml:12`.
    pub place: String,
    /// Where it stands, with the file as seen from the first recipe's folder: `worker.toml:12`. The same on every
    /// machine and from every working folder, hence fit for manifests.
    pub origin: String,
}

/// Where the files of a layer come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An OCI image.
    Oci(OciLayer),
    /// A download.
    Url(UrlLayer),
    /// A local tar.
    Tar(TarLayer),
    /// A local file.
    File(FileLayer),
    /// Debian packages.
    Debian(DebianLayer),
    /// A local folder.
    Overlay(OverlayLayer),
}

impl Source {
    /// The key that stands for it in a recipe: `oci`, `url`, `tar`, `file`, `debian`, `overlay`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Oci(_) => "oci",
            Self::Url(_) => "url",
            Self::Tar(_) => "tar",
            Self::File(_) => "file",
            Self::Debian(_) => "debian",
            Self::Overlay(_) => "overlay",
        }
    }
}

/// An OCI image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciLayer {
    /// Where it is.
    pub image: OciSource,
    /// What to take of it; empty means everything.
    pub copy: Vec<Copy>,
}

/// A download: a plain file or an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlLayer {
    /// `http://…` or `https://…`.
    pub url: String,
    /// SHA-256 of the download, lower-case hex.
    pub sha256: String,
    /// Absolute: the folder that an archive is unpacked into, or the path of a plain file.
    pub to: String,
    /// Permission bits of a plain file; by default 0644.
    pub mode: Option<Mode>,
}

/// A local tar, plain or compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarLayer {
    /// The tar, absolute.
    pub path: PathBuf,
    /// The folder of the image it is unpacked into, absolute.
    pub to: String,
}

/// A local file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLayer {
    /// The file, absolute.
    pub path: PathBuf,
    /// Its path in the image, absolute.
    pub to: String,
    /// Its permission bits.
    pub mode: Mode,
}

/// A local folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayLayer {
    /// The folder, absolute.
    pub path: PathBuf,
}

/// A choice out of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// A file or folder in the layer's image, absolute; with all that is below it. A symbolic link is taken as a link,
    /// or with a `/` after it as the folder that it leads to.
    pub from: String,
    /// Where it goes, absolute; by default where it was. With a `/` at its end: the folder it goes into under its own
    /// name.
    #[schemars(with = "Option<String>")]
    pub to: String,
}

/// Debian packages, installed by mmdebstrap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DebianLayer {
    /// The suite: `bookworm`.
    pub suite: String,
    /// Packages to install; what they depend on comes along, what they recommend does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Base URL of the archive; by default Debian's, with the suite's updates and security updates. A mirror given
    /// here is used for the suite alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Take the archive as it was at this time, from snapshot.debian.org: `2026-11-01` or `20261101T083000Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Components of the archive; by default `main`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Further repositories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<Repository>,
    /// mmdebstrap's choice of what is installed beside `packages`.
    #[serde(default)]
    pub variant: Variant,
    /// Paths that dpkg leaves out when it unpacks (`path-exclude`): globs such as `/usr/share/doc/*`. They never reach
    /// the disk, which is quicker than `[prune]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_paths: Vec<String>,
    /// Paths that dpkg unpacks although `exclude_paths` takes them (`path-include`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include_paths: Vec<String>,
}

/// A further package repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// Its base URL.
    pub uri: String,
    /// Its suite, or an exact path that ends in `/`.
    pub suite: String,
    /// Its components; by default `main`, and none with an exact path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// File with its public key (`.asc` or `.gpg`), relative to this file; by default Debian's own keys are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub key: Option<PathBuf>,
}

/// What mmdebstrap installs beside the packages asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// The packages' files only, no maintainer script run.
    Extract,
    /// Nothing but the packages asked for.
    Custom,
    /// Packages marked `Essential: yes`.
    Essential,
    /// Those, and apt.
    Apt,
    /// Those, and packages of priority `required`.
    #[default]
    Minbase,
    /// Those, and packages of priority `important`.
    Important,
    /// Those, and packages of priority `standard`.
    Standard,
}

impl Variant {
    /// Its name in recipes and on mmdebstrap's command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Extract => "extract",
            Self::Custom => "custom",
            Self::Essential => "essential",
            Self::Apt => "apt",
            Self::Minbase => "minbase",
            Self::Important => "important",
            Self::Standard => "standard",
        }
    }
}

/// A `[[layer]]` as it stands in a recipe: a name, one of the keys `oci`, `url`, `tar`, `file`, `debian`, `overlay`,
/// and what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Layer", transform = one_source)]
pub struct LayerTable {
    /// Its name. A layer of a later file replaces the one of an earlier file with the same name, in its place.
    pub name: String,
    /// An OCI image: `REGISTRY/NAME:TAG` or `REGISTRY/NAME@sha256:…`, `oci-layout:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
    /// `docker-archive:FILE[:NAME:TAG]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci: Option<String>,
    /// A download, `http://…` or `https://…`: an archive (tar, zip), or a plain file. Needs `sha256` and `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A local tar, plain or compressed, relative to this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tar: Option<String>,
    /// A local file, relative to this file. Needs `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Debian packages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debian: Option<DebianLayer>,
    /// A local folder, relative to this file, laid over the root. Everything in it belongs to root:root, unless a
    /// file `.imgbuild-overlay.toml` in it says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
    /// With `oci`: take only these files and folders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copy: Vec<Copy>,
    /// With `url`: the SHA-256 of the download, 64 hexadecimal digits. Without it, or when it differs, the download is
    /// refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// With `url`, `tar`, `file`: the absolute path in the image. An archive is unpacked there (`tar` takes `/` by
    /// default); a plain file goes there, under its own name when `to` ends in `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// With `url` and `file`: permission bits of a plain file; by default 0644.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// The keys of which a `[[layer]]` has exactly one.
pub(crate) const SOURCE_KEYS: [&str; 6] = ["oci", "url", "tar", "file", "debian", "overlay"];

fn one_source(schema: &mut schemars::Schema) {
    let one_of = SOURCE_KEYS.map(|key| serde_json::json!({ "required": [key] }));
    schema.insert("oneOf".to_owned(), one_of.to_vec().into());
}

impl From<Layer> for LayerTable {
    fn from(layer: Layer) -> Self {
        let mut table = Self { name: layer.name, ..Self::default() };
        match layer.source {
            Source::Oci(oci) => {
                table.oci = Some(oci.image.to_string());
                table.copy = oci.copy;
            }
            Source::Url(url) => {
                table.url = Some(url.url);
                table.sha256 = Some(url.sha256);
                table.to = Some(url.to);
                table.mode = url.mode;
            }
            Source::Tar(tar) => {
                table.tar = Some(tar.path.display().to_string());
                table.to = Some(tar.to);
            }
            Source::File(file) => {
                table.file = Some(file.path.display().to_string());
                table.to = Some(file.to);
                table.mode = Some(file.mode);
            }
            Source::Debian(debian) => table.debian = Some(debian),
            Source::Overlay(overlay) => table.overlay = Some(overlay.path.display().to_string()),
        }
        table
    }
}
