//! The time line of a boot: what took how long, from power on.
//!
//! Three clocks tell of it. The console's lines and the boot server's requests have the host's. netboot-init's log and
//! systemd have the guest's, which counts from the kernel's start; that is placed on the host's by netboot-init's lines on
//! the console, which say the guest's time and are read at the host's.

use std::time::{Duration, Instant};

use imgbuild_bundle::ROOT;
use imgbuild_serve::Access;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Mark, Phase};

/// Something that took time in a boot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Span {
    /// Who was at work.
    pub phase: Phase,
    /// At what; empty for all that it did.
    pub what: String,
    /// When it began, in seconds since power on.
    pub from: f64,
    /// When it was done; none if it never was.
    pub to: Option<f64>,
    /// What else is known, for people: `108.2 MB at 21.7 MB/s`.
    pub detail: String,
}

impl Span {
    fn new(phase: Phase, what: impl Into<String>, from: f64, to: Option<f64>) -> Self {
        Self { phase, what: what.into(), from, to, detail: String::new() }
    }
}

/// Steps of netboot-init that take less are not told, in seconds.
const SHORT: f64 = 0.005;

/// What netboot-init does in each of its steps. Neighbours with the same words are one.
const STEPS: [(&str, &str); 14] = [
    ("mount /proc, /sys, /dev and /run", "start"),
    ("read the kernel command line", "start"),
    ("read the initrd's configuration", "start"),
    ("load kernel modules", "modules"),
    ("run the pre-network hooks", "pre-network hooks"),
    ("bring up the network", "network"),
    ("get this node's configuration", "node's configuration"),
    ("get the root", ROOT_FETCHED),
    ("mount the root", "overlay"),
    ("copy the extra segments' files over the root", "overlay"),
    ("write the files of this node's configuration", "overlay"),
    ("give the node its name", "overlay"),
    ("hand over to the system", "overlay"),
    ("run the pre-init hooks", "pre-init hooks"),
];
const ROOT_FETCHED: &str = "root fetched";
/// What comes after them.
const HANDOVER: &str = "handover";
/// Units that are told: more than the probe names are not the probe's.
const MOST_UNITS: usize = 40;

/// What a time line is made of.
pub(crate) struct Sources<'a> {
    /// When phases were reached.
    pub(crate) marks: &'a [Mark],
    /// The end of the run, in seconds since power on.
    pub(crate) end: f64,
    /// When the guest's clock was 0, in seconds since power on.
    pub(crate) kernel_start: Option<f64>,
    /// netboot-init's log.
    pub(crate) netboot_log: &'a str,
    /// The step that it gave up in.
    pub(crate) failed_step: Option<&'a str>,
    /// What the boot server was asked for.
    pub(crate) requests: &'a [Access],
    /// Power on.
    pub(crate) began: Instant,
    /// The probe's fact.
    pub(crate) systemd: Option<&'a Value>,
}

/// The probe's `systemd-times`, in seconds since the kernel's start.
#[derive(Debug, Deserialize)]
struct Systemd {
    userspace: f64,
    finish: Option<f64>,
    #[serde(default)]
    units: Vec<Unit>,
}

#[derive(Debug, Deserialize)]
struct Unit {
    unit: String,
    from: f64,
    to: Option<f64>,
}

