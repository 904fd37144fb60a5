//! The conversation with a DHCP server on one interface.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};
use socket2::{Domain, Protocol, Socket, Type};

use super::dhcp::{Answer, CLIENT_PORT, Kind, Query, SERVER_PORT};
use super::{Interface, Network};
use crate::{debug, say};

/// The first wait for an answer; doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// How often a request for an offered address is repeated.
const REQUESTS: u32 = 3;
/// How often the waiting looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(200);

/// Asks until there is a lease or `stop` is set; then none.
pub(super) fn acquire(interface: &Interface, stop: &AtomicBool) -> io::Result<Option<Network>> {
    let socket = open(&interface.name)?;
    let started = Instant::now();
    let mut wait = FIRST_WAIT;
    let mut attempt = 0;
    while !stop.load(Ordering::Relaxed) {
        attempt += 1;
        let transaction = random();
        let conversation = Conversation { socket: &socket, interface, transaction, started, stop };
        conversation.send(&Query::Discover);
        if let Some(offer) = conversation.receive(jittered(wait), &[Kind::Offer])
            && let Some(network) = conversation.request(&offer)
        {
            return Ok(Some(network));
        }
        if !stop.load(Ordering::Relaxed) {
            say!(
                "DHCP on {} ({}): attempt {attempt} without an answer, {} s so far; asking again",
                interface.name,
                interface.mac,
                started.elapsed().as_secs()
            );
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    Ok(None)
}

/// A socket for one interface, even though none has an address.
fn open(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
    Ok(socket.into())
}

struct Conversation<'a> {
    socket: &'a UdpSocket,
    interface: &'a Interface,
    transaction: u32,
    started: Instant,
    stop: &'a AtomicBool,
}

impl Conversation<'_> {
    fn send(&self, query: &Query) {
        let seconds = u16::try_from(self.started.elapsed().as_secs()).unwrap_or(u16::MAX);
        let bytes = query.bytes(self.interface.mac, self.transaction, seconds);
        // A link that goes down and up again is worth another attempt.
        if let Err(e) = self.socket.send_to(&bytes, SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT)) {
            debug!("DHCP on {}: send: {e}", self.interface.name);
        }
    }

    fn request(&self, offer: &Answer) -> Option<Network> {
        let query = Query::Request { address: offer.address, server: offer.server()? };
        let mut wait = FIRST_WAIT;
        for _ in 0..REQUESTS {
            self.send(&query);
            let answer = self.receive(jittered(wait), &[Kind::Ack, Kind::Nak]);
            match answer {
                Some(answer) if answer.kind == Kind::Ack => {
                    return Some(answer.network(&self.interface.name, self.interface.mac));
                }
                Some(refusal) => {
                    let why = refusal.message().unwrap_or_else(|| "without a reason".into());
                    say!("DHCP on {}: the server took back {}: {why}", self.interface.name, offer.address);
                    return None;
                }
                None => wait *= 2,
            }
        }
        None
    }

    fn receive(&self, patience: Duration, wanted: &[Kind]) -> Option<Answer> {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.load(Ordering::Relaxed) {
                return None;
            }
            self.socket.set_read_timeout(Some(left.min(TICK))).ok()?;
            // Timeouts, and errors of a link that flaps, end with the deadline.
            let Ok((length, _)) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            let answer = Answer::parse(buffer.get(..length)?, self.interface.mac, self.transaction);
            if let Some(answer) = answer.filter(|answer| wanted.contains(&answer.kind)) {
                return Some(answer);
            }
        }
    }
}

/// Up to a tenth more, so that a hundred nodes switched on together do not ask together.
fn jittered(wait: Duration) -> Duration {
    wait + wait / 10 * (random() % 16) / 16
}

pub(crate) fn random() -> u32 {
    let mut bytes = [0; 4];
    match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(4) => u32::from_ne_bytes(bytes),
        // Before the kernel has entropy; all that is needed here is that nodes differ, and their clocks do.
        _ => rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec.unsigned_abs() as u32,
    }
}

#[cfg(test)]
mod tests;
