//! Which files have the same content.
//!
//! Only files of the same length can be equal, so most are never looked at. Those that share their length are told
//! apart by their first bytes, and only those that share these too are read whole. Equal means an equal SHA-256.

use std::collections::HashMap;
use std::io;

use imgbuild_tree::FileContent;
use sha2::{Digest as _, Sha256};

use crate::reuse::Digest;
use crate::{Error, chunks, pipeline};

/// How much of a file is looked at first.
const PREFIX: u64 = 4096;

/// A file and what it must share with another one to be equal so far: its group, and the hash of what was read.
type Keyed = ((usize, Digest), usize);

/// For each file the index of the first one with the same content, which may be itself. Nothing is read if all digests are
/// known.
pub(crate) fn find<C: FileContent>(
    files: &[&C],
    digests: &[Option<Digest>],
    workers: usize,
    path: &(dyn Fn(usize) -> String + Sync),
) -> Result<Vec<usize>, Error> {
    let mut first_of: Vec<usize> = (0..files.len()).collect();
    if let Some(known) = digests.iter().copied().collect::<Option<Vec<_>>>() {
        let mut first = HashMap::with_capacity(known.len());
        for (file, digest) in known.into_iter().enumerate() {
            first_of[file] = *first.entry(digest).or_insert(file);
        }
        return Ok(first_of);
    }
    let lens: Vec<u64> = files.iter().map(|f| f.len()).collect();
    let same_len = groups((0..files.len()).map(|i| (lens[i], i)).collect());
    let same_prefix = groups(hashed(files, workers, path, same_len, PREFIX)?);
    let (whole, longer): (Vec<_>, Vec<_>) = same_prefix.into_iter().partition(|group| lens[group[0]] <= PREFIX);
    let equal = groups(hashed(files, workers, path, longer, u64::MAX)?);
    for group in whole.iter().chain(&equal) {
        for file in group {
            first_of[*file] = group[0];
        }
    }
    Ok(first_of)
}

/// The groups of at least two files with the same key, each ascending.
fn groups<K: Ord>(mut keyed: Vec<(K, usize)>) -> Vec<Vec<usize>> {
    keyed.sort_unstable();
    let same = keyed.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
    same.map(|group| group.iter().map(|(_, file)| *file).collect()).collect()
}

/// Hashes the beginning of each file; the number of its group is part of a file's key.
fn hashed<C: FileContent>(
    files: &[&C],
    workers: usize,
    path: &(dyn Fn(usize) -> String + Sync),
    groups: Vec<Vec<usize>>,
    limit: u64,
) -> Result<Vec<Keyed>, Error> {
    let count = groups.iter().map(Vec::len).sum();
    let worker = || {
        let mut buffer = Vec::new();
        move |(group, file): (usize, usize)| {
            let hash = hash(files[file], limit, &mut buffer);
            let hash = hash.map_err(|source| Error::Read { path: path(file), source })?;
            Ok(((group, hash), file))
        }
    };
    let jobs = groups.iter().enumerate().flat_map(|(number, group)| group.iter().map(move |file| (number, *file)));
    let mut keyed = Vec::with_capacity(count);
    let workers = (0..workers.min(count)).map(|_| worker()).collect();
    pipeline::run(workers, jobs, |result| {
        keyed.push(result);
        Ok(())
    })?;
    Ok(keyed)
}

fn hash<C: FileContent>(file: &C, limit: u64, buffer: &mut Vec<u8>) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    chunks::read(file, limit, buffer, |chunk| hash.update(chunk))?;
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Counts the bytes that are read.
    struct Counting(Vec<u8>, AtomicU64);

    impl FileContent for Counting {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.1.fetch_add(buf.len() as u64, Ordering::SeqCst);
            buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
            Ok(())
        }
    }

    #[test]
    fn files_are_read_no_further_than_it_takes_to_tell_them_apart() {
        let file = |first: u8, last: u8, len: usize| {
            let mut bytes = vec![b'x'; len];
            bytes[0] = first;
            bytes[len - 1] = last;
            Counting(bytes, AtomicU64::new(0))
        };
        let files = [
            file(1, 1, 400_000),
            file(2, 1, 400_000), // another beginning
            file(1, 2, 400_000), // another end
            file(1, 1, 400_000), // the first one again
            file(1, 1, 400_001), // a length of its own
            file(1, 1, 4096),
            file(1, 2, 4096),
            file(1, 2, 4096), // the one before again
        ];
        let contents: Vec<_> = files.iter().collect();
        let first_of = find(&contents, &[None; 8], 2, &|_| unreachable!()).unwrap();
        assert_eq!(first_of, [0, 1, 2, 0, 4, 5, 6, 6]);
        let read: Vec<_> = files.iter().map(|f| f.1.load(Ordering::SeqCst)).collect();
        let whole = 4096 + 400_000;
        assert_eq!(read, [whole, 4096, whole, whole, 0, 4096, 4096, 4096]);
    }

    #[test]
    fn nothing_is_read_where_all_digests_are_known() {
        let file = || Counting(vec![1, 2, 3], AtomicU64::new(0));
        let files = [file(), file(), file()];
        let contents: Vec<_> = files.iter().collect();
        let known = [Some([1; 32]), Some([2; 32]), Some([1; 32])];
        assert_eq!(find(&contents, &known, 2, &|_| unreachable!()).unwrap(), [0, 1, 0]);
        assert!(files.iter().all(|f| f.1.load(Ordering::SeqCst) == 0));
        // One that is not known must be compared with all.
        let known = [Some([1; 32]), None, Some([1; 32])];
        assert_eq!(find(&contents, &known, 2, &|_| unreachable!()).unwrap(), [0, 0, 0]);
    }
}
