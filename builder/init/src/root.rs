//! The new root: the squashfs behind a loop device, a tmpfs that takes what is written, the recipe's tmpfs mounts.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::config::{Config, EMBEDDED_ROOT};
use crate::error::{Error, Result};
use crate::fetch::{self, file_digest, memory};
use crate::{handover, rootfs, say, sys, warning};

/// Where the new root is put together.
pub const NEW_ROOT: &str = "/newroot";
/// Everything about this boot, visible in the system as well.
pub const RUN: &str = "/run/netboot";
/// Room in the image's tmpfs beside the image, for the file system's own needs.
const SLACK: u64 = 64 * 1024;
/// The kernel reads a loop device by pages; a tail shorter than one would be cut off at a sector.
const PAGE: u64 = 4096;

/// A file system to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What; for file systems without a device, a name.
    pub source: &'static str,
    /// Where.
    pub target: PathBuf,
    /// As what.
    pub fstype: &'static str,
    /// With which flags.
    pub flags: MountFlags,
    /// With which options.
    pub options: String,
}

impl Mount {
    fn new(
        source: &'static str,
        target: impl Into<PathBuf>,
        fstype: &'static str,
        flags: MountFlags,
        options: &str,
    ) -> Self {
        Self { source, target: target.into(), fstype, flags, options: options.to_owned() }
    }

    /// Makes the folder and mounts.
    ///
    /// # Errors
    ///
    /// [`Error::Mount`], [`Error::File`].
    pub fn perform(&self) -> Result<()> {
        fs::create_dir_all(&self.target).map_err(Error::file("make the folder", &self.target))?;
        sys::mount(self.source, &self.target, self.fstype, self.flags, &self.options)
    }
}

/// What any program needs, first of all.
#[must_use]
pub fn system_mounts() -> Vec<Mount> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    vec![
        Mount::new("proc", "/proc", "proc", quiet, ""),
        Mount::new("sysfs", "/sys", "sysfs", quiet, ""),
        Mount::new("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755"),
        // As systemd would mount it; executable, since hooks run from there.
        Mount::new("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=0755,size=20%"),
    ]
}

/// The tmpfs for the image, just large enough: what is written to it by mistake must not take the machine's memory.
#[must_use]
pub fn image_mount(size: u64) -> Mount {
    let room = size.div_ceil(PAGE).saturating_mul(PAGE).saturating_add(SLACK);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Mount::new("netboot-image", Path::new(RUN).join("image"), "tmpfs", flags, &format!("mode=0755,size={room}"))
}

/// The recipe's tmpfs mounts.
#[must_use]
pub fn tmpfs_mounts(config: &Config) -> Vec<Mount> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mounts = config.tmpfs.iter().map(|tmpfs| {
        let options = format!("mode={:o},size={}", tmpfs.mode & 0o7777, tmpfs.size.mount_option());
        Mount::new("tmpfs", &tmpfs.path, "tmpfs", flags, &options)
    });
    mounts.collect()
}

/// Makes the file that the root is fetched into, if the machine has the memory for it. One that was made before, for a
/// file of another length, gives its memory back first; it has to be closed.
///
/// # Errors
///
/// [`fetch::Error::Memory`] and [`fetch::Error::Place`].
pub fn place(size: u64) -> std::result::Result<File, fetch::Error> {
    // Nothing is mounted there the first time.
    let _ = rustix::mount::unmount(Path::new(RUN).join("image"), UnmountFlags::empty());
    if let Some(memory) = memory::Memory::now() {
        memory.check(size)?;
    }
    let place = || -> Result<File> {
        image_mount(size).perform()?;
        let path = image_path();
        OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(Error::file("make", path))
    };
    place().map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        fetch::Error::Place(format!("{error}{cause}"))
    })
}

/// Where the fetched image lies.
#[must_use]
pub fn image_path() -> PathBuf {
    Path::new(RUN).join("image/root.squashfs")
}

/// Brings the image's length to whole pages and takes the right to write away.
///
/// # Errors
///
/// [`Error::File`].
pub fn seal(file: &File) -> Result<()> {
    let failed = |what| Error::file(what, image_path());
    let length = file.metadata().map_err(failed("look at"))?.len();
    file.set_len(length.div_ceil(PAGE).saturating_mul(PAGE)).map_err(failed("extend"))?;
    file.set_permissions(Permissions::from_mode(0o444)).map_err(failed("chmod"))
}

/// Checks a root that lies in the initrd.
///
/// # Errors
///
/// [`Error::EmbeddedRoot`] when it is not the one that was built.
pub fn check_embedded(config: &Config) -> Result<PathBuf> {
    let path = PathBuf::from(EMBEDDED_ROOT);
    let (size, digest) = file_digest(&path).map_err(Error::file("read", &path))?;
    if digest != config.root.sha256 || size != config.root.size {
        return Err(Error::EmbeddedRoot {
            path,
            found: digest,
            found_size: size,
            expected: config.root.sha256.clone(),
            expected_size: config.root.size,
        });
    }
    say!("root: embedded, {} MiB, SHA-256 is right", memory::mebibytes(size));
    Ok(path)
}

