//! What the oracle tests share: packing layers, umoci's unpacking of them, and ours, as the same text.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use imgbuild_layers::{TarError, read_tar};
use imgbuild_tree::{DumpOptions, MergeError, Origin, RootTree, Tree};
use sha2::{Digest, Sha256};

/// A layer's tar, made of raw headers so that it can hold what no packer writes.
#[derive(Debug, Default, Clone)]
pub struct Layer(pub Vec<u8>);

impl Layer {
    pub fn header(kind: u8, path: &str, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkflag = [kind];
        header
    }
    pub fn add(mut self, mut header: tar::Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let digits = (1..9).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
            data.extend_from_slice(format!("{} {key}=", rest + digits).as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let mut header = Self::header(b'x', "pax", 0o644);
        header.set_size(data.len() as u64);
        self.add(header, &data)
    }
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.add(Self::header(b'5', path, mode), b"")
    }
    pub fn file(self, path: &str, data: &str) -> Self {
        let mut header = Self::header(b'0', path, 0o644);
        header.set_size(data.len() as u64);
        self.add(header, data.as_bytes())
    }
    pub fn link(self, path: &str, target: &str) -> Self {
        self.linked(b'2', path, target)
    }
    pub fn hard(self, path: &str, target: &str) -> Self {
        self.linked(b'1', path, target)
    }
    fn linked(self, kind: u8, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, path, 0o777);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.add(header, b"")
    }
    pub fn device(self, kind: u8, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(kind, path, 0o620);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.add(header, b"")
    }
}

/// Our way: each layer read and applied.
pub fn flattened(dir: &Path, layers: &[Layer]) -> Result<RootTree, String> {
    let mut tree = Tree::new();
    for (i, layer) in layers.iter().enumerate() {
        let path = dir.join(format!("layer{i}.tar"));
        fs::write(&path, &layer.0).unwrap();
        let entries =
            read_tar(Arc::new(File::open(&path).unwrap()), path.into()).map_err(|e: TarError| e.to_string())?;
        tree.apply(Origin(i as u16), entries).map_err(|e: MergeError| e.to_string())?;
    }
    Ok(tree)
}

/// Umoci's way: an image made of the layers, unpacked to `dir/bundle/rootfs`; its error output where it refuses.
pub fn unpacked(dir: &Path, layers: &[Layer]) -> Result<std::path::PathBuf, String> {
    let layout = dir.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8]| {
        let digest: String = Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        fs::write(blobs.join(&digest), bytes).unwrap();
        (format!("sha256:{digest}"), bytes.len())
    };
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for layer in layers {
        let (digest, size) = blob(&layer.0);
        descriptors.push(serde_json::json!(
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size}));
        diff_ids.push(digest);
    }
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let (digest, size) = blob(config.to_string().as_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size},
        "layers": descriptors});
    let (digest, size) = blob(manifest.to_string().as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
         "annotations": {"org.opencontainers.image.ref.name": "t"}}]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let bundle = dir.join("bundle");
    let output = Command::new("umoci")
        .args(["unpack", "--image", &format!("{}:t", layout.display())])
        .arg(&bundle)
        .output()
        .expect("umoci must be installed");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(bundle.join("rootfs"))
}

