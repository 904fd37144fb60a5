//! Builds that meet each other, and builds that are cut short.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::support::{Item, Place, succeeds, tar};

/// A recipe whose squashfs takes seconds to write.
fn slow() -> Place {
    let place = Place::new();
    let noise: Vec<u8> =
        (0_u64..6_000_000).flat_map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).to_le_bytes()).collect();
    place.write("files.tar", tar(&[Item::File("noise", &noise)]));
    place.recipe(
        "[[layer]]\nname = \"files\"\ntar = \"files.tar\"\n[root.compression]\nalgorithm = \"zstd\"\nlevel = 19\nblock = \"1M\"\n",
    );
    place
}

fn start(place: &Place) -> Child {
    let mut command = place.imgbuild();
    command.args(["build", "recipe.toml"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let begun = Instant::now();
    // A hidden folder with a squashfs that has begun to grow.
    while !place.names("out").iter().any(|name| {
        let file = place.join("out").join(name).join("root.squashfs");
        name.starts_with('.') && std::fs::metadata(file).is_ok_and(|m| m.len() > 0)
    }) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the build does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn end(mut child: Child, signal: Signal) -> std::process::ExitStatus {
    kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait().unwrap()
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let place = slow();
    let status = end(start(&place), Signal::INT);
    assert_eq!(status.code(), Some(130));
    assert_eq!(place.names("out"), [""; 0]);
}

#[test]
fn after_sigkill_the_next_build_sweeps_up_and_succeeds() {
    let place = slow();
    end(start(&place), Signal::KILL);
    assert_eq!(place.names("out").len(), 1, "what was in the making is still there");
    assert!(place.names("out")[0].starts_with('.'));
    succeeds(&place.build(&["--set", "root.compression.level=1"]));
    assert_eq!(place.names("out"), ["small-1"]);
}

#[test]
fn two_builds_into_one_folder_at_once() {
    let place = slow();
    let mut both = Vec::new();
    for level in ["1", "2"] {
        let mut command = place.imgbuild();
        let level = format!("root.compression.level={level}");
        command.args(["build", "recipe.toml", "--set", &level]).stdout(Stdio::piped()).stderr(Stdio::piped());
        both.push(command.spawn().unwrap());
    }
    for child in both {
        succeeds(&child.wait_with_output().unwrap());
    }
    assert_eq!(place.names("out"), ["small-1"]);
    succeeds(&place.imgbuild().args(["verify", "out/small-1"]).output().unwrap());
}
