//! What the worker has on request: SSH, a local disk for images, an upstream kubelet.

use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_serve::Tree;
use imgbuild_tests_init::{Manner, Server};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{bundle, imgbuild, key_pair, kubelet_image, project, registry, run};

/// A disk with a file system of this label, and a folder `kept` in it.
fn disk(folder: &Path) -> PathBuf {
    let (content, disk) = (folder.join("content"), folder.join("disk.img"));
    std::fs::create_dir_all(content.join("kept")).unwrap();
    std::fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-L", "containerd", "-d"]).arg(&content).arg(&disk));
    disk
}

/// Boots the bundle with this disk, on which what the guest writes is lost.
fn boot_with(disk: &Path, bundle: &Path, more: &[&str]) {
    let drive = format!("--qemu=if=virtio,format=raw,snapshot=on,file={}", disk.display());
    print!(
        "{}",
        run(imgbuild().args(["test", "--path", "direct"]).arg(bundle).args(["--qemu=-drive", &drive]).args(more))
    );
}

/// The worker with further recipes and with what a site says of it.
fn build(more: &[&str], site: &str, folder: &Path) -> PathBuf {
    let file = folder.join("site.toml");
    std::fs::write(&file, format!("[params]\nregistry = \"{}\"\n{site}", registry())).unwrap();
    bundle("recipes/worker.toml", &[more, &[file.to_str().unwrap()]].concat(), folder)
}

/// The disk was not cleanly unmounted, and its file system says that it has errors.
#[test]
fn the_worker_lets_its_operator_in_and_keeps_images_on_a_disk_that_was_not_cleanly_unmounted() {
    let folder = tempfile::tempdir().unwrap();
    let site = r#"
[[test]]
name   = "the operator gets in"
run    = "ssh -i /root/operator -o BatchMode=yes -o StrictHostKeyChecking=no root@127.0.0.1 'echo in as $(id -un)'"
stdout = "in as root"
[[test]]
name    = "/var/lib/containerd is a file system of its own"
mount   = "/var/lib/containerd"
fstype  = "ext4"
options = ["rw", "noatime"]
[[test]]
name   = "a disk for containerd is looked for"
run    = "journalctl -b -u containerd-disk.service --no-pager -o cat"
stdout = "images and containers are kept on /dev/vda"
[[test]]
name   = "it was repaired"
run    = "journalctl -b -u containerd-disk.service --no-pager -o cat"
stdout = "contains a file system with errors, check forced"
[[test]]
name   = "what was on the disk is there, and containerd has put the rest there"
run    = "cd /var/lib/containerd && ls -d io.containerd.metadata.v1.bolt kept"
stdout = "kept"
[[test]]
name = "no RAM is kept from pods for images"
run  = """
kept=$(journalctl -b -u kubelet.service --no-pager -o cat | sed -n 's/^kubelet-run: \\([0-9]*\\)Mi are kept.*/\\1/p' | head -n 1)
echo "$kept" && test "$kept" -ge 300 && test "$kept" -lt 450
"""
"#;
    let bundle = build(&["recipes/ssh.toml"], site, folder.path());
    let disk = disk(folder.path());
    run(Command::new("debugfs").args(["-w", "-R", "set_super_value state 2"]).arg(&disk));

    let [key, public] = key_pair(folder.path());
    let server = Server::start(&folder.path().join("site.toml"), Manner::Good).unwrap();
    let config = json!({ "files": [
        { "path": "/root/.ssh/authorized_keys", "mode": "0600", "contents": public },
        { "path": "/root/operator", "mode": "0600", "contents": key },
    ] });
    server.document("/nodes/52-54-00-12-34-56.json", &config.to_string()).unwrap();
    let config = format!("netboot.config={}", server.at("/nodes/${mac}.json"));
    boot_with(&disk, &bundle, &["--append", &config]);
}

