//! Layouts and archives on disk.

use imgbuild_layers::oci::OciError;

use super::images::{Layout, gzip, plain, run, tar, umoci, zstd};
use super::{Bench, chain};

#[test]
fn a_layout_is_read_in_place() {
    let bench = Bench::new();
    let layout = umoci(bench.dir.path(), "v1");
    let source = format!("oci-layout:{}", layout.display());
    let image = bench.fetch(&source).unwrap();
    let inspected = run("skopeo", &["inspect", "--format", "{{.Digest}}", &format!("oci:{}:v1", layout.display())]);
    assert_eq!(image.digest.as_str(), inspected);
    assert_eq!((image.layers.len(), bench.entries("tars-v1"), bench.entries("blobs-v1")), (2, 2, 0));
    for name in [format!("{source}:v1"), format!("{source}@{inspected}")] {
        assert_eq!(bench.resolve(&name).unwrap(), image.digest, "{name}");
    }
}

#[test]
fn which_image_of_a_layout_is_meant() {
    let bench = Bench::new();
    let mut layout = Layout::new(bench.dir.path().join("layout"));
    let (one, two) = (layout.image("amd64", &[gzip(tar("1", 9))]), layout.image("amd64", &[gzip(tar("2", 9))]));
    layout.tag(one.clone(), "one").tag(one.clone(), "uno");
    let digest = |source: String| bench.resolve(&source).map(|digest| digest.to_string());
    assert_eq!(digest(layout.source()).unwrap(), one["digest"], "two tags of one image are one image");
    layout.tag(two.clone(), "registry.example.com/two:2.0");
    assert_eq!(digest(format!("{}:2.0", layout.source())).unwrap(), two["digest"]);
    let message = digest(layout.source()).unwrap_err().to_string();
    assert!(message.contains("one, registry.example.com/two:2.0, uno"), "{message}");
    let message = digest(format!("{}:three", layout.source())).unwrap_err().to_string();
    assert!(message.contains("no image 'three'") && message.contains("one, "), "{message}");
    let message = digest(format!("{}@sha256:{}", layout.source(), "0".repeat(64))).unwrap_err().to_string();
    assert!(message.contains("no image 'sha256:000"), "{message}");

    // Several platforms at the top, as buildx writes them.
    let mut platforms = Layout::new(bench.dir.path().join("platforms"));
    let (amd64, arm64) = (platforms.image("amd64", &[]), platforms.image("arm64", &[]));
    platforms.add(arm64).add(amd64.clone());
    assert_eq!(digest(platforms.source()).unwrap(), amd64["digest"]);
}

#[test]
fn what_is_no_layout_is_refused() {
    let bench = Bench::new();
    let empty = bench.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let message = chain(&bench.fetch(&format!("oci-layout:{}", empty.display())).unwrap_err());
    assert!(message.contains("is no OCI layout: index.json is missing"), "{message}");
    let message = chain(&bench.fetch(&format!("oci-layout:{}/none", empty.display())).unwrap_err());
    assert!(message.contains("cannot read") && message.contains("No such file"), "{message}");
    let file = bench.dir.path().join("file.tar");
    std::fs::write(&file, tar("x", 9)).unwrap();
    for (kind, part) in [("oci", "index.json is missing"), ("docker", "manifest.json is missing")] {
        let message = chain(&bench.fetch(&format!("{kind}-archive:{}", file.display())).unwrap_err());
        assert!(message.contains(part), "{message}");
    }
    std::fs::write(&file, b"\x1f\x8bnot gzip").unwrap();
    let message = chain(&bench.fetch(&format!("oci-archive:{}", file.display())).unwrap_err());
    assert!(message.contains("is no OCI archive"), "{message}");
}

#[test]
fn a_layout_whose_blobs_are_damaged_is_refused() {
    let bench = Bench::new();
    let mut layout = Layout::new(bench.dir.path().join("layout"));
    let layer = gzip(tar("x", 50_000));
    let image = layout.image("amd64", std::slice::from_ref(&layer));
    layout.tag(image, "1");
    let blob = layout.blob_path(imgbuild_layers::oci::Digest::sha256(&layer.stored).as_str());
    let mut altered = layer.stored.clone();
    altered[25_000] ^= 1;
    std::fs::write(&blob, altered).unwrap();
    let error = bench.fetch(&layout.source()).unwrap_err();
    assert!(matches!(error, OciError::DigestMismatch { .. }), "not just a broken gzip: {error}");
    std::fs::write(&blob, &layer.stored[..25_000]).unwrap();
    assert!(matches!(bench.fetch(&layout.source()), Err(OciError::SizeMismatch { .. })));
    std::fs::remove_file(&blob).unwrap();
    assert!(bench.fetch(&layout.source()).unwrap_err().to_string().contains("is missing"));
    assert_eq!((bench.entries("tars-v1"), bench.entries("partial-v1")), (0, 0));
}

