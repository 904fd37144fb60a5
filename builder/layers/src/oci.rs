//! Images from registries, OCI layouts and archives.
//!
//! [`Oci::resolve`] pins what a recipe names to a digest for the lock, [`Oci::fetch`] gets it, and
//! [`Oci::open_layer_tar`] gives each layer as an uncompressed tar. Everything is checked by digest on its way: manifest,
//! config, each layer as stored, each layer uncompressed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use imgbuild_progress::Progress;
use imgbuild_recipe::{OciSource, Select};
use imgbuild_tree::{Content, FileContent as _};
use oci_client::Reference;

use crate::cache::{Bucket, Cache, CacheError};

mod archive;
mod auth;
mod digest;
mod docker_archive;
mod error;
mod fault;
mod image;
mod layout;
mod manifest;
mod reference;
mod registry;
mod throttle;
mod tls;
mod token;

pub use auth::AuthFiles;
pub(crate) use digest::Hasher;
pub use digest::{Digest, DigestError};
pub use error::OciError;
pub use fault::RetryPolicy;
pub(crate) use image::TARS;
pub use image::{Image, LayerBlob};
pub use manifest::Platform;

use docker_archive::DockerArchive;
use image::Stored;
use layout::{Layout, MOST_METADATA};
use manifest::{Descriptor, Document, ImageManifest, check_layer, choose, parse, parse_config};
use reference::to_reference;
use registry::Remote;

/// Indexes inside indexes that are followed.
const MOST_NESTING: usize = 8;

/// How images are fetched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Use nothing but the cache, layouts and archives.
    pub offline: bool,
    /// Registries (`HOST` or `HOST:PORT`) that are spoken to in plain HTTP if they have no TLS, as those on loopback are. It
    /// does not make a bad certificate good.
    pub insecure: Vec<String>,
    /// PEM file of certificate authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Where credentials are.
    pub auth: AuthFiles,
    /// Layers worked on at once.
    pub parallel: usize,
    /// How patient to be with registries.
    pub retry: RetryPolicy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            offline: false,
            insecure: Vec::new(),
            ca_file: None,
            auth: AuthFiles::default(),
            parallel: 4,
            retry: RetryPolicy::default(),
        }
    }
}

impl Options {
    /// What the environment says: `IMGBUILD_INSECURE_REGISTRIES` (comma-separated), `IMGBUILD_CA_FILE`, and where
    /// [`AuthFiles::from_env`] looks. `SSL_CERT_FILE` replaces the system's authorities, as for other tools.
    #[must_use]
    pub fn from_env() -> Self {
        let insecure = std::env::var("IMGBUILD_INSECURE_REGISTRIES").unwrap_or_default();
        let ca_file = std::env::var_os("IMGBUILD_CA_FILE").filter(|value| !value.is_empty());
        Self {
            insecure: insecure.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect(),
            ca_file: ca_file.map(PathBuf::from),
            auth: AuthFiles::from_env(),
            ..Self::default()
        }
    }
}

/// A manifest, its digest, and the layout that it is in if it is in one.
struct Found {
    digest: Digest,
    manifest: ImageManifest,
    layout: Option<Layout>,
}

/// Gets images. Blocking, for use from any thread that is not part of an asynchronous runtime.
pub struct Oci<'a> {
    cache: &'a Cache,
    progress: &'a dyn Progress,
    options: Options,
    runtime: Mutex<Option<Arc<tokio::runtime::Runtime>>>,
    remotes: Mutex<HashMap<String, Arc<Remote>>>,
}