/// The time line, in the order of what happened.
pub(crate) fn spans(sources: &Sources<'_>) -> Vec<Span> {
    let systemd = sources.systemd.and_then(|value| Systemd::deserialize(value).ok());
    let userspace = systemd.as_ref().and_then(|systemd| sources.on_host(systemd.userspace));
    let of_systemd = systemd.as_ref().map(|systemd| sources.of_systemd(systemd)).unwrap_or_default();
    let mut spans: Vec<Span> = Vec::new();
    for (index, mark) in sources.marks.iter().enumerate() {
        let next = sources.marks.get(index + 1).map(|next| next.seconds);
        // QEMU's own start is the firmware's time.
        let from = if spans.is_empty() { 0.0 } else { mark.seconds };
        match mark.phase {
            Phase::Power if next.is_some() => {}
            Phase::Probe | Phase::Done => {}
            Phase::NetbootInit => {
                let steps = sources.steps(userspace.or(sources.last_words()).or(next));
                // Its own time is better than that of the console, which lags.
                if let (Some(kernel), Some(first)) = (spans.last_mut(), steps.first()) {
                    kernel.to = Some(first.from);
                }
                if steps.is_empty() {
                    spans.push(Span::new(mark.phase, "", from, next));
                } else {
                    spans.extend(steps);
                }
            }
            Phase::System if of_systemd.is_empty() => {
                spans.push(Span::new(mark.phase, "", from, sources.done()));
            }
            Phase::System => {}
            phase => spans.push(Span::new(phase, "", from, next)),
        }
    }
    // Whether the console told of it or was quiet.
    spans.extend(of_systemd);
    sources.tell_downloads(&mut spans);
    if let (Some(step), Some(last)) = (sources.failed_step, spans.last_mut()) {
        last.detail = format!("failed: {step}");
        last.to = None;
    }
    let rounded = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    spans.retain(|span| (0.0..=sources.end).contains(&span.from));
    for span in &mut spans {
        span.from = rounded(span.from);
        span.to = span.to.filter(|to| to.is_finite()).map(|to| rounded(to.clamp(span.from, sources.end)));
    }
    spans
}

impl Sources<'_> {
    /// A time of the guest's clock in seconds since power on.
    fn on_host(&self, guest: f64) -> Option<f64> {
        self.kernel_start.map(|start| start + guest)
    }

    /// When the probe was done.
    fn done(&self) -> Option<f64> {
        self.marks.iter().find(|mark| mark.phase == Phase::Done).map(|mark| mark.seconds)
    }

    /// netboot-init's steps; `end` is that of the last one.
    fn steps(&self, end: Option<f64>) -> Vec<Span> {
        let begun = |line: &str| {
            let (at, said) = self.netboot_line(line)?;
            let step = said.strip_prefix("step: ")?;
            let what = STEPS.iter().find(|(known, _)| *known == step).map_or(HANDOVER, |(_, what)| *what);
            Some(Span::new(Phase::NetbootInit, what, at, None))
        };
        let mut steps: Vec<Span> = self.netboot_log.lines().filter_map(begun).collect();
        steps.dedup_by(|next, step| next.what == step.what);
        let ends: Vec<Option<f64>> = steps.iter().skip(1).map(|next| Some(next.from)).chain([end]).collect();
        for (step, end) in steps.iter_mut().zip(ends) {
            step.to = end;
        }
        steps.retain(|step| step.to.is_none_or(|to| to - step.from >= SHORT));
        steps
    }

    /// When netboot-init said its last line.
    fn last_words(&self) -> Option<f64> {
        self.netboot_log.lines().rev().find_map(|line| self.netboot_line(line)).map(|(at, _)| at)
    }

    /// A line of netboot-init's log: when, in seconds since power on, and what.
    fn netboot_line<'b>(&self, line: &'b str) -> Option<(f64, &'b str)> {
        let (stamp, said) = line.strip_prefix('[')?.split_once("] netboot: ")?;
        Some((self.on_host(stamp.trim().parse().ok()?)?, said))
    }

    /// systemd as a whole, and units; none without the guest's clock.
    fn of_systemd(&self, systemd: &Systemd) -> Vec<Span> {
        let span = |what: &str, from: f64, to: Option<f64>| {
            Some(Span::new(Phase::System, what, self.on_host(from)?, to.and_then(|to| self.on_host(to))))
        };
        let units = systemd.units.iter().take(MOST_UNITS);
        std::iter::once(span("", systemd.userspace, systemd.finish))
            .chain(units.map(|unit| span(&unit.unit, unit.from, unit.to)))
            .flatten()
            .collect()
    }

    /// Says what the boot server saw: only it knows when how much was under way.
    fn tell_downloads(&self, spans: &mut [Span]) {
        for span in spans {
            let is_root = |request: &&Access| request.path.rsplit('/').next() == Some(ROOT);
            let wanted = |request: &&Access| match span.phase {
                Phase::Firmware | Phase::Ipxe => {
                    let began = request.began.saturating_duration_since(self.began).as_secs_f64();
                    began >= span.from && span.to.is_none_or(|to| began < to) && !is_root(request)
                }
                Phase::NetbootInit => (span.what == ROOT_FETCHED || span.what.is_empty()) && is_root(request),
                _ => false,
            };
            let answered = self.requests.iter().filter(|request| request.status < 400 && request.sent > 0);
            let requests: Vec<&Access> = answered.filter(wanted).collect();
            if requests.is_empty() {
                continue;
            }
            let bytes: u64 = requests.iter().map(|request| request.sent).sum();
            span.detail = download(bytes, under_way(&requests).as_secs_f64(), requests.len());
        }
    }
}

