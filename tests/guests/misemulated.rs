//! Emulation whose race with the kernel's changes of its own code panics guests, as CI has met it.

use super::*;

/// In QEMU's place: lets guests panic as often as there are lines in a file.
const IMPOSTOR: &str = r#"#!/bin/bash
words=("$@")
for at in "${!words[@]}"; do
    if [ "${words[at]}" = -append ] && [ -s "$PANICS" ]; then
        sed -i 1d "$PANICS"
        words[at + 1]+=' mode=int3'
    fi
done
exec "$REAL_QEMU" "${words[@]}"
"#;

/// Tests the good image where the first so many guests panic; returns what came of it, and all that was said.
fn tested_with_panics(panics: usize) -> (Output, String) {
    let temporary = tempfile::tempdir().unwrap();
    let panics_left = temporary.path().join("panics");
    fs::write(&panics_left, "panic\n".repeat(panics)).unwrap();
    let mut command = tester(temporary.path(), &[&bundle("good"), "--accel", "tcg"]);
    in_place_of_qemu(&mut command, temporary.path(), IMPOSTOR);
    let output = command.env("PANICS", panics_left).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn a_guest_that_emulation_panics_is_booted_again() {
    let _turn = turn();
    let (output, said) = tested_with_panics(1);
    report(&output, 0);
    let note = "QEMU's emulation broke the kernel's change of its own code";
    assert_eq!(said.matches(note).count(), 1, "{said}");
    assert!(said.contains("int3: 0000 [#1]"), "{said}");
}

#[test]
fn a_guest_that_panics_twice_has_failed() {
    let _turn = turn();
    let (output, said) = tested_with_panics(2);
    let report = report(&output, 4);
    assert!(report["failure"]["cause"].to_string().contains("panic"), "{report}");
    assert_eq!(said.matches("; again").count(), 1, "{said}");
}
