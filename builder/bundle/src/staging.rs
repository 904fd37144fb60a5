//! A bundle in the making: written under another name, renamed when it is whole.
//!
//! A build that dies leaves a hidden folder; the next build into the same place takes it away. Each builder holds a lock
//! on a file in its own folder, so that two builds at once never touch each other's.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::Serialize;

use crate::bundle::{Bundle, hash};
use crate::manifest::{self, FileEntry, Manifest};
use crate::{Error, sums};

const PREFIX: &str = ".imgbuild-";
const SUFFIX: &str = ".partial";
const LOCK: &str = ".lock";

/// A bundle in the making. Dropped without [`Staging::finish`] it is deleted.
#[derive(Debug)]
pub struct Staging {
    out: PathBuf,
    folder: tempfile::TempDir,
    /// Files that were hashed, as they were then: a root is large, and asked for several times.
    hashed: Mutex<BTreeMap<String, (Stamp, FileEntry)>>,
    _lock: File,
}

/// Length and time of a file.
type Stamp = (u64, SystemTime);

impl Staging {
    /// Begins a bundle in the folder `out`, which is made if it is missing, and takes away what dead builds left there.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn begin(out: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { action: "cannot write", path: out.to_owned(), source };
        std::fs::create_dir_all(out).map_err(failed)?;
        // Held until our own folder is locked, so that nobody takes it for a dead one meanwhile.
        let door = File::open(out).map_err(failed)?;
        door.lock().map_err(failed)?;
        sweep(out);
        let folder = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempdir_in(out).map_err(failed)?;
        let lock = File::create(folder.path().join(LOCK)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Self { out: out.to_owned(), folder, hashed: Mutex::default(), _lock: lock })
    }

    /// The folder it lies in until it is finished.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of a file in the making.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.forget(name);
        let path = self.file(name);
        std::fs::write(&path, bytes).map_err(|source| Error::Io { action: "cannot write", path, source })
    }

    /// Makes a file to be written piece by piece.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self, name: &str) -> Result<File, Error> {
        self.forget(name);
        let path = self.file(name);
        File::create(&path).map_err(|source| Error::Io { action: "cannot write", path, source })
    }

    /// Size and hash of a file that has been written.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn entry(&self, name: &str) -> Result<FileEntry, Error> {
        let path = self.file(name);
        let stamp = std::fs::metadata(&path).and_then(|meta| Ok((meta.len(), meta.modified()?))).ok();
        if let Some((then, entry)) = self.hashed.lock().unwrap_or_else(PoisonError::into_inner).get(name)
            && stamp == Some(*then)
        {
            return Ok(entry.clone());
        }
        let entry = hash(&path)?;
        if let Some(stamp) = stamp {
            let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
            hashed.insert(name.to_owned(), (stamp, entry.clone()));
        }
        Ok(entry)
    }

    /// Remembers the SHA-256 of a file that was hashed while it was written.
    ///
    /// # Errors
    /// When it is not there.
    pub fn hashed(&self, name: &str, sha256: [u8; 32]) -> Result<(), Error> {
        let path = self.file(name);
        let stamp = std::fs::metadata(&path).and_then(|meta| Ok((meta.len(), meta.modified()?)));
        let stamp = stamp.map_err(|source| Error::Io { action: "cannot read", path, source })?;
        let entry = FileEntry { size: stamp.0, sha256: crate::hex(sha256) };
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), (stamp, entry));
        Ok(())
    }

    fn forget(&self, name: &str) {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Takes a file out again.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.file(name);
        std::fs::remove_file(&path).map_err(|source| Error::Io { action: "cannot remove", path, source })
    }

    /// The manifest with its `files` filled in from what lies in the folder now: what the boot loaders' files are made
    /// from.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn complete(&self, manifest: Manifest) -> Result<Manifest, Error> {
        Ok(Manifest { files: self.files()?, ..manifest })
    }

    /// Writes the manifest (whose `files` are filled in here, from what lies in the folder) and `SHA256SUMS`, and gives
    /// the bundle its name. A bundle of that name that is there already is replaced in one step, unless it is the same,
    /// byte for byte: then it stays as it is.
    ///
    /// # Errors
    /// When a file cannot be read or written; then there is no new bundle, and the old one is untouched.
    pub fn finish(self, manifest: Manifest) -> Result<PathBuf, Error> {
        self.finish_by(manifest, |from, to, flags| renameat_with(CWD, from, CWD, to, flags))
    }

    /// As [`Staging::finish`], with the system call that gives the bundle its name.
    fn finish_by(
        self,
        mut manifest: Manifest,
        rename: impl Fn(&Path, &Path, RenameFlags) -> Result<(), Errno>,
    ) -> Result<PathBuf, Error> {
        manifest.files = self.files()?;
        self.write(manifest::FILE_NAME, &json(&manifest)?)?;
        let mut listed: BTreeMap<_, _> =
            manifest.files.iter().map(|(name, entry)| (name.clone(), entry.sha256.clone())).collect();
        listed.insert(manifest::FILE_NAME.to_owned(), self.entry(manifest::FILE_NAME)?.sha256);
        let text = sums::write(&listed);
        self.write(sums::FILE_NAME, text.as_bytes())?;
        let target = self.out.join(format!("{}-{}", manifest.name, manifest.version));
        let same = std::fs::read_to_string(target.join(sums::FILE_NAME)).is_ok_and(|there| there == text);
        if same && Bundle::open(&target).and_then(|bundle| bundle.verify()).is_ok() {
            return Ok(target);
        }
        if !replaceable(&target) {
            return Err(Error::InTheWay { path: target });
        }
        self.publish(&target, rename)?;
        Ok(target)
    }

    fn files(&self) -> Result<BTreeMap<String, FileEntry>, Error> {
        let failed = |source| Error::Io { action: "cannot read", path: self.path().to_owned(), source };
        let mut files = BTreeMap::new();
        for item in std::fs::read_dir(self.path()).map_err(failed)? {
            let name = item.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name != LOCK && name != manifest::FILE_NAME && name != sums::FILE_NAME {
                let entry = self.entry(&name)?;
                files.insert(name, entry);
            }
        }
        Ok(files)
    }

    fn publish(
        self,
        target: &Path,
        rename: impl Fn(&Path, &Path, RenameFlags) -> Result<(), Errno>,
    ) -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |source| Error::Io { action: "cannot write", path: target.to_owned(), source };
        std::fs::remove_file(self.file(LOCK)).map_err(failed)?;
        // A private folder is right for a bundle in the making; a finished one is for everyone to read, whatever the
        // umask.
        for item in std::fs::read_dir(self.path()).map_err(failed)? {
            let path = item.map_err(failed)?.path();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).map_err(failed)?;
            File::open(&path).and_then(|f| f.sync_all()).map_err(failed)?;
        }
        std::fs::set_permissions(self.path(), PermissionsExt::from_mode(0o755)).map_err(failed)?;
        let renamed = match rename(self.path(), target, RenameFlags::NOREPLACE) {
            // The old bundle comes into our folder's place, and goes with it.
            Err(Errno::EXIST) => rename(self.path(), target, RenameFlags::EXCHANGE).map(|()| false),
            renamed => renamed.map(|()| true),
        };
        match renamed {
            Ok(false) => {}
            Ok(true) => drop(self.folder.keep()),
            // The file system has no such flags: NFS, much of FUSE.
            Err(Errno::INVAL) => {
                self.replace(target)?;
                drop(self.folder.keep());
            }
            Err(e) => return Err(failed(e.into())),
        }
        File::open(&self.out).and_then(|f| f.sync_all()).map_err(failed)
    }

    /// Gives the bundle its name in two steps, the old one put aside first. Other builders wait; readers may find neither
    /// for a moment.
    fn replace(&self, target: &Path) -> Result<(), Error> {
        let failed = |source| Error::Io { action: "cannot write", path: target.to_owned(), source };
        let door = File::open(&self.out).map_err(failed)?;
        door.lock().map_err(failed)?;
        if !replaceable(target) {
            return Err(Error::InTheWay { path: target.to_owned() });
        }
        if !target.exists() {
            return std::fs::rename(self.path(), target).map_err(failed);
        }
        let aside = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempdir_in(&self.out).map_err(failed)?;
        std::fs::rename(target, aside.path()).map_err(failed)?;
        std::fs::rename(self.path(), target).map_err(|e| {
            let _ = std::fs::rename(aside.path(), target);
            failed(e)
        })
    }
}

