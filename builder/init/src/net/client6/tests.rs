//! Against a router that says what it is told to.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use socket2::SockRef;

use super::*;
use crate::net::renew::Keeper;
use crate::net::tests::{MAC, cable, local_address, on_a_cable, output};

/// A default router's words without options.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];

/// Answers each solicitation on `cable1` with these words; says when it was asked.
fn router(advertisement: Vec<u8>) -> Receiver<Instant> {
    router_of_hops(vec![(HOPS, advertisement)])
}

/// With a hop limit for each.
fn router_of_hops(advertisements: Vec<(u32, Vec<u8>)>) -> Receiver<Instant> {
    let index = index_of("cable1");
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
    socket.bind_device(Some(b"cable1")).unwrap();
    socket.join_multicast_v6(&ALL_ROUTERS, index).unwrap();
    let socket: UdpSocket = socket.into();
    let (sender, asked) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        loop {
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            if length == 0 || buffer[0] != SOLICITATION[0] {
                continue;
            }
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            for (hops, advertisement) in &advertisements {
                SockRef::from(&socket).set_multicast_hops_v6(*hops).unwrap();
                let _ = socket.send_to(advertisement, SocketAddrV6::new(all_nodes, 0, 0, index));
            }
            if sender.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    asked
}

fn index_of(interface: &str) -> u32 {
    let text = fs::read_to_string("/proc/net/if_inet6").unwrap();
    text.lines().find(|line| line.ends_with(&format!(" {interface}"))).and_then(Found::parse).unwrap().index
}

fn wait_for_local_addresses() {
    for end in ["cable0", "cable1"] {
        local_address(end);
    }
}

#[test]
fn a_router_that_has_no_address_is_not_asked_without_a_pause() {
    if !on_a_cable(a_router_that_has_no_address_is_not_asked_without_a_pause) {
        return;
    }
    wait_for_local_addresses();
    let asked = router(ADVERTISEMENT.to_vec());
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, interface) = (Arc::clone(&stop), cable());
    let client = thread::spawn(move || acquire(&interface, true, &stopped).unwrap());
    thread::sleep(Duration::from_millis(2500));
    stop.store(true, Ordering::Relaxed);
    assert_eq!(client.join().unwrap(), None);
    // At 0 and 1 s; the kernel may ask for itself.
    let count = asked.try_iter().count();
    assert!((2..=5).contains(&count), "asked {count} times");
}

#[test]
fn what_comes_from_beyond_the_link_is_not_heeded() {
    if !on_a_cable(what_comes_from_beyond_the_link_is_not_heeded) {
        return;
    }
    wait_for_local_addresses();
    let [far, near]: [Ipv6Addr; 2] = ["2001:db8::bad".parse().unwrap(), "2001:db8::53".parse().unwrap()];
    let naming = |server: Ipv6Addr| [&ADVERTISEMENT[..], &[25, 3, 0, 0, 0, 0, 2, 88], &server.octets()].concat();
    let _asked = router_of_hops(vec![(254, naming(far)), (HOPS, naming(near))]);
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
    socket.bind_device(Some(b"cable0")).unwrap();
    socket.set_multicast_hops_v6(HOPS).unwrap();
    socket.set_recv_hoplimit_v6(true).unwrap();
    let socket: UdpSocket = socket.into();
    socket.send_to(&SOLICITATION, SocketAddrV6::new(ALL_ROUTERS, 0, 0, cable().index)).unwrap();
    let (advertisement, router) = hear(&socket, Instant::now() + Duration::from_secs(10), &Arc::default()).unwrap();
    assert_eq!((advertisement.dns, router), (vec![near], local_address("cable1")));
}

/// A DHCPv6 server's answer; an address that is valid for an hour, or none and why.
fn answer6(kind: u8, query: &[u8], server: &[u8], address: Option<Ipv6Addr>) -> Vec<u8> {
    let option = |code: u8, value: &[u8]| [&[0, code, 0, u8::try_from(value.len()).unwrap()], value].concat();
    let mut association = dhcp6::iaid(MAC).to_be_bytes().to_vec();
    association.extend([0; 8]);
    association.extend(match address {
        Some(address) => option(5, &[&address.octets()[..], &[0, 0, 2, 88, 0, 0, 14, 16]].concat()),
        None => option(13, b"\0\x02all gone"),
    });
    let transaction = &query[1..4];
    [&[kind], transaction, &option(1, &dhcp6::duid(MAC)), &option(2, server), &option(3, &association)].concat()
}

