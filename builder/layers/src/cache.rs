//! The content-addressed cache that several builds share.
//!
//! On disk, below one folder (`$IMGBUILD_CACHE`, else the user's XDG cache folder):
//!
//! ```text
//! blobs-v1/sha256/HEX     what a registry served: manifests, configs, compressed layers
//! tars-v1/sha256/HEX      uncompressed layer tars, by diff id
//! diff-ids-v1/sha256/HEX  compressed layer digest -> diff id and length of its tar
//! archives-v2/HEX         SHA-256 of an archive -> digest and length of its tar
//! NAME-vN/KEY             whatever else a source keeps (Debian layers, downloads)
//! partial-v1/NAME-vN+KEY  what is being written; held with a file lock by the process that writes it
//! ```
//!
//! A bucket's name carries its version: a change of format is a new bucket, so that old and new programs share one
//! folder. An entry appears by rename, whole and read-only, after its bytes have reached the disk, so that a reader
//! needs no lock and SIGKILL leaves nothing half-written. The lock on the partial file is what keeps two builds from
//! doing the same work twice; it goes away with the process that held it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

mod behind;
mod carry;
mod check;
mod direct;
mod error;
mod prune;
#[cfg(test)]
mod tests;

use behind::Behind;
pub use behind::WriteBehind;
pub use carry::Imported;
pub use check::Usage;
pub use direct::Direct;
pub use error::CacheError;
pub use prune::{CacheEntry, InUse, Limit};

const PARTIAL: &str = "partial-v1";
/// How long a download that was broken off waits to be resumed before its space is taken back.
const RESUMABLE_FOR: Duration = Duration::from_secs(14 * 24 * 3600);

/// A folder of buckets. Cheap to clone; any number of processes may have it open.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// One kind of entries in a cache.
#[derive(Debug, Clone)]
pub struct Bucket {
    root: PathBuf,
    name: Cow<'static, str>,
}

/// What [`Bucket::claim`] found.
#[derive(Debug)]
pub enum Claim {
    /// The entry is there.
    Present(PathBuf),
    /// It is not, and until this is dropped nobody else will make it.
    Mine(Partial),
}

/// An entry in the making: a file in the cache's file system, locked, to be committed or dropped.
///
/// Dropped without [`Partial::commit`] it is deleted if it is fresh and kept if it is resumable.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    keep: bool,
    committed: bool,
    full: bool,
    /// For what is to be on disk before it gets its name.
    behind: Option<Behind>,
}

