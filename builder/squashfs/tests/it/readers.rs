//! Other people's readers.

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imgbuild_squashfs::{Options, Summary, read, write};
use imgbuild_tree::{Content, Tree};
use tempfile::TempDir;

use crate::dump::{assert_same, dump};
use crate::folder;

/// An image in a file of its own.
pub(crate) struct Image {
    folder: TempDir,
    pub(crate) summary: Summary,
}

impl Image {
    pub(crate) fn new(tree: &Tree<Content>, options: &Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("image")).unwrap();
        let summary = write(tree, &file, options, &|_| {}).unwrap();
        if summary.duplicate_blocks == 0 {
            assert_eq!(file.metadata().unwrap().len(), summary.bytes_used);
        }
        file.set_len(summary.bytes_used).unwrap();
        Self { folder, summary }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Unpacks it with unsquashfs.
    pub(crate) fn unsquash(&self) -> PathBuf {
        let to = self.folder.path().join("unsquashfs");
        run(Command::new("unsquashfs").args(["-quiet", "-no-progress", "-dest"]).arg(&to).arg(self.path()));
        to
    }

    /// Unpacks it with squashfs-tools-ng and GNU tar.
    pub(crate) fn sqfs2tar(&self) -> PathBuf {
        let to = self.folder.path().join("sqfs2tar");
        std::fs::create_dir(&to).unwrap();
        let image = self.path();
        let mut reader =
            Command::new("sqfs2tar").arg("--root-becomes").arg(".").arg(&image).stdout(Stdio::piped()).spawn().unwrap();
        let tar = reader.stdout.take().unwrap();
        run(Command::new("tar")
            .args(["--extract", "--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*"])
            .arg("--directory")
            .arg(&to)
            .stdin(tar));
        assert!(reader.wait().unwrap().success());
        to
    }

    /// Lets the kernel mount it.
    pub(crate) fn mount(&self) -> Mount {
        Mount::of(&self.path(), &self.folder.path().join("mount"))
    }

    /// What a program says of it.
    pub(crate) fn ask(&self, program: &str, arguments: &[&str]) -> String {
        run(Command::new(program).args(arguments).arg(self.path()))
    }
}

/// A mounted image.
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
}

impl Mount {
    /// Mounts an image at a folder that is still to be made.
    pub(crate) fn of(image: &Path, at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        run(Command::new("mount").args(["-t", "squashfs", "-o", "loop,ro"]).arg(image).arg(at));
        Self { at: at.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.at).status();
        assert!(std::thread::panicking() || done.unwrap().success());
    }
}

/// Runs a program that must succeed and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap_or_else(|e| panic!("{command:?}: {e}: install it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} (these tests run as root)\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The image in memory.
pub(crate) fn bytes(tree: &Tree<Content>, options: &Options) -> Vec<u8> {
    let mut image = Cursor::new(Vec::new());
    write(tree, &mut image, options, &|_| {}).unwrap();
    image.into_inner()
}

/// Writes the tree, unpacks the image with unsquashfs and compares every name.
pub(crate) fn assert_unsquashfs_reads(tree: &Tree<Content>, options: &Options) -> Image {
    let image = Image::new(tree, options);
    assert_folder_is(&image.unsquash(), tree, options, "unsquashfs");
    image
}

/// Writes the tree, reads the image back with our own reader and compares every name.
pub(crate) fn assert_we_read(tree: &Tree<Content>, options: &Options) -> read::Image {
    let image = read::Image::from_bytes(bytes(tree, options)).unwrap();
    assert_same(&dump(&image.tree().unwrap(), options), &dump(tree, options), "our reader");
    image
}

/// Compares a folder with a tree.
pub(crate) fn assert_folder_is(folder: &Path, tree: &Tree<Content>, options: &Options, what: &str) {
    assert_same(&dump(&folder::load(folder).unwrap(), options), &dump(tree, options), what);
}
