//! `run`: a command's exit status and output.

use std::time::Duration;

use super::{Verdict, Wanted, describe};
use crate::spec::Run;
use crate::system::System;

pub(super) fn check(wanted: &Run, system: &dyn System, patience: Duration) -> Verdict {
    let Run { run, exit, stdout, matches, stderr, stderr_matches } = wanted;
    let of_stdout = Wanted::new(stdout.as_ref(), matches.as_ref());
    let of_stderr = Wanted::new(stderr.as_ref(), stderr_matches.as_ref());
    let mut expected = format!("exit status {exit}");
    for (stream, wanted) in [("stdout", &of_stdout), ("stderr", &of_stderr)] {
        if wanted.is_anything() {
            expected = format!("{expected}, {stream} {}", wanted.words());
        }
    }
    let output = match system.run(&["/bin/sh", "-c", run], patience) {
        Ok(output) => output,
        Err(error) => return Verdict::new(false, expected, format!("/bin/sh: {error}")),
    };
    let holds = !output.timed_out
        && output.exit == Some(*exit)
        && of_stdout.is_in(&output.stdout)
        && of_stderr.is_in(&output.stderr);
    Verdict::new(holds, expected, describe(&output))
}

#[cfg(test)]
mod tests {
    use super::super::tests::attempt;
    use super::*;
    use crate::system::{Output, fake::Fake};

    fn run(exit: i32, stdout: &str, stderr: &str, rest: &str) -> Verdict {
        let system = Fake::default();
        system.answer("sh -c x", exit, stdout, stderr);
        attempt(&format!(r#"{{"run": "x"{rest}}}"#), &system)
    }

    #[test]
    fn a_commands_status_and_both_streams() {
        assert!(run(0, "Kubernetes v1.34\n", "", r#", "stdout": "Kubernetes v""#).holds);
        assert!(run(3, "", "no such thing\n", r#", "exit": 3, "stderr": "no such""#).holds);
        assert!(!run(0, "Kubernetes", "", r#", "stdout": "Kubernetes v""#).holds);
        assert!(!run(0, "no such", "", r#", "stderr": "no such""#).holds);
        let verdict = run(1, "a\n", "b\n", r#", "stdout": "x""#);
        assert_eq!(verdict.expected, "exit status 0, stdout with `x`");
        assert_eq!(verdict.found, "exit status 1; stdout `a`; stderr `b`");
    }

    #[test]
    fn patterns_match_lines() {
        assert!(run(0, "a\nv1.34\nb\n", "", r#", "matches": "^v\\d+\\.\\d+$""#).holds);
        let verdict = run(0, "v1.34-rc\n", "", r#", "stdout": "v1", "matches": "^v\\d+\\.\\d+$""#);
        assert!(!verdict.holds);
        assert_eq!(verdict.expected, r"exit status 0, stdout with `v1`, matching `^v\d+\.\d+$`");
        assert!(run(0, "", "warning: x\n", r#", "stderr_matches": "^warning""#).holds);
        assert!(!run(0, "warning: x\n", "", r#", "stderr_matches": "^warning""#).holds);
    }

    #[test]
    fn what_was_killed_does_not_hold_whatever_it_printed() {
        let system = Fake::default();
        let killed = Output { exit: None, stdout: "x".into(), stderr: String::new(), timed_out: true };
        system.answers.borrow_mut().insert("sh -c x".into(), vec![killed]);
        let verdict = attempt(r#"{"run": "x", "stdout": "x"}"#, &system);
        assert_eq!((verdict.holds, verdict.found.as_str()), (false, "killed, its time was over; stdout `x`"));
    }
}
