//! What hooks and services are told about this boot, as environment variables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::identity::Identity;
use crate::net::{Mac, Network, is_of_any_link};

/// What the variables are made of.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The image's name.
    pub image: String,
    /// The image's version.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// Where the root came from: a URL, or `embedded`.
    pub source: String,
    /// The boot interface's address.
    pub mac: Option<Mac>,
    /// The network, once it is up.
    pub network: Option<Network>,
    /// Host name and machine id, once they are known.
    pub identity: Option<Identity>,
    /// Where the node's configuration came from; empty without one.
    pub config: String,
    /// The node's own variables, by name.
    pub variables: BTreeMap<String, String>,
    /// Whether `netboot.debug` was given.
    pub debug: bool,
}

/// One variable: its name, what it holds, and how that is made.
pub struct Variable {
    /// The name.
    pub name: &'static str,
    /// What it holds.
    pub meaning: &'static str,
    value: fn(&Facts) -> Option<String>,
}

/// All variables. One that has no value at a stage is set and empty, so that `set -u` does no harm.
pub const VARIABLES: &[Variable] = &[
    Variable { name: "NETBOOT_IMAGE", meaning: "name of the image", value: |f| Some(f.image.clone()) },
    Variable { name: "NETBOOT_VERSION", meaning: "version of the image", value: |f| Some(f.version.clone()) },
    Variable { name: "NETBOOT_KERNEL", meaning: "release of the running kernel", value: |f| Some(f.kernel.clone()) },
    Variable {
        name: "NETBOOT_SOURCE",
        meaning: "URL that the root was asked for first, or `embedded`",
        value: |f| Some(f.source.clone()),
    },
    Variable {
        name: "NETBOOT_MAC",
        meaning: "address of the boot interface, `52:54:00:12:34:56`",
        value: |f| f.mac.map(|mac| mac.to_string()),
    },
    Variable {
        name: "NETBOOT_IFACE",
        meaning: "name of the boot interface in the initrd; the system may rename it: match by NETBOOT_MAC",
        value: |f| network(f, |n| Some(n.interface.clone())),
    },
    Variable {
        name: "NETBOOT_IP",
        meaning: "the node's address: the IPv4 one if it has one, else the IPv6 one",
        value: |f| network(f, |n| Some(n.address.to_string())),
    },
    Variable {
        name: "NETBOOT_PREFIX",
        meaning: "length of that address's prefix in bits",
        value: |f| network(f, |n| Some(n.prefix.to_string())),
    },
    Variable {
        name: "NETBOOT_GATEWAY",
        meaning: "default gateway",
        value: |f| network(f, |n| n.gateway.map(|gateway| gateway.to_string())),
    },
    Variable {
        name: "NETBOOT_DNS",
        meaning: "name servers, separated by blanks, without those that are known on the link alone (`fe80::1`)",
        value: |f| network(f, |n| words(&n.dns.iter().filter(|server| is_of_any_link(server)).collect::<Vec<_>>())),
    },
    Variable {
        name: "NETBOOT_NTP",
        meaning: "time servers, separated by blanks",
        value: |f| network(f, |n| words(&n.ntp)),
    },
    Variable {
        name: "NETBOOT_MTU",
        meaning: "MTU that the network gave",
        value: |f| network(f, |n| Some(n.mtu?.to_string())),
    },
    Variable {
        name: "NETBOOT_DOMAIN",
        meaning: "domain of the network",
        value: |f| f.identity.as_ref().and_then(|identity| identity.domain.clone()),
    },
    Variable {
        name: "NETBOOT_HOSTNAME",
        meaning: "host name of the node",
        value: |f| f.identity.as_ref().map(|identity| identity.hostname.clone()),
    },
    Variable {
        name: "NETBOOT_MACHINE_ID",
        meaning: "machine id of the node",
        value: |f| f.identity.as_ref().map(|identity| identity.machine_id.clone()),
    },
    Variable {
        name: "NETBOOT_CONFIG",
        meaning: "URL that the node's configuration came from",
        value: |f| Some(f.config.clone()),
    },
    Variable {
        name: "NETBOOT_DEBUG",
        meaning: "`1` when booted with `netboot.debug`",
        value: |f| f.debug.then(|| "1".to_owned()),
    },
];

