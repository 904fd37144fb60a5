//! What was found out about files, so that they need not be read again.
//!
//! What a pass over the contents of files finds, digests above all, is kept in the bucket `scans-v1`: one entry for each tar in
//! the cache, by the tar's identity (path, inode, length, time), so that one that was made anew is looked at anew. What lies
//! elsewhere may change: local tars and long files are known by their [`FileStamp`].

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use imgbuild_layers::FileStamp;
use imgbuild_layers::cache::{Bucket, Cache, CacheError};
use imgbuild_tree::Content;
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;

/// The bucket of scans.
pub const BUCKET: &str = "scans-v1";

/// Results of `N` bytes each, by the place of a file in a tar.
#[derive(Debug)]
pub struct Scans<const N: usize> {
    bucket: Bucket,
    /// The cache's folder.
    root: std::path::PathBuf,
    version: &'static str,
    files: Mutex<HashMap<Place, Arc<Tar>>>,
}

/// A file of which results are known. Open files are told apart by their address, which each keeps as long as its [`Tar`].
#[derive(Debug, PartialEq, Eq, Hash)]
enum Place {
    Open(usize),
    Named(Arc<Path>),
}

/// One file's results.
#[derive(Debug, Default)]
struct Tar {
    /// Empty for what cannot be remembered.
    key: String,
    /// What the file was before it was read, if it is none of the cache.
    stamp: Option<FileStamp>,
    source: Option<Source>,
    /// Sorted records: offset 8, length 8, result.
    known: Vec<u8>,
    new: Mutex<BTreeMap<(u64, u64), Vec<u8>>>,
}

/// Where contents lie.
#[derive(Debug, Clone)]
enum Source {
    Open(Arc<File>, Arc<Path>),
    Named(Arc<Path>),
}

impl Source {
    fn place(&self) -> Place {
        match self {
            Self::Open(file, _) => Place::Open(Arc::as_ptr(file) as usize),
            Self::Named(path) => Place::Named(Arc::clone(path)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Open(_, path) | Self::Named(path) => path,
        }
    }

    fn stamp(&self) -> std::io::Result<FileStamp> {
        match self {
            Self::Open(file, _) => FileStamp::of_file(file),
            Self::Named(path) => FileStamp::of(path),
        }
    }
}

const PLACE: usize = 16;
/// Shorter files that are not in a tar are read faster than looked up, in bytes.
const WORTH_KEEPING: u64 = 1 << 20;

impl<const N: usize> Scans<N> {
    const RECORD: usize = PLACE + N;

    /// `version` names what the results mean: results of another version are not seen.
    #[must_use]
    pub fn open(cache: &Cache, version: &'static str) -> Self {
        let (bucket, root) = (cache.bucket(BUCKET), cache.dir().to_owned());
        Self { bucket, root, version, files: Mutex::default() }
    }

