//! Files that extra initrd segments want over the new root: `/overlay.d`.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use rustix::fs::{FileType, Mode};

use crate::error::{Error, Result};
use crate::rootfs;

/// Copies what is below `overlay` over `root` and returns how many files, links and devices that were. Modes, owners and
/// links are kept; folders that the root has stay as they are, its symbolic links to folders too (merged /usr).
///
/// # Errors
///
/// [`Error::File`].
pub fn copy(overlay: &Path, root: &Path) -> Result<usize> {
    copy_folder(overlay, overlay, root)
}

fn copy_folder(overlay: &Path, folder: &Path, root: &Path) -> Result<usize> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::file("list", folder))? {
        entries.push(entry.map_err(Error::file("list", folder))?);
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut copied = 0;
    for entry in entries {
        let from = entry.path();
        let metadata = fs::symlink_metadata(&from).map_err(Error::file("look at", &from))?;
        let path = Path::new("/").join(from.strip_prefix(overlay).unwrap_or(&from));
        if metadata.is_dir() {
            if rootfs::resolve(root, &path).is_err() {
                let made = rootfs::resolve_folder(root, &path)?;
                let mode = fs::Permissions::from_mode(metadata.mode() & 0o7777);
                fs::set_permissions(&made, mode).map_err(Error::file("chmod", &made))?;
                lchown(&made, Some(metadata.uid()), Some(metadata.gid())).map_err(Error::file("chown", &made))?;
            }
            copied += copy_folder(overlay, &from, root)?;
        } else {
            let parent = rootfs::resolve_folder(root, path.parent().unwrap_or(Path::new("/")))?;
            let target = parent.join(entry.file_name());
            copy_one(&from, &metadata, &target).map_err(Error::file("copy an overlay's file to", &target))?;
            copied += 1;
        }
    }
    Ok(copied)
}

fn copy_one(from: &Path, metadata: &fs::Metadata, target: &Path) -> io::Result<()> {
    rootfs::make_way(target)?;
    let kind = metadata.file_type();
    let special = if kind.is_char_device() {
        Some(FileType::CharacterDevice)
    } else if kind.is_block_device() {
        Some(FileType::BlockDevice)
    } else if kind.is_fifo() {
        Some(FileType::Fifo)
    } else {
        None
    };
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, target)?;
        return lchown(target, Some(metadata.uid()), Some(metadata.gid()));
    }
    match special {
        Some(kind) => rustix::fs::mknodat(rustix::fs::CWD, target, kind, Mode::from_raw_mode(0o600), metadata.rdev())?,
        None => {
            fs::copy(from, target)?;
        }
    }
    // The owner first: changing it clears set-user-id.
    lchown(target, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(metadata.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_links_and_modes_arrive_through_merged_usr() {
        let folder = tempfile::tempdir().unwrap();
        let (overlay, root) = (folder.path().join("overlay.d"), folder.path().join("root"));
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::set_permissions(root.join("usr"), fs::Permissions::from_mode(0o711)).unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        fs::write(root.join("usr/lib/x"), "old").unwrap();
        fs::create_dir_all(overlay.join("lib/deep")).unwrap();
        fs::set_permissions(overlay.join("lib/deep"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(overlay.join("lib/x"), "new").unwrap();
        fs::set_permissions(overlay.join("lib/x"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("/usr/lib/x", overlay.join("lib/deep/link")).unwrap();
        fs::create_dir_all(overlay.join("usr")).unwrap();

        assert_eq!(copy(&overlay, &root).unwrap(), 2);
        assert!(fs::symlink_metadata(root.join("lib")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(root.join("usr/lib/x")).unwrap(), "new");
        let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("usr/lib/x"), mode("usr/lib/deep"), mode("usr")), (0o4755, 0o750, 0o711));
        assert_eq!(fs::read_link(root.join("usr/lib/deep/link")).unwrap(), Path::new("/usr/lib/x"));
    }

    #[test]
    fn a_file_over_a_folder_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let (overlay, root) = (folder.path().join("overlay.d"), folder.path().join("root"));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(&overlay).unwrap();
        fs::write(overlay.join("etc"), "").unwrap();
        let error = copy(&overlay, &root).unwrap_err().to_string();
        assert!(error.ends_with("root/etc"), "{error}");
    }
}
