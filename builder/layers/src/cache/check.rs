//! Looking after a cache: what is in it, and whether it is what its names say.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use imgbuild_progress::Progress;

use super::{Cache, CacheError, PARTIAL};
use crate::oci::Digest;

/// Buckets whose keys are digests of their entries, with what stands before the hexadecimal digits there.
const BY_DIGEST: [(&str, &str); 3] = [("blobs-v1", ""), ("tars-v1", ""), ("urls-v1", "sha256:")];

/// What one bucket takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Its name; buckets of other versions of imgbuild are there too.
    pub bucket: String,
    /// Entries.
    pub entries: u64,
    /// Their length together, in bytes.
    pub bytes: u64,
}

impl Cache {
    /// What the cache takes, by bucket and in the order of their names.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn usage(&self) -> Result<Vec<Usage>, CacheError> {
        let mut usage = Vec::new();
        for dir in list(self.dir())? {
            let Some(name) = dir.file_name().filter(|_| dir.is_dir()) else { continue };
            let mut bucket = Usage { bucket: name.to_string_lossy().into_owned(), entries: 0, bytes: 0 };
            for file in files(&dir)? {
                // It may be gone by now: another build is at work, or another `verify`.
                if let Ok(meta) = file.metadata() {
                    bucket.entries += 1;
                    bucket.bytes = bucket.bytes.saturating_add(meta.len());
                }
            }
            usage.push(bucket);
        }
        Ok(usage)
    }

    /// Reads every entry whose name is its digest, and deletes those that are not what their name says; their paths are returned.
    /// The next build gets them anew.
    ///
    /// # Errors
    /// When an entry can be neither read nor deleted.
    pub fn verify(&self, progress: &dyn Progress) -> Result<Vec<PathBuf>, CacheError> {
        let mut damaged = Vec::new();
        for (bucket, prefix) in BY_DIGEST {
            let dir = self.dir().join(bucket);
            let entries = if dir.is_dir() { files(&dir)? } else { Vec::new() };
            let task = format!("verify {bucket}");
            progress.started(&task, None);
            let (count, mut done) = (entries.len(), 0_u64);
            for path in entries {
                match check(&dir, &path, prefix) {
                    Ok((true, len)) => done = done.saturating_add(len),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(CacheError::io("read", &path, e)),
                    Ok((false, _)) => {
                        std::fs::remove_file(&path).map_err(|e| CacheError::io("delete", &path, e))?;
                        damaged.push(path);
                    }
                }
                progress.advanced(&task, done);
            }
            progress.finished(&task, format!("{count} entries, {done} bytes"));
        }
        Ok(damaged)
    }

    /// Empties the cache, but for what other builds are writing at this moment.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub fn clear(&self) -> Result<(), CacheError> {
        for dir in list(self.dir())? {
            // Only what this program may have made: the user may have pointed it at a folder that holds more.
            let ours = dir.file_name().and_then(|name| name.to_str()).is_some_and(is_bucket);
            if !ours || !dir.is_dir() {
                continue;
            }
            for file in files(&dir)? {
                let busy = dir.ends_with(PARTIAL) && File::open(&file).is_ok_and(|file| file.try_lock().is_err());
                if !busy {
                    match std::fs::remove_file(&file) {
                        Err(e) if e.kind() != io::ErrorKind::NotFound => {
                            return Err(CacheError::io("delete", &file, e));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// `NAME-vN`.
pub(super) fn is_bucket(name: &str) -> bool {
    name.rsplit_once("-v").is_some_and(|(name, version)| !name.is_empty() && version.parse::<u32>().is_ok())
}

pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let entries = std::fs::read_dir(dir).and_then(|entries| {
        let paths: io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
        paths
    });
    let mut entries = entries.map_err(|e| CacheError::io("read", dir, e))?;
    entries.sort();
    Ok(entries)
}

/// The files below a folder; symbolic links are not followed.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let walk = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter();
    let files = walk.filter_map(|entry| match entry {
        Ok(entry) if entry.file_type().is_dir() => None,
        Ok(entry) => Some(Ok(entry.into_path())),
        // What another process deleted while we looked is no error.
        Err(e) if e.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => None,
        Err(e) => Some(Err(CacheError::io("read", dir, e.into()))),
    });
    files.collect()
}

/// What stands before the digits in the digests that name a bucket's entries; nothing if digests do not name them.
pub(super) fn digest_prefix(bucket: &str) -> Option<&'static str> {
    BY_DIGEST.iter().find(|(name, _)| *name == bucket).map(|(_, prefix)| *prefix)
}

/// The digest that an entry's key stands for.
pub(super) fn digest(prefix: &str, key: &str) -> Option<Digest> {
    format!("{prefix}{}", key.replace('/', ":")).parse().ok()
}

/// Whether an entry is what its name says, and how long it is.
fn check(bucket: &Path, path: &Path, prefix: &str) -> io::Result<(bool, u64)> {
    let key = path.strip_prefix(bucket).unwrap_or(path).to_string_lossy();
    let Some(wanted) = digest(prefix, &key) else { return Ok((false, 0)) };
    let mut file = File::open(path)?;
    let mut hasher = wanted.hasher();
    let len = io::copy(&mut file, &mut hasher)?;
    Ok((hasher.finish() == wanted, len))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use imgbuild_progress::Silent;

    use super::*;
    use crate::cache::Claim;

    #[test]
    fn verify_finds_and_deletes_what_is_not_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let digest = Digest::sha256(b"good");
        let put = |bucket, key: &str, bytes: &[u8]| {
            let fill = |partial: &mut crate::cache::Partial| {
                partial.write_all(bytes).map_err(|e| CacheError::write(dir.path(), e))
            };
            cache.bucket(bucket).insert(key, fill).unwrap()
        };
        put("blobs-v1", &digest.key(), b"good");
        put("urls-v1", digest.hex(), b"good");
        put("debian-v1", "roots/some-key", b"whatever");
        let rotten = put("tars-v1", &Digest::sha256(b"other").key(), b"rotten");
        assert_eq!(cache.verify(&Silent).unwrap(), std::slice::from_ref(&rotten));
        assert!(!rotten.exists());
        assert_eq!(cache.verify(&Silent).unwrap(), Vec::<PathBuf>::new());

        let usage = cache.usage().unwrap();
        let counted: Vec<_> = usage.iter().map(|u| (u.bucket.as_str(), u.entries, u.bytes)).collect();
        assert_eq!(
            counted,
            [("blobs-v1", 1, 4), ("debian-v1", 1, 8), ("partial-v1", 0, 0), ("tars-v1", 0, 0), ("urls-v1", 1, 4)]
        );
    }

    #[test]
    fn clear_leaves_what_is_being_written_and_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let bucket = cache.bucket("things-v1");
        let Claim::Mine(mut partial) = bucket.claim("busy", true, || ()).unwrap() else { panic!() };
        partial.write_all(b"half").unwrap();
        bucket.insert("a/b", |p| p.write_all(b"x").map_err(|e| CacheError::write(dir.path(), e))).unwrap();
        for other in ["precious", "my-videos", "v1"] {
            std::fs::create_dir(dir.path().join(other)).unwrap();
            std::fs::write(dir.path().join(other).join("file"), b"keep").unwrap();
        }
        cache.clear().unwrap();
        assert!(bucket.get("a/b").unwrap().is_none());
        assert_eq!(std::fs::read(dir.path().join("my-videos/file")).unwrap(), b"keep");
        assert_eq!(std::fs::read(partial.commit().unwrap()).unwrap(), b"half");
    }
}
