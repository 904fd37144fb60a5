//! What is learned from a guest while it runs, and what that comes to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    process::ExitStatus,
    time::{Duration, Instant},
};

use imgbuild_progress::Progress;
use serde_json::Value;

use crate::{Cause, Error, Phase, TestResult, console::Console, error::failed, events::Said, results::Results};

/// What reaches us from the guest and from QEMU.
pub(crate) enum News {
    /// Bytes of the console.
    Console(Vec<u8>),
    /// QEMU's messages.
    Qemu(String),
    /// A line of the probe, and what it says or what is wrong with it.
    Probe(String, Result<Said, String>),
}

/// What has been learned so far.
pub(crate) struct Observed<'a> {
    results: &'a Results,
    progress: &'a dyn Progress,
    /// How many tests the probe was told to run.
    expected: usize,
    began: Instant,
    /// When the guest was heard last.
    heard_at: Instant,
    pub(crate) console: Console,
    pub(crate) tests: Vec<TestResult>,
    pub(crate) facts: BTreeMap<String, Value>,
    log: fs::File,
    heard: fs::File,
    odd: Vec<String>,
    done: Option<u64>,
    qemu: String,
    panicked: Option<Instant>,
}

impl<'a> Observed<'a> {
    /// Begins to count the time: power on is now.
    pub(crate) fn begin(results: &'a Results, progress: &'a dyn Progress, expected: usize) -> Result<Self, Error> {
        Ok(Self {
            results,
            progress,
            expected,
            began: Instant::now(),
            heard_at: Instant::now(),
            console: Console::new(),
            tests: Vec::new(),
            facts: BTreeMap::new(),
            log: results.create("console.log")?,
            heard: results.create("probe.jsonl")?,
            odd: Vec::new(),
            done: None,
            qemu: String::new(),
            panicked: None,
        })
    }

    /// Time since power on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// For how long nothing has come from the guest.
    pub(crate) fn silence(&self) -> Duration {
        self.heard_at.elapsed()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.console.phase()
    }

    /// Whether the probe has said that it is done.
    pub(crate) fn is_done(&self) -> bool {
        self.done.is_some()
    }

    /// For how long the kernel has been panicking, if it has.
    pub(crate) fn panicking(&self) -> Option<Duration> {
        self.panicked.map(|at| at.elapsed())
    }

    /// Takes in what has come. Returns the phase that was reached by it, if it is a new one.
    pub(crate) fn learn(&mut self, news: News) -> Result<Option<Phase>, Error> {
        let at = self.elapsed();
        self.heard_at = Instant::now();
        let before = self.phase();
        match news {
            News::Console(bytes) => {
                self.log.write_all(&bytes).map_err(failed("write", self.results.path.join("console.log")))?;
                self.console.take(&bytes, at, |line| self.progress.detail(format!("console: {line}")));
                if self.panicked.is_none() && self.console.panic().is_some() {
                    self.panicked = Some(Instant::now());
                }
            }
            News::Qemu(text) => {
                self.progress.detail(format!("QEMU: {}", text.trim_end()));
                self.qemu.push_str(&text);
            }
            News::Probe(line, said) => {
                writeln!(self.heard, "{line}").map_err(failed("write", self.results.path.join("probe.jsonl")))?;
                self.console.reach(Phase::Probe, at);
                self.hear(said, at);
            }
        }
        let after = self.phase();
        if after == before {
            return Ok(None);
        }
        self.progress.note(format!("{:6.1} s  {after}", at.as_secs_f64()));
        Ok(Some(after))
    }

    fn hear(&mut self, said: Result<Said, String>, at: Duration) {
        match said {
            _ if self.done.is_some() => self.odd.push("it went on after it had finished".to_owned()),
            Ok(Said::Hello {}) => {}
            Ok(Said::Fact { name, value }) => drop(self.facts.insert(name, value)),
            Ok(Said::Result(result)) => {
                let verdict = if result.passed { "ok" } else { "failed" };
                self.progress.note(format!("{:6.1} s  {verdict}: {}", at.as_secs_f64(), result.name));
                self.tests.push(result);
            }
            Ok(Said::Done { failed }) => {
                self.done = Some(failed);
                self.console.reach(Phase::Done, at);
            }
            Err(reason) => self.odd.push(format!("a line that is not its own: {reason}")),
        }
    }

    /// The reason why this is no success; none if it is one. `status` is QEMU's, if it ended by itself; `timeout` is the time
    /// that was allowed, if it is over.
    pub(crate) fn judge(&self, status: Option<ExitStatus>, timeout: Option<Duration>) -> Option<Cause> {
        let failed = self.tests.iter().filter(|test| !test.passed).count();
        if let Some(counted) = self.done {
            let odd = |reason: String| Some(Cause::Probe { reason });
            return if let Some(reason) = self.odd.first() {
                odd(reason.clone())
            } else if !self.is_complete() {
                odd(format!("{} results for {} tests", self.tests.len(), self.expected))
            } else if counted != failed as u64 {
                odd(format!("it counts {counted} failed tests and reported {failed}"))
            } else {
                (failed > 0).then_some(Cause::Tests { failed })
            };
        }
        if let Some(line) = self.console.panic() {
            return Some(Cause::Panic { line: line.to_owned() });
        }
        if let Some(timeout) = timeout {
            return Some(Cause::Timeout { seconds: timeout.as_secs() });
        }
        let status = status.map_or_else(|| "stopped".to_owned(), |status| status.to_string());
        let said = self.qemu.trim();
        Some(Cause::Ended { status: if said.is_empty() { status } else { format!("{status}: {said}") } })
    }

    /// Whether each test that the probe was told has one result.
    fn is_complete(&self) -> bool {
        let indices: BTreeSet<usize> = self.tests.iter().map(|result| result.index).collect();
        self.tests.len() == self.expected && indices.into_iter().eq(0..self.expected)
    }
}
