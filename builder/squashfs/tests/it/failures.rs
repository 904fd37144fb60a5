//! What goes wrong is said, with the path, and nothing hangs or panics.

use std::error::Error as _;
use std::io::{self, Cursor, Seek, SeekFrom, Write};

use imgbuild_squashfs::{Error, Options, write};
use imgbuild_tree::{Content, FileContent, Kind, Metadata, Node, NodeId, Tree};

use crate::trees::{everything, file, noise, options};

/// A disk with so much room.
struct Disk {
    image: Cursor<Vec<u8>>,
    room: u64,
}

impl Write for Disk {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = self.room.saturating_sub(self.image.position());
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.image.write(&buf[..buf.len().min(room as usize)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Disk {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.image.seek(pos)
    }
}

#[test]
fn a_full_disk_is_an_error_wherever_it_comes() {
    let mut tree = everything();
    file(&mut tree, "noise", noise(1, 700_000));
    let mut whole = Disk { image: Cursor::default(), room: u64::MAX };
    let size = write(&tree, &mut whole, &options(), &|_| {}).unwrap().bytes_used;
    for room in [0, 95, 96, 1000, 4096, 300_000, 700_000, size - 4096, size - 1] {
        let mut disk = Disk { image: Cursor::default(), room };
        let error = write(&tree, &mut disk, &options(), &|_| {}).unwrap_err();
        assert_eq!(error.to_string(), "cannot write the squashfs image");
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        // What is there is no image.
        assert!(!disk.image.get_ref().starts_with(b"hsqs"), "with room for {room}");
    }
    let mut exact = Disk { image: Cursor::default(), room: size };
    write(&tree, &mut exact, &options(), &|_| {}).unwrap();
    assert!(exact.image.get_ref() == whole.image.get_ref());
}

/// Content that breaks at an offset.
#[derive(Clone, Copy)]
enum Broken {
    Fine,
    FailsAt(u64),
    Panics,
}

impl FileContent for Broken {
    fn len(&self) -> u64 {
        50_000
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::FailsAt(at) if offset + buf.len() as u64 > *at => Err(io::Error::other("the disk is on fire")),
            Self::Panics => panic!("a content that panics"),
            Self::Fine | Self::FailsAt(_) => {
                buf.fill(b'x');
                Ok(())
            }
        }
    }
}

fn broken(contents: &[Broken]) -> Tree<Broken> {
    let mut tree = Tree::new();
    let folder = tree.add(Node { meta: Metadata::root_owned(0o755), kind: Kind::Directory(Default::default()) });
    tree.link(NodeId::ROOT, b"folder", folder);
    for (number, content) in contents.iter().enumerate() {
        let id = tree.add(Node { meta: Metadata::root_owned(0o644), kind: Kind::Regular(*content) });
        tree.link(folder, format!("file{number}").as_bytes(), id);
    }
    tree
}

#[test]
fn a_content_that_cannot_be_read_is_named() {
    for threads in [1, 2, 8] {
        for (block_size, at) in [(4096, 0), (4096, 40_000), (1 << 20, 49_999)] {
            // A single file of its length is first read when it is compressed, several when they are compared.
            for contents in [&[Broken::FailsAt(at)][..], &[Broken::Fine, Broken::FailsAt(at)]] {
                let options = Options { threads, block_size, ..options() };
                let error = write(&broken(contents), Cursor::new(Vec::new()), &options, &|_| {}).unwrap_err();
                let last = contents.len() - 1;
                assert_eq!(error.to_string(), format!("cannot read the content of /folder/file{last}"));
                assert_eq!(error.source().unwrap().to_string(), "the disk is on fire");
            }
        }
    }
}

#[test]
fn a_file_that_shrank_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, noise(1, 100)).unwrap();
    let mut tree = Tree::new();
    file(&mut tree, "etc/config", Content::Path { path: path.as_path().into(), len: 5000 });
    match write(&tree, Cursor::new(Vec::new()), &options(), &|_| {}).unwrap_err() {
        Error::Read { path: named, source } => {
            assert_eq!(named, "/etc/config");
            assert!(source.to_string().contains(&path.display().to_string()), "{source}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_content_that_panics_panics_the_caller_and_hangs_nobody() {
    for threads in [1, 3] {
        let tree = broken(&[Broken::Panics]);
        let run = std::panic::AssertUnwindSafe(|| {
            write(&tree, Cursor::new(Vec::new()), &Options { threads, ..options() }, &|_| {})
        });
        let panic = std::panic::catch_unwind(run).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"a content that panics"));
    }
}
