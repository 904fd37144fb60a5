//! Making the cache smaller.

use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime};

use super::{Cache, CacheError, PARTIAL, check};

/// Held, shared, by every build while it relies on entries staying.
const LOCK: &str = "in-use.lock";

/// An entry of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its bucket; buckets of other versions of imgbuild are there too.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was used last, as far as the file system tells: on most, reading is noted once a day.
    pub used: SystemTime,
}

/// What may stay in a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// Entries that were used longer ago go.
    pub older_than: Option<Duration>,
    /// Those used longest ago go until no more bytes than this are left.
    pub bytes: Option<u64>,
}

/// As long as it lives, nobody prunes the cache.
#[derive(Debug)]
pub struct InUse {
    _lock: Option<File>,
}

impl Cache {
    /// Keeps others from pruning the cache; waits while somebody does.
    #[must_use]
    pub fn in_use(&self) -> InUse {
        // A cache that cannot be written cannot be pruned either.
        let lock = self.lock_file().ok().filter(|file| file.lock_shared().is_ok());
        InUse { _lock: lock }
    }

    fn lock_file(&self) -> io::Result<File> {
        File::options().create(true).truncate(false).write(true).open(self.dir().join(LOCK))
    }

    /// Every entry, those used longest ago first.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn entries(&self) -> Result<Vec<CacheEntry>, CacheError> {
        let mut entries = Vec::new();
        for dir in check::list(self.dir())? {
            let Some(bucket) = dir.file_name().and_then(|name| name.to_str()) else { continue };
            if !dir.is_dir() || !check::is_bucket(bucket) || bucket == PARTIAL {
                continue;
            }
            for file in check::files(&dir)? {
                // It may be gone by now.
                let Ok(meta) = file.metadata() else { continue };
                let Some(key) = file.strip_prefix(&dir).ok().and_then(|key| key.to_str()) else { continue };
                let times = [meta.accessed().ok(), meta.modified().ok()];
                let used = times.into_iter().flatten().max().unwrap_or(SystemTime::UNIX_EPOCH);
                entries.push(CacheEntry { bucket: bucket.to_owned(), key: key.to_owned(), bytes: meta.len(), used });
            }
        }
        entries.sort_by(|a, b| (a.used, &a.bucket, &a.key).cmp(&(b.used, &b.bucket, &b.key)));
        Ok(entries)
    }

    /// Deletes what is beyond the limit and returns it. Waits for builds that use the cache to end; `on_wait` is called
    /// before. With `dry` nothing is deleted, nor waited for.
    ///
    /// # Errors
    /// When something can be neither read nor deleted.
    pub fn prune(&self, limit: Limit, dry: bool, on_wait: impl FnOnce()) -> Result<Vec<CacheEntry>, CacheError> {
        let path = self.dir().join(LOCK);
        let lock = self.lock_file().map_err(|e| CacheError::write(&path, e))?;
        if !dry && lock.try_lock().is_err() {
            on_wait();
            lock.lock().map_err(|e| CacheError::io("lock", &path, e))?;
        }
        let entries = self.entries()?;
        let mut left: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let now = SystemTime::now();
        let mut gone = Vec::new();
        for entry in entries {
            let age = now.duration_since(entry.used).unwrap_or_default();
            let old = limit.older_than.is_some_and(|most| age > most);
            if !old && limit.bytes.is_none_or(|most| left <= most) {
                continue;
            }
            let path = self.dir().join(&entry.bucket).join(&entry.key);
            if !dry {
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(CacheError::io("delete", &path, e)),
                    _ => {}
                }
            }
            left -= entry.bytes;
            gone.push(entry);
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn cache(ages: &[(&'static str, &str, u64)]) -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        for (bucket, key, hours) in ages {
            let fill =
                |p: &mut crate::cache::Partial| p.write_all(&[0; 100]).map_err(|e| CacheError::write(dir.path(), e));
            let path = cache.bucket(bucket).insert(key, fill).unwrap();
            let then = SystemTime::now() - Duration::from_secs(hours * 3600);
            File::open(path).unwrap().set_times(FileTimes::new().set_accessed(then).set_modified(then)).unwrap();
        }
        (dir, cache)
    }

    fn keys(entries: &[CacheEntry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.key.as_str()).collect()
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let (dir, cache) = cache(&[("a-v1", "x/new", 1), ("b-v1", "oldest", 50), ("a-v1", "old", 30)]);
        std::fs::create_dir(dir.path().join("precious")).unwrap();
        std::fs::write(dir.path().join("precious/file"), "keep").unwrap();
        let size = |bytes| Limit { bytes: Some(bytes), ..Limit::default() };
        let age = |hours: u64| Limit { older_than: Some(Duration::from_secs(hours * 3600)), ..Limit::default() };
        let dry = |limit| cache.prune(limit, true, || ()).unwrap();
        assert_eq!(keys(&dry(size(300))), [""; 0]);
        assert_eq!(keys(&dry(size(299))), ["oldest"]);
        assert_eq!(keys(&dry(size(0))), ["oldest", "old", "x/new"]);
        assert_eq!(keys(&dry(age(20))), ["oldest", "old"]);
        assert_eq!(keys(&dry(Limit::default())), [""; 0]);
        assert_eq!(cache.entries().unwrap().len(), 3, "nothing was deleted");
        assert_eq!(keys(&cache.prune(size(100), false, || ()).unwrap()), ["oldest", "old"]);
        assert_eq!(keys(&cache.entries().unwrap()), ["x/new"]);
        assert!(dir.path().join("precious/file").exists());
    }

    #[test]
    fn a_build_is_waited_for() {
        let (_dir, cache) = cache(&[("a-v1", "x", 1)]);
        let waited = AtomicBool::new(false);
        let using = (cache.in_use(), cache.in_use());
        std::thread::scope(|scope| {
            let pruned = scope.spawn(|| {
                let limit = Limit { bytes: Some(0), ..Limit::default() };
                cache.prune(limit, false, || waited.store(true, Ordering::SeqCst)).unwrap()
            });
            while !waited.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            assert_eq!(cache.entries().unwrap().len(), 1);
            drop(using);
            assert_eq!(pruned.join().unwrap().len(), 1);
        });
    }
}
