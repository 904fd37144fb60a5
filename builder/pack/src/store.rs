//! Packs in the cache as a squashfs writer's store of blocks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, FileTimes};
use std::io::BufWriter;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use imgbuild_layers::cache::{Bucket, Cache, CacheError, Partial};
use imgbuild_squashfs::{BlockKey, BlockStore, Compression, Form, Outline, Packed};
use imgbuild_tree::Origin;
use sha2::{Digest as _, Sha256};

use crate::file::{self, Place, Writer};

/// The bucket of packs.
pub const BUCKET: &str = "packs-v1";
/// Files that are open at once; a process may have 1024 by default.
const MOST_FILES: usize = 400;

/// Blocks of earlier builds, and those of this one that are new.
pub struct Pack {
    bucket: Bucket,
    parameters: String,
    layers: Vec<String>,
    files: Vec<Known>,
    places: HashMap<BlockKey, (u32, Place)>,
    drafts: Mutex<Drafts>,
    reused: AtomicU64,
}

/// A pack of an earlier build.
struct Known {
    key: String,
    file: File,
    used: AtomicBool,
    damaged: AtomicBool,
}

/// The packs of this build.
#[derive(Default)]
struct Drafts {
    open: BTreeMap<Origin, Writer<BufWriter<Partial>>>,
    blocks: u64,
    bytes: u64,
    /// The first thing that went wrong; nothing more is kept after it.
    failed: Option<CacheError>,
}

/// What a pack was good for.
#[derive(Debug, Default)]
pub struct Summary {
    /// Bytes taken from earlier builds, as stored.
    pub reused: u64,
    /// Blocks kept for later ones.
    pub added: u64,
    /// Their bytes.
    pub added_bytes: u64,
    /// Packs that turned out to be damaged and were deleted; what was in them was packed again where it was needed.
    pub damaged: Vec<String>,
    /// Bytes of packs that were deleted to keep to the limit.
    pub evicted: u64,
    /// Why nothing, or not everything, was kept for later builds.
    pub failed: Option<CacheError>,
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack")
            .field("parameters", &self.parameters)
            .field("blocks", &self.places.len())
            .finish_non_exhaustive()
    }
}

impl Pack {
    /// Looks up what the cache has for this compression and block size. `layers` are the digests of the layers, by
    /// [`Origin`]: they name what is kept of each. Packs that cannot be read count for nothing.
    ///
    /// # Errors
    /// When the bucket cannot be listed.
    pub fn open(
        cache: &Cache,
        compression: Compression,
        block_size: u32,
        layers: &[String],
    ) -> Result<Self, CacheError> {
        let bucket = cache.bucket(BUCKET);
        let parameters = short(format!("{}, {block_size}", compression.fingerprint()).as_bytes());
        let mut pack = Self {
            layers: layers.iter().map(|digest| short(digest.as_bytes())).collect(),
            files: Vec::new(),
            places: HashMap::new(),
            drafts: Mutex::default(),
            reused: AtomicU64::new(0),
            parameters,
            bucket,
        };
        let prefix = format!("{}/", pack.parameters);
        let mut keys: Vec<(SystemTime, String)> = Vec::new();
        for key in pack.bucket.keys()?.into_iter().filter(|key| key.starts_with(&prefix)) {
            let used = std::fs::metadata(pack.bucket.path(&key)?).and_then(|meta| meta.modified());
            keys.push((used.unwrap_or(SystemTime::UNIX_EPOCH), key));
        }
        // Those used last, if there are too many.
        keys.sort_by(|a, b| b.cmp(a));
        for (_, key) in keys.into_iter().take(MOST_FILES) {
            pack.add_known(key)?;
        }
        Ok(pack)
    }

    fn add_known(&mut self, key: String) -> Result<(), CacheError> {
        let Ok(file) = File::open(self.bucket.path(&key)?) else { return Ok(()) };
        // Bounded by MOST_FILES.
        let number = self.files.len() as u32;
        let read = file::read_index(&file, |block, place| {
            self.places.entry(block).or_insert((number, place));
        });
        let damaged = AtomicBool::new(read.is_err());
        self.files.push(Known { key, file, used: AtomicBool::new(false), damaged });
        Ok(())
    }

    /// Whether no earlier build has left anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Keeps what is new, and of all packs no more than `limit` bytes: those that were used longest ago go, but none that this
    /// build used. The image is whole without it, so nothing here is an error; the summary says what went wrong.
    #[must_use]
    pub fn finish(self, limit: u64) -> Summary {
        let drafts = self.drafts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut summary = Summary {
            reused: self.reused.into_inner(),
            added: drafts.blocks,
            added_bytes: drafts.bytes,
            failed: drafts.failed,
            damaged: Vec::new(),
            evicted: 0,
        };
        let now = FileTimes::new().set_modified(SystemTime::now());
        for known in &self.files {
            if known.damaged.load(Ordering::Relaxed) {
                let _ = self.bucket.remove(&known.key);
                summary.damaged.push(known.key.clone());
            } else if known.used.load(Ordering::Relaxed) {
                // When it was used last is what pruning goes by; somebody else's file may not be touched.
                let _ = known.file.set_times(now);
            }
        }
        if summary.failed.is_some() {
            return summary;
        }
        let mut fresh = Vec::new();
        for (origin, writer) in drafts.open {
            let layer = self.layers.get(usize::from(origin.0)).map_or("builder", String::as_str);
            let kept = keep(&self.bucket, writer, |content| format!("{}/{layer}-{content}", self.parameters));
            match kept {
                Ok(key) => fresh.push(key),
                Err(error) => {
                    summary.failed = Some(error);
                    break;
                }
            }
        }
        let used = self.files.iter().filter(|known| known.used.load(Ordering::Relaxed)).map(|known| &known.key);
        summary.evicted = evict(&self.bucket, &used.chain(&fresh).collect(), limit).unwrap_or(0);
        summary
    }
}

