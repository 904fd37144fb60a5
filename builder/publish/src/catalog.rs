//! `/catalog.json`: what a boot server has, made anew from the tree itself.

use std::path::Path;

use imgbuild_bundle::{Bundle, manifest::Manifest};
use serde::{Deserialize, Serialize};

use crate::{Error, Pointer, VersionId, disk, site::is_name};

/// The catalog's name in the tree.
pub const CATALOG: &str = "catalog.json";

/// What a boot server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Version of this format: 1.
    pub schema: u32,
    /// Every version, by name and version.
    pub images: Vec<ImageEntry>,
    /// Every channel, by name and channel.
    pub channels: Vec<ChannelEntry>,
    /// What lies in the tree and is none of these, one sentence each; empty on a sound boot server.
    pub problems: Vec<String>,
}

/// A published version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// The image's name.
    pub name: String,
    /// Its version, with the manifest's hash.
    #[serde(flatten)]
    pub id: VersionId,
    /// Machine type.
    pub arch: String,
    /// The kernel's release; none in a root-only image.
    pub kernel: Option<String>,
    /// `SOURCE_DATE_EPOCH` of the build.
    pub build_time: i64,
    /// Bytes of all its files.
    pub size: u64,
    /// Where it lies, relative to the tree.
    pub path: String,
}

/// Where a channel stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelEntry {
    /// The image's name.
    pub name: String,
    /// The channel.
    pub channel: String,
    /// The version machines boot.
    #[serde(flatten)]
    pub id: VersionId,
    /// Where a rollback leads.
    pub predecessor: Option<VersionId>,
}

/// Reads the tree. What cannot be understood becomes one of the catalog's problems: a stray folder must not stop a
/// publication.
pub(crate) fn scan(root: &Path) -> Result<Catalog, Error> {
    let mut catalog = Catalog { schema: 1, images: Vec::new(), channels: Vec::new(), problems: Vec::new() };
    let images = root.join("images");
    for name in names(&images)? {
        for version in names(&images.join(&name))? {
            match image(root, &name, &version) {
                Ok(entry) => catalog.images.push(entry),
                Err(error) => catalog.problems.push(error.to_string()),
            }
        }
    }
    let channels = root.join("channels");
    for name in names(&channels)? {
        for file in names(&channels.join(&name))? {
            let path = channels.join(&name).join(&file);
            match read(&path) {
                Ok(pointer) => catalog.channels.push(ChannelEntry {
                    name: name.clone(),
                    channel: pointer.channel,
                    id: pointer.current,
                    predecessor: pointer.before.first().cloned(),
                }),
                Err(error) => catalog.problems.push(error.to_string()),
            }
        }
    }
    Ok(catalog)
}

/// Writes what [`scan`] finds.
pub(crate) fn write(root: &Path) -> Result<(), Error> {
    let path = root.join(CATALOG);
    let mut text = serde_json::to_string_pretty(&scan(root)?)
        .map_err(|error| disk::failed("write", &path)(std::io::Error::other(error)))?;
    text.push('\n');
    disk::replace(&path, &text)
}

/// Reads a pointer.
pub(crate) fn read(path: &Path) -> Result<Pointer, Error> {
    let text = std::fs::read_to_string(path).map_err(disk::failed("read", path))?;
    Pointer::parse(path, &text)
}

/// Bytes of all files that a manifest lists; whoever wrote it may have written any sizes.
pub(crate) fn total(manifest: &Manifest) -> u64 {
    manifest.files.values().fold(0, |sum, file| sum.saturating_add(file.size))
}

fn image(root: &Path, name: &str, version: &str) -> Result<ImageEntry, Error> {
    let path = format!("images/{name}/{version}");
    let bundle = Bundle::open(root.join(&path))?;
    let manifest = bundle.manifest();
    if (manifest.name.as_str(), manifest.version.as_str()) != (name, version) {
        return Err(Error::Bundle(imgbuild_bundle::Error::NotABundle {
            path: bundle.path().to_owned(),
            reason: format!("its manifest is that of {} {}", manifest.name, manifest.version),
        }));
    }
    Ok(ImageEntry {
        name: name.to_owned(),
        id: VersionId { version: version.to_owned(), manifest_sha256: bundle.manifest_sha256()? },
        arch: manifest.arch.clone(),
        kernel: manifest.kernel.as_ref().map(|kernel| kernel.release.clone()),
        build_time: manifest.build_time,
        size: total(manifest),
        path,
    })
}

/// The names in a folder that may be ours, sorted bytewise; none if it is absent.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(disk::failed("read", folder)(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(disk::failed("read", folder))?;
        if let Ok(name) = entry.file_name().into_string()
            && is_name(&name)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
