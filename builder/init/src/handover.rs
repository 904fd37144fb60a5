//! The last steps: what the system is told, and the change to its root.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::statfs;

use crate::cmdline::Handover;
use crate::environment::{self, Facts};
use crate::error::{Error, Result};
use crate::{debug, nodeconfig, rootfs, sys};

/// `RAMFS_MAGIC` and `TMPFS_MAGIC`: what an initrd lies in. Nothing else is ever emptied.
const OF_MEMORY: [u64; 2] = [0x8584_58f6, 0x0102_1994];
const NETWORKD: &str = "systemd-networkd.service";
/// What the kernel would start.
const DEFAULT_INIT: &str = "/sbin/init";

/// Writes what is known of this boot below `folder`: `network.json`, and `env` for root alone, since it has the variables of
/// the node's configuration.
///
/// # Errors
///
/// [`Error::File`].
pub fn write_facts(folder: &Path, facts: &Facts) -> Result<()> {
    nodeconfig::write_private(&folder.join("env"), environment::file(facts).as_bytes())?;
    if let Some(network) = &facts.network {
        let path = folder.join("network.json");
        let json = serde_json::to_vec_pretty(network).map_err(io::Error::other);
        json.and_then(|json| fs::write(&path, json)).map_err(Error::file("write", &path))?;
    }
    Ok(())
}

/// What the system is to find of the network where nobody says: only systemd-networkd, and only where it is switched on,
/// reads what is written for it.
#[must_use]
pub fn way(root: &Path) -> Handover {
    let folders = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
    let targets = ["multi-user.target.wants", "network-online.target.wants", "sysinit.target.wants"];
    let is_enabled = folders.iter().any(|folder| {
        let Ok(folder) = rootfs::resolve(root, Path::new(folder)) else { return false };
        // The link itself: what it leads to is seen from the root only.
        targets.iter().any(|target| folder.join(target).join(NETWORKD).symlink_metadata().is_ok())
    });
    if is_enabled { Handover::Keep } else { Handover::Down }
}

/// Writes files below `folder`; one that is there already, from an extra segment, stays.
///
/// # Errors
///
/// [`Error::File`].
pub fn write_network(folder: &Path, files: &[(String, String)]) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::file("make the folder", folder))?;
    for (name, text) in files {
        let path = folder.join(name);
        match File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes())) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => debug!("{} stays as it is", path.display()),
            written => written.map_err(Error::file("write", &path))?,
        }
    }
    Ok(())
}

/// The program to start in the new root.
///
/// # Errors
///
/// [`Error::NoInit`] when the root does not have it.
pub fn find_init(root: &Path, asked: Option<&str>) -> Result<String> {
    let path = asked.unwrap_or(DEFAULT_INIT);
    let found = rootfs::resolve(root, Path::new(path)).and_then(fs::metadata);
    match found {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => Ok(path.to_owned()),
        _ => Err(Error::NoInit(path.to_owned())),
    }
}

/// Empties the initrd, makes `root` the root and starts `init` in it, with these arguments. Returns only if that fails.
#[must_use]
pub fn switch_root(root: &Path, init: &str, arguments: &[OsString]) -> Error {
    match try_switch(root, init, arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_switch(root: &Path, init: &str, arguments: &[OsString]) -> Result<std::convert::Infallible> {
    let old = Path::new("/");
    let in_memory =
        statfs(old).is_ok_and(|found| OF_MEMORY.iter().any(|magic| u64::try_from(found.f_type).ok() == Some(*magic)));
    if in_memory {
        let device = fs::metadata(old).map_err(Error::file("look at", old))?.dev();
        debug!("{} files of the initrd deleted", empty(old, device));
    }
    rustix::process::chdir(root).map_err(|e| Error::file("enter", root)(e.into()))?;
    sys::move_mount(Path::new("."), old)?;
    rustix::process::chroot(".").map_err(|e| Error::file("chroot to", root)(e.into()))?;
    rustix::process::chdir("/").map_err(|e| Error::file("enter", "/")(e.into()))?;
    let source = Command::new(init).args(arguments).exec();
    Err(Error::Exec { path: init.to_owned(), source })
}

/// Deletes everything on one file system below a folder, and says how many files that were. What cannot be deleted stays:
/// it costs memory, not the boot.
pub(crate) fn empty(folder: &Path, device: u64) -> usize {
    let mut deleted = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            deleted += empty(&path, device);
            let _ = fs::remove_dir(&path);
        } else if fs::remove_file(&path).is_ok() {
            deleted += 1;
        }
    }
    deleted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_one_file_system_is_emptied_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let kept = tempfile::tempdir().unwrap();
        fs::write(kept.path().join("keep"), "").unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c"), "").unwrap();
        symlink(kept.path(), folder.path().join("link")).unwrap();
        let device = fs::metadata(folder.path()).unwrap().dev();
        assert_eq!(empty(folder.path(), device + 1), 0);
        assert!(folder.path().join("a/b/c").exists());
        assert_eq!(empty(folder.path(), device), 2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(kept.path().join("keep").exists());
    }

    #[test]
    fn init_is_looked_for_as_the_root_sees_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("usr/lib/systemd")).unwrap();
        fs::create_dir_all(root.join("usr/sbin")).unwrap();
        symlink("usr/sbin", root.join("sbin")).unwrap();
        symlink("/usr/lib/systemd/systemd", root.join("usr/sbin/init")).unwrap();
        assert!(matches!(find_init(root, None), Err(Error::NoInit(path)) if path == "/sbin/init"));
        fs::write(root.join("usr/lib/systemd/systemd"), "").unwrap();
        assert!(find_init(root, None).is_err(), "not executable");
        fs::set_permissions(root.join("usr/lib/systemd/systemd"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_init(root, None).unwrap(), "/sbin/init");
        assert!(find_init(root, Some("/bin/sh")).is_err());
    }

    #[test]
    fn the_network_is_kept_for_those_who_know_of_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(way(root.path()), Handover::Down);
        let wants = root.path().join("usr/lib/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        assert_eq!(way(root.path()), Handover::Down);
        symlink("/nowhere/systemd-networkd.service", wants.join("systemd-networkd.service")).unwrap();
        assert_eq!(way(root.path()), Handover::Keep);
    }

    #[test]
    fn a_sites_own_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("systemd/network");
        let file = |text: &str| ("90-netboot.network".to_owned(), text.to_owned());
        write_network(&folder, &[file("a")]).unwrap();
        write_network(&folder, &[file("b"), ("90-netboot.link".to_owned(), "c".to_owned())]).unwrap();
        assert_eq!(fs::read_to_string(folder.join("90-netboot.network")).unwrap(), "a");
        assert_eq!(fs::read_to_string(folder.join("90-netboot.link")).unwrap(), "c");
    }

    #[test]
    fn facts_are_there_for_the_system() {
        let folder = tempfile::tempdir().unwrap();
        write_facts(folder.path(), &Facts { image: "worker".into(), ..Facts::default() }).unwrap();
        let env = folder.path().join("env");
        assert!(fs::read_to_string(&env).unwrap().contains("NETBOOT_IMAGE='worker'\n"));
        assert_eq!(fs::metadata(env).unwrap().permissions().mode() & 0o7777, 0o600, "it has the node's variables");
        assert!(!folder.path().join("network.json").exists());
    }
}
