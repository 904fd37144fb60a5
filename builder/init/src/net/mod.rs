//! The network: which interface, which address, and how names become addresses.

mod client;
pub mod dhcp;
pub mod dns;
pub mod interfaces;
mod mac;
pub mod netlink;
mod up;

use std::io;
use std::net::Ipv4Addr;

use serde::Serialize;

pub(crate) use client::random;
pub use interfaces::{Choice, Interface};
pub use mac::Mac;
pub use up::{Link, bring_up};

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
    #[error("no DHCP answer in {waited} s ({})", join(.attempts))]
    NoLease {
        /// Seconds.
        waited: u64,
        /// What was tried on each interface, in words.
        attempts: Vec<String>,
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
    /// What a field engineer should look at.
    #[must_use]
    pub fn what_to_check(&self) -> String {
        match self {
            Self::NoInterface { unclaimed, .. } if unclaimed.is_empty() => {
                "that the machine has a network card and that its firmware setup does not hide it".into()
            }
            Self::NoInterface { .. } => {
                "the driver of the card above: name its module in the recipe's [kernel] modules and \
                                         rebuild (the cloud kernel has few drivers)"
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
    /// `dhcp` or `static`.
    pub method: &'static str,
    /// The node's address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Other routes.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain of the network.
    pub domain: Option<String>,
    /// Domains to search.
    pub search: Vec<String>,
    /// Host name that the network gave.
    pub hostname: Option<String>,
    /// MTU that the network gave, in bytes.
    pub mtu: Option<u16>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// The DHCP server.
    pub dhcp_server: Option<Ipv4Addr>,
    /// Seconds that the lease lasts.
    pub lease_seconds: Option<u32>,
}

/// A route to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The network's address.
    pub destination: Ipv4Addr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Through whom; 0.0.0.0 is straight on the link.
    pub gateway: Ipv4Addr,
}