/// Deletes packs until no more than `limit` bytes are left, or only those to be spared; how many bytes went.
fn evict(bucket: &Bucket, spared: &BTreeSet<&String>, limit: u64) -> Result<u64, CacheError> {
    let mut packs = Vec::new();
    for key in bucket.keys()? {
        if let Ok(meta) = std::fs::metadata(bucket.path(&key)?) {
            packs.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), key, meta.len()));
        }
    }
    packs.sort();
    let mut left: u64 = packs.iter().map(|(.., len)| len).sum();
    let mut gone = 0;
    for (_, key, len) in packs {
        if left <= limit {
            break;
        }
        if !spared.contains(&key) {
            bucket.remove(&key)?;
            (left, gone) = (left - len, gone + len);
        }
    }
    Ok(gone)
}

fn keep(
    bucket: &Bucket,
    writer: Writer<BufWriter<Partial>>,
    key: impl FnOnce(String) -> String,
) -> Result<String, CacheError> {
    let failed = |e| CacheError::write(std::path::Path::new(BUCKET), e);
    let (out, index) = writer.finish().map_err(failed)?;
    let partial = out.into_inner().map_err(|e| failed(e.into_error()))?;
    let key = key(short(&index));
    partial.commit_as(bucket, &key)?;
    Ok(key)
}

/// Half a SHA-256, for names.
fn short(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..16])
}

impl Pack {
    fn read(&self, key: &BlockKey, read: impl FnOnce(&File, Place) -> std::io::Result<Form>) -> Option<Form> {
        let (number, place) = self.places.get(key)?;
        let known = self.files.get(*number as usize)?;
        match read(&known.file, *place) {
            Ok(form) => {
                known.used.store(true, Ordering::Relaxed);
                self.reused.fetch_add(u64::from(place.len()), Ordering::Relaxed);
                Some(form)
            }
            Err(_) => {
                known.damaged.store(true, Ordering::Relaxed);
                None
            }
        }
    }
}

impl BlockStore for Pack {
    fn outline(&self, key: &BlockKey) -> Option<Outline> {
        Some(self.places.get(key)?.1.outline())
    }

    fn load(&self, key: &BlockKey, buffer: &mut Vec<u8>) -> Option<Form> {
        self.read(key, |file, place| file::read_block(file, place, buffer))
    }

    fn load_exact(&self, key: &BlockKey, to: &mut [u8]) -> Option<Form> {
        self.read(key, |file, place| file::read_block_exact(file, place, to))
    }

    fn save(&self, key: &BlockKey, origin: Origin, block: Packed<'_>) {
        let mut drafts = self.drafts.lock().unwrap_or_else(PoisonError::into_inner);
        if drafts.failed.is_none()
            && let Err(error) = drafts.add(&self.bucket, key, origin, block)
        {
            // What was written so far is of no use to anybody, and its space may be needed.
            drafts.open.clear();
            drafts.failed = Some(error);
        }
    }
}

