//! IPv6 on one interface: what the routers say, the kernel's address, and DHCPv6 where the routers want it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::client::{Renewal, jittered, random, wait_until};
use super::dhcp6::{self, Answer, Kind, Query};
use super::netlink::{self, LinkAddress};
use super::ra::{Advertisement, SOLICITATION};
use super::{Address, Interface, Network};
use crate::{debug, say, sys, warning};

/// The hop limit of all that routers and their neighbours say to each other.
const HOPS: u32 = 255;
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// The first wait for an answer; doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often a DHCPv6 server is asked before the node goes on without.
const QUESTIONS: u32 = 4;
/// How long the kernel gets to make an address and to find out that nobody else has it.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);
/// How often the waiting looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(100);
/// From how many silent attempts on it is said: a network without IPv6 is nothing special.
const TELL_AFTER: u32 = 4;

/// `IFA_F_TENTATIVE` and `IFA_F_DADFAILED`: not to be used, yet or at all.
const UNUSABLE: u32 = 0x40 | 0x08;
/// `IPV6_ADDR_LINKLOCAL`.
const LINK_LOCAL: u32 = 0x20;

/// What is known of IPv6 on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    /// The network.
    pub(super) network: Network,
    /// The address in it that has to be renewed.
    pub(super) lease: Option<Lease>,
}

/// An address for some time, from a DHCPv6 server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    /// The address.
    pub(super) address: Ipv6Addr,
    /// Seconds that it is preferred.
    preferred: u32,
    /// Seconds that it is valid.
    pub(super) valid: u32,
    /// The identifier of who gave it.
    server: Vec<u8>,
    /// Seconds after which to ask the server, and after which to ask any server, to prolong it; none is for ever.
    pub(super) renewal: Option<(u32, u32)>,
    /// When it began.
    pub(super) since: Instant,
}

impl Lease {
    fn new(answer: &Answer, asked: Instant) -> Option<Self> {
        let (address, preferred, valid) = answer.lease?;
        let (server, renewal) = (answer.server.clone(), answer.renewal());
        Some(Self { address, preferred, valid, server, renewal, since: asked })
    }

    /// Gives the interface the address, or the address that it has these lifetimes.
    pub(super) fn set(&self, index: u32) -> io::Result<()> {
        let lifetime = Some((self.preferred, self.valid));
        netlink::add_address(index, &LinkAddress { address: self.address.into(), prefix: 128, lifetime })
    }
}

/// Asks once for an address.
pub(super) fn lease(interface: &Interface, stop: &AtomicBool) -> io::Result<Option<Lease>> {
    let asked = Instant::now();
    Ok(Conversation::open(interface, stop)?.address().and_then(|answer| Lease::new(&answer, asked)))
}

/// Asks to prolong a lease: its own server, or any.
pub(super) fn renew(
    lease: &Lease,
    interface: &Interface,
    any_server: bool,
    stop: &AtomicBool,
) -> io::Result<Renewal<Lease>> {
    let (asked, address) = (Instant::now(), lease.address);
    let query =
        if any_server { Query::Rebind { address } } else { Query::Renew { server: lease.server.clone(), address } };
    let Some(answer) = Conversation::open(interface, stop)?.ask(&query, Kind::Reply, |_| true) else {
        return Ok(Renewal::Silence);
    };
    Ok(match Lease::new(&answer, asked) {
        Some(lease) => Renewal::Prolonged(Box::new(lease)),
        None => {
            let (code, words) = answer.trouble.unwrap_or_default();
            Renewal::Refused(format!("status {code} {words}"))
        }
    })
}

