//! Broken input: a clear error, the designed exit code, nothing half-written.

use super::support::{Item, ORDINARY, Place, fails, gzip, hex, ordinary, succeeds, tar};

const TAR: &str = "[[layer]]\nname = \"files\"\ntar = \"files.tar\"\n";

/// Builds a recipe with `files.tar` and checks how it fails; the last good bundle must stay as it was.
#[track_caller]
fn refused(recipe: &str, archive: &[u8], code: i32, words: &[&str]) {
    let place = Place::new();
    place.write("files.tar", tar(&[Item::File("good", b"good")]));
    place.recipe(TAR);
    succeeds(&place.build(&[]));
    let before = std::fs::read(place.join("out/small-1/SHA256SUMS")).unwrap();
    place.write("files.tar", archive);
    place.recipe(recipe);
    fails(&place.build(&[]), code, words);
    assert_eq!(place.names("out"), ["small-1"], "something half-written is left");
    assert_eq!(std::fs::read(place.join("out/small-1/SHA256SUMS")).unwrap(), before);
    succeeds(&place.imgbuild().args(["verify", "out/small-1"]).output().unwrap());
}

#[test]
fn an_unknown_key_with_its_place_and_the_nearest_known_one() {
    refused("[prune]\npath = [\"/usr/share/doc\"]\n", b"", 2, &["recipe.toml:5:1", "path", "paths"]);
}

#[test]
fn all_errors_come_at_once() {
    let recipe = "[prun]\n[[layer]]\nname = \"a\"\noverlay = \"nowhere\"\n[[tmpfs]]\npath = \"/x\"\nsize = \"lots\"\n";
    refused(recipe, b"", 2, &["recipe.toml:4:", "prun", "recipe.toml:7:", "nowhere", "recipe.toml:10:", "lots"]);
}

#[test]
fn a_missing_layer() {
    let recipe = "[[layer]]\nname = \"gone\"\ntar = \"gone.tar\"\n";
    refused(recipe, b"", 3, &["gone.tar"]);
    let recipe = "[[layer]]\nname = \"gone\"\noci = \"127.0.0.1:9/nothing/here:v1\"\n";
    refused(recipe, b"", 3, &["layer gone", "recipe.toml:4", "127.0.0.1:9"]);
}

#[test]
fn an_exception_from_no_rule_is_told_before_layers_are_fetched() {
    let recipe = "[[layer]]\nname = \"gone\"\noci = \"127.0.0.1:9/nothing/here:v1\"\n[[lint.allow]]\nrule = \"secrets\"\npath = \"/x\"\nreason = \"y\"\n";
    refused(recipe, b"", 2, &["recipe.toml:7:", "no lint rule secrets", "machine-id, ssh-host-key, secret"]);
}

#[test]
fn a_download_with_another_hash() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        }
    });
    let (wrong, right) = (hex(b"other"), hex(b"hello"));
    let recipe = format!(
        "[[layer]]\nname = \"tool\"\nurl = \"http://{address}/tool\"\nsha256 = \"{wrong}\"\nto = \"/usr/bin/tool\"\n"
    );
    refused(&recipe, b"", 4, &["layer tool", &wrong, &right]);
}

