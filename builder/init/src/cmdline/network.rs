//! What the command line says of the network: the kernel's `ip=`, and dracut's spelling of it, of `vlan=`, `bond=`,
//! `ifname=` and `nameserver=`.

use std::net::{IpAddr, Ipv4Addr};

use crate::net::Mac;
use crate::net::bond::Bond;

/// The longest name of an interface that Linux takes, in bytes.
const LONGEST_NAME: usize = 15;
/// How many fields a MAC address has.
const MAC_FIELDS: usize = 6;

/// How an interface is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicName {
    /// By its address, which is the same in the initrd and in the system.
    Mac(Mac),
    /// By the kernel's name, which may not be.
    Name(String),
}

impl NicName {
    /// Reads a MAC, or takes it for a name; none if it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match Mac::parse(text) {
            Some(mac) => Some(Self::Mac(mac)),
            None => is_interface_name(text).then(|| Self::Name(text.to_owned())),
        }
    }

    /// Whether an interface with this name and address is meant.
    #[must_use]
    pub fn means(&self, name: &str, mac: Mac) -> bool {
        match self {
            Self::Mac(wanted) => *wanted == mac,
            Self::Name(wanted) => wanted == name,
        }
    }
}

impl std::fmt::Display for NicName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The kernel's `ip=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ip {
    /// From the network, on one interface or on any.
    Dhcp(Families, Option<NicName>),
    /// As given.
    Static(Box<Static>),
    /// Not at all.
    Off,
}

/// Which protocols to get an address by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// DHCP for IPv4, and IPv6 as its routers say, at once.
    Both,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Static addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Static {
    /// The node's addresses with the length of their network's prefix in bits; one of each family at most, and at least
    /// one.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default gateways, one of each family at most.
    pub gateways: Vec<IpAddr>,
    /// Host name.
    pub hostname: Option<String>,
    /// Interface; none is the one chosen otherwise.
    pub device: Option<NicName>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: Option<u16>,
}

impl Static {
    /// Takes in a second `ip=`, for the other family on the same interface.
    fn merge(&mut self, other: Self) -> Result<(), String> {
        let is_same_family = |(a, _): &(IpAddr, u8), (b, _): &(IpAddr, u8)| a.is_ipv4() == b.is_ipv4();
        if self.device != other.device
            || self.addresses.iter().any(|a| other.addresses.iter().any(|b| is_same_family(a, b)))
        {
            return Err("the initrd configures one interface, with one address of each family; leave others to the \
                        system"
                .into());
        }
        self.addresses.extend(other.addresses);
        self.gateways.extend(other.gateways);
        self.dns.extend(other.dns);
        self.ntp.extend(other.ntp);
        self.hostname = self.hostname.take().or(other.hostname);
        self.mtu = self.mtu.or(other.mtu);
        Ok(())
    }
}

/// dracut's `vlan=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// What its interface is called.
    pub name: String,
    /// 1 to 4094.
    pub id: u16,
    /// Over which interface; none is the one chosen otherwise.
    pub parent: Option<NicName>,
}

/// Adds an `ip=` to what others said before.
pub(super) fn add_ip(before: Option<Ip>, text: &str) -> Result<Ip, String> {
    let this = parse_ip(text)?;
    match (before, this) {
        (None, this) => Ok(this),
        (Some(before), this) if before == this => Ok(this),
        (Some(Ip::Static(mut before)), Ip::Static(this)) => {
            before.merge(*this)?;
            Ok(Ip::Static(before))
        }
        (Some(_), _) => Err("another ip= before it says something else; the initrd configures one interface".into()),
    }
}