/// Whether a path is free, an empty folder, or a bundle, be it a damaged one: nothing else is ever replaced.
fn replaceable(target: &Path) -> bool {
    match std::fs::read_dir(target) {
        Ok(mut items) => items.next().is_none() || target.join(manifest::FILE_NAME).is_file(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Pretty JSON with a line end.
fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::Io {
        action: "cannot write",
        path: manifest::FILE_NAME.into(),
        source: e.into(),
    })?;
    let _ = bytes.write_all(b"\n");
    Ok(bytes)
}

/// Deletes what builds left behind that nobody works on any more. What cannot be deleted stays.
fn sweep(out: &Path) {
    let Ok(items) = std::fs::read_dir(out) else { return };
    for item in items.flatten() {
        let name = item.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) || !name.ends_with(SUFFIX) {
            continue;
        }
        let dead = match File::open(item.path().join(LOCK)) {
            Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
            // Without its lock file it has just been made, or it is an old bundle on its way out: old enough, it is dead.
            Err(_) => item
                .metadata()
                .and_then(|m| m.modified())
                .is_ok_and(|t| t.elapsed().is_ok_and(|age| age > std::time::Duration::from_secs(600))),
        };
        if dead {
            let _ = std::fs::remove_dir_all(item.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(version: &str) -> Manifest {
        let dir = tempfile::tempdir().unwrap();
        Manifest { version: version.into(), ..crate::testing::bundle(dir.path()) }
    }

    fn build(out: &Path, version: &str, root: &[u8]) -> PathBuf {
        let staging = Staging::begin(out).unwrap();
        staging.write(crate::ROOT, root).unwrap();
        staging.finish(manifest(version)).unwrap()
    }

    fn names(out: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            std::fs::read_dir(out).unwrap().map(|i| i.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn a_hash_made_while_writing_counts_until_the_file_is_another_one() {
        let out = tempfile::tempdir().unwrap();
        let staging = Staging::begin(out.path()).unwrap();
        assert!(staging.hashed(crate::ROOT, [7; 32]).is_err());
        staging.write(crate::ROOT, b"one").unwrap();
        staging.hashed(crate::ROOT, [7; 32]).unwrap();
        let entry = staging.entry(crate::ROOT).unwrap();
        assert_eq!((entry.size, entry.sha256), (3, "07".repeat(32)));
        staging.write(crate::ROOT, b"two").unwrap();
        let hash = crate::hex(<sha2::Sha256 as sha2::Digest>::digest(b"two"));
        assert_eq!(staging.entry(crate::ROOT).unwrap().sha256, hash);
    }

    #[test]
    fn a_bundle_is_whole_or_not_there() {
        let out = tempfile::tempdir().unwrap();
        let path = build(out.path(), "1", b"one");
        Bundle::open(&path).unwrap().verify().unwrap();
        let staging = Staging::begin(out.path()).unwrap();
        staging.write(crate::ROOT, b"half").unwrap();
        drop(staging);
        assert_eq!(names(out.path()), ["worker-1"]);
    }

    #[test]
    fn a_file_that_was_hashed_and_written_again_is_hashed_again() {
        let out = tempfile::tempdir().unwrap();
        let staging = Staging::begin(out.path()).unwrap();
        let sum = || staging.entry(crate::ROOT).unwrap().sha256;
        staging.write(crate::ROOT, b"one").unwrap();
        let one = sum();
        assert_eq!(sum(), one);
        staging.write(crate::ROOT, b"two").unwrap();
        let two = sum();
        assert_ne!(one, two);
        staging.create(crate::ROOT).unwrap().write_all(b"one").unwrap();
        assert_eq!(sum(), one);
    }

    #[test]
    fn a_bundle_is_replaced_in_one_step_and_kept_when_it_is_the_same() {
        let out = tempfile::tempdir().unwrap();
        let path = build(out.path(), "1", b"one");
        let inode = |p: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(p).unwrap());
        let before = inode(&path);
        build(out.path(), "1", b"one");
        assert_eq!(inode(&path), before, "the same bytes leave the bundle as it is");
        build(out.path(), "1", b"two");
        assert_eq!(std::fs::read(path.join(crate::ROOT)).unwrap(), b"two");
        Bundle::open(&path).unwrap().verify().unwrap();
        assert_eq!(names(out.path()), ["worker-1"]);
    }

    #[test]
    fn a_file_system_without_flags_of_rename() {
        let out = tempfile::tempdir().unwrap();
        let build = |root: &[u8]| {
            let staging = Staging::begin(out.path()).unwrap();
            staging.write(crate::ROOT, root).unwrap();
            staging.finish_by(manifest("1"), |_, _, flags| {
                assert!(!flags.is_empty());
                Err(Errno::INVAL)
            })
        };
        for root in [b"one", b"two"] {
            let path = build(root).unwrap();
            assert_eq!(std::fs::read(path.join(crate::ROOT)).unwrap(), root);
            Bundle::open(&path).unwrap().verify().unwrap();
            assert_eq!(names(out.path()), ["worker-1"]);
        }
        std::fs::remove_file(out.path().join("worker-1").join(manifest::FILE_NAME)).unwrap();
        assert!(matches!(build(b"six").unwrap_err(), Error::InTheWay { .. }));
        assert_eq!(names(out.path()), ["worker-1"]);
    }

    #[test]
    fn a_damaged_bundle_is_mended_by_the_next_build() {
        let out = tempfile::tempdir().unwrap();
        let path = build(out.path(), "1", b"one");
        std::fs::write(path.join(crate::ROOT), b"o").unwrap();
        build(out.path(), "1", b"one");
        Bundle::open(&path).unwrap().verify().unwrap();
    }

    #[test]
    fn what_is_no_bundle_is_never_replaced() {
        let out = tempfile::tempdir().unwrap();
        let target = out.path().join("worker-1");
        let refused = || {
            let staging = Staging::begin(out.path()).unwrap();
            staging.write(crate::ROOT, b"x").unwrap();
            staging.finish(manifest("1")).unwrap_err().to_string()
        };
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("thesis.tex"), "years of work").unwrap();
        assert!(refused().contains("worker-1"), "{}", refused());
        assert_eq!(std::fs::read(target.join("thesis.tex")).unwrap(), b"years of work");
        std::fs::remove_dir_all(&target).unwrap();
        std::fs::write(&target, "a file").unwrap();
        assert!(refused().contains("worker-1"), "{}", refused());
        assert_eq!(names(out.path()), ["worker-1"]);
    }

    #[test]
    fn what_a_killed_build_left_is_taken_away_but_not_what_a_living_one_works_on() {
        let out = tempfile::tempdir().unwrap();
        let dead = out.path().join(".imgbuild-dead.partial");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        let living = Staging::begin(out.path()).unwrap();
        assert!(!dead.exists());
        let other = Staging::begin(out.path()).unwrap();
        assert!(living.path().exists());
        drop(other);
        living.write(crate::ROOT, b"x").unwrap();
        living.finish(manifest("2")).unwrap();
    }

    #[test]
    fn two_builds_of_one_version_at_once() {
        let out = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for root in [b"one", b"two", b"six"] {
                scope.spawn(|| build(out.path(), "1", root));
            }
        });
        assert_eq!(names(out.path()), ["worker-1"]);
        Bundle::open(out.path().join("worker-1")).unwrap().verify().unwrap();
    }

    #[test]
    fn an_output_folder_that_cannot_be_made() {
        let out = tempfile::tempdir().unwrap();
        std::fs::write(out.path().join("file"), "").unwrap();
        let error = Staging::begin(&out.path().join("file/out")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.ends_with("file/out"), "{error}");
    }
}
