//! Hosts whose KVM works up to a point, as CI has met them. A program in QEMU's place emulates what KVM is said to run,
//! and hangs where such a host does.

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

/// Tests the good image where KVM hangs what has the named option; returns the report and all that was said.
fn hanging_at(option: &str) -> (Value, String) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("bin");
    fs::create_dir(&folder).unwrap();
    script(&folder.join("qemu-system-x86_64"), IMPOSTOR);
    let real = run(Command::new("sh").args(["-c", "command -v qemu-system-x86_64"]));
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = tester(temporary.path(), &[&bundle("good")]);
    command.env("PATH", path).env("REAL_QEMU", real.trim()).env("HANGS_AT", option);
    command.env("IMGBUILD_CACHE", temporary.path().join("cache"));
    let output = command.output().unwrap();
    let verdict = fs::read_to_string(temporary.path().join("cache/accelerator.json")).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &verdict;
    (report(&output, 0), said)
}

/// Without the device nobody asks whether KVM works.
fn there_is_a_device() -> bool {
    let there = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !there {
        eprintln!("no /dev/kvm here: the verdict is not compared");
    }
    there
}

#[test]
fn a_host_that_runs_a_boot_sector_but_no_kernel_emulates() {
    let _turn = turn();
    let (report, said) = hanging_at("kernel");
    assert_eq!(report["accelerator"], "tcg");
    assert!(!there_is_a_device() || said.contains("KVM is there, but a kernel hung for 30 s"), "{said}");
}

#[test]
fn a_guest_that_hangs_before_it_says_anything_is_booted_again_with_emulation() {
    let _turn = turn();
    let (report, said) = hanging_at("initrd");
    assert_eq!(report["accelerator"], "tcg");
    assert!(!there_is_a_device() || said.contains("KVM passed its test and then hung a guest for 60 s"), "{said}");
}
