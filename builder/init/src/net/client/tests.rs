//! Against a DHCP server that says what it is told to.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::net::Mac;
use crate::net::tests::{MAC, cable, on_a_cable, output};

const OURS: [u8; 4] = [10, 77, 0, 1];
const OTHER: [u8; 4] = [10, 77, 0, 9];

/// What a server says of the address for us.
fn answer(kind: Kind, transaction: u32, mac: Mac, server: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[0] = 2;
    bytes[4..8].copy_from_slice(&transaction.to_be_bytes());
    bytes[16..20].copy_from_slice(&[10, 77, 0, 15]);
    bytes[28..34].copy_from_slice(&mac.0);
    bytes.extend([99, 130, 83, 99, 53, 1, kind as u8, 54, 4]);
    bytes.extend(server);
    bytes.extend([51, 4, 0, 0, 14, 16, 255]);
    bytes
}

/// Answers each message of a client with the next of these answers, and sends back what was asked, and when.
fn server(answers: Vec<Vec<(Kind, [u8; 4])>>) -> Receiver<(u8, Instant)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.bind_device(Some(b"cable1")).unwrap();
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT).into()).unwrap();
    let socket: UdpSocket = socket.into();
    let (sender, asked) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        for answers in answers {
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            let query = &buffer[..length];
            let transaction = u32::from_be_bytes(query[4..8].try_into().unwrap());
            // The type is the first option.
            sender.send((query[242], Instant::now())).unwrap();
            for (kind, server) in answers {
                let bytes = answer(kind, transaction, MAC, server);
                socket.send_to(&bytes, (Ipv4Addr::BROADCAST, CLIENT_PORT)).unwrap();
            }
        }
    });
    asked
}

#[test]
fn a_refusal_is_followed_by_a_pause_and_other_servers_do_not_count() {
    if !on_a_cable(a_refusal_is_followed_by_a_pause_and_other_servers_do_not_count) {
        return;
    }
    let asked = server(vec![
        vec![(Kind::Offer, OURS)],
        vec![(Kind::Nak, OURS)],
        vec![(Kind::Offer, OURS)],
        vec![(Kind::Nak, OTHER), (Kind::Ack, OTHER), (Kind::Ack, OURS)],
    ]);
    let lease = acquire(&cable(), &Arc::default()).unwrap().unwrap();
    assert_eq!((lease.address, lease.server), ([10, 77, 0, 15].into(), OURS.into()));
    let asked: Vec<(u8, Instant)> = asked.iter().collect();
    assert_eq!(asked.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 3, 1, 3]);
    let pause = asked[2].1 - asked[0].1;
    assert!(pause >= Duration::from_millis(950), "asked again after {pause:?}");
}

#[test]
fn an_address_that_answers_is_declined_unless_nobody_looks() {
    if !on_a_cable(an_address_that_answers_is_declined_unless_nobody_looks) {
        return;
    }
    // Each time the server agrees, and hears what comes of it.
    let take = |look: bool| {
        let stop = AtomicBool::new(false);
        let interface = cable();
        let client = Client::open(&interface, &stop).unwrap();
        let offer = answer(Kind::Offer, client.transaction, MAC, OURS);
        client.take(&Answer::parse(&offer, MAC, client.transaction).unwrap(), look)
    };
    let asked = server(vec![vec![(Kind::Ack, OURS)], vec![(Kind::Ack, OURS)], vec![(Kind::Ack, OURS)], vec![]]);
    let started = Instant::now();
    assert!(matches!(take(true), Taken::Lease(_)), "nobody has it");
    // RFC 5227's own pauses are 4 seconds and more.
    assert!(started.elapsed() < Duration::from_secs(2), "a boot waits for it: {:?}", started.elapsed());
    // Both ends are this machine's, whose broadcasts have that source from now on.
    std::fs::write("/proc/sys/net/ipv4/conf/cable1/accept_local", "1").unwrap();
    output(&["addr", "add", "10.77.0.15/24", "dev", "cable1"]);
    assert!(matches!(take(false), Taken::Lease(_)), "nobody looks");
    assert!(matches!(take(true), Taken::Declined), "the other end has it");
    assert_eq!(asked.iter().map(|(kind, _)| kind).collect::<Vec<_>>(), [3, 3, 3, 4]);
}

#[test]
fn waits_differ_but_not_much() {
    let second = Duration::from_secs(1);
    for _ in 0..100 {
        let wait = jittered(second);
        assert!(wait >= second && wait <= second * 11 / 10, "{wait:?}");
    }
}

#[test]
fn clocks_that_differ_by_little_give_numbers_of_all_sizes() {
    let numbers: Vec<u32> = (0..1000).map(|node| scattered(500_000_000 + node * 37)).collect();
    for quarter in 0..4 {
        let found = numbers.iter().filter(|number| **number >> 30 == quarter).count();
        assert!((200..300).contains(&found), "{found} of 1000 in quarter {quarter}");
    }
}
