//! What `netboot.report=` gets: one JSON document by POST, of a failure with the logs, of a success in short.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use serde::Serialize;

use crate::environment::Facts;
use crate::fetch::Client;
use crate::identity::Machine;
use crate::net::dns::Names;
use crate::{console, root, say, warning};

/// The version of this format.
const SCHEMA: u32 = 1;
/// Lines of either log that are sent: the last ones.
const MOST_LINES: usize = 2000;
/// How often it is tried: whoever waits for the report of a machine that reboots may never get it.
const ATTEMPTS: u32 = 2;

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The system takes over.
    Booted,
    /// It would have, but for `netboot.check`.
    Checked,
    /// A step failed.
    Failed,
}

/// The document. Every field is always there.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    schema: u32,
    outcome: Outcome,
    node: Node<'a>,
    image: &'a str,
    version: &'a str,
    kernel: &'a str,
    netboot_init: &'static str,
    /// Since the kernel started.
    seconds: f64,
    source: &'a str,
    failure: Option<Failure<'a>>,
    /// Lines of netboot-init.
    log: Vec<String>,
    /// The kernel's.
    kernel_log: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    mac: Option<String>,
    uuid: Option<&'a str>,
    serial: Option<&'a str>,
    address: Option<String>,
    hostname: Option<&'a str>,
    machine_id: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Failure<'a> {
    step: &'a str,
    /// What the consoles say: what happened, what to check.
    lines: &'a [String],
}

impl<'a> Report<'a> {
    /// A report of success.
    #[must_use]
    pub fn new(outcome: Outcome, facts: &'a Facts, machine: &'a Machine) -> Self {
        let identity = facts.identity.as_ref();
        Self {
            schema: SCHEMA,
            outcome,
            node: Node {
                mac: facts.mac.or(machine.mac).map(|mac| mac.to_string()),
                uuid: machine.uuid.as_deref(),
                serial: machine.serial.as_deref(),
                address: facts.network.as_ref().map(|network| network.address.to_string()),
                hostname: identity.map(|identity| identity.hostname.as_str()),
                machine_id: identity.map(|identity| identity.machine_id.as_str()),
            },
            image: &facts.image,
            version: &facts.version,
            kernel: &facts.kernel,
            netboot_init: env!("CARGO_PKG_VERSION"),
            seconds: console::uptime(),
            source: &facts.source,
            failure: None,
            log: Vec::new(),
            kernel_log: Vec::new(),
        }
    }

    /// Of a failure, with the logs.
    #[must_use]
    pub fn failed(mut self, step: &'a str, lines: &'a [String]) -> Self {
        self.outcome = Outcome::Failed;
        self.failure = Some(Failure { step, lines });
        let log = fs::read(Path::new(root::RUN).join("log")).unwrap_or_default();
        self.log = last(String::from_utf8_lossy(&log).lines().map(str::to_owned));
        self.kernel_log = last(kernel_log(Path::new("/dev/kmsg")).into_iter());
        self
    }

    /// Sends it. What goes wrong is said and has no other consequence.
    pub fn send(&self, url: &str, names: Names) {
        let json = match serde_json::to_vec(self) {
            Ok(json) => json,
            Err(e) => return warning!("netboot.report: {e}"),
        };
        let client = Client::new(names);
        for attempt in 1..=ATTEMPTS {
            match client.post(url, &json) {
                Ok(()) => return say!("report sent to {url}"),
                Err(e) => warning!("netboot.report: {url}: {e} (attempt {attempt} of {ATTEMPTS})"),
            }
        }
    }
}

fn last(lines: impl DoubleEndedIterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = lines.rev().take(MOST_LINES).collect();
    kept.reverse();
    kept
}

/// The kernel's own messages, one read each (Documentation/ABI/testing/dev-kmsg).
fn kernel_log(device: &Path) -> Vec<String> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let Ok(mut file) = OpenOptions::new().read(true).custom_flags(flags).open(device) else { return Vec::new() };
    let mut lines = Vec::new();
    let mut record = vec![0; 8192];
    // EPIPE: records were overwritten meanwhile; the next read goes on after them. EAGAIN: that was the last.
    for _ in 0..1_000_000 {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => lines.extend(kernel_line(record.get(..length).unwrap_or_default())),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    lines
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`, in which lines that begin with a blank are a dictionary. Ours are left out.
fn kernel_line(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (prefix, text) = record.split_once(';')?;
    let text = text.lines().next()?;
    let microseconds: u64 = prefix.split(',').nth(2)?.parse().ok()?;
    let (seconds, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
    (!text.starts_with("netboot: ")).then(|| format!("[{seconds:5}.{fraction:06}] {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Mac;

    #[test]
    fn the_kernels_records_read_as_in_dmesg() {
        let record = b"6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=net\n";
        assert_eq!(kernel_line(record).unwrap(), "[    5.140900] NET: Registered protocol family 10");
        assert_eq!(kernel_line(b"15,340,5,-;netboot: hello\n"), None);
        assert_eq!(kernel_line(b"nonsense"), None);
        assert_eq!(kernel_log(Path::new("/nonexistent")), [] as [&str; 0]);
    }

    #[test]
    fn only_the_last_lines_go() {
        let lines = last((0..5000).map(|n| n.to_string()));
        assert_eq!((lines.len(), lines[0].as_str()), (MOST_LINES, "3000"));
    }

    #[test]
    fn a_report_names_the_node() {
        let facts = Facts { image: "worker".into(), version: "1".into(), ..Facts::default() };
        let machine = Machine { mac: Some(Mac([1; 6])), uuid: None, serial: Some("CZ1".into()) };
        let json = |report: &Report<'_>| serde_json::to_value(report).unwrap();
        let booted = json(&Report::new(Outcome::Booted, &facts, &machine));
        assert_eq!((&booted["outcome"], &booted["image"]), (&"booted".into(), &"worker".into()));
        assert_eq!((&booted["node"]["mac"], &booted["node"]["serial"]), (&"01:01:01:01:01:01".into(), &"CZ1".into()));
        let lines = ["FAILED: x".to_owned()];
        let failed = json(&Report::new(Outcome::Failed, &facts, &machine).failed("x", &lines));
        assert_eq!(failed["failure"]["lines"][0], "FAILED: x");
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&booted), keys(&failed));
    }
}
