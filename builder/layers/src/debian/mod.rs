//! Layers of Debian packages, made by mmdebstrap.
//!
//! # What is cached under which key
//!
//! `debian-v1/roots/KEY` holds the tar of a root. `KEY` is a hash over everything the recipe says (`inputs`), the clock,
//! and one of two things: the hashes of the repositories' signed indexes (without a lock: a mirror that moved on gives
//! another key), or the exact package list (with a lock). `debian-v1/packages/…` says under which key a package list
//! was built, so that a lock finds the root that it was made from; `debian-v1/latest/…` says the same for `inputs`
//! alone, for `--offline` without a lock.

mod error;
mod index;
mod mmdebstrap;
mod packages;
mod sources;

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use imgbuild_progress::Progress;
use imgbuild_recipe::{DebianLayer, LockedPackage};
use imgbuild_tree::{Content, Entry, EntryKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::tar::read_tar_known;

pub use error::DebianError;

use crate::cache::{Bucket, Cache};

/// Where apt keeps its lists: read for the lock, not part of the layer.
const LISTS: &str = "var/lib/apt/lists/";
const STATUS: &str = "var/lib/dpkg/status";
/// What mmdebstrap copies from the machine it runs on: the builder's name and DNS servers are no part of an image.
const OF_THE_HOST: [&[u8]; 2] = [b"etc/hostname", b"etc/resolv.conf"];

/// What a Debian layer needs to know of the build.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The layer's name.
    pub layer: &'a str,
    /// Debian's name for the machine type.
    pub arch: &'a str,
    /// Use the cache only.
    pub offline: bool,
    /// Where roots are kept.
    pub cache: &'a Cache,
    /// Where progress goes.
    pub progress: &'a dyn Progress,
}

/// What a lock says about a Debian layer.
#[derive(Debug, Clone, Copy)]
pub struct Pin<'a> {
    /// The installed packages.
    pub packages: &'a [LockedPackage],
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: i64,
}

/// A Debian root.
#[derive(Debug)]
pub struct DebianRoot {
    /// Its files.
    pub entries: Vec<Entry<Content>>,
    /// Its packages, sorted by name.
    pub packages: Vec<LockedPackage>,
    /// `SOURCE_DATE_EPOCH` that it was built with.
    pub epoch: i64,
}

/// SHA-256 over all that the recipe says about a layer, key files included.
///
/// # Errors
/// When a key file cannot be read.
pub fn inputs(layer: &DebianLayer, arch: &str) -> Result<String, DebianError> {
    let mut hash = Sha256::new();
    let mut part = |label: &str, bytes: &[u8]| {
        hash.update(label);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part("variant", layer.variant.as_str().as_bytes());
    for line in sources::lines(layer, arch) {
        part("source", line.line().as_bytes());
    }
    for key in keys(layer) {
        let bytes = std::fs::read(key).map_err(|source| DebianError::Key { path: key.to_owned(), source })?;
        part("key", &bytes);
    }
    let mut packages = layer.packages.clone();
    packages.sort();
    for package in &packages {
        part("package", package.as_bytes());
    }
    // dpkg reads its path filters in order.
    for path in dpkg_paths(layer) {
        part("path", path.as_bytes());
    }
    Ok(hex::encode(hash.finalize()))
}

/// The root of a layer: from the cache if it holds just this, else made anew.
///
/// # Errors
/// When the repositories or mmdebstrap fail, or do not give what the pin names.
pub fn root(layer: &DebianLayer, pin: Option<Pin<'_>>, context: Context<'_>) -> Result<DebianRoot, DebianError> {
    let inputs = inputs(layer, context.arch)?;
    let bucket = context.cache.bucket("debian-v1");
    let found = match pin {
        Some(pin) => pinned(layer, &inputs, pin, &bucket, context)?,
        None => current(layer, &inputs, &bucket, context)?,
    };
    Ok(found)
}

/// What a small index entry of the cache says.
#[derive(Debug, Serialize, Deserialize)]
struct Pointer {
    key: String,
    epoch: i64,
}

fn pinned(
    layer: &DebianLayer,
    inputs: &str,
    pin: Pin<'_>,
    bucket: &Bucket,
    context: Context<'_>,
) -> Result<DebianRoot, DebianError> {
    let list = list_key(inputs, pin.epoch, pin.packages);
    let wanted = format!("packages/{list}");
    if let Some(root) = follow(bucket, &wanted, context)? {
        return Ok(root);
    }
    if context.offline {
        return Err(DebianError::Offline);
    }
    let key = digest(&[b"locked", list.as_bytes()]);
    let root = make(layer, &key, pin.epoch, pin.packages, bucket, context)?;
    let differences = packages::differences(pin.packages, &root.packages);
    if !differences.is_empty() {
        // What was built is not what its key says; nobody is to find it.
        bucket.remove(&format!("roots/{key}"))?;
        return Err(DebianError::Moved { differences });
    }
    point(bucket, &wanted, &Pointer { key, epoch: pin.epoch })?;
    Ok(root)
}

fn current(
    layer: &DebianLayer,
    inputs: &str,
    bucket: &Bucket,
    context: Context<'_>,
) -> Result<DebianRoot, DebianError> {
    let latest = format!("latest/{inputs}");
    if context.offline {
        return match follow(bucket, &latest, context)? {
            Some(root) => Ok(root),
            None => Err(DebianError::Offline),
        };
    }
    let indexes = index::fetch(&sources::lines(layer, context.arch))?;
    let key = digest(&[b"current", inputs.as_bytes(), indexes.digest.as_bytes()]);
    let root = make(layer, &key, indexes.epoch, &[], bucket, context)?;
    let pointer = Pointer { key, epoch: indexes.epoch };
    point(bucket, &format!("packages/{}", list_key(inputs, root.epoch, &root.packages)), &pointer)?;
    point(bucket, &latest, &pointer)?;
    Ok(root)
}

/// The root that a pointer leads to, if both are still there.
fn follow(bucket: &Bucket, pointer: &str, context: Context<'_>) -> Result<Option<DebianRoot>, DebianError> {
    let Some(path) = bucket.get(pointer)? else { return Ok(None) };
    // A pointer that cannot be read is one that is not there: it is made anew.
    let Some(pointer) = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Pointer>(&bytes).ok())
    else {
        return Ok(None);
    };
    match bucket.get(&format!("roots/{}", pointer.key))? {
        Some(path) => open(&path, pointer.epoch, context, "from cache").map(Some),
        None => Ok(None),
    }
}

