//! Paths below the new root, as the new root will see them: its absolute symbolic links lead into it, not into the
//! initrd, and `..` never leads out of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::error::{Error, Result};

/// The path, seen from here, of what `path` names in `root`, all symbolic links followed.
///
/// # Errors
///
/// The kernel's, for example when there is nothing.
pub fn resolve(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let folder = File::open(root)?;
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let found = openat2(
        &folder,
        relative,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// More dangling links than this one behind the other are a loop; the kernel's own bound.
const MOST_LINKS: u32 = 40;

/// The same for a folder, which is made if it is not there, with its parents; also where a symbolic link to it is there
/// already, as `/var/lock` is when /run is still empty.
///
/// # Errors
///
/// [`Error::File`].
pub fn resolve_folder(root: &Path, path: &Path) -> Result<PathBuf> {
    make_folder(root, path, MOST_LINKS)
}

fn make_folder(root: &Path, path: &Path, links: u32) -> Result<PathBuf> {
    match resolve(root, path) {
        Ok(found) => return Ok(found),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::file("open the folder", root.join(path))(e)),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::file("make the folder", path)(io::ErrorKind::InvalidInput.into()));
    };
    let folder = make_folder(root, parent, links)?.join(name);
    match fs::create_dir(&folder) {
        Ok(()) => {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).map_err(Error::file("chmod", &folder))?
        }
        // There is a link, or there would have been nothing to make. Its target is seen from its own folder; an absolute one
        // takes the place of all that is before it.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let target = fs::read_link(&folder).map_err(Error::file("make the folder", &folder))?;
            let Some(links) = links.checked_sub(1) else {
                return Err(Error::file("follow the link", folder)(rustix::io::Errno::LOOP.into()));
            };
            return make_folder(root, &parent.join(target), links);
        }
        Err(e) => return Err(Error::file("make the folder", folder)(e)),
    }
    Ok(folder)
}

/// Writes a file into the root; whatever had its name, a link too, makes way. Folders are made.
///
/// # Errors
///
/// [`Error::File`].
pub fn write(root: &Path, path: &str, contents: &[u8], mode: u32) -> Result<()> {
    let path = Path::new(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::file("write", path)(io::ErrorKind::InvalidInput.into()));
    };
    let target = resolve_folder(root, parent)?.join(name);
    write_new(&target, contents, mode).map_err(Error::file("write", target))
}

fn write_new(target: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    make_way(target)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(target)?;
    file.write_all(contents)?;
    // The umask does not apply to what was decided on purpose.
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// Reads a file of the root; none if there is none.
#[must_use]
pub fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(resolve(root, Path::new(path)).ok()?).ok()
}

/// Removes what is not a folder.
///
/// # Errors
///
/// The system's.
pub fn make_way(target: &Path) -> io::Result<()> {
    match fs::remove_file(target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_of_the_root_lead_into_the_root() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        symlink("/usr/lib", root.join("lib")).unwrap();
        symlink("../../../../lib", root.join("usr/up")).unwrap();
        assert_eq!(resolve(root, Path::new("/lib")).unwrap(), root.join("usr/lib"));
        assert_eq!(resolve(root, Path::new("/usr/up")).unwrap(), root.join("usr/lib"));
        assert_eq!(resolve(root, Path::new("/")).unwrap(), root);
        assert!(resolve(root, Path::new("/nothing")).is_err());
        assert_eq!(resolve_folder(root, Path::new("/lib/a/b")).unwrap(), root.join("usr/lib/a/b"));
    }

    #[test]
    fn what_a_dangling_link_leads_to_is_made_inside_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = &folder.path().join("root");
        for made in ["var", "run", "mnt"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        symlink("/run/lock", root.join("var/lock")).unwrap();
        symlink("../../../var/log/deep", root.join("mnt/log")).unwrap();
        symlink("chain-2/sub", root.join("mnt/chain-1")).unwrap();
        symlink("/srv/end", root.join("mnt/chain-2")).unwrap();
        symlink("/mnt/loop", root.join("mnt/loop")).unwrap();
        for (path, expected) in
            [("/var/lock/lvm", "run/lock/lvm"), ("/mnt/log", "var/log/deep"), ("/mnt/chain-1/x", "srv/end/sub/x")]
        {
            assert_eq!(resolve_folder(root, Path::new(path)).unwrap(), root.join(expected), "{path}");
            assert!(root.join(expected).is_dir());
        }
        write(root, "/var/lock/lvm/file", b"x", 0o644).unwrap();
        assert!(root.join("run/lock/lvm/file").is_file());
        assert!(resolve_folder(root, Path::new("/mnt/loop/x")).is_err());
        assert!(!Path::new("/run/lock/lvm/file").exists() && !folder.path().join("var").exists());
    }

    #[test]
    fn a_link_makes_way_and_its_target_stays() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "/etc/target", b"old", 0o600).unwrap();
        symlink("/etc/target", root.join("etc/hostname")).unwrap();
        write(root, "/etc/hostname", b"new", 0o644).unwrap();
        assert_eq!(read(root, "/etc/target").as_deref(), Some("old"));
        assert_eq!(read(root, "/etc/hostname").as_deref(), Some("new"));
        let mode = fs::metadata(root.join("etc/target")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(write(root, "/etc", b"", 0o644).is_err(), "a folder does not make way");
    }
}