impl Drafts {
    fn add(&mut self, bucket: &Bucket, key: &BlockKey, origin: Origin, block: Packed<'_>) -> Result<(), CacheError> {
        let failed = |e| CacheError::write(std::path::Path::new(BUCKET), e);
        let writer = match self.open.entry(origin) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(none) => {
                none.insert(Writer::new(BufWriter::with_capacity(1 << 18, bucket.draft()?)).map_err(failed)?)
            }
        };
        writer.add(key, block).map_err(failed)?;
        self.blocks += 1;
        self.bytes += match block {
            Packed::Hole => 0,
            Packed::Compressed(bytes) | Packed::Raw(bytes) => bytes.len() as u64,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use imgbuild_squashfs::fingerprint;

    use super::*;

    const ZSTD: Compression = Compression::Zstd { level: 9 };

    struct Place {
        _dir: tempfile::TempDir,
        cache: Cache,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        Place { cache, _dir: dir }
    }

    fn open(place: &Place, compression: Compression, block_size: u32) -> Pack {
        Pack::open(&place.cache, compression, block_size, &["sha256:aa".into(), "sha256:bb".into()]).unwrap()
    }

    fn fill(place: &Place, keys: impl IntoIterator<Item = u8>) -> Summary {
        let pack = open(place, ZSTD, 1 << 20);
        for key in keys {
            pack.save(&[key; 32], Origin(u16::from(key % 2)), Packed::Compressed(&[key; 100]));
        }
        pack.finish(u64::MAX)
    }

    fn files(place: &Place) -> Vec<String> {
        place.cache.bucket(BUCKET).keys().unwrap()
    }

    fn load(pack: &Pack, key: u8) -> Option<Vec<u8>> {
        let mut buffer = b"old".to_vec();
        pack.load(&[key; 32], &mut buffer).map(|_| buffer)
    }

    #[test]
    fn what_one_build_kept_another_finds_layer_by_layer() {
        let place = place();
        let summary = fill(&place, 0..5);
        assert_eq!((summary.added, summary.added_bytes), (5, 500));
        assert!(summary.failed.is_none() && summary.damaged.is_empty());
        assert_eq!(files(&place).len(), 2, "one for each layer: {:?}", files(&place));
        let pack = open(&place, ZSTD, 1 << 20);
        let outline = Outline { form: Form::Compressed, len: 100, fingerprint: fingerprint(&[3; 100]) };
        assert_eq!((pack.outline(&[3; 32]), pack.outline(&[9; 32])), (Some(outline), None));
        assert_eq!(load(&pack, 3), Some(vec![3; 100]));
        assert_eq!(load(&pack, 9), None);
        let summary = pack.finish(u64::MAX);
        assert_eq!((summary.reused, summary.added), (100, 0));
        assert_eq!(files(&place).len(), 2, "nothing new, no new file");
        // Other parameters are another world.
        assert_eq!(load(&open(&place, Compression::Zstd { level: 3 }, 1 << 20), 3), None);
        assert_eq!(load(&open(&place, ZSTD, 1 << 17), 3), None);
    }

    #[test]
    fn the_same_blocks_make_the_same_file() {
        let place = place();
        let (one, two) = (open(&place, ZSTD, 1 << 20), open(&place, ZSTD, 1 << 20));
        for pack in [&one, &two] {
            pack.save(&[1; 32], Origin(0), Packed::Raw(b"x"));
        }
        assert!(one.finish(u64::MAX).failed.is_none() && two.finish(u64::MAX).failed.is_none());
        assert_eq!(files(&place).len(), 1);
        let partial = place.cache.dir().join("partial-v1");
        assert_eq!(std::fs::read_dir(partial).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_damaged_pack_is_deleted_and_the_rest_stays() {
        let place = place();
        fill(&place, [0, 2]);
        fill(&place, [1, 3]);
        let bucket = place.cache.bucket(BUCKET);
        let broken = files(&place).remove(0);
        let path = bucket.path(&broken).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let pack = open(&place, ZSTD, 1 << 20);
        let found = (0..4).filter(|key| load(&pack, *key).is_some()).count();
        assert_eq!(found, 3);
        assert_eq!(pack.finish(u64::MAX).damaged, std::slice::from_ref(&broken));
        assert!(!files(&place).contains(&broken));
        // One without an index is not even asked.
        let cut = bucket.path(&files(&place)[0]).unwrap();
        std::fs::remove_file(&cut).unwrap();
        std::fs::write(&cut, b"imgpack1").unwrap();
        assert_eq!(open(&place, ZSTD, 1 << 20).finish(u64::MAX).damaged.len(), 1);
        assert!(files(&place).is_empty());
    }

    #[test]
    fn packs_that_nobody_used_for_long_go_when_there_are_too_many() {
        let place = place();
        for key in [0, 2, 4, 6] {
            fill(&place, [key]);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let size = std::fs::metadata(place.cache.bucket(BUCKET).path(&files(&place)[0]).unwrap()).unwrap().len();
        let pack = open(&place, ZSTD, 1 << 20);
        assert!(load(&pack, 0).is_some());
        pack.save(&[8; 32], Origin(0), Packed::Compressed(&[8; 100]));
        assert_eq!(pack.finish(3 * size).evicted, 2 * size);
        let pack = open(&place, ZSTD, 1 << 20);
        let left: Vec<u8> = (0..9).filter(|key| load(&pack, *key).is_some()).collect();
        assert_eq!(left, [0, 6, 8], "used, newest, new");
        // What a build uses stays, however little is wanted.
        assert_eq!(pack.finish(0).evicted, 0);
    }

    #[test]
    fn a_build_that_is_killed_leaves_nothing_that_counts() {
        let place = place();
        let pack = open(&place, ZSTD, 1 << 20);
        pack.save(&[1; 32], Origin(0), Packed::Raw(b"x"));
        drop(pack);
        assert!(files(&place).is_empty());
    }

    #[test]
    fn a_cache_that_cannot_be_written_costs_the_build_nothing() {
        let place = place();
        let pack = open(&place, ZSTD, 1 << 20);
        std::fs::remove_dir_all(place.cache.dir().join("partial-v1")).unwrap();
        pack.save(&[1; 32], Origin(0), Packed::Raw(b"x"));
        pack.save(&[2; 32], Origin(0), Packed::Raw(b"x"));
        assert!(pack.finish(u64::MAX).failed.is_some());
    }
}