/// How long at least one of the requests was.
fn under_way(requests: &[&Access]) -> Duration {
    let mut times: Vec<(Instant, Instant)> = requests.iter().map(|r| (r.began, r.began + r.took)).collect();
    times.sort_unstable();
    let mut until = None;
    let mut sum = Duration::ZERO;
    for (from, to) in times {
        let seen: Instant = until.unwrap_or(from);
        sum += to.saturating_duration_since(from.max(seen));
        until = Some(to.max(seen));
    }
    sum
}

/// `108.2 MB at 21.7 MB/s`.
fn download(bytes: u64, seconds: f64, requests: usize) -> String {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let megabytes = bytes as f64 / 1e6;
    let requests = if requests == 1 { String::new() } else { format!(" in {requests} requests") };
    // What is gone in no time says nothing about speed.
    let rate = if seconds >= 0.01 { format!(" at {:.1} MB/s", megabytes / seconds) } else { String::new() };
    format!("{megabytes:.1} MB{requests}{rate}")
}

/// A table, a line for each span.
pub(crate) fn table(spans: &[Span]) -> String {
    let mut text = format!("{:>8} {:>8}\n", "from", "took");
    for (index, span) in spans.iter().enumerate() {
        let is_first = index == 0 || spans.get(index - 1).is_none_or(|before| before.phase != span.phase);
        let phase = if is_first { span.phase.to_string() } else { String::new() };
        let took = span.to.map_or_else(|| "not done".to_owned(), |to| format!("{:.1}", to - span.from));
        let detail = if span.what.is_empty() || span.detail.is_empty() { "" } else { ": " };
        let line = format!("{:>8.1} {took:>8}  {phase:<12}  {}{detail}{}", span.from, span.what, span.detail);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const LOG: &str = "[    3.000000] netboot: step: mount /proc, /sys, /dev and /run\n\
        [    3.100000] netboot: step: read the kernel command line\n\
        [    3.100500] netboot: netboot-init 0.1.0 on Linux 6.1.0\n\
        [    3.250000] netboot: step: load kernel modules\n\
        [    4.000000] netboot: step: run the pre-network hooks\n\
        [    4.000100] netboot: step: bring up the network\n\
        [    4.500000] netboot: step: get the root\n\
        [    9.500000] netboot: step: mount the root\n\
        [    9.600000] netboot: step: hand over to the system\n\
        [    9.700000] netboot: step: run the pre-init hooks\n\
        [   11.000000] netboot: step: install the online hooks\n\
        [   11.001000] netboot: step: switch to the root\n";

    fn marks(until: Phase) -> Vec<Mark> {
        let marks = [
            (Phase::Power, 0.0),
            (Phase::Firmware, 0.25),
            (Phase::Ipxe, 1.5),
            (Phase::Kernel, 5.0),
            (Phase::NetbootInit, 8.25),
            (Phase::System, 16.5),
            (Phase::Probe, 30.0),
            (Phase::Done, 52.0),
        ];
        let marks = marks.into_iter().map(|(phase, seconds)| Mark { phase, seconds });
        marks.take_while(|mark| mark.phase <= until).collect()
    }

    fn request(began: Instant, path: &str, at: f64, took: f64, sent: u64) -> Access {
        Access {
            peer: ([127, 0, 0, 1], 1).into(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            status: 200,
            length: sent,
            sent,
            began: began + Duration::from_secs_f64(at),
            took: Duration::from_secs_f64(took),
        }
    }

    #[test]
    fn time_in_which_several_requests_are_under_way_counts_once() {
        let began = Instant::now();
        let all = [(5.0, 1.0), (0.0, 4.0), (1.0, 1.0), (3.0, 1.5)].map(|(at, took)| request(began, "/r", at, took, 1));
        assert_eq!(under_way(&all.each_ref()), Duration::from_secs_f64(5.5));
    }

    /// A worker's, over the network.
    pub(crate) fn whole() -> Vec<Span> {
        let began = Instant::now();
        let requests = [
            request(began, "/boot.ipxe", 2.0, 0.001, 400),
            request(began, "/images/worker/1/vmlinuz", 2.1, 0.9, 8_000_000),
            request(began, "/images/worker/1/initrd.img", 3.0, 1.1, 12_000_000),
            request(began, "/images/worker/1/root.squashfs", 9.75, 4.0, 108_000_000),
        ];
        let systemd = serde_json::json!({"userspace": 11.25, "finish": 31.0, "units": [
            {"unit": "basic.target", "from": 20.0, "to": 20.0},
            {"unit": "containerd.service", "from": 20.5, "to": 26.0},
            {"unit": "kubelet.service", "from": 26.1, "to": null},
            {"unit": "of-another-age.service", "from": 999_000.0, "to": 999_001.0},
        ]});
        spans(&Sources {
            marks: &marks(Phase::Done),
            end: 52.5,
            kernel_start: Some(5.1),
            netboot_log: LOG,
            failed_step: None,
            requests: &requests,
            began,
            systemd: Some(&systemd),
        })
    }

    /// As much as is known without the probe.
    pub(crate) fn failed() -> Vec<Span> {
        let began = Instant::now();
        spans(&Sources {
            marks: &marks(Phase::NetbootInit),
            end: 20.0,
            kernel_start: Some(5.1),
            netboot_log: "",
            failed_step: Some("get the root"),
            requests: &[request(began, "/images/worker/1/root.squashfs", 9.75, 4.0, 108_000_000)],
            began,
            systemd: None,
        })
    }

    #[test]
    fn clocks_are_put_together() {
        let expected = "    from     took
     0.0      1.5  firmware
     1.5      3.5  iPXE          20.0 MB in 3 requests at 10.0 MB/s
     5.0      3.1  kernel
     8.1      0.2  netboot-init  start
     8.3      0.8                modules
     9.1      0.5                network
     9.6      5.0                root fetched: 108.0 MB at 27.0 MB/s
    14.6      0.2                overlay
    14.8      1.3                pre-init hooks
    16.1      0.2                handover
    16.4     19.8  systemd
    25.1      0.0                basic.target
    25.6      5.5                containerd.service
    31.2 not done                kubelet.service
";
        assert_eq!(table(&whole()), expected);
    }

    #[test]
    fn a_boot_that_failed_has_what_was_seen_of_it() {
        let expected = "    from     took
     0.0      1.5  firmware
     1.5      3.5  iPXE
     5.0      3.2  kernel
     8.2 not done  netboot-init  failed: get the root
";
        assert_eq!(table(&failed()), expected);
        let began = Instant::now();
        let sources = |marks| Sources {
            marks,
            end: 60.0,
            kernel_start: None,
            netboot_log: LOG,
            failed_step: None,
            requests: &[],
            began,
            systemd: None,
        };
        // Nothing but QEMU; and a guest whose clock is not known.
        let (off, dark) = (marks(Phase::Power), marks(Phase::Probe));
        assert_eq!(table(&spans(&sources(&off))), "    from     took\n     0.0 not done  power on\n");
        let phases: Vec<Phase> = spans(&sources(&dark)).iter().map(|span| span.phase).collect();
        assert_eq!(phases, [Phase::Firmware, Phase::Ipxe, Phase::Kernel, Phase::NetbootInit, Phase::System]);
    }

    #[test]
    fn a_guests_nonsense_is_left_out() {
        for value in [
            serde_json::json!("x"),
            serde_json::json!({"userspace": -1e300, "finish": 1e300, "units": []}),
            serde_json::json!({"userspace": 1.0, "units": [{"unit": 7}]}),
        ] {
            let marks = marks(Phase::Done);
            let found = spans(&Sources {
                marks: &marks,
                end: 60.0,
                kernel_start: Some(5.0),
                netboot_log: "[ x] netboot: step: get the root\n[  NaN] netboot: step: mount the root\n",
                failed_step: None,
                requests: &[],
                began: Instant::now(),
                systemd: Some(&value),
            });
            assert!(found.iter().all(|span| (0.0..=60.0).contains(&span.from)), "{found:?}");
        }
    }
}
