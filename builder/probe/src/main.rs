//! The agent that tests run in the booted system.
//!
//! It reads what to check from [`SPEC`], tries every check until it holds or its time is up, and reports over a
//! virtio-serial port, a JSON object a line:
//!
//! | `event` | with |
//! |---|---|
//! | `hello` | `schema`, `tests`: how many there are |
//! | `fact` | `name`, `value`: something worth knowing of the system |
//! | `result` | `index` in the specification, `name`, `passed`, `expected`, `found`, `message`, `attempts`, `seconds` |
//! | `file` | `name`, `data`: a piece of a log that the host is to keep |
//! | `done` | `passed`, `failed`: how many; `files`: whether pieces of files and an `end` follow |
//! | `end` | nothing more comes |

mod accounts;
mod check;
mod facts;
mod keep;
mod port;
mod spec;
mod speed;
mod system;
mod times;
mod values;

use std::fs;
use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use check::Verdict;
use port::Port;
use spec::{Spec, Test};
use system::{Running, System};

/// What to check.
const SPEC: &str = "/usr/lib/imgbuild/probe.json";
/// Between two rounds of attempts: each costs the system that it looks at.
const PAUSE: Duration = Duration::from_secs(2);
/// What tests of a system at rest get at least.
const AT_REST: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // The journal, for whoever looks there; the host sees that no result came.
            let _ = writeln!(std::io::stderr(), "netboot-probe: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Box<dyn std::error::Error>> {
    let mut port = Port::open()?;
    let text = fs::read_to_string(SPEC).map_err(|error| format!("{SPEC}: {error}"));
    let spec = match text.and_then(|text| Spec::parse(&text).map_err(|error| format!("{SPEC}: {error}"))) {
        Ok(spec) => spec,
        Err(error) => {
            port.say(&json!({"event": "hello", "schema": spec::SCHEMA, "tests": 0}))?;
            let name = "the tests can be read";
            port.say(
                &json!({"event": "result", "index": 0, "name": name, "passed": false, "message": error, "seconds": 0}),
            )?;
            port.say(&json!({"event": "done", "passed": 0, "failed": 1}))?;
            return Ok(false);
        }
    };
    port.say(&json!({"event": "hello", "schema": spec::SCHEMA, "tests": spec.tests.len()}))?;
    for (name, value) in facts::at_start() {
        port.say(&json!({"event": "fact", "name": name, "value": value}))?;
    }
    keep::at_start(&Running, &mut |event| port.say(event))?;
    let mut failed = 0_usize;
    let mut error = None;
    try_all(&spec, &Running, PAUSE, &mut |ended| {
        failed += usize::from(!ended.passed);
        if let Err(e) = port.say(&ended.json()) {
            error = Some(e);
        }
    });
    if let Some(error) = error {
        return Err(error.into());
    }
    for (name, value) in facts::at_end(&spec, &Running) {
        port.say(&json!({"event": "fact", "name": name, "value": value}))?;
    }
    let passed = spec.tests.len().saturating_sub(failed);
    port.say(&json!({"event": "done", "passed": passed, "failed": failed, "files": true}))?;
    // The verdict stands; nothing of this disturbs what was tested.
    keep::at_end(&Running, &mut |event| port.say(event))?;
    port.say(&json!({"event": "end"}))?;
    Ok(failed == 0)
}

/// A test that is over.
#[derive(Debug)]
struct Ended<'a> {
    index: usize,
    test: &'a Test,
    passed: bool,
    verdict: Verdict,
    attempts: u32,
    seconds: f64,
}

impl Ended<'_> {
    fn json(&self) -> serde_json::Value {
        let Verdict { expected, found, .. } = &self.verdict;
        let message = if self.passed { found.clone() } else { format!("expected {expected}; found {found}") };
        json!({
            "event": "result", "index": self.index, "name": self.test.name, "passed": self.passed,
            "expected": expected, "found": found, "message": message,
            "attempts": self.attempts, "seconds": (self.seconds * 10.0).round() / 10.0,
        })
    }
}

/// Tries all tests: those about a system at rest when all others are over.
fn try_all<'a>(spec: &'a Spec, system: &dyn System, pause: Duration, report: &mut dyn FnMut(&Ended<'a>)) {
    let started = Instant::now();
    let (at_rest, coming_up): (Vec<_>, Vec<_>) =
        spec.tests.iter().enumerate().partition(|(_, test)| test.kind.is_for_the_end());
    let deadline = spec.deadline;
    try_round(coming_up, system, pause, &|test| test.timeout.unwrap_or(deadline), started, report);
    // They get their chance however long the others took.
    let began = started.elapsed();
    let allowed = |test: &Test| test.timeout.unwrap_or(deadline.saturating_sub(began).max(AT_REST));
    try_round(at_rest, system, pause, &allowed, Instant::now(), report);
}