/// Mounts the image with what is written over it, and the recipe's tmpfs mounts.
///
/// # Errors
///
/// [`Error::Loop`], [`Error::Mount`], [`Error::File`].
pub fn assemble(image: &Path, config: &Config) -> Result<()> {
    let run = Path::new(RUN);
    let (lower, upper) = (run.join("lower"), run.join("upper"));
    let (device, keep) = sys::attach_loop(image)?;
    fs::create_dir_all(&lower).map_err(Error::file("make the folder", &lower))?;
    sys::mount(&device.to_string_lossy(), &lower, "squashfs", MountFlags::RDONLY | MountFlags::NODEV, "")?;
    // The mount holds the device now; it goes when the mount does.
    drop(keep);
    let size = format!("mode=0755,size={}", config.overlay_size.mount_option());
    Mount::new("netboot-upper", &upper, "tmpfs", MountFlags::NODEV, &size).perform()?;
    make_like(&lower, &upper.join("upper"))?;
    fs::create_dir(upper.join("work")).map_err(Error::file("make the folder", upper.join("work")))?;
    let options = format!("lowerdir={0}/lower,upperdir={0}/upper/upper,workdir={0}/upper/work", run.display());
    Mount::new("overlay", NEW_ROOT, "overlay", MountFlags::empty(), &options).perform()?;
    say!("root: squashfs {}, {} for what is written", device.display(), config.overlay_size.mount_option());
    for mount in tmpfs_mounts(config) {
        let target = rootfs::resolve_folder(Path::new(NEW_ROOT), &mount.target)?;
        if fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some()) {
            warning!("{}: the image's files there are hidden by the tmpfs", mount.target.display());
        }
        sys::mount(mount.source, &target, mount.fstype, mount.flags, &mount.options)?;
        say!("tmpfs {} {}", mount.target.display(), mount.options);
    }
    Ok(())
}

/// The root folder of an overlay takes mode and owner from its upper half.
fn make_like(model: &Path, folder: &Path) -> Result<()> {
    let metadata = fs::metadata(model).map_err(Error::file("look at", model))?;
    fs::create_dir(folder).map_err(Error::file("make the folder", folder))?;
    chown(folder, Some(metadata.uid()), Some(metadata.gid())).map_err(Error::file("chown", folder))?;
    fs::set_permissions(folder, Permissions::from_mode(metadata.mode() & 0o7777)).map_err(Error::file("chmod", folder))
}

/// Gives the new root /proc, /sys, /dev and /run, and this program links to them, so that every path means the same on
/// both sides.
///
/// # Errors
///
/// [`Error::Mount`], [`Error::File`].
pub fn move_system_mounts() -> Result<()> {
    for name in ["proc", "sys", "dev", "run"] {
        let old = Path::new("/").join(name);
        let new = rootfs_folder(name)?;
        sys::move_mount(&old, &new)?;
        // The kernel's own archive, which every initrd begins with, has a /dev/console.
        let beneath = fs::metadata(&old).map_err(Error::file("look at", &old))?;
        handover::empty(&old, beneath.dev());
        fs::remove_dir(&old).map_err(Error::file("remove", &old))?;
        std::os::unix::fs::symlink(&new, &old).map_err(Error::file("link", &old))?;
    }
    Ok(())
}

/// A folder right below the new root, without a look at /proc, which may have moved already.
fn rootfs_folder(name: &str) -> Result<PathBuf> {
    let folder = Path::new(NEW_ROOT).join(name);
    match fs::symlink_metadata(&folder) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(Error::file("use as a folder", &folder)(std::io::ErrorKind::NotADirectory.into())),
        Err(_) => fs::create_dir(&folder).map_err(Error::file("make the folder", &folder))?,
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Root, SCHEMA, Size, Tmpfs};

    #[test]
    fn the_images_place_is_just_large_enough() {
        assert_eq!(image_mount(1).options, "mode=0755,size=69632");
        assert_eq!(image_mount(4096 * 3).options, "mode=0755,size=77824");
        assert_eq!(image_mount(u64::MAX).options, format!("mode=0755,size={}", u64::MAX));
    }

    #[test]
    fn the_recipes_mounts_have_size_and_mode() {
        let config = Config {
            schema: SCHEMA,
            name: "w".into(),
            version: "1".into(),
            build_time: 0,
            root: Root { size: 1, sha256: String::new(), embedded: false },
            overlay_size: Size::Percent(25),
            tmpfs: vec![
                Tmpfs { path: "/var/lib/kubelet".into(), size: Size::Percent(20), mode: 0o700 },
                Tmpfs { path: "/srv".into(), size: Size::Bytes(1 << 20), mode: 0o41777 },
            ],
            hooks: vec![],
            modules: vec![],
            ram_budget: 0,
        };
        let mounts = tmpfs_mounts(&config);
        assert_eq!(mounts[0].options, "mode=700,size=20%");
        assert_eq!(mounts[0].target, Path::new("/var/lib/kubelet"));
        assert_eq!(mounts[1].options, "mode=1777,size=1048576");
    }
}