    /// What is known of a content.
    #[must_use]
    pub fn get(&self, content: &Content) -> Option<[u8; N]> {
        let (source, place) = place(content)?;
        let tar = self.tar(source);
        let count = tar.known.len() / Self::RECORD;
        let record = |at: usize| tar.known.get(at * Self::RECORD..(at + 1) * Self::RECORD).unwrap_or_default();
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = usize::midpoint(low, high);
            match place_of(record(middle)).cmp(&place) {
                std::cmp::Ordering::Equal => return record(middle).get(PLACE..)?.try_into().ok(),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Takes what was found out about a content.
    pub fn put(&self, content: &Content, result: [u8; N]) {
        if let Some((source, place)) = place(content) {
            let tar = self.tar(source);
            if !tar.key.is_empty() {
                tar.new.lock().unwrap_or_else(PoisonError::into_inner).insert(place, result.to_vec());
            }
        }
    }

    /// Keeps what is new.
    ///
    /// # Errors
    /// When the cache cannot be written; then the files are read again the next time.
    pub fn finish(self) -> Result<(), CacheError> {
        let files = self.files.into_inner().unwrap_or_else(PoisonError::into_inner);
        for tar in files.values() {
            let new = std::mem::take(&mut *tar.new.lock().unwrap_or_else(PoisonError::into_inner));
            let now = || tar.source.as_ref().and_then(|source| source.stamp().ok());
            let changed = tar.stamp.is_some_and(|before| !now().is_some_and(|now| now.is_same(&before)));
            if new.is_empty() || changed {
                continue;
            }
            let mut all = new;
            for record in tar.known.chunks_exact(Self::RECORD) {
                let (_, result) = record.split_at(PLACE);
                all.entry(place_of(record)).or_insert_with(|| result.to_vec());
            }
            let mut bytes = Vec::with_capacity(all.len() * Self::RECORD + 8);
            for ((offset, len), result) in all {
                bytes.extend_from_slice(&offset.to_le_bytes());
                bytes.extend_from_slice(&len.to_le_bytes());
                bytes.extend_from_slice(&result);
            }
            bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
            let mut draft = self.bucket.draft()?;
            draft.write_all(&bytes).map_err(|e| CacheError::write(draft.path(), e))?;
            self.bucket.remove(&tar.key)?;
            draft.commit_as(&self.bucket, &tar.key)?;
        }
        Ok(())
    }

    fn tar(&self, source: Source) -> Arc<Tar> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let place = source.place();
        if let Some(tar) = files.get(&place) {
            return Arc::clone(tar);
        }
        let tar = Arc::new(self.load(source).unwrap_or_default());
        files.insert(place, Arc::clone(&tar));
        tar
    }

    /// What is kept of a file; nothing of one that may change unseen.
    fn load(&self, source: Source) -> Option<Tar> {
        let (key, stamp) = match source.path().strip_prefix(&self.root) {
            Ok(inside) => (identity(self.version, inside, source.path())?, None),
            Err(_) => {
                let stamp = source.stamp().ok().filter(FileStamp::is_settled)?;
                (stamp.key(self.version), Some(stamp))
            }
        };
        let bytes = self.bucket.path(&key).ok().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let known = match bytes.split_last_chunk::<8>() {
            Some((records, sum))
                if records.len() % Self::RECORD == 0 && xxh3_64(records) == u64::from_le_bytes(*sum) =>
            {
                records.to_vec()
            }
            _ => Vec::new(),
        };
        Some(Tar { key, stamp, source: Some(source), known, new: Mutex::default() })
    }
}

/// A hash of what tells a file from every other one, and from itself when it is written anew.
pub(crate) fn identity(version: &str, name: &Path, path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    let mut hash = Sha256::new();
    for piece in [version.as_bytes(), name.as_os_str().as_bytes()] {
        hash.update((piece.len() as u64).to_le_bytes());
        hash.update(piece);
    }
    for number in [meta.ino(), meta.len(), meta.mtime() as u64, meta.mtime_nsec() as u64] {
        hash.update(number.to_le_bytes());
    }
    Some(hex::encode(hash.finalize()))
}

/// Where a content lies, if that is one stretch of a file.
fn place(content: &Content) -> Option<(Source, (u64, u64))> {
    match content {
        Content::Range { file, path, offset, len } => {
            Some((Source::Open(Arc::clone(file), Arc::clone(path)), (*offset, *len)))
        }
        Content::Path { path, len } if *len >= WORTH_KEEPING => Some((Source::Named(path.clone()), (0, *len))),
        Content::Bytes(_) | Content::Sparse { .. } | Content::Path { .. } => None,
    }
}

fn place_of(record: &[u8]) -> (u64, u64) {
    let word = |at: usize| record.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    (word(0), word(8))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn range(path: &Path, offset: u64, len: u64) -> Content {
        Content::Range { file: Arc::new(File::open(path).unwrap()), path: path.into(), offset, len }
    }

    #[test]
    fn what_was_found_is_known_the_next_time_and_added_to() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let tar = dir.path().join("tar");
        fs::write(&tar, "0123456789").unwrap();
        let places = [(0, 3), (3, 4), (3, 5), (7, 1)];
        for (round, (offset, len)) in places.into_iter().enumerate() {
            let scans = Scans::<2>::open(&cache, "1");
            for (earlier, (offset, len)) in places.into_iter().enumerate() {
                let known = (earlier < round).then_some([earlier as u8, 9]);
                assert_eq!(scans.get(&range(&tar, offset, len)), known);
            }
            scans.put(&range(&tar, offset, len), [round as u8, 9]);
            scans.finish().unwrap();
        }
        assert_eq!(Scans::<2>::open(&cache, "2").get(&range(&tar, 0, 3)), None, "another version");
        assert_eq!(Scans::<2>::open(&cache, "1").get(&range(&tar, 0, 3)), Some([0, 9]));
    }

