//! The network: which interface, which address, and how names become addresses.

mod arp;
pub mod bond;
mod client;
mod client6;
pub mod dhcp;
pub mod dhcp6;
pub mod dns;
mod hardware;
pub mod interfaces;
mod mac;
pub mod netlink;
pub mod networkd;
pub mod packet;
pub mod ra;
mod race;
mod renew;
mod stack;
mod up;

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Serialize, Serializer};

pub(crate) use client::random;
pub use interfaces::{Choice, Interface};
pub use mac::Mac;
pub use up::{Link, bring_up};

/// `EOPNOTSUPP`: the kernel has no such kind of link.
const NOT_SUPPORTED: i32 = 95;

/// What can go wrong on the network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine shows no usable interface.
    #[error("no network interface after {waited} s{}", list(.unclaimed))]
    NoInterface {
        /// Seconds.
        waited: u64,
        /// Network devices without a driver, in words.
        unclaimed: Vec<String>,
    },
    /// The interface that was asked for is not there.
    #[error("no network interface {wanted} after {waited} s; there are {}{}", join(.present), list(.unclaimed))]
    NotThere {
        /// What was asked for.
        wanted: String,
        /// Seconds.
        waited: u64,
        /// Interfaces that are there, in words.
        present: Vec<String>,
        /// Network devices without a driver, in words.
        unclaimed: Vec<String>,
    },
    /// No interface got an address in the time allowed.
    #[error("no DHCP answer in {waited} s ({}){}", join(.attempts), list(.unclaimed))]
    NoLease {
        /// Seconds.
        waited: u64,
        /// What was tried on each interface, in words.
        attempts: Vec<String>,
        /// Network devices without a driver, in words.
        unclaimed: Vec<String>,
    },
    /// A system call on an interface failed.
    #[error("{what} on {interface}")]
    Interface {
        /// What was tried.
        what: &'static str,
        /// The interface's name.
        interface: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The command line switches the network off, and the root must be fetched.
    #[error("ip=off on the kernel command line, but the root must be fetched")]
    Off,
}

impl Error {
    /// For `map_err`: names the interface.
    fn interface(what: &'static str, interface: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let interface = interface.to_owned();
        move |source| Self::Interface { what, interface, source }
    }

    /// What a field engineer should look at.
    #[must_use]
    pub fn what_to_check(&self) -> String {
        match self {
            Self::NoInterface { unclaimed, .. } if unclaimed.is_empty() => {
                "that the machine has a network card and that its firmware setup does not hide it".into()
            }
            Self::NoInterface { .. } => {
                "the driver of the card above: name its module in the recipe's [kernel] modules and rebuild (the cloud \
                 kernel has few drivers); for firmware, the package that has it, and [kernel] firmware"
                    .into()
            }
            Self::NotThere { .. } => {
                "BOOTIF= or netboot.nic= on the kernel command line, and the driver of that card".into()
            }
            Self::NoLease { .. } => {
                "cable, switch port (VLAN, spanning tree's delay, 802.1X) and the DHCP server's log for \
                                     the MAC addresses above"
                    .into()
            }
            Self::Interface { source, .. } if source.raw_os_error() == Some(NOT_SUPPORTED) => {
                "whether this initrd has the modules 8021q (for vlan=) and bonding (for bond=), or the kernel has them \
                 built in"
                    .into()
            }
            Self::Interface { .. } => "the kernel's messages above".into(),
            Self::Off => "the kernel command line: drop ip=off, or build with delivery = \"embed\"".into(),
        }
    }
}

fn list(devices: &[String]) -> String {
    if devices.is_empty() { String::new() } else { format!("; without a driver: {}", devices.join("; ")) }
}

fn join(words: &[String]) -> String {
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

/// What is known of the network once it is up; `/run/netboot/network.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// The interface's name in the initrd, which the system may change: match by `mac`.
    pub interface: String,
    /// Its address.
    pub mac: Mac,
    /// `dhcp`, `static`, or for IPv6 `ra` and `dhcp6`: where `address` comes from.
    pub method: &'static str,
    /// The node's address: its IPv4 one if it has one.
    pub address: IpAddr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
    /// Other routes.
    pub routes: Vec<Route>,
    /// Name servers. The system is not told of link-local ones: they are of use only with the interface's name, which it may
    /// change, and it hears of them from the routers as well.
    #[serde(serialize_with = "of_any_link")]
    pub dns: Vec<IpAddr>,
    /// Domain of the network.
    pub domain: Option<String>,
    /// Domains to search.
    pub search: Vec<String>,
    /// Host name that the network gave.
    pub hostname: Option<String>,
    /// MTU that the network gave, in bytes.
    pub mtu: Option<u16>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
    /// The DHCP server.
    pub dhcp_server: Option<IpAddr>,
    /// Seconds that the lease lasts.
    pub lease_seconds: Option<u32>,
    /// The node's IPv6 addresses, as far as they are known.
    pub ipv6: Vec<Address>,
    /// Default gateway for IPv6.
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// What the interface is made of, from the hardware up; the last one is `interface` itself.
    pub links: Vec<Layer>,
}

impl Network {
    /// A network of which nothing is known but an address.
    #[must_use]
    pub fn new(interface: &str, mac: Mac, method: &'static str, address: IpAddr, prefix: u8) -> Self {
        Self {
            interface: interface.to_owned(),
            mac,
            method,
            address,
            prefix,
            gateway: None,
            routes: Vec::new(),
            dns: Vec::new(),
            domain: None,
            search: Vec::new(),
            hostname: None,
            mtu: None,
            ntp: Vec::new(),
            dhcp_server: None,
            lease_seconds: None,
            ipv6: Vec::new(),
            ipv6_gateway: None,
            links: Vec::new(),
        }
    }
}

/// Whether an address means the same whatever interface it is asked for on.
pub(crate) fn is_of_any_link(address: &IpAddr) -> bool {
    !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn of_any_link<S: Serializer>(addresses: &[IpAddr], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(addresses.iter().filter(|address| is_of_any_link(address)))
}

/// An IPv6 address of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The address.
    pub address: Ipv6Addr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
}

/// A route to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The network's address.
    pub destination: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Through whom; 0.0.0.0 is straight on the link.
    pub gateway: IpAddr,
}

/// One of the links that an interface is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Layer {
    /// A network card.
    Ethernet {
        /// Its name in the initrd.
        name: String,
        /// The address that it was made with.
        mac: Mac,
    },
    /// A bond of the cards before it.
    Bond {
        /// Its name.
        name: String,
        /// How they share the work.
        mode: String,
    },
    /// A VLAN over what is before it.
    Vlan {
        /// Its name.
        name: String,
        /// 1 to 4094.
        id: u16,
    },
}

#[cfg(test)]
mod tests;