/// `ip=dhcp`, dracut's `ip=DEVICE:dhcp`, or the kernel's
/// `ip=CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF:DNS0:DNS1:NTP0`, where dracut has `MTU:MAC` for the last
/// three. IPv6 addresses stand in brackets.
fn parse_ip(text: &str) -> Result<Ip, String> {
    let fields = split(text)?;
    match fields.as_slice() {
        [method] if address(method).is_none() => return autoconf(method, None),
        // A MAC with colons is six fields: it has to be written with dashes.
        [device, method, ..] if !method.is_empty() && address(device).is_none() && address(method).is_none() => {
            let mtu_and_mac = fields.get(2..).unwrap_or_default();
            if mtu_and_mac.iter().any(|field| !field.is_empty()) {
                return Err("an MTU or MAC after the method is not known here; the network's MTU is used".into());
            }
            return autoconf(method, Some(interface(device)?));
        }
        _ => {}
    }
    let field = |index: usize| fields.get(index).copied().filter(|field| !field.is_empty());
    let wanted = |index: usize, what: &str| match field(index) {
        Some(text) => address(text).map(Some).ok_or_else(|| format!("`{text}` is not {what}")),
        None => Ok(None),
    };
    let device = field(5).map(interface).transpose()?;
    let Some(client) = wanted(0, "an IP address (IPv6 ones stand in brackets)")? else {
        return autoconf(field(6).unwrap_or("any"), device);
    };
    let gateway = wanted(2, "the address of a gateway")?;
    if gateway.is_some_and(|gateway| gateway.is_ipv4() != client.is_ipv4()) {
        return Err("address and gateway are not of one family".into());
    }
    let (mtu, dns, ntp) = match field(7).and_then(|text| text.parse::<u16>().ok()) {
        Some(mtu) if mtu >= 68 => {
            if fields.len() > 8 && fields.len() != 8 + MAC_FIELDS {
                return Err("after the MTU only a MAC address may follow".into());
            }
            (Some(mtu), Vec::new(), Vec::new())
        }
        Some(mtu) => return Err(format!("{mtu} is not an MTU")),
        None => {
            let servers = [wanted(7, "the address of a name server")?, wanted(8, "the address of a name server")?];
            let ntp = wanted(9, "the address of a time server")?;
            (None, servers.into_iter().flatten().collect(), ntp.into_iter().collect())
        }
    };
    Ok(Ip::Static(Box::new(Static {
        addresses: vec![(client, prefix(field(3), client)?)],
        gateways: gateway.into_iter().collect(),
        hostname: field(4).map(str::to_owned),
        device,
        dns,
        ntp,
        mtu,
    })))
}

/// Fields between colons; those in brackets are in one.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let mut fields = Vec::new();
    let mut begin = 0;
    let mut inside = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => inside = true,
            b']' => inside = false,
            b':' if !inside => {
                fields.push(text.get(begin..at).unwrap_or_default());
                begin = at + 1;
            }
            _ => {}
        }
    }
    fields.push(text.get(begin..).unwrap_or_default());
    if inside { Err("a bracket is not closed".into()) } else { Ok(fields) }
}

/// An address as it stands in a field: IPv6 in brackets.
fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    }
}

/// An address in or without brackets, as `nameserver=` has it.
pub(super) fn server(text: &str) -> Result<IpAddr, String> {
    text.trim_matches(['[', ']']).parse().map_err(|_| "expected an IP address".to_owned())
}

fn autoconf(method: &str, device: Option<NicName>) -> Result<Ip, String> {
    match method {
        "on" | "any" | "both" => Ok(Ip::Dhcp(Families::Both, device)),
        "dhcp" => Ok(Ip::Dhcp(Families::V4, device)),
        // Routers say how: by addresses made of their prefix, by DHCPv6, or both.
        "dhcp6" | "auto6" | "either6" => Ok(Ip::Dhcp(Families::V6, device)),
        "off" | "none" => Ok(Ip::Off),
        other => Err(format!(
            "`{other}` is not a way to get an address; dhcp, dhcp6, auto6, any, a static address and off are known"
        )),
    }
}

/// A netmask in any of its spellings; without one, that of the address's class, as the kernel does, or IPv6's usual 64.
fn prefix(mask: Option<&str>, address: IpAddr) -> Result<u8, String> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    match (mask, address) {
        (Some(mask), _) => {
            let number = mask.parse::<u8>().ok().filter(|bits| *bits <= longest);
            let dotted = || mask.parse::<Ipv4Addr>().ok().filter(|_| address.is_ipv4()).and_then(prefix_of_mask);
            number.or_else(dotted).ok_or_else(|| format!("`{mask}` is not a netmask"))
        }
        (None, IpAddr::V4(address)) => Ok(match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        }),
        (None, IpAddr::V6(_)) => Ok(64),
    }
}

/// Length of the prefix that a netmask stands for; none when its ones are not all in front.
#[must_use]
pub fn prefix_of_mask(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then(|| u8::try_from(ones).ok()).flatten()
}

/// `NAME:PARENT`, with the id at the end of the name: `vlan0005:eth0`, `vlan5:eth0`, `eth0.0005:eth0`, `eth0.5:eth0`.
/// The parent may be a MAC with dashes; where there is none, it is what stands before the dot, else the interface chosen
/// otherwise. A bare number is an id, too.
pub(super) fn parse_vlan(text: &str) -> Result<Vlan, String> {
    let (name, parent) = match text.split_once(':') {
        Some((name, parent)) => (name, Some(parent)),
        None => (text, text.rsplit_once('.').map(|(parent, _)| parent)),
    };
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let id = name.get(name.len() - digits..).and_then(|digits| digits.parse().ok());
    let id = id.filter(|id| (1..=4094).contains(id)).ok_or_else(|| {
        "expected NAME:PARENT with the id, 1 to 4094, at the end of the name, as in vlan5:eth0 or eth0.5".to_owned()
    })?;
    let name = if digits == name.len() { format!("vlan{id}") } else { name.to_owned() };
    if !is_interface_name(&name) {
        return Err(format!("`{name}` is not a name of an interface"));
    }
    Ok(Vlan { name, id, parent: parent.map(interface).transpose()? })
}

