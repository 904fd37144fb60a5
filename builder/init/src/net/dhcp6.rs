//! DHCPv6 messages: RFC 8415, name servers and domains (RFC 3646), time servers (RFC 5908). Bytes in, bytes out; the
//! conversation is in `client6`.

use std::net::Ipv6Addr;

use super::Mac;
use super::dhcp::SHORTEST_RENEWAL;

/// Where servers and relays listen.
pub const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Their port.
pub const SERVER_PORT: u16 = 547;
/// Ours.
pub const CLIENT_PORT: u16 = 546;
const HEADER: usize = 4;

mod option {
    pub(super) const CLIENT_ID: u16 = 1;
    pub(super) const SERVER_ID: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const WANTED: u16 = 6;
    pub(super) const ELAPSED: u16 = 8;
    pub(super) const STATUS: u16 = 13;
    pub(super) const DNS: u16 = 23;
    pub(super) const SEARCH: u16 = 24;
    pub(super) const NTP: u16 = 56;
}
/// `NTP_SUBOPTION_SRV_ADDR` of RFC 5908.
const NTP_ADDRESS: u16 = 1;

/// A client's identifier, made of its address alone: firmware, initrd and system are then one client. systemd-networkd
/// makes the same with `DUIDType=link-layer`.
#[must_use]
pub fn duid(mac: Mac) -> Vec<u8> {
    // DUID-LL, Ethernet.
    let mut duid = vec![0, 3, 0, 1];
    duid.extend(mac.0);
    duid
}

/// The number of the one association that a client has; systemd-networkd is told to use the same.
#[must_use]
pub fn iaid(mac: Mac) -> u32 {
    let [_, _, a, b, c, d] = mac.0;
    u32::from_be_bytes([a, b, c, d])
}

/// What we send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Who has an address for me?
    Solicit,
    /// I take this one.
    Request {
        /// The server that advertised it.
        server: Vec<u8>,
        /// The address.
        address: Ipv6Addr,
    },
    /// Let me keep this one.
    Renew {
        /// The server that gave it.
        server: Vec<u8>,
        /// The address.
        address: Ipv6Addr,
    },
    /// Let me keep this one, whoever you are.
    Rebind {
        /// The address.
        address: Ipv6Addr,
    },
    /// I have an address, and want to know the rest.
    Information,
}

impl Query {
    /// The message's bytes. `hundredths` is how long we have been trying.
    #[must_use]
    pub fn bytes(&self, mac: Mac, transaction: u32, hundredths: u16) -> Vec<u8> {
        let kind = match self {
            Self::Solicit => 1,
            Self::Request { .. } => 3,
            Self::Renew { .. } => 5,
            Self::Rebind { .. } => 6,
            Self::Information => 11,
        };
        let [_, a, b, c] = transaction.to_be_bytes();
        let mut bytes = vec![kind, a, b, c];
        push(&mut bytes, option::CLIENT_ID, &duid(mac));
        push(&mut bytes, option::ELAPSED, &hundredths.to_be_bytes());
        let wanted: Vec<u8> =
            [option::DNS, option::SEARCH, option::NTP].iter().flat_map(|code| code.to_be_bytes()).collect();
        push(&mut bytes, option::WANTED, &wanted);
        if let Self::Request { server, .. } | Self::Renew { server, .. } = self {
            push(&mut bytes, option::SERVER_ID, server);
        }
        if *self == Self::Information {
            return bytes;
        }
        // Identifier; no wish for T1 and T2.
        let mut association = iaid(mac).to_be_bytes().to_vec();
        association.extend([0; 8]);
        if let Self::Request { address, .. } | Self::Renew { address, .. } | Self::Rebind { address } = self {
            let mut wish = address.octets().to_vec();
            wish.extend([0; 8]);
            push(&mut association, option::ADDRESS, &wish);
        }
        push(&mut bytes, option::IA_NA, &association);
        bytes
    }
}

fn push(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    bytes.extend(code.to_be_bytes());
    bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(value);
}

/// A message's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A server could give an address.
    Advertise,
    /// It does.
    Reply,
}

/// An address and how long it is preferred and valid, in seconds.
pub type Lease = (Ipv6Addr, u32, u32);

/// An answer to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Advertisement or reply.
    pub kind: Kind,
    /// The server's identifier.
    pub server: Vec<u8>,
    /// The address for us.
    pub lease: Option<Lease>,
    /// T1 and T2: seconds after which to ask the server, and any server, to prolong it; 0 leaves that to us.
    times: (u32, u32),
    /// What the server says is wrong: its code, and its words.
    pub trouble: Option<(u16, String)>,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains to search.
    pub search: Vec<String>,
    /// Time servers.
    pub ntp: Vec<Ipv6Addr>,
}

