//! What is said, and where.

use std::process::Command;

use serde_json::Value;

use super::support::{IMGBUILD, ORDINARY, Place, fails, ordinary, succeeds, text};

fn place() -> Place {
    let place = Place::new();
    place.layout(&ordinary());
    place.recipe(ORDINARY);
    place
}

#[test]
fn the_last_line_of_stdout_is_the_bundle() {
    let output = place().build(&[]);
    succeeds(&output);
    assert_eq!(text(&output.stdout), "out/small-1\n");
}

#[test]
fn plain_lines_where_there_is_no_terminal() {
    let output = place().build(&[]);
    let said = text(&output.stderr);
    assert!(said.contains("squashfs: ") && !said.contains('\u{1b}') && !said.contains('\r'), "{said}");
}

#[test]
fn bars_on_a_terminal() {
    let place = place();
    let mut command = Command::new("script");
    let line = format!("{IMGBUILD} build recipe.toml");
    place.prepare(command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm"));
    let output = command.output().unwrap();
    succeeds(&output);
    let said = text(&output.stdout);
    assert!(said.contains('\u{1b}') && said.contains("squashfs"), "{said}");
}

#[test]
fn quiet_and_verbose() {
    let place = place();
    let output = place.build(&["-q"]);
    succeeds(&output);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), "out/small-1\n");
    assert!(place.build(&["-v"]).stderr.len() >= place.build(&[]).stderr.len());
}

#[test]
fn json_events_one_a_line_and_a_json_result() {
    let place = place();
    let output = place.build(&["--json"]);
    succeeds(&output);
    let events: Vec<Value> = text(&output.stderr).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let named = |name: &str| events.iter().filter(|e| e["event"] == name).count();
    assert!(named("started") > 0 && named("finished") > 0, "{events:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["bundle"], "out/small-1");

    place.recipe("[prun]\n");
    let output = place.build(&["--json"]);
    let last: Value = serde_json::from_str(text(&output.stderr).lines().last().unwrap()).unwrap();
    assert_eq!((last["event"].as_str(), last["code"].as_i64()), (Some("failed"), Some(2)));
}

#[test]
fn show_and_schema() {
    let place = place();
    let output = place.imgbuild().args(["show", "recipe.toml", "--set", "image.version=2"]).output().unwrap();
    succeeds(&output);
    assert!(text(&output.stdout).contains("version = \"2\""), "{}", text(&output.stdout));
    let output = place.imgbuild().arg("schema").output().unwrap();
    succeeds(&output);
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["layer"].is_object(), "{schema}");
}

#[test]
fn inspect_names_layer_and_recipe_line() {
    let place = place();
    succeeds(&place.build(&[]));
    let inspect =
        |arguments: &[&str]| place.imgbuild().args(["inspect", "out/small-1"]).args(arguments).output().unwrap();
    let output = inspect(&["--file", "/usr/bin/second-name"]);
    succeeds(&output);
    let said = text(&output.stdout);
    assert!(said.contains("layer   base") && said.contains("recipe.toml:4"), "{said}");
    fails(&inspect(&["--file", "/bin/second-name"]), 1, &["/usr/bin/second-name"]);
    let said = text(&inspect(&[]).stdout);
    assert!(said.contains("/usr/bin") && said.contains("root.squashfs"), "{said}");
    fails(&place.imgbuild().args(["inspect", "images"]).output().unwrap(), 3, &["images", "manifest.json"]);
}

#[test]
fn a_root_only_bundle_is_published_without_a_channel() {
    let place = place();
    succeeds(&place.build(&[]));
    let publish =
        |more: &[&str]| place.imgbuild().args(["publish", "out/small-1", "site"]).args(more).output().unwrap();
    let output = publish(&[]);
    succeeds(&output);
    assert_eq!(text(&output.stdout), "small 1 published in site/images/small/1\n");
    fails(&publish(&["--channel", "stable"]), 1, &["small"]);
    assert_eq!(place.names("site/images/small"), ["1"]);
    assert_eq!(place.names("site/channels/small"), [""; 0]);
}

#[test]
fn wrong_usage_ends_with_2() {
    let output = Command::new(IMGBUILD).arg("biuld").output().unwrap();
    fails(&output, 2, &["build"]);
}

#[test]
fn the_reference_pages_are_those_of_this_code() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    for page in ["commands", "recipe", "lint", "modules", "hooks"] {
        let output = Command::new(IMGBUILD).args(["reference", page]).output().unwrap();
        succeeds(&output);
        let file = docs.join(format!("{page}.md"));
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(text(&output.stdout) == committed, "{} is out of date; run ci/reference", file.display());
    }
    let output = Command::new(IMGBUILD).args(["reference", "diff"]).output().unwrap();
    let committed = std::fs::read_to_string(docs.join("diff.schema.json")).unwrap_or_default();
    assert!(text(&output.stdout) == committed, "diff.schema.json is out of date; run ci/reference");
}