/// Lets `key` lead to a root from now on. An older pointer there leads to another root, or to one that is gone.
fn point(bucket: &Bucket, key: &str, pointer: &Pointer) -> Result<(), DebianError> {
    let bytes = serde_json::to_vec(pointer).unwrap_or_default();
    bucket.remove(key)?;
    bucket.insert(key, |partial| -> Result<(), DebianError> {
        let path = partial.path().to_owned();
        partial.write_all(&bytes).map_err(|source| DebianError::Scratch { path, source })
    })?;
    Ok(())
}

fn make(
    layer: &DebianLayer,
    key: &str,
    epoch: i64,
    pinned: &[LockedPackage],
    bucket: &Bucket,
    context: Context<'_>,
) -> Result<DebianRoot, DebianError> {
    let mut made = false;
    let path = bucket.insert(&format!("roots/{key}"), |partial| -> Result<(), DebianError> {
        made = true;
        let lines = sources::lines(layer, context.arch);
        context.progress.started(&task(context.layer), None);
        let job = mmdebstrap::Job {
            layer: context.layer,
            suite: &layer.suite,
            variant: layer.variant.as_str(),
            arch: context.arch,
            sources: &lines,
            keys: keys(layer).map(Path::to_owned).collect(),
            packages: &layer.packages,
            pinned,
            dpkg_paths: dpkg_paths(layer),
            epoch,
        };
        mmdebstrap::run(&job, partial.file(), context.progress)
    })?;
    open(&path, epoch, context, if made { "made by mmdebstrap" } else { "from cache" })
}

/// Reads a root's tar: its files without apt's lists, and its packages.
fn open(path: &Path, epoch: i64, context: Context<'_>, how: &str) -> Result<DebianRoot, DebianError> {
    let path: Arc<Path> = path.into();
    let file = File::open(&path).map_err(|source| DebianError::Scratch { path: path.to_path_buf(), source })?;
    let mut entries = read_tar_known(Arc::new(file), path.clone(), &path, context.cache)
        .map_err(|source| DebianError::Tar { source })?;
    let (mut status, mut lists) = (None, Vec::new());
    for entry in &entries {
        let EntryKind::Regular(content) = &entry.kind else { continue };
        let name = plain(&entry.path);
        if name == STATUS.as_bytes() {
            status = Some(content.clone());
        } else if name.starts_with(LISTS.as_bytes()) && name.ends_with(b"_Packages") {
            lists.push(content.clone());
        }
    }
    entries.retain(|entry| {
        let name = plain(&entry.path);
        let list = name.starts_with(LISTS.as_bytes()) && name.len() > LISTS.len();
        !list && !OF_THE_HOST.contains(&name)
    });
    let packages = match status {
        Some(status) => installed(&path, &status, &lists, context.cache)?,
        None => Vec::new(),
    };
    if packages.is_empty() {
        return Err(DebianError::PackageList { reason: format!("its root has no /{STATUS}") });
    }
    let outcome = format!("{} packages, {} entries, {how}", packages.len(), entries.len());
    context.progress.finished(&task(context.layer), outcome);
    Ok(DebianRoot { entries, packages, epoch })
}

