//! `netboot-init` on networks that are not the simplest one.

use std::time::Duration;

use anyhow::Result;
use imgbuild_tests_init::{Boot, Image, Machine, Manner, Materials, Server, Wire};

const MAC: &str = "52:54:00:12:34:56";
const OTHER: &str = "52:54:00:12:34:57";
const DASHED: &str = "52-54-00-12-34-56";
const OTHER_DASHED: &str = "52-54-00-12-34-57";

fn machine(server: &Server) -> Result<Machine> {
    let initrd = Materials::get().initrd("networks", &Image::default())?;
    Ok(Machine::new(&initrd).cmdline(&format!("netboot.root={}", server.url())))
}

fn server() -> Result<Server> {
    Server::start(&Materials::get().squashfs, Manner::Good)
}

#[track_caller]
fn fact<'a>(boot: &'a Boot, name: &str) -> &'a str {
    let facts = boot.facts();
    assert_eq!(facts.get("end"), Some(&"end"), "{}", boot.tail());
    facts.get(name).copied().unwrap_or_default()
}

#[test]
fn the_second_card_has_the_cable_and_keeps_its_address() -> Result<()> {
    let server = server()?;
    let machine = machine(&server)?.card_without_cable(MAC).card("virtio-net-pci", OTHER);
    let boot = machine.cmdline("netboot.handover=keep").boot()?;
    assert_eq!(fact(&boot, "hostname"), "node-525400123457");
    let links = fact(&boot, "links");
    assert!(links.contains("eth1: <BROADCAST,MULTICAST,UP,LOWER_UP>"), "{links}");
    assert!(links.contains("eth0: <BROADCAST,MULTICAST>"), "the other is as it was: {links}");
    assert!(fact(&boot, "addresses").contains("inet 10.0.2.15/24"), "{}", fact(&boot, "addresses"));
    assert!(fact(&boot, "routes").contains("default via 10.0.2.2 dev eth1"), "{}", fact(&boot, "routes"));
    let networkd = fact(&boot, "networkd");
    assert!(networkd.contains(&format!("MACAddress={OTHER};")) && !networkd.contains(MAC), "{networkd}");
    Ok(())
}

#[test]
fn of_two_cards_with_an_answer_the_one_that_is_named_is_used() -> Result<()> {
    let server = server()?;
    let machine = machine(&server)?.card("virtio-net-pci", MAC).card("virtio-net-pci", OTHER);
    // The firmware's word counts less than an administrator's.
    let boot = machine.cmdline(&format!("netboot.nic={OTHER} BOOTIF=01-{DASHED} netboot.handover=keep")).boot()?;
    assert_eq!(fact(&boot, "hostname"), "node-525400123457");
    assert!(fact(&boot, "addresses").contains("eth1    inet 10.0.2.15/24"), "{}", fact(&boot, "addresses"));
    assert!(fact(&boot, "links").contains("eth0: <BROADCAST,MULTICAST>"), "{}", fact(&boot, "links"));
    assert!(!boot.says("DHCP on eth0"), "{}", boot.tail());
    Ok(())
}

#[test]
fn over_a_vlan() -> Result<()> {
    let server = server()?;
    let machine = machine(&server)?.wired(Wire::Vlan(12), &[MAC])?;
    let cmdline = format!("vlan=vlan0012:{DASHED} ip=vlan0012:dhcp netboot.handover=keep");
    let boot = machine.cmdline(&cmdline).boot()?;
    assert_eq!(fact(&boot, "hostname"), "node-525400123456");
    assert!(fact(&boot, "addresses").contains("vlan0012    inet 10.0.2.15/24"), "{}", fact(&boot, "addresses"));
    let links = fact(&boot, "links");
    assert!(links.contains("vlan0012@eth0: <BROADCAST,MULTICAST,UP,LOWER_UP>"), "{links}");
    let network = fact(&boot, "network");
    for words in [r#""interface":"vlan0012""#, r#""kind":"vlan","name":"vlan0012","id":12"#] {
        assert!(network.contains(words), "{words}: {network}");
    }
    assert!(fact(&boot, "networkd").contains("[VLAN];Id=12;"), "{}", fact(&boot, "networkd"));
    Ok(())
}

#[test]
fn over_a_vlan_on_whichever_card_has_it() -> Result<()> {
    let server = server()?;
    let machine = machine(&server)?.lonely_card(MAC).wired(Wire::Vlan(12), &[OTHER])?;
    let boot = machine.cmdline("vlan=vlan12 netboot.handover=keep").boot()?;
    assert!(fact(&boot, "addresses").contains("eth1.12    inet 10.0.2.15/24"), "{}", fact(&boot, "addresses"));
    assert!(!fact(&boot, "links").contains("eth0.12"), "{}", fact(&boot, "links"));
    Ok(())
}

