//! What `docker save`, `podman save` and `skopeo copy … docker-archive:` write: a tar with a `manifest.json`.
//!
//! Its layers have no digest of their own in the manifest; the config's diff ids are what they are checked by.

use std::path::{Path, PathBuf};

use imgbuild_tree::Content;
use serde::Deserialize;

use super::archive::{Archive, read_small};
use super::digest::Digest;
use super::error::OciError;
use super::layout::MOST_METADATA;
use crate::cache::Cache;

const KIND: &str = "docker archive";

pub(crate) struct DockerArchive {
    path: PathBuf,
    archive: Archive,
    images: Vec<Saved>,
}

/// One entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image's config, its digest (Docker's image id), and its layers, lowest first.
pub(crate) struct SavedImage {
    pub(crate) config: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) layers: Vec<Content>,
}

impl DockerArchive {
    pub(crate) fn open(path: &Path, cache: &Cache) -> Result<Self, OciError> {
        let archive = Archive::open(path, KIND, cache)?;
        let not_a = |reason: String| OciError::NotA { path: path.to_owned(), kind: KIND, reason };
        let Some(manifest) = archive.get("manifest.json") else {
            return Err(not_a("manifest.json is missing".to_owned()));
        };
        let bytes = read_small(manifest, MOST_METADATA).map_err(|e| not_a(format!("manifest.json: {e}")))?;
        let images = serde_json::from_slice(&bytes).map_err(|e| not_a(format!("manifest.json: {e}")))?;
        Ok(Self { path: path.to_owned(), archive, images })
    }

    /// The image of that name, or the only one.
    pub(crate) fn find(&self, wanted: Option<&str>) -> Result<SavedImage, OciError> {
        let Some(wanted) = wanted else {
            return match self.images.as_slice() {
                [] => Err(self.missing("of any name".to_owned())),
                [only] => self.image(only),
                _ => Err(OciError::Ambiguous { path: self.path.clone(), found: self.names() }),
            };
        };
        // `debian:12` is saved as `docker.io/library/debian:12` by podman, and as `debian:12` by docker.
        let whole = normal(wanted);
        let named = |name: &String| name == wanted || (whole.is_some() && normal(name) == whole);
        let saved = self.images.iter().find(|image| image.names().iter().any(named));
        self.image(saved.ok_or_else(|| self.missing(wanted.to_owned()))?)
    }

    /// The image whose config has that digest.
    pub(crate) fn find_digest(&self, wanted: &Digest) -> Result<SavedImage, OciError> {
        for saved in &self.images {
            let image = self.image(saved)?;
            if image.digest == *wanted {
                return Ok(image);
            }
        }
        Err(self.missing(wanted.to_string()))
    }

    fn image(&self, saved: &Saved) -> Result<SavedImage, OciError> {
        let not_a = |reason: String| OciError::NotA { path: self.path.clone(), kind: KIND, reason };
        let member = |name: &String| self.archive.get(name).ok_or_else(|| not_a(format!("{name} is missing")));
        let config =
            read_small(member(&saved.config)?, MOST_METADATA).map_err(|e| not_a(format!("{}: {e}", saved.config)))?;
        let layers = saved.layers.iter().map(|name| member(name).cloned()).collect::<Result<_, _>>()?;
        Ok(SavedImage { digest: Digest::sha256(&config), config, layers })
    }

    fn missing(&self, wanted: String) -> OciError {
        OciError::NoSuchImage { path: self.path.clone(), wanted, found: self.names() }
    }

    fn names(&self) -> Vec<String> {
        let name = |image: &Saved| match image.names() {
            [] => image.config.clone(),
            names => names.join(" = "),
        };
        self.images.iter().map(name).collect()
    }
}

impl Saved {
    fn names(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

fn normal(name: &str) -> Option<String> {
    name.parse::<oci_client::Reference>().ok().map(|reference| reference.to_string())
}