impl Cache {
    /// Opens the cache in `dir`, which is made if it is missing, and takes back what dead processes left.
    ///
    /// # Errors
    /// When the folder can neither be found nor made.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CacheError> {
        let dir = dir.as_ref();
        let partial = dir.join(PARTIAL);
        // A cache on a read-only medium is still good for reading; the first write will say what is wrong.
        if let Err(source) = std::fs::create_dir_all(&partial)
            && !dir.is_dir()
        {
            return Err(CacheError::Open { path: dir.to_owned(), source });
        }
        let root = std::path::absolute(dir).map_err(|e| CacheError::Open { path: dir.to_owned(), source: e })?;
        let cache = Self { root };
        cache.sweep(SystemTime::now());
        Ok(cache)
    }

    /// `$IMGBUILD_CACHE`, else `imgbuild` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`).
    ///
    /// # Errors
    /// When none of the three variables is set.
    pub fn default_dir() -> Result<PathBuf, CacheError> {
        Self::default_dir_in(|name| std::env::var_os(name))
    }

    fn default_dir_in(environment: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, CacheError> {
        let set = |name| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(dir) = set("IMGBUILD_CACHE") {
            return Ok(dir);
        }
        // The XDG specification has relative paths ignored.
        set("XDG_CACHE_HOME")
            .filter(|dir| dir.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .map(|dir| dir.join("imgbuild"))
            .ok_or(CacheError::NoPlace)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.root
    }

    /// A bucket. Its name ends in the version of what it holds: `debian-v1`.
    #[must_use]
    pub fn bucket(&self, name: &'static str) -> Bucket {
        Bucket { root: self.root.clone(), name: name.into() }
    }

    /// A bucket whose name is known at run time only; nothing if it cannot be one.
    fn bucket_named(&self, name: &str) -> Option<Bucket> {
        let sound = check::is_bucket(name) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        sound.then(|| Bucket { root: self.root.clone(), name: name.to_owned().into() })
    }

    /// An unnamed file in the cache's file system, gone when it is closed: for bytes that are needed while one build
    /// runs and are too many for memory.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn scratch(&self) -> Result<File, CacheError> {
        let dir = self.root.join(PARTIAL);
        tempfile::tempfile_in(&dir).map_err(|e| CacheError::io("make a temporary file in", &dir, e))
    }

    /// Deletes partial files that nobody holds: fresh ones at once, resumable ones when they are old.
    fn sweep(&self, now: SystemTime) {
        let Ok(entries) = std::fs::read_dir(self.root.join(PARTIAL)) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let old = || {
                let modified = entry.metadata().and_then(|m| m.modified()).unwrap_or(now);
                now.duration_since(modified).is_ok_and(|age| age > RESUMABLE_FOR)
            };
            if is_resumable(&path) && !old() {
                continue;
            }
            // Whoever holds the lock is at work. Somebody who opens the file between our lock and our unlink sees that
            // the name is gone once the lock is his, and begins anew (see `lock_partial`).
            if let Ok(file) = File::open(&path)
                && file.try_lock().is_ok()
            {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

impl Bucket {
    /// Where the entry `key` is or would be. A key is made of `/`-separated parts of letters, digits and `._+-`.
    ///
    /// # Errors
    /// When `key` is anything else.
    pub fn path(&self, key: &str) -> Result<PathBuf, CacheError> {
        let sound = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.len() <= 200
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
        };
        if !key.split('/').all(sound) {
            return Err(CacheError::Key { key: key.to_owned() });
        }
        Ok(self.root.join(&*self.name).join(key))
    }

    /// The entry's path, if it is there.
    ///
    /// # Errors
    /// When it cannot be looked for.
    pub fn get(&self, key: &str) -> Result<Option<PathBuf>, CacheError> {
        let path = self.path(key)?;
        match path.try_exists() {
            Ok(true) => Ok(Some(path)),
            Ok(false) => Ok(None),
            Err(e) => Err(CacheError::io("look for", &path, e)),
        }
    }

    /// The entry's path, if it is there and `len` bytes long. An entry of another length was damaged after it was
    /// written: it is deleted, and the caller gets it anew.
    ///
    /// # Errors
    /// When it cannot be looked at, or is damaged and cannot be deleted.
    pub fn get_sized(&self, key: &str, len: u64) -> Result<Option<PathBuf>, CacheError> {
        let Some(path) = self.get(key)? else { return Ok(None) };
        let found = std::fs::metadata(&path).map_err(|e| CacheError::io("look at", &path, e))?.len();
        if found == len {
            return Ok(Some(path));
        }
        self.remove(key)?;
        Ok(None)
    }

    /// Deletes an entry; a missing one is no error.
    ///
    /// # Errors
    /// When it is there and cannot be deleted.
    pub fn remove(&self, key: &str) -> Result<(), CacheError> {
        let path = self.path(key)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(CacheError::io("delete", &path, e)),
            _ => Ok(()),
        }
    }

    /// The entry's path; if it is not there, `fill` writes it first. When several builds want the same entry at once,
    /// one writes and the others wait.
    ///
    /// # Errors
    /// What `fill` returns, or [`CacheError`] in its stead when the cache is at fault. Nothing is left behind.
    pub fn insert<E: From<CacheError>>(
        &self,
        key: &str,
        fill: impl FnOnce(&mut Partial) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let mut partial = match self.claim(key, false, || ())? {
            Claim::Present(path) => return Ok(path),
            Claim::Mine(partial) => partial,
        };
        match fill(&mut partial) {
            Ok(()) => Ok(partial.commit()?),
            Err(_) if partial.full => Err(CacheError::full(&partial.path, None).into()),
            Err(e) => Err(e),
        }
    }

    /// The path of an entry whose key is known only once `fill`, which returns it, has written it.
    ///
    /// # Errors
    /// As [`Bucket::insert`].
    pub fn insert_named<E: From<CacheError>>(
        &self,
        fill: impl FnOnce(&mut Partial) -> Result<String, E>,
    ) -> Result<PathBuf, E> {
        let mut partial = self.draft()?;
        partial.behind = Some(Behind::default());
        match fill(&mut partial) {
            Ok(key) => {
                partial.target = self.path(&key)?;
                if partial.target.exists() {
                    return Ok(partial.target.clone());
                }
                Ok(partial.commit()?)
            }
            Err(_) if partial.full => Err(CacheError::full(&partial.path, None).into()),
            Err(e) => Err(e),
        }
    }

    /// A file for an entry whose key is known only once it is whole: see [`Partial::commit_as`].
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn draft(&self) -> Result<Partial, CacheError> {
        let dir = self.root.join(PARTIAL);
        loop {
            let named = tempfile::Builder::new()
                .prefix(&format!("{}+", self.name))
                .suffix(".new")
                .tempfile_in(&dir)
                .map_err(|e| CacheError::write(&dir, e))?;
            let (file, path) = named.keep().map_err(|e| CacheError::write(&dir, e.error))?;
            // Between the two, somebody who sweeps may have taken it for a dead process's.
            let locked = file.try_lock().is_ok() && names_same_file(&path, &file)?;
            if locked {
                let target = path.clone();
                return Ok(Partial { file, path, target, keep: false, committed: false, full: false, behind: None });
            }
        }
    }

    /// The keys of all entries, sorted; those of other processes come and go meanwhile.
    ///
    /// # Errors
    /// When the bucket cannot be read.
    pub fn keys(&self) -> Result<Vec<String>, CacheError> {
        let dir = self.root.join(&*self.name);
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        let files = check::files(&dir)?;
        let keys = files.iter().filter_map(|file| file.strip_prefix(&dir).ok()?.to_str().map(str::to_owned));
        Ok(keys.filter(|key| self.path(key).is_ok()).collect())
    }

    /// The entry, or the right to make it. `resumable`: bytes that an earlier process left are kept, and kept again if
    /// this one fails. `on_wait` is called before this blocks because another build holds the right.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn claim(&self, key: &str, resumable: bool, on_wait: impl FnOnce()) -> Result<Claim, CacheError> {
        let target = self.path(key)?;
        if target.exists() {
            return Ok(Claim::Present(target));
        }
        let suffix = if resumable { RESUMABLE } else { "new" };
        let path = self.root.join(PARTIAL).join(format!("{}+{}.{suffix}", self.name, key.replace('/', "+")));
        let file = lock_partial(&path, &target, on_wait)?;
        let Some(file) = file else { return Ok(Claim::Present(target)) };
        if !resumable {
            file.set_len(0).map_err(|e| CacheError::io("empty", &path, e))?;
        }
        let behind = Some(Behind::default());
        Ok(Claim::Mine(Partial { file, path, target, keep: resumable, committed: false, full: false, behind }))
    }
}