/// Asks until there is an address or `stop` is set; then none. `needed` is whether there is no other way to an address.
pub(super) fn acquire(interface: &Interface, needed: bool, stop: &AtomicBool) -> io::Result<Option<Reached>> {
    switch_on(&interface.name);
    if !wait_for(interface.index, stop, None, |found| found.scope == LINK_LOCAL) {
        return Ok(None);
    }
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    // RFC 4861, 6.1: either side heeds only what no router can have passed on, which is what still has all hops before it.
    socket.set_multicast_hops_v6(HOPS)?;
    socket.set_recv_hoplimit_v6(true)?;
    let socket: UdpSocket = socket.into();
    let mut wait = FIRST_WAIT;
    let mut attempt = 0;
    while !stop.load(Ordering::Relaxed) {
        attempt += 1;
        if let Err(e) = socket.send_to(&SOLICITATION, SocketAddrV6::new(ALL_ROUTERS, 0, 0, interface.index)) {
            debug!("{}: ask for routers: {e}", interface.name);
        }
        let end = Instant::now() + jittered(wait);
        if let Some((advertisement, router)) = hear(&socket, end, stop)
            && let Some(reached) = follow(interface, &advertisement, router, stop)?
        {
            return Ok(Some(reached));
        }
        // Also after an answer that brought no address: routers are not asked at the speed of the wire.
        if wait_until(end, stop) && (needed || attempt == TELL_AFTER) {
            say!(
                "IPv6 on {} ({}): no router with an address for us so far; asking again",
                interface.name,
                interface.mac
            );
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    Ok(None)
}

/// The addresses of an interface that can be used from elsewhere.
pub(super) fn addresses(index: u32) -> Vec<Address> {
    let found = read(index).into_iter().filter(Found::is_global);
    found.map(|found| Address { address: found.address, prefix: found.prefix }).collect()
}

/// Distributions switch it off by default now and then.
fn switch_on(interface: &str) {
    let file = Path::new("/proc/sys/net/ipv6/conf").join(interface).join("disable_ipv6");
    if fs::read_to_string(&file).is_ok_and(|value| value.trim() == "1")
        && let Err(e) = fs::write(&file, "0\n")
    {
        debug!("{}: {e}", file.display());
    }
}

/// The first router's words, and its address.
fn hear(socket: &UdpSocket, deadline: Instant, stop: &AtomicBool) -> Option<(Advertisement, Ipv6Addr)> {
    loop {
        let message = receive(socket, deadline, stop, sys::receive_message)?;
        if !message.from.is_unicast_link_local() || message.hop_limit != i32::try_from(HOPS).ok() {
            continue;
        }
        if let Some(advertisement) = Advertisement::parse(&message.bytes) {
            return Some((advertisement, message.from));
        }
    }
}

/// What comes before the deadline, and before it is no longer wanted.
fn receive<T>(
    socket: &UdpSocket,
    deadline: Instant,
    stop: &AtomicBool,
    mut take: impl FnMut(&UdpSocket) -> io::Result<T>,
) -> Option<T> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return None;
        }
        socket.set_read_timeout(Some(left.min(TICK))).ok()?;
        // Timeouts, and errors of a link that flaps, end with the deadline.
        if let Ok(taken) = take(socket) {
            return Some(taken);
        }
    }
}

/// Does what a router says; none when no address came of it.
fn follow(
    interface: &Interface,
    advertisement: &Advertisement,
    router: Ipv6Addr,
    stop: &AtomicBool,
) -> io::Result<Option<Reached>> {
    debug!("{}: router {router}: {advertisement:?}", interface.name);
    let mut answer = None;
    let asked = Instant::now();
    if advertisement.managed {
        answer = Conversation::open(interface, stop)?.address();
        if answer.is_none() {
            warning!("{}: router {router} says that addresses come by DHCPv6, but none came", interface.name);
        }
    } else if advertisement.other {
        answer = Conversation::open(interface, stop)?.information();
    }
    let lease = answer.as_ref().and_then(|answer| Lease::new(answer, asked));
    if let Some(lease) = &lease {
        lease.set(interface.index)?;
    }
    if advertisement.autonomous && lease.is_none() {
        wait_for(interface.index, stop, Some(ADDRESS_PATIENCE), Found::is_global);
    }
    let all = addresses(interface.index);
    let of_lease = lease.as_ref().and_then(|lease| all.iter().find(|found| found.address == lease.address));
    let Some(main) = of_lease.or(all.first()) else { return Ok(None) };
    let method = if lease.is_some() { "dhcp6" } else { "ra" };
    let mut network = Network::new(&interface.name, interface.mac, method, main.address.into(), main.prefix);
    network.ipv6.clone_from(&all);
    network.ipv6_gateway = advertisement.is_default.then_some(router);
    network.gateway = network.ipv6_gateway.map(IpAddr::V6);
    network.mtu = advertisement.mtu;
    network.lease_seconds = lease.as_ref().map(|lease| lease.valid);
    network.dns = advertisement.dns.iter().copied().map(IpAddr::V6).collect();
    network.search.clone_from(&advertisement.search);
    if let Some(answer) = answer {
        network.dns.extend(answer.dns.into_iter().map(IpAddr::V6));
        network.search.extend(answer.search);
        network.ntp.extend(answer.ntp.into_iter().map(IpAddr::V6));
    }
    let mut seen = Vec::new();
    network.dns.retain(|server| {
        !seen.contains(server) && {
            seen.push(*server);
            true
        }
    });
    Ok(Some(Reached { network, lease }))
}

