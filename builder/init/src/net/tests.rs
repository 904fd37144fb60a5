//! Against dnsmasq, in network namespaces of their own, which `unshare` makes for ordinary users too.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{self, Lease, Renewal};
use super::renew::{Beside, Keeper};
use super::{Interface, Layer, Mac, Network, Route, bring_up, interfaces, up};
use crate::{cmdline, testing};

/// Two namespaces with a cable between them; dnsmasq in the other one (`--no-daemon` keeps it from changing its user, which
/// a user namespace forbids). sysfs shows the namespace that it was mounted in, so that the interface is put into a folder
/// of its own.
const STAGE: &str = r#"
set -eu
folder=$1 test=$2 name=$3
shift 3
ip link add cable0 address 52:54:00:12:34:56 type veth peer name cable1
unshare --net sleep 60 &
other=$!
# Until the other namespace is there.
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link set cable1 netns $other
sys=$folder/sys/class/net/cable0
mkdir -p "$sys/device"
ip -o link show cable0 | cut -d: -f1 > "$sys/ifindex"
echo 1 > "$sys/type"
echo 1 > "$sys/carrier"
echo 52:54:00:12:34:56 > "$sys/address"
# Addresses at once, without the second in which others could object.
echo 0 > /proc/sys/net/ipv6/conf/cable0/accept_dad
nsenter --net=/proc/$other/ns/net sh -eu -c '
    ip addr add 10.77.0.1/24 dev cable1
    # A host that nobody told the server of; the kernel answers ARP for the addresses of all interfaces on each.
    ip link set lo up
    ip addr add 10.77.0.66/32 dev lo
    ip addr add 2001:db8::1/64 dev cable1 nodad
    ip link set cable1 up'
nsenter --net=/proc/$other/ns/net dnsmasq --conf-file=/dev/null --no-daemon --port=0 \
    --interface=cable1 --bind-interfaces --pid-file= --dhcp-leasefile="$folder/leases" --log-dhcp "$@" 2> "$folder/log" &
server=$!
status=0
IMGBUILD_TEST_FOLDER=$folder timeout 60 "$test" --exact "$name" || status=$?
kill $server $other || true
exit $status
"#;

pub(super) const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// Runs a test again beside dnsmasq with these arguments; returns what dnsmasq logged. In the test that is run there, nothing.
#[track_caller]
fn beside_dnsmasq(test: impl Fn(), arguments: &[&str]) -> Option<String> {
    if testing::is_inside() {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--net", "sh", "-c", STAGE, "stage"]).arg(folder.path());
    unshare.arg(std::env::current_exe().unwrap()).arg(testing::name_of(&test)).args(arguments);
    testing::inside(&mut unshare);
    Some(fs::read_to_string(folder.path().join("log")).unwrap())
}

/// Two ends of a cable in one namespace: `cable0` is ours, and what the test sends from `cable1` arrives there.
const CABLE: &str = r#"
set -eu
test=$1 name=$2
ip link add cable0 address 52:54:00:12:34:56 type veth peer name cable1
for end in cable0 cable1; do
    sysctl -q net.ipv6.conf.$end.accept_dad=0 2>/dev/null || true
done
ip link set cable1 up
ip link set cable0 up
timeout 60 "$test" --exact "$name"
"#;

/// Runs a test again on such a cable; whether this is the run in which there is one.
#[track_caller]
pub(super) fn on_a_cable(test: impl Fn()) -> bool {
    if !testing::is_inside() {
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "--net", "sh", "-c", CABLE, "cable"]);
        testing::inside(unshare.arg(std::env::current_exe().unwrap()).arg(testing::name_of(&test)));
    }
    testing::is_inside()
}

/// Our end of the cable.
pub(super) fn cable() -> Interface {
    let index = output(&["-o", "link", "show", "cable0"]).split(':').next().unwrap().parse().unwrap();
    Interface { name: "cable0".into(), index, mac: MAC, driver: None }
}

/// The link-local address of an end of the cable, once it can be used.
pub(super) fn local_address(interface: &str) -> Ipv6Addr {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = fs::read_to_string("/proc/net/if_inet6").unwrap();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| u128::from_str_radix(words[at], 16).unwrap();
            let address = Ipv6Addr::from(number(0));
            // Not while the kernel looks whether somebody else has it.
            if words[5] == interface && number(4) & 0x48 == 0 && address.is_unicast_link_local() {
                return address;
            }
        }
        assert!(Instant::now() < deadline, "{interface} has no address: {text}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn sys() -> PathBuf {
    Path::new(&std::env::var_os("IMGBUILD_TEST_FOLDER").unwrap()).join("sys")
}

