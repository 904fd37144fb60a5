//! Who this node is: host name and machine id, the same at every boot, different on every machine.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::fetch;
use crate::net::{Mac, Network};
use crate::{rootfs, warning};

/// Serial numbers that vendors leave in, in lower case.
const SHARED_SERIALS: &[&str] = &[
    "0123456789",
    "123456789",
    "default string",
    "none",
    "not applicable",
    "not specified",
    "system serial number",
    "to be filled by o.e.m.",
    "n/a",
    "0",
];
/// UUIDs that vendors shipped on many machines.
const SHARED_UUIDS: &[&str] = &["03000200040005000006000700080009", "12345678123456781234567812345678"];
/// Linux's limit.
const LONGEST_HOSTNAME: usize = 64;

/// What tells this machine from others before anybody gave it a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The boot interface's address.
    pub mac: Option<Mac>,
    /// The firmware's UUID, 36 characters in lower case; none where it is not this machine's alone.
    pub uuid: Option<String>,
    /// The firmware's serial number; none where it is a vendor's placeholder.
    pub serial: Option<String>,
}

impl Machine {
    /// What firmware says in a folder like `/sys/class/dmi/id`.
    #[must_use]
    pub fn read(dmi: &Path, mac: Option<Mac>) -> Self {
        let read = |name: &str| Some(fs::read_to_string(dmi.join(name)).ok()?.trim().to_owned());
        let serial = read("product_serial")
            .filter(|serial| !serial.is_empty() && !SHARED_SERIALS.contains(&serial.to_ascii_lowercase().as_str()));
        let uuid = read("product_uuid").filter(|uuid| own_uuid(uuid).is_some()).map(|uuid| uuid.to_ascii_lowercase());
        Self { mac, uuid, serial }
    }
}

/// A node's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Host name, without domain.
    pub hostname: String,
    /// Domain, where the network has one.
    pub domain: Option<String>,
    /// 32 hexadecimal digits.
    pub machine_id: String,
}

impl Identity {
    /// From the name in the node's configuration, what the network gave, and the machine.
    #[must_use]
    pub fn new(configured: Option<&str>, network: Option<&Network>, machine: &Machine) -> Self {
        let given = configured.or_else(|| network.and_then(|network| network.hostname.as_deref()));
        let (given_name, given_domain) = match given.map(|name| name.trim_end_matches('.')) {
            Some(name) => name.split_once('.').map_or((Some(name), None), |(host, domain)| (Some(host), Some(domain))),
            None => (None, None),
        };
        let hostname = given_name.filter(|name| is_hostname(name) && *name != "localhost");
        if let (Some(name), None) = (given, hostname) {
            warning!("the network's host name `{name}` is not one; taking one from the MAC address");
        }
        let mac = machine.mac;
        let from_mac = || mac.map_or_else(|| "node".to_owned(), |mac| format!("node-{}", mac.compact()));
        let domain = given_domain.or_else(|| network.and_then(|network| network.domain.as_deref()));
        Self {
            hostname: hostname.map_or_else(from_mac, str::to_owned),
            domain: domain.filter(|domain| domain.split('.').all(is_hostname)).map(str::to_owned),
            machine_id: machine_id(machine.uuid.as_deref(), mac),
        }
    }

    /// Writes it into the root: /etc/hostname, /etc/hosts, /etc/machine-id; and tells the kernel.
    ///
    /// # Errors
    ///
    /// [`crate::Error::File`].
    pub fn apply(&self, root: &Path) -> Result<()> {
        rootfs::write(root, "/etc/hostname", format!("{}\n", self.hostname).as_bytes(), 0o644)?;
        let hosts = self.hosts(&rootfs::read(root, "/etc/hosts").unwrap_or_default());
        rootfs::write(root, "/etc/hosts", hosts.as_bytes(), 0o644)?;
        rootfs::write(root, "/etc/machine-id", format!("{}\n", self.machine_id).as_bytes(), 0o444)?;
        Ok(())
    }

    /// /etc/hosts with this node in it.
    #[must_use]
    pub fn hosts(&self, before: &str) -> String {
        let mut lines: Vec<&str> = before.lines().filter(|line| !names_address(line, "127.0.1.1")).collect();
        if !lines.iter().any(|line| names_address(line, "127.0.0.1")) {
            lines.insert(0, "127.0.0.1 localhost");
            lines.insert(1, "::1 localhost ip6-localhost ip6-loopback");
        }
        let own = match &self.domain {
            Some(domain) => format!("127.0.1.1 {0}.{domain} {0}", self.hostname),
            None => format!("127.0.1.1 {}", self.hostname),
        };
        let after = lines.iter().position(|line| names_address(line, "127.0.0.1")).map_or(0, |at| at + 1);
        lines.insert(after, &own);
        lines.join("\n") + "\n"
    }
}

fn names_address(line: &str, address: &str) -> bool {
    line.split_whitespace().next() == Some(address)
}