impl Answer {
    /// Reads a message. None when it is not an answer, not to this transaction or client, or malformed.
    #[must_use]
    pub fn parse(bytes: &[u8], mac: Mac, transaction: u32) -> Option<Self> {
        let kind = match bytes.first()? {
            2 => Kind::Advertise,
            7 => Kind::Reply,
            _ => return None,
        };
        let [_, a, b, c] = transaction.to_be_bytes();
        if bytes.get(1..HEADER)? != [a, b, c] {
            return None;
        }
        let mut answer = Self {
            kind,
            server: Vec::new(),
            lease: None,
            times: (0, 0),
            trouble: None,
            dns: Vec::new(),
            search: Vec::new(),
            ntp: Vec::new(),
        };
        let mut is_ours = false;
        for (code, value) in options(bytes.get(HEADER..)?)? {
            match code {
                option::CLIENT_ID => is_ours = value == duid(mac),
                option::SERVER_ID => answer.server = value.to_vec(),
                option::DNS => answer.dns.extend(addresses(value)),
                option::SEARCH => answer.search.extend(super::dns::read_names(value)),
                option::NTP => {
                    let servers = options(value)?.into_iter().filter(|(code, _)| *code == NTP_ADDRESS);
                    answer.ntp.extend(servers.flat_map(|(_, value)| addresses(value)));
                }
                option::STATUS => answer.status(value),
                option::IA_NA => answer.association(value, mac)?,
                _ => {}
            }
        }
        (is_ours && !answer.server.is_empty()).then_some(answer)
    }

    /// Seconds after which to ask the server to prolong the lease, and after which to ask any server; none is for ever.
    #[must_use]
    pub fn renewal(&self) -> Option<(u32, u32)> {
        let (_, preferred, valid) = self.lease.filter(|(_, _, valid)| *valid != u32::MAX)?;
        // RFC 8415, 21.4: half of the preferred lifetime, and 8/10 of it, where the server names no other times.
        let lifetime = if preferred == 0 { valid } else { preferred.min(valid) };
        let (t1, t2) = self.times;
        let rebind = if t2 > 0 && t2 < valid { t2 } else { lifetime / 10 * 8 };
        let renew = if t1 > 0 && t1 <= rebind { t1 } else { lifetime / 2 };
        let renew = renew.max((lifetime / 2).clamp(1, SHORTEST_RENEWAL));
        Some((renew, rebind.max(renew)))
    }

    fn association(&mut self, value: &[u8], mac: Mac) -> Option<()> {
        if value.get(..4)? != iaid(mac).to_be_bytes() {
            return Some(());
        }
        let number = |at| Some(u32::from_be_bytes(value.get(at..at + 4)?.try_into().ok()?));
        self.times = (number(4)?, number(8)?);
        for (code, value) in options(value.get(12..)?)? {
            match code {
                option::ADDRESS => {
                    let address = addresses(value.get(..16)?).next()?;
                    let seconds = |at| Some(u32::from_be_bytes(value.get(at..at + 4)?.try_into().ok()?));
                    let (preferred, valid) = (seconds(16)?, seconds(20)?);
                    if valid > 0 && preferred <= valid {
                        self.lease = self.lease.or(Some((address, preferred, valid)));
                    }
                }
                option::STATUS => self.status(value),
                _ => {}
            }
        }
        Some(())
    }

    fn status(&mut self, value: &[u8]) {
        let code = value.get(..2).and_then(|code| code.try_into().ok()).map(u16::from_be_bytes);
        let words = String::from_utf8_lossy(value.get(2..).unwrap_or_default()).into_owned();
        // 0 is "success".
        self.trouble = code.filter(|code| *code != 0).map(|code| (code, words)).or(self.trouble.take());
    }
}

fn options(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let number = |at| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let (code, length) = (number(0)?, usize::from(number(2)?));
        found.push((code, bytes.get(4..)?.get(..length)?));
        bytes = bytes.get(4 + length..)?;
    }
    Some(found)
}