/// Answers each message to DHCPv6 servers as told; sends back the messages' types.
fn servers6(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Receiver<u8> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.bind_device(Some(b"cable1")).unwrap();
    socket.join_multicast_v6(&dhcp6::SERVERS, index_of("cable1")).unwrap();
    socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, dhcp6::SERVER_PORT, 0, 0).into()).unwrap();
    let socket: UdpSocket = socket.into();
    let (sender, asked) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            if sender.send(buffer[0]).is_err() {
                return;
            }
            for bytes in answers(&buffer[..length]) {
                socket.send_to(&bytes, from).unwrap();
            }
        }
    });
    asked
}

#[test]
fn a_server_without_an_address_does_not_hide_one_that_has_one() {
    if !on_a_cable(a_server_without_an_address_does_not_hide_one_that_has_one) {
        return;
    }
    wait_for_local_addresses();
    let mut managed = ADVERTISEMENT;
    managed[5] = 0x80;
    let _solicited = router(managed.to_vec());
    let address: Ipv6Addr = "2001:db8::77".parse().unwrap();
    let asked = servers6(move |query| match query[0] {
        1 => vec![answer6(2, query, b"empty", None), answer6(2, query, b"full", Some(address))],
        _ => vec![answer6(7, query, b"full", Some(address))],
    });
    let network = acquire(&cable(), true, &AtomicBool::new(false)).unwrap().unwrap().network;
    assert_eq!((network.address, network.method), (address.into(), "dhcp6"));
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), [1, 3]);
}

/// The seconds that an address of `cable0` is valid; none when it does not have it.
fn valid(address: Ipv6Addr) -> Option<u32> {
    let shown = output(&["-o", "-6", "addr", "show", "dev", "cable0"]);
    let line = shown.lines().find(|line| line.contains(&format!(" {address}/128 ")))?.to_owned();
    line.split("valid_lft ").nth(1)?.split("sec").next()?.parse().ok()
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_lease_is_renewed_and_another_one_takes_its_place_where_it_is_refused() {
    if !on_a_cable(a_lease_is_renewed_and_another_one_takes_its_place_where_it_is_refused) {
        return;
    }
    wait_for_local_addresses();
    let [first, second]: [Ipv6Addr; 2] = ["2001:db8::77".parse().unwrap(), "2001:db8::78".parse().unwrap()];
    let refuses = Arc::new(AtomicBool::new(false));
    let is_refused = Arc::clone(&refuses);
    let asked = servers6(move |query| match query[0] {
        1 => vec![answer6(2, query, b"full", Some(second))],
        3 => vec![answer6(7, query, b"full", Some(second))],
        _ => vec![answer6(7, query, b"full", (!is_refused.load(Ordering::Relaxed)).then_some(first))],
    });
    let server = b"full".to_vec();
    let lease =
        Lease { address: first, preferred: 100, valid: 100, server, renewal: Some((0, 50)), since: Instant::now() };
    lease.set(cable().index).unwrap();
    assert!(valid(first).unwrap() <= 100);
    let mut network = Network::new("cable0", MAC, "dhcp6", first.into(), 128);
    network.ipv6 = vec![Address { address: first, prefix: 128 }];
    let shared = Arc::new(Mutex::new(network));
    let keeper = Keeper::of_dhcp6(lease.clone(), (cable(), Arc::clone(&shared)));
    wait_for("not renewed", || valid(first) > Some(3000));
    drop(keeper);
    refuses.store(true, Ordering::Relaxed);
    let _keeper = Keeper::of_dhcp6(lease, (cable(), Arc::clone(&shared)));
    wait_for("no other address", || valid(second) > Some(3000) && valid(first).is_none());
    wait_for("not told", || shared.lock().unwrap().address == IpAddr::V6(second));
    assert_eq!(shared.lock().unwrap().ipv6, [Address { address: second, prefix: 128 }]);
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), [5, 5, 1, 3]);
}

#[test]
fn addresses_as_the_kernel_lists_them() {
    let line = "fec0000000000000505400fffe123456 02 40 40 00     eth0";
    let found = Found::parse(line).unwrap();
    assert_eq!(found.address, "fec0::5054:ff:fe12:3456".parse::<Ipv6Addr>().unwrap());
    assert_eq!((found.index, found.prefix, found.is_global()), (2, 64, true));
    let local = Found::parse("fe80000000000000505400fffe123456 02 40 20 80     eth0").unwrap();
    assert!(!local.is_global());
    assert_eq!((local.scope, local.flags), (LINK_LOCAL, 0x80));
    assert_eq!(Found::parse("frob"), None);
}
