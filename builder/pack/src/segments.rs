//! An initrd's compressed segments in the cache.

use std::io::Write;

use imgbuild_initramfs::SegmentStore;
use imgbuild_layers::cache::{Bucket, Cache, CacheError};
use xxhash_rust::xxh3::xxh3_64;

/// The bucket of segments: each is followed by its XXH3-64, and checked when it is read.
pub const BUCKET: &str = "segments-v1";

/// Segments by what is in them.
#[derive(Debug)]
pub struct Segments {
    bucket: Bucket,
}

impl Segments {
    /// Those of a cache.
    #[must_use]
    pub fn open(cache: &Cache) -> Self {
        Self { bucket: cache.bucket(BUCKET) }
    }

    fn keep(&self, key: &str, segment: &[u8]) -> Result<(), CacheError> {
        let mut draft = self.bucket.draft()?;
        draft.write_all(segment).map_err(|e| CacheError::write(draft.path(), e))?;
        draft.write_all(&xxh3_64(segment).to_le_bytes()).map_err(|e| CacheError::write(draft.path(), e))?;
        draft.commit_as(&self.bucket, key)?;
        Ok(())
    }
}

impl SegmentStore for Segments {
    fn load(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.bucket.get(key).ok()??;
        let mut bytes = std::fs::read(path).ok()?;
        let whole = bytes.split_last_chunk().is_some_and(|(segment, sum)| xxh3_64(segment) == u64::from_le_bytes(*sum));
        if !whole {
            let _ = self.bucket.remove(key);
            return None;
        }
        bytes.truncate(bytes.len() - 8);
        Some(bytes)
    }

    fn save(&self, key: &str, segment: &[u8]) {
        // Without it the next build compresses again.
        let _ = self.keep(key, segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_comes_back_or_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(&Cache::open(dir.path()).unwrap());
        assert_eq!(segments.load("a"), None);
        segments.save("a", b"segment");
        assert_eq!(segments.load("a").unwrap(), b"segment");
        let path = segments.bucket.path("a").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"segmenT12345678").unwrap();
        assert_eq!(segments.load("a"), None);
        assert!(!path.exists(), "what is damaged is deleted");
    }
}
