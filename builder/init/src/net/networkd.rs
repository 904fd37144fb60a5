//! What systemd-networkd and udev are told, so that they take the network over as it is: the same addresses by the same
//! means, on links that stay up. The files sort behind a site's own ones, which therefore win.

use std::fmt::Write as _;

use super::bond::Bond;
use super::dhcp6;
use super::{Layer, Mac, Network};
use crate::cmdline::{Families, Ip, Parameters};

/// Where they go.
pub const FOLDER: &str = "/run/systemd/network";
/// The one about the interface that has the addresses.
pub const FILE: &str = "90-netboot.network";
/// The first Linux that gives a link that is up another name.
const RENAMES_LIVE: (u32, u32) = (6, 2);

/// A file's name and contents.
pub type File = (String, String);

/// All files. `kernel` is the running kernel's release.
#[must_use]
pub fn files(network: &Network, parameters: &Parameters, kernel: &str) -> Vec<File> {
    let mut files = Vec::new();
    let cards: Vec<Mac> = network.links.iter().filter_map(of_card).collect();
    if !renames_live(kernel) {
        files.push(("90-netboot.link".into(), link(&cards)));
    }
    let jumbo = network.mtu.filter(|mtu| *mtu > 1500);
    // What the next file is about: the cards, or the one link over them.
    let mut matches = match cards.as_slice() {
        [card] => format!("MACAddress={card}\n{HARDWARE}"),
        // Members of a bond have its address, hence the permanent one.
        _ => format!("PermanentMACAddress={}\n{HARDWARE}", words(&cards)),
    };
    for layer in &network.links {
        match (layer, &parameters.bond) {
            (Layer::Bond { name, .. }, Some(bond)) => {
                matches = format!("PermanentMACAddress={}\n{HARDWARE}", words(&cards));
                files.push(("90-netboot-bond.netdev".into(), bond_device(bond, network.mac)));
                files.push(("90-netboot-member.network".into(), member(&matches)));
                matches = format!("Name={name}\n");
            }
            (Layer::Vlan { name, id }, _) => {
                let device = format!("[NetDev]\nName={name}\nKind=vlan\n\n[VLAN]\nId={id}\n");
                files.push(("90-netboot-vlan.netdev".into(), device));
                let over = format!("VLAN={name}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n");
                files.push(("90-netboot-parent.network".into(), below(&matches, jumbo, &over)));
                matches = format!("Name={name}\n");
            }
            _ => {}
        }
    }
    files.push((FILE.into(), top(network, parameters, &matches)));
    files
}

/// VLANs and bridges have their parent's address; only a device of no kind is hardware.
const HARDWARE: &str = "Type=ether\nKind=!*\n";

fn of_card(layer: &Layer) -> Option<Mac> {
    match layer {
        Layer::Ethernet { mac, .. } => Some(*mac),
        _ => None,
    }
}

fn words<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// `6.1.0-44-amd64` does not.
fn renames_live(kernel: &str) -> bool {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(RENAMES_LIVE.0), Some(RENAMES_LIVE.1))
}

/// The name that udev would give becomes another name of the card beside the kernel's, which stays: this kernel renames
/// only links that are down.
fn link(cards: &[Mac]) -> String {
    format!(
        "# This kernel cannot rename a link that is up: it keeps its name, and gets udev's as a second one.\n\
         [Match]\nPermanentMACAddress={}\n\n[Link]\nNamePolicy=keep\nAlternativeNamesPolicy=database onboard slot path\n",
        words(cards)
    )
}

fn bond_device(bond: &Bond, mac: Mac) -> String {
    format!("[NetDev]\nName={}\nKind=bond\nMACAddress={mac}\n\n{}", bond.name, bond.networkd())
}

/// Left alone: told `Bond=`, systemd 252 takes members that are in their bond already down and joins them again, at which
/// the switch negotiates anew.
fn member(matches: &str) -> String {
    format!(
        "# It is in its bond already, and networkd would take it down to put it there.\n[Match]\n{matches}\n[Link]\nUnmanaged=yes\n"
    )
}

/// For what has no address of its own.
fn below(matches: &str, mtu: Option<u16>, network: &str) -> String {
    let mtu = mtu.map(|mtu| format!("MTUBytes={mtu}\n")).unwrap_or_default();
    format!("[Match]\n{matches}\n[Link]\nRequiredForOnline=carrier\n{mtu}\n[Network]\n{network}")
}