#[test]
fn the_worker_with_a_damaged_disk_keeps_images_in_ram_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let site = r#"
[[test]]
name   = "systemd has started everything"
run    = "systemctl --failed --no-legend --plain | grep -c . && systemctl is-failed containerd-disk.service"
stdout = "1\nfailed\n"
timeout = "5m"
[[test]]
name   = "a disk for containerd is looked for"
run    = "journalctl -b -u containerd-disk.service --no-pager -o cat -p err"
stdout = "the file system of /dev/vda is damaged (e2fsck ended with 4): repair it with e2fsck, or make it anew; images and"
"#;
    let bundle = build(&[], site, folder.path());
    let disk = disk(folder.path());
    // Its top folder is gone.
    for request in ["clri <2>", "set_super_value state 2"] {
        run(Command::new("debugfs").args(["-w", "-R", request]).arg(&disk));
    }
    boot_with(&disk, &bundle, &[]);
}

/// A root that is there needs no network, but the system does: with `ip=` the initrd brings it up and hands it over. That there is a
/// disk as well spares a boot.
#[test]
fn the_worker_with_its_root_in_the_initrd_boots_and_keeps_images_on_an_xfs_disk() {
    let folder = tempfile::tempdir().unwrap();
    let site = r#"
[[test]]
name    = "/var/lib/containerd is a file system of its own"
mount   = "/var/lib/containerd"
fstype  = "xfs"
options = ["rw", "noatime"]
[[test]]
name   = "a disk for containerd is looked for"
run    = "journalctl -b -u containerd-disk.service --no-pager -o cat"
stdout = "images and containers are kept on /dev/vda"
[[test]]
name = "containerd has put its own there"
file = "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"
"#;
    let bundle = build(&["--set", "root.delivery=embed"], site, folder.path());
    assert!(!bundle.join("root.squashfs").exists());
    let disk = folder.path().join("disk.img");
    // The smallest that mkfs.xfs makes has 300 MiB.
    std::fs::File::create(&disk).unwrap().set_len(512 << 20).unwrap();
    run(Command::new("mkfs.xfs").args(["-q", "-L", "containerd"]).arg(&disk));

    let results = folder.path().join("results");
    boot_with(&disk, &bundle, &["--append", "ip=dhcp", "--results", results.to_str().unwrap()]);
    let read = |name: &str| std::fs::read_to_string(results.join("direct").join(name)).unwrap();
    assert!(read("console.log").contains("root: embedded, "), "{}", read("console.log"));
    assert_eq!(read("requests.log"), "", "nothing is fetched");
}

/// As from https://dl.k8s.io, which is far away, and out of an image of somebody else's.
#[test]
fn the_worker_takes_an_upstream_kubelet_by_url_and_out_of_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = run(&mut Command::new(project().join("ci/kubernetes-from-source")));
    let kubelet = Path::new(kubelet.trim_end());
    let digest = hex::encode(Sha256::digest(std::fs::read(kubelet).unwrap()));
    let tree = Tree::empty().with("release/v1.20.2/bin/linux/amd64/kubelet", kubelet.to_owned());
    let server = imgbuild_serve::Server::bind("127.0.0.1:0", tree).unwrap();
    let upstream = |more: &[&str]| {
        let mut build = imgbuild();
        build.current_dir(project()).args(["build", "recipes/worker-upstream.toml", "--set", "params.kubelet=v1.20.2"]);
        build.arg("--set").arg(format!("params.mirror=http://{}/release", server.address()));
        build.args(more).arg("-o").arg(folder.path());
        build
    };
    let refused = |more: &[&str], code: i32, reason: &str| {
        let output = upstream(more).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(reason), "{error}");
    };
    refused(&[], 2, "unknown parameter `sha256`");
    refused(&["--set", &format!("params.sha256={}", "0".repeat(64))], 4, &digest);

    let has_it = |printed: &str| {
        let root = Path::new(printed.lines().last().unwrap()).join("root.squashfs");
        let output = Command::new("unsquashfs").arg("-cat").arg(root).arg("usr/bin/kubelet").output().unwrap();
        assert_eq!(hex::encode(Sha256::digest(&output.stdout)), digest);
    };
    has_it(&run(&mut upstream(&["--set", &format!("params.sha256={digest}")])));
    let image = format!("layer.kubelet.oci={}", kubelet_image());
    has_it(&run(imgbuild().args(["build", "recipes/worker.toml", "--set", &image, "-o"]).arg(folder.path())));
}
