//! An image's layers as uncompressed tars in the cache.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use imgbuild_tree::{Content, FileContent};
use serde::{Deserialize, Serialize};

use super::Oci;
use super::archive::ContentReader;
use super::digest::{Digest, HashingReader};
use super::error::OciError;
use super::registry::{Download, Remote};
use super::throttle::Throttled;
use crate::ahead::read_ahead;
use crate::cache::{Bucket, CacheError, Claim, Partial};
use crate::decompress::Decompressor;

/// Bucket of uncompressed tars, by their digests; those of archives are there too.
pub(crate) const TARS: &str = "tars-v1";

/// An image, its layers downloaded, checked and uncompressed in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest's digest; of a docker-archive, the config's.
    pub digest: Digest,
    /// The config, byte for byte.
    pub config: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<LayerBlob>,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct LayerBlob {
    /// Digest of the layer as it is stored; in a docker-archive, which has none, the diff id.
    pub digest: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// As the manifest has it; empty if it does not say.
    pub media_type: String,
    /// Length as it is stored, in bytes.
    pub size: u64,
    pub(super) stored: Stored,
}

/// Where a layer's stored bytes are.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    /// In the cache's blobs, or yet to be fetched there.
    Cache,
    /// In a layout or archive on disk.
    Disk {
        content: Content,
        path: PathBuf,
        /// Whether the digest is that of the stored bytes.
        named: bool,
    },
}

/// What the cache remembers of a layer whose tar it once made.
#[derive(Serialize, Deserialize)]
struct Unpacked {
    diff_id: Digest,
    size: u64,
}

