//! Whether a file of this machine is still the one that was read before.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::cache::{Cache, CacheError};

/// The bucket of local files' SHA-256, by [`FileStamp::key`].
const BUCKET: &str = "files-v1";

/// Shorter files are hashed faster than looked up, in bytes.
const WORTH_KEEPING: u64 = 1 << 20;

/// A change that follows another one as closely may leave the file's time as it was, for these clocks tick.
const TICK: Duration = Duration::from_millis(20);
/// And those of some file systems in seconds, or two.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// What tells a file from every other one, and from itself once somebody wrote to it: device, inode, length, and the times
/// of its content and of its inode. Nobody can set the last one, but for turning the clock back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    numbers: [u64; 5],
    nanoseconds: [i64; 2],
    settled: bool,
}

impl FileStamp {
    /// Of the file that has this name now.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::new(&std::fs::metadata(path)?))
    }

    /// Of an open file.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::new(&file.metadata()?))
    }

    fn new(meta: &Metadata) -> Self {
        let changed = Duration::new(meta.ctime().max(0).cast_unsigned(), meta.ctime_nsec() as u32);
        let tick = if changed.subsec_nanos().is_multiple_of(1_000_000) { COARSE_TICK } else { TICK };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            numbers: [meta.dev(), meta.ino(), meta.len(), meta.mtime().cast_unsigned(), meta.ctime().cast_unsigned()],
            nanoseconds: [meta.mtime_nsec(), meta.ctime_nsec()],
            settled: now.checked_sub(changed).is_some_and(|age| age >= tick),
        }
    }

    /// Whether what is read from now on may be remembered: every later change gives another stamp.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether both are of the same file with the same content, if the earlier one was settled.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.numbers, self.nanoseconds) == (other.numbers, other.nanoseconds)
    }

    /// A key for what is remembered of the file under the name `what`: lower-case hex.
    #[must_use]
    pub fn key(&self, what: &str) -> String {
        let mut hash = Sha256::new();
        hash.update((what.len() as u64).to_le_bytes());
        hash.update(what);
        self.numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
        self.nanoseconds.iter().for_each(|number| hash.update(number.to_le_bytes()));
        hex::encode(hash.finalize())
    }
}

/// The files of this machine that go into a build, as they were before it read them: what it keeps for later builds under the
/// hash of what it read first must not be made of what it read second.
#[derive(Debug, Default)]
pub struct Watch(Vec<(PathBuf, FileStamp)>);

impl Watch {
    /// Remembers what a file is like now. One that is not there is a matter of who reads it.
    pub fn add(&mut self, path: &Path) {
        if let Ok(stamp) = FileStamp::of(path) {
            self.0.push((path.to_owned(), stamp));
        }
    }

    /// Takes over what another one remembers.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// A file that is not as it was.
    #[must_use]
    pub fn changed(&self) -> Option<&Path> {
        let same = |path: &Path, stamp: &FileStamp| FileStamp::of(path).is_ok_and(|now| now.is_same(stamp));
        self.0.iter().find(|(path, stamp)| !same(path, stamp)).map(|(path, _)| path.as_path())
    }
}

/// SHA-256 of a local file in lower-case hex; of one that an earlier build has read, and that nobody has touched since,
/// without reading it.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn sha256(path: &Path, cache: &Cache) -> io::Result<String> {
    let mut file = File::open(path)?;
    let before = FileStamp::of_file(&file)?;
    let (bucket, key) = (cache.bucket(BUCKET), before.key("sha256"));
    let known = bucket.get(&key).ok().flatten().and_then(|path| std::fs::read_to_string(path).ok());
    if let Some(known) = known.filter(|text| is_sha256(text)) {
        return Ok(known);
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let found = loop {
        match file.read(&mut buffer)? {
            0 => break hex::encode(hash.finalize()),
            read => hash.update(&buffer[..read]),
        }
    };
    if before.is_settled() && file.metadata()?.len() >= WORTH_KEEPING && FileStamp::of_file(&file)?.is_same(&before) {
        let keep = || -> Result<(), CacheError> {
            let mut draft = bucket.draft()?;
            draft.write_all(found.as_bytes()).map_err(|e| CacheError::write(draft.path(), e))?;
            bucket.remove(&key)?;
            draft.commit_as(&bucket, &key).map(drop)
        };
        // Without it, the next build reads the file again.
        let _ = keep();
    }
    Ok(found)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// As if nobody had written to the file for a while.
    fn wait() {
        std::thread::sleep(COARSE_TICK + Duration::from_millis(100));
    }

    #[test]
    fn a_hash_is_remembered_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        let path = dir.path().join("file");
        let mut bytes = vec![1; WORTH_KEEPING as usize];
        let keys = || cache.bucket(BUCKET).keys().unwrap();
        fs::write(&path, &bytes).unwrap();
        let settled = FileStamp::of(&path).unwrap().is_settled();
        let first = sha256(&path, &cache).unwrap();
        assert_eq!(first, hex::encode(Sha256::digest(&bytes)));
        assert!(keys().is_empty() || settled, "it was written a moment ago");
        wait();
        assert_eq!(sha256(&path, &cache).unwrap(), first);
        assert_eq!(keys().len(), 1);
        // The proof that it is not read again: what is remembered is believed.
        let entry = cache.bucket(BUCKET).path(&keys()[0]).unwrap();
        fs::remove_file(&entry).unwrap();
        fs::write(&entry, "0".repeat(64)).unwrap();
        assert_eq!(sha256(&path, &cache).unwrap(), "0".repeat(64));
        // A torn entry is not.
        fs::write(&entry, "0".repeat(63)).unwrap();
        assert_eq!(sha256(&path, &cache).unwrap(), first);

        // The same length and time, as `rsync` and `cp -p` leave them.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        bytes[5] = 2;
        fs::write(&path, &bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert_eq!(sha256(&path, &cache).unwrap(), hex::encode(Sha256::digest(&bytes)));
    }

    #[test]
    fn small_files_are_not_worth_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "small").unwrap();
        wait();
        sha256(&path, &cache).unwrap();
        assert!(cache.bucket(BUCKET).keys().unwrap().is_empty());
    }
}
