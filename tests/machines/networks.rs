//! Networks that are not the simplest one: what the node booted over, and what its configuration asks of `network.sh`, as
//! systemd-networkd then has it.

use std::path::{Path, PathBuf};

use imgbuild_tests_init::{Exchange, Manner, Server, Wire};
use serde_json::{Value, json};

use super::{bundle, imgbuild, run};

/// The card of the guest that `imgbuild test` boots.
const MAC: &str = "52:54:00:12:34:56";
const OTHER: &str = "52:54:00:12:34:57";

/// The initrd had it from there.
const REACHED: &str = r#"
[[test]]
name   = "the boot server can be reached"
run    = '''
set -- $(sed -nE 's|.*netboot\.config=http://\[?([^] ]*[^]: ])\]?:([0-9]+)/.*|\1 \2|p' /proc/cmdline)
bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET /node.json HTTP/1.0\r\n\r\n" >&3 && cat <&3' "$1" "$2"
'''
stdout = "200 OK"
"#;

/// A small system with these tests.
fn build(tests: &str, folder: &Path) -> PathBuf {
    let site = folder.join("site.toml");
    // The kernel for virtual machines: these have no other cards.
    let tests = format!("[image]\nname = \"network\"\n[params]\nkernel = \"cloud-\"\n{tests}");
    std::fs::write(&site, tests).unwrap();
    bundle("recipes/base/debian-12.toml", &[site.to_str().unwrap()], folder)
}

/// Boots it with these variables in its node's configuration.
fn boot_built(bundle: &Path, server: &Server, variables: &Value, arguments: &[&str]) {
    server.document("/node.json", &json!({ "variables": variables }).to_string()).unwrap();
    let config = format!("netboot.config={}", server.at("/node.json"));
    print!(
        "{}",
        run(imgbuild().args(["test", "--path", "direct"]).arg(bundle).args(["--append", &config]).args(arguments))
    );
}

/// Both.
fn boot(variables: &Value, tests: &str, arguments: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let bundle = build(tests, folder.path());
    let server = Server::start(&bundle.join("manifest.json"), Manner::Good).unwrap();
    boot_built(&bundle, &server, variables, arguments);
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

/// All of the base's tests are kept: same address, and a link that never went down. What is below it did not either.
#[test]
fn a_vlan_over_an_aggregation_that_the_node_booted_over_stays_as_it_is() {
    let exchange = Exchange::start(Wire::Trunk(12), 2).unwrap();
    let mut arguments = cables(&exchange, &[OTHER]);
    let members = [MAC, OTHER].map(|mac| mac.replace(':', "-")).join(",");
    let bond = format!("bond=bond0:{members}:mode=802.3ad,lacp_rate=fast vlan=bond0.12:bond0 ip=bond0.12:dhcp");
    arguments.extend(["--append".into(), bond]);
    let tests = r#"
[[test]]
name   = "both cards have stayed in the bond, and the switch with it"
run    = '''
cat /proc/net/bonding/bond0
test "$(grep -c 'Link Failure Count: 0' /proc/net/bonding/bond0)" -eq 2 || exit 1
journalctl -b -k --no-pager -o cat | grep -E 'bond0: .*(Enslaving|Releasing|status definitely down)' | tee /dev/stderr | wc -l | grep -x 2
'''
stdout = "Number of ports: 2"
[[test]]
run    = "ip -d link show bond0.12"
stdout = "vlan protocol 802.1Q id 12"
[[test]]
name   = "systemd-networkd calls it routable"
run    = "networkctl list --no-legend --no-pager bond0.12"
stdout = "routable"
"#;
    boot(&json!({}), &format!("{REACHED}{tests}"), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

/// As above.
#[test]
fn static_addresses_of_both_families_stay_as_they_are() {
    let ip = "ip=10.0.2.77::10.0.2.2:24:::off:10.0.2.3 ip=[fec0::77]::[fec0::2]:64:::off";
    let tests = r#"
[[test]]
name = "the addresses and routes are there; routers' IPv6 is beside them, as networkd has it"
run  = '''
ip -o addr show dev eth0 | tr -s ' ' | cut -d ' ' -f 2-4
ip route show default
ip -6 route show default
for one in 10.0.2.77/24 fec0::77/64; do ip -o addr show dev eth0 | grep -qF " $one " || exit 1; done
ip route show default | grep -qx 'default via 10.0.2.2 dev eth0 proto static *' && ip -6 route show default | grep -q 'via fec0::2 dev eth0'
'''
[[test]]
name   = "IPv6 goes out as well"
run    = '''bash -c 'exec 3<>"/dev/tcp/fec0::2/9"' 2>&1'''
exit   = 1
stdout = "Connection refused"
"#;
    boot(&json!({}), &format!("{REACHED}{tests}"), &["--append", ip]);
}

/// As above; what the system is fetched from has an IPv6 address only, too.
#[test]
fn ipv6_alone_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let tests = r#"
[[test]]
name   = "systemd-networkd has the address of the routers' network"
run    = "ip -o -6 addr show dev eth0 && networkctl status --no-pager eth0"
stdout = "inet6 fec0::5054:ff:fe12:3456/64"
[[test]]
name   = "there is no other"
run    = "ip -o -4 addr show scope global | wc -l"
stdout = "0\n"
"#;
    let bundle = build(&format!("{REACHED}{tests}"), folder.path());
    let server = Server::start_v6(&bundle.join("root.squashfs"), Manner::Good).unwrap();
    let root = format!("ip=auto6 netboot.root={}", server.url());
    let network = "--qemu=user,id=net0,ipv4=off,ipv6=on";
    boot_built(&bundle, &server, &json!({}), &["--append", &root, "--qemu=-netdev", network]);
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