#[test]
fn archives_by_skopeo_hold_what_the_layout_holds() {
    let bench = Bench::new();
    let mut layout = Layout::new(bench.dir.path().join("layout"));
    let layers = [gzip(tar("one", 3000)), gzip(tar("two", 70_000)), gzip(tar("one", 3000))];
    let image = layout.image("amd64", &layers);
    layout.tag(image.clone(), "v1");
    let wanted: Vec<_> = layers.iter().map(|layer| layer.tar.clone()).collect();
    let (oci, docker) = (bench.dir.path().join("oci.tar"), bench.dir.path().join("docker.tar"));
    let from = format!("oci:{}:v1", layout.dir.display());
    let copy = |to: &str| run("skopeo", &["--insecure-policy", "copy", "--quiet", &from, to]);
    copy(&format!("oci-archive:{}:v1", oci.display()));
    copy(&format!("docker-archive:{}:example.com/os/worker:v1", docker.display()));

    for source in [format!("oci-archive:{}", oci.display()), format!("oci-archive:{}:v1", oci.display())] {
        let fetched = bench.fetch(&source).unwrap();
        assert_eq!(fetched.digest.as_str(), image["digest"].as_str().unwrap());
        assert_eq!(bench.tars(&fetched), wanted);
    }
    let name = format!("docker-archive:{}", docker.display());
    let saved = bench.fetch(&name).unwrap();
    assert_eq!(bench.tars(&saved), wanted);
    assert_eq!(bench.resolve(&format!("{name}:example.com/os/worker:v1")).unwrap(), saved.digest);
    let message = bench.resolve(&format!("{name}:example.com/os/worker:v2")).unwrap_err().to_string();
    assert!(message.contains("it holds example.com/os/worker:v1"), "{message}");

    // Compressed archives are the same.
    for (file, kind) in [(&oci, "oci"), (&docker, "docker")] {
        let bench = Bench::new();
        run("gzip", &[&file.display().to_string()]);
        let fetched = bench.fetch(&format!("{kind}-archive:{}.gz", file.display())).unwrap();
        assert_eq!(bench.tars(&fetched), wanted);
    }
}

/// Old dockers wrote a folder for each layer, and a link for one that was there already.
#[test]
fn a_docker_archive_with_linked_and_compressed_layers() {
    let bench = Bench::new();
    let (one, two) = (plain(tar("one", 3000)), zstd(tar("two", 3000)));
    let diff_ids: Vec<_> =
        [&one, &two, &one].iter().map(|l| imgbuild_layers::oci::Digest::sha256(&l.tar).to_string()).collect();
    let config = serde_json::json!({"architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let image =
        |tag: &str, layers: [&str; 3]| serde_json::json!({"Config": "c.json", "RepoTags": [tag], "Layers": layers});
    let good = image("good:1", ["a/layer.tar", "b/layer.tar", "c/layer.tar"]);
    let manifest = serde_json::json!([good, image("bad:1", ["b/layer.tar", "b/layer.tar", "c/layer.tar"])]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    add("manifest.json", manifest.to_string().as_bytes());
    add("c.json", config.to_string().as_bytes());
    add("a/layer.tar", &one.stored);
    add("b/layer.tar", &two.stored);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "c/layer.tar", "../a/layer.tar").unwrap();
    let file = bench.dir.path().join("saved.tar");
    std::fs::write(&file, builder.into_inner().unwrap()).unwrap();
    let source = format!("docker-archive:{}", file.display());

    let fetched = bench.fetch(&format!("{source}:docker.io/library/good:1")).unwrap();
    assert_eq!(bench.tars(&fetched), [one.tar.clone(), two.tar, one.tar]);
    let message = bench.resolve(&source).unwrap_err().to_string();
    assert!(message.contains("good:1, bad:1"), "{message}");
}