fn network(parameters: &str) -> Network {
    let parsed = cmdline::parse(parameters);
    assert_eq!(parsed.errors, [""; 0]);
    bring_up(&sys(), &parsed.parameters, &mut || {}).unwrap().network()
}

#[test]
fn dnsmasq_gives_an_address_and_everything_else() {
    let log = beside_dnsmasq(
        dnsmasq_gives_an_address_and_everything_else,
        &[
            "--dhcp-range=10.77.0.10,10.77.0.20,255.255.255.0,1h",
            "--dhcp-host=id:01:52:54:00:12:34:56,10.77.0.15,node-seven",
            "--domain=lab.example",
            "--dhcp-option=option:router,10.77.0.1",
            "--dhcp-option=option:dns-server,10.77.0.2,10.77.0.3",
            "--dhcp-option=option:mtu,1400",
            "--dhcp-option=option:ntp-server,10.77.0.4",
            "--dhcp-option=option:domain-search,lab.example,sub.lab.example",
            "--dhcp-option=option:classless-static-route,192.168.5.0/24,10.77.0.9,0.0.0.0/0,10.77.0.1",
        ],
    );
    let Some(log) = log else { return with_dhcp() };
    assert!(log.contains("DHCPACK(cable1) 10.77.0.15 52:54:00:12:34:56 node-seven"), "{log}");
    assert!(log.contains("vendor class: netboot-init"), "{log}");
}

