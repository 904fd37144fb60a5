//! When systemd did what, in seconds since the kernel's start.

use std::time::Duration;

use serde_json::{Value, json};

use crate::spec::{Kind, Spec};
use crate::system::System;

const PATIENCE: Duration = Duration::from_secs(20);
/// Worth a line in every boot's time line; patterns match what is loaded.
const WELL_KNOWN: [&str; 6] = [
    "sysinit.target",
    "basic.target",
    "network-online.target",
    "containerd.service",
    "kubelet.service",
    "netboot-hook-*.service",
];
/// How many other services are told, those that took longest, and what took less than so many seconds is not.
const SLOWEST: usize = 6;
const SHORT: f64 = 0.1;
/// Ours: it is not there without a test.
const PROBE: &str = "imgbuild-probe.service";

/// A unit's last start.
#[derive(Debug, Clone, PartialEq)]
struct Start {
    unit: String,
    from: f64,
    /// None while it goes on.
    to: Option<f64>,
}

impl Start {
    /// Seconds.
    fn took(&self) -> f64 {
        self.to.unwrap_or(self.from) - self.from
    }
}

/// `userspace`, `finish` and `units`, each with `unit`, `from` and `to`: those that the tests name, some that are well known, and
/// the slowest others. Null where there is no systemd.
pub(crate) fn of_systemd(spec: &Spec, system: &dyn System) -> Value {
    let manager = show(system, "UserspaceTimestampMonotonic,FinishTimestampMonotonic", &[]).unwrap_or_default();
    let Some(userspace) = stamp(&manager, "UserspaceTimestampMonotonic") else { return Value::Null };
    let of_tests = spec.tests.iter().filter_map(|test| match &test.kind {
        Kind::Unit(wanted) => Some(wanted.unit.as_str()),
        Kind::Time(wanted) if wanted.time.contains('.') => Some(wanted.time.as_str()),
        _ => None,
    });
    let named: Vec<&str> = WELL_KNOWN.into_iter().chain(of_tests).collect();
    let starts = |units: &[&str]| -> Vec<Start> {
        let properties =
            "Id,InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic,InactiveEnterTimestampMonotonic";
        let text = show(system, properties, units).unwrap_or_default();
        text.split("\n\n").filter_map(start).collect()
    };
    let mut units = starts(&named);
    let mut others = starts(&["*.service"]);
    others.retain(|other| other.took() >= SHORT && other.unit != PROBE);
    others.sort_by(|a, b| b.took().total_cmp(&a.took()));
    units.extend(others.into_iter().take(SLOWEST));
    units.sort_by(|a, b| a.from.total_cmp(&b.from).then_with(|| a.unit.cmp(&b.unit)));
    units.dedup();
    let units: Vec<Value> =
        units.into_iter().map(|Start { unit, from, to }| json!({"unit": unit, "from": from, "to": to})).collect();
    json!({"userspace": userspace, "finish": stamp(&manager, "FinishTimestampMonotonic"), "units": units})
}

fn show(system: &dyn System, properties: &str, units: &[&str]) -> Option<String> {
    let command: Vec<&str> = [&["systemctl", "show", "--no-pager", "-p", properties, "--"], units].concat();
    // Its status tells of units that are not there.
    system.run(&command, PATIENCE).ok().map(|output| output.stdout)
}

/// Seconds of a property in microseconds, unless it is 0: not yet.
fn stamp(block: &str, name: &str) -> Option<f64> {
    let value = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    let microseconds: u64 = value.trim().parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds).as_secs_f64())
}

/// A unit's block of properties.
fn start(block: &str) -> Option<Start> {
    let unit = block.lines().find_map(|line| line.strip_prefix("Id="))?.trim().to_owned();
    let from = stamp(block, "InactiveExitTimestampMonotonic")?;
    // What runs once and is over has never been active.
    let ends = ["ActiveEnterTimestampMonotonic", "InactiveEnterTimestampMonotonic"].map(|name| stamp(block, name));
    Some(Start { unit, from, to: ends.into_iter().flatten().find(|end| *end >= from) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::Fake;

    fn block(unit: &str, stamps: [u64; 3]) -> String {
        let [exit, active, inactive] = stamps;
        format!(
            "InactiveExitTimestampMonotonic={exit}\nActiveEnterTimestampMonotonic={active}\nId={unit}\n\
             InactiveEnterTimestampMonotonic={inactive}\n"
        )
    }

    #[test]
    fn units_have_their_times() {
        let system = Fake::default();
        let manager = "UserspaceTimestampMonotonic=11500000\nFinishTimestampMonotonic=0\n";
        let show = |properties: &str, units: &str, text: &str| {
            let command = format!("systemctl show --no-pager -p {properties} --{units}");
            system.answer(&command, 0, text, "");
        };
        show("UserspaceTimestampMonotonic,FinishTimestampMonotonic", "", manager);
        let unit = "Id,InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic,InactiveEnterTimestampMonotonic";
        let named = [
            block("basic.target", [14_000_000, 14_000_000, 0]),
            block("kubelet.service", [20_000_000, 0, 0]),
            block("absent.service", [0, 0, 0]),
        ]
        .join("\n");
        let known = " sysinit.target basic.target network-online.target containerd.service kubelet.service \
             netboot-hook-*.service agent.service absent.service";
        show(unit, known, &named);
        let mut services = vec![
            block("once.service", [12_000_000, 0, 13_500_000]),
            block("quick.service", [12_000_000, 12_010_000, 0]),
            block("imgbuild-probe.service", [12_000_000, 13_000_000, 0]),
        ];
        services.extend((0..9).map(|n| block(&format!("{n}.service"), [13_000_000, 13_200_000 + n * 100_000, 0])));
        show(unit, " *.service", &services.join("\n"));
        let spec = Spec::parse(
            r#"{"schema": 1, "deadline": 1, "tests": [{"unit": "agent.service"},
            {"time": "absent.service", "at_most": "1s"}, {"time": "init", "at_most": "1s"}]}"#,
        )
        .unwrap();
        let times = of_systemd(&spec, &system);
        assert_eq!((&times["userspace"], &times["finish"]), (&json!(11.5), &Value::Null));
        let units: Vec<(&str, Option<f64>)> = times["units"]
            .as_array()
            .unwrap()
            .iter()
            .map(|unit| (unit["unit"].as_str().unwrap(), unit["to"].as_f64()))
            .collect();
        assert_eq!(units.first(), Some(&("once.service", Some(13.5))));
        assert_eq!(units.last(), Some(&("kubelet.service", None)));
        // Six of the others, the slowest.
        assert_eq!(units.len(), 2 + 6);
        assert!(units.contains(&("8.service", Some(14.0))) && !units.contains(&("3.service", Some(13.5))), "{units:?}");
    }

    #[test]
    fn without_systemd_there_are_none() {
        let spec = Spec::parse(r#"{"schema": 1, "deadline": 1, "tests": []}"#).unwrap();
        assert_eq!(of_systemd(&spec, &Fake::default()), Value::Null);
    }
}
