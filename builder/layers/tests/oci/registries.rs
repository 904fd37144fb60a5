//! A real registry, healthy.

use imgbuild_layers::oci::OciError;

use super::images::{Layout, gzip, plain, run, tar, umoci, zstd};
use super::servers::{DockerRegistry, Server, text};
use super::{Bench, chain};

#[test]
fn an_image_by_umoci_pushed_by_skopeo() {
    let bench = Bench::new();
    let registry = DockerRegistry::plain(bench.dir.path());
    let layout = umoci(bench.dir.path(), "v1");
    let from = format!("oci:{}:v1", layout.display());
    registry.push(&from, "os/worker:v1", &[]);
    registry.push(&from, "os/worker:docker", &["--format", "v2s2"]);
    let tag = format!("{}/os/worker:v1", registry.address);

    let digest = bench.resolve(&tag).unwrap();
    let inspected =
        run("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{tag}")]);
    assert_eq!(digest.as_str(), inspected);
    let raw = run("skopeo", &["inspect", "--tls-verify=false", "--raw", &format!("docker://{tag}")]);
    let raw: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert!(raw.get("mediaType").is_none(), "umoci leaves it out, and that is what this is about: {raw}");
    assert_eq!(bench.entries("tars-v1"), 0, "resolving reads no layer");

    let image = bench.fetch(&tag).unwrap();
    assert_eq!((image.digest.as_str(), image.layers.len()), (inspected.as_str(), 2));
    let tars = bench.tars(&image);
    let names = |layer| -> Vec<String> {
        let (file, path) = bench.oci().open_layer_tar(layer).unwrap();
        let entries = imgbuild_layers::read_tar(file, path).unwrap();
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
    };
    assert!(names(&image.layers[0]).iter().any(|name| name.ends_with("etc/motd")), "{:?}", names(&image.layers[0]));
    assert!(names(&image.layers[1]).iter().any(|name| name.ends_with("second")), "layers come in the manifest's order");

    // Each task is reported once, under the layer's name.
    let mut tasks = bench.seen.started();
    let all = tasks.len();
    tasks.sort();
    tasks.dedup();
    assert_eq!(
        (tasks.len(), tasks.iter().filter(|task| task.starts_with("layer base blob sha256:")).count()),
        (all, 2)
    );

    // Docker's media types, other digests, the same layers.
    let docker = bench.fetch(&format!("{}/os/worker:docker", registry.address)).unwrap();
    assert_ne!(docker.digest, image.digest);
    assert_eq!(docker.layers[0].diff_id, image.layers[0].diff_id);
    assert!(docker.layers[0].media_type.contains("docker"), "{}", docker.layers[0].media_type);

    // A digest instead of a tag, and then a cache that needs no registry.
    let by_digest = format!("{}/os/worker@{digest}", registry.address);
    assert_eq!(bench.fetch(&by_digest).unwrap().digest, digest);
    drop(registry);
    let offline = Bench { options: imgbuild_layers::oci::Options { offline: true, ..bench.options.clone() }, ..bench };
    let again = offline.fetch(&by_digest).unwrap();
    assert_eq!(offline.tars(&again), tars);
    let message = offline.fetch(&tag).unwrap_err().to_string();
    assert!(message.contains(&tag) && message.contains("--offline"), "{message}");
    let cold = Bench { options: offline.options.clone(), ..Bench::new() };
    let message = cold.fetch(&by_digest).unwrap_err().to_string();
    assert!(message.contains(digest.as_str()) && message.contains("os/worker"), "{message}");
}

#[test]
fn an_index_and_every_compression() {
    let bench = Bench::new();
    let registry = DockerRegistry::plain(bench.dir.path());
    let mut layout = Layout::new(bench.dir.path().join("layout"));
    let layers = [gzip(tar("one", 3000)), zstd(tar("two", 300_000)), plain(tar("three", 3000)), gzip(tar("one", 3000))];
    let amd64 = layout.image("amd64", &layers);
    let arm64 = layout.image("arm64", &[gzip(tar("arm", 10))]);
    let index = layout.index(&[arm64.clone(), amd64.clone()]);
    layout.tag(index, "multi");
    registry.push(&format!("oci:{}:multi", layout.dir.display()), "multi:1", &["--all", "--preserve-digests"]);
    let source = format!("{}/multi:1", registry.address);

    let image = bench.fetch(&source).unwrap();
    assert_eq!(image.digest.as_str(), amd64["digest"].as_str().unwrap(), "pinned to the manifest, not to the index");
    let wanted: Vec<_> = layers.iter().map(|layer| layer.tar.clone()).collect();
    assert_eq!(bench.tars(&image), wanted);
    assert_eq!(bench.fetch_for(&source, "aarch64").unwrap().digest.as_str(), arm64["digest"].as_str().unwrap());
    let message = bench.fetch_for(&source, "riscv64").unwrap_err().to_string();
    assert!(message.contains("linux/riscv64") && message.contains("linux/arm64, linux/amd64"), "{message}");

    // One image without an index is checked by its config.
    let single = format!("{}/multi@{}", registry.address, arm64["digest"].as_str().unwrap());
    let message = bench.fetch(&single).unwrap_err().to_string();
    assert!(message.contains("not made for linux/amd64; it is there for linux/arm64"), "{message}");
}

#[test]
fn what_is_not_there_is_told_apart() {
    let bench = Bench::new();
    let registry = DockerRegistry::plain(bench.dir.path());
    let layout = umoci(bench.dir.path(), "v1");
    registry.push(&format!("oci:{}:v1", layout.display()), "os/worker:v1", &[]);
    for (name, part) in [("os/worker:v2", "os/worker:v2"), ("os/nothing:v1", "os/nothing:v1")] {
        let error = bench.fetch(&format!("{}/{name}", registry.address)).unwrap_err();
        assert!(matches!(error, OciError::NotFound { .. }), "{error}");
        assert!(error.to_string().contains(part) && error.to_string().contains(&registry.address), "{error}");
    }
    let missing = format!("{}/os/worker@sha256:{}", registry.address, "0".repeat(64));
    let message = bench.fetch(&missing).unwrap_err().to_string();
    assert!(message.contains("check name and tag"), "{message}");

    let address = registry.address.clone();
    drop(registry);
    let message = chain(&bench.fetch(&format!("{address}/os/worker:v1")).unwrap_err());
    assert!(message.contains("no connection") && message.contains("refused"), "{message}");
    assert!(bench.seen.details().contains("trying again"), "{}", bench.seen.details());
    // Without a network a resolver may take its time to say so: ask it once.
    let mut once = Bench::new();
    once.options.retry.attempts = 1;
    let message = chain(&once.fetch("registry.invalid/os/worker:v1").unwrap_err());
    assert!(message.contains("name cannot be resolved"), "{message}");
    let web = Server::start(|_| text(404, "<h1>Not found</h1>"));
    let message = chain(&bench.fetch(&format!("{}/x:1", web.address)).unwrap_err());
    assert!(message.contains("no container registry"), "{message}");
}
