//! Every kind of `[[test]]` in a guest: one that holds, and one that does not.

use std::collections::BTreeSet;
use std::fs;

use super::{bundle, named, report, tester, turn};

/// In the recipe.
pub(super) const PASSING: &str = r#"
[[hook]]
stage = "pre-init"
script = "hook.sh"
on_failure = "continue"

[[test]]
name = "good unit"
unit = "x.service"
[[test]]
name = "good mount"
mount = "/"
fstype = "overlay"
options = ["rw"]
[[test]]
name = "good file"
file = "/usr/sbin/init"
mode = 0o755
owner = "0:0"
matches = '^#!/bin/sh$'
[[test]]
name = "good absence"
file = "/etc/shadow"
exists = false
[[test]]
name = "good port"
port = 7777
[[test]]
name = "good process"
process = "nc"
user = "0"
[[test]]
name = "good module"
module = "virtio-console"
[[test]]
name = "good sysctl"
sysctl = "kernel.ostype"
value = "Linux"
[[test]]
name = "good journal"
journal = "system"
contains = "Started"
lacks = "panic"
[[test]]
name = "good hook"
hook = "hook.sh"
exit = 3
contains = "it ran"
[[test]]
name = "good ram"
ram = "350MiB"
[[test]]
name = "good time"
time = "switch_root"
at_most = "1m"
[[test]]
name = "good run"
run = "echo v1.2; echo careful >&2; exit 4"
exit = 4
matches = '^v\d+\.\d+$'
stderr = "careful"
"#;

/// In a file of a site, each with what its report says.
const FAILING: [(&str, &str, &str); 14] = [
    ("unit", "unit = \"x.service\"\nstate = \"failed\"", "expected x.service failed; found active (active)"),
    ("mount", "mount = \"/\"\noptions = [\"nodev\"]", "overlay (rw"),
    ("file", "file = \"/usr/sbin/init\"\nmode = 0o700", "mode 0755, owner 0:0"),
    ("contents", "file = \"/usr/sbin/init\"\ncontains = \"systemd\"", "contents `#!/bin/sh"),
    ("absence", "file = \"/etc\"\nexists = false", "expected no /etc; found a folder is there"),
    ("port", "port = 22", "nothing listens on tcp port 22; open: "),
    ("process", "process = \"nc\"\nrunning = false", "expected no nc; found process "),
    ("module", "module = \"kvm\"", "expected kvm; found not loaded"),
    ("sysctl", "sysctl = \"kernel.ostype\"\nvalue = \"Plan9\"", "expected kernel.ostype = Plan9; found `Linux`"),
    ("journal", "journal = \"kernel\"\nlacks = \"is full\"", "found `a disk is full`"),
    ("hook", "hook = \"hook.sh\"", "expected exit status 0; found pre-init: ended with status 3"),
    ("ram", "ram = \"1MiB\"", "expected at most 1 MiB used; found "),
    ("time", "time = \"x.service\"\nat_most = \"1s\"", "; found after 999000.0 s"),
    ("run", "run = \"echo v1.2-rc\"\nmatches = '^v\\d+\\.\\d+$'", "found exit status 0; stdout `v1.2-rc`"),
];

#[test]
fn every_kind_of_test_can_hold_and_fail() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let (site, junit) = (temporary.path().join("site.toml"), temporary.path().join("junit.xml"));
    let table =
        |(name, keys, _): &(&str, &str, &str)| format!("[[test]]\nname = \"bad {name}\"\n{keys}\ntimeout = \"1s\"\n");
    fs::write(&site, FAILING.iter().map(table).collect::<String>()).unwrap();
    let (site, junit_to) = (site.to_str().unwrap(), junit.to_str().unwrap());
    let arguments =
        [&bundle("kinds"), "--append", "mode=busy", "--tests", site, "--junit", junit_to, "--timeout", "300"];
    let report = report(&tester(temporary.path(), &arguments).output().unwrap(), 4);
    assert_eq!(report["failure"]["cause"], serde_json::json!({"kind": "tests", "failed": FAILING.len()}), "{report:#}");

    let tests = report["tests"].as_array().unwrap();
    for test in tests.iter().filter(|test| test["name"].as_str().unwrap().starts_with("good ")) {
        assert_eq!(test["passed"], true, "{test:#}");
    }
    let junit = fs::read_to_string(junit).unwrap();
    for (name, _, message) in FAILING {
        let test = named(&report, &format!("bad {name}"));
        assert_eq!(test["passed"], false, "{test:#}");
        assert!(test["message"].as_str().unwrap().contains(message), "{test:#}");
        let (_, case) =
            junit.split_once(&format!(r#"<testcase name="bad {name}""#)).unwrap_or_else(|| panic!("{junit}"));
        assert!(case.split_once('>').unwrap().1.trim_start().starts_with("<failure message="), "{name}:\n{junit}");
    }
    // Whoever adds a kind adds its examples.
    let schema = imgbuild_recipe::schema();
    let required = |kind: &serde_json::Value| kind["required"][0].as_str().unwrap().to_owned();
    let kinds: BTreeSet<String> =
        schema.pointer("/$defs/Test/oneOf").unwrap().as_array().unwrap().iter().map(required).collect();
    let named: BTreeSet<String> = FAILING.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert!(kinds.is_subset(&named), "{kinds:?}");
}

#[test]
fn a_wrong_file_of_tests_is_shown_with_line_and_caret() {
    let temporary = tempfile::tempdir().unwrap();
    let site = temporary.path().join("site.toml");
    fs::write(&site, "[[test]]\nport = 22\nlistning = false\n").unwrap();
    let output = super::imgbuild(temporary.path()).args(["test", "nowhere", "--tests"]).arg(&site).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("site.toml:3:1") && error.contains("^^^^^^^^ did you mean `listening`?"), "{error}");
}
