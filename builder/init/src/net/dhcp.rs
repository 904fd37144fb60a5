//! DHCP messages: RFC 2131 and 2132, long options (RFC 3396), domain search (RFC 3397), classless routes (RFC 3442).
//! Bytes in, bytes out; the conversation is in `client`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::{Mac, Network, Route};
use crate::cmdline::prefix_of_mask;

/// The server's port.
pub const SERVER_PORT: u16 = 67;
/// Our port.
pub const CLIENT_PORT: u16 = 68;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const HEADER: usize = 236;
/// Relays and old servers drop what is shorter than a BOOTP message.
const SHORTEST: usize = 300;
/// The broadcast flag: we have no address yet at which the stack would take an answer.
const BROADCAST: u16 = 0x8000;

/// Seconds between two renewals at least, where the lease is long enough.
pub(super) const SHORTEST_RENEWAL: u32 = 60;

mod option {
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const HOSTNAME: u8 = 12;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const NTP: u8 = 42;
    pub(super) const REQUESTED_ADDRESS: u8 = 50;
    pub(super) const LEASE: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const WANTED: u8 = 55;
    pub(super) const MESSAGE: u8 = 56;
    pub(super) const MAX_SIZE: u8 = 57;
    pub(super) const RENEW: u8 = 58;
    pub(super) const REBIND: u8 = 59;
    pub(super) const VENDOR_CLASS: u8 = 60;
    pub(super) const CLIENT_ID: u8 = 61;
    pub(super) const SEARCH: u8 = 119;
    pub(super) const ROUTES: u8 = 121;
    /// Microsoft's number for [`ROUTES`], from before there was one.
    pub(super) const OLD_ROUTES: u8 = 249;
    pub(super) const PAD: u8 = 0;
    pub(super) const END: u8 = 255;
}

const WANTED: [u8; 13] = [
    option::MASK,
    option::ROUTES,
    option::OLD_ROUTES,
    option::ROUTER,
    option::DNS,
    option::HOSTNAME,
    option::DOMAIN,
    option::MTU,
    option::NTP,
    option::LEASE,
    option::SERVER,
    option::MESSAGE,
    option::SEARCH,
];

/// What we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// Who is there?
    Discover,
    /// I take this offer.
    Request {
        /// The address that was offered.
        address: Ipv4Addr,
        /// By whom.
        server: Ipv4Addr,
    },
    /// Let me keep the address that I have.
    Renew {
        /// The address.
        address: Ipv4Addr,
    },
    /// Somebody else has the address that I was given.
    Decline {
        /// The address.
        address: Ipv4Addr,
        /// Who gave it.
        server: Ipv4Addr,
    },
}

impl Query {
    /// The message's bytes. `seconds` is how long we have been trying; relays prefer those who wait longer.
    #[must_use]
    pub fn bytes(&self, mac: Mac, transaction: u32, seconds: u16) -> Vec<u8> {
        // BOOTREQUEST, Ethernet, 6 bytes of address, 0 hops.
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(transaction.to_be_bytes());
        bytes.extend(seconds.to_be_bytes());
        match self {
            Self::Discover | Self::Request { .. } => {
                bytes.extend(BROADCAST.to_be_bytes());
                bytes.extend([0; 4]);
            }
            // It has the address, and can be answered there.
            Self::Renew { address } => {
                bytes.extend([0; 2]);
                bytes.extend(address.octets());
            }
            // Nobody answers it.
            Self::Decline { .. } => bytes.extend([0; 6]),
        }
        bytes.resize(28, 0);
        bytes.extend(mac.0);
        bytes.resize(HEADER, 0);
        bytes.extend(MAGIC);
        let kind = match self {
            Self::Discover => Kind::Discover,
            Self::Request { .. } | Self::Renew { .. } => Kind::Request,
            Self::Decline { .. } => Kind::Decline,
        };
        push(&mut bytes, option::TYPE, &[kind as u8]);
        // The address and nothing else: firmware, initrd and system are then one client with one lease.
        let mut id = vec![1];
        id.extend(mac.0);
        push(&mut bytes, option::CLIENT_ID, &id);
        // RFC 2131, table 5: who declines asks for nothing.
        if kind == Kind::Decline {
            push(&mut bytes, option::MESSAGE, b"somebody answers ARP for it");
        } else {
            push(&mut bytes, option::MAX_SIZE, &1472_u16.to_be_bytes());
            push(&mut bytes, option::VENDOR_CLASS, b"netboot-init");
            push(&mut bytes, option::WANTED, &WANTED);
        }
        if let Self::Request { address, server } | Self::Decline { address, server } = self {
            push(&mut bytes, option::REQUESTED_ADDRESS, &address.octets());
            push(&mut bytes, option::SERVER, &server.octets());
        }
        bytes.push(option::END);
        if bytes.len() < SHORTEST {
            bytes.resize(SHORTEST, 0);
        }
        bytes
    }
}

