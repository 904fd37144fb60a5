//! Files that are whole or absent, after a power cut too.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fs_err::File;
use tempfile::NamedTempFile;

use crate::Error;

/// What our unfinished files and folders begin with; whoever holds the lock may remove them.
pub(crate) const UNFINISHED: &str = ".unfinished-";
/// The lock's name, in the tree's root.
const LOCK: &str = ".lock";

/// The error of an action on a path.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Held while the tree is changed; the system lets go of it when the process ends, in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for other publishers; `waiting` is called once if there is one.
    pub(crate) fn take(root: &Path, waiting: impl FnOnce()) -> Result<Self, Error> {
        let path = root.join(LOCK);
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(failed("open", &path))?;
        match file.file().try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                waiting();
                file.file().lock().map_err(failed("lock", &path))?;
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        Ok(Self { _file: file })
    }
}

/// Makes the tree's root where it is missing, and what is missing above it, readable for the HTTP server whatever the umask
/// says. What is there keeps its mode.
pub(crate) fn make_root(root: &Path) -> Result<(), Error> {
    if root.is_dir() {
        return Ok(());
    }
    if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_root(parent)?;
    }
    match std::fs::create_dir(root) {
        Ok(()) => mode(root, 0o755),
        // Another publisher was quicker.
        Err(_) if root.is_dir() => Ok(()),
        Err(source) => Err(failed("make the folder", root)(source)),
    }
}

/// Makes a folder and those above it up to the tree's root, readable for the HTTP server whatever the umask says.
pub(crate) fn folder(root: &Path, below: &Path) -> Result<PathBuf, Error> {
    let mut path = root.to_owned();
    for part in below {
        path.push(part);
        match std::fs::create_dir(&path) {
            Ok(()) => {
                mode(&path, 0o755)?;
                if let Some(parent) = path.parent() {
                    sync(parent)?;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(failed("make the folder", &path)(source)),
        }
    }
    Ok(path)
}

/// Replaces `path` by `text`: readers see the old file or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file =
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder).map_err(failed("write to", folder))?;
    fill(&mut file, text).map_err(failed("write", path))?;
    file.persist(path).map_err(|error| failed("write", path)(error.error))?;
    sync(folder)
}

fn fill(file: &mut NamedTempFile, text: &str) -> std::io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()
}

/// Sets permission bits.
pub(crate) fn mode(path: &Path, mode: u32) -> Result<(), Error> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

/// Writes a file's data, or a folder's names, to the disk.
pub(crate) fn sync(path: &Path) -> Result<(), Error> {
    std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(failed("write to the disk", path))
}

/// Takes a file that is on the disk out of the page cache, so that the next to read it reads the disk. File systems that
/// live in memory, and some that do not, have nothing to forget or do not care.
pub(crate) fn forget(path: &Path) -> Result<(), Error> {
    let file = std::fs::File::open(path).map_err(failed("read", path))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
        .map_err(|error| failed("take out of the page cache", path)(error.into()))
}

/// Removes what a publisher that was killed left in a folder. Only for the holder of the lock.
pub(crate) fn sweep(folder: &Path) -> Result<(), Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed("read", folder)(source)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("read", folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let is_folder = entry.file_type().map_err(failed("read", &path))?.is_dir();
        let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(failed("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    #[test]
    fn what_is_forgotten_has_to_be_read_from_the_disk() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let in_memory = || {
            let file = std::fs::File::open(&path).unwrap();
            let mut bytes = [0; 4096];
            preadv2(&file, &mut [std::io::IoSliceMut::new(&mut bytes)], 0, ReadWriteFlags::NOWAIT)
        };
        sync(&path).unwrap();
        // Not every file system can say so, and TMPFS_MAGIC has no other place.
        if in_memory() == Err(Errno::OPNOTSUPP) || rustix::fs::statfs(&path).unwrap().f_type == 0x0102_1994 {
            return;
        }
        assert_eq!(in_memory(), Ok(4096));
        forget(&path).unwrap();
        assert_eq!(in_memory(), Err(Errno::AGAIN));
    }

    #[test]
    fn folders_are_readable_whatever_the_umask_says_and_others_keep_their_mode() {
        let temp = tempfile::tempdir().unwrap();
        let kept = temp.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        mode(&kept, 0o750).unwrap();
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let made = make_root(&kept.join("srv/boot")).and_then(|()| folder(&kept.join("srv/boot"), Path::new("a/b")));
        rustix::process::umask(before);
        made.unwrap();
        let mode = |path: &str| kept.join(path).metadata().unwrap().permissions().mode() & 0o7777;
        for path in ["srv", "srv/boot", "srv/boot/a", "srv/boot/a/b"] {
            assert_eq!(mode(path), 0o755, "{path}");
        }
        make_root(&kept).unwrap();
        assert_eq!(mode(""), 0o750);
        std::fs::write(kept.join("file"), "").unwrap();
        let error = make_root(&kept.join("file")).unwrap_err().to_string();
        assert!(error.ends_with("kept/file"), "{error}");
    }
}
