//! The images of `recipes/`, made of Debian's packages and the worker's of a real kubelet as well, booted in QEMU.
//!
//! `ci/test` runs these; a plain `cargo test` does not: they take minutes, and they need what `ci/setup` installs and the
//! kubelet image that `ci/kubelet-image` makes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imgbuild_tests_init::{Manner, Server};
use serde_json::{Value, json};

mod additions;
mod cluster;
mod networks;

const IMGBUILD: &str = env!("CARGO_BIN_EXE_imgbuild");

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Runs a command with its words on this test's own stderr, and returns what it prints.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.current_dir(project()).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}", output.status);
    text
}

fn imgbuild() -> Command {
    Command::new(IMGBUILD)
}

/// The kubelet's image, `HOST:PORT/NAME@sha256:…`, and its registry.
fn kubelet_image() -> String {
    let printed = run(&mut Command::new(project().join("ci/kubelet-image")));
    printed.lines().last().unwrap().to_owned()
}

fn registry() -> String {
    kubelet_image().split('/').next().unwrap().to_owned()
}

/// A new operator's key for SSH: the private one, and the public one.
fn key_pair(folder: &Path) -> [String; 2] {
    let key = folder.join("operator");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f"]).arg(&key));
    [key.clone(), key.with_extension("pub")].map(|path| std::fs::read_to_string(path).unwrap())
}

/// Builds a recipe with these further files or arguments, and returns the bundle.
fn bundle(recipe: &str, more: &[&str], out: &Path) -> PathBuf {
    let printed = run(imgbuild().arg("build").arg(recipe).args(more).arg("-o").arg(out));
    PathBuf::from(printed.lines().last().unwrap())
}

/// Builds a recipe of the worker's with the kubelet's image; the bundle, and the release of its kernel.
fn worker(recipe: &str, out: &Path) -> (PathBuf, String) {
    let bundle = bundle(recipe, &["--set", &format!("params.registry={}", registry())], out);
    let manifest: Value = serde_json::from_slice(&std::fs::read(bundle.join("manifest.json")).unwrap()).unwrap();
    let release = manifest["kernel"]["release"].as_str().unwrap().to_owned();
    (bundle, release)
}

fn boot_directly(bundle: &Path) {
    print!("{}", run(imgbuild().args(["test", "--path", "direct"]).arg(bundle)));
}

/// Builds the worker as this version, with a test of its own that the version is the one that runs. `surroundings` is
/// what the shell does before.
fn build(image: &str, version: &str, out: &Path, surroundings: &str) -> PathBuf {
    let registry = image.split('/').next().unwrap();
    std::fs::create_dir_all(out).unwrap();
    let site = out.join("site.toml");
    let text = format!(
        "[image]\nname = \"worker\"\nversion = \"{version}\"\n[params]\nregistry = \"{registry}\"\n\
         [[test]]\nname = \"this is version {version}\"\n\
         run = \". /run/netboot/env && echo $NETBOOT_IMAGE $NETBOOT_VERSION\"\nstdout = \"worker {version}\\n\"\n"
    );
    std::fs::write(&site, text).unwrap();
    let script = format!("{surroundings} exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, IMGBUILD, "build", "recipes/worker.toml"]).arg(&site).arg("-o").arg(out);
    let printed = run(&mut shell);
    PathBuf::from(printed.lines().last().unwrap())
}

/// Boots what the published folder's channel points at, over PXE, and returns the version that ran.
fn boot_published(site: &Path) -> String {
    let printed = run(imgbuild().args(["--json", "test", "--path", "pxe-bios", "--from"]).arg(site));
    let report: Value = serde_json::from_str(&printed).unwrap();
    let tests = report["tests"].as_array().unwrap();
    let named = |name: &str| tests.iter().any(|t| t["name"] == name && t["passed"] == true);
    let version = report["version"].as_str().unwrap().to_owned();
    assert!(named(&format!("this is version {version}")), "{report:#}");
    assert!(named("kubelet is healthy"), "{report:#}");
    version
}

#[test]
fn the_worker_boots_directly_and_over_pxe_with_bios_and_uefi_is_updated_and_rolled_back() {
    let image = &kubelet_image();
    let folder = tempfile::tempdir().unwrap();
    let (out, site) = (folder.path(), folder.path().join("site"));
    let first = build(image, "1", out, "");
    let again =
        build(image, "1", &folder.path().join("again"), "umask 077; export TZ=Pacific/Auckland; ulimit -n 512;");
    let sums = |bundle: &Path| std::fs::read_to_string(bundle.join("SHA256SUMS")).unwrap();
    assert_eq!(sums(&first), sums(&again), "two builds of one recipe differ");
    // Over pxe-bios further down; tests/guests has every way there is.
    let printed = run(imgbuild().args(["test", "--path", "direct", "--path", "pxe-uefi"]).arg(&first));
    print!("{printed}");
    for path in ["direct", "pxe-uefi"] {
        assert!(printed.contains(&format!("worker 1 over {path}, ")), "{printed}");
    }

    let publish = |bundle: &Path| run(imgbuild().arg("publish").arg(bundle).arg(&site));
    publish(&first);
    assert_eq!(boot_published(&site), "1");
    let untouched = snapshot(&site.join("images/worker/1"));

    let second = build(image, "2", out, "");
    publish(&second);
    assert_eq!(boot_published(&site), "2");

    run(imgbuild().arg("rollback").arg(&site).arg("worker"));
    assert_eq!(boot_published(&site), "1");
    assert_eq!(snapshot(&site.join("images/worker/1")), untouched, "a published version is never rewritten");
}

#[test]
fn the_worker_for_virtual_machines_fits_its_budget_and_boots() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, release) = worker("recipes/worker-vm.toml", folder.path());
    let size = bundle.join("root.squashfs").metadata().unwrap().len();
    assert!(size <= 100 << 20, "{size} bytes");
    assert!(release.ends_with("-cloud-amd64"), "{release}");
    boot_directly(&bundle);
}

