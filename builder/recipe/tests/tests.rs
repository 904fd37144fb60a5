//! Every kind of `[[test]]`, in recipes and in files of nothing but tests. What is wrong with them: `errors/tests*`.

mod common;

use common::Folder;
use imgbuild_recipe::*;

const KINDS: &str = r#"
[[test]]
file = "/etc//motd/"
mode = 0o640
owner = "root:adm"
contains = "Welcome"
matches = '^to node-\d+$'
sha256 = "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"
[[test]]
file = "/etc/hostname"
exists = false
[[test]]
port = 53
protocol = "udp"
address = "::1"
listening = false
[[test]]
process = "kubelet"
user = "root"
running = true
[[test]]
module = "kvm"
loaded = false
[[test]]
sysctl = "net.ipv4.ip_forward"
value = 1
[[test]]
journal = "kernel"
contains = "Linux version"
lacks = "Oops"
[[test]]
hook = "network.sh"
exit = 3
contains = "bond"
[[test]]
ram = "40%"
[[test]]
time = "switch_root"
at_most = "2m"
timeout = "5m"
[[test]]
name = "it runs"
run = "true"
stderr_matches = "a|b"
"#;

/// What the probe in the booted system is told.
fn tables() -> serde_json::Value {
    serde_json::json!([
        { "file": "/etc/motd", "mode": "0640", "owner": "root:adm", "contains": "Welcome", "matches": "^to node-\\d+$",
          "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
        { "file": "/etc/hostname", "exists": false },
        { "port": 53, "protocol": "udp", "address": "::1", "listening": false },
        { "process": "kubelet", "user": "root", "running": true },
        { "module": "kvm", "loaded": false },
        { "sysctl": "net.ipv4.ip_forward", "value": "1" },
        { "journal": "kernel", "contains": "Linux version", "lacks": "Oops" },
        { "hook": "network.sh", "exit": 3, "contains": "bond" },
        { "ram": "40%" },
        { "time": "switch_root", "at_most": "2m", "timeout": "5m" },
        { "name": "it runs", "run": "true", "stderr_matches": "a|b" },
    ])
}

fn folder() -> Folder {
    let recipe = "[image]\nname = \"x\"\n[[layer]]\nname = \"a\"\noci = \"r.io/a:1\"\n\
                  [[hook]]\nstage = \"pre-init\"\nscript = \"network.sh\"\n";
    Folder::new(&[("recipe.toml", &format!("{recipe}{KINDS}")), ("network.sh", "#!/bin/sh\n"), ("tests.toml", KINDS)])
}

#[test]
fn every_kind_goes_through_recipe_show_and_manifest() {
    let folder = folder();
    let recipe = folder.ok(&["recipe.toml"], &[]);
    assert_eq!(serde_json::to_value(&recipe.tests).unwrap(), tables());
    folder.write("shown.toml", recipe.to_toml());
    let again = folder.ok(&["shown.toml"], &[]);
    assert_eq!(serde_json::to_value(&again.tests).unwrap(), tables());
    let read: Vec<Test> = serde_json::from_value(tables()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), tables());
}

#[test]
fn a_file_of_tests_has_nothing_else() {
    let folder = folder();
    let tests = load_tests(&[folder.path("tests.toml")]).unwrap();
    assert_eq!(serde_json::to_value(&tests).unwrap(), tables());
    assert!(tests[0].place.ends_with("tests.toml:2"), "{}", tests[0].place);

    let more = "include = [\"tests.toml\"]\n[params]\nport = 8080\n[[test]]\nname = \"it runs\"\nport = \"${port}\"\n";
    folder.write("more.toml", more);
    let tests = load_tests(&[folder.path("more.toml")]).unwrap();
    assert_eq!((tests.len(), tests[10].port), (11, Some(8080)), "the one of that name is replaced");

    for (text, expected) in [
        ("[image]\nname = \"x\"\n[[test]]\nunit = \"a\"\n", "unknown key `image` in a file of tests"),
        ("[[test]]\nunit = \"a\"\nstate = 1\n", "expected a string, found an integer"),
        ("", "there is no [[test]]"),
        ("[[test]\n", "tests.toml:1:"),
    ] {
        folder.write("tests.toml", text);
        let errors = load_tests(&[folder.path("tests.toml")]).unwrap_err().to_string();
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn the_example_of_the_page_on_boot_tests_is_a_recipe() {
    let page = include_str!("../../../docs/boot-tests.md");
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let worker = "[image]\nname = \"worker\"\n[[layer]]\nname = \"a\"\noci = \"r.io/a:1\"\n";
    let folder = Folder::new(&[
        ("rack.toml", example),
        ("recipes/worker.toml", worker),
        ("rack/", ""),
        ("rack/rack-name.sh", "#!/bin/sh\n"),
    ]);
    assert_eq!(folder.ok(&["rack.toml"], &[]).tests.len(), 12);
}
