//! Images that other people's programs made.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use imgbuild_squashfs::Options;
use imgbuild_squashfs::read::{Compressor, Image};
use imgbuild_tree::{Content, FileContent, Kind, Tree};
use rustix::fs::XattrFlags;
use tempfile::TempDir;

use crate::dump::{assert_same, dump};
use crate::folder;
use crate::readers::run;
use crate::trees::{noise, options, text};

/// Compressors as mksquashfs and tar2sqfs name them. No Linux reads lzma, and tar2sqfs does not write it.
const COMPRESSORS: [Compressor; 6] =
    [Compressor::Gzip, Compressor::Lzma, Compressor::Lzo, Compressor::Xz, Compressor::Lz4, Compressor::Zstd];

/// A folder with one of everything that a file system can hold, and an image beside it.
struct Source {
    work: TempDir,
}

impl Source {
    fn new() -> Self {
        let source = Self { work: tempfile::tempdir().unwrap() };
        let folder = source.folder();
        for name in ["empty", "dev", "docs", "deep/er/and/deeper"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        for (number, len) in [0, 1, 100, 4095, 4096, 4097, 10_000, 131_072, 131_073, 700_000].into_iter().enumerate() {
            let seed = number as u64;
            fs::write(folder.join(format!("docs/text{len}")), text(seed, len)).unwrap();
            fs::write(folder.join(format!("docs/noise{len}")), noise(seed, len)).unwrap();
        }
        fs::copy(folder.join("docs/text10000"), folder.join("docs/copy")).unwrap();
        fs::hard_link(folder.join("docs/text700000"), folder.join("deep/link")).unwrap();
        fs::hard_link(folder.join("docs/noise1"), folder.join("a link in the root")).unwrap();
        symlink("docs/../docs", folder.join("symlink")).unwrap();
        // A hole, data, a hole.
        let sparse = File::create(folder.join("sparse")).unwrap();
        sparse.set_len(3_000_000).unwrap();
        sparse.write_all_at(&noise(5, 5000), 1_500_000).unwrap();
        let dev = folder.join("dev");
        run(Command::new("mknod").current_dir(&dev).args(["null", "c", "1", "3"]));
        run(Command::new("mknod").current_dir(&dev).args(["disk", "b", "259", "70000"]));
        run(Command::new("mknod").current_dir(&dev).args(["pipe", "p"]));
        let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        xattr(&folder.join("docs/text1"), "security.capability", capability);
        for name in ["docs/text1", "docs/text100", "deep", "dev/null"] {
            xattr(&folder.join(name), "trusted.shared", &text(1, 3000));
            xattr(&folder.join(name), "trusted.empty", b"");
        }
        xattr(&folder.join("docs/noise100"), "user.note", b"of a file");
        run(Command::new("chown").arg("3000000:4000000000").arg(folder.join("docs/text4096")));
        run(Command::new("chown").args(["--no-dereference", "7:8"]).arg(folder.join("symlink")));
        run(Command::new("chmod").arg("6751").arg(folder.join("docs/text4097")));
        run(Command::new("chmod").arg("1777").arg(folder.join("deep")));
        // No time of today, so that it is not set back to that of the image.
        run(Command::new("find").arg(&folder).args("-exec touch --no-dereference --date=@1600000000 {} +".split(' ')));
        source
    }

    fn folder(&self) -> std::path::PathBuf {
        self.work.path().join("source")
    }

    fn image(&self) -> std::path::PathBuf {
        self.work.path().join("image")
    }

    fn tree(&self) -> Tree<Content> {
        folder::load(&self.folder()).unwrap()
    }

    fn mksquashfs(&self, arguments: &[&str]) -> Image {
        let mut command = Command::new("mksquashfs");
        command.arg(self.folder()).arg(self.image());
        run(command.args(["-noappend", "-quiet", "-no-progress", "-processors", "2"]).args(arguments));
        Image::open(File::open(self.image()).unwrap()).unwrap()
    }

    fn tar2sqfs(&self, arguments: &[&str]) -> Image {
        let mut tar = Command::new("tar")
            .args(["--create", "--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "--sort=name"])
            .arg("--directory")
            .arg(self.work.path())
            .arg("source")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut command = Command::new("tar2sqfs");
        command.args(["--quiet", "--force", "--root-becomes", "source", "--num-jobs", "1"]).args(arguments);
        run(command.arg(self.image()).stdin(tar.stdout.take().unwrap()));
        assert!(tar.wait().unwrap().success());
        Image::open(File::open(self.image()).unwrap()).unwrap()
    }

    fn assert_is(&self, image: &Image, what: &str) {
        let options = Options { time: u32::MAX, ..options() };
        assert_same(&dump(&image.tree().unwrap(), &options), &dump(&self.tree(), &options), what);
    }
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn every_compressor_of_mksquashfs() {
    let source = Source::new();
    for compressor in COMPRESSORS {
        let image = source.mksquashfs(&["-comp", compressor.name()]);
        assert_eq!(image.superblock().compressor, compressor);
        source.assert_is(&image, compressor.name());
    }
}

#[test]
fn every_compressor_of_tar2sqfs() {
    let source = Source::new();
    for compressor in COMPRESSORS.into_iter().filter(|compressor| *compressor != Compressor::Lzma) {
        let image = source.tar2sqfs(&["--compressor", compressor.name()]);
        assert_eq!(image.superblock().compressor, compressor);
        source.assert_is(&image, compressor.name());
    }
}

#[test]
fn compressor_options_of_mksquashfs() {
    let source = Source::new();
    let cases: [(&[&str], Option<u32>); 8] = [
        (&["-comp", "gzip", "-Xcompression-level", "4", "-Xwindow-size", "9"], Some(4)),
        (&["-comp", "gzip", "-Xstrategy", "default,huffman_only,fixed"], Some(9)),
        (&["-comp", "zstd", "-Xcompression-level", "2"], Some(2)),
        (&["-comp", "zstd", "-Xcompression-level", "22"], Some(22)),
        (&["-comp", "lzo", "-Xcompression-level", "3"], Some(3)),
        (&["-comp", "lzo", "-Xalgorithm", "lzo1x_1_15"], Some(0)),
        (&["-comp", "lz4", "-Xhc"], None),
        (&["-comp", "xz", "-Xbcj", "x86,arm", "-Xdict-size", "50%"], None),
    ];
    for (arguments, level) in cases {
        let image = source.mksquashfs(arguments);
        assert_eq!(image.superblock().level, level, "{arguments:?}");
        source.assert_is(&image, &arguments.join(" "));
    }
}

#[test]
fn every_block_size() {
    let source = Source::new();
    for log in 12..=20 {
        let size = (1 << log).to_string();
        source.assert_is(&source.mksquashfs(&["-comp", "zstd", "-Xcompression-level", "1", "-b", &size]), &size);
        source.assert_is(&source.tar2sqfs(&["--compressor", "lz4", "--block-size", &size]), &size);
    }
}

#[test]
fn everything_that_mksquashfs_can_leave_out_or_store_otherwise() {
    let source = Source::new();
    let cases: [&[&str]; 9] = [
        &["-no-fragments"],
        &["-always-use-fragments"],
        &["-always-use-fragments", "-b", "1M"],
        &["-noI", "-noId", "-noD", "-noF", "-noX"],
        &["-noF", "-noX"],
        &["-noD"],
        &["-no-exports", "-no-sparse"],
        &["-no-duplicates", "-nopad"],
        &["-comp", "lz4", "-noI"],
    ];
    for arguments in cases {
        source.assert_is(&source.mksquashfs(arguments), &arguments.join(" "));
    }
    for arguments in [&["--exportable"][..], &["--no-tail-packing"]] {
        source.assert_is(&source.tar2sqfs(arguments), &arguments.join(" "));
    }
    let image = source.mksquashfs(&["-no-xattrs"]);
    assert!(image.superblock().flags.names().contains(&"no extended attributes"));
    let tree = image.tree().unwrap();
    assert!(tree.walk().all(|item| tree.node(item.id).meta.xattrs.is_empty()));
}

#[test]
fn an_image_that_was_appended_to() {
    let source = Source::new();
    source.mksquashfs(&[]);
    // Another file into the root of the image and of the folder.
    let extra = source.work.path().join("extra");
    fs::write(&extra, text(77, 50_000)).unwrap();
    run(Command::new("touch").arg("--date=@1600000000").arg(&extra));
    run(Command::new("mksquashfs").args([&extra, &source.image()]).args(["-quiet", "-no-progress"]));
    run(Command::new("cp").arg("--archive").arg(&extra).arg(source.folder()));
    let image = Image::open(File::open(source.image()).unwrap()).unwrap();
    // mksquashfs makes the root anew.
    let found = dump(&image.tree().unwrap(), &options());
    assert_same(&found[1..], &dump(&source.tree(), &options())[1..], "appended");
}

#[test]
fn sockets_and_twenty_thousand_names() {
    let source = Source::new();
    let many = source.folder().join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..20_000 {
        let name = many.join(format!("{number:x} is the name"));
        if number % 500 == 0 {
            fs::create_dir(name).unwrap();
        } else {
            File::create(name).unwrap();
        }
    }
    // tar leaves sockets out.
    source.assert_is(&source.tar2sqfs(&[]), "tar2sqfs");
    drop(std::os::unix::net::UnixListener::bind(source.folder().join("socket")).unwrap());
    source.assert_is(&source.mksquashfs(&[]), "mksquashfs");
}

#[test]
fn a_sparse_file_over_four_gibibytes() {
    let source = Source::new();
    let sparse = File::create(source.folder().join("large")).unwrap();
    sparse.set_len((4 << 30) + 500_077).unwrap();
    sparse.write_all_at(&noise(6, 70_000), (4 << 30) - 10_000).unwrap();
    let image = source.mksquashfs(&["-b", "1M", "-comp", "lz4"]);
    let tree = image.tree().unwrap();
    let Kind::Regular(large) = &tree.node(tree.resolve("/large").unwrap()).kind else { panic!("no file") };
    assert_eq!(large.len(), (4 << 30) + 500_077);
    let mut bytes = vec![7; 100_000];
    large.read_exact_at(&mut bytes, (4 << 30) - 20_000).unwrap();
    assert!(bytes == [vec![0; 10_000], noise(6, 70_000), vec![0; 20_000]].concat());
}
