//! What is worth knowing of a system that was tested, whether it passed or not.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::check::MountEntry;
use crate::spec::Spec;
use crate::system::System;
use crate::times;

const PATIENCE: Duration = Duration::from_secs(20);
/// File systems that say nothing about this image.
const OF_THE_KERNEL: [&str; 16] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup2",
    "cgroup",
    "securityfs",
    "pstore",
    "efivarfs",
    "bpf",
    "debugfs",
    "tracefs",
    "mqueue",
    "hugetlbfs",
    "configfs",
    "fusectl",
];

fn line(path: &str) -> Value {
    fs::read_to_string(path).map_or(Value::Null, |text| text.trim().into())
}

/// Seconds since the kernel started.
fn uptime() -> Value {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok()).map_or(Value::Null, Into::into)
}

/// What is settled once the system runs.
pub(crate) fn at_start() -> Vec<(&'static str, Value)> {
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os =
        os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"').to_owned());
    vec![
        ("kernel", line("/proc/sys/kernel/osrelease")),
        ("os", os.into()),
        ("hostname", line("/proc/sys/kernel/hostname")),
        ("machine-id", line("/etc/machine-id")),
        ("cmdline", line("/proc/cmdline")),
        ("started", uptime()),
    ]
}

/// What the tests' end finds.
pub(crate) fn at_end(spec: &Spec, system: &dyn System) -> Vec<(&'static str, Value)> {
    let systemctl = |arguments: &[&str]| {
        let command: Vec<&str> = [&["systemctl", "--no-pager"], arguments].concat();
        let output = system.run(&command, PATIENCE).ok();
        output.map_or(Value::Null, |output| output.stdout.trim().into())
    };
    let mounts = system.mountinfo().unwrap_or_default();
    vec![
        ("mounts", mounts_of(&mounts)),
        ("memory", memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())),
        ("slowdown", ((system.slowdown() * 10.0).round() / 10.0).into()),
        ("systemd", systemctl(&["is-system-running"])),
        ("failed-units", systemctl(&["list-units", "--failed", "--plain", "--no-legend"])),
        ("systemd-times", times::of_systemd(spec, system)),
        ("ended", uptime()),
    ]
}

fn mounts_of(mountinfo: &str) -> Value {
    let mounts =
        mountinfo.lines().filter_map(MountEntry::parse).filter(|m| !OF_THE_KERNEL.contains(&m.fstype.as_str()));
    mounts.map(|m| json!({"path": m.path, "fstype": m.fstype, "options": m.options.join(",")})).collect()
}

/// Bytes, by the kernel's names.
fn memory(meminfo: &str) -> Value {
    let wanted = ["MemTotal", "MemFree", "MemAvailable", "Shmem"];
    let numbers = meminfo.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        wanted.contains(&name).then(|| (name.to_owned(), kibibytes.saturating_mul(1024).into()))
    });
    Value::Object(numbers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::Fake;

    #[test]
    fn mounts_and_memory_are_numbers_and_names() {
        let table = "22 1 0:20 / / rw shared:1 - overlay overlay rw\n23 22 0:5 / /proc rw - proc proc rw\n";
        assert_eq!(mounts_of(table), json!([{"path": "/", "fstype": "overlay", "options": "rw,rw"}]));
        let text = "MemTotal:  1000 kB\nMemAvailable: 7 kB\nHugePages_Total:  0\n";
        assert_eq!(memory(text), json!({"MemTotal": 1_024_000, "MemAvailable": 7168}));
    }

    #[test]
    fn a_system_without_systemd_has_facts_too() {
        let spec = Spec::parse(r#"{"schema": 1, "deadline": 1, "tests": []}"#).unwrap();
        let facts = at_end(&spec, &Fake::default());
        assert!(facts.contains(&("systemd", Value::Null)));
        assert!(at_start().iter().any(|(name, value)| *name == "kernel" && value.is_string()));
    }
}
