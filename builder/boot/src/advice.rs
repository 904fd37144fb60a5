//! What to look at when a boot test failed.

use crate::{Cause, Phase, TestResult};

/// What is known of a boot that failed.
pub(crate) struct Known<'a> {
    /// How far it came.
    pub(crate) phase: Phase,
    /// The last thing that netboot-init said, or its advice.
    pub(crate) step: Option<&'a str>,
    /// The last lines of the console.
    pub(crate) console: &'a [String],
    /// The boot server's last answer: `404 /images/…`.
    pub(crate) last_request: Option<String>,
    /// What the probe reported, in the order in which it came.
    pub(crate) tests: &'a [TestResult],
    /// How many tests it was told.
    pub(crate) expected: usize,
    /// Whether the journal has been kept.
    pub(crate) journal: bool,
}

/// What to look at, in one sentence.
pub(crate) fn advice(cause: &Cause, known: &Known<'_>) -> String {
    match cause {
        Cause::Tests { .. } if known.journal => {
            return "the messages above, and journal.log, for the units they name".to_owned();
        }
        Cause::Tests { .. } => {
            return "the messages above, and the journal of the units they name (`imgbuild boot` gives a console)"
                .to_owned();
        }
        Cause::Probe { .. } => return "probe.jsonl, which has every line that came from the guest".to_owned(),
        _ => {}
    }
    match known.phase {
        Phase::Power => "QEMU's message; nothing came from the guest at all".to_owned(),
        Phase::Firmware => {
            "what DHCP and TFTP handed out (and over pxe-bios the network card's boot ROM, Debian's ipxe-qemu): the firmware found \
             nothing to boot from"
                .to_owned()
        }
        Phase::Ipxe => match &known.last_request {
            Some(request) => {
                format!("the last file that iPXE got ({request}): it, or the script that names it, is missing or wrong")
            }
            None => "what DHCP named for iPXE to load: it asked the boot server for nothing".to_owned(),
        },
        Phase::Kernel => {
            "whether the initrd is whole (`imgbuild verify`), whether memory suffices to unpack it, and the kernel's messages"
                .to_owned()
        }
        Phase::NetbootInit => match known.step {
            Some(step) => format!("netboot-init's words: {step}"),
            None => "netboot-init's messages".to_owned(),
        },
        Phase::System => match known.console.iter().rev().find_map(|line| waits_for(line)) {
            Some(unit) => format!("what systemd waited for: {unit}"),
            None => "the units that failed or hang; and whether the root has the module virtio_console, over which the \
                     probe reports"
                .to_owned(),
        },
        Phase::Probe | Phase::Done => {
            let (done, all) = (known.tests.len(), known.expected);
            let last = known.tests.last().map(|test| format!(", the last one `{}`", test.name)).unwrap_or_default();
            format!(
                "probe.jsonl: {done} of {all} tests had ended{last}; another one hung, is still being tried, or the guest went down \
                 under it"
            )
        }
    }
}

/// What systemd says on the console when it waits: `[  *** ] A start job is running for X (5s / 1min 30s)`.
fn waits_for(line: &str) -> Option<&str> {
    let (_, job) = line.split_once(" job is running for ")?;
    Some(job.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(phase: Phase) -> Known<'static> {
        Known { phase, step: None, console: &[], last_request: None, tests: &[], expected: 3, journal: false }
    }

    #[test]
    fn what_is_known_is_named() {
        let timeout = Cause::Timeout { seconds: 60 };
        let console =
            ["[*     ] A start job is running for kubelet.service (1min / no limit)".to_owned(), "x".to_owned()];
        let said = advice(&timeout, &Known { console: &console, ..known(Phase::System) });
        assert_eq!(said, "what systemd waited for: kubelet.service (1min / no limit)");
        assert!(advice(&timeout, &known(Phase::System)).contains("virtio_console"));
        let said = advice(&timeout, &Known { last_request: Some("404 /x.ipxe".to_owned()), ..known(Phase::Ipxe) });
        assert!(said.contains("(404 /x.ipxe)"), "{said}");
        let test = TestResult { index: 0, name: "a".to_owned(), passed: true, message: String::new(), seconds: 0.0 };
        let said = advice(&timeout, &Known { tests: &[test], ..known(Phase::Probe) });
        assert!(said.contains("1 of 3 tests had ended, the last one `a`;"), "{said}");
        let tests = Cause::Tests { failed: 1 };
        assert!(advice(&tests, &Known { journal: true, ..known(Phase::Done) }).contains("journal.log"));
        assert!(!advice(&tests, &known(Phase::Done)).contains("journal.log"));
    }
}