fn addresses(value: &[u8]) -> impl Iterator<Item = Ipv6Addr> + '_ {
    value.chunks_exact(16).filter_map(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const ADDRESS: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77];

    fn association(options: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = iaid(MAC).to_be_bytes().to_vec();
        bytes.extend([0; 8]);
        for (code, value) in options {
            push(&mut bytes, *code, value);
        }
        bytes
    }

    fn leased() -> Vec<u8> {
        let mut lease = ADDRESS.to_vec();
        lease.extend([0, 0, 2, 88, 0, 0, 14, 16]);
        association(&[(option::ADDRESS, lease)])
    }

    fn answer(kind: u8, options: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![kind, 0x12, 0x34, 0x56];
        push(&mut bytes, option::CLIENT_ID, &duid(MAC));
        push(&mut bytes, option::SERVER_ID, b"server");
        for (code, value) in options {
            push(&mut bytes, *code, value);
        }
        bytes
    }

    #[test]
    fn a_solicitation_is_what_the_rfc_says() {
        let bytes = Query::Solicit.bytes(MAC, 0xff12_3456, 7);
        assert_eq!(bytes[..4], [1, 0x12, 0x34, 0x56]);
        assert_eq!(bytes[4..18], [0, 1, 0, 10, 0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(bytes[18..24], [0, 8, 0, 2, 0, 7]);
        assert_eq!(bytes[34..], [0, 3, 0, 12, 0, 0x12, 0x34, 0x56, 0, 0, 0, 0, 0, 0, 0, 0]);
        let information = Query::Information.bytes(MAC, 1, 0);
        assert_eq!((information[0], information.len()), (11, 34));
        let request = Query::Request { server: b"server".to_vec(), address: ADDRESS.into() }.bytes(MAC, 1, 0);
        assert_eq!(request[0], 3);
        assert!(request.windows(16).any(|window| window == ADDRESS));
        let renew = Query::Renew { server: b"server".to_vec(), address: ADDRESS.into() }.bytes(MAC, 1, 0);
        assert_eq!((renew[0], &renew[1..]), (5, &request[1..]));
        let rebind = Query::Rebind { address: ADDRESS.into() }.bytes(MAC, 1, 0);
        assert_eq!((rebind[0], rebind.len()), (6, request.len() - 10), "without the server's identifier");
    }

    #[test]
    fn a_reply_has_an_address_and_the_rest() {
        let mut ntp = Vec::new();
        push(&mut ntp, NTP_ADDRESS, &ADDRESS);
        let bytes = answer(
            7,
            &[
                (option::IA_NA, leased()),
                (option::DNS, [ADDRESS, ADDRESS].concat()),
                (option::SEARCH, b"\x03lab\x07example\0".to_vec()),
                (option::NTP, ntp),
                (option::STATUS, vec![0, 0]),
            ],
        );
        let read = Answer::parse(&bytes, MAC, 0x12_3456).unwrap();
        assert_eq!((read.kind, read.lease), (Kind::Reply, Some((ADDRESS.into(), 600, 3600))));
        assert_eq!((read.dns.len(), read.ntp.len(), read.trouble), (2, 1, None));
        assert_eq!((read.search, read.server), (vec!["lab.example".to_owned()], b"server".to_vec()));
    }

    #[test]
    fn when_to_renew() {
        let renewal = |t1: u32, t2: u32, preferred: u32, valid: u32| {
            let lifetimes = [&ADDRESS[..], &preferred.to_be_bytes(), &valid.to_be_bytes()].concat();
            let mut bytes = association(&[(option::ADDRESS, lifetimes)]);
            bytes[4..8].copy_from_slice(&t1.to_be_bytes());
            bytes[8..12].copy_from_slice(&t2.to_be_bytes());
            Answer::parse(&answer(7, &[(option::IA_NA, bytes)]), MAC, 0x12_3456).unwrap().renewal()
        };
        assert_eq!(renewal(0, 0, 600, 3600), Some((300, 480)));
        assert_eq!(renewal(100, 200, 600, 3600), Some((100, 200)));
        assert_eq!(renewal(1, 1, 600, 3600), Some((60, 60)), "not all the time");
        assert_eq!(renewal(900, 100, 600, 3600), Some((300, 300)));
        assert_eq!(renewal(0, 0, 0, 3600), Some((1800, 2880)));
        assert_eq!(renewal(0, 0, 1, 1), Some((1, 1)));
        assert_eq!(renewal(u32::MAX, u32::MAX, u32::MAX, u32::MAX), None, "for ever");
    }

    #[test]
    fn refusals_carry_the_servers_words() {
        let none = association(&[(option::STATUS, b"\0\x02none left".to_vec())]);
        let read = Answer::parse(&answer(2, &[(option::IA_NA, none)]), MAC, 0x12_3456).unwrap();
        assert_eq!((read.lease, read.trouble), (None, Some((2, "none left".into()))));
    }

    #[test]
    fn what_is_not_for_us_or_broken_is_no_answer() {
        let good = answer(7, &[(option::IA_NA, leased())]);
        assert!(Answer::parse(&good, MAC, 0x12_3457).is_none());
        assert!(Answer::parse(&good, Mac([2; 6]), 0x12_3456).is_none());
        assert!(Answer::parse(&answer(1, &[]), MAC, 0x12_3456).is_none());
        for length in 0..good.len() {
            let cut = Answer::parse(&good[..length], MAC, 0x12_3456);
            assert!(cut.is_none() || length == 28, "{length}");
        }
        let mut over = leased();
        let at = over.len() - 4;
        over[at..].fill(0);
        assert_eq!(Answer::parse(&answer(7, &[(option::IA_NA, over)]), MAC, 0x12_3456).unwrap().lease, None);
    }
}
