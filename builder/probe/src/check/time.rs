//! `time`: when something was reached, measured in this machine's own seconds.
//!
//! A limit is meant for a server. Under emulation everything takes ten times as long and more, so it is multiplied by how
//! much slower this machine was than one while it came up (see `speed`). Times count from the kernel's start.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Verdict, properties};
use crate::spec::Time;
use crate::system::System;

/// Every line of netboot-init, with the seconds since the kernel's start.
const LOG: &str = "run/netboot/log";
/// What its last line says.
const HANDOVER: &str = " takes over; ";

pub(super) fn check(Time { time, at_most }: &Time, system: &dyn System) -> Verdict {
    let slowdown = system.slowdown();
    let most = at_most.time.mul_f64(slowdown);
    let expected = if slowdown > 1.0 {
        format!(
            "{time} within {:.1} s: {at_most}, and this machine is {slowdown:.1} times slower than a server",
            most.as_secs_f64()
        )
    } else {
        format!("{time} within {at_most}")
    };
    let reached = match time.as_str() {
        "init" => first(system.root()),
        "switch_root" => last(system.root()),
        unit => active(unit, system),
    };
    match reached {
        // It has been reached; no attempt makes it earlier.
        Ok(at) => Verdict::new(at <= most, expected, format!("after {:.1} s", at.as_secs_f64())).last(),
        Err(why) => Verdict::new(false, expected, why),
    }
}

fn first(root: &Path) -> Result<Duration, String> {
    lines(root)?.into_iter().next().map(|(at, _)| at).ok_or_else(|| format!("/{LOG} is empty"))
}

fn last(root: &Path) -> Result<Duration, String> {
    let last = lines(root)?.into_iter().rev().find(|(_, said)| said.contains(HANDOVER));
    last.map(|(at, _)| at).ok_or_else(|| format!("/{LOG} says nothing of it"))
}

/// `[    4.123456] netboot: …`
fn lines(root: &Path) -> Result<Vec<(Duration, String)>, String> {
    let text = fs::read_to_string(root.join(LOG)).map_err(|error| format!("/{LOG}: {error}"))?;
    let line = |line: &str| {
        let (stamp, said) = line.strip_prefix('[')?.split_once("] netboot: ")?;
        let seconds: f64 = stamp.trim().parse().ok()?;
        Some((Duration::try_from_secs_f64(seconds).ok()?, said.to_owned()))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// When a unit became active first.
fn active(unit: &str, system: &dyn System) -> Result<Duration, String> {
    let properties = properties(system, unit, "LoadState,ActiveState,ActiveEnterTimestampMonotonic")?;
    match properties.get("ActiveEnterTimestampMonotonic").parse() {
        Ok(microseconds @ 1..) => Ok(Duration::from_micros(microseconds)),
        _ => Err(format!("{} ({})", properties.get("ActiveState"), properties.get("LoadState"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::attempt;
    use super::*;
    use crate::system::fake::Fake;

    const SHOW: &str = "systemctl show --no-pager -p LoadState,ActiveState,ActiveEnterTimestampMonotonic -- ";

    fn time(what: &str, at_most: &str, slowdown: f64) -> Verdict {
        let system = Fake { slowdown, ..Fake::default() };
        system.write(
            LOG,
            "[    2.500000] netboot: netboot-init 0.1.0\n  odd\n[   12.000000] netboot: /sbin/init takes over; x\n",
        );
        let show = |unit: &str, text: &str| system.answer(&format!("{SHOW}{unit}"), 0, text, "");
        show("a.service", "LoadState=loaded\nActiveState=active\nActiveEnterTimestampMonotonic=20500000\n");
        show("b.service", "LoadState=loaded\nActiveState=activating\nActiveEnterTimestampMonotonic=0\n");
        attempt(&format!(r#"{{"time": "{what}", "at_most": "{at_most}"}}"#), &system)
    }

    #[test]
    fn what_was_reached_in_time() {
        for (what, at_most) in [("init", "3s"), ("switch_root", "12s"), ("a.service", "21s")] {
            let verdict = time(what, at_most, 1.0);
            assert!(verdict.holds && verdict.is_final, "{verdict:?}");
        }
        let slow = time("a.service", "2s", 11.0);
        assert!(slow.holds, "a server would have needed 1.9 s");
        assert_eq!(slow.expected, "a.service within 22.0 s: 2s, and this machine is 11.0 times slower than a server");
    }

    #[test]
    fn what_was_late_or_is_not_reached_yet() {
        assert_eq!(time("init", "2s", 1.0), Verdict::new(false, "init within 2s", "after 2.5 s").last());
        assert!(!time("switch_root", "2s", 5.0).holds);
        assert!(!time("a.service", "20s", 1.0).holds);
        assert_eq!(time("b.service", "20s", 1.0), Verdict::new(false, "b.service within 20s", "activating (loaded)"));
        let nothing = attempt(r#"{"time": "init", "at_most": "1s"}"#, &Fake::default());
        assert!(!nothing.holds && nothing.found.starts_with("/run/netboot/log: "), "{nothing:?}");
    }
}