struct Conversation<'a> {
    socket: UdpSocket,
    interface: &'a Interface,
    transaction: u32,
    started: Instant,
    stop: &'a AtomicBool,
}

impl<'a> Conversation<'a> {
    fn open(interface: &'a Interface, stop: &'a AtomicBool) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, dhcp6::CLIENT_PORT, 0, 0).into())?;
        Ok(Self { socket: socket.into(), interface, transaction: random(), started: Instant::now(), stop })
    }

    fn address(&self) -> Option<Answer> {
        // RFC 8415, 18.2.9: a server without an address does not count while there may be another one.
        let offer = self.ask(&Query::Solicit, Kind::Advertise, |answer| answer.lease.is_some())?;
        let Some((address, ..)) = offer.lease else {
            let (code, words) = offer.trouble.unwrap_or_default();
            say!("DHCPv6 on {}: no server has an address: status {code} {words}", self.interface.name);
            return None;
        };
        let request = Query::Request { server: offer.server, address };
        self.ask(&request, Kind::Reply, |_| true).filter(|answer| answer.lease.is_some())
    }

    fn information(&self) -> Option<Answer> {
        self.ask(&Query::Information, Kind::Reply, |_| true)
    }

    /// The first useful answer; when the wait after a question brought only others, the last of them.
    fn ask(&self, query: &Query, wanted: Kind, is_useful: impl Fn(&Answer) -> bool) -> Option<Answer> {
        let mut wait = FIRST_WAIT;
        let mut useless = None;
        let mut buffer = [0; 2048];
        for _ in 0..QUESTIONS {
            let hundredths = u16::try_from(self.started.elapsed().as_millis() / 10).unwrap_or(u16::MAX);
            let bytes = query.bytes(self.interface.mac, self.transaction, hundredths);
            let to = SocketAddrV6::new(dhcp6::SERVERS, dhcp6::SERVER_PORT, 0, self.interface.index);
            if let Err(e) = self.socket.send_to(&bytes, to) {
                debug!("DHCPv6 on {}: send: {e}", self.interface.name);
            }
            let deadline = Instant::now() + jittered(wait);
            while let Some(length) = receive(&self.socket, deadline, self.stop, |socket| socket.recv(&mut buffer)) {
                let answer = buffer.get(..length).and_then(|b| Answer::parse(b, self.interface.mac, self.transaction));
                match answer.filter(|answer| answer.kind == wanted) {
                    Some(answer) if is_useful(&answer) => return Some(answer),
                    other => useless = other.or(useless),
                }
            }
            if useless.is_some() {
                break;
            }
            wait *= 2;
        }
        useless
    }
}

/// An address as `/proc/net/if_inet6` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    address: Ipv6Addr,
    index: u32,
    prefix: u8,
    scope: u32,
    flags: u32,
}

impl Found {
    /// `ADDRESS INDEX PREFIX SCOPE FLAGS NAME`, in hexadecimal.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        let mut number = || u32::from_str_radix(words.next()?, 16).ok();
        Some(Self {
            address: address.into(),
            index: number()?,
            prefix: u8::try_from(number()?).ok()?,
            scope: number()?,
            flags: number()?,
        })
    }

    fn is_global(&self) -> bool {
        // Site-local addresses, QEMU's for one, are as good.
        self.scope & (LINK_LOCAL | 0x10) == 0
    }
}

/// The usable addresses of an interface.
fn read(index: u32) -> Vec<Found> {
    let text = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let all = text.lines().filter_map(Found::parse);
    all.filter(|found| found.index == index && found.flags & UNUSABLE == 0).collect()
}

fn wait_for(index: u32, stop: &AtomicBool, patience: Option<Duration>, is_it: impl Fn(&Found) -> bool) -> bool {
    let deadline = patience.map(|patience| Instant::now() + patience);
    while !stop.load(Ordering::Relaxed) {
        if read(index).iter().any(&is_it) {
            return true;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return false;
        }
        thread::sleep(TICK);
    }
    false
}

#[cfg(test)]
mod tests;
