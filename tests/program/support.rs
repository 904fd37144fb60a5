//! A place for one test: recipes, images, a cache and a folder for bundles of its own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The program under test.
pub(crate) const IMGBUILD: &str = env!("CARGO_BIN_EXE_imgbuild");

/// A temporary folder that everyone may enter, with `recipe.toml` and what it names.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes `recipe.toml`: an image `small` of version 1 and what is given.
    pub(crate) fn recipe(&self, rest: &str) -> PathBuf {
        self.write("recipe.toml", format!("[image]\nname = \"small\"\nversion = \"1\"\n{rest}"))
    }

    /// An OCI image layout `images` with one image of these layers, tagged `v1`.
    pub(crate) fn layout(&self, layers: &[Vec<u8>]) {
        let blobs = self.join("images/blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| -> Value {
            let hex = hex(bytes);
            fs::write(blobs.join(&hex), bytes).unwrap();
            json!({ "digest": format!("sha256:{hex}"), "size": bytes.len() })
        };
        let described = |mut value: Value, media_type: &str| {
            value["mediaType"] = media_type.into();
            value
        };
        let diff_ids: Vec<_> = layers.iter().map(|tar| format!("sha256:{}", hex(tar))).collect();
        let config =
            json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = described(put(config.to_string().as_bytes()), "application/vnd.oci.image.config.v1+json");
        let layers: Vec<_> = layers
            .iter()
            .map(|tar| described(put(&gzip(tar)), "application/vnd.oci.image.layer.v1.tar+gzip"))
            .collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers });
        let mut entry = described(put(manifest.to_string().as_bytes()), "application/vnd.oci.image.manifest.v1+json");
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
        self.write("images/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        self.write("images/index.json", json!({ "schemaVersion": 2, "manifests": [entry] }).to_string());
    }

    /// `imgbuild` with a cache of its own and nothing from the environment that matters.
    pub(crate) fn imgbuild(&self) -> Command {
        let mut command = Command::new(IMGBUILD);
        self.prepare(&mut command);
        command
    }

    /// Gives any command the same surroundings.
    pub(crate) fn prepare(&self, command: &mut Command) {
        command.current_dir(self.path()).env("IMGBUILD_CACHE", self.join("cache")).env_remove("SOURCE_DATE_EPOCH");
    }

    /// `imgbuild build recipe.toml` with these arguments.
    pub(crate) fn build(&self, arguments: &[&str]) -> Output {
        self.imgbuild().args(["build", "recipe.toml"]).args(arguments).output().unwrap()
    }

    /// Names in a folder, hidden ones too, sorted; empty if it is missing.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(items) = fs::read_dir(self.join(folder)) else { return Vec::new() };
        let mut all: Vec<_> = items.map(|i| i.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }
}

/// Fails unless the command did what it was asked for.
#[track_caller]
pub(crate) fn succeeds(output: &Output) {
    assert!(output.status.success(), "{:?}\n{}", output.status, text(&output.stderr));
}

/// Fails unless the command ended with this code and said all of this.
#[track_caller]
pub(crate) fn fails(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "does not say {word:?}:\n{said}");
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What goes into a tar.
pub(crate) enum Item<'a> {
    Folder(&'a str),
    File(&'a str, &'a [u8]),
    /// With owner, group, mode and a file capability.
    Capable(&'a str, &'a [u8]),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Device(&'a str, u32, u32),
}

/// A tar of these.
pub(crate) fn tar(items: &[Item<'_>]) -> Vec<u8> {
    use tar::EntryType;
    let mut builder = tar::Builder::new(Vec::new());
    for item in items {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_600_000_000);
        header.set_mode(0o644);
        let (path, kind, content): (&str, EntryType, &[u8]) = match item {
            Item::Folder(path) => {
                header.set_mode(0o755);
                (path, EntryType::Directory, &[])
            }
            Item::File(path, content) => (path, EntryType::Regular, content),
            Item::Capable(path, content) => {
                header.set_uid(1234);
                header.set_gid(70_000);
                header.set_mode(0o4755);
                // cap_net_raw=ep, revision 2, as the kernel stores it.
                let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
                let pax = ("SCHILY.xattr.security.capability", &capability[..]);
                builder.append_pax_extensions([pax]).unwrap();
                (path, EntryType::Regular, content)
            }
            Item::Symlink(path, target) => {
                header.set_link_name_literal(target).unwrap();
                (path, EntryType::Symlink, &[])
            }
            Item::HardLink(path, target) => {
                header.set_link_name_literal(target).unwrap();
                (path, EntryType::Link, &[])
            }
            Item::Device(path, major, minor) => {
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                (path, EntryType::Char, &[])
            }
        };
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        // The builder would clean the path; what is hostile must stay so.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Two layers of ordinary content with an owner, a capability, links, a device and a whiteout.
pub(crate) fn ordinary() -> Vec<Vec<u8>> {
    let large: Vec<u8> = (0..600_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    let base = tar(&[
        Item::Folder("usr/"),
        Item::Folder("usr/bin/"),
        Item::Capable("usr/bin/payload-of-the-image", &large),
        Item::HardLink("usr/bin/second-name", "usr/bin/payload-of-the-image"),
        Item::Symlink("bin", "usr/bin"),
        Item::File("etc/removed", b"x"),
        Item::Device("dev-null", 1, 3),
    ]);
    let upper = tar(&[Item::File("etc/.wh.removed", b""), Item::File("etc/kept", b"hello\n")]);
    vec![base, upper]
}

/// A recipe for [`ordinary`] layers.
pub(crate) const ORDINARY: &str = "[[layer]]\nname = \"base\"\noci = \"oci-layout:images:v1\"\n";
