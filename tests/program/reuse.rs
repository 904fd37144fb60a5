//! What earlier builds did is not done again, and never shows in the bytes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use walkdir::WalkDir;

use super::support::{IMGBUILD, ORDINARY, Place, ordinary, succeeds, text};

const RECIPE: &str = "[[layer]]\nname = \"site\"\noverlay = \"overlay\"\n";

fn place() -> Place {
    let place = Place::new();
    place.layout(&ordinary());
    for number in 0..300 {
        place.write(&format!("overlay/usr/share/{number}"), format!("{number} ").repeat(50 + number));
    }
    let noise: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    place.write("overlay/usr/lib/large", noise);
    place.recipe(&format!("{ORDINARY}{RECIPE}"));
    place
}

fn sums(place: &Place, out: &str) -> String {
    std::fs::read_to_string(place.join(out).join("small-1/SHA256SUMS")).unwrap()
}

fn said(output: &Output) -> String {
    succeeds(output);
    text(&output.stderr)
}

/// The sums that a build with an empty cache gives.
fn cold(place: &Place) -> String {
    let mut command = place.imgbuild();
    command.args(["build", "recipe.toml", "-o", "cold"]).env("IMGBUILD_CACHE", place.join("empty"));
    let _ = std::fs::remove_dir_all(place.join("empty"));
    let _ = std::fs::remove_dir_all(place.join("cold"));
    succeeds(&command.output().unwrap());
    sums(place, "cold")
}

/// The entries of a bucket of the cache.
fn entries(place: &Place, bucket: &str) -> Vec<PathBuf> {
    let files =
        WalkDir::new(place.join("cache").join(bucket)).into_iter().flatten().filter(|e| e.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).collect()
}

#[test]
fn nothing_changed_is_nothing_done() {
    let place = place();
    assert!(!said(&place.build(&[])).contains("nothing has changed"));
    let before = sums(&place, "out");
    let again = said(&place.build(&[]));
    assert!(again.contains("nothing has changed since the bundle was built"), "{again}");
    assert!(again.contains("root of "), "what the build said is said again: {again}");
    assert!(!again.contains("squashfs"), "{again}");

    // A bundle that is not as it was is made anew.
    let root = place.join("out/small-1/root.squashfs");
    let mut bytes = std::fs::read(&root).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&root, bytes).unwrap();
    let mended = said(&place.build(&[]));
    assert!(!mended.contains("nothing has changed"), "{mended}");
    assert_eq!(sums(&place, "out"), before);
    succeeds(&place.imgbuild().args(["verify", "out/small-1"]).output().unwrap());
    std::fs::write(place.join("out/small-1/mine"), "x").unwrap();
    assert!(!said(&place.build(&[])).contains("nothing has changed"));
    // Another recipe, another folder, another file: other inputs.
    std::fs::remove_file(place.join("out/small-1/mine")).unwrap();
    assert!(!said(&place.build(&["--set", "root.overlay.size=10%"])).contains("nothing has changed"));
    assert!(!said(&place.build(&["-o", "other"])).contains("nothing has changed"));
    place.write("overlay/usr/share/7", "seven");
    assert!(!said(&place.build(&[])).contains("nothing has changed"));
}

#[test]
fn what_was_compressed_is_taken_and_the_bytes_are_the_same() {
    let place = place();
    said(&place.build(&[]));
    for change in ["overlay/usr/share/7", "overlay/usr/share/150", "overlay/etc/new"] {
        place.write(change, "changed");
        let output = said(&place.build(&["-v"]));
        assert!(output.contains("of them packed before"), "{output}");
        assert_eq!(sums(&place, "out"), cold(&place), "{change}");
    }
}

