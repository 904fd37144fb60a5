//! A cache, or a part of it, as a tar: for machines that begin with an empty one, or have no network.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::{Cache, CacheError, Partial, check};
use crate::oci::Digest;

/// Read at a time, in bytes.
const CHUNK: usize = 256 << 10;

/// What an imported tar was good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Entries that were new.
    pub added: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries that were there already.
    pub present: u64,
}

impl Cache {
    /// Writes the entries of the buckets that `wanted` says yes to as a tar: sorted, without times and owners.
    ///
    /// # Errors
    /// When an entry cannot be read or `out` not be written.
    pub fn export(&self, out: impl Write, wanted: impl Fn(&str) -> bool) -> Result<u64, CacheError> {
        let mut entries = self.entries()?;
        entries.retain(|entry| wanted(&entry.bucket));
        entries.sort_by(|a, b| (&a.bucket, &a.key).cmp(&(&b.bucket, &b.key)));
        let failed = |e| CacheError::io("write", Path::new("the exported tar"), e);
        let mut tar = tar::Builder::new(out);
        let mut count = 0;
        for entry in entries {
            let path = self.dir().join(&entry.bucket).join(&entry.key);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(CacheError::io("read", &path, e)),
            };
            // Of this file, whatever the listing found under its name.
            let bytes = file.metadata().map_err(|e| CacheError::io("look at", &path, e))?.len();
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes);
            header.set_mode(0o444);
            let name = format!("{}/{}", entry.bucket, entry.key);
            tar.append_data(&mut header, name, file.take(bytes)).map_err(failed)?;
            count += 1;
        }
        tar.into_inner().and_then(|mut out| out.flush()).map_err(failed)?;
        Ok(count)
    }

    /// Takes the entries of an exported tar. Those that are there stay as they are. An entry that is named by its digest has it;
    /// what is wrong with the content of others is found when they are used, or by [`Cache::verify`].
    ///
    /// # Errors
    /// When the tar is none, is cut short, names something that cannot be an entry, or holds one that is not what its name says; or
    /// when the cache cannot be written. Entries before the one at fault stay.
    pub fn import(&self, tar: impl Read) -> Result<Imported, CacheError> {
        let failed = |e| CacheError::io("read", Path::new("the tar to import"), e);
        let mut imported = Imported::default();
        for entry in tar::Archive::new(tar).entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let name = entry.path_bytes().into_owned();
            let name = String::from_utf8(name).map_err(|e| CacheError::Key { key: e.to_string() })?;
            let wrong = || CacheError::Key { key: name.clone() };
            let (bucket, key) = name.split_once('/').ok_or_else(wrong)?;
            if !entry.header().entry_type().is_file() || !check::is_bucket(bucket) || bucket == super::PARTIAL {
                return Err(wrong());
            }
            let digest = match check::digest_prefix(bucket) {
                Some(prefix) => Some(check::digest(prefix, key).ok_or_else(wrong)?),
                None => None,
            };
            let bucket = self.bucket_named(bucket).ok_or_else(wrong)?;
            let mut bytes = None;
            bucket.insert(key, |partial: &mut Partial| -> Result<(), CacheError> {
                bytes = Some(copy(&mut entry, partial, &name, digest.as_ref())?);
                Ok(())
            })?;
            match bytes {
                Some(bytes) => (imported.added, imported.bytes) = (imported.added + 1, imported.bytes + bytes),
                None => imported.present += 1,
            }
        }
        Ok(imported)
    }
}

