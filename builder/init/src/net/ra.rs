//! Router advertisements: RFC 4861, with name servers and domains (RFC 8106). Bytes in, facts out. Addresses and routes
//! are made by the kernel; this is what it does not tell.

use std::net::Ipv6Addr;

/// Asks all routers of the link to advertise: type 133, no options, since the sender may have no address yet.
pub const SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];
const ADVERTISEMENT: u8 = 134;
const HEADER: usize = 16;
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const AUTONOMOUS: u8 = 0x40;

mod option {
    pub(super) const PREFIX: u8 = 3;
    pub(super) const MTU: u8 = 5;
    pub(super) const DNS: u8 = 25;
    pub(super) const SEARCH: u8 = 31;
}

/// What a router says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertisement {
    /// Addresses come by DHCPv6.
    pub managed: bool,
    /// Name servers and the like come by DHCPv6.
    pub other: bool,
    /// Whether it is a default router.
    pub is_default: bool,
    /// Whether one of its prefixes is for nodes to make addresses with.
    pub autonomous: bool,
    /// MTU of the link in bytes.
    pub mtu: Option<u16>,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains to search.
    pub search: Vec<String>,
}

impl Advertisement {
    /// Reads an ICMPv6 message; none when it is another one, or broken.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        if header.first() != Some(&ADVERTISEMENT) || header.get(1) != Some(&0) {
            return None;
        }
        let flags = *header.get(5)?;
        let mut this = Self {
            managed: flags & MANAGED != 0,
            other: flags & OTHER != 0,
            is_default: header.get(6..8)? != [0, 0],
            ..Self::default()
        };
        let mut options = bytes.get(HEADER..)?;
        while let Some((kind, rest)) = options.split_first() {
            // In units of 8 bytes, its two bytes of header included.
            let length = usize::from(*rest.first()?) * 8;
            if length == 0 {
                return None;
            }
            this.take(*kind, options.get(..length)?);
            options = options.get(length..)?;
        }
        Some(this)
    }

    fn take(&mut self, kind: u8, option: &[u8]) {
        let lifetime = || option.get(4..8).is_some_and(|lifetime| lifetime != [0; 4]);
        match kind {
            option::PREFIX => {
                let is_valid = option.get(4..8).is_some_and(|valid| valid != [0; 4]);
                self.autonomous |= is_valid && option.get(3).is_some_and(|flags| flags & AUTONOMOUS != 0);
            }
            option::MTU => {
                let mtu = option.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
                // RFC 8200: no link of IPv6 has less.
                self.mtu = mtu.and_then(|mtu| u16::try_from(mtu).ok()).filter(|mtu| *mtu >= 1280);
            }
            option::DNS if lifetime() => {
                let servers = option.get(8..).unwrap_or_default().chunks_exact(16);
                self.dns.extend(servers.filter_map(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(Ipv6Addr::from));
            }
            option::SEARCH if lifetime() => {
                self.search.extend(super::dns::read_names(option.get(8..).unwrap_or_default()))
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As radvd sends it: managed and other, a prefix, MTU 1400, one name server, two domains.
    fn advertisement() -> Vec<u8> {
        let mut bytes = vec![134, 0, 0, 0, 64, 0xc0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([3, 4, 64, 0xc0, 0, 1, 81, 128, 0, 0, 56, 64, 0, 0, 0, 0]);
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([5, 1, 0, 0, 0, 0, 5, 0x78]);
        bytes.extend([25, 3, 0, 0, 0, 0, 2, 88, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53]);
        bytes.extend([31, 3, 0, 0, 0, 0, 2, 88]);
        // One byte of padding.
        bytes.extend(b"\x03lab\0\x01b\x06exampl\0\0");
        bytes
    }

    #[test]
    fn everything_that_a_router_says() {
        let read = Advertisement::parse(&advertisement()).unwrap();
        let expected = Advertisement {
            managed: true,
            other: true,
            is_default: true,
            autonomous: true,
            mtu: Some(1400),
            dns: vec!["2001:db8::53".parse().unwrap()],
            search: vec!["lab".into(), "b.exampl".into()],
        };
        assert_eq!(read, expected);
        let mut bytes = advertisement();
        bytes[5..8].fill(0);
        let read = Advertisement::parse(&bytes).unwrap();
        assert!(!read.managed && !read.other && !read.is_default);
    }

    #[test]
    fn what_is_withdrawn_does_not_count() {
        let mut bytes = advertisement();
        bytes[20..24].fill(0);
        bytes[60..64].fill(0);
        bytes[84..88].fill(0);
        let read = Advertisement::parse(&bytes).unwrap();
        assert_eq!((read.autonomous, read.dns.len(), read.search.len()), (false, 0, 0));
    }

    #[test]
    fn other_messages_and_broken_ones() {
        let mut solicitation = advertisement();
        solicitation[0] = 133;
        assert_eq!(Advertisement::parse(&solicitation), None);
        let mut endless = advertisement();
        endless[17] = 0;
        assert_eq!(Advertisement::parse(&endless), None);
        for length in 0..advertisement().len() {
            // Never a panic; whole options only.
            let cut = Advertisement::parse(&advertisement()[..length]);
            assert!(cut.is_none() || [16, 48, 56, 80].contains(&length), "{length}");
        }
    }
}