fn top(network: &Network, parameters: &Parameters, matches: &str) -> String {
    let mut text = format!("[Match]\n{matches}\n[Link]\n");
    let family = if network.address.is_ipv4() { "ipv4" } else { "ipv6" };
    // Pods and API server may speak one family only: an address of the other is no network for a kubelet.
    let _ = writeln!(text, "RequiredFamilyForOnline={family}");
    match &parameters.ip {
        Some(Ip::Static(_)) => fixed(&mut text, network),
        ip => {
            let families = match ip {
                Some(Ip::Dhcp(families, _)) => *families,
                _ => Families::Both,
            };
            dynamic(&mut text, network, parameters, families);
        }
    }
    text
}

fn fixed(text: &mut String, network: &Network) {
    if let Some(mtu) = network.mtu {
        let _ = writeln!(text, "MTUBytes={mtu}");
    }
    let _ = writeln!(text, "\n[Network]\nAddress={}/{}", network.address, network.prefix);
    for other in network.ipv6.iter().filter(|other| network.address != other.address) {
        let _ = writeln!(text, "Address={}/{}", other.address, other.prefix);
    }
    let _ = writeln!(text, "KeepConfiguration=static");
    named(text, "DNS", &network.dns);
    named(text, "NTP", &network.ntp);
    let v6 = network.ipv6_gateway.map(std::net::IpAddr::V6);
    for gateway in network.gateway.into_iter().chain(v6.filter(|gateway| Some(*gateway) != network.gateway)) {
        let _ = writeln!(text, "\n[Route]\nGateway={gateway}\nGatewayOnLink=yes");
    }
}

fn dynamic(text: &mut String, network: &Network, parameters: &Parameters, families: Families) {
    if let Some(mtu) = parameters.bond.as_ref().and_then(|bond| bond.mtu) {
        let _ = writeln!(text, "MTUBytes={mtu}");
    }
    let dhcp = if families == Families::V6 { "ipv6" } else { "yes" };
    // Kept also when the server is away for longer than a lease: a node that lost its address would lose its pods.
    let _ = writeln!(text, "\n[Network]\nDHCP={dhcp}\nKeepConfiguration=dhcp");
    if network.address.is_ipv6() {
        let _ = writeln!(text, "IPv6AcceptRA=yes");
    }
    named(text, "DNS", &parameters.nameservers);
    // Firmware, initrd and system ask with one identifier, and so get one address.
    let _ = write!(
        text,
        "\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nUseDomains=yes\nUseMTU=yes\n\
         \n[DHCPv6]\nDUIDType=link-layer\nIAID={}\nUseHostname=no\n\
         \n[IPv6AcceptRA]\nUseDomains=yes\n",
        dhcp6::iaid(network.mac)
    );
}

