//! Against a DHCP server that says what it is told to.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::net::Mac;
use crate::net::tests::{MAC, cable, on_a_cable};

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
fn waits_differ_but_not_much() {
    let second = Duration::from_secs(1);
    for _ in 0..100 {
        let wait = jittered(second);
        assert!(wait >= second && wait <= second * 11 / 10, "{wait:?}");
    }
}
