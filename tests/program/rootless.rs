//! An ordinary user builds the same bytes as root does, and nothing is unpacked, mounted or run on the way.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::support::{IMGBUILD, ORDINARY, Place, ordinary, succeeds, text};

/// Debian's `nobody` and `nogroup`.
const NOBODY: [&str; 5] = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--no-new-privs"];

fn sums(place: &Place, out: &str) -> String {
    std::fs::read_to_string(place.join(out).join("small-1/SHA256SUMS")).unwrap()
}

#[test]
fn an_ordinary_user_gives_the_same_bytes_as_root() {
    assert!(rustix::process::geteuid().is_root(), "this test compares with root: run it as root");
    let place = Place::new();
    place.layout(&ordinary());
    place.recipe(ORDINARY);
    succeeds(&place.build(&["-o", "by-root"]));

    // The program may lie in a home folder that nobody may enter.
    let program = place.join("imgbuild");
    // By another process: one that another test starts meanwhile would hold it open for writing, and then it cannot be run.
    assert!(Command::new("cp").args([Path::new(IMGBUILD), &program]).status().unwrap().success());
    let home = place.join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new("setpriv");
    place.prepare(command.args(NOBODY).arg(&program).args(["build", "recipe.toml", "-o", "home/out"]));
    succeeds(&command.env("IMGBUILD_CACHE", home.join("cache")).env("HOME", &home).output().unwrap());

    assert_eq!(sums(&place, "home/out"), sums(&place, "by-root"));
    let listing = Command::new("unsquashfs").args(["-lln"]).arg(place.join("home/out/small-1/root.squashfs")).output();
    let listing = text(&listing.unwrap().stdout);
    assert!(listing.contains("-rwsr-xr-x 1234/70000"), "{listing}");
    assert!(listing.contains("crw-r--r-- 0/0"), "{listing}");
    assert!(!listing.contains("removed"), "{listing}");
}

#[test]
fn no_helper_process_no_mount_no_unpacked_file() {
    let place = Place::new();
    place.layout(&ordinary());
    place.recipe(ORDINARY);
    let log = place.join("strace.log");
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-e",
        "trace=%process,mount,umount2,unshare,setns,chroot,pivot_root,mknod,mknodat,open,openat,creat",
    ]);
    place.prepare(command.arg("-o").arg(&log).arg(IMGBUILD).args(["build", "recipe.toml"]));
    succeeds(&command.output().unwrap());

    let log = std::fs::read_to_string(&log).unwrap();
    let calls: Vec<&str> = log.lines().filter_map(|line| line.split_once(' ').map(|(_, call)| call.trim())).collect();
    let of = |names: &[&str]| -> Vec<&str> {
        calls.iter().copied().filter(|c| names.iter().any(|n| c.starts_with(&format!("{n}(")))).collect()
    };
    assert_eq!(of(&["execve", "execveat"]).len(), 1, "only imgbuild itself is run");
    let processes: Vec<_> =
        of(&["clone", "clone3", "fork", "vfork"]).into_iter().filter(|c| !c.contains("CLONE_THREAD")).collect();
    assert!(processes.is_empty(), "{processes:?}");
    let forbidden = of(&["mount", "umount2", "unshare", "setns", "chroot", "pivot_root", "mknod", "mknodat"]);
    assert!(forbidden.is_empty(), "{forbidden:?}");
    let made: Vec<_> = of(&["open", "openat", "creat"]).into_iter().filter(|c| c.contains("O_CREAT")).collect();
    assert!(!made.is_empty(), "the trace shows no file being made: it shows nothing");
    for call in made {
        assert!(!call.contains("payload-of-the-image") && !call.contains("second-name"), "unpacked: {call}");
    }
}
