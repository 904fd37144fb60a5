//! `imgbuild cache`.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::support::{ORDINARY, Place, fails, ordinary, succeeds, text};

fn built() -> Place {
    let place = Place::new();
    place.layout(&ordinary());
    place.recipe(ORDINARY);
    succeeds(&place.build(&[]));
    place
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    let output = place.imgbuild().args(["--json", "cache"]).args(arguments).output().unwrap();
    succeeds(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn kinds(place: &Place) -> Vec<String> {
    let listed = json(place, &["ls"]);
    listed["kinds"].as_array().unwrap().iter().map(|kind| kind["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn ls_names_what_is_there() {
    let place = built();
    assert_eq!(kinds(&place), ["builds", "diff-ids", "packs", "scans", "tars"]);
    let output = place.imgbuild().args(["cache", "ls"]).output().unwrap();
    succeeds(&output);
    let shown = text(&output.stdout);
    assert!(shown.contains("compressed blocks of squashfs images") && shown.contains("used      today"), "{shown}");
}

#[test]
fn every_kind_is_known() {
    let place = Place::new();
    place.layout(&ordinary());
    place.write("big", vec![7; 2 << 20]);
    let tar =
        std::process::Command::new("tar").current_dir(place.join("")).args(["-czf", "big.tar.gz", "big"]).status();
    assert!(tar.unwrap().success());
    place.recipe(&format!(
        "{ORDINARY}\n[[layer]]\nname = \"t\"\ntar = \"big.tar.gz\"\nto = \"/opt\"\n\n[[layer]]\nname = \"f\"\n\
         file = \"big\"\nto = \"/opt/\"\n"
    ));
    // What a file hashes to is kept when it has not been written to for two seconds.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    succeeds(&place.build(&[]));
    assert_eq!(kinds(&place), ["archives", "builds", "diff-ids", "files", "packs", "scans", "tars"]);
    let output = place.imgbuild().args(["cache", "ls"]).output().unwrap();
    assert!(!text(&output.stdout).contains("of another version"), "{}", text(&output.stdout));
    for kind in kinds(&place) {
        succeeds(&place.imgbuild().args(["cache", "export", "x.tar", "--only", &kind]).output().unwrap());
    }
}

#[test]
fn prune_wants_a_limit_and_keeps_to_it() {
    let place = built();
    fails(&place.imgbuild().args(["cache", "prune"]).output().unwrap(), 2, &["--max-size"]);
    let bad = place.imgbuild().args(["cache", "prune", "--max-size", "much"]).output().unwrap();
    fails(&bad, 2, &["--max-size much"]);
    assert_eq!(json(&place, &["prune", "--older-than", "30"])["entries"], 0);
    assert_eq!(json(&place, &["prune", "--max-size", "1GiB"])["entries"], 0);
    let dry = json(&place, &["prune", "--all", "--dry-run"]);
    assert!(dry["entries"].as_u64().unwrap() >= 5, "{dry}");
    assert_eq!(kinds(&place).len(), 5, "nothing was deleted");
    assert_eq!(json(&place, &["prune", "--all"])["entries"], dry["entries"]);
    assert!(kinds(&place).is_empty());
    succeeds(&place.build(&[]));
}

#[test]
fn verify_deletes_what_is_damaged_and_says_so() {
    let place = built();
    assert_eq!(json(&place, &["verify"])["damaged"], serde_json::json!([]));
    let packs = walkdir::WalkDir::new(place.join("cache/packs-v1")).into_iter().flatten();
    let pack = packs.filter(|e| e.file_type().is_file()).last().unwrap().into_path();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[10] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let output = place.imgbuild().args(["cache", "verify"]).output().unwrap();
    fails(&output, 4, &["1 entries were damaged and are deleted"]);
    assert!(text(&output.stdout).contains("deleted ") && !pack.exists());
    assert_eq!(json(&place, &["verify"])["damaged"], serde_json::json!([]));
}

/// A runner that begins with nothing but an exported pack compresses nothing.
#[test]
fn what_was_compressed_travels() {
    let (one, two) = (built(), Place::new());
    let output = one.imgbuild().args(["cache", "export", "pack.tar"]).output().unwrap();
    succeeds(&output);
    assert!(text(&output.stdout).starts_with("pack.tar: "), "{}", text(&output.stdout));
    // As any other new file; what the umask is, another one says.
    let mode = |name: &str| std::fs::metadata(one.join(name)).unwrap().permissions().mode();
    one.write("any", b"");
    assert_eq!(mode("pack.tar"), mode("any"));
    two.layout(&ordinary());
    two.recipe(ORDINARY);
    let tar = one.join("pack.tar");
    let imported = two.imgbuild().args(["--json", "cache", "import"]).arg(&tar).output().unwrap();
    succeeds(&imported);
    let imported: Value = serde_json::from_slice(&imported.stdout).unwrap();
    assert!(imported["added"].as_u64().unwrap() > 0 && imported["present"] == 0, "{imported}");
    let output = two.build(&[]);
    succeeds(&output);
    assert!(text(&output.stderr).contains("of them packed before"), "{}", text(&output.stderr));
    let sums = |place: &Place| std::fs::read_to_string(place.join("out/small-1/SHA256SUMS")).unwrap();
    assert_eq!(sums(&one), sums(&two));
    // Through a pipe, everything.
    let export = one.imgbuild().args(["cache", "export", "-", "--only", "tars,diff-ids"]).output().unwrap();
    succeeds(&export);
    one.write("all.tar", &export.stdout);
    let again = json(&one, &["import", "all.tar"]);
    assert!(again["added"] == 0 && again["present"].as_u64().unwrap() > 0, "{again}");

    fails(&one.imgbuild().args(["cache", "export", "x.tar", "--only", "tar"]).output().unwrap(), 2, &["--only tar"]);
    fails(&one.imgbuild().args(["cache", "import", "none.tar"]).output().unwrap(), 3, &["none.tar"]);
    fails(&one.imgbuild().args(["cache", "import", "recipe.toml"]).output().unwrap(), 3, &[]);
}
