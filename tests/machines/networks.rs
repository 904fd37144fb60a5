//! `network.sh` on networks that are not the simplest one: what the node's configuration asks for, as systemd-networkd then has it.

use imgbuild_tests_init::{Exchange, Manner, Server, Wire};
use serde_json::{Value, json};

use super::{bundle, imgbuild, run};

/// The card of the guest that `imgbuild test` boots.
const MAC: &str = "52:54:00:12:34:56";
const OTHER: &str = "52:54:00:12:34:57";

/// Boots a small system with these variables in its node's configuration, and these tests in its recipe.
fn boot(variables: &Value, tests: &str, arguments: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site.toml");
    // The kernel for virtual machines: these have no other cards.
    std::fs::write(&site, format!("[image]\nname = \"network\"\n[params]\nkernel = \"cloud-\"\n{tests}")).unwrap();
    let bundle = bundle("recipes/base/debian-12.toml", &[site.to_str().unwrap()], folder.path());
    let server = Server::start(&site, Manner::Good).unwrap();
    server.document("/node.json", &json!({ "variables": variables }).to_string()).unwrap();
    let config = format!("netboot.config={}", server.at("/node.json"));
    print!(
        "{}",
        run(imgbuild().args(["test", "--path", "direct"]).arg(bundle).args(["--append", &config]).args(arguments))
    );
}

/// QEMU's arguments for cards behind these cables: that of the guest, and others with these addresses.
fn cables(exchange: &Exchange, others: &[&str]) -> Vec<String> {
    let mut words = format!("{} {}", exchange.netdev(Some(0), "net0"), exchange.network());
    for (card, mac) in (1..).zip(others) {
        let netdev = exchange.netdev(Some(card), &format!("w{card}"));
        words += &format!(" {netdev} -device virtio-net-pci,netdev=w{card},mac={mac},speed=1000,duplex=full");
    }
    words.split(' ').map(|word| format!("--qemu={word}")).collect()
}

/// The switch's ports are of one aggregation, whose VLAN 12 is this node's; the firmware and the initrd use one of them
/// without a tag.
#[test]
fn a_vlan_over_an_aggregation_has_the_address_that_the_node_booted_with() {
    let exchange = Exchange::start(Wire::Trunk(12), 2).unwrap();
    let cables = cables(&exchange, &[OTHER]);
    let variables = json!({ "NET_BOND": format!("{MAC},{OTHER}"), "NET_VLAN": 12, "NET_MTU": 9000 });
    let tests = r#"
[[test]]
name   = "network.sh is done, and its log says what it did"
run    = "cat /run/netboot/hooks/pre-init/network.sh.log && grep -qx 'is done' /run/netboot/hooks/pre-init/network.sh.status"
stdout = "/run/systemd/network/10-netboot-bond.netdev"
# The links are others, so the base's test of this name is not theirs.
[[test]]
name = "with the address that the node booted with, on a link that never went down"
run  = """
. /run/netboot/env
ip -o -4 addr show scope global
test "$(ip -o -4 addr show scope global | tr -s ' ' | cut -d ' ' -f 2-4)" = "vlan12 inet $NETBOOT_IP/$NETBOOT_PREFIX"
"""
[[test]]
name    = "the switch agrees to the bond of both cards"
run     = "cat /proc/net/bonding/bond0"
stdout  = "Number of ports: 2"
timeout = "1m"
[[test]]
run    = "ip -d link show vlan12"
stdout = "vlan protocol 802.1Q id 12"
[[test]]
name   = "all of them have the MTU"
run    = "set -- bond0 vlan12 $(cat /sys/class/net/bond0/bonding/slaves) && for link; do cat /sys/class/net/$link/mtu; done | uniq -c"
stdout = "4 9000\n"
[[test]]
name   = "systemd-networkd calls it routable"
run    = "networkctl list --no-legend --no-pager vlan12"
stdout = "routable"
"#;
    boot(&variables, tests, &cables.iter().map(String::as_str).collect::<Vec<_>>());
}

/// All of the base's tests are kept: same address, and a link that never went down.
#[test]
fn a_node_that_booted_over_a_vlan_gets_another_mtu() {
    let exchange = Exchange::start(Wire::Vlan(12), 1).unwrap();
    let mut arguments = cables(&exchange, &[]);
    arguments.extend(["--append".into(), format!("vlan=vlan12:{} ip=vlan12:dhcp", MAC.replace(':', "-"))]);
    let tests = r#"
[[test]]
name   = "the VLAN and what is below it have the MTU"
run    = "cat /sys/class/net/vlan12/mtu /sys/class/net/vlan12/lower_*/mtu"
stdout = "9000\n9000\n"
[[test]]
run    = "resolvectl dns vlan12"
stdout = ": 192.0.2.53 10.0.2.3\n"
"#;
    let variables = json!({ "NET_MTU": 9000, "NET_DNS": "192.0.2.53" });
    boot(&variables, tests, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_static_address_on_a_vlan() {
    let variables = json!({ "NET_VLAN": 12, "NET_ADDRESS": "192.0.2.7/24", "NET_GATEWAY": "192.0.2.1" });
    let tests = r#"
[[test]]
name   = "network.sh is done, and its log says what it did"
run    = "cat /run/netboot/hooks/pre-init/network.sh.log && grep -qx 'is done' /run/netboot/hooks/pre-init/network.sh.status"
stdout = "network.sh: 192.0.2.7/24 on Name=vlan12"
# The links are others, so the base's test of this name is not theirs.
[[test]]
name = "with the address that the node booted with, on a link that never went down"
run  = """
ip -o -4 addr show scope global
test "$(ip -o -4 addr show scope global | tr -s ' ' | cut -d ' ' -f 2-4)" = "vlan12 inet 192.0.2.7/24"
"""
[[test]]
run    = "ip route show default"
stdout = "default via 192.0.2.1 dev vlan12"
[[test]]
run    = "ip -d link show vlan12"
stdout = "vlan protocol 802.1Q id 12"
"#;
    boot(&variables, tests, &[]);
}
