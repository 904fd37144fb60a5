//! The kinds of checks: one attempt each.

mod file;
mod hook;
mod journal;
mod kernel;
mod mount;
mod port;
mod process;
mod ram;
mod run;
mod time;
mod unit;

use std::time::Duration;

pub(crate) use mount::Entry as MountEntry;

use crate::spec::{Kind, Pattern, Test};
use crate::system::{Output, System};

/// One attempt of a command at most, unless its test says how long it may take: one that hangs must not take the time of all
/// others, which are tried after it. And at least: a slow machine gets the chance to answer once.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(30);
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(10);
/// Characters of output in a report.
const EXCERPT: usize = 400;

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) holds: bool,
    /// Whether another attempt makes no sense.
    pub(crate) is_final: bool,
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl Verdict {
    fn new(holds: bool, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { holds, is_final: false, expected: expected.into(), found: found.into() }
    }

    /// One that no further attempt changes.
    fn last(self) -> Self {
        Self { is_final: true, ..self }
    }
}

/// Tries a check once, with so much time left for it.
pub(crate) fn attempt(test: &Test, system: &dyn System, left: Duration) -> Verdict {
    match &test.kind {
        Kind::Unit(wanted) => unit::check(wanted, system),
        Kind::Mount(wanted) => mount::check(wanted, system),
        Kind::File(wanted) => file::check(wanted, system.root()),
        Kind::Port(wanted) => port::check(wanted, system.root()),
        Kind::Process(wanted) => process::check(wanted, system.root()),
        Kind::Module(wanted) => kernel::check_module(wanted, system.root()),
        Kind::Sysctl(wanted) => kernel::check_sysctl(wanted, system.root()),
        Kind::Journal(wanted) => journal::check(wanted, system),
        Kind::Hook(wanted) => hook::check(wanted, system),
        Kind::Ram(wanted) => ram::check(wanted, system),
        Kind::Time(wanted) => time::check(wanted, system),
        Kind::Run(wanted) => {
            let longest = test.timeout.unwrap_or(LONGEST_ATTEMPT);
            run::check(wanted, system, left.min(longest).max(SHORTEST_ATTEMPT))
        }
        Kind::Unknown(why) => Verdict::new(false, "a test that can be run", why).last(),
    }
}

/// What a text is asked to have; for lines as for whole files.
struct Wanted<'a> {
    contains: Option<&'a str>,
    matches: Option<&'a Pattern>,
}

impl<'a> Wanted<'a> {
    fn new(contains: Option<&'a String>, matches: Option<&'a Pattern>) -> Self {
        Self { contains: contains.map(String::as_str), matches }
    }

    fn is_anything(&self) -> bool {
        self.contains.is_some() || self.matches.is_some()
    }

    fn is_in(&self, text: &str) -> bool {
        self.contains.is_none_or(|wanted| text.contains(wanted))
            && self.matches.is_none_or(|pattern| pattern.is_in(text))
    }

    /// "with `text`, matching `pattern`", or nothing.
    fn words(&self) -> String {
        let parts = [
            self.contains.map(|text| format!("with `{text}`")),
            self.matches.map(|pattern| format!("matching `{}`", pattern.text())),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// The properties that `systemctl show` prints of a unit, or why there are none.
fn properties(system: &dyn System, unit: &str, names: &str) -> Result<Properties, String> {
    let command = ["systemctl", "show", "--no-pager", "-p", names, "--", unit];
    match system.run(&command, LONGEST_ATTEMPT) {
        Ok(output) if output.exit == Some(0) => Ok(Properties(output.stdout)),
        Ok(output) => Err(format!("systemctl: {}", describe(&output))),
        Err(error) => Err(format!("systemctl: {error}")),
    }
}

struct Properties(String);

impl Properties {
    fn get(&self, name: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim()
    }
}

fn describe(output: &Output) -> String {
    let mut text = match (output.timed_out, output.exit) {
        (true, _) => "killed, its time was over".to_owned(),
        (false, Some(exit)) => format!("exit status {exit}"),
        (false, None) => "killed by a signal".to_owned(),
    };
    for (stream, said) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let said = said.trim();
        if !said.is_empty() {
            text = format!("{text}; {stream} `{}`", excerpt(said));
        }
    }
    text
}

/// Beginning and end: the reason is at one of them.
fn excerpt(text: &str) -> String {
    let length = text.chars().count();
    if length <= EXCERPT {
        return text.to_owned();
    }
    let half = EXCERPT / 2;
    let begin: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(length - half).collect();
    format!("{begin} … {end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use crate::system::fake::Fake;

    /// The kind of a `[[test]]` in JSON.
    pub(super) fn kind(table: &str) -> Kind {
        let text = format!(r#"{{"schema": 1, "deadline": 60, "tests": [{table}]}}"#);
        Spec::parse(&text).unwrap().tests.remove(0).kind
    }

    /// A test without a time of its own, tried at the last moment.
    pub(super) fn attempt(table: &str, system: &Fake) -> Verdict {
        super::attempt(&Test { name: String::new(), timeout: None, kind: kind(table) }, system, Duration::ZERO)
    }

    #[test]
    fn an_attempt_is_cut_short_unless_its_test_has_a_time_of_its_own() {
        for (timeout, left, expected) in
            [(None, 300, 30), (None, 20, 20), (None, 0, 10), (Some(120), 90, 90), (Some(5), 5, 10)]
        {
            let system = Fake::default();
            system.answer("sh -c x", 0, "", "");
            let timeout = timeout.map(Duration::from_secs);
            let test = Test { name: String::new(), timeout, kind: kind(r#"{"run": "x"}"#) };
            super::attempt(&test, &system, Duration::from_secs(left));
            assert_eq!(system.patience.get(), Duration::from_secs(expected), "{timeout:?} {left}");
        }
    }

    #[test]
    fn long_output_is_shown_from_both_ends() {
        let text = format!("begin{}end", "x".repeat(10_000));
        let shown = excerpt(&text);
        assert!(shown.starts_with("begin") && shown.ends_with("end") && shown.chars().count() < EXCERPT + 10);
    }
}
