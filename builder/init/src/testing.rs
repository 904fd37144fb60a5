//! For tests that want a place of their own, such as a network namespace: they run themselves again there.

use std::env;
use std::process::Command;

/// Set for a test that is in its place.
const INSIDE: &str = "IMGBUILD_TEST_INSIDE";

/// Whether the running test is in its place already.
pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// The name of a test function, as the test program takes it after `--exact`.
pub(crate) fn name_of<F: Fn()>(_test: &F) -> &'static str {
    let path = std::any::type_name::<F>();
    path.split_once("::").map_or(path, |(_crate, name)| name)
}

/// Runs a command that makes the place and runs this test program with one test in it.
#[track_caller]
pub(crate) fn inside(command: &mut Command) {
    let output = command.env(INSIDE, "1").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A test that was not found would be no failure of the program.
    assert!(
        output.status.success() && said.contains("test result: ok. 1 passed;"),
        "{command:?}: {}\n{said}",
        output.status
    );
}
