//! Bonds: the bonding driver's options as `bond=` spells them, as the kernel takes them over netlink
//! (`IFLA_BOND_*` of `<linux/if_link.h>`), and as systemd-networkd writes them.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::cmdline::NicName;

/// What the driver checks links by, in milliseconds, where `bond=` does not say: by default it would never notice that a
/// cable is out.
const MIIMON: (&str, &str) = ("miimon", "100");
/// `IFLA_BOND_ARP_IP_TARGET`.
const ARP_IP_TARGET: u16 = 8;

/// A bond to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bond {
    /// What its interface is called.
    pub name: String,
    /// What it is made of.
    pub members: Vec<NicName>,
    /// MTU in bytes.
    pub mtu: Option<u16>,
    /// Options as they were written, and understood.
    options: Vec<(&'static Known, String)>,
}

/// How an option goes to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One byte; the words stand for 0, 1, 2….
    Word(&'static [&'static str]),
    /// One byte.
    Byte,
    /// Four bytes.
    Long,
    /// IPv4 addresses.
    Addresses,
}

/// How an option's value is written for systemd-networkd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// As here.
    Plain,
    /// Milliseconds.
    Milliseconds,
    /// `yes` or `no`.
    Boolean,
}

/// An option of the driver.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    name: &'static str,
    attribute: u16,
    kind: Kind,
    networkd: Option<(&'static str, Unit)>,
}

const fn known(name: &'static str, attribute: u16, kind: Kind, key: &'static str, unit: Unit) -> Known {
    Known { name, attribute, kind, networkd: Some((key, unit)) }
}

const MODES: &[&str] =
    &["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
const NO_YES: &[&str] = &["0", "1"];

/// The options that do not name a member.
static OPTIONS: &[Known] = &[
    known("mode", 1, Kind::Word(MODES), "Mode", Unit::Plain),
    known("miimon", 3, Kind::Long, "MIIMonitorSec", Unit::Milliseconds),
    known("updelay", 4, Kind::Long, "UpDelaySec", Unit::Milliseconds),
    known("downdelay", 5, Kind::Long, "DownDelaySec", Unit::Milliseconds),
    Known { name: "use_carrier", attribute: 6, kind: Kind::Word(NO_YES), networkd: None },
    known("arp_interval", 7, Kind::Long, "ARPIntervalSec", Unit::Milliseconds),
    known("arp_ip_target", ARP_IP_TARGET, Kind::Addresses, "ARPIPTargets", Unit::Plain),
    known("primary_reselect", 12, Kind::Word(&["always", "better", "failure"]), "PrimaryReselectPolicy", Unit::Plain),
    known("fail_over_mac", 13, Kind::Word(&["none", "active", "follow"]), "FailOverMACPolicy", Unit::Plain),
    known(
        "xmit_hash_policy",
        14,
        Kind::Word(&["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"]),
        "TransmitHashPolicy",
        Unit::Plain,
    ),
    known("resend_igmp", 15, Kind::Long, "ResendIGMP", Unit::Plain),
    known("num_grat_arp", 16, Kind::Byte, "GratuitousARP", Unit::Plain),
    known("num_unsol_na", 16, Kind::Byte, "GratuitousARP", Unit::Plain),
    known("all_slaves_active", 17, Kind::Word(NO_YES), "AllSlavesActive", Unit::Boolean),
    known("min_links", 18, Kind::Long, "MinLinks", Unit::Plain),
    Known { name: "lp_interval", attribute: 19, kind: Kind::Long, networkd: None },
    known("packets_per_slave", 20, Kind::Long, "PacketsPerSlave", Unit::Plain),
    known("lacp_rate", 21, Kind::Word(&["slow", "fast"]), "LACPTransmitRate", Unit::Plain),
    known("ad_select", 22, Kind::Word(&["stable", "bandwidth", "count"]), "AdSelect", Unit::Plain),
    known("tlb_dynamic_lb", 27, Kind::Word(NO_YES), "DynamicTransmitLoadBalancing", Unit::Boolean),
];

impl Bond {
    /// `options` are as in `bond=`: `mode=802.3ad,miimon=100`.
    ///
    /// # Errors
    ///
    /// What is wrong with them, in words.
    pub fn new(name: String, members: Vec<NicName>, options: &str, mtu: Option<u16>) -> Result<Self, String> {
        let mut understood = Vec::new();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').ok_or_else(|| format!("`{option}` is not OPTION=VALUE"))?;
            let Some(known) = OPTIONS.iter().find(|known| known.name == key) else {
                let names: Vec<&str> = OPTIONS.iter().map(|known| known.name).collect();
                return Err(format!("`{key}` is not an option of bonds that is known here: {}", names.join(", ")));
            };
            known.bytes(value)?;
            understood.push((known, value.to_owned()));
        }
        let watches = |name: &str| understood.iter().any(|(known, _)| known.name == name);
        if !watches("miimon") && !watches("arp_interval") {
            understood
                .extend(OPTIONS.iter().find(|known| known.name == MIIMON.0).map(|known| (known, MIIMON.1.into())));
        }
        Ok(Self { name, members, mtu, options: understood })
    }

    /// How the members share the work.
    #[must_use]
    pub fn mode(&self) -> &str {
        let mode = self.options.iter().find(|(known, _)| known.name == "mode");
        mode.and_then(|(known, value)| known.word(value)).unwrap_or(MODES[0])
    }

    /// The options for [`crate::net::netlink::add_bond`].
    #[must_use]
    pub fn attributes(&self) -> Vec<(u16, Vec<u8>)> {
        let attribute = |(known, value): &(&Known, String)| Some((known.attribute, known.bytes(value).ok()?));
        self.options.iter().filter_map(attribute).collect()
    }

    /// The section `[Bond]` of a file for systemd-networkd.
    #[must_use]
    pub fn networkd(&self) -> String {
        let mut text = String::from("[Bond]\n");
        if !self.options.iter().any(|(known, _)| known.name == "mode") {
            let _ = writeln!(text, "Mode={}", self.mode());
        }
        for (known, value) in &self.options {
            let Some((key, unit)) = known.networkd else { continue };
            let value = known.word(value).unwrap_or(value);
            let _ = match unit {
                Unit::Plain => writeln!(text, "{key}={}", value.replace(';', " ")),
                Unit::Milliseconds => writeln!(text, "{key}={value}ms"),
                Unit::Boolean => writeln!(text, "{key}={}", if value == "1" { "yes" } else { "no" }),
            };
        }
        text
    }
}

