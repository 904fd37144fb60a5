//! From a recipe's layers to their entries, whatever their source.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgbuild_progress::Progress;
use imgbuild_recipe::{DebianLayer, Layer, LockedSource, OciLayer, Pin, Recipe, Source, UrlLayer};
use imgbuild_tree::{Content, Entry, EntryKind, ExtractError, MergeError, Origin, RootTree, TypeChange};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::cache::Cache;
use crate::debian::{self, DebianError};
use crate::oci::{self, Oci, OciError, Platform};
use crate::stamp::{Watch, sha256};
use crate::tar::read_tar_known;
use crate::url::{Downloader, UrlError};
use crate::{
    ArchiveError, ArchiveKind, OverlayError, Owners, TarError, archive_entries, entries_sha256, file_entry,
    read_overlay,
};

/// The time of files that have none of their own: later than everything, so that the writers set it back to the build's
/// clock.
pub const BUILD_TIME: i64 = i64::MAX;

/// Permission bits of a file that nobody gave others.
const FILE_MODE: u16 = 0o644;

/// How inputs are had.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Use the cache and local files only.
    pub offline: bool,
    /// Registries that are spoken to over plain HTTP; loopback always is.
    pub insecure: Vec<String>,
    /// Certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// What a layer came to.
#[derive(Debug)]
pub struct Fetched {
    /// Its files, ready to be laid over the layers below.
    pub files: Files,
    /// What it is pinned to.
    pub pin: Pin,
    /// Where it came from, pinned, for people.
    pub source: String,
    /// Digest of the input: `sha256:…`.
    pub digest: String,
    /// The files of this machine that its entries' contents are, as they were before they were read.
    pub watch: Watch,
}

/// What a layer holds.
#[derive(Debug)]
pub enum Files {
    /// Names in an order that counts.
    Entries(Vec<Entry<Content>>),
    /// A whole image.
    Image(RootTree),
}

/// Why a layer cannot be had.
#[derive(Debug, Error)]
#[error("layer {layer} ({place})")]
pub struct LayerError {
    /// Its name.
    pub layer: String,
    /// Where it stands in the recipe.
    pub place: String,
    /// Why.
    #[source]
    pub cause: Box<Cause>,
}