#[test]
fn the_worker_on_debian_13_boots() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, release) = worker("recipes/worker-debian-13.toml", folder.path());
    assert!(release.starts_with("6.12."), "{release}");
    boot_directly(&bundle);
}

/// The node's configuration says who may log in and where the inventory goes.
#[test]
fn the_rescue_system_lets_its_operator_in_and_sends_its_inventory() {
    let folder = tempfile::tempdir().unwrap();
    let ([key, public], site) = (key_pair(folder.path()), folder.path().join("site.toml"));
    // The node logs in to itself: there is no way to it from outside.
    let text = r#"
[[test]]
name   = "the operator gets in"
run    = "ssh -i /root/operator -o BatchMode=yes -o StrictHostKeyChecking=no root@127.0.0.1 'echo in as $(id -un)'"
stdout = "in as root"
[[test]]
name   = "the inventory was sent"
run    = "journalctl -b --no-pager -o cat -u inventory.service"
stdout = "inventory: sent to http://10.0.2.2:"
"#;
    std::fs::write(&site, text).unwrap();
    let bundle = bundle("recipes/rescue.toml", &[site.to_str().unwrap()], folder.path());

    let server = Server::start(&site, Manner::Good).unwrap();
    let config = json!({
        "variables": { "INVENTORY_URL": server.at("/servers") },
        "files": [
            { "path": "/root/.ssh/authorized_keys", "mode": "0600", "contents": public },
            { "path": "/root/operator", "mode": "0600", "contents": key },
        ],
    });
    server.document("/nodes/52-54-00-12-34-56.json", &config.to_string()).unwrap();
    let config = format!("netboot.config={}", server.at("/nodes/${mac}.json"));
    print!("{}", run(imgbuild().args(["test", "--path", "direct", "--append", &config]).arg(&bundle)));

    let posts = server.posts().unwrap();
    let [(path, inventory)] = posts.as_slice() else { panic!("{posts:?}") };
    assert_eq!(path, "/servers");
    let inventory: Value = serde_json::from_str(inventory).unwrap();
    assert!(inventory.to_string().contains(r#""serial":"52:54:00:12:34:56""#), "{inventory:#}");
}

/// Name, size and time of every file of a folder.
fn snapshot(folder: &Path) -> Vec<(String, u64, std::time::SystemTime)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|item| {
            let item = item.unwrap();
            let meta = item.metadata().unwrap();
            (item.file_name().into_string().unwrap(), meta.len(), meta.modified().unwrap())
        })
        .collect();
    all.sort();
    all
}