fn named<T: ToString>(text: &mut String, key: &str, values: &[T]) {
    if !values.is_empty() {
        let _ = writeln!(text, "{key}={}", words(values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const OTHER: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x57]);

    fn card(name: &str, mac: Mac) -> Layer {
        Layer::Ethernet { name: name.into(), mac }
    }

    fn dhcp(links: Vec<Layer>) -> Network {
        Network { links, ..Network::new("eth0", MAC, "dhcp", [10, 0, 2, 15].into(), 24) }
    }

    fn written(network: &Network, cmdline: &str, kernel: &str) -> Vec<(String, String)> {
        let parsed = crate::cmdline::parse(cmdline);
        assert_eq!(parsed.errors, [""; 0], "{cmdline}");
        files(network, &parsed.parameters, kernel)
    }

    const DHCP: &str = "DHCP=yes\nKeepConfiguration=dhcp\n";
    const IDENTIFIERS: &str = "\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nUseDomains=yes\nUseMTU=yes\n\
        \n[DHCPv6]\nDUIDType=link-layer\nIAID=1193046\nUseHostname=no\n\n[IPv6AcceptRA]\nUseDomains=yes\n";

    #[test]
    fn a_card_with_dhcp() {
        let files = written(&dhcp(vec![card("eth0", MAC)]), "", "6.12.9");
        let expected = format!(
            "[Match]\nMACAddress={MAC}\nType=ether\nKind=!*\n\n[Link]\nRequiredFamilyForOnline=ipv4\n\n[Network]\n{DHCP}{IDENTIFIERS}"
        );
        assert_eq!(files, [("90-netboot.network".to_owned(), expected)]);
    }

    #[test]
    fn only_kernels_that_cannot_rename_keep_the_name() {
        for (kernel, expected) in [
            ("6.1.0-44-cloud-amd64", false),
            ("5.10.0", false),
            ("6.2.0", true),
            ("6.12.9-amd64", true),
            ("10.0", true),
        ] {
            assert_eq!(renames_live(kernel), expected, "{kernel}");
        }
        let files = written(&dhcp(vec![card("eth0", MAC)]), "", "6.1.0");
        assert!(files[0].0.ends_with(".link") && files[0].1.contains("PermanentMACAddress=52:54:00:12:34:56\n"));
    }

    #[test]
    fn a_vlan_over_a_bond() {
        let links = vec![
            card("eth0", MAC),
            card("eth1", OTHER),
            Layer::Bond { name: "bond0".into(), mode: "802.3ad".into() },
            Layer::Vlan { name: "bond0.12".into(), id: 12 },
        ];
        let cmdline = "bond=bond0:eth0,eth1:mode=802.3ad:9000 vlan=bond0.12:bond0 nameserver=10.0.0.53";
        let files = written(&dhcp(links), cmdline, "6.12");
        let names: Vec<&str> = files.iter().map(|(name, _)| name.trim_start_matches("90-netboot")).collect();
        assert_eq!(names, ["-bond.netdev", "-member.network", "-vlan.netdev", "-parent.network", ".network"]);
        assert_eq!(
            files[0].1,
            format!("[NetDev]\nName=bond0\nKind=bond\nMACAddress={MAC}\n\n[Bond]\nMode=802.3ad\nMIIMonitorSec=100ms\n")
        );
        assert_eq!(
            files[1].1,
            format!(
                "# It is in its bond already, and networkd would take it down to put it there.\n\
                 [Match]\nPermanentMACAddress={MAC} {OTHER}\nType=ether\nKind=!*\n\n[Link]\nUnmanaged=yes\n"
            )
        );
        assert_eq!(files[2].1, "[NetDev]\nName=bond0.12\nKind=vlan\n\n[VLAN]\nId=12\n");
        assert!(files[3].1.starts_with("[Match]\nName=bond0\n\n[Link]\n"), "{}", files[3].1);
        assert!(files[3].1.contains("\nVLAN=bond0.12\n"));
        assert!(files[4].1.starts_with("[Match]\nName=bond0.12\n\n") && files[4].1.contains("\nDNS=10.0.0.53\n"));
    }

    #[test]
    fn static_addresses_of_both_families() {
        let mut network = dhcp(vec![card("eth0", MAC)]);
        network.gateway = Some([10, 0, 2, 2].into());
        network.ipv6_gateway = "fe80::1".parse().ok();
        network.dns = vec![[10, 0, 2, 3].into()];
        network.ipv6 = vec![super::super::Address { address: "2001:db8::7".parse().unwrap(), prefix: 64 }];
        let files = written(&network, "ip=10.0.2.15::10.0.2.2:24:::off ip=[2001:db8::7]::[fe80::1]:64:::off", "6.12");
        assert_eq!(
            files[0].1,
            format!(
                "[Match]\nMACAddress={MAC}\nType=ether\nKind=!*\n\n[Link]\nRequiredFamilyForOnline=ipv4\n\n\
                 [Network]\nAddress=10.0.2.15/24\nAddress=2001:db8::7/64\nKeepConfiguration=static\nDNS=10.0.2.3\n\n\
                 [Route]\nGateway=10.0.2.2\nGatewayOnLink=yes\n\n[Route]\nGateway=fe80::1\nGatewayOnLink=yes\n"
            )
        );
    }

    #[test]
    fn ipv6_alone() {
        let mut network = Network::new("eth0", MAC, "ra", "2001:db8::7".parse().unwrap(), 64);
        network.links = vec![card("eth0", MAC)];
        let files = written(&network, "ip=auto6", "6.12");
        for line in ["RequiredFamilyForOnline=ipv6", "DHCP=ipv6", "IPv6AcceptRA=yes"] {
            assert!(files[0].1.lines().any(|found| found == line), "{line}: {}", files[0].1);
        }
        assert!(written(&network, "", "6.12")[0].1.contains("\nDHCP=yes\n"));
    }
}
