//! Images made by hand, so that every byte is known.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_layers::oci::Digest;
use serde_json::{Value, json};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer as it is stored, and its tar.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) media_type: String,
    pub(crate) stored: Vec<u8>,
    pub(crate) tar: Vec<u8>,
}

/// A tar with one file whose content is `len` bytes that do not compress.
pub(crate) fn tar(name: &str, len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ name.bytes().fold(0, |sum, b| sum * 31 + u64::from(b));
    let noise = |_| {
        (state, _) = (state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1), ());
        (state >> 56) as u8
    };
    let content: Vec<u8> = (0..len).map(noise).collect();
    tar_of(name, &content)
}

/// A tar with one file.
pub(crate) fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

pub(crate) fn plain(tar: Vec<u8>) -> Layer {
    Layer { media_type: LAYER.to_owned(), stored: tar.clone(), tar }
}

pub(crate) fn gzip(tar: Vec<u8>) -> Layer {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&tar).unwrap();
    Layer { media_type: format!("{LAYER}+gzip"), stored: encoder.finish().unwrap(), tar }
}

pub(crate) fn zstd(tar: Vec<u8>) -> Layer {
    Layer { media_type: format!("{LAYER}+zstd"), stored: zstd::encode_all(tar.as_slice(), 1).unwrap(), tar }
}

/// An OCI layout in the making.
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    entries: Vec<Value>,
}

impl Layout {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir, entries: Vec::new() }
    }

    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        std::fs::write(self.blob_path(digest.as_str()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.as_str(), "size": bytes.len()})
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "/"))
    }

    /// An image; returns its descriptor, with platform.
    pub(crate) fn image(&self, arch: &str, layers: &[Layer]) -> Value {
        self.image_with(arch, layers, |_, _| ())
    }

    /// The same with a chance to spoil config and manifest.
    pub(crate) fn image_with(&self, arch: &str, layers: &[Layer], spoil: impl FnOnce(&mut Value, &mut Value)) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(&layer.tar).to_string()).collect();
        let mut config = json!({
            "architecture": arch, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}
        });
        let layers: Vec<_> = layers.iter().map(|layer| self.blob(&layer.media_type, &layer.stored)).collect();
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers});
        spoil(&mut config, &mut manifest);
        manifest["config"] = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let mut descriptor = self.blob(MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({"os": "linux", "architecture": arch});
        descriptor
    }

    pub(crate) fn index(&self, entries: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        self.blob(INDEX, index.to_string().as_bytes())
    }

    pub(crate) fn tag(&mut self, mut descriptor: Value, tag: &str) -> &mut Self {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.add(descriptor)
    }

    pub(crate) fn add(&mut self, descriptor: Value) -> &mut Self {
        self.entries.push(descriptor);
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        std::fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
        self
    }

    pub(crate) fn source(&self) -> String {
        format!("oci-layout:{}", self.dir.display())
    }
}

/// Runs a tool that has to succeed, and returns what it prints.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An image as umoci makes them: a manifest without a media type, blobs that nothing refers to.
pub(crate) fn umoci(dir: &Path, tag: &str) -> PathBuf {
    let layout = dir.join("umoci");
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/motd"), "hello\n").unwrap();
    let image = format!("{}:{tag}", layout.display());
    run("umoci", &["init", "--layout", &layout.display().to_string()]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["insert", "--image", &image, "--rootless", &root.join("etc").display().to_string(), "/etc"]);
    std::fs::write(root.join("second"), "second\n").unwrap();
    run("umoci", &["insert", "--image", &image, "--rootless", &root.join("second").display().to_string(), "/second"]);
    layout
}