#[test]
fn an_image_blob_that_was_altered() {
    let place = Place::new();
    place.layout(&ordinary());
    place.recipe(ORDINARY);
    let blobs = place.join("images/blobs/sha256");
    let largest = std::fs::read_dir(&blobs).unwrap().map(|i| i.unwrap().path());
    let largest = largest.max_by_key(|p| std::fs::metadata(p).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    let digest = largest.file_name().unwrap().to_str().unwrap().to_owned();
    fails(&place.build(&[]), 4, &["layer base", &digest[..12]]);
    assert_eq!(place.names("out"), [""; 0]);
}

#[test]
fn a_truncated_gzip() {
    let whole = gzip(&ordinary()[0]);
    refused(TAR, &whole[..whole.len() / 2], 3, &["layer files", "files.tar"]);
}

#[test]
fn a_path_out_of_the_root() {
    refused(TAR, &tar(&[Item::File("../outside", b"x")]), 3, &["layer files", "../outside"]);
}

#[test]
fn a_hard_link_to_nowhere() {
    let archive = tar(&[Item::File("here", b"x"), Item::HardLink("there", "nowhere")]);
    refused(TAR, &archive, 3, &["layer files", "there", "nowhere"]);
}

fn kernels(releases: &[&str]) -> Vec<u8> {
    let paths: Vec<_> =
        releases.iter().map(|r| (format!("boot/vmlinuz-{r}"), format!("usr/lib/modules/{r}/modules.dep"))).collect();
    let items = paths.iter().flat_map(|(kernel, dep)| [Item::File(kernel, b"kernel"), Item::File(dep, b"")]);
    tar(&items.collect::<Vec<_>>())
}

#[test]
fn two_kernels() {
    let recipe = format!("{TAR}[kernel]\nversion = \"6.1.*\"\n");
    refused(&recipe, &kernels(&["6.1.0-1-amd64", "6.1.0-2-amd64"]), 2, &["6.1.0-1-amd64", "6.1.0-2-amd64"]);
    refused(&recipe, &kernels(&["5.10.0-1-amd64"]), 2, &["6.1.*", "5.10.0-1-amd64"]);
}

#[test]
fn a_module_that_does_not_exist() {
    let recipe = format!("{TAR}[kernel]\nversion = \"*\"\nmodules = [\"no_such_driver\"]\n");
    refused(&recipe, &kernels(&["6.1.0-1-amd64"]), 2, &["no_such_driver"]);
}

#[test]
fn an_architecture_whose_init_is_not_carried() {
    let (other, own) = if cfg!(target_arch = "x86_64") { ("arm64", "amd64") } else { ("amd64", "arm64") };
    let recipe = format!("arch = \"{other}\"\n{TAR}[kernel]\nversion = \"*\"\n");
    refused(&recipe, &kernels(&["6.1.0-1"]), 2, &[other, own, "netboot-init", "NETBOOT_PROGRAMS"]);
}

#[test]
fn a_disk_that_is_full() {
    let place = Place::new();
    let noise: Vec<u8> =
        (0_u64..400_000).flat_map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7).to_le_bytes()).collect();
    place.write("files.tar", tar(&[Item::File("noise", &noise)]));
    place.recipe(TAR);
    std::fs::create_dir(place.join("out")).unwrap();
    // A file system of one megabyte, in a mount namespace of its own.
    let script = format!(
        "mount -t tmpfs -o size=1m small out && {} build recipe.toml; code=$?; ls -A out; exit $code",
        super::support::IMGBUILD
    );
    let mut command = std::process::Command::new("unshare");
    place.prepare(command.args(["--mount", "--map-root-user", "sh", "-c", &script]));
    let output = command.output().unwrap();
    fails(&output, 1, &["root.squashfs", "No space left on device"]);
    assert_eq!(super::support::text(&output.stdout), "", "something half-written is left");
}

#[test]
fn a_stale_lock_says_what_changed() {
    let place = Place::new();
    place.write("files.tar", tar(&[Item::File("good", b"good")]));
    place.recipe(TAR);
    fails(&place.build(&["--locked"]), 2, &["imgbuild lock"]);
    succeeds(&place.imgbuild().args(["lock", "recipe.toml"]).output().unwrap());
    succeeds(&place.build(&["--locked"]));
    place.write("files.tar", tar(&[Item::File("good", b"better")]));
    fails(&place.build(&["--locked"]), 2, &["layer `files`", "files.tar changed"]);
    succeeds(&place.build(&[]));

    place.write("overlay/etc/motd", "hello");
    place.recipe("[[layer]]\nname = \"site\"\noverlay = \"overlay\"\n");
    fails(&place.build(&["--locked"]), 2, &["layer `files` is gone", "layer `site` is new"]);
    succeeds(&place.imgbuild().args(["lock", "recipe.toml"]).output().unwrap());
    let check = || place.imgbuild().args(["lock", "--check", "recipe.toml"]).output().unwrap();
    succeeds(&check());
    place.write("overlay/etc/motd", "bye");
    fails(&check(), 2, &["layer `site`", "overlay changed"]);
}