    #[test]
    fn a_file_that_is_another_one_by_now_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let tar = dir.path().join("tar");
        fs::write(&tar, "0123456789").unwrap();
        let scans = Scans::<1>::open(&cache, "1");
        scans.put(&range(&tar, 0, 3), [1]);
        scans.finish().unwrap();
        fs::write(dir.path().join("new"), "9876543210").unwrap();
        fs::rename(dir.path().join("new"), &tar).unwrap();
        assert_eq!(Scans::<1>::open(&cache, "1").get(&range(&tar, 0, 3)), None);
    }

    #[test]
    fn a_damaged_entry_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let tar = dir.path().join("tar");
        fs::write(&tar, "0123456789").unwrap();
        let scans = Scans::<1>::open(&cache, "1");
        scans.put(&range(&tar, 0, 3), [1]);
        scans.finish().unwrap();
        let bucket = cache.bucket(BUCKET);
        let path = bucket.path(&bucket.keys().unwrap()[0]).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[PLACE] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert_eq!(Scans::<1>::open(&cache, "1").get(&range(&tar, 0, 3)), None);
    }

    #[test]
    fn files_outside_of_the_cache_are_remembered_until_they_change() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::open(dir.path()).unwrap();
        let (tar, long) = (other.path().join("tar"), other.path().join("long"));
        fs::write(&tar, "0123456789").unwrap();
        fs::write(&long, vec![1; WORTH_KEEPING as usize]).unwrap();
        let file = || Content::Path { path: long.as_path().into(), len: WORTH_KEEPING };
        let keep = |result| {
            let scans = Scans::<1>::open(&cache, "1");
            let known = (scans.get(&range(&tar, 0, 3)), scans.get(&file()));
            scans.put(&range(&tar, 0, 3), [result]);
            scans.put(&file(), [result]);
            scans.put(&Content::from(&b"abc"[..]), [result]);
            scans.finish().unwrap();
            known
        };
        if !FileStamp::of(&tar).unwrap().is_settled() {
            assert_eq!(keep(1), (None, None), "they were written a moment ago");
            fs::write(&tar, "0123456789").unwrap();
            fs::write(&long, vec![1; WORTH_KEEPING as usize]).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(2100));
        assert_eq!(keep(2), (None, None));
        assert_eq!(keep(3), (Some([2]), Some([2])));
        fs::write(&tar, "0123456780").unwrap();
        assert_eq!(keep(4), (None, Some([3])));
    }

    #[test]
    fn nothing_is_remembered_of_a_file_that_changed_while_it_was_read() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::open(dir.path()).unwrap();
        let tar = other.path().join("tar");
        fs::write(&tar, "0123456789").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2100));
        let scans = Scans::<1>::open(&cache, "1");
        let content = range(&tar, 0, 3);
        assert_eq!(scans.get(&content), None);
        fs::write(&tar, "9876543210").unwrap();
        scans.put(&content, [1]);
        scans.finish().unwrap();
        assert!(cache.bucket(BUCKET).keys().unwrap().is_empty());
    }
}