impl std::fmt::Debug for Oci<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oci").field("cache", &self.cache).field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'a> Oci<'a> {
    /// Nothing is opened or asked before it is needed.
    #[must_use]
    pub fn new(cache: &'a Cache, progress: &'a dyn Progress, options: Options) -> Self {
        Self { cache, progress, options, runtime: Mutex::default(), remotes: Mutex::default() }
    }

    /// Pins an image for the lock: the digest of its manifest for the platform; of a docker-archive's image, which has no
    /// manifest, the digest of its config. Layers are not read.
    ///
    /// # Errors
    /// When it cannot be found or is not made for the platform.
    pub fn resolve(&self, source: &OciSource, platform: &Platform) -> Result<Digest, OciError> {
        match source {
            OciSource::DockerArchive { path, reference } => {
                Ok(DockerArchive::open(path, self.cache)?.find(reference.as_deref())?.digest)
            }
            _ => Ok(self.manifest(source, None, platform)?.digest),
        }
    }

    /// Gets the image that [`Oci::resolve`] pinned: every layer is in the cache, checked and uncompressed, when this returns.
    /// `label` is the name of the recipe's layer; progress is reported under it.
    ///
    /// # Errors
    /// When something cannot be had, or is not what its digest says.
    pub fn fetch(
        &self,
        source: &OciSource,
        digest: &Digest,
        platform: &Platform,
        label: &str,
    ) -> Result<Image, OciError> {
        match source {
            OciSource::DockerArchive { path, .. } => self.fetch_saved(source, path, digest, platform, label),
            _ => self.fetch_by_manifest(source, digest, platform, label),
        }
    }

    fn fetch_saved(
        &self,
        source: &OciSource,
        path: &Path,
        digest: &Digest,
        platform: &Platform,
        label: &str,
    ) -> Result<Image, OciError> {
        let saved = DockerArchive::open(path, self.cache)?.find_digest(digest)?;
        let config = parse_config(&saved.config, &source.to_string())?;
        config.check_platform(platform, &source.to_string())?;
        check_counts(saved.layers.len(), config.diff_ids.len(), source)?;
        let layer = |(content, diff_id): (Content, Digest)| LayerBlob {
            digest: diff_id.clone(),
            diff_id,
            media_type: String::new(),
            size: content.len(),
            stored: Stored::Disk { content, path: path.to_owned(), named: false },
        };
        let layers: Vec<_> = saved.layers.into_iter().zip(config.diff_ids).map(layer).collect();
        self.make_tars(&layers, None, label)?;
        Ok(Image { digest: saved.digest, config: saved.config, layers })
    }

    fn fetch_by_manifest(
        &self,
        source: &OciSource,
        digest: &Digest,
        platform: &Platform,
        label: &str,
    ) -> Result<Image, OciError> {
        let what = source.to_string();
        let Found { digest, manifest, layout } = self.manifest(source, Some(digest), platform)?;
        for layer in &manifest.layers {
            check_layer(layer, &what)?;
        }
        let remote = match source {
            OciSource::Registry(named) if !self.options.offline => Some(self.remote(&to_reference(named))?),
            _ => None,
        };
        let config_bytes = match &layout {
            Some(layout) => layout.metadata(&manifest.config.digest)?,
            None => self.config(&manifest.config, remote.as_deref(), &what, label)?,
        };
        let config = parse_config(&config_bytes, &what)?;
        config.check_platform(platform, &what)?;
        check_counts(manifest.layers.len(), config.diff_ids.len(), source)?;
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for (descriptor, diff_id) in manifest.layers.into_iter().zip(config.diff_ids) {
            let stored = match (&layout, source.path()) {
                (Some(layout), Some(path)) => {
                    Stored::Disk { content: layout.blob(&descriptor)?, path: path.to_owned(), named: true }
                }
                _ => Stored::Cache,
            };
            let (digest, size, media_type) = (descriptor.digest, descriptor.size, descriptor.media_type);
            layers.push(LayerBlob { digest, diff_id, media_type, size, stored });
        }
        self.make_tars(&layers, remote.as_deref(), label)?;
        Ok(Image { digest, config: config_bytes, layers })
    }

    fn config(
        &self,
        config: &Descriptor,
        remote: Option<&Remote>,
        what: &str,
        label: &str,
    ) -> Result<Vec<u8>, OciError> {
        if config.size > MOST_METADATA {
            let reason = format!("its config is said to have {} bytes", config.size);
            return Err(OciError::Manifest { what: what.to_owned(), reason });
        }
        let task = format!("layer {label} config {}", config.digest.short());
        let path = self.blob(&config.digest, config.size, remote, &task, &AtomicBool::new(false))?;
        std::fs::read(&path).map_err(|source| OciError::Read { path, source })
    }

    /// The manifest of the image that fits the platform, by digest if there is one to go by.
    fn manifest(&self, source: &OciSource, pinned: Option<&Digest>, platform: &Platform) -> Result<Found, OciError> {
        let what = source.to_string();
        let (layout, select) = match source {
            OciSource::Layout { path, select } => (Some(Layout::open(path)?), select),
            OciSource::OciArchive { path, select } => (Some(Layout::open_archive(path, self.cache)?), select),
            _ => (None, &Select::Only),
        };
        let mut digest = match (pinned, &layout, source) {
            (Some(digest), ..) => digest.clone(),
            (None, Some(layout), _) => layout.find(select, platform)?,
            (None, None, OciSource::Registry(named)) => self.registry_digest(&to_reference(named))?,
            (None, None, _) => return Err(OciError::Manifest { what, reason: "it has no manifest".to_owned() }),
        };
        for _ in 0..MOST_NESTING {
            let bytes = match (&layout, source) {
                (Some(layout), _) => layout.metadata(&digest)?,
                (None, OciSource::Registry(named)) => self.registry_manifest(&to_reference(named), &digest)?,
                (None, _) => Vec::new(),
            };
            match parse(&bytes, &what)? {
                Document::Image(manifest) => return Ok(Found { digest, manifest, layout }),
                Document::Index(entries) => digest = choose(&entries, platform, &what)?.digest.clone(),
            }
        }
        Err(OciError::Manifest { what, reason: format!("its indexes are nested more than {MOST_NESTING} deep") })
    }

    fn registry_digest(&self, reference: &Reference) -> Result<Digest, OciError> {
        if let Some(digest) = reference.digest() {
            let wrong = |e: DigestError| OciError::Manifest { what: reference.to_string(), reason: e.to_string() };
            return digest.parse().map_err(wrong);
        }
        if self.options.offline {
            return Err(OciError::Offline { what: format!("the digest that {reference} stands for") });
        }
        self.remote(reference)?.digest_of(reference, self.progress)
    }

    fn registry_manifest(&self, reference: &Reference, digest: &Digest) -> Result<Vec<u8>, OciError> {
        let bucket = self.blobs();
        let key = digest.key();
        if let Some(path) = bucket.get(&key)? {
            let bytes = std::fs::read(&path).map_err(|source| OciError::Read { path, source })?;
            let mut hasher = digest.hasher();
            hasher.update(&bytes);
            if hasher.finish() == *digest {
                return Ok(bytes);
            }
            bucket.remove(&key)?;
        }
        if self.options.offline {
            return Err(OciError::Offline { what: format!("manifest {digest} of {reference}") });
        }
        let bytes = self.remote(reference)?.manifest(digest, self.progress)?;
        bucket.insert(&key, |partial| {
            use std::io::Write as _;
            partial.write_all(&bytes).map_err(|e| CacheError::write(partial.path(), e))
        })?;
        Ok(bytes)
    }

    fn blobs(&self) -> Bucket {
        self.cache.bucket("blobs-v1")
    }

    fn remote(&self, reference: &Reference) -> Result<Arc<Remote>, OciError> {
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = remotes.get(&name) {
            return Ok(remote.clone());
        }
        let remote = Arc::new(Remote::new(self.runtime()?, &self.options, reference)?);
        remotes.insert(name, remote.clone());
        Ok(remote)
    }

    fn runtime(&self) -> Result<Arc<tokio::runtime::Runtime>, OciError> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtime.as_ref() {
            return Ok(runtime.clone());
        }
        let made =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("registry").enable_all().build();
        let made = Arc::new(made.map_err(|e| OciError::Client { reason: e.to_string() })?);
        *runtime = Some(made.clone());
        Ok(made)
    }
}

fn check_counts(layers: usize, diff_ids: usize, source: &OciSource) -> Result<(), OciError> {
    if layers == diff_ids {
        return Ok(());
    }
    let reason = format!("the manifest has {layers} layers, the config {diff_ids}");
    Err(OciError::Manifest { what: source.to_string(), reason })
}
