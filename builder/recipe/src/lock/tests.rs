//! Locks written, read, and compared with recipes that moved on.

use std::path::{Path, PathBuf};

use super::*;
use crate::load;

const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

const RECIPE: &str = r#"
[image]
name = "worker"
[[layer]]
name = "base"
oci = "r.io/os/debian:12"
[[layer]]
name = "layout"
oci = "oci-layout:images/x:1"
[[layer]]
name = "crictl"
url = "https://example.com/crictl.tar.gz"
sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
to = "/usr/bin"
[[layer]]
name = "data"
tar = "data.tar"
[[layer]]
name = "motd"
file = "motd"
to = "/etc/motd"
[[layer]]
name = "tools"
debian = { suite = "bookworm", packages = ["lvm2", "ethtool"] }
[[layer]]
name = "site"
overlay = "site"
[[hook]]
stage = "pre-init"
script = "network.sh"
"#;

struct House {
    dir: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["images/x", "site", "other"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for file in ["data.tar", "motd", "network.sh", "net2.sh"] {
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        Self { dir }
    }

    fn recipe(&self, text: &str) -> Recipe {
        let path = self.dir.path().join("worker.toml");
        std::fs::write(&path, text).unwrap();
        load(&[path], &[] as &[&str]).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// The hashes that a build would find.
fn found(recipe: &Recipe) -> LocalHashes {
    let mut hashes = LocalHashes::of_files(recipe).unwrap();
    for layer in &recipe.layers {
        match layer.source.kind() {
            "debian" => hashes.layers.insert(layer.name.clone(), HASH.to_owned()),
            "overlay" => hashes.layers.insert(layer.name.clone(), format!("sha256:{HASH}")),
            _ => None,
        };
    }
    hashes
}

fn lock(recipe: &Recipe) -> Lock {
    let hashes = found(recipe);
    let layers = recipe.layers.iter().map(|layer| {
        let hash = hashes.layers.get(&layer.name).cloned().unwrap_or_else(|| format!("sha256:{HASH}"));
        let package = |name: &str, sha256: &str| LockedPackage {
            name: name.to_owned(),
            version: "1:2.3-4+deb12u1".to_owned(),
            arch: "amd64".to_owned(),
            sha256: sha256.to_owned(),
        };
        let packages = match layer.source.kind() {
            "debian" => vec![package("zlib1g", HASH), package("local", ""), package("lvm2", OTHER)],
            _ => Vec::new(),
        };
        LockedLayer::new(recipe, layer, Pin { hash, epoch: 1_700_000_000, packages })
    });
    let hashes_of = &hashes.hooks;
    let hooks = recipe.hooks.iter().map(|hook| LockedHook::new(recipe, hook, hashes_of[&hook.id()].clone()));
    Lock {
        version: VERSION,
        recipe: recipe.image.name.clone(),
        arch: recipe.image.arch,
        ca: hashes.ca,
        layers: layers.collect(),
        hooks: hooks.collect(),
    }
}

#[test]
fn a_lock_is_read_as_it_was_written() {
    let house = House::new();
    let recipe = house.recipe(&format!("{RECIPE}[root]\nca = \"motd\"\n"));
    let lock = lock(&recipe);
    assert_eq!(recipe.lock_path(), house.dir.path().canonicalize().unwrap().join("worker.lock"));
    assert!(lock.save(&recipe.lock_path()).unwrap());
    assert!(!lock.save(&recipe.lock_path()).unwrap(), "an unchanged lock is not written again");
    assert_eq!(Lock::load(&recipe.lock_path()).unwrap().unwrap(), lock);
    assert_eq!(lock.disagreements(&recipe, &found(&recipe)), []);
    assert!(recipe.layers.iter().all(|layer| lock.layer(&recipe, layer, None).is_some()));
    // Nothing but the lock is left, and nothing in it tells of this machine.
    let left: Vec<_> = std::fs::read_dir(house.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
    assert!(!lock.to_toml().contains(&*house.dir.path().to_string_lossy()));
}

#[test]
fn the_text_is_fit_for_version_control() {
    let house = House::new();
    let text = lock(&house.recipe(RECIPE)).to_toml();
    for line in [
        "# Written by `imgbuild lock`: the exact inputs of this image. Keep it under version control; do not edit it.",
        "image = \"oci-layout:images/x:1\"",
        "asked = [\"ethtool\", \"lvm2\"]",
        "    { name = \"local\", version = \"1:2.3-4+deb12u1\", arch = \"amd64\" },",
        "path = \"site\"",
        "stage = \"pre-init\"",
        "script = \"network.sh\"",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    let packages: Vec<_> = text.lines().filter(|l| l.starts_with("    {")).collect();
    assert!(packages.is_sorted() && packages.len() == 3, "{packages:?}");
}

#[test]
fn a_stale_lock_says_what_changed() {
    let house = House::new();
    let lock = lock(&house.recipe(RECIPE));
    let kubelet = "[[layer]]\nname = \"kubelet\"\noci = \"r.io/k8s/kubelet:1\"\n[[hook]]";
    for (old, new, expected) in [
        ("debian:12", "debian:13", "layer `base` has another oci, was r.io/os/debian:12, is now r.io/os/debian:13"),
        (
            "images/x:1",
            "images/x",
            "layer `layout` has another oci, was oci-layout:images/x:1, is now oci-layout:images/x",
        ),
        ("[[hook]]", kubelet, "layer `kubelet` is new"),
        ("name = \"motd\"", "name = \"banner\"", "layer `banner` is new; layer `motd` is gone"),
        (
            "crictl.tar.gz",
            "2/crictl.tar.gz",
            "layer `crictl` has another url, was https://example.com/crictl.tar.gz, is now https://example.com/2/crictl.tar.gz",
        ),
        ("[\"lvm2\", \"ethtool\"]", "[\"ethtool\", \"lvm2\"]", ""),
        ("[\"lvm2\", \"ethtool\"]", "[\"ethtool\", \"jq\"]", "layer `tools` asks for jq and no longer asks for lvm2"),
        ("suite = \"bookworm\"", "suite = \"trixie\"", "layer `tools` has another suite, was bookworm, is now trixie"),
        (
            "suite = \"bookworm\"",
            "suite = \"bookworm\", snapshot = \"2026-11-01\"",
            "layer `tools` has a snapshot now, 20261101T000000Z",
        ),
        (
            "debian = { suite = \"bookworm\", packages = [\"lvm2\", \"ethtool\"] }",
            "overlay = \"other\"",
            "layer `tools` has another kind, was debian, is now overlay",
        ),
        ("[[hook]]", "[root]\nca = \"motd\"\n[[hook]]", "the certificates of `root.ca` are others"),
        ("overlay = \"site\"", "overlay = \"other\"", "layer `site` has another overlay, was site, is now other"),
        ("network.sh", "net2.sh", "hook `pre-init/net2.sh` is new; hook `pre-init/network.sh` is gone"),
        (
            "script = \"network.sh\"",
            "script = \"net2.sh\"\nname = \"network.sh\"",
            "hook `pre-init/network.sh` has another script, was network.sh, is now net2.sh",
        ),
        (
            "name = \"worker\"",
            "name = \"worker2\"\narch = \"arm64\"",
            "the lock is for the image `worker`, the recipe is `worker2`; the lock is for amd64, the recipe for arm64",
        ),
    ] {
        assert!(RECIPE.contains(old), "{old}");
        let recipe = house.recipe(&RECIPE.replacen(old, new, 1));
        let said: Vec<String> = lock.disagreements(&recipe, &found(&recipe)).iter().map(Change::to_string).collect();
        assert_eq!(said.join("; "), expected);
    }
}

#[test]
fn other_contents_are_noticed() {
    let house = House::new();
    let recipe = house.recipe(RECIPE);
    let lock = lock(&recipe);
    for file in ["data.tar", "motd", "network.sh"] {
        std::fs::write(house.dir.path().join(file), "something else").unwrap();
    }
    let mut now = found(&recipe);
    now.layers.insert("site".to_owned(), format!("sha256:{OTHER}"));
    now.layers.insert("tools".to_owned(), OTHER.to_owned());
    let said: Vec<String> = lock.disagreements(&recipe, &now).iter().map(Change::to_string).collect();
    assert_eq!(
        said,
        [
            "layer `data` has another content, data.tar changed",
            "layer `motd` has another content, motd changed",
            "layer `tools` has other components, repositories, keys, variant or path filters",
            "layer `site` has another content, site changed",
            "hook `pre-init/network.sh` has another content, network.sh changed",
        ]
    );
    let tools = recipe.layers.iter().find(|layer| layer.name == "tools").unwrap();
    assert!(lock.layer(&recipe, tools, Some(OTHER)).is_none());
    assert_eq!(lock.layer(&recipe, tools, Some(HASH)).unwrap().source.hash(), HASH);
}

#[test]
fn another_order_is_a_change() {
    let house = House::new();
    let mut lock = lock(&house.recipe(RECIPE));
    lock.layers.swap(0, 1);
    let recipe = house.recipe(RECIPE);
    let said: Vec<String> = lock.disagreements(&recipe, &found(&recipe)).iter().map(Change::to_string).collect();
    assert_eq!(said, ["the layers have another order, now base, layout, crictl, data, motd, tools, site"]);
}

#[test]
fn what_is_no_lock_is_refused() {
    let house = House::new();
    let good = lock(&house.recipe(RECIPE)).to_toml();
    let path = Path::new("worker.lock");
    for (text, expected) in [
        (
            good.replace("version = 1\n", "version = 2\n"),
            "the lock worker.lock has format 2, this imgbuild knows format 1: use a newer imgbuild",
        ),
        (good.replace("version = 1\n", "version = 0\n"), "write it anew with `imgbuild lock`"),
        (good.replace("version = 1\n", ""), "it does not say its version"),
        (format!("<<<<<<< HEAD\n{good}"), "the lock worker.lock:1 has an unresolved merge conflict: take either side"),
        (
            good.replace("arch = \"amd64\"\n\n", "arch = \"amd64\n\n"),
            "the lock worker.lock:4:14 is broken: invalid basic string",
        ),
        (good.replace("kind = \"tar\"", "kind = \"tarball\""), "unknown variant `tarball`"),
        (good.replace("suite = \"bookworm\"\n", ""), "missing field `suite`"),
        (good.replace("suite = \"bookworm\"\n", "suite = \"bookworm\"\nfoo = 1\n"), "unknown field `foo`"),
        (good.replace(HASH, "abc"), "where a SHA-256 belongs"),
        (good.replace("name = \"layout\"", "name = \"base\""), "two layers are called `base`"),
        (format!("x = {}", "[".repeat(100_000)), "nested deeper than 64 levels"),
        (String::new(), "it does not say its version"),
    ] {
        let error = Lock::parse(text.as_bytes(), path).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}\ninstead of\n{expected}");
    }
    assert!(Lock::parse(b"\xff", path).unwrap_err().to_string().contains("not UTF-8"));
    assert!(Lock::load(&house.dir.path().join("none.lock")).unwrap().is_none());
    assert!(matches!(Lock::load(house.dir.path()), Err(LockError::Read { .. })));
    let error = lock(&house.recipe(RECIPE)).save(&PathBuf::from("/nonexistent/x.lock")).unwrap_err();
    assert_eq!(error.to_string(), "cannot write the lock /nonexistent/x.lock");
}