#[test]
fn a_damaged_cache_is_found_and_costs_time_only() {
    let place = place();
    said(&place.build(&[]));
    let expected = cold(&place);
    for bucket in ["packs-v1", "scans-v1", "segments-v1", "builds-v1"] {
        let found = entries(&place, bucket);
        // A recipe without a kernel has no initrd.
        assert!(!found.is_empty() || bucket == "segments-v1", "{bucket}");
        for path in found {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        std::fs::remove_dir_all(place.join("out")).unwrap();
        let output = said(&place.build(&[]));
        assert_eq!(output.contains("was damaged"), bucket == "packs-v1", "{output}");
        assert_eq!(sums(&place, "out"), expected, "{bucket}");
        // That was so then, and is not so of the bundle.
        let again = said(&place.build(&[]));
        assert!(again.contains("nothing has changed") && !again.contains("was damaged"), "{again}");
    }
    // A pack that was cut off, as a power cut may leave it.
    for path in entries(&place, "packs-v1") {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    std::fs::remove_dir_all(place.join("out")).unwrap();
    said(&place.build(&[]));
    assert_eq!(sums(&place, "out"), expected);
}

#[test]
fn a_build_that_is_killed_leaves_the_next_one_nothing_wrong() {
    let place = place();
    let expected = cold(&place);
    for milliseconds in [0, 5, 20, 50, 100, 200] {
        let mut child = place.imgbuild().args(["-q", "build", "recipe.toml"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    said(&place.build(&[]));
    assert_eq!(sums(&place, "out"), expected);
    assert!(entries(&place, "partial-v1").is_empty(), "{:?}", entries(&place, "partial-v1"));
}

#[test]
fn builds_at_once_share_the_cache() {
    let place = place();
    let expected = cold(&place);
    let builds: Vec<_> = ["a", "b", "c"]
        .map(|out| place.imgbuild().args(["-q", "build", "recipe.toml", "-o", out]).spawn().unwrap())
        .into_iter()
        .collect();
    for mut build in builds {
        assert!(build.wait().unwrap().success());
    }
    for out in ["a", "b", "c"] {
        assert_eq!(sums(&place, out), expected);
    }
}

#[test]
fn a_program_that_is_replaced_while_it_runs_builds_on() {
    let place = place();
    let program = place.join("imgbuild");
    // By another process: one that another test starts meanwhile would hold it open for writing, and then it cannot be run.
    assert!(Command::new("cp").args([Path::new(IMGBUILD), &program]).status().unwrap().success());
    // The program waits for its recipe until somebody writes it.
    let recipe = place.join("late.toml");
    let made = Command::new("mkfifo").arg(&recipe).status().unwrap();
    assert!(made.success());
    let mut command = Command::new(&program);
    place.prepare(command.args(["build", "late.toml"]).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let build = command.spawn().unwrap();
    let mut pipe = std::fs::OpenOptions::new().write(true).open(&recipe).unwrap();
    std::fs::remove_file(&program).unwrap();
    let text = std::fs::read(place.join("recipe.toml")).unwrap();
    std::io::Write::write_all(&mut pipe, &text).unwrap();
    drop(pipe);
    said(&build.wait_with_output().unwrap());
    assert_eq!(place.names("out"), ["small-1"]);
}

/// What is kept for later builds has the name of what was read first: it must not be made of what is read second.
#[test]
fn a_file_that_changes_during_the_build_spoils_nothing() {
    let place = Place::new();
    let noise: Vec<u8> = (0..6_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
    place.write("overlay/large", noise);
    let small = place.write("overlay/small", "value = 1\n");
    place.recipe("[root]\ncompression = { algorithm = \"zstd\", level = 19 }\n[[layer]]\nname = \"site\"\noverlay = \"overlay\"\n");
    let mut build = place.imgbuild();
    build.args(["--json", "build", "recipe.toml", "-j1"]).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut build = build.spawn().unwrap();
    let mut said = String::new();
    for line in BufReader::new(build.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains(r#""started""#) && line.contains("squashfs") {
            std::fs::write(&small, "value = 2\n").unwrap();
        }
        said.push_str(&line);
    }
    assert_eq!(build.wait().unwrap().code(), Some(3), "{said}");
    assert!(said.contains("overlay/small was changed while the build read it; build again"), "{said}");
    assert_eq!(place.names("out"), [""; 0]);

    std::fs::write(&small, "value = 1\n").unwrap();
    succeeds(&place.build(&[]));
    let image = place.join("out/small-1/root.squashfs");
    let shown =
        Command::new("unsquashfs").args(["-cat".as_ref(), image.as_os_str(), "small".as_ref()]).output().unwrap();
    assert_eq!(text(&shown.stdout), "value = 1\n");
}