/// A root's packages. Reading the lists of a whole distribution takes half a second: what came of it is kept, under a key
/// that another root at this path does not have.
fn installed(
    root: &Path,
    status: &Content,
    lists: &[Content],
    cache: &Cache,
) -> Result<Vec<LockedPackage>, DebianError> {
    let meta = std::fs::metadata(root).map_err(|source| DebianError::Scratch { path: root.to_owned(), source })?;
    let numbers = [meta.ino(), meta.len(), meta.mtime() as u64, meta.mtime_nsec() as u64].map(u64::to_le_bytes);
    let key = digest(&[root.as_os_str().as_bytes(), &numbers.concat()]);
    let bucket = cache.bucket("debian-packages-v1");
    if let Some(path) = bucket.get(&key)?
        && let Some(known) = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    {
        return Ok(known);
    }
    let lists: Vec<&Content> = lists.iter().collect();
    let packages = packages::installed(status, &lists).map_err(|reason| DebianError::PackageList { reason })?;
    let bytes = serde_json::to_vec(&packages).unwrap_or_default();
    bucket.remove(&key)?;
    bucket.insert(&key, |partial| -> Result<(), DebianError> {
        let path = partial.path().to_owned();
        partial.write_all(&bytes).map_err(|source| DebianError::Scratch { path, source })
    })?;
    Ok(packages)
}

fn task(layer: &str) -> String {
    format!("layer {layer}")
}

fn plain(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b".").unwrap_or(path);
    path.strip_prefix(b"/").unwrap_or(path)
}

fn keys(layer: &DebianLayer) -> impl Iterator<Item = &Path> {
    layer.repositories.iter().filter_map(|r| r.key.as_deref())
}

/// dpkg's path filters: what is included wins, so it comes last.
fn dpkg_paths(layer: &DebianLayer) -> Vec<String> {
    let exclude = layer.exclude_paths.iter().map(|path| format!("path-exclude={path}"));
    exclude.chain(layer.include_paths.iter().map(|path| format!("path-include={path}"))).collect()
}

fn list_key(inputs: &str, epoch: i64, packages: &[LockedPackage]) -> String {
    let list: String = packages.iter().map(|p| format!("{} {} {} {}\n", p.name, p.version, p.arch, p.sha256)).collect();
    digest(&[inputs.as_bytes(), &epoch.to_le_bytes(), list.as_bytes()])
}

fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use imgbuild_progress::Silent;

    use super::*;
    use crate::cache::CacheError;

    #[test]
    fn a_pointer_to_a_root_that_is_gone_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let layer = DebianLayer { suite: "bookworm".into(), ..DebianLayer::default() };
        let package =
            LockedPackage { name: "a".into(), version: "1".into(), arch: "all".into(), sha256: String::new() };
        let pin = Pin { packages: std::slice::from_ref(&package), epoch: 7 };
        let context = Context { layer: "base", arch: "amd64", offline: false, cache: &cache, progress: &Silent };
        let bucket = cache.bucket("debian-v1");
        let list = list_key(&inputs(&layer, "amd64").unwrap(), 7, pin.packages);
        point(&bucket, &format!("packages/{list}"), &Pointer { key: "pruned".into(), epoch: 7 }).unwrap();

        // The root of these packages, as mmdebstrap would have made it.
        let status = b"Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n";
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(status.len() as u64);
        tar.append_data(&mut header, STATUS, &status[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let key = format!("roots/{}", digest(&[b"locked", list.as_bytes()]));
        bucket.insert(&key, |p| p.write_all(&tar).map_err(|e| CacheError::write(p.path(), e))).unwrap();

        assert_eq!(root(&layer, Some(pin), context).unwrap().packages, pin.packages);
        let offline = Context { offline: true, ..context };
        assert_eq!(root(&layer, Some(pin), offline).unwrap().packages, pin.packages);
    }
}