impl Oci<'_> {
    /// The uncompressed tar of a layer, open, and its path. It has the layer's diff id; if it is not in the cache it is made
    /// from the layer's stored bytes.
    ///
    /// # Errors
    /// When the stored bytes are not there, or are not what digest and diff id say.
    pub fn open_layer_tar(&self, layer: &LayerBlob) -> Result<(Arc<File>, Arc<Path>), OciError> {
        let path = match self.find_tar(layer)? {
            Some(path) => path,
            None => self.unpack(layer, "unpack")?,
        };
        let file = File::open(&path).map_err(|source| OciError::Read { path: path.clone(), source })?;
        Ok((Arc::new(file), path.into()))
    }

    fn tars(&self) -> Bucket {
        self.cache.bucket(TARS)
    }

    fn diff_ids(&self) -> Bucket {
        self.cache.bucket("diff-ids-v1")
    }

    /// The layer's tar if it is in the cache and has the length that it had when it was made.
    fn find_tar(&self, layer: &LayerBlob) -> Result<Option<PathBuf>, OciError> {
        let key = layer.diff_id.key();
        let known = self.diff_ids().get(&layer.digest.key())?.and_then(|path| std::fs::read(path).ok());
        let known = known.and_then(|bytes| serde_json::from_slice::<Unpacked>(&bytes).ok());
        Ok(match known {
            Some(unpacked) if unpacked.diff_id == layer.diff_id => self.tars().get_sized(&key, unpacked.size)?,
            _ => self.tars().get(&key)?,
        })
    }

    /// Makes the layer's tar from its stored bytes. `name` begins the task's name.
    fn unpack(&self, layer: &LayerBlob, name: &str) -> Result<PathBuf, OciError> {
        let (content, path, check) = match &layer.stored {
            Stored::Disk { content, path, named } => (content.clone(), path.clone(), *named),
            Stored::Cache => {
                let Some(path) = self.blobs().get_sized(&layer.digest.key(), layer.size)? else {
                    let source = std::io::ErrorKind::NotFound.into();
                    return Err(OciError::Read { path: self.blobs().path(&layer.digest.key())?, source });
                };
                let file = File::open(&path).map_err(|source| OciError::Read { path: path.clone(), source })?;
                let whole =
                    Content::Range { file: Arc::new(file), path: path.as_path().into(), offset: 0, len: layer.size };
                (whole, path, true)
            }
        };
        let mut size = 0;
        let tar = self.tars().insert(&layer.diff_id.key(), |partial| {
            let task = format!("{name} {}", layer.digest.short());
            self.progress.started(&task, Some(content.len()));
            size = self.decompress(layer, &content, &path, check, partial, &task)?;
            self.progress.finished(&task, format!("{size} bytes"));
            Ok::<(), OciError>(())
        })?;
        if size == 0 {
            size = std::fs::metadata(&tar).map_err(|source| OciError::Read { path: tar.clone(), source })?.len();
        }
        let unpacked = Unpacked { diff_id: layer.diff_id.clone(), size };
        self.diff_ids().remove(&layer.digest.key())?;
        self.diff_ids().insert(&layer.digest.key(), |partial| {
            let json = serde_json::to_vec(&unpacked).unwrap_or_default();
            partial.write_all(&json).map_err(|e| CacheError::write(partial.path(), e))
        })?;
        Ok(tar)
    }

    /// Decompresses into `partial`; both digests are taken on the way. Returns the tar's length.
    fn decompress(
        &self,
        layer: &LayerBlob,
        content: &Content,
        path: &Path,
        check: bool,
        partial: &mut Partial,
        task: &str,
    ) -> Result<u64, OciError> {
        let broken = |source| OciError::Decompress { layer: layer.digest.clone(), path: path.to_owned(), source };
        let mut throttled = Throttled::new(self.progress, task);
        let read = AtomicU64::new(0);
        let mut stored = HashingReader::new(ContentReader::new(content), layer.digest.hasher(), &read);
        let mut hasher = layer.diff_id.hasher();
        let mut size = 0_u64;
        // The decoder may stop short of the end, and may not have the reader for good: the digest is of everything.
        let decoded = match Decompressor::new(BufReader::with_capacity(1 << 17, &mut stored)) {
            Err(e) => Err(e),
            Ok(decoder) => read_ahead(decoder, |chunk| {
                hasher.update(chunk);
                partial.write_all(chunk).map_err(|e| CacheError::write(partial.path(), e))?;
                size += chunk.len() as u64;
                throttled.advanced(read.load(Ordering::Relaxed));
                Ok::<(), CacheError>(())
            })?,
        };
        let found = stored.finish().map_err(|source| OciError::Read { path: path.to_owned(), source })?;
        if check && found != layer.digest {
            let what = format!("a layer in {}", path.display());
            return Err(OciError::DigestMismatch { what, expected: layer.digest.clone(), found: found.to_string() });
        }
        decoded.map_err(broken)?;
        let found = hasher.finish();
        if found != layer.diff_id {
            return Err(OciError::DiffIdMismatch {
                layer: layer.digest.clone(),
                expected: layer.diff_id.clone(),
                found,
            });
        }
        Ok(size)
    }

    /// Makes every layer's tar, several at once; `remote` is where blobs are fetched from that the cache lacks.
    pub(super) fn make_tars(&self, layers: &[LayerBlob], remote: Option<&Remote>, label: &str) -> Result<(), OciError> {
        let mut jobs: VecDeque<&LayerBlob> = VecDeque::new();
        for layer in layers {
            let twin = |other: &&LayerBlob| other.diff_id == layer.diff_id;
            if self.find_tar(layer)?.is_none() && !jobs.iter().any(twin) {
                jobs.push_back(layer);
            }
        }
        let threads = jobs.len().min(self.options.parallel.max(1));
        let cancelled = AtomicBool::new(false);
        let (jobs, first_error) = (Mutex::new(jobs), Mutex::new(None));
        let work = || {
            while !cancelled.load(Ordering::Relaxed) {
                let Some(layer) = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { return };
                if let Err(e) = self.make_tar(layer, remote, label, &cancelled) {
                    // Errors after the first are its consequences.
                    cancelled.store(true, Ordering::Relaxed);
                    first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn make_tar(
        &self,
        layer: &LayerBlob,
        remote: Option<&Remote>,
        label: &str,
        cancelled: &AtomicBool,
    ) -> Result<(), OciError> {
        let task = format!("layer {label} blob {}", layer.digest.short());
        let unpack_task = format!("layer {label} unpack");
        let fetch = || match layer.stored {
            Stored::Cache => self.blob(&layer.digest, layer.size, remote, &task, cancelled).map(drop),
            Stored::Disk { .. } => Ok(()),
        };
        fetch()?;
        match (self.unpack(layer, &unpack_task), &layer.stored) {
            // The cache's copy has rotted since it was checked on its way in.
            (Err(OciError::DigestMismatch { .. }), Stored::Cache) if remote.is_some() => {
                self.progress.warning(format!("{task} is damaged in the cache and is fetched again"));
                self.blobs().remove(&layer.digest.key())?;
                fetch()?;
                self.unpack(layer, &unpack_task).map(drop)
            }
            (result, _) => result.map(drop),
        }
    }

    /// A blob's path in the cache, where it is fetched to if need be.
    pub(super) fn blob(
        &self,
        digest: &Digest,
        size: u64,
        remote: Option<&Remote>,
        task: &str,
        cancelled: &AtomicBool,
    ) -> Result<PathBuf, OciError> {
        let bucket = self.blobs();
        let key = digest.key();
        if let Some(path) = bucket.get_sized(&key, size)? {
            return Ok(path);
        }
        let Some(remote) = remote else {
            return Err(OciError::Offline { what: format!("{digest} ({task})") });
        };
        let waiting = || self.progress.note(format!("{task}: waiting for another imgbuild that is fetching it"));
        let mut partial = match bucket.claim(&key, true, waiting)? {
            Claim::Present(path) => return Ok(path),
            Claim::Mine(partial) => partial,
        };
        self.progress.started(task, Some(size));
        let mut throttled = Throttled::new(self.progress, task);
        remote.download(Download {
            digest,
            size,
            partial: &mut partial,
            on_bytes: &mut |done| throttled.advanced(done),
            progress: self.progress,
            cancelled,
        })?;
        let path = partial.commit()?;
        self.progress.finished(task, format!("{size} bytes"));
        Ok(path)
    }
}