/// `NAME:MEMBER,MEMBER:OPTION=VALUE,OPTION=VALUE:MTU`; members may be MACs with dashes.
pub(super) fn parse_bond(text: &str) -> Result<Bond, String> {
    let mut fields = text.split(':');
    let mut next = || fields.next().filter(|field| !field.is_empty());
    let name = next().unwrap_or("bond0").to_owned();
    let members = next().unwrap_or("eth0,eth1").split(',').map(interface).collect::<Result<Vec<_>, _>>()?;
    let options = next().unwrap_or_default().to_owned();
    let mtu =
        next().map(|mtu| mtu.parse().ok().filter(|mtu| *mtu >= 68).ok_or_else(|| format!("`{mtu}` is not an MTU")));
    let mtu = mtu.transpose()?;
    if fields.next().is_some() {
        return Err("expected NAME:MEMBER,MEMBER:OPTION=VALUE,…:MTU; write MACs with dashes".into());
    }
    if !is_interface_name(&name) {
        return Err(format!("`{name}` is not a name of an interface"));
    }
    Bond::new(name, members, &options, mtu)
}

/// `NAME:MAC`.
pub(super) fn parse_ifname(text: &str) -> Result<(String, Mac), String> {
    let named = text.split_once(':').and_then(|(name, mac)| Some((name.to_owned(), Mac::parse(mac)?)));
    named.filter(|(name, _)| is_interface_name(name)).ok_or_else(|| "expected NAME:52:54:00:12:34:56".into())
}

fn interface(text: &str) -> Result<NicName, String> {
    NicName::parse(text).ok_or_else(|| format!("`{text}` is neither a name of an interface nor a MAC with dashes"))
}

