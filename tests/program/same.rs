//! The same inputs give the same bytes.

use std::process::Command;

use super::support::{IMGBUILD, ORDINARY, Place, ordinary, succeeds, text};

const OVERLAY: &str = "[[layer]]\nname = \"site\"\noverlay = \"overlay\"\n[prune]\npaths = [\"/etc/nothing\"]\n";

fn place() -> Place {
    let place = Place::new();
    place.layout(&ordinary());
    place.write("overlay/etc/motd", "hello\n");
    place.write("overlay/usr/bin/tool", "#!/bin/sh\n");
    place.recipe(&format!("{ORDINARY}{OVERLAY}"));
    place
}

#[test]
fn threads_umask_time_zone_folder_and_clock_leave_no_trace() {
    let (one, two) = (place(), place());
    let touch = Command::new("touch").args(["-d", "2001-01-01", "overlay/etc/motd"]).current_dir(two.path()).status();
    assert!(touch.unwrap().success());
    succeeds(&one.build(&["-j", "1"]));
    let script = format!("umask 077; exec {IMGBUILD} build recipe.toml -j 8 -o elsewhere/out");
    let mut command = Command::new("sh");
    two.prepare(command.args(["-c", &script]).env("TZ", "Pacific/Kiritimati").env("LC_ALL", "C"));
    succeeds(&command.output().unwrap());
    let sums = |place: &Place, name| std::fs::read_to_string(place.join(name)).unwrap();
    assert_eq!(sums(&one, "out/small-1/SHA256SUMS"), sums(&two, "elsewhere/out/small-1/SHA256SUMS"));
}

#[test]
fn a_version_that_nobody_gave_tells_one_architecture_from_another() {
    let place = place();
    place.write("any.toml", "[image]\nname = \"any\"\n[[layer]]\nname = \"site\"\noverlay = \"overlay\"\n");
    for arch in ["amd64", "arm64"] {
        let set = format!("image.arch={arch}");
        succeeds(&place.imgbuild().args(["build", "any.toml", "--set", &set]).output().unwrap());
    }
    assert_eq!(place.names("out").len(), 2, "{:?}", place.names("out"));
}

#[test]
fn a_warm_cache_a_lock_and_no_network_change_nothing() {
    let place = place();
    succeeds(&place.build(&["-o", "cold"]));
    succeeds(&place.imgbuild().args(["lock", "recipe.toml"]).output().unwrap());
    succeeds(&place.build(&["-o", "warm", "--locked", "--offline"]));
    let sums = |out: &str| std::fs::read_to_string(place.join(out).join("small-1/SHA256SUMS")).unwrap();
    assert_eq!(sums("cold"), sums("warm"));
}

#[test]
fn source_date_epoch_is_the_newest_input_unless_said_otherwise() {
    let place = place();
    let built = |out: &str| -> i64 {
        let manifest = std::fs::read(place.join(out).join("small-1/manifest.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&manifest).unwrap()["build_time"].as_i64().unwrap()
    };
    succeeds(&place.build(&["-o", "a"]));
    assert_eq!(built("a"), 1_600_000_000);
    succeeds(&place.build(&["-o", "b", "--set", "image.source_date_epoch=1500000000"]));
    assert_eq!(built("b"), 1_500_000_000);
    let output = place.imgbuild().args(["build", "recipe.toml", "-o", "c"]).env("SOURCE_DATE_EPOCH", "7").output();
    succeeds(&output.unwrap());
    assert_eq!(built("c"), 7);
    let output = place.imgbuild().args(["build", "recipe.toml"]).env("SOURCE_DATE_EPOCH", "soon").output().unwrap();
    super::support::fails(&output, 2, &["SOURCE_DATE_EPOCH=soon"]);
}

#[test]
fn a_version_is_derived_from_the_content() {
    let place = place();
    place.write("recipe.toml", format!("[image]\nname = \"small\"\n{ORDINARY}{OVERLAY}"));
    let build = || {
        let output = place.build(&[]);
        succeeds(&output);
        text(&output.stdout).trim().to_owned()
    };
    let first = build();
    assert_eq!(build(), first);
    place.write("overlay/etc/motd", "hello again\n");
    assert_ne!(build(), first);
}