#[test]
fn over_a_bond_that_the_switch_agrees_to() -> Result<()> {
    let server = server()?;
    let machine = machine(&server)?.wired(Wire::Lacp, &[MAC, OTHER])?;
    let cmdline = format!(
        "bond=bond1:{OTHER_DASHED},{DASHED}:mode=802.3ad,lacp_rate=fast ip=bond1:dhcp BOOTIF=01-{DASHED} \
         netboot.handover=keep"
    );
    let boot = machine.cmdline(&cmdline).boot()?;
    assert_eq!(fact(&boot, "hostname"), "node-525400123456", "the address that the firmware booted with");
    assert_eq!(fact(&boot, "bonding"), "802.3ad 4 2 02:00:00:00:00:01 ", "both members, with the switch");
    assert!(fact(&boot, "addresses").contains("bond1    inet 10.0.2.15/24"), "{}", fact(&boot, "addresses"));
    let links = fact(&boot, "links");
    assert_eq!(links.matches(" master bond1 ").count(), 2, "{links}");
    let network = fact(&boot, "network");
    assert!(network.contains(r#""kind":"bond","name":"bond1","mode":"802.3ad""#), "{network}");
    let networkd = fact(&boot, "networkd");
    for words in ["Name=bond1;Kind=bond;", "Mode=802.3ad;", "Unmanaged=yes;"] {
        assert!(networkd.contains(words), "{words}: {networkd}");
    }
    Ok(())
}

#[test]
fn a_vlan_over_a_bond_is_put_back() -> Result<()> {
    let server = server()?;
    let machine = machine(&server)?.wired(Wire::Vlan(7), &[MAC, OTHER])?;
    let cmdline =
        format!("bond=bond0:{DASHED},{OTHER_DASHED}:mode=active-backup vlan=bond0.7:bond0 netboot.handover=down");
    let boot = machine.cmdline(&cmdline).boot()?;
    assert!(boot.says("bond0.7 10.0.2.15/24"), "{}", boot.tail());
    let links = fact(&boot, "links");
    assert!(!links.contains("bond0") && links.contains("eth1: <BROADCAST,MULTICAST>"), "{links}");
    assert!(fact(&boot, "network").contains(r#""kind":"vlan","name":"bond0.7","id":7"#), "{}", fact(&boot, "network"));
    assert_eq!(fact(&boot, "networkd"), "");
    Ok(())
}

#[test]
fn where_there_is_ipv6_only() -> Result<()> {
    let server = Server::start_v6(&Materials::get().squashfs, Manner::Good)?;
    let machine = machine(&server)?
        .device(&format!("-netdev user,id=u,ipv4=off,ipv6=on -device virtio-net-pci,netdev=u,mac={MAC}"));
    let boot = machine.cmdline("netboot.handover=keep").boot()?;
    assert_eq!(fact(&boot, "hostname"), "node-525400123456");
    assert!(boot.prefixed("ENV ").any(|line| line == "NETBOOT_IP='fec0::5054:ff:fe12:3456'"), "{}", boot.tail());
    let network = fact(&boot, "network");
    for words in [r#""method":"ra""#, r#""gateway":"fe80::2""#, r#""ipv6_gateway":"fe80::2""#] {
        assert!(network.contains(words), "{words}: {network}");
    }
    assert!(fact(&boot, "addresses6").contains("fec0::5054:ff:fe12:3456/64"), "{}", fact(&boot, "addresses6"));
    assert!(fact(&boot, "networkd").contains("RequiredFamilyForOnline=ipv6;"), "{}", fact(&boot, "networkd"));
    Ok(())
}

/// The routers say that addresses come by DHCPv6.
#[test]
fn where_there_is_ipv6_only_and_a_server_gives_the_addresses() -> Result<()> {
    let initrd = Materials::get().initrd("networks", &Image::default())?;
    let machine = Machine::new(&initrd).cmdline(&format!("netboot.root={}", Machine::LAN_URL));
    let options = [
        "--enable-ra",
        "--dhcp-range=2001:db8::10,2001:db8::20,64,1h",
        "--dhcp-host=id:00:03:00:01:52:54:00:12:34:56,[2001:db8::15]",
        "--dhcp-option=option6:dns-server,[2001:db8::53]",
    ];
    let boot = machine.beside_dnsmasq(MAC, &options).cmdline("netboot.handover=keep").boot()?;
    assert_eq!(fact(&boot, "hostname"), "node-525400123456");
    let network = fact(&boot, "network");
    for words in [r#""method":"dhcp6""#, r#""address":"2001:db8::15""#, r#""dns":["2001:db8::53"]"#] {
        assert!(network.contains(words), "{words}: {network}");
    }
    assert!(fact(&boot, "addresses6").contains("inet6 2001:db8::15/128"), "{}", fact(&boot, "addresses6"));
    // By the same identifiers, and so with the same address.
    let networkd = fact(&boot, "networkd");
    for words in ["RequiredFamilyForOnline=ipv6;", "DUIDType=link-layer;IAID=1193046;", "IPv6AcceptRA=yes;"] {
        assert!(networkd.contains(words), "{words}: {networkd}");
    }
    Ok(())
}

#[test]
fn dhcp_that_is_silent_for_twenty_seconds_is_waited_for() -> Result<()> {
    let server = server()?;
    let machine = machine(&server)?.wired(Wire::NoDhcp(Duration::from_secs(20)), &[MAC])?;
    let boot = machine.boot()?;
    assert_eq!(fact(&boot, "hostname"), "node-525400123456");
    assert!(boot.says("attempt 4 without an answer"), "{}", boot.tail());
    assert!(boot.count("without an answer") <= 6, "pauses grow: {}", boot.tail());
    Ok(())
}
