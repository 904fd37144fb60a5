//! Reading the guest's serial console: how far it came, and what it said last.

use std::{collections::VecDeque, fmt, time::Duration};

use serde::Serialize;

/// How many lines are kept for a report.
const TAIL: usize = 40;
/// A line longer than this is cut: a guest may print what it likes.
const LONGEST: usize = 4096;

/// What a kernel says of a breakpoint that nobody set. It sets some for a moment where it changes its own code on the fly, and
/// what a virtual processor meets instead of them is QEMU's doing.
const STRAY_BREAKPOINT: &str = "int3: 0000 [#1]";

/// How netboot-init begins its advice on a failure.
const ADVICE: &str = "what to check: ";

/// How far a boot came. In the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// QEMU was started.
    Power,
    /// The firmware has printed something.
    Firmware,
    /// iPXE runs.
    Ipxe,
    /// Linux runs.
    Kernel,
    /// netboot-init runs.
    NetbootInit,
    /// The new root's init runs.
    System,
    /// The probe has reported from there.
    Probe,
    /// The probe has finished.
    Done,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Power => "power on",
            Self::Firmware => "firmware",
            Self::Ipxe => "iPXE",
            Self::Kernel => "kernel",
            Self::NetbootInit => "netboot-init",
            Self::System => "systemd",
            Self::Probe => "probe",
            Self::Done => "done",
        })
    }
}

/// When a phase was reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mark {
    /// The phase.
    pub phase: Phase,
    /// Seconds since power on.
    pub seconds: f64,
}

/// What is known from the console.
#[derive(Debug)]
pub(crate) struct Console {
    partial: Vec<u8>,
    tail: VecDeque<String>,
    marks: Vec<Mark>,
    step: Option<String>,
    /// The step that netboot-init gave up in.
    failed_step: Option<String>,
    panic: Option<String>,
    stray_breakpoint: Option<String>,
    /// When the guest's clock was 0, in seconds since power on.
    kernel_start: Option<f64>,
}

impl Console {
    pub(crate) fn new() -> Self {
        let start = Mark { phase: Phase::Power, seconds: 0.0 };
        Self {
            partial: Vec::new(),
            tail: VecDeque::new(),
            marks: vec![start],
            step: None,
            failed_step: None,
            panic: None,
            stray_breakpoint: None,
            kernel_start: None,
        }
    }

    /// Takes what the guest printed; hands each whole line on.
    pub(crate) fn take(&mut self, bytes: &[u8], at: Duration, mut each: impl FnMut(&str)) {
        for byte in bytes {
            // Firmware ends lines with a carriage return alone, to write over them.
            if *byte == b'\n' || *byte == b'\r' || self.partial.len() >= LONGEST {
                self.end_line(at, &mut each);
            }
            if *byte != b'\n' && *byte != b'\r' {
                self.partial.push(*byte);
            }
        }
    }

    /// Takes the last line, which had no end.
    pub(crate) fn finish(&mut self, at: Duration) {
        self.end_line(at, &mut |_| {});
    }

    fn end_line(&mut self, at: Duration, each: &mut impl FnMut(&str)) {
        let line = plain(&self.partial);
        self.partial.clear();
        if line.is_empty() {
            return;
        }
        self.look(&line, at);
        each(&line);
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    fn look(&mut self, line: &str, at: Duration) {
        if line.contains("Kernel panic - not syncing") {
            self.panic.get_or_insert_with(|| line.to_owned());
        }
        if line.contains(STRAY_BREAKPOINT) {
            self.stray_breakpoint.get_or_insert_with(|| line.to_owned());
        }
        let phase = if line.contains("] netboot: ") {
            if let Some((stamp, said)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] netboot: ")) {
                if let Ok(seconds) = stamp.trim().parse() {
                    self.guest_says_time(seconds, at);
                }
                if let Some(step) = said.strip_prefix("FAILED: ") {
                    self.failed_step = Some(step.to_owned());
                }
            }
            let said = line.split_once("] netboot: ").map(|(_, said)| said.trim());
            // After its advice netboot-init only says how it goes down.
            if self.step.as_deref().is_none_or(|step| !step.starts_with(ADVICE)) {
                self.step = said.map(str::to_owned);
            }
            Phase::NetbootInit
        } else if line.contains("systemd[1]: ") || line.starts_with("Welcome to ") {
            Phase::System
        } else if ["[    ", "Probing EDD", "EFI stub: "].iter().any(|start| line.starts_with(start))
            || line.contains("Linux version ")
        {
            Phase::Kernel
        } else if line.contains("iPXE ") {
            Phase::Ipxe
        } else {
            Phase::Firmware
        };
        self.reach(phase, at);
    }

