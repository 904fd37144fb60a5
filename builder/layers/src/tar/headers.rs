//! What the headers of a tar say, kept in the cache, so that they need not be looked for in all of it again.
//!
//! The bucket `headers-v1` holds an entry for each tar that was read, by its [`FileStamp`]: a tar that was made anew or written to
//! has another one. An entry is the list of what the tar holds, in the archive's order and in postcard's format
//! (<https://postcard.jamesmunns.com/wire-format>), with its XXH3 behind it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use imgbuild_tree::{Content, Entry, EntryKind, Extent, Metadata, Origin};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{TarError, read_tar};
use crate::FileStamp;
use crate::cache::{Bucket, Cache, CacheError};

const BUCKET: &str = "headers-v1";
/// Fewer entries are read as fast from the archive.
const WORTH_KEEPING: usize = 64;

/// As [`read_tar`], and what it gives is kept for later: `at` is where the file lies, which messages may call by another name.
///
/// # Errors
/// As [`read_tar`]; what the cache cannot keep is read again.
pub(crate) fn read_tar_known(
    file: Arc<File>,
    path: Arc<Path>,
    at: &Path,
    cache: &Cache,
) -> Result<Vec<Entry<Content>>, TarError> {
    // Entries of the cache never change; of another file a change could go unseen that follows the one before it closely.
    let lasting = |stamp: &FileStamp| at.starts_with(cache.dir()) || stamp.is_settled();
    let stamp = FileStamp::of_file(&file).ok().filter(lasting);
    let (bucket, key) = (cache.bucket(BUCKET), stamp.map(|stamp| stamp.key("headers")));
    let kept = key.as_ref().and_then(|key| std::fs::read(bucket.path(key).ok()?).ok());
    if let Some(entries) = kept.and_then(|bytes| decode(&bytes, &file, &path)) {
        return Ok(entries);
    }
    let entries = read_tar(Arc::clone(&file), path)?;
    let same = |before| FileStamp::of_file(&file).is_ok_and(|now| now.is_same(&before));
    if let (Some(key), true) = (key, entries.len() >= WORTH_KEEPING && stamp.is_some_and(same)) {
        // Then they are looked for again.
        let _ = keep(&bucket, &key, &entries);
    }
    Ok(entries)
}

fn keep(bucket: &Bucket, key: &str, entries: &[Entry<Content>]) -> Result<(), CacheError> {
    let Some(bytes) = encode(entries) else { return Ok(()) };
    bucket.remove(key)?;
    bucket.insert(key, |partial| partial.write_all(&bytes).map_err(|e| CacheError::write(partial.path(), e))).map(drop)
}

/// An entry of the archive.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    path: &'a [u8],
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: i64,
    #[serde(borrow)]
    xattrs: Vec<(&'a [u8], &'a [u8])>,
    #[serde(borrow)]
    kind: StoredKind<'a>,
}

