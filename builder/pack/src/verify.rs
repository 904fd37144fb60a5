//! Looking after packs.

use std::fs::File;
use std::path::PathBuf;

use imgbuild_layers::cache::{Cache, CacheError};

use crate::file;
use crate::store::BUCKET;

/// Reads every block of every pack, and deletes packs that are not whole; returns their paths. `progress` gets the bytes read
/// so far.
///
/// # Errors
/// When the bucket cannot be listed, or a damaged pack not be deleted.
pub fn verify(cache: &Cache, mut progress: impl FnMut(u64)) -> Result<Vec<PathBuf>, CacheError> {
    let bucket = cache.bucket(BUCKET);
    let (mut damaged, mut done, mut buffer) = (Vec::new(), 0, Vec::new());
    for key in bucket.keys()? {
        let path = bucket.path(&key)?;
        let Ok(file) = File::open(&path) else { continue };
        let mut places = Vec::new();
        let mut good = file::read_index(&file, |_, place| places.push(place)).is_ok();
        for place in places {
            good = good && file::read_block(&file, place, &mut buffer).is_ok();
            done += u64::from(place.len());
            progress(done);
        }
        if !good {
            bucket.remove(&key)?;
            damaged.push(path);
        }
    }
    Ok(damaged)
}

#[cfg(test)]
mod tests {
    use imgbuild_squashfs::{BlockStore, Compression, Packed};
    use imgbuild_tree::Origin;

    use super::*;
    use crate::Pack;

    #[test]
    fn damage_is_found_in_blocks_that_nobody_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let pack = Pack::open(&cache, Compression::None, 4096, &[]).unwrap();
        for (key, origin) in [(1, 0), (2, 1)] {
            pack.save(&[key; 32], Origin(origin), Packed::Raw(&[key; 1000]));
        }
        assert!(pack.finish(u64::MAX).failed.is_none());
        let mut read = 0;
        assert!(verify(&cache, |bytes| read = bytes).unwrap().is_empty());
        assert_eq!(read, 2000);
        let bucket = cache.bucket(BUCKET);
        let path = bucket.path(&bucket.keys().unwrap()[1]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[500] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(verify(&cache, |_| {}).unwrap(), [path]);
        assert_eq!(bucket.keys().unwrap().len(), 1);
    }
}
