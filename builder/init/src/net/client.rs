//! The conversation with a DHCP server on one interface.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};
use socket2::{Domain, Protocol, Socket, Type};

use super::arp::Probe;
use super::dhcp::{Answer, CLIENT_PORT, Kind, Query, SERVER_PORT};
use super::{Interface, Network, packet};
use crate::{debug, say, sys, warning};

/// The first wait for an answer; doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// A port that begins to forward after half a minute, or a server that was restarted, is met soon after.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often a request for an offered address is repeated.
const REQUESTS: u32 = 3;
/// How long to wait after an address that somebody has (RFC 2131, 3.1): the server may offer it again.
const DECLINE_PAUSE: Duration = Duration::from_secs(10);
/// After so many of them the next one is taken as it comes: some routers answer ARP for everybody.
const MOST_DECLINED: u32 = 3;
/// How often the waiting looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(200);

/// An address for some time.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    /// What came with it.
    pub(super) network: Network,
    /// The address.
    pub(super) address: Ipv4Addr,
    /// Who gave it.
    pub(super) server: Ipv4Addr,
    /// Seconds after which to ask the server, and after which to ask any server, to prolong it; none is for ever.
    pub(super) renewal: Option<(u32, u32)>,
    /// When it began.
    pub(super) since: Instant,
}

impl Lease {
    fn new(answer: &Answer, interface: &Interface, asked: Instant) -> Option<Self> {
        Some(Self {
            network: answer.network(&interface.name, interface.mac),
            address: answer.address,
            server: answer.server()?,
            renewal: answer.renewal(),
            since: asked,
        })
    }
}