    /// Notes that a phase was reached, unless a later one has been.
    pub(crate) fn reach(&mut self, phase: Phase, at: Duration) {
        if phase > self.phase() {
            self.marks.push(Mark { phase, seconds: at.as_secs_f64() });
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.marks.last().map_or(Phase::Power, |mark| mark.phase)
    }

    pub(crate) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Notes what the guest's clock, which counts from the kernel's start, was shortly before. Of several times the
    /// one that was on its way for the shortest time is the best.
    pub(crate) fn guest_says_time(&mut self, seconds: f64, at: Duration) {
        let start = at.as_secs_f64() - seconds;
        if seconds.is_finite() && self.kernel_start.is_none_or(|best| start < best) {
            self.kernel_start = Some(start);
        }
    }

    /// When the guest's clock was 0, in seconds since power on; none if it never told the time.
    pub(crate) fn kernel_start(&self) -> Option<f64> {
        self.kernel_start
    }

    /// The step that netboot-init gave up in.
    pub(crate) fn failed_step(&self) -> Option<&str> {
        self.failed_step.as_deref()
    }

    /// The last thing that netboot-init said, or its advice.
    pub(crate) fn step(&self) -> Option<&str> {
        self.step.as_deref()
    }

    /// The kernel's last words, if it has spoken them.
    pub(crate) fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    /// The kernel's word on a breakpoint that it should not have met.
    pub(crate) fn stray_breakpoint(&self) -> Option<&str> {
        self.stray_breakpoint.as_deref()
    }

    /// The last whole line.
    pub(crate) fn last(&self) -> Option<&str> {
        self.tail.back().map(String::as_str)
    }

    pub(crate) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}

/// A line without escape sequences and control characters, and without blanks at its end.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                // CSI: parameters, then one final byte (ECMA-48, 5.4).
                Some('[') => while rest.next().is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c)) {},
                // OSC: up to BEL.
                Some(']') => while rest.next().is_some_and(|c| c != '\u{7}') {},
                // Character sets take one more.
                Some('(' | ')') => drop(rest.next()),
                _ => {}
            },
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "\u{1b}c\u{1b}[?7l\u{1b}[2J\u{1b}[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n\r\n\
        iPXE 1.0.0+git-20190125.36a4c85-5.1 -- Open Source Network Boot Firmware\r\n\
        tftp://10.0.2.2/boot.ipxe... ok\r\n\
        [    0.000000] Linux version 6.1.0-56-cloud-amd64\r\n\
        [    1.234] netboot: fetching http://10.0.2.2:1/root.squashfs\r\n\
        [    9.000000] systemd[1]: Detected architecture x86-64.\r\n\
        [\u{1b}[0;32m  OK  \u{1b}[0m] Reached target \u{1b}[0;1;39mbasic.target\u{1b}[0m.\r\n";

    #[test]
    fn phases_are_seen_in_their_order_and_never_go_back() {
        let mut console = Console::new();
        for (second, chunk) in BOOT.as_bytes().chunks(7).enumerate() {
            console.take(chunk, Duration::from_secs(second as u64), |_| {});
        }
        let phases: Vec<Phase> = console.marks().iter().map(|mark| mark.phase).collect();
        let all = [Phase::Power, Phase::Firmware, Phase::Ipxe, Phase::Kernel, Phase::NetbootInit, Phase::System];
        assert_eq!(phases, all);
        assert!(console.marks().is_sorted_by(|a, b| a.seconds <= b.seconds));
        assert_eq!(console.step(), Some("fetching http://10.0.2.2:1/root.squashfs"));
        assert_eq!(console.tail().last().unwrap(), "[  OK  ] Reached target basic.target.");
        assert_eq!(console.panic(), None);
    }

    #[test]
    fn the_guests_clock_is_told_by_the_line_that_came_fastest() {
        let mut console = Console::new();
        for (line, at) in
            [("[    1.0] netboot: a\n", 4.5), ("[    2.0] netboot: b\n", 5.25), ("[    3.0] netboot: c\n", 7.0)]
        {
            console.take(line.as_bytes(), Duration::from_secs_f64(at), |_| {});
        }
        console.take(b"[    9.0] somebody else\n[ nonsense ] netboot: d\n", Duration::from_secs(9), |_| {});
        assert_eq!(console.kernel_start(), Some(3.25));
    }

    #[test]
    fn uefi_says_who_runs_as_well() {
        let mut console = Console::new();
        let boot = "BdsDxe: starting Boot0003 \"UEFI PXEv4 (MAC:525400123456)\" from PciRoot(0x0)\r\n\
            iPXE initialising devices...ok\r\n\
            EFI stub: Loaded initrd from command line option\r\n";
        let phases: Vec<Phase> = boot
            .split_inclusive("\r\n")
            .map(|line| {
                console.take(line.as_bytes(), Duration::ZERO, |_| {});
                console.phase()
            })
            .collect();
        assert_eq!(phases, [Phase::Firmware, Phase::Ipxe, Phase::Kernel]);
    }

    #[test]
    fn advice_is_not_overwritten_by_what_is_said_on_the_way_down() {
        let mut console = Console::new();
        let text = "[    1.0] netboot: FAILED: get the root\r\n[    1.0] netboot:   what to check: the boot server\r\n\
            [    1.1] netboot: netboot.on_failure=poweroff: power off\r\n";
        console.take(text.as_bytes(), Duration::ZERO, |_| {});
        assert_eq!(console.step(), Some("what to check: the boot server"));
        assert_eq!(console.failed_step(), Some("get the root"));
    }

    #[test]
    fn a_panic_is_seen_and_the_last_lines_are_kept() {
        let mut console = Console::new();
        for line in 0..100 {
            console.take(format!("line {line}\n").as_bytes(), Duration::ZERO, |_| {});
        }
        console.take(b"[    2.0] Kernel panic - not syncing: Attempted to kill init!", Duration::ZERO, |_| {});
        assert_eq!(console.panic(), None);
        console.finish(Duration::ZERO);
        assert_eq!(console.panic(), Some("[    2.0] Kernel panic - not syncing: Attempted to kill init!"));
        let tail = console.tail();
        assert_eq!((tail.len(), tail[0].as_str()), (TAIL, "line 61"));
    }

    #[test]
    fn a_stray_breakpoint_is_seen() {
        let mut console = Console::new();
        console.take(b"[    2.0] BUG: kernel NULL pointer dereference\n", Duration::ZERO, |_| {});
        assert_eq!(console.stray_breakpoint(), None);
        // As Linux 6.12 and 6.1 say it.
        for line in ["[    3.0] Oops: int3: 0000 [#1] SMP NOPTI", "[    4.0] int3: 0000 [#1] PREEMPT SMP NOPTI"] {
            console.take(format!("{line}\r\n").as_bytes(), Duration::ZERO, |_| {});
        }
        assert_eq!(console.stray_breakpoint(), Some("[    3.0] Oops: int3: 0000 [#1] SMP NOPTI"));
    }

    #[test]
    fn a_line_without_end_is_cut_and_bad_bytes_are_shown() {
        let mut console = Console::new();
        console.take(&vec![b'x'; 10 * LONGEST], Duration::ZERO, |line| assert_eq!(line.len(), LONGEST));
        console.take(b"\n\xff\x00\x07y \n", Duration::ZERO, |_| {});
        assert_eq!(console.tail().last().unwrap(), "\u{fffd}y");
    }
}