const RESUMABLE: &str = "resume";

fn is_resumable(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == RESUMABLE)
}

/// Opens and locks the partial file, or returns nothing if the entry appears meanwhile.
fn lock_partial(path: &Path, target: &Path, on_wait: impl FnOnce()) -> Result<Option<File>, CacheError> {
    let mut on_wait = Some(on_wait);
    loop {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| CacheError::write(dir, e))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| CacheError::write(path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                if let Some(tell) = on_wait.take() {
                    tell();
                }
                file.lock().map_err(|e| CacheError::io("lock", path, e))?;
            }
            Err(TryLockError::Error(e)) => return Err(CacheError::io("lock", path, e)),
        }
        if target.exists() {
            // It was finished while we waited. Our file may be a new empty one; nobody else needs it.
            if names_same_file(path, &file)? {
                let _ = std::fs::remove_file(path);
            }
            return Ok(None);
        }
        // The lock is worth something only on the file that the name still stands for: its former holder renamed or
        // deleted it otherwise.
        if names_same_file(path, &file)? {
            return Ok(Some(file));
        }
    }
}

fn names_same_file(path: &Path, file: &File) -> Result<bool, CacheError> {
    let held = file.metadata().map_err(|e| CacheError::io("look at", path, e))?;
    match std::fs::metadata(path) {
        Ok(named) => Ok(named.ino() == held.ino() && named.dev() == held.dev()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(CacheError::io("look at", path, e)),
    }
}

impl Partial {
    /// The file, for reading what is there already and for programs that need a descriptor.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is until it is committed; for messages and for programs that need a name to write to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes it holds now.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn written(&self) -> Result<u64, CacheError> {
        Ok(self.file.metadata().map_err(|e| CacheError::io("look at", &self.path, e))?.len())
    }

    /// Cuts it to `len` bytes and goes on writing there.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn rewind_to(&mut self, len: u64) -> Result<(), CacheError> {
        self.file
            .set_len(len)
            .and_then(|()| self.file.seek(SeekFrom::Start(len)))
            .map_err(|e| CacheError::io("cut", &self.path, e))?;
        Ok(())
    }

    /// Fails if `bytes` more bytes will not fit: better before the first of them than after the last.
    ///
    /// # Errors
    /// [`CacheError::DiskFull`].
    pub fn require_space(&self, bytes: u64) -> Result<(), CacheError> {
        match free_space(&self.path) {
            Some(free) if free < bytes => Err(CacheError::full(&self.path, Some(bytes))),
            _ => Ok(()),
        }
    }

    /// Deletes it if it is dropped uncommitted, even if it was resumable: its bytes are no good.
    pub fn forget(&mut self) {
        self.keep = false;
    }

    /// Makes it the entry: on disk, read-only, under its name.
    ///
    /// # Errors
    /// When the disk does not take it; then there is no entry.
    pub fn commit(mut self) -> Result<PathBuf, CacheError> {
        let result = self.publish();
        if let Err(CacheError::DiskFull { .. }) = &result {
            self.keep = false;
        }
        result.map(|()| self.target.clone())
    }

    /// Makes a [`Bucket::draft`] the entry `key` of its bucket, unless that is there already. The bytes need not have reached
    /// the disk: it is for entries that are checked when they are read, and can be made again.
    ///
    /// # Errors
    /// When `key` is none, or the disk does not take the entry; then there is none.
    pub fn commit_as(mut self, bucket: &Bucket, key: &str) -> Result<PathBuf, CacheError> {
        self.target = bucket.path(key)?;
        if self.target.exists() {
            return Ok(self.target.clone());
        }
        self.rename()?;
        Ok(self.target.clone())
    }

    fn publish(&mut self) -> Result<(), CacheError> {
        let behind = self.behind.as_mut().map_or(Ok(()), Behind::finish);
        behind.and_then(|()| self.file.sync_all()).map_err(|e| CacheError::write(&self.path, e))?;
        let dir = self.rename()?;
        // Without this a power cut may take back the name of an entry that a lock already relies on.
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|e| CacheError::write(&dir, e))
    }

    /// Gives it its name, and returns the folder.
    fn rename(&mut self) -> Result<PathBuf, CacheError> {
        self.file.set_permissions(Permissions::from_mode(0o444)).map_err(|e| CacheError::write(&self.path, e))?;
        let dir = self.target.parent().unwrap_or(&self.target).to_owned();
        std::fs::create_dir_all(&dir).map_err(|e| CacheError::write(&dir, e))?;
        std::fs::rename(&self.path, &self.target).map_err(|e| CacheError::write(&self.target, e))?;
        self.committed = true;
        Ok(dir)
    }
}

impl Write for Partial {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buf).inspect_err(|e| {
            if CacheError::is_full(e) {
                // Nobody can go on from here, and the user needs the space.
                (self.full, self.keep) = (true, false);
            }
        })?;
        if let Some(behind) = &mut self.behind {
            behind.wrote(&self.file, written);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.committed && !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Bytes that an ordinary user can still write where `path` is.
pub(crate) fn free_space(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