/// Asks until there is a lease or `stop` is set; then none.
pub(super) fn acquire(interface: &Interface, stop: &AtomicBool) -> io::Result<Option<Lease>> {
    let client = Client::open(interface, stop)?;
    let mut wait = FIRST_WAIT;
    let mut attempt = 0;
    let mut declined = 0;
    while !stop.load(Ordering::Relaxed) {
        attempt += 1;
        let mut end = Instant::now() + jittered(wait);
        client.send(&Query::Discover, Ipv4Addr::BROADCAST);
        // A server that tries first whether its address is free may answer only after the next question.
        let offer = client.receive(end, |answer| answer.kind == Kind::Offer);
        match offer.as_ref().map(|offer| client.take(offer, declined < MOST_DECLINED)) {
            Some(Taken::Lease(lease)) => return Ok(Some(*lease)),
            Some(Taken::Declined) => {
                declined += 1;
                end = Instant::now() + DECLINE_PAUSE;
            }
            Some(Taken::Refused) | None => {}
        }
        // Refusals come at once: without the pause it would be a conversation at the speed of the wire.
        if wait_until(end, stop) {
            say!(
                "DHCP on {} ({}): attempt {attempt} without {}, {} s so far; asking again",
                interface.name,
                interface.mac,
                if offer.is_some() { "a lease" } else { "an answer" },
                client.started.elapsed().as_secs()
            );
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    Ok(None)
}

/// What came of the wish to keep an address.
#[derive(Debug)]
pub(super) enum Renewal<L> {
    /// The lease is longer now.
    Prolonged(Box<L>),
    /// The server wants the address back, for this reason.
    Refused(String),
    /// Nobody answered.
    Silence,
}

/// Asks once to prolong a lease: its own server, or any.
pub(super) fn renew(
    lease: &Lease,
    interface: &Interface,
    any_server: bool,
    stop: &AtomicBool,
) -> io::Result<Renewal<Lease>> {
    let client = Client::open(interface, stop)?;
    let to = if any_server { Ipv4Addr::BROADCAST } else { lease.server };
    let asked = Instant::now();
    client.send(&Query::Renew { address: lease.address }, to);
    let is_verdict = |answer: &Answer| matches!(answer.kind, Kind::Ack | Kind::Nak);
    let Some(answer) = client.receive(asked + FIRST_WAIT * 4, is_verdict) else { return Ok(Renewal::Silence) };
    if answer.kind == Kind::Nak {
        return Ok(Renewal::Refused(reason(&answer)));
    }
    Ok(Lease::new(&answer, interface, asked).map_or(Renewal::Silence, |lease| Renewal::Prolonged(Box::new(lease))))
}

fn reason(refusal: &Answer) -> String {
    refusal.message().unwrap_or_else(|| "without a reason".into())
}

/// What came of an offer.
enum Taken {
    /// The address is ours.
    Lease(Box<Lease>),
    /// It is somebody else's, and the server knows.
    Declined,
    /// The server did not mean it, or is silent.
    Refused,
}

struct Client<'a> {
    /// Keeps the port, so that the kernel does not tell the server that nobody is here; and sends.
    sender: UdpSocket,
    /// Sees what is sent to an address that we do not have yet.
    receiver: UdpSocket,
    interface: &'a Interface,
    transaction: u32,
    started: Instant,
    stop: &'a AtomicBool,
}

impl<'a> Client<'a> {
    fn open(interface: &'a Interface, stop: &'a AtomicBool) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
        Ok(Self {
            sender: socket.into(),
            receiver: sys::packet_socket(interface.index, sys::ETH_P_IP)?.into(),
            interface,
            transaction: random(),
            started: Instant::now(),
            stop,
        })
    }

    fn send(&self, query: &Query, to: Ipv4Addr) {
        let seconds = match query {
            Query::Decline { .. } => 0,
            _ => u16::try_from(self.started.elapsed().as_secs()).unwrap_or(u16::MAX),
        };
        let bytes = query.bytes(self.interface.mac, self.transaction, seconds);
        // A link that goes down and up again is worth another attempt.
        if let Err(e) = self.sender.send_to(&bytes, SocketAddrV4::new(to, SERVER_PORT)) {
            debug!("DHCP on {}: send: {e}", self.interface.name);
        }
    }

    /// Takes an offer, unless it is to be looked and somebody has the address.
    fn take(&self, offer: &Answer, look: bool) -> Taken {
        let probe = if look { Probe::start(self.interface, offer.address) } else { None };
        let Some(lease) = self.request(offer) else { return Taken::Refused };
        let Some(owner) = probe.and_then(Probe::owner) else { return Taken::Lease(Box::new(lease)) };
        warning!(
            "DHCP on {}: {} has the address {} already; declined. Is it a static one that the server {} does not know of?",
            self.interface.name,
            owner,
            lease.address,
            lease.server
        );
        self.send(&Query::Decline { address: lease.address, server: lease.server }, Ipv4Addr::BROADCAST);
        Taken::Declined
    }

    fn request(&self, offer: &Answer) -> Option<Lease> {
        let server = offer.server()?;
        let query = Query::Request { address: offer.address, server };
        // What another server thinks of an address that is not its own is nothing to go by (RFC 2131, 3.1).
        let is_verdict =
            |answer: &Answer| matches!(answer.kind, Kind::Ack | Kind::Nak) && answer.server() == Some(server);
        let mut wait = FIRST_WAIT;
        for _ in 0..REQUESTS {
            let asked = Instant::now();
            self.send(&query, Ipv4Addr::BROADCAST);
            match self.receive(asked + jittered(wait), is_verdict) {
                Some(answer) if answer.kind == Kind::Ack => return Lease::new(&answer, self.interface, asked),
                Some(refusal) => {
                    let why = reason(&refusal);
                    say!("DHCP on {}: the server took back {}: {why}", self.interface.name, offer.address);
                    return None;
                }
                None => wait *= 2,
            }
        }
        None
    }

    fn receive(&self, deadline: Instant, is_wanted: impl Fn(&Answer) -> bool) -> Option<Answer> {
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.load(Ordering::Relaxed) {
                return None;
            }
            self.receiver.set_read_timeout(Some(left.min(TICK))).ok()?;
            // Timeouts, and errors of a link that flaps, end with the deadline.
            let Ok(length) = self.receiver.recv(&mut buffer) else { continue };
            let Some(message) = buffer.get(..length).and_then(|bytes| packet::datagram(bytes, CLIENT_PORT)) else {
                continue;
            };
            let answer = Answer::parse(message, self.interface.mac, self.transaction);
            if let Some(answer) = answer.filter(|answer| is_wanted(answer)) {
                return Some(answer);
            }
        }
    }
}

/// Whether the time came; not when it was stopped before.
pub(super) fn wait_until(time: Instant, stop: &AtomicBool) -> bool {
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let left = time.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(TICK));
    }
}

/// Up to a tenth more, so that a hundred nodes switched on together do not ask together.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait + wait / 10 * (random() % 16) / 16
}

pub(crate) fn random() -> u32 {
    let mut bytes = [0; 4];
    match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(4) => u32::from_ne_bytes(bytes),
        // Before the kernel has entropy; all that is needed here is that nodes differ, and their clocks do.
        _ => scattered(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec.unsigned_abs() as u32),
    }
}

/// Nanoseconds of a second over all numbers there are (Knuth's multiplicative hash): as they are they stay below a quarter
/// of them, and so would all pauses that are made of them.
fn scattered(nanoseconds: u32) -> u32 {
    nanoseconds.wrapping_mul(2_654_435_761)
}

#[cfg(test)]
mod tests;