/// Why a layer cannot be had, by what went wrong.
#[derive(Debug, Error)]
pub enum Cause {
    /// An OCI image.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The lock names no digest.
    #[error("its digest in the lock is none; run imgbuild lock")]
    Lock(#[from] oci::DigestError),
    /// Debian packages.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// A download.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// A layer of an image.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An archive or a file.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// An overlay folder.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A file would take the place of a folder, and with it of all that is in it.
    #[error("a {kind} would replace the folder {path} of a lower layer; to put it inside, write to = \"{path}/\"")]
    Folder {
        /// The folder.
        path: String,
        /// What would replace it.
        kind: &'static str,
    },
    /// `copy` names something that the image does not have.
    #[error(transparent)]
    Copy(#[from] ExtractError),
    /// A local file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part does not fit onto what is below it.
    #[error("{part}")]
    Merge {
        /// An image layer's digest, or `laid over the layers below`.
        part: String,
        /// Why.
        source: MergeError,
    },
}

impl LayerError {
    fn new(layer: &Layer, cause: impl Into<Cause>) -> Self {
        Self { layer: layer.name.clone(), place: layer.place.clone(), cause: Box::new(cause.into()) }
    }

    /// Whether something was not what its hash or digest says, rather than not there.
    #[must_use]
    pub fn is_verification(&self) -> bool {
        match &*self.cause {
            Cause::Oci(error) => error.is_verification(),
            Cause::Url(error) => matches!(error, UrlError::Hash { .. }),
            _ => false,
        }
    }
}

/// Gets layers.
pub struct Sources<'a> {
    recipe: &'a Recipe,
    cache: &'a Cache,
    progress: &'a dyn Progress,
    options: Options,
    oci: Oci<'a>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'a> Sources<'a> {
    /// Nothing is opened or asked before it is needed.
    #[must_use]
    pub fn new(recipe: &'a Recipe, cache: &'a Cache, progress: &'a dyn Progress, options: Options) -> Self {
        let mut oci = oci::Options::from_env();
        oci.offline = options.offline;
        oci.insecure.extend(options.insecure.iter().cloned());
        oci.ca_file = options.ca_file.clone().or(oci.ca_file);
        Self { recipe, cache, progress, options, oci: Oci::new(cache, progress, oci) }
    }

    /// Gets a layer: just what `locked` names, or without it what the recipe's reference stands for now.
    ///
    /// # Errors
    /// When it cannot be had, or is not what the recipe or the lock says.
    pub fn fetch(&self, layer: &Layer, locked: Option<&LockedSource>) -> Result<Fetched, LayerError> {
        let fetched = match &layer.source {
            Source::Oci(image) => self.oci(layer, image, locked),
            Source::Debian(packages) => self.debian(layer, packages, locked),
            Source::Url(url) => self.url(layer, url),
            Source::Tar(tar) => {
                let watch = watch([tar.path.as_path()]);
                sha256(&tar.path, self.cache).map_err(unreadable(&tar.path)).and_then(|hash| {
                    let entries = archive_entries(&tar.path, &hash, &tar.to, Owners::Archive, self.cache)?;
                    Ok(self.local(layer, entries, &tar.path, hash, watch))
                })
            }
            Source::File(file) => {
                let watch = watch([file.path.as_path()]);
                sha256(&file.path, self.cache).map_err(unreadable(&file.path)).and_then(|hash| {
                    let entry = file_entry(&file.path, &file.to, mode(Some(file.mode)), BUILD_TIME)?;
                    Ok(self.local(layer, vec![entry], &file.path, hash, watch))
                })
            }
            Source::Overlay(folder) => {
                read_overlay(&folder.path, BUILD_TIME).map_err(Cause::from).and_then(|entries| {
                    let watch = watch(entries.iter().filter_map(|entry| match &entry.kind {
                        EntryKind::Regular(Content::Path { path, .. }) => Some(&**path),
                        _ => None,
                    }));
                    let hash = entries_sha256(&entries).map_err(unreadable(&folder.path))?;
                    let hash = format!("sha256:{}", hex::encode(hash));
                    Ok(self.local(layer, entries, &folder.path, hash, watch))
                })
            }
        };
        fetched.map_err(|cause| LayerError::new(layer, cause))
    }

    fn local(&self, layer: &Layer, entries: Vec<Entry<Content>>, path: &Path, hash: String, watch: Watch) -> Fetched {
        self.progress.finished(&task(layer), format!("{} entries", entries.len()));
        let digest = if hash.contains(':') { hash.clone() } else { format!("sha256:{hash}") };
        let pin = Pin { hash, ..Pin::default() };
        Fetched { files: Files::Entries(entries), pin, source: self.recipe.relative(path), digest, watch }
    }

    fn url(&self, layer: &Layer, url: &UrlLayer) -> Result<Fetched, Cause> {
        let downloader = Downloader::new(self.cache, self.options.offline, self.options.ca_file.as_deref())?;
        let path = downloader.fetch(&url.url, &url.sha256, &task(layer), self.progress)?;
        let entries = match ArchiveKind::detect(&path)? {
            ArchiveKind::Plain => {
                vec![file_entry(&path, &to_file(&url.to, &url.url), mode(url.mode), BUILD_TIME)?]
            }
            ArchiveKind::Tar | ArchiveKind::Zip => {
                archive_entries(&path, &url.sha256, &url.to, Owners::Root, self.cache)?
            }
        };
        let digest = format!("sha256:{}", url.sha256);
        let files = Files::Entries(entries);
        Ok(Fetched { files, pin: Pin::default(), source: url.url.clone(), digest, watch: Watch::default() })
    }

    fn oci(&self, layer: &Layer, image: &OciLayer, locked: Option<&LockedSource>) -> Result<Fetched, Cause> {
        let platform = Platform::new(self.recipe.image.arch.as_str());
        let digest = match locked {
            Some(LockedSource::Oci { digest, .. }) => digest.parse::<oci::Digest>()?,
            _ => self.oci.resolve(&image.image, &platform)?,
        };
        let found = self.oci.fetch(&image.image, &digest, &platform, &layer.name)?;
        // An image is put together on its own first: its whiteouts are about its own layers, not about those that the
        // recipe has below it.
        let mut tree = RootTree::new();
        for blob in &found.layers {
            let (file, path) = self.oci.open_layer_tar(blob)?;
            let part = || format!("image layer {}", blob.digest);
            let entries = read_tar_known(file, Arc::clone(&path), &path, self.cache)?;
            tree.apply(Origin(0), entries).map_err(|source| Cause::Merge { part: part(), source })?;
        }
        let (files, taken) = if image.copy.is_empty() {
            let names = tree.ids().count();
            (Files::Image(tree), names)
        } else {
            let entries = tree.extract(image.copy.iter().map(|c| (c.from.as_bytes(), c.to.as_bytes())))?;
            let names = entries.len();
            (Files::Entries(entries), names)
        };
        let digest = found.digest.to_string();
        let source = image.image.relative_to(&self.recipe.dir);
        let outcome = format!("{taken} entries of {} image layers, {digest}", found.layers.len());
        self.progress.finished(&task(layer), outcome);
        let pin = Pin { hash: digest.clone(), ..Pin::default() };
        Ok(Fetched { files, pin, source, digest, watch: Watch::default() })
    }

    fn debian(&self, layer: &Layer, packages: &DebianLayer, locked: Option<&LockedSource>) -> Result<Fetched, Cause> {
        let arch = self.recipe.image.arch.as_str();
        let context = debian::Context {
            layer: &layer.name,
            arch,
            offline: self.options.offline,
            cache: self.cache,
            progress: self.progress,
        };
        let pin = match locked {
            Some(LockedSource::Debian { packages, epoch, .. }) => Some(debian::Pin { packages, epoch: *epoch }),
            _ => None,
        };
        let root = debian::root(packages, pin, context)?;
        let inputs = debian::inputs(packages, arch)?;
        let list: String = root.packages.iter().map(|p| format!("{} {} {}\n", p.name, p.version, p.sha256)).collect();
        Ok(Fetched {
            files: Files::Entries(root.entries),
            source: format!("debian {}, {} packages", packages.suite, root.packages.len()),
            digest: format!("sha256:{}", hex::encode(Sha256::digest(list))),
            pin: Pin { hash: inputs, epoch: root.epoch, packages: root.packages },
            watch: Watch::default(),
        })
    }
}

/// What a layer is now by the files on this machine alone, as [`Pin::hash`] has it; nothing for what comes from elsewhere.
///
/// # Errors
/// When a file cannot be read.
pub fn local_hash(layer: &Layer, arch: &str, cache: &Cache) -> Result<Option<String>, LayerError> {
    let hash = match &layer.source {
        Source::Oci(_) | Source::Url(_) => return Ok(None),
        Source::Debian(packages) => debian::inputs(packages, arch).map_err(Cause::from),
        Source::Tar(tar) => sha256(&tar.path, cache).map_err(unreadable(&tar.path)),
        Source::File(file) => sha256(&file.path, cache).map_err(unreadable(&file.path)),
        Source::Overlay(folder) => read_overlay(&folder.path, BUILD_TIME).map_err(Cause::from).and_then(|entries| {
            let hash = entries_sha256(&entries).map_err(unreadable(&folder.path))?;
            Ok(format!("sha256:{}", hex::encode(hash)))
        }),
    };
    hash.map(Some).map_err(|cause| LayerError::new(layer, cause))
}

/// Lays a fetched layer over a tree.
///
/// # Errors
/// When it does not fit.
pub fn merge(tree: &mut RootTree, origin: Origin, layer: &Layer, files: Files) -> Result<Vec<TypeChange>, LayerError> {
    let changes = match files {
        Files::Entries(entries) => tree.apply(origin, entries),
        Files::Image(image) => tree.lay(origin, image),
    };
    let changes = changes.map_err(|source| {
        LayerError::new(layer, Cause::Merge { part: "laid over the layers below".to_owned(), source })
    })?;
    // An image or a tar may mean it; where the recipe says the path, it is a slash forgotten at its end.
    let recipe_says_where = match &layer.source {
        Source::File(_) | Source::Url(_) => true,
        Source::Oci(image) => !image.copy.is_empty(),
        Source::Tar(_) | Source::Debian(_) | Source::Overlay(_) => false,
    };
    match changes.iter().find(|change| recipe_says_where && change.from == "directory") {
        None => Ok(changes),
        Some(change) => {
            let path = String::from_utf8_lossy(&change.path).into_owned();
            Err(LayerError::new(layer, Cause::Folder { path, kind: change.to }))
        }
    }
}

fn watch<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Watch {
    let mut watch = Watch::default();
    paths.into_iter().for_each(|path| watch.add(path));
    watch
}

/// The name under which a layer's progress is reported.
fn task(layer: &Layer) -> String {
    format!("layer {}", layer.name)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Cause {
    |source| Cause::File { path: path.to_owned(), source }
}

/// Permission bits as the tree has them.
fn mode(mode: Option<imgbuild_recipe::Mode>) -> u16 {
    mode.and_then(|m| u16::try_from(m.0).ok()).unwrap_or(FILE_MODE)
}

/// Where a download goes: under the URL's file name when `to` is a folder.
fn to_file(to: &str, url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    if to.ends_with('/') { format!("{to}{name}") } else { to.to_owned() }
}

#[cfg(test)]
mod tests {
    use imgbuild_recipe::{FileLayer, Mode, TarLayer};
    use imgbuild_tree::{EntryKind, Metadata};

    use super::*;

    #[test]
    fn a_forgotten_slash_costs_no_folder() {
        let entry = |path: &str, kind| Entry { path: path.as_bytes().into(), meta: Metadata::root_owned(0o755), kind };
        let file = || EntryKind::Regular(Content::from(&b"x"[..]));
        let layer =
            |source| Layer { name: "l".to_owned(), source, place: "a.toml:3".to_owned(), origin: String::new() };
        let base = || {
            let mut tree = RootTree::new();
            tree.apply(Origin(0), vec![entry("usr/bin/sh", file())]).unwrap();
            tree
        };
        let to = "/usr/bin".to_owned();
        let source = Source::File(FileLayer { path: "/x".into(), to: to.clone(), mode: Mode(0o755) });
        let error = merge(&mut base(), Origin(1), &layer(source.clone()), Files::Entries(vec![entry(&to, file())]))
            .unwrap_err();
        assert_eq!(
            error.cause.to_string(),
            "a regular file would replace the folder /usr/bin of a lower layer; to put it inside, write to = \"/usr/bin/\""
        );
        merge(&mut base(), Origin(1), &layer(source), Files::Entries(vec![entry("/usr/bin/x", file())])).unwrap();
        let tar = Source::Tar(TarLayer { path: "/x.tar".into(), to: "/".to_owned() });
        assert_eq!(
            merge(&mut base(), Origin(1), &layer(tar), Files::Entries(vec![entry(&to, file())])).unwrap().len(),
            1
        );
    }
}