/// A folder on disk as [`Tree::dump`] shows a tree, with times and contents.
pub fn dump_disk(root: &Path) -> String {
    let mut paths = Vec::new();
    walk(root, root, &mut paths);
    let mut numbers: HashMap<u64, usize> = HashMap::new();
    let mut text = String::new();
    for path in paths {
        let disk = if path == b"/" { root.to_path_buf() } else { root.join(Path::new(bytes(&path[1..]))) };
        let meta = fs::symlink_metadata(&disk).unwrap();
        let kind = meta.file_type();
        let letter = match () {
            () if kind.is_dir() => 'd',
            () if kind.is_file() => 'f',
            () if kind.is_symlink() => 'l',
            () if kind.is_char_device() => 'c',
            () if kind.is_block_device() => 'b',
            () if kind.is_fifo() => 'p',
            () => 's',
        };
        let size = if kind.is_file() { meta.len().to_string() } else { "-".to_owned() };
        let (mode, uid, gid, mtime) = (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime());
        write!(text, "{} {letter} {mode:04o} {uid}:{gid} {size} {mtime}", escaped(&path)).unwrap();
        if kind.is_symlink() {
            write!(text, " -> {}", escaped(fs::read_link(&disk).unwrap().as_os_str().as_bytes())).unwrap();
        }
        if matches!(letter, 'c' | 'b') {
            let dev = meta.rdev();
            write!(text, " dev={}:{}", rustix::fs::major(dev), rustix::fs::minor(dev)).unwrap();
        }
        if letter != 'd' && meta.nlink() > 1 {
            let next = numbers.len() + 1;
            write!(text, " link={}", numbers.entry(meta.ino()).or_insert(next)).unwrap();
        }
        if kind.is_file() {
            text.push_str(" sha256=");
            for byte in Sha256::digest(fs::read(&disk).unwrap()) {
                write!(text, "{byte:02x}").unwrap();
            }
        }
        for (name, value) in xattrs(&disk) {
            write!(text, " xattr.{}=", escaped(&name)).unwrap();
            for byte in value {
                write!(text, "{byte:02x}").unwrap();
            }
        }
        text.push('\n');
    }
    text
}

fn bytes(path: &[u8]) -> &std::ffi::OsStr {
    OsStrExt::from_bytes(path)
}

/// Absolute paths below the root, parents first, children in bytewise order.
fn walk(root: &Path, here: &Path, paths: &mut Vec<Vec<u8>>) {
    let below = here.strip_prefix(root).unwrap().as_os_str().as_bytes();
    paths.push([b"/", below].concat());
    if !fs::symlink_metadata(here).unwrap().is_dir() {
        return;
    }
    let mut names: Vec<_> = fs::read_dir(here).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    for name in names {
        walk(root, &here.join(name), paths);
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0_u8; 65536];
    let len = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..len].split(|b| *b == 0).filter(|n| !n.is_empty());
    names
        .map(|name| {
            let mut value = vec![0_u8; 65536];
            let len = rustix::fs::lgetxattr(path, bytes(name), &mut value[..]).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\\' | 0..=0x20 | 0x7f.. => write!(text, "\\x{byte:02x}").unwrap(),
            _ => text.push(char::from(*byte)),
        }
    }
    text
}

/// Our dump and umoci's, without the times of folders that umoci left at the time of day: those that no layer stated,
/// and parents that it touched later without setting them back. All test layers are of before [`TODAY`].
pub fn comparable(tree: &RootTree, disk: &str) -> (String, String) {
    let ours = tree.dump(DumpOptions { mtime: true, content: true, origin: false }).unwrap();
    let today: Vec<&str> = disk
        .lines()
        .filter(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            words[1] == "d" && words[5].parse::<i64>().unwrap() > TODAY
        })
        .filter_map(|line| line.split(' ').next())
        .collect();
    let timeless = |text: &str| -> String {
        text.lines()
            .map(|line| {
                let mut words: Vec<&str> = line.split(' ').collect();
                if today.contains(&words[0]) && words[1] == "d" {
                    words[5] = "-";
                }
                words.join(" ") + "\n"
            })
            .collect()
    };
    (timeless(&ours), timeless(disk))
}

/// 2023, in seconds since 1970.
const TODAY: i64 = 1_700_000_000;

/// Fails where umoci's unpacking and ours differ, showing the lines.
pub fn same_as_umoci(layers: &[Layer]) {
    let dir = tempfile::tempdir().unwrap();
    let ours = flattened(dir.path(), layers).unwrap();
    let theirs = unpacked(dir.path(), layers).unwrap();
    let (ours, theirs) = comparable(&ours, &dump_disk(&theirs));
    assert!(ours == theirs, "{}", difference(&ours, &theirs));
}

pub fn difference(ours: &str, theirs: &str) -> String {
    let only = |a: &str, b: &str, mark: &str| -> String {
        let known: Vec<&str> = b.lines().collect();
        a.lines().filter(|line| !known.contains(line)).map(|line| format!("{mark} {line}\n")).collect()
    };
    format!("ours and umoci's differ:\n{}{}", only(ours, theirs, "ours  "), only(theirs, ours, "umoci "))
}