#[derive(Serialize, Deserialize)]
enum StoredKind<'a> {
    Directory,
    Empty,
    Range { offset: u64, len: u64 },
    Sparse { extents: Vec<(u64, u64, u64)>, len: u64 },
    Symlink(&'a [u8]),
    HardLink(&'a [u8]),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Whiteout,
    Opaque,
}

/// Nothing if one of the entries is none that archives have.
fn encode(entries: &[Entry<Content>]) -> Option<Vec<u8>> {
    let stored = entries.iter().map(|entry| {
        let meta = &entry.meta;
        Some(Stored {
            path: &entry.path,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            xattrs: meta.xattrs.iter().map(|(name, value)| (&**name, &**value)).collect(),
            kind: match &entry.kind {
                EntryKind::Directory => StoredKind::Directory,
                EntryKind::Regular(Content::Range { offset, len, .. }) => {
                    StoredKind::Range { offset: *offset, len: *len }
                }
                EntryKind::Regular(Content::Sparse { extents, len, .. }) => {
                    let extents = extents.iter().map(|e| (e.logical, e.physical, e.len)).collect();
                    StoredKind::Sparse { extents, len: *len }
                }
                EntryKind::Regular(Content::Bytes(bytes)) if bytes.is_empty() => StoredKind::Empty,
                EntryKind::Symlink(target) => StoredKind::Symlink(target),
                EntryKind::HardLink(target) => StoredKind::HardLink(target),
                EntryKind::CharDevice(major, minor) => StoredKind::CharDevice(*major, *minor),
                EntryKind::BlockDevice(major, minor) => StoredKind::BlockDevice(*major, *minor),
                EntryKind::Fifo => StoredKind::Fifo,
                EntryKind::Whiteout => StoredKind::Whiteout,
                EntryKind::Opaque => StoredKind::Opaque,
                EntryKind::Regular(Content::Bytes(_) | Content::Path { .. })
                | EntryKind::Parent
                | EntryKind::Socket => return None,
            },
        })
    });
    let stored: Vec<Stored<'_>> = stored.collect::<Option<_>>()?;
    let mut bytes = postcard::to_stdvec(&stored).ok()?;
    bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
    Some(bytes)
}

/// Nothing if they are damaged.
fn decode(bytes: &[u8], file: &Arc<File>, path: &Arc<Path>) -> Option<Vec<Entry<Content>>> {
    let (bytes, sum) = bytes.split_last_chunk::<8>()?;
    if xxh3_64(bytes) != u64::from_le_bytes(*sum) {
        return None;
    }
    let stored: Vec<Stored<'_>> = postcard::from_bytes(bytes).ok()?;
    let empty = Content::from(&b""[..]);
    let entries = stored.into_iter().map(|entry| Entry {
        path: entry.path.into(),
        meta: Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            origin: Origin::BUILDER,
        },
        kind: match entry.kind {
            StoredKind::Directory => EntryKind::Directory,
            StoredKind::Empty => EntryKind::Regular(empty.clone()),
            StoredKind::Range { offset, len } => {
                EntryKind::Regular(Content::Range { file: Arc::clone(file), path: Arc::clone(path), offset, len })
            }
            StoredKind::Sparse { extents, len } => {
                let extents = extents.into_iter().map(|(logical, physical, len)| Extent { logical, physical, len });
                let (file, path) = (Arc::clone(file), Arc::clone(path));
                EntryKind::Regular(Content::Sparse { file, path, extents: extents.collect(), len })
            }
            StoredKind::Symlink(target) => EntryKind::Symlink(target.into()),
            StoredKind::HardLink(target) => EntryKind::HardLink(target.into()),
            StoredKind::CharDevice(major, minor) => EntryKind::CharDevice(major, minor),
            StoredKind::BlockDevice(major, minor) => EntryKind::BlockDevice(major, minor),
            StoredKind::Fifo => EntryKind::Fifo,
            StoredKind::Whiteout => EntryKind::Whiteout,
            StoredKind::Opaque => EntryKind::Opaque,
        },
    });
    Some(entries.collect())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// An archive of every kind of entry, by GNU tar.
    fn archive(folder: &Path, name: &str) -> std::path::PathBuf {
        let script = r#"
            mkdir tree && cd tree
            for i in $(seq 80); do echo "$i" > "file $i"; done
            ln -s 'file 1' link; ln 'file 2' hard; mkfifo fifo; mkdir -m 1777 folder
            touch empty .wh.gone folder/.wh..wh..opq; truncate -s 3M sparse; echo end >> sparse
            mknod null c 1 3; mknod disk b 7 0; setfattr -n user.note -v value 'file 3'
            tar --sparse --xattrs --xattrs-include='*' --sort=name -cf "../$0" .
            rm -rf ../tree"#;
        let status = Command::new("bash").args(["-ec", script, name]).current_dir(folder).status().unwrap();
        assert!(status.success());
        folder.join(name)
    }

    fn read(at: &Path, cache: &Cache) -> Vec<Entry<Content>> {
        read_tar_known(Arc::new(File::open(at).unwrap()), Path::new("a.tar").into(), at, cache).unwrap()
    }

    /// All that counts but which open file it is.
    fn shown(entries: &[Entry<Content>]) -> Vec<String> {
        let content = |content: &Content| match content {
            Content::Range { path, offset, len, .. } => format!("{} {offset} {len}", path.display()),
            Content::Sparse { path, extents, len, .. } => format!("{} {extents:?} {len}", path.display()),
            other => format!("{other:?}"),
        };
        let kind = |entry: &Entry<Content>| match &entry.kind {
            EntryKind::Regular(file) => content(file),
            other => format!("{other:?}"),
        };
        entries.iter().map(|entry| format!("{:?} {:?} {}", entry.path, entry.meta, kind(entry))).collect()
    }

    #[test]
    fn what_was_kept_is_what_was_read() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        // In the cache's folder, so that nobody has to wait until its time stamp tells something.
        let tar = archive(temp.path(), "all.tar");
        let read_once = read(&tar, &cache);
        let keys = cache.bucket(BUCKET).keys().unwrap();
        assert_eq!(keys.len(), 1);
        let kinds = |wanted: fn(&EntryKind<Content>) -> bool| read_once.iter().filter(|e| wanted(&e.kind)).count();
        assert_eq!(kinds(|kind| matches!(kind, EntryKind::Regular(Content::Sparse { .. }))), 1);
        assert_eq!(kinds(|kind| matches!(kind, EntryKind::Whiteout | EntryKind::Opaque)), 2);

        let kept = std::fs::read(cache.bucket(BUCKET).path(&keys[0]).unwrap()).unwrap();
        let file = Arc::new(File::open(&tar).unwrap());
        let decoded = decode(&kept, &file, &Path::new("a.tar").into()).unwrap();
        assert_eq!(shown(&decoded), shown(&read_once));
        assert_eq!(shown(&read(&tar, &cache)), shown(&read_once));
    }

    #[test]
    fn what_is_kept_is_used_and_what_is_damaged_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let tar = archive(temp.path(), "all.tar");
        let all = read(&tar, &cache);
        let key = cache.bucket(BUCKET).keys().unwrap().remove(0);
        let path = cache.bucket(BUCKET).path(&key).unwrap();

        let fewer = encode(&all[..70]).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &fewer).unwrap();
        assert_eq!(read(&tar, &cache).len(), 70);

        for at in [0, fewer.len() / 2, fewer.len() - 1] {
            let mut damaged = fewer.clone();
            damaged[at] ^= 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(shown(&read(&tar, &cache)), shown(&all));
        }
    }

    #[test]
    fn another_archive_of_the_same_name_is_read() {
        let (temp, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::open(temp.path()).unwrap();
        let tar = archive(elsewhere.path(), "all.tar");
        let one = read(&tar, &cache).len();
        let script = "touch more && tar -rf all.tar more";
        assert!(Command::new("bash").args(["-ec", script]).current_dir(elsewhere.path()).status().unwrap().success());
        assert_eq!(read(&tar, &cache).len(), one + 1);
    }
}