impl Known {
    /// The word for a value, which may be its number.
    fn word<'a>(&self, value: &'a str) -> Option<&'a str> {
        let Kind::Word(words) = self.kind else { return None };
        let by_number = value.parse::<usize>().ok().and_then(|number| words.get(number).copied());
        by_number.or_else(|| words.contains(&value).then_some(value))
    }

    /// The value as the kernel reads it.
    fn bytes(&self, value: &str) -> Result<Vec<u8>, String> {
        let wrong = |expected: &str| format!("{}={value}: expected {expected}", self.name);
        match self.kind {
            Kind::Word(words) => {
                let word = self.word(value).ok_or_else(|| wrong(&format!("one of {}", words.join(", "))))?;
                let number = words.iter().position(|other| *other == word).unwrap_or_default();
                Ok(vec![u8::try_from(number).unwrap_or_default()])
            }
            Kind::Byte => Ok(vec![value.parse().map_err(|_| wrong("a number, 0 to 255"))?]),
            Kind::Long => {
                let number: u32 = value.parse().map_err(|_| wrong("a number"))?;
                Ok(number.to_ne_bytes().to_vec())
            }
            Kind::Addresses => {
                let mut bytes = Vec::new();
                // Attributes numbered from 0, four bytes each.
                for (number, address) in (0_u16..).zip(value.split(';')) {
                    let Ok(IpAddr::V4(address)) = address.parse() else {
                        return Err(wrong("IPv4 addresses, separated by semicolons"));
                    };
                    bytes.extend(8_u16.to_ne_bytes());
                    bytes.extend(number.to_ne_bytes());
                    bytes.extend(address.octets());
                }
                Ok(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bond(options: &str) -> Result<Bond, String> {
        Bond::new("bond0".into(), vec![], options, None)
    }

    #[test]
    fn options_by_word_and_by_number() {
        let lacp = bond("mode=802.3ad,lacp_rate=1,xmit_hash_policy=layer3+4,miimon=50").unwrap();
        assert_eq!(lacp.mode(), "802.3ad");
        assert_eq!(lacp, bond("mode=802.3ad,lacp_rate=1,xmit_hash_policy=layer3+4,miimon=50").unwrap());
        let expected = [(1, vec![4]), (21, vec![1]), (14, vec![1]), (3, 50_u32.to_ne_bytes().to_vec())];
        assert_eq!(lacp.attributes(), expected);
        assert_eq!(
            lacp.networkd(),
            "[Bond]\nMode=802.3ad\nLACPTransmitRate=fast\nTransmitHashPolicy=layer3+4\nMIIMonitorSec=50ms\n"
        );
        assert_eq!(bond("mode=1").unwrap().mode(), "active-backup");
    }

    #[test]
    fn links_are_always_watched() {
        assert_eq!(bond("").unwrap().networkd(), "[Bond]\nMode=balance-rr\nMIIMonitorSec=100ms\n");
        let arp = bond("mode=1,arp_interval=200,arp_ip_target=10.0.0.1;10.0.0.2").unwrap();
        assert!(!arp.networkd().contains("MII"));
        assert!(arp.networkd().contains("ARPIPTargets=10.0.0.1 10.0.0.2\n"));
        let targets = arp.attributes().into_iter().find(|(attribute, _)| *attribute == 8).unwrap().1;
        assert_eq!(targets.len(), 16);
        assert_eq!(targets[4..8], [10, 0, 0, 1]);
    }

    #[test]
    fn what_is_not_an_option_is_named() {
        for (text, word) in [
            ("mode=fast", "mode=fast: expected one of balance-rr"),
            ("mode=7", "mode=7"),
            ("miimon=often", "miimon=often: expected a number"),
            ("frob=1", "`frob` is not an option"),
            ("mode", "`mode` is not OPTION=VALUE"),
            ("arp_ip_target=x", "expected IPv4"),
        ] {
            let why = bond(text).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