fn push(bytes: &mut Vec<u8>, code: u8, value: &[u8]) {
    bytes.push(code);
    bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    bytes.extend(value.iter().take(usize::from(u8::MAX)));
}

/// A message's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client looks for servers.
    Discover = 1,
    /// A server offers an address.
    Offer = 2,
    /// A client takes it.
    Request = 3,
    /// A client does not want it after all.
    Decline = 4,
    /// The server agrees.
    Ack = 5,
    /// The server does not agree.
    Nak = 6,
}

/// An answer to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Offer, acknowledgement or refusal.
    pub kind: Kind,
    /// The address for us.
    pub address: Ipv4Addr,
    options: BTreeMap<u8, Vec<u8>>,
}

impl Answer {
    /// Reads a message. None when it is not an answer, not to this transaction or this address, or malformed.
    #[must_use]
    pub fn parse(bytes: &[u8], mac: Mac, transaction: u32) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        // BOOTREPLY.
        if header.first() != Some(&2)
            || header.get(4..8)? != transaction.to_be_bytes()
            || header.get(28..34)? != mac.0
            || bytes.get(HEADER..HEADER + 4)? != MAGIC
        {
            return None;
        }
        let mut options = BTreeMap::new();
        read_options(bytes.get(HEADER + 4..)?, &mut options)?;
        // The unused name fields may hold more options: `file` first, then `sname`.
        let overload = options.get(&option::OVERLOAD).and_then(|value| value.first().copied()).unwrap_or(0);
        if overload & 1 != 0 {
            read_options(header.get(108..236)?, &mut options)?;
        }
        if overload & 2 != 0 {
            read_options(header.get(44..108)?, &mut options)?;
        }
        let kind = match options.get(&option::TYPE)?.first()? {
            2 => Kind::Offer,
            5 => Kind::Ack,
            6 => Kind::Nak,
            _ => return None,
        };
        let address = address(header.get(16..20)?)?;
        // A proxy offers boot files to PXE firmware, and no address.
        if kind == Kind::Offer && address.is_unspecified() {
            return None;
        }
        Some(Self { kind, address, options })
    }

    /// The server that sent it.
    #[must_use]
    pub fn server(&self) -> Option<Ipv4Addr> {
        self.addresses(option::SERVER).first().copied()
    }

    /// Why it refuses, in its words.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        self.text(option::MESSAGE)
    }

    /// What it tells about the network.
    #[must_use]
    pub fn network(&self, interface: &str, mac: Mac) -> Network {
        let routes = self.routes();
        // RFC 3442: a server that sends classless routes means just those.
        let gateway = match &routes {
            Some(routes) => routes.iter().find(|route| route.prefix == 0).map(|route| route.gateway),
            None => self.addresses(option::ROUTER).first().copied().map(IpAddr::V4),
        };
        let mask = self.addresses(option::MASK).first().copied().and_then(prefix_of_mask);
        let any = |code| self.addresses(code).into_iter().map(IpAddr::V4).collect();
        let mut network = Network::new(interface, mac, "dhcp", self.address.into(), mask.unwrap_or(24));
        network.gateway = gateway;
        network.routes = routes.unwrap_or_default().into_iter().filter(|route| route.prefix != 0).collect();
        network.dns = any(option::DNS);
        network.ntp = any(option::NTP);
        network.domain = self.text(option::DOMAIN);
        network.search =
            self.options.get(&option::SEARCH).map(|value| super::dns::read_names(value)).unwrap_or_default();
        network.hostname = self.text(option::HOSTNAME);
        // RFC 2132: the smallest legal value is 68.
        network.mtu = self.number(option::MTU).filter(|mtu: &u16| *mtu >= 68);
        network.dhcp_server = self.server().map(IpAddr::V4);
        network.lease_seconds = self.lease();
        network
    }

    /// Seconds after which to ask the server for a longer lease, and after which to ask any server.
    #[must_use]
    pub fn renewal(&self) -> Option<(u32, u32)> {
        // RFC 2131, 4.4.5: half of the lease, and 7/8 of it, where the server names no other times.
        let lease = self.lease().filter(|lease| *lease != u32::MAX)?;
        let rebind = self.seconds(option::REBIND).filter(|t2| *t2 < lease).unwrap_or(lease / 8 * 7);
        let renew = self.seconds(option::RENEW).filter(|t1| *t1 < rebind).unwrap_or(lease / 2);
        // A server that names no time worth the name is not asked all the time.
        let renew = renew.max((lease / 2).clamp(1, SHORTEST_RENEWAL));
        Some((renew, rebind.max(renew)))
    }

    /// Seconds that the lease lasts. An address for no time at all would be none: who says so means something else.
    fn lease(&self) -> Option<u32> {
        self.seconds(option::LEASE).filter(|lease| *lease > 0)
    }

    fn seconds(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.options.get(&code)?.as_slice().try_into().ok()?))
    }

    fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        self.options.get(&code).map(|value| value.chunks_exact(4).filter_map(address).collect()).unwrap_or_default()
    }

    fn number(&self, code: u8) -> Option<u16> {
        Some(u16::from_be_bytes(self.options.get(&code)?.as_slice().try_into().ok()?))
    }

    /// Some servers end their strings with a NUL.
    fn text(&self, code: u8) -> Option<String> {
        let value = self.options.get(&code)?;
        let text = String::from_utf8_lossy(value);
        let text = text.trim_end_matches('\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// RFC 3442: prefix length, as many bytes of the network as it needs, the gateway.
    fn routes(&self) -> Option<Vec<Route>> {
        let routes = self.options.get(&option::ROUTES).or_else(|| self.options.get(&option::OLD_ROUTES));
        let mut bytes = routes?.as_slice();
        let mut routes = Vec::new();
        while let Some((&prefix, rest)) = bytes.split_first() {
            let significant = usize::from(prefix).div_ceil(8);
            if prefix > 32 || rest.len() < significant + 4 {
                break;
            }
            let mut destination = [0; 4];
            for (to, from) in destination.iter_mut().zip(rest.iter().take(significant)) {
                *to = *from;
            }
            // RFC 3442: bits behind the prefix are to be made zero; the kernel wants no route with any.
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let destination = Ipv4Addr::from(u32::from_be_bytes(destination) & mask);
            let gateway = rest.get(significant..significant + 4).and_then(address)?.into();
            routes.push(Route { destination: destination.into(), prefix, gateway });
            bytes = rest.get(significant + 4..).unwrap_or_default();
        }
        Some(routes)
    }
}

/// Collects options; those that come in parts are joined (RFC 3396).
fn read_options(mut bytes: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) -> Option<()> {
    loop {
        match bytes {
            [] | [option::END, ..] => return Some(()),
            [option::PAD, rest @ ..] => bytes = rest,
            [code, length, rest @ ..] => {
                let length = usize::from(*length);
                options.entry(*code).or_default().extend(rest.get(..length)?);
                bytes = rest.get(length..)?;
            }
            [_] => return None,
        }
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = bytes.try_into().ok()?;
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    /// An answer as a server writes it.
    fn answer(kind: u8, options: &[(u8, &[u8])], file_options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[0] = 2;
        bytes[4..8].copy_from_slice(&7_u32.to_be_bytes());
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        bytes[28..34].copy_from_slice(&MAC.0);
        bytes[108..108 + file_options.len()].copy_from_slice(file_options);
        bytes.extend(MAGIC);
        push(&mut bytes, option::TYPE, &[kind]);
        for (code, value) in options {
            push(&mut bytes, *code, value);
        }
        bytes.push(option::END);
        bytes
    }

    #[test]
    fn a_discover_is_what_the_rfc_says() {
        let bytes = Query::Discover.bytes(MAC, 0x0102_0304, 5);
        assert_eq!(&bytes[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 5, 0x80, 0]);
        assert_eq!(&bytes[12..28], [0; 16]);
        assert_eq!(&bytes[28..34], MAC.0);
        assert_eq!(&bytes[HEADER..HEADER + 7], [99, 130, 83, 99, 53, 1, 1]);
        let mut options = BTreeMap::new();
        read_options(&bytes[HEADER + 4..], &mut options).unwrap();
        assert_eq!(options[&option::CLIENT_ID], [1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert!(options[&option::WANTED].contains(&option::MTU));
        assert!(!options.contains_key(&option::REQUESTED_ADDRESS));
        assert!(bytes.len() >= SHORTEST);
    }

    #[test]
    fn a_request_names_address_and_server() {
        let query = Query::Request { address: Ipv4Addr::new(10, 0, 2, 15), server: Ipv4Addr::new(10, 0, 2, 2) };
        let bytes = query.bytes(MAC, 1, 0);
        let mut options = BTreeMap::new();
        read_options(&bytes[HEADER + 4..], &mut options).unwrap();
        assert_eq!(options[&option::TYPE], [3]);
        assert_eq!(options[&option::REQUESTED_ADDRESS], [10, 0, 2, 15]);
        assert_eq!(options[&option::SERVER], [10, 0, 2, 2]);
    }

    #[test]
    fn a_renewal_names_the_address_as_its_own() {
        let bytes = Query::Renew { address: Ipv4Addr::new(10, 0, 2, 15) }.bytes(MAC, 1, 0);
        assert_eq!(&bytes[10..16], [0, 0, 10, 0, 2, 15], "no broadcast flag, since it can be answered directly");
        let mut options = BTreeMap::new();
        read_options(&bytes[HEADER + 4..], &mut options).unwrap();
        assert_eq!(options[&option::TYPE], [3]);
        // RFC 2131, table 5: neither may be there.
        assert!(!options.contains_key(&option::REQUESTED_ADDRESS) && !options.contains_key(&option::SERVER));
    }

    #[test]
    fn who_declines_names_address_and_server_and_asks_for_nothing() {
        let query = Query::Decline { address: Ipv4Addr::new(10, 0, 2, 15), server: Ipv4Addr::new(10, 0, 2, 2) };
        let bytes = query.bytes(MAC, 1, 0);
        assert_eq!(&bytes[8..28], [0; 20]);
        let mut options = BTreeMap::new();
        read_options(&bytes[HEADER + 4..], &mut options).unwrap();
        let codes = [option::REQUESTED_ADDRESS, option::TYPE, option::SERVER, option::MESSAGE, option::CLIENT_ID];
        assert_eq!(options.keys().copied().collect::<Vec<_>>(), codes);
        assert_eq!((options[&option::TYPE][0], &options[&option::REQUESTED_ADDRESS][..]), (4, &[10, 0, 2, 15][..]));
    }

    #[test]
    fn when_to_renew() {
        let renewal = |options: &[(u8, &[u8])]| Answer::parse(&answer(5, options, &[]), MAC, 7).unwrap().renewal();
        assert_eq!(renewal(&[(option::LEASE, &[0, 0, 0, 80])]), Some((40, 70)));
        let told =
            [(option::LEASE, &[0, 0, 3, 32][..]), (option::RENEW, &[0, 0, 0, 100]), (option::REBIND, &[0, 0, 0, 200])];
        assert_eq!(renewal(&told), Some((100, 200)));
        let hasty = [(option::LEASE, &[0, 0, 3, 32][..]), (option::RENEW, &[0; 4]), (option::REBIND, &[0, 0, 0, 1])];
        assert_eq!(renewal(&hasty), Some((60, 60)));
        assert_eq!(renewal(&[(option::LEASE, &[0, 0, 0, 1])]), Some((1, 1)));
        let nonsense = [(option::LEASE, &[0, 0, 0, 80][..]), (option::RENEW, &[0, 0, 0, 90])];
        assert_eq!(renewal(&nonsense), Some((40, 70)));
        assert_eq!(renewal(&[(option::LEASE, &[255; 4])]), None, "for ever");
        assert_eq!(renewal(&[]), None);
        let for_no_time = Answer::parse(&answer(5, &[(option::LEASE, &[0; 4])], &[]), MAC, 7).unwrap();
        assert_eq!((for_no_time.renewal(), for_no_time.network("eth0", MAC).lease_seconds), (None, None));
    }

    #[test]
    fn an_acknowledgement_becomes_a_network() {
        let bytes = answer(
            5,
            &[
                (option::MASK, &[255, 255, 254, 0]),
                (option::ROUTER, &[10, 0, 2, 2, 10, 0, 2, 3]),
                (option::DNS, &[10, 0, 2, 3, 9, 9, 9, 9]),
                (option::HOSTNAME, b"node7\0"),
                (option::DOMAIN, b"example.com"),
                (option::MTU, &[0x23, 0x28]),
                (option::NTP, &[10, 0, 2, 9]),
                (option::LEASE, &[0, 1, 0x51, 0x80]),
                (option::SERVER, &[10, 0, 2, 2]),
                (option::SEARCH, b"\x03lab\x07example\x03com\0\x03sub\xc0\0"),
            ],
            &[],
        );
        let network = Answer::parse(&bytes, MAC, 7).unwrap().network("eth0", MAC);
        assert_eq!((network.address, network.prefix), ([10, 0, 2, 15].into(), 23));
        assert_eq!(network.gateway, Some([10, 0, 2, 2].into()));
        assert_eq!(network.dns.len(), 2);
        assert_eq!(network.hostname.as_deref(), Some("node7"));
        assert_eq!(network.domain.as_deref(), Some("example.com"));
        assert_eq!(network.search, ["lab.example.com", "sub.lab.example.com"]);
        assert_eq!((network.mtu, network.lease_seconds), (Some(9000), Some(86400)));
        assert_eq!(network.dhcp_server, Some([10, 0, 2, 2].into()));
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let routes = [24, 192, 168, 7, 10, 0, 2, 9, 0, 10, 0, 2, 1, 32, 10, 9];
        let expected = Route { destination: [192, 168, 7, 0].into(), prefix: 24, gateway: [10, 0, 2, 9].into() };
        for code in [option::ROUTES, option::OLD_ROUTES] {
            let bytes = answer(5, &[(option::ROUTER, &[10, 0, 2, 2]), (code, &routes)], &[]);
            let network = Answer::parse(&bytes, MAC, 7).unwrap().network("eth0", MAC);
            assert_eq!(network.gateway, Some([10, 0, 2, 1].into()));
            assert_eq!(network.routes, [expected]);
        }
    }

    #[test]
    fn bits_behind_a_routes_prefix_are_made_zero() {
        let routes = [25, 10, 17, 200, 3, 10, 0, 2, 9, 12, 172, 31, 10, 0, 2, 9, 32, 10, 9, 9, 9, 10, 0, 2, 9];
        let bytes = answer(5, &[(option::ROUTES, &routes)], &[]);
        let network = Answer::parse(&bytes, MAC, 7).unwrap().network("eth0", MAC);
        let shown: Vec<String> = network.routes.iter().map(|r| format!("{}/{}", r.destination, r.prefix)).collect();
        assert_eq!(shown, ["10.17.200.0/25", "172.16.0.0/12", "10.9.9.9/32"]);
    }

    #[test]
    fn long_and_overloaded_options_are_joined() {
        let bytes = answer(
            2,
            &[(option::HOSTNAME, b"no"), (option::OVERLOAD, &[1]), (option::HOSTNAME, b"de")],
            &[option::DOMAIN, 3, b'l', b'a', b'b', option::END],
        );
        let network = Answer::parse(&bytes, MAC, 7).unwrap().network("eth0", MAC);
        assert_eq!((network.hostname.as_deref(), network.domain.as_deref()), (Some("node"), Some("lab")));
    }

    #[test]
    fn what_is_not_for_us_or_broken_is_no_answer() {
        let good = answer(2, &[], &[]);
        assert!(Answer::parse(&good, MAC, 7).is_some());
        assert!(Answer::parse(&good, MAC, 8).is_none());
        assert!(Answer::parse(&good, Mac([2; 6]), 7).is_none());
        assert!(Answer::parse(&answer(1, &[], &[]), MAC, 7).is_none());
        let mut proxy = good.clone();
        proxy[16..20].fill(0);
        assert!(Answer::parse(&proxy, MAC, 7).is_none(), "no address");
        let mut request = good.clone();
        request[0] = 1;
        assert!(Answer::parse(&request, MAC, 7).is_none());
        for length in 0..good.len() - 1 {
            // Never a panic, and without its type no answer.
            let cut = Answer::parse(&good[..length], MAC, 7);
            assert!(cut.is_none() || length >= HEADER + 7, "{length}");
        }
        let mut beyond = answer(2, &[], &[]);
        beyond.pop();
        beyond.extend([option::DNS, 200, 1]);
        assert!(Answer::parse(&beyond, MAC, 7).is_none());
    }
}