/// Tries tests in turn, again and again, until each holds or its time is over. Times count from the round's beginning: one
/// test that waits does not take the time of the next.
fn try_round<'a>(
    tests: Vec<(usize, &'a Test)>,
    system: &dyn System,
    pause: Duration,
    allowed: &dyn Fn(&Test) -> Duration,
    started: Instant,
    report: &mut dyn FnMut(&Ended<'a>),
) {
    let mut pending: Vec<(usize, &Test, u32)> = tests.into_iter().map(|(index, test)| (index, test, 0)).collect();
    while !pending.is_empty() {
        pending.retain_mut(|(index, test, attempts)| {
            *attempts += 1;
            let allowed = allowed(test);
            let left = allowed.saturating_sub(started.elapsed());
            let verdict = check::attempt(test, system, left);
            let seconds = started.elapsed();
            if !verdict.holds && !verdict.is_final && seconds < allowed {
                return true;
            }
            let (passed, seconds) = (verdict.holds, seconds.as_secs_f64());
            report(&Ended { index: *index, test, passed, verdict, attempts: *attempts, seconds });
            false
        });
        if !pending.is_empty() {
            system.sample_speed();
            thread::sleep(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::Fake;

    fn names(spec: &str, system: &Fake) -> Vec<(usize, bool, String)> {
        let spec = Spec::parse(spec).unwrap();
        let mut ended = Vec::new();
        try_all(&spec, system, Duration::from_millis(1), &mut |end| {
            let message = end.json()["message"].as_str().unwrap().to_owned();
            ended.push((end.index, end.passed, message));
        });
        ended
    }

    #[test]
    fn a_test_is_tried_until_it_holds_and_does_not_hold_up_others() {
        let system = Fake::default();
        system.answer_times("sh -c late", 1, 3);
        system.answer("sh -c now", 0, "yes\n", "");
        let ended = names(
            r#"{"schema": 1, "deadline": 30, "tests": [{"run": "late"}, {"run": "now", "stdout": "yes"}]}"#,
            &system,
        );
        assert_eq!(ended[0], (1, true, "exit status 0; stdout `yes`".into()));
        assert_eq!((ended[1].0, ended[1].1), (0, true));
    }

    #[test]
    fn a_system_at_rest_is_looked_at_when_all_else_is_over() {
        let system = Fake::default();
        system.answer_times("sh -c late", 1, 3);
        system.answer("journalctl --no-pager -q -a -b -o cat", 0, "all is well\n", "");
        let ended = names(
            r#"{"schema": 1, "deadline": 30, "tests": [{"journal": "system", "lacks": "panic"}, {"run": "late"},
                {"ram": "1GiB"}, {"journal": "system", "lacks": "well"}]}"#,
            &system,
        );
        let order: Vec<(usize, bool)> = ended.iter().map(|(index, passed, _)| (*index, *passed)).collect();
        assert_eq!(order, [(1, true), (0, true), (2, true), (3, false)]);
    }

    /// They would hold before anything has started.
    #[test]
    fn what_must_not_be_is_looked_for_when_all_else_is_over() {
        let system = Fake::default();
        system.answer_times("sh -c late", 1, 3);
        system.write("proc/net/tcp", "");
        system.write("proc/net/tcp6", "");
        let ended = names(
            r#"{"schema": 1, "deadline": 30, "tests": [{"port": 22, "listening": false}, {"file": "/x", "exists": false}, {"run": "late"}]}"#,
            &system,
        );
        let order: Vec<(usize, bool)> = ended.iter().map(|(index, passed, _)| (*index, *passed)).collect();
        assert_eq!(order, [(2, true), (0, true), (1, true)]);
    }

    #[test]
    fn time_ends_and_unknown_kinds_fail_at_once() {
        let system = Fake::default();
        system.answer("sh -c never", 1, "", "no way\n");
        let ended = names(
            r#"{"schema": 1, "deadline": 3600, "tests": [{"run": "never", "timeout": "0s"}, {"reach": "10.0.0.1"}]}"#,
            &system,
        );
        assert_eq!(ended[0].2, "expected exit status 0; found exit status 1; stderr `no way`");
        assert!(ended[1].2.contains("this probe does not know: reach"), "{}", ended[1].2);
        assert!(!ended[0].1 && !ended[1].1);
    }
}