/// RFC 1123, one label.
pub(crate) fn is_hostname(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_HOSTNAME
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The 32 digits of a UUID, in lower case, if it is one machine's own.
fn own_uuid(uuid: &str) -> Option<String> {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let digits = digits.to_ascii_lowercase();
    let first = digits.chars().next();
    let is_own = digits.len() == 32
        && !SHARED_UUIDS.contains(&digits.as_str())
        // All zeros, all ones: never set.
        && !digits.chars().all(|c| Some(c) == first);
    is_own.then_some(digits)
}

/// The machine's UUID if it is one of its own, else a hash of the address: systemd derives its DHCP identifier from this,
/// so that it must neither change from boot to boot nor be the same on two nodes.
fn machine_id(uuid: Option<&str>, mac: Option<Mac>) -> String {
    if let Some(uuid) = uuid.and_then(own_uuid) {
        return uuid;
    }
    let mut hash = Sha256::new();
    hash.update(b"netboot machine-id ");
    match mac {
        Some(mac) => hash.update(mac.0),
        // Neither: still valid, but not this machine's alone.
        None => hash.update(b"none"),
    }
    fetch::hex(&hash.finalize()).chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const OTHER: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x57]);

    fn machine() -> Machine {
        Machine { mac: Some(MAC), ..Machine::default() }
    }

    fn network(hostname: Option<&str>, domain: Option<&str>) -> Network {
        Network {
            domain: domain.map(str::to_owned),
            hostname: hostname.map(str::to_owned),
            ..Network::new("eth0", MAC, "dhcp", [10, 0, 2, 15].into(), 24)
        }
    }

    #[test]
    fn the_networks_name_else_one_of_the_mac() {
        let name = |hostname, domain| {
            let identity = Identity::new(None, Some(&network(hostname, domain)), &machine());
            (identity.hostname, identity.domain)
        };
        assert_eq!(name(None, None), ("node-525400123456".into(), None));
        assert_eq!(name(Some("w7"), Some("lab")), ("w7".into(), Some("lab".into())));
        assert_eq!(name(Some("w7.site.example."), Some("lab")), ("w7".into(), Some("site.example".into())));
        assert_eq!(name(Some("localhost"), None).0, "node-525400123456");
        assert_eq!(name(Some("a b; rm"), Some("x y")), ("node-525400123456".into(), None));
        assert_eq!(Identity::new(None, None, &machine()).hostname, "node-525400123456");
    }

    #[test]
    fn the_configurations_name_wins() {
        let network = network(Some("w7.lab"), Some("lab"));
        let identity = |configured| Identity::new(Some(configured), Some(&network), &machine());
        assert_eq!(identity("n1").hostname, "n1");
        assert_eq!(identity("n1").domain.as_deref(), Some("lab"));
        assert_eq!(identity("n1.rack.example").domain.as_deref(), Some("rack.example"));
    }

    #[test]
    fn what_firmware_says_counts_where_it_is_this_machines() {
        let folder = tempfile::tempdir().unwrap();
        let read = |uuid: &str, serial: &str| {
            fs::write(folder.path().join("product_uuid"), uuid).unwrap();
            fs::write(folder.path().join("product_serial"), serial).unwrap();
            let machine = Machine::read(folder.path(), None);
            (machine.uuid, machine.serial)
        };
        let uuid = "5F1B3C04-0E4E-4A57-9CEB-0C7A3F0B6A11\n";
        assert_eq!(read(uuid, "CZ1234\n"), (Some(uuid.trim().to_ascii_lowercase()), Some("CZ1234".into())));
        assert_eq!(read("03000200-0400-0500-0006-000700080009\n", "Default string\n"), (None, None));
        assert_eq!(read("Not Settable", ""), (None, None));
        assert_eq!(Machine::read(Path::new("/nonexistent"), None), Machine::default());
    }

    #[test]
    fn machine_ids_are_stable_and_differ() {
        let uuid = "5F1B3C04-0E4E-4A57-9CEB-0C7A3F0B6A11";
        assert_eq!(machine_id(Some(uuid), Some(MAC)), "5f1b3c040e4e4a579ceb0c7a3f0b6a11");
        let of_mac = machine_id(None, Some(MAC));
        assert_eq!(of_mac.len(), 32);
        assert_eq!(of_mac, machine_id(Some("00000000-0000-0000-0000-000000000000"), Some(MAC)));
        assert_eq!(of_mac, machine_id(Some("03000200-0400-0500-0006-000700080009"), Some(MAC)));
        assert_eq!(of_mac, machine_id(Some("Not Settable"), Some(MAC)));
        assert_ne!(of_mac, machine_id(None, Some(OTHER)));
    }

    #[test]
    fn hosts_keeps_what_is_there() {
        let identity = Identity { hostname: "n1".into(), domain: None, machine_id: String::new() };
        assert_eq!(
            identity.hosts("# mine\n127.0.0.1\tlocalhost\n127.0.1.1 builder\n10.0.0.1 x\n"),
            "# mine\n127.0.0.1\tlocalhost\n127.0.1.1 n1\n10.0.0.1 x\n"
        );
        let with_domain = Identity { domain: Some("lab".into()), ..identity };
        assert_eq!(
            with_domain.hosts(""),
            "127.0.0.1 localhost\n127.0.1.1 n1.lab n1\n::1 localhost ip6-localhost ip6-loopback\n"
        );
    }

    #[test]
    fn it_is_written_into_the_root() {
        let root = tempfile::tempdir().unwrap();
        let identity = Identity::new(None, Some(&network(None, None)), &machine());
        identity.apply(root.path()).unwrap();
        assert_eq!(rootfs::read(root.path(), "/etc/hostname").as_deref(), Some("node-525400123456\n"));
        assert_eq!(rootfs::read(root.path(), "/etc/machine-id").map(|id| id.len()), Some(33));
    }
}
