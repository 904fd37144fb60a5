//! What came of a boot test.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::{Accelerator, BootPath, FaultReport, Mark, Phase, Span, TestResult, timeline};

/// What came of a boot test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The image's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How the guest got at its kernel.
    pub path: BootPath,
    /// How it ran.
    pub accelerator: Accelerator,
    /// Its RAM in bytes.
    pub memory: u64,
    /// What was done to the node, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultReport>,
    /// What the probe found of each test, in its order.
    pub tests: Vec<TestResult>,
    /// What the probe found out about the system besides.
    pub facts: BTreeMap<String, Value>,
    /// When each phase of the boot was reached.
    pub reached: Vec<Mark>,
    /// What took how long.
    pub timeline: Vec<Span>,
    /// Why the boot failed; none when the probe has finished and every test held.
    pub failure: Option<Failure>,
    /// Seconds from power on to the end.
    pub seconds: f64,
    /// The folder with `console.log`, `probe.jsonl`, `requests.log`, `report.json` and `timeline.svg`, and if the probe
    /// could send them `netboot.log`, `journal.log` and `systemd-analyze.txt`; gone if it was a temporary one and the
    /// test passed.
    pub results: PathBuf,
}

/// Why a boot test failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// What happened.
    pub cause: Cause,
    /// How far the boot had come.
    pub phase: Phase,
    /// What to look at.
    pub advice: String,
    /// What the boot server refused, one request a line: `404 /images/…`.
    pub refused: Vec<String>,
    /// The last lines of the console.
    pub console: Vec<String>,
}

/// What ended a boot test other than well.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Cause {
    /// Tests did not hold.
    Tests {
        /// How many.
        failed: usize,
    },
    /// The probe finished without having run what it was told to.
    Probe {
        /// What is missing or odd.
        reason: String,
    },
    /// The kernel panicked.
    Panic {
        /// Its line.
        line: String,
    },
    /// QEMU ended before the probe did: the guest was switched off, was reset, or QEMU failed.
    Ended {
        /// QEMU's exit status, and what it printed.
        status: String,
    },
    /// The node did not do what a scenario expects of it, or the scenario's fault did not take place.
    Fault {
        /// What it did instead.
        reason: String,
    },
    /// Time was up.
    Timeout {
        /// After so many seconds.
        seconds: u64,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tests { failed: 1 } => f.write_str("1 test failed"),
            Self::Tests { failed } => write!(f, "{failed} tests failed"),
            Self::Probe { reason } => write!(f, "the probe's report is not to be trusted: {reason}"),
            Self::Panic { line } => write!(f, "the kernel panicked: {line}"),
            Self::Ended { status } => write!(f, "the guest ended before the probe had finished ({status})"),
            Self::Fault { reason } => f.write_str(reason),
            Self::Timeout { seconds } => write!(f, "the probe had not finished after {seconds} s"),
        }
    }
}

impl Report {
    /// Whether the image is as it was promised.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failure.is_none()
    }
}

/// For people: a line for each test and phase, and for a failure all that is known about it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, version, path) = (&self.name, &self.version, self.path);
        let fault = self.fault.as_ref().map(|fault| format!(", fault {}", fault.name)).unwrap_or_default();
        writeln!(f, "{name} {version} over {path}, {} MiB, {}{fault}", self.memory >> 20, self.accelerator.name())?;
        if let Some(fault) = &self.fault {
            writeln!(f, "  {}; expected: {}", fault.done, fault.expected)?;
            if let Some(found) = &fault.found {
                writeln!(f, "  found: {found}")?;
            }
        }
        for test in &self.tests {
            let verdict = if test.passed { "ok  " } else { "FAIL" };
            let mut lines = test.message.lines();
            let first = lines.next().map(|line| format!(": {line}")).unwrap_or_default();
            writeln!(f, "  {verdict} {}{first} ({:.1} s)", test.name, test.seconds)?;
            for line in lines {
                writeln!(f, "         {line}")?;
            }
        }
        // The others are for tools; they are in report.json.
        for fact in ["os", "kernel", "hostname", "systemd"] {
            if let Some(Value::String(text)) = self.facts.get(fact) {
                writeln!(f, "  {fact}: {text}")?;
            }
        }
        writeln!(f, "  time line, in seconds since power on:")?;
        for line in timeline::table(&self.timeline).lines() {
            writeln!(f, "  {line}")?;
        }
        let Some(failure) = &self.failure else {
            let met = self.fault.as_ref().map(|fault| format!("fault {} is met, ", fault.name)).unwrap_or_default();
            return write!(f, "passed in {:.1} s: {met}{} tests", self.seconds, self.tests.len());
        };
        writeln!(f, "failed in {:.1} s, phase {}: {}", self.seconds, failure.phase, failure.cause)?;
        for request in &failure.refused {
            writeln!(f, "  the boot server answered {request}")?;
        }
        if !failure.console.is_empty() && !matches!(failure.cause, Cause::Tests { .. }) {
            writeln!(f, "  the console's last lines:")?;
            for line in &failure.console {
                writeln!(f, "    {line}")?;
            }
        }
        if failure.phase < Phase::Probe {
            writeln!(
                f,
                "  the probe never reported, so there is no journal; console.log is all that is known of the guest"
            )?;
        }
        writeln!(f, "  look at: {}", failure.advice)?;
        write!(f, "  everything is in {}", self.results.display())
    }
}
