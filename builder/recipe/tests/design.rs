//! The recipe of the design page, word for word, is read as what it says.

mod common;

use common::Folder;
use imgbuild_recipe::*;

const BASE: &str = "[prune]\nkeep = [\"/usr/share/doc/keep\"]\n";

/// Design §4; only the two addresses that the page shortens with an ellipsis are written out.
const DESIGN: &str = include_str!("design.toml");

fn folder() -> Folder {
    Folder::new(&[
        ("recipes/base/debian-12.toml", BASE),
        ("recipes/worker.toml", DESIGN),
        ("overlays/worker/", ""),
        ("overlays/hooks/network.sh", "#!/bin/sh\n"),
    ])
}

#[test]
fn every_value_is_what_the_page_says() {
    let folder = folder();
    let recipe = folder.ok(&["recipes/worker.toml"], &[]);
    assert_eq!(
        recipe.image,
        Image {
            name: "worker".to_owned(),
            version: Some("1.4.2".to_owned()),
            arch: Arch::Amd64,
            source_date_epoch: None
        }
    );
    assert_eq!(recipe.dir, folder.path("recipes"));
    let sources: Vec<_> = recipe.layers.iter().map(|layer| (layer.name.as_str(), &layer.source)).collect();
    let registry = |repository: &str, tag: &str| {
        OciSource::Registry(RegistryRef {
            registry: "registry.example.com".to_owned(),
            repository: repository.to_owned(),
            tag: Some(tag.to_owned()),
            digest: None,
        })
    };
    let copy = imgbuild_recipe::Copy { from: "/usr/local/bin/kubelet".to_owned(), to: "/usr/bin/kubelet".to_owned() };
    let expected = [
        ("base", Source::Oci(OciLayer { image: registry("os/debian-worker", "12"), copy: vec![] })),
        ("kubelet", Source::Oci(OciLayer { image: registry("kubernetes/kubelet", "v1.34.1"), copy: vec![copy] })),
        (
            "crictl",
            Source::Url(UrlLayer {
                url: "https://example.com/crictl.tar.gz".to_owned(),
                sha256: "0123456789abcdef".repeat(4),
                to: "/usr/bin".to_owned(),
                mode: None,
            }),
        ),
        (
            "tools",
            Source::Debian(DebianLayer {
                suite: "bookworm".to_owned(),
                packages: vec!["ethtool".to_owned(), "lvm2".to_owned()],
                components: vec!["main".to_owned()],
                ..DebianLayer::default()
            }),
        ),
        ("site", Source::Overlay(OverlayLayer { path: folder.path("overlays/worker") })),
    ];
    assert_eq!(sources, expected.iter().map(|(name, source)| (*name, source)).collect::<Vec<_>>());
    assert_eq!(
        recipe.prune,
        Prune {
            paths: ["doc", "man", "locale"].map(|name| format!("/usr/share/{name}")).to_vec(),
            keep: vec!["/usr/share/doc/keep".to_owned()],
            groups: Vec::new(),
        }
    );
    let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        recipe.kernel.clone().unwrap(),
        Kernel {
            version: "6.1.*".to_owned(),
            modules: strings(&["net/virtio", "net/common-server", "storage/nvme"]),
            firmware: Firmware::Needed,
            cmdline: strings(&["console=tty0", "console=ttyS0,115200"]),
        }
    );
    assert_eq!(
        recipe.root,
        Root {
            delivery: Delivery::Fetch,
            compression: Compression { algorithm: Algorithm::Zstd, level: 9, block: ByteSize(1 << 20) },
            overlay: Overlay { size: Size::Percent(25) },
            ca: None,
        }
    );
    let tmpfs: Vec<_> = recipe.tmpfs.iter().map(|t| (t.path.as_str(), t.size, t.mode)).collect();
    assert_eq!(
        tmpfs,
        [("/var/lib/kubelet", Size::Percent(20), Mode(0o755)), ("/var/lib/containerd", Size::Percent(40), Mode(0o755)),]
    );
    let [hook] = recipe.hooks.as_slice() else { panic!("{:?}", recipe.hooks) };
    assert_eq!(
        (hook.name.as_str(), hook.stage, hook.timeout, hook.on_failure),
        ("network.sh", Stage::PreInit, Seconds(30), OnFailure::Reboot)
    );
    assert_eq!(hook.script, folder.path("overlays/hooks/network.sh"));
    assert_eq!(recipe.budget, Budget { ram: Some(ByteSize(2 << 30)), root: Some(ByteSize(200 << 20)) });
    let text = |text: &str| Some(text.to_owned());
    let [mount, unit, run] = recipe.tests.as_slice() else { panic!("{:?}", recipe.tests) };
    assert_eq!((&mount.mount, &mount.fstype), (&text("/var/lib/kubelet"), &text("tmpfs")));
    assert_eq!((&unit.unit, &unit.state), (&text("containerd.service"), &text("active")));
    assert_eq!((&run.run, &run.stdout), (&text("kubelet --version"), &text("Kubernetes v")));
}

#[test]
fn places_are_lines_of_the_file() {
    let folder = folder();
    let recipe = folder.ok(&["recipes/worker.toml"], &[]);
    for layer in &recipe.layers {
        let (file, line) = layer.place.rsplit_once(':').unwrap();
        assert_eq!(file, folder.path("recipes/worker.toml").to_str().unwrap());
        assert_eq!(layer.origin, format!("worker.toml:{line}"));
        let line: usize = line.parse().unwrap();
        let lines: Vec<&str> = DESIGN.lines().collect();
        assert!(lines[line - 1].starts_with("[[layer]]"), "{}", lines[line - 1]);
        let name = lines[line].split('"').nth(1).unwrap();
        assert_eq!(name, layer.name);
    }
}

#[test]
fn what_show_prints_is_the_same_recipe() {
    let folder = folder();
    let recipe = folder.ok(&["recipes/worker.toml"], &["kernel.cmdline=['a=$${mac}']"]);
    assert_eq!(recipe.kernel.as_ref().unwrap().cmdline, ["a=${mac}"]);
    let text = recipe.to_toml();
    folder.write("elsewhere/shown.toml", &text);
    let again = folder.ok(&["elsewhere/shown.toml"], &[]);
    assert_eq!(again.to_toml(), text);
    assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&recipe).unwrap());
}

#[test]
fn tests_go_through_a_manifest_as_they_stand() {
    let recipe = folder().ok(&["recipes/worker.toml"], &[]);
    let json = serde_json::to_value(&recipe.tests).unwrap();
    assert_eq!(json[0], serde_json::json!({ "mount": "/var/lib/kubelet", "fstype": "tmpfs" }));
    let read: Vec<Test> = serde_json::from_value(json).unwrap();
    let without_place = |test: &Test| Test { place: String::new(), ..test.clone() };
    assert_eq!(read, recipe.tests.iter().map(without_place).collect::<Vec<_>>());
    assert!(serde_json::from_str::<Test>(r#"{ "unt": "x" }"#).is_err());
}