fn with_dhcp() {
    let parsed = cmdline::parse("nameserver=10.77.0.53 netboot.root=http://10.77.0.1/r");
    let link = bring_up(&sys(), &parsed.parameters, &mut || {}).unwrap();
    let network = link.network();
    assert_eq!((network.address, network.prefix), ([10, 77, 0, 15].into(), 24));
    assert_eq!(network.gateway, Some([10, 77, 0, 1].into()));
    let route = Route { destination: [192, 168, 5, 0].into(), prefix: 24, gateway: [10, 77, 0, 9].into() };
    assert_eq!(network.routes, [route]);
    let servers = ["10.77.0.53", "10.77.0.2", "10.77.0.3"];
    assert_eq!(network.dns.iter().map(ToString::to_string).collect::<Vec<_>>(), servers);
    assert_eq!(network.ntp.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.77.0.4"]);
    assert_eq!(network.hostname.as_deref(), Some("node-seven"));
    assert_eq!(network.domain.as_deref(), Some("lab.example"));
    assert_eq!(network.search, ["lab.example", "sub.lab.example"]);
    assert_eq!((network.mtu, network.lease_seconds), (Some(1400), Some(3600)));
    assert_eq!(network.dhcp_server, Some([10, 77, 0, 1].into()));
    assert_eq!(network.links, [Layer::Ethernet { name: "cable0".into(), mac: MAC }]);
    // As systemd-networkd would have set it, so that it takes it over.
    let shown = output(&["-4", "addr", "show", "dev", "cable0"]);
    assert!(shown.contains("inet 10.77.0.15/24 metric 1024 brd 10.77.0.255"), "{shown}");
    assert!(shown.contains("valid_lft 35") || shown.contains("valid_lft 3600sec"), "{shown}");
    assert!(shown.contains("mtu 1400"), "{shown}");
    let routes = output(&["-4", "route", "show", "dev", "cable0"]);
    for expected in [
        "default via 10.77.0.1 proto dhcp src 10.77.0.15 metric 1024",
        "192.168.5.0/24 via 10.77.0.9 proto dhcp src 10.77.0.15 metric 1024",
    ] {
        assert!(routes.lines().any(|line| line.trim() == expected), "{expected}: {routes}");
    }
    // The lease can be prolonged, by the server and by any.
    let stop = AtomicBool::new(false);
    let interface: Interface = interfaces::list(&sys()).remove(0);
    let lease = client::acquire(&interface, &stop).unwrap().unwrap();
    for any_server in [false, true] {
        match client::renew(&lease, &interface, any_server, &stop).unwrap() {
            Renewal::Prolonged(next) => assert_eq!(next.address, lease.address),
            other => panic!("{other:?}"),
        }
    }
    kept_alive(lease, interface);
    link.put_back();
    let shown = output(&["addr", "show", "dev", "cable0"]);
    assert!(!shown.contains("inet 10.77.0.15") && !shown.contains(",UP"), "{shown}");
}

/// A lease that is soon over is renewed by itself, and the kernel learns of it.
fn kept_alive(mut lease: Lease, interface: Interface) {
    lease.network.lease_seconds = Some(100);
    lease.renewal = Some((1, 50));
    lease.since = Instant::now();
    up::configure(interface.index, &lease.network).unwrap();
    let lifetime = || {
        let shown = output(&["-4", "addr", "show", "dev", "cable0"]);
        let seconds = shown.split("valid_lft ").nth(1).and_then(|rest| rest.split("sec").next());
        seconds.and_then(|seconds| seconds.parse::<u32>().ok()).unwrap_or_default()
    };
    assert!(lifetime() <= 100);
    // What did not come with the lease.
    let mut v6 = Network::new("cable0", MAC, "ra", "2001:db8::7".parse().unwrap(), 64);
    v6.ipv6_gateway = "fe80::1".parse().ok();
    v6.dns = vec!["2001:db8::53".parse().unwrap()];
    v6.search = vec!["six.example".into()];
    v6.ntp = vec!["2001:db8::123".parse().unwrap()];
    let beside = Beside { nameservers: vec![[10, 77, 0, 53].into()], v6: Some(v6) };
    let before = beside.with(&lease.network);
    let shared = Arc::new(Mutex::new(before.clone()));
    let _keeper = Keeper::of_dhcp(lease, (interface, Arc::clone(&shared)), beside);
    let deadline = Instant::now() + Duration::from_secs(20);
    while shared.lock().unwrap().lease_seconds != Some(3600) {
        assert!(Instant::now() < deadline, "not renewed");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(lifetime() > 3000, "{}", lifetime());
    let after = shared.lock().unwrap().clone();
    let servers: Vec<String> = after.dns.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.77.0.53", "10.77.0.2", "10.77.0.3", "2001:db8::53"]);
    assert_eq!(after, Network { lease_seconds: Some(3600), ..before });
}

pub(super) fn output(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn routers_alone_are_enough() {
    let log = beside_dnsmasq(
        routers_alone_are_enough,
        &[
            "--enable-ra",
            "--dhcp-range=2001:db8::,ra-stateless,64,1h",
            "--dhcp-option=option6:dns-server,[2001:db8::53]",
            "--dhcp-option=option6:domain-search,lab.example",
            "--dhcp-option=option6:ntp-server,[2001:db8::4]",
        ],
    );
    let Some(log) = log else { return with_routers() };
    assert!(log.contains("DHCPINFORMATION-REQUEST(cable1)"), "{log}");
}

fn with_routers() {
    let network = network("netboot.root=http://[2001:db8::1]/r");
    assert_eq!(network.address.to_string(), "2001:db8::5054:ff:fe12:3456");
    assert_eq!((network.method, network.prefix, network.ipv6.len()), ("ra", 64, 1));
    assert!(network.gateway.is_some_and(|gateway| gateway.to_string().starts_with("fe80:")), "{:?}", network.gateway);
    assert_eq!(network.dns.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2001:db8::53"]);
    assert_eq!(network.ntp.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2001:db8::4"]);
    assert!(network.search.contains(&"lab.example".to_owned()), "{:?}", network.search);
    assert!(output(&["-6", "route"]).contains("default via fe80:"));
}

#[test]
fn dhcpv6_gives_an_address() {
    let log = beside_dnsmasq(
        dhcpv6_gives_an_address,
        &[
            "--enable-ra",
            "--dhcp-range=2001:db8::10,2001:db8::20,64,1h",
            "--dhcp-option=option6:dns-server,[2001:db8::53]",
            "--dhcp-host=id:00:03:00:01:52:54:00:12:34:56,[2001:db8::15]",
        ],
    );
    let Some(log) = log else { return with_dhcp6() };
    assert!(log.contains("DHCPREPLY(cable1) 2001:db8::15"), "{log}");
}

fn with_dhcp6() {
    let network = network("ip=dhcp6");
    assert_eq!((network.address.to_string().as_str(), network.method), ("2001:db8::15", "dhcp6"));
    assert_eq!((network.prefix, network.lease_seconds), (128, Some(3600)));
    assert_eq!(network.dns.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2001:db8::53"]);
    assert!(output(&["-6", "addr", "show", "dev", "cable0"]).contains("2001:db8::15/128"));
}

#[test]
fn an_address_that_somebody_has_is_declined() {
    let log = beside_dnsmasq(
        an_address_that_somebody_has_is_declined,
        &[
            "--dhcp-range=10.77.0.10,10.77.0.20,255.255.255.0,1h",
            "--dhcp-host=id:01:52:54:00:12:34:56,10.77.0.66",
            "--no-ping",
        ],
    );
    let Some(log) = log else { return with_a_conflict() };
    for words in ["DHCPACK(cable1) 10.77.0.66", "DHCPDECLINE(cable1) 10.77.0.66 52:54:00:12:34:56"] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

fn with_a_conflict() {
    let started = Instant::now();
    let network = network("netboot.root=http://10.77.0.1/r");
    let IpAddr::V4(address) = network.address else { panic!("{network:?}") };
    assert!((10..=20).contains(&address.octets()[3]), "{address}");
    assert!(started.elapsed() >= Duration::from_secs(10), "the server is given time");
}
