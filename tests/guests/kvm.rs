//! Hosts whose KVM works up to a point, as CI has met them. A program in QEMU's place emulates what KVM is said to run,
//! and hangs where such a host does. There is a `/dev/kvm`, on hosts that have none as well. These tests wait for most of their
//! time, and so take no [`turn`].

use super::*;

const IMPOSTOR: &str = r#"#!/bin/bash
kvm=no
words=("$@")
for at in "${!words[@]}"; do
    case ${words[at]} in
    kvm) kvm=yes words[at]=tcg,thread=multi ;;
    host) words[at]=max ;;
    esac
done
case "$kvm $HANGS_AT $*" in
yes\ kernel\ *' -kernel '* | yes\ initrd\ *' -initrd '*)
    echo 'Probing EDD (edd=off to disable)... ok'
    exec sleep 1000 ;;
esac
exec "$REAL_QEMU" "${words[@]}"
"#;

/// Runs a program with a /dev of its own that has a `kvm`, an empty file: only QEMU would look into it.
const WITH_DEVICE: &str = r#"
set -eu
dev=$1
shift
mount -t tmpfs dev "$dev"
mkdir "$dev/shm"
for name in full null random tty urandom zero; do
    [ -e "/dev/$name" ] || continue
    : >"$dev/$name"
    mount --bind "/dev/$name" "$dev/$name"
done
for name in fd stdin stdout stderr; do cp -P "/dev/$name" "$dev"; done
: >"$dev/kvm"
mount --rbind "$dev" /dev
exec "$@"
"#;

/// The same command with [`WITH_DEVICE`], in namespaces that `unshare` makes for ordinary users too.
fn with_device(command: &Command, dev: &Path) -> Command {
    fs::create_dir(dev).unwrap();
    let mut inside = Command::new("unshare");
    inside.args(["--map-root-user", "--mount", "sh", "-c", WITH_DEVICE, "with-device"]).arg(dev);
    inside.arg(command.get_program()).args(command.get_args());
    inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        inside.current_dir(folder);
    }
    inside
}

/// Tests the good image where KVM hangs what has the named option; returns the report and all that was said.
fn hanging_at(option: &str) -> (Value, String) {
    let (output, said) = tested_where_kvm_hangs_at(option, &[]);
    (report(&output, 0), said)
}

/// The same with more arguments; returns what came of it, and all that was said and remembered.
fn tested_where_kvm_hangs_at(option: &str, arguments: &[&str]) -> (Output, String) {
    let temporary = tempfile::tempdir().unwrap();
    let bundle = bundle("good");
    let mut command = tester(temporary.path(), &[&[bundle.as_str()], arguments].concat());
    in_place_of_qemu(&mut command, temporary.path(), IMPOSTOR);
    command.env("HANGS_AT", option).env("IMGBUILD_CACHE", temporary.path().join("cache"));
    let output = with_device(&command, &temporary.path().join("dev")).output().unwrap();
    let verdict = fs::read_to_string(temporary.path().join("cache/accelerator.json")).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &verdict;
    (output, said)
}

#[test]
fn a_host_that_runs_a_boot_sector_but_no_kernel_emulates() {
    let (report, said) = hanging_at("kernel");
    assert_eq!(report["accelerator"], "tcg");
    assert!(said.contains("KVM is there, but a kernel hung for 30 s"), "{said}");
}

#[test]
fn a_guest_that_hangs_before_it_says_anything_is_booted_again_with_emulation() {
    let (report, said) = hanging_at("initrd");
    assert_eq!(report["accelerator"], "tcg");
    assert!(said.contains("KVM passed its test and then hung a guest for 60 s"), "{said}");
}

#[test]
fn who_asks_for_kvm_is_told_why_there_is_none() {
    let (output, said) = tested_where_kvm_hangs_at("kernel", &["--accel", "kvm"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("guests cannot run with KVM here: KVM is there, but a kernel hung for 30 s"), "{said}");
    assert!(output.stdout.is_empty(), "{said}");
}
