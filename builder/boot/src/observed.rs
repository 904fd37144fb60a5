//! What is learned from a guest while it runs, and what that comes to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    process::ExitStatus,
    time::{Duration, Instant},
};

use imgbuild_progress::Progress;
use imgbuild_serve::Access;
use serde_json::Value;

use crate::{
    Cause, Error, Phase, Span, TestResult,
    console::Console,
    error::failed,
    events::Said,
    results::{Results, SENT},
    timeline::{self, Sources},
};

/// Bytes of a file that the probe sends, at most; it sends less.
const LARGEST: usize = 16 << 20;
/// How often progress is told the status.
const STATUS: Duration = Duration::from_millis(200);

/// What reaches us from the guest and from QEMU.
pub(crate) enum News {
    /// Bytes of the console.
    Console(Vec<u8>),
    /// QEMU's messages.
    Qemu(String),
    /// A line of the probe, and what it says or what is wrong with it.
    Probe(String, Result<Said, String>),
}

/// The probe's end.
struct Done {
    /// How many tests failed, as it counts.
    failed: u64,
    at: Instant,
    /// Whether it still sends files.
    files: bool,
}

/// A file on its way.
struct Sent {
    file: fs::File,
    bytes: usize,
}

/// What has been learned so far.
pub(crate) struct Observed<'a> {
    results: &'a Results,
    progress: &'a dyn Progress,
    /// What progress calls the boot.
    task: String,
    /// When progress was told its status last.
    told_at: Option<Instant>,
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
    done: Option<Done>,
    /// Files that the probe has begun to send.
    files: BTreeMap<&'static str, Sent>,
    /// netboot-init's log, if the probe sent it.
    netboot_log: String,
    /// When the probe was heard last.
    probe_at: Instant,
    qemu: String,
    panicked: Option<Instant>,
}

impl<'a> Observed<'a> {
    /// Begins to count the time: power on is now. `task` is what progress calls the boot.
    pub(crate) fn begin(
        results: &'a Results,
        progress: &'a dyn Progress,
        task: &str,
        expected: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            results,
            progress,
            task: task.to_owned(),
            told_at: None,
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
            files: BTreeMap::new(),
            netboot_log: String::new(),
            probe_at: Instant::now(),
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

    /// For how long the probe has been sending files since its verdict, if it still does.
    pub(crate) fn awaits_files(&self) -> Option<Duration> {
        self.done.as_ref().filter(|done| done.files).map(|done| done.at.elapsed())
    }

    /// For how long nothing has come from the probe.
    pub(crate) fn probe_silence(&self) -> Duration {
        self.probe_at.elapsed()
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
                self.probe_at = Instant::now();
                self.console.reach(Phase::Probe, at);
                match said {
                    // They are files of their own.
                    Ok(Said::File { name, data }) => self.keep(&name, &data)?,
                    said => {
                        let path = || self.results.path.join("probe.jsonl");
                        writeln!(self.heard, "{line}").map_err(|error| failed("write", path())(error))?;
                        self.hear(said, at);
                    }
                }
            }
        }
        let after = self.phase();
        if after != before || self.told_at.is_none_or(|at| at.elapsed() > STATUS) {
            self.tell_status();
        }
        if after == before {
            return Ok(None);
        }
        self.progress.note(format!("{:6.1} s  {after}", at.as_secs_f64()));
        Ok(Some(after))
    }

    fn tell_status(&mut self) {
        self.told_at = Some(Instant::now());
        let phase = self.phase();
        let doing = if phase >= Phase::Probe {
            format!("{phase}, {} of {} tests", self.tests.len(), self.expected)
        } else {
            phase.to_string()
        };
        self.progress.status(&self.task, doing, self.console.last().unwrap_or_default().to_owned());
    }

    fn hear(&mut self, said: Result<Said, String>, at: Duration) {
        match said {
            Ok(Said::End {}) if self.awaits_files().is_some() => {
                if let Some(done) = &mut self.done {
                    done.files = false;
                }
            }
            _ if self.done.is_some() => self.odd.push("it went on after it had finished".to_owned()),
            Ok(Said::Hello {}) => {}
            Ok(Said::Fact { name, value }) => {
                if let ("started", Some(seconds)) = (name.as_str(), value.as_f64()) {
                    self.console.guest_says_time(seconds, at);
                }
                self.facts.insert(name, value);
            }
            Ok(Said::Result(result)) => {
                let verdict = if result.passed { "ok" } else { "failed" };
                self.progress.note(format!("{:6.1} s  {verdict}: {}", at.as_secs_f64(), result.name));
                self.tests.push(result);
            }
            Ok(Said::Done { failed, files }) => {
                self.done = Some(Done { failed, at: Instant::now(), files });
                self.console.reach(Phase::Done, at);
            }
            Ok(Said::File { .. } | Said::End {}) => self.odd.push("an end before its verdict".to_owned()),
            Err(reason) => self.odd.push(format!("a line that is not its own: {reason}")),
        }
    }

    /// Keeps a piece of a file. What the guest calls a file is no path: only known names are taken.
    fn keep(&mut self, name: &str, data: &str) -> Result<(), Error> {
        let Some(name) = SENT.into_iter().find(|known| *known == name) else { return Ok(()) };
        if !self.files.contains_key(name) {
            let sent = Sent { file: self.results.create(name)?, bytes: 0 };
            self.files.insert(name, sent);
        }
        let Some(sent) = self.files.get_mut(name).filter(|sent| sent.bytes + data.len() <= LARGEST) else {
            return Ok(());
        };
        sent.bytes += data.len();
        sent.file.write_all(data.as_bytes()).map_err(failed("write", self.results.path.join(name)))?;
        if name == "netboot.log" {
            self.netboot_log.push_str(data);
        }
        Ok(())
    }

    /// Whether the guest's journal is there.
    pub(crate) fn has_journal(&self) -> bool {
        self.files.contains_key("journal.log")
    }

    /// The boot's time line.
    pub(crate) fn timeline(&self, requests: &[Access], end: f64) -> Vec<Span> {
        timeline::spans(&Sources {
            marks: self.console.marks(),
            end,
            kernel_start: self.console.kernel_start(),
            netboot_log: &self.netboot_log,
            failed_step: self.console.failed_step(),
            requests,
            began: self.began,
            systemd: self.facts.get("systemd-times"),
        })
    }

    /// The reason why this is no success; none if it is one. `status` is QEMU's, if it ended by itself; `timeout` is the time
    /// that was allowed, if it is over.
    pub(crate) fn judge(&self, status: Option<ExitStatus>, timeout: Option<Duration>) -> Option<Cause> {
        let failed = self.tests.iter().filter(|test| !test.passed).count();
        if let Some(Done { failed: counted, .. }) = self.done {
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
