//! Two bundles compared, and a root drawn.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::support::{Item, Place, fails, succeeds, tar, text};

/// Two bundles, `out/small-1` and `out/small-2`: another package, another owner, a new tool.
fn two() -> Place {
    let place = Place::new();
    let status = |version: &str| {
        format!("Package: tool\nStatus: install ok installed\nVersion: {version}\nArchitecture: amd64\n")
    };
    for (version, tool, more) in [("1", &[7; 20_000][..], None), ("2", &[7; 60_000], Some("usr/bin/more"))] {
        let (status, list) = (status(version), "/usr/bin/tool\n");
        let mut items = vec![
            Item::File("etc/os-release", b"ID=debian\n"),
            Item::File("usr/bin/tool", tool),
            Item::File("var/lib/dpkg/status", status.as_bytes()),
            Item::File("var/lib/dpkg/info/tool.list", list.as_bytes()),
            Item::Symlink("bin", "usr/bin"),
        ];
        items.push(match more {
            None => Item::File("etc/rights", b"x"),
            Some(_) => Item::Capable("etc/rights", b"x"),
        });
        items.extend(more.map(|path| Item::File(path, b"more")));
        place.write("files.tar", tar(&items));
        place.recipe("[[layer]]\nname = \"files\"\ntar = \"files.tar\"\n");
        succeeds(&place.build(&["--set", &format!("image.version={version}")]));
    }
    place
}

fn diff(place: &Place, arguments: &[&str]) -> std::process::Output {
    place.imgbuild().arg("diff").args(arguments).output().unwrap()
}

#[test]
fn the_exit_status_tells_equal_from_different_from_failed() {
    let place = two();
    let output = diff(&place, &["out/small-1", "out/small-1"]);
    succeeds(&output);
    assert!(text(&output.stdout).contains("equal, byte for byte"), "{}", text(&output.stdout));
    let output = diff(&place, &["out/small-1", "out/small-2"]);
    fails(&output, 5, &[]);
    assert_eq!(text(&output.stderr), "");
    fails(&diff(&place, &["out/small-1", "out/small-3"]), 3, &["out/small-3"]);
    fails(&diff(&place, &["out/small-1", "recipe.toml"]), 3, &["recipe.toml"]);
    fails(&diff(&place, &["out/small-1"]), 2, &["<B>"]);
}

#[test]
fn a_damaged_bundle_is_equal_to_none() {
    let place = two();
    let copied = Command::new("cp").args(["-a", "out/small-1", "out/copy"]).current_dir(place.path()).status();
    assert!(copied.unwrap().success());
    succeeds(&diff(&place, &["out/small-1", "out/copy"]));
    let root = place.join("out/copy/root.squashfs");
    let mut bytes = std::fs::read(&root).unwrap();
    // In the padding at the end: what is compared file by file is as it was.
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&root, bytes).unwrap();
    for pair in [["out/small-1", "out/copy"], ["out/copy", "out/small-1"]] {
        let output = diff(&place, &pair);
        fails(&output, 4, &["copy/root.squashfs", "the bundle is damaged"]);
        assert!(!text(&output.stdout).contains("equal"), "{}", text(&output.stdout));
    }
}

#[test]
fn what_matters_comes_first() {
    let place = two();
    let output = diff(&place, &["out/small-1", "out/small-2"]);
    let said = text(&output.stdout);
    let expected = [
        "out/small-1 (small 1, amd64) -> out/small-2 (small 2, amd64)",
        "files     1 added, 0 removed, 3 changed, 0 renamed",
        "packages  0 added, 0 removed, 1 changed",
        "tool 1 -> 2",
        "Layers",
        "+40.0 kB     20.0 kB ->    60.0 kB  tool",
        "/etc/rights  owner 0:0 -> 1234:70000, mode 0644 -> 4755, xattrs security.capability  [files]",
        "~   +40.0 kB  /usr/bin/tool  content  [files: tool]",
        "+       +4 B  /usr/bin/more  [files]",
    ];
    let mut rest = said.as_str();
    for part in expected {
        let Some((_, after)) = rest.split_once(part) else { panic!("no {part:?}, in its place, in:\n{said}") };
        rest = after;
    }
}

