//! Against dnsmasq, in network namespaces of their own, which `unshare` makes for ordinary users too.

use std::process::Command;

use super::*;
use crate::net::{Mac, Route};

/// Two namespaces with a cable between them; dnsmasq in the other one (`--no-daemon` keeps it from changing its user, which
/// a user namespace forbids).
const STAGE: &str = r#"
set -eu
ip link add cable0 address 52:54:00:12:34:56 type veth peer name cable1
unshare --net sleep 60 &
other=$!
# Until the other namespace is there.
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link set cable1 netns $other
nsenter --net=/proc/$other/ns/net ip addr add 10.77.0.1/24 dev cable1
nsenter --net=/proc/$other/ns/net ip link set cable1 up
ip link set cable0 up
nsenter --net=/proc/$other/ns/net dnsmasq --conf-file=/dev/null --no-daemon --port=0 \
    --interface=cable1 --bind-interfaces --pid-file= --dhcp-leasefile="$1/leases" --log-dhcp \
    --dhcp-range=10.77.0.10,10.77.0.20,255.255.255.0,1h --dhcp-host=id:01:52:54:00:12:34:56,10.77.0.15,node-seven \
    --domain=lab.example --dhcp-option=option:router,10.77.0.1 --dhcp-option=option:dns-server,10.77.0.2,10.77.0.3 \
    --dhcp-option=option:mtu,1400 --dhcp-option=option:ntp-server,10.77.0.4 \
    --dhcp-option=option:domain-search,lab.example,sub.lab.example \
    --dhcp-option=option:classless-static-route,192.168.5.0/24,10.77.0.9,0.0.0.0/0,10.77.0.1 2> "$1/log" &
server=$!
status=0
timeout 60 "$2" --exact net::client::tests::inside --ignored --nocapture || status=$?
kill $server $other || true
exit $status
"#;

fn interface() -> Interface {
    Interface { name: "cable0".into(), index: 0, mac: Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]), driver: None }
}

#[test]
fn dnsmasq_gives_an_address_and_everything_else() {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", STAGE, "stage"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .status()
        .unwrap();
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    assert!(status.success(), "{log}");
    assert!(log.contains("DHCPACK(cable1) 10.77.0.15 52:54:00:12:34:56 node-seven"), "{log}");
    assert!(log.contains("vendor class: netboot-init"), "{log}");
}

#[test]
#[ignore = "run by `dnsmasq_gives_an_address_and_everything_else`, in a namespace"]
fn inside() {
    let network = acquire(&interface(), &AtomicBool::new(false)).unwrap().unwrap();
    assert_eq!((network.address, network.prefix), (Ipv4Addr::new(10, 77, 0, 15), 24));
    assert_eq!(network.gateway, Some(Ipv4Addr::new(10, 77, 0, 1)));
    let route = Route { destination: [192, 168, 5, 0].into(), prefix: 24, gateway: [10, 77, 0, 9].into() };
    assert_eq!(network.routes, [route]);
    assert_eq!(network.dns, [Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 3)]);
    assert_eq!(network.ntp, [Ipv4Addr::new(10, 77, 0, 4)]);
    assert_eq!(network.hostname.as_deref(), Some("node-seven"));
    assert_eq!(network.domain.as_deref(), Some("lab.example"));
    assert_eq!(network.search, ["lab.example", "sub.lab.example"]);
    assert_eq!((network.mtu, network.lease_seconds), (Some(1400), Some(3600)));
    assert_eq!(network.dhcp_server, Some(Ipv4Addr::new(10, 77, 0, 1)));
}

#[test]
fn waits_differ_but_not_much() {
    let second = Duration::from_secs(1);
    for _ in 0..100 {
        let wait = jittered(second);
        assert!(wait >= second && wait <= second * 11 / 10, "{wait:?}");
    }
}
