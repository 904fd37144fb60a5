//! `imgbuild hook run`: exit codes and what is printed. What it does is tested in builder/boot.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::support::{IMGBUILD, succeeds, text};

fn hook(arguments: &[&str]) -> Output {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new(IMGBUILD).args(["hook", "run"]).args(arguments).current_dir(project).output().unwrap()
}

#[test]
fn the_network_hook_writes_what_its_variables_say() {
    let address = "NET_ADDRESS=198.51.100.7/24";
    let output = hook(&["overlays/hooks/network.sh", "--env", address, "--cmdline", "quiet NET_MTU=9000", "--json"]);
    succeeds(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [written] = report["wrote"].as_array().unwrap().as_slice() else { panic!("{report:#}") };
    assert_eq!(written["path"], "/run/systemd/network/90-netboot.network");
    let network = written["text"].as_str().unwrap();
    assert!(network.contains("Address=198.51.100.7/24") && network.contains("MTUBytes=9000"), "{network}");
    assert!(network.contains("MACAddress=00:00:5e:00:53:07"), "{network}");
}

#[test]
fn failures_have_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("hook.sh");
    fs::write(&script, "#!/bin/sh\necho \"no rack for $NETBOOT_IP\" >&2\nexit 5\n").unwrap();
    let script = script.to_str().unwrap();
    let output = hook(&[script]);
    assert_eq!(output.status.code(), Some(4));
    assert!(
        text(&output.stdout).contains("| no rack for 192.0.2.7\nhook.sh ended with status 5, "),
        "{}",
        text(&output.stdout)
    );
    assert!(text(&output.stderr).contains("the hook hook.sh failed"), "{}", text(&output.stderr));
    assert_eq!(hook(&["no/such/hook"]).status.code(), Some(3));
    assert_eq!(hook(&[script, "--env", "RACK"]).status.code(), Some(2));
    assert_eq!(hook(&[script, "--timeout", "soon"]).status.code(), Some(2));
}