#[test]
fn the_same_for_programs_and_for_bare_images() {
    let place = two();
    let output = diff(&place, &["--json", "out/small-1", "out/small-2"]);
    fails(&output, 5, &[]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((found["schema"].as_u64(), found["equal"].as_bool()), (Some(1), Some(false)));
    assert_eq!(found["packages"][0]["purl"], "pkg:deb/debian/tool?arch=amd64");
    assert_eq!(found["files"]["list"][0]["path"], "/usr/bin/tool");
    assert_eq!(found["files"]["list"][0]["growth"], 40_000);
    assert_eq!(found["layers"][0]["name"], "files");

    let images = ["out/small-1/root.squashfs", "out/small-2/root.squashfs"];
    let output = diff(&place, &["--json", images[0], images[1]]);
    fails(&output, 5, &[]);
    let bare: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(bare["packages"], found["packages"]);
    assert_eq!(bare["files"]["changed"], found["files"]["changed"]);
    assert_eq!(bare["layers"], serde_json::json!([]));
}

#[test]
fn a_treemap_is_one_file() {
    let place = two();
    let output = place.imgbuild().args(["inspect", "out/small-2", "--html", "map.html"]).output().unwrap();
    succeeds(&output);
    assert_eq!(text(&output.stdout), "map.html\n");
    let page = std::fs::read_to_string(place.join("map.html")).unwrap();
    assert!(page.contains("<title>small 2</title>") && page.contains("\"against\":null"), "{page}");

    fails(&diff(&place, &["out/small-1", "out/small-2", "--html", "diff.html"]), 5, &[]);
    let page = std::fs::read_to_string(place.join("diff.html")).unwrap();
    let data = page.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["heading"]["against"], "small 1");
    assert_eq!((&data["layers"][0], &data["packages"][0]), (&"files".into(), &"tool".into()));

    let output = diff(&place, &["out/small-1", "out/small-2", "--html", "-"]);
    assert!(text(&output.stdout).starts_with("<!DOCTYPE html>"), "{}", text(&output.stdout));
    fails(&diff(&place, &["out/small-1", "out/small-2", "--html", "no/such/folder"]), 1, &["no/such/folder"]);
}

/// What unsquashfs lists of an image: by path all but the time.
fn listed(place: &Place, bundle: &str) -> BTreeMap<String, String> {
    let image = place.join(bundle).join("root.squashfs");
    let output = Command::new("unsquashfs").args(["-d", "", "-lln"]).arg(image).output().unwrap();
    succeeds(&output);
    let said = text(&output.stdout);
    let lines = said.lines().filter(|line| line.contains(" /"));
    lines
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [mode, owner, size, _day, _time, path, rest @ ..] = &words[..] else { panic!("{line}") };
            // A folder's size is that of its listing.
            let size = if mode.starts_with('d') { "" } else { size };
            ((*path).to_owned(), format!("{mode} {owner} {size} {}", rest.join(" ")))
        })
        .collect()
}

#[test]
fn unsquashfs_sees_the_same_differences() {
    let place = two();
    let (a, b) = (listed(&place, "out/small-1"), listed(&place, "out/small-2"));
    let mut expected: Vec<_> = a.keys().chain(b.keys()).filter(|path| a.get(*path) != b.get(*path)).cloned().collect();
    // The status file differs in one letter, which no listing shows.
    expected.push("/var/lib/dpkg/status".to_owned());
    expected.sort();
    expected.dedup();
    let output = diff(&place, &["--json", "out/small-1", "out/small-2"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = found["files"]["list"].as_array().unwrap();
    let mut paths: Vec<_> = list.iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    assert_eq!(paths, expected);
}