/// What Linux takes as one, and sysfs as a folder.
fn is_interface_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST_NAME
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%' | b'[' | b']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn name(text: &str) -> NicName {
        NicName::Name(text.to_owned())
    }

    fn fixed(text: &str) -> Static {
        match parse_ip(text) {
            Ok(Ip::Static(address)) => *address,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_way_to_get_an_address() {
        for (text, expected) in [
            ("dhcp", Ip::Dhcp(Families::V4, None)),
            ("on", Ip::Dhcp(Families::Both, None)),
            ("any", Ip::Dhcp(Families::Both, None)),
            ("dhcp6", Ip::Dhcp(Families::V6, None)),
            ("auto6", Ip::Dhcp(Families::V6, None)),
            ("none", Ip::Off),
            ("off", Ip::Off),
            ("eth1:dhcp", Ip::Dhcp(Families::V4, Some(name("eth1")))),
            ("52-54-00-12-34-56:dhcp", Ip::Dhcp(Families::V4, Some(NicName::Mac(MAC)))),
            ("bond0.12:either6", Ip::Dhcp(Families::V6, Some(name("bond0.12")))),
            (":::::eth1:dhcp", Ip::Dhcp(Families::V4, Some(name("eth1")))),
            ("::::n7:eth1:any", Ip::Dhcp(Families::Both, Some(name("eth1")))),
            (":::::eth1:", Ip::Dhcp(Families::Both, Some(name("eth1")))),
        ] {
            assert_eq!(parse_ip(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_kernels_fields() {
        let full =
            fixed("10.1.2.3:10.1.2.1:10.1.2.254:255.255.254.0:n1:52-54-00-12-34-56:off:9.9.9.9:8.8.8.8:10.1.2.9");
        assert_eq!(full.addresses, [([10, 1, 2, 3].into(), 23)]);
        assert_eq!(full.gateways, [IpAddr::from([10, 1, 2, 254])]);
        assert_eq!(full.hostname.as_deref(), Some("n1"));
        assert_eq!(full.device, Some(NicName::Mac(MAC)));
        assert_eq!(full.dns, [IpAddr::from([9, 9, 9, 9]), [8, 8, 8, 8].into()]);
        assert_eq!(full.ntp, [IpAddr::from([10, 1, 2, 9])]);
        let short = fixed("172.16.0.5:::");
        assert_eq!((short.addresses, short.gateways.len()), (vec![([172, 16, 0, 5].into(), 16)], 0));
        assert_eq!(fixed("10.0.0.1").addresses[0].1, 8);
    }

    #[test]
    fn dracuts_fields_and_ipv6_in_brackets() {
        let v6 = fixed("[2001:db8::7]::[fe80::1]:64:n1:eth0:off:1400");
        assert_eq!(v6.addresses, [("2001:db8::7".parse().unwrap(), 64)]);
        assert_eq!(v6.gateways, ["fe80::1".parse::<IpAddr>().unwrap()]);
        assert_eq!((v6.device, v6.mtu), (Some(name("eth0")), Some(1400)));
        assert_eq!(fixed("[2001:db8::7]").addresses[0].1, 64);
        let with_mac = fixed("192.0.2.7::192.0.2.1:24::eth0:none:9000:52:54:00:12:34:56");
        assert_eq!((with_mac.mtu, with_mac.dns.len()), (Some(9000), 0));
        let dns = fixed("[2001:db8::7]::::::off:[2001:db8::53]");
        assert_eq!(dns.dns, ["2001:db8::53".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "10.0.0.300::",
            "frob",
            "eth0:frob",
            "eth0:dhcp:1400",
            "10.0.0.1:::255.0.255.0",
            "10.0.0.1:::33",
            "[2001:db8::7]:::255.255.255.0",
            "[2001:db8::7::::",
            "2001:db8::7",
            "10.0.0.1::[2001:db8::1]:8",
            "10.0.0.1::10.0.0.2:8:n:a/b:off",
            "10.0.0.1::10.0.0.2:8:n:eth0:off:20",
            "",
        ] {
            assert!(parse_ip(text).is_err(), "{text}: {:?}", parse_ip(text));
        }
    }

    #[test]
    fn one_address_of_each_family() {
        let first = add_ip(None, "192.0.2.7::192.0.2.1:24::eth0:off").unwrap();
        let Ok(Ip::Static(both)) = add_ip(Some(first.clone()), "[2001:db8::7]::[2001:db8::1]:64::eth0:off") else {
            panic!("not static")
        };
        assert_eq!((both.addresses.len(), both.gateways.len()), (2, 2));
        assert!(add_ip(Some(first.clone()), "192.0.2.8::192.0.2.1:24::eth0:off").is_err());
        assert!(add_ip(Some(first.clone()), "[2001:db8::7]::::::eth1:off").is_err());
        assert!(add_ip(Some(first), "dhcp").is_err());
        assert!(add_ip(Some(Ip::Off), "off").is_ok());
    }

    #[test]
    fn vlans_in_all_of_dracuts_spellings() {
        for (text, called, id, parent) in [
            ("vlan0005:eth0", "vlan0005", 5, Some(name("eth0"))),
            ("vlan5:bond0", "vlan5", 5, Some(name("bond0"))),
            ("eth0.0005:eth0", "eth0.0005", 5, Some(name("eth0"))),
            ("eth0.5:eth0", "eth0.5", 5, Some(name("eth0"))),
            ("bond0.4094", "bond0.4094", 4094, Some(name("bond0"))),
            ("vlan12:52-54-00-12-34-56", "vlan12", 12, Some(NicName::Mac(MAC))),
            ("vlan12", "vlan12", 12, None),
            ("12", "vlan12", 12, None),
        ] {
            assert_eq!(parse_vlan(text), Ok(Vlan { name: called.into(), id, parent }), "{text}");
        }
        for text in ["", "vlan", "vlan0:eth0", "vlan4095", "vlan5:", "vlan5:a:b", "a/b5", "averylonglongname5"] {
            assert!(parse_vlan(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bonds_in_dracuts_spelling() {
        let bond = parse_bond("bond1:eth2,52-54-00-12-34-56:mode=802.3ad,lacp_rate=fast:9000").unwrap();
        assert_eq!(bond.name, "bond1");
        assert_eq!(bond.members, [name("eth2"), NicName::Mac(MAC)]);
        assert_eq!(bond.mtu, Some(9000));
        let usual = parse_bond("").unwrap();
        assert_eq!((usual.name.as_str(), usual.members.len(), usual.mtu), ("bond0", 2, None));
        for text in ["bond0:52:54:00:12:34:56", "bond0:eth0:mode=802.3ad:20", "b/d:eth0", "bond0:eth0::x", "bond0:a,,b"]
        {
            assert!(parse_bond(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_for_interfaces() {
        assert_eq!(parse_ifname("lan:52:54:00:12:34:56"), Ok(("lan".into(), MAC)));
        for text in ["lan", "lan:", ":52:54:00:12:34:56", "a/b:52:54:00:12:34:56"] {
            assert!(parse_ifname(text).is_err(), "{text}");
        }
    }
}