/// Copies an entry of the tar that is called `name`; returns its length.
fn copy(
    entry: &mut tar::Entry<'_, impl Read>,
    partial: &mut Partial,
    name: &str,
    digest: Option<&Digest>,
) -> Result<u64, CacheError> {
    let damaged = |reason: String| CacheError::Import { entry: name.to_owned(), reason };
    let wanted = entry.size();
    let mut hasher = digest.map(Digest::hasher);
    let mut buffer = vec![0; CHUNK];
    let mut copied = 0;
    loop {
        let read = match entry.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(damaged(e.to_string())),
        };
        partial.write_all(&buffer[..read]).map_err(|e| CacheError::write(partial.path(), e))?;
        if let Some(hasher) = &mut hasher {
            hasher.update(&buffer[..read]);
        }
        copied += read as u64;
    }
    // The end of the tar inside an entry looks like the entry's own.
    if copied != wanted {
        return Err(damaged(format!("the tar ends after {copied} of its {wanted} bytes")));
    }
    match (hasher.map(|hasher| hasher.finish()), digest) {
        (Some(found), Some(wanted)) if found != *wanted => Err(damaged(format!("its content has {found}"))),
        _ => Ok(copied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &Cache, bucket: &'static str, key: &str, bytes: &[u8]) {
        let fill = |p: &mut Partial| p.write_all(bytes).map_err(|e| CacheError::write(p.path(), e));
        cache.bucket(bucket).insert(key, fill).unwrap();
    }

    #[test]
    fn a_cache_travels() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (Cache::open(one.path()).unwrap(), Cache::open(two.path()).unwrap());
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(100));
        for (bucket, key) in [("packs-v1", "p/q"), ("packs-v1", long.as_str()), ("debian-v1", "roots/x")] {
            put(&one, bucket, key, key.as_bytes());
        }
        put(&two, "packs-v1", "p/q", b"p/q");
        let mut tar = Vec::new();
        assert_eq!(one.export(&mut tar, |bucket| bucket == "packs-v1").unwrap(), 2);
        let imported = two.import(&*tar).unwrap();
        assert_eq!(imported, Imported { added: 1, bytes: long.len() as u64, present: 1 });
        assert_eq!(std::fs::read(two.bucket("packs-v1").path(&long).unwrap()).unwrap(), long.as_bytes());
        assert!(two.bucket("debian-v1").keys().unwrap().is_empty());
        let mut again = Vec::new();
        two.export(&mut again, |_| true).unwrap();
        assert!(again == tar, "the same entries are the same tar");
    }

    #[test]
    fn a_tar_that_is_cut_short_leaves_no_half_entry() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (Cache::open(one.path()).unwrap(), Cache::open(two.path()).unwrap());
        put(&one, "debian-v1", "roots/a", &[1; 700]);
        put(&one, "debian-v1", "roots/b", &[2; 3000]);
        let mut tar = Vec::new();
        one.export(&mut tar, |_| true).unwrap();
        // The first entry takes a header and two blocks; the cut is in the content of the second.
        let cut = 3 * 512 + 512 + 1024;
        let error = two.import(&tar[..cut]).unwrap_err().to_string();
        assert!(error.contains("debian-v1/roots/b") && error.contains("1024 of its 3000 bytes"), "{error}");
        assert_eq!(two.bucket("debian-v1").keys().unwrap(), ["roots/a"]);
        assert_eq!(two.import(&*tar).unwrap(), Imported { added: 1, bytes: 3000, present: 1 });
    }

    #[test]
    fn an_entry_is_what_its_digest_says() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (Cache::open(one.path()).unwrap(), Cache::open(two.path()).unwrap());
        let good = Digest::sha256(b"good");
        for (bucket, key) in [("blobs-v1", good.key()), ("tars-v1", good.key()), ("urls-v1", good.hex().to_owned())] {
            let import = |content: &[u8]| {
                one.clear().unwrap();
                put(&one, bucket, &key, content);
                let mut tar = Vec::new();
                one.export(&mut tar, |_| true).unwrap();
                two.import(&*tar)
            };
            let error = import(b"evil").unwrap_err().to_string();
            assert!(error.contains(&format!("{bucket}/{key}")) && error.contains("has sha256:"), "{error}");
            assert_eq!(two.bucket(bucket).get(&key).unwrap(), None);
            assert_eq!(import(b"good").unwrap().added, 1);
        }
        put(&one, "blobs-v1", "sha256/x", b"x");
        let mut tar = Vec::new();
        one.export(&mut tar, |bucket| bucket == "blobs-v1").unwrap();
        assert!(matches!(two.import(&*tar), Err(CacheError::Key { .. })));
    }

    #[test]
    fn a_tar_that_is_none_of_ours_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        for name in
            ["file", "precious/x", "packs-v1/../../x", "packs-v1/.x", "partial-v1/x", "../packs-v1/x", "/packs-v1/x"]
        {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            // `set_path` refuses some of these.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, &b"x"[..]).unwrap();
            let error = cache.import(&*tar.into_inner().unwrap()).unwrap_err();
            assert!(matches!(error, CacheError::Key { .. }), "{name}: {error}");
        }
        assert!(!dir.path().join("x").exists());
        assert!(cache.import(&b"not a tar, but longer than a block of one".repeat(20)[..]).is_err());
    }
}