/// Set for hooks only.
pub const OF_HOOKS: &[(&str, &str)] = &[
    ("NETBOOT_STAGE", "`pre-network`, `pre-init` or `online`"),
    ("NETBOOT_HOOK", "name of the hook"),
    ("PATH", "`/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`"),
    ("HOME", "`/root`"),
    ("LC_ALL", "`C`"),
];

/// The value of `PATH` for hooks.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn network(facts: &Facts, value: fn(&Network) -> Option<String>) -> Option<String> {
    facts.network.as_ref().and_then(value)
}

fn words<T: ToString>(values: &[T]) -> Option<String> {
    let words: Vec<String> = values.iter().map(ToString::to_string).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// All variables of ours with their values; the node's own come beside them.
#[must_use]
pub fn values(facts: &Facts) -> Vec<(&'static str, String)> {
    VARIABLES.iter().map(|variable| (variable.name, (variable.value)(facts).unwrap_or_default())).collect()
}

/// The same as a file for systemd's `EnvironmentFile=` and a shell's `.`.
#[must_use]
pub fn file(facts: &Facts) -> String {
    let mut text = String::new();
    for (name, value) in values(facts) {
        let _ = writeln!(text, "{name}={}", quoted(&value.replace('\n', " ")));
    }
    for (name, value) in &facts.variables {
        let _ = writeln!(text, "{name}={}", quoted(value));
    }
    text
}

/// As both systemd and a shell read it, ends of lines too. Between single quotes everything is itself, but a single quote
/// has no place there, and `'\''`, which is good for a shell, is not for systemd: then double quotes, in which the same four
/// characters need a backslash for both.
fn quoted(value: &str) -> String {
    let value = value.replace('\0', " ");
    if !value.contains('\'') {
        return format!("'{value}'");
    }
    let mut text = String::from("\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

/// The documentation's table.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| variable | meaning |\n|---|---|\n");
    let hooks = OF_HOOKS.iter().copied();
    for (name, meaning) in VARIABLES.iter().map(|v| (v.name, v.meaning)).chain(hooks) {
        let _ = writeln!(text, "| `{name}` | {meaning} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_documentation_has_the_table() {
        assert!(include_str!("../README.md").contains(&markdown()), "put this into README.md:\n{}", markdown());
    }

    #[test]
    fn every_variable_is_set_and_documented() {
        let values = values(&Facts::default());
        let table = markdown();
        assert_eq!(values.len(), VARIABLES.len());
        for (name, value) in values {
            assert_eq!(value, "", "{name}");
            assert!(table.contains(&format!("| `{name}` |")), "{name}");
        }
    }

    #[test]
    fn name_servers_of_the_link_alone_are_not_passed_on() {
        let mut network = Network::new("eth0", Mac([1; 6]), "ra", [10, 0, 2, 15].into(), 24);
        network.dns = vec!["fe80::1".parse().unwrap(), "2001:db8::53".parse().unwrap(), [10, 0, 2, 3].into()];
        let json = serde_json::to_value(&network).unwrap();
        assert_eq!(json["dns"], serde_json::json!(["2001:db8::53", "10.0.2.3"]));
        let values = values(&Facts { network: Some(network), ..Facts::default() });
        assert!(values.contains(&("NETBOOT_DNS", "2001:db8::53 10.0.2.3".into())), "{values:?}");
    }

    #[test]
    fn a_shell_reads_the_file_as_data() {
        let nasty = "a'b \"c\" $(touch /tmp/x) `y` \\n \\\\";
        let variables = BTreeMap::from([("KEY".to_owned(), "line 1\nit's line 2".to_owned())]);
        let facts = Facts { image: nasty.into(), mac: Some(Mac([1; 6])), variables, ..Facts::default() };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        std::fs::write(&path, file(&facts)).unwrap();
        let script = format!(". {}; printf %s \"$NETBOOT_IMAGE|$NETBOOT_MAC|$NETBOOT_IP|$KEY\"", path.display());
        let output = Command::new("sh").args(["-euc", &script]).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("{nasty}|01:01:01:01:01:01||line 1\nit's line 2")
        );
    }
}
