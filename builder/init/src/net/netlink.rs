//! Links, addresses and routes over rtnetlink: messages as bytes, one request, one acknowledgement.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use super::Mac;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
/// Usable at once, without a look whether somebody else has it.
const IFA_F_NODAD: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_RT_PRIORITY: u16 = 9;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// Who made a route: systemd-networkd keeps or replaces by it what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `RTPROT_STATIC`: the kernel command line.
    Static = 4,
    /// `RTPROT_DHCP`.
    Dhcp = 16,
}

/// The metric of routes that DHCP brings; systemd-networkd's, so that it takes them over instead of adding its own
/// beside them.
const DHCP_METRIC: u32 = 1024;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// The header; its length is filled in at the end.
    fn new(kind: u16, flags: u16, payload: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        // Sequence number and port: one request a socket needs neither.
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        Self { bytes }
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).to_ne_bytes();
        for (to, from) in self.bytes.iter_mut().zip(length) {
            *to = from;
        }
        self.bytes
    }
}

/// Attributes inside another one.
fn nested(attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let empty = Request { bytes: Vec::new() };
    attributes.iter().fold(empty, |request, (kind, value)| request.attribute(*kind, value)).bytes
}

/// Switches a link on or off.
///
/// # Errors
///
/// The kernel's.
pub fn set_up(index: u32, up: bool) -> io::Result<()> {
    talk(&link_request(index, if up { IFF_UP } else { 0 }, IFF_UP).finish())
}

/// Sets a link's MTU in bytes.
///
/// # Errors
///
/// The kernel's.
pub fn set_mtu(index: u32, mtu: u16) -> io::Result<()> {
    talk(&link_request(index, 0, 0).attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes()).finish())
}

/// Gives a link another name; it has to be down.
///
/// # Errors
///
/// The kernel's.
pub fn rename(index: u32, name: &str) -> io::Result<()> {
    talk(&link_request(index, 0, 0).attribute(IFLA_IFNAME, &terminated(name)).finish())
}

/// Puts a link into a bond, which has to be one already; the link has to be down.
///
/// # Errors
///
/// The kernel's.
pub fn set_master(index: u32, master: u32) -> io::Result<()> {
    talk(&link_request(index, 0, 0).attribute(IFLA_MASTER, &master.to_ne_bytes()).finish())
}

/// Makes a VLAN over a link.
///
/// # Errors
///
/// The kernel's: "Operation not supported" where it has no driver for VLANs.
pub fn add_vlan(name: &str, parent: u32, id: u16) -> io::Result<()> {
    let info = link_info("vlan", &[(IFLA_VLAN_ID, id.to_ne_bytes().to_vec())]);
    let request = new_link(name, NLM_F_EXCL).attribute(IFLA_LINK, &parent.to_ne_bytes());
    talk(&request.attribute(IFLA_LINKINFO, &info).finish())
}

/// Makes a bond with this address, or one that is there into it: a driver that is built in makes a `bond0` by itself.
/// `data` are attributes of `IFLA_BOND_*`.
///
/// # Errors
///
/// The kernel's: "Operation not supported" where it has no driver for bonds.
pub fn add_bond(name: &str, mac: Mac, data: &[(u16, Vec<u8>)]) -> io::Result<()> {
    let request = new_link(name, 0).attribute(IFLA_ADDRESS, &mac.0);
    talk(&request.attribute(IFLA_LINKINFO, &link_info("bond", data)).finish())
}

/// Removes a VLAN or a bond.
///
/// # Errors
///
/// The kernel's.
pub fn delete_link(index: u32) -> io::Result<()> {
    talk(&link_message(RTM_DELLINK, 0, index, 0, 0).finish())
}

/// An address for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix in bits.
    pub prefix: u8,
    /// Seconds after which it is no longer preferred, and no longer valid; none is for ever. The kernel counts, and takes
    /// the address away at the end.
    pub lifetime: Option<(u32, u32)>,
}

/// Gives a link an address, or an address that it has another lifetime.
///
/// # Errors
///
/// The kernel's.
pub fn add_address(index: u32, address: &LinkAddress) -> io::Result<()> {
    talk(&address_request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, address).finish())
}

/// Takes it away again, and the routes over it.
///
/// # Errors
///
/// The kernel's.
pub fn remove_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    talk(&address_request(RTM_DELADDR, 0, index, &LinkAddress { address, prefix, lifetime: None }).finish())
}

/// A route over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkRoute {
    /// The network's address.
    pub destination: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Through whom; none is straight on the link.
    pub gateway: Option<IpAddr>,
    /// Whether the gateway is taken to be on the link although it is outside of the link's own network: clouds hand out
    /// such addresses.
    pub on_link: bool,
    /// The address to send from.
    pub source: Option<IpAddr>,
    /// Who says so.
    pub origin: Origin,
}

/// Adds a route, or replaces one to the same network.
///
/// # Errors
///
/// The kernel's.
pub fn add_route(index: u32, route: &LinkRoute) -> io::Result<()> {
    talk(&route_request(index, route).finish())
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn link_info(kind: &str, data: &[(u16, Vec<u8>)]) -> Vec<u8> {
    nested(&[(IFLA_INFO_KIND, kind.as_bytes().to_vec()), (IFLA_INFO_DATA, nested(data))])
}

fn new_link(name: &str, options: u16) -> Request {
    link_message(RTM_NEWLINK, NLM_F_CREATE | options, 0, 0, 0).attribute(IFLA_IFNAME, &terminated(name))
}

fn link_request(index: u32, flags: u32, change: u32) -> Request {
    link_message(RTM_NEWLINK, 0, index, flags, change)
}

fn link_message(kind: u16, options: u16, index: u32, flags: u32, change: u32) -> Request {
    // struct ifinfomsg: family, padding, type, index, flags, mask of changed flags.
    let mut payload = vec![0; 4];
    payload.extend(index.to_ne_bytes());
    payload.extend(flags.to_ne_bytes());
    payload.extend(change.to_ne_bytes());
    Request::new(kind, options, &payload)
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address_request(kind: u16, flags: u16, index: u32, address: &LinkAddress) -> Request {
    // struct ifaddrmsg: family, prefix, flags, scope, index.
    // For IPv4 the flag means nothing.
    let mut payload = vec![family(address.address), address.prefix, IFA_F_NODAD, RT_SCOPE_UNIVERSE];
    payload.extend(index.to_ne_bytes());
    let bytes = octets(address.address);
    let mut request = Request::new(kind, flags, &payload).attribute(IFA_LOCAL, &bytes).attribute(IFA_ADDRESS, &bytes);
    if let IpAddr::V4(v4) = address.address
        && address.prefix < 31
    {
        let broadcast = u32::from(v4) | u32::MAX.checked_shr(u32::from(address.prefix)).unwrap_or(0);
        request = request.attribute(IFA_BROADCAST, &broadcast.to_be_bytes());
    }
    if let Some((preferred, valid)) = address.lifetime {
        // struct ifa_cacheinfo; its two time stamps are the kernel's to write.
        let mut info = preferred.to_ne_bytes().to_vec();
        info.extend(valid.to_ne_bytes());
        info.extend([0; 8]);
        request = request
            .attribute(IFA_CACHEINFO, &info)
            // Of the route to the network itself, which the kernel adds.
            .attribute(IFA_RT_PRIORITY, &DHCP_METRIC.to_ne_bytes());
    }
    request
}

fn route_request(index: u32, route: &LinkRoute) -> Request {
    // struct rtmsg: family, destination's and source's prefix, TOS, table, protocol, scope, type, flags.
    let scope = if route.gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let protocol = route.origin as u8;
    let mut payload = vec![family(route.destination), route.prefix, 0, 0, RT_TABLE_MAIN, protocol, scope, RTN_UNICAST];
    payload.extend((if route.on_link { RTNH_F_ONLINK } else { 0 }).to_ne_bytes());
    let mut request = Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &payload);
    if route.prefix > 0 {
        request = request.attribute(RTA_DST, &octets(route.destination));
    }
    if let Some(gateway) = route.gateway {
        request = request.attribute(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(source) = route.source {
        request = request.attribute(RTA_PREFSRC, &octets(source));
    }
    if route.origin == Origin::Dhcp {
        request = request.attribute(RTA_PRIORITY, &DHCP_METRIC.to_ne_bytes());
    }
    request.attribute(RTA_OIF, &index.to_ne_bytes())
}

fn talk(request: &[u8]) -> io::Result<()> {
    // NETLINK_ROUTE is 0, which is no protocol.
    let socket: OwnedFd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = [0_u8; 4096];
    let (length, _) = recv(&socket, &mut buffer, RecvFlags::empty())?;
    acknowledgement(buffer.get(..length).unwrap_or_default())
}

/// Reads `struct nlmsghdr` and `struct nlmsgerr`.
fn acknowledgement(bytes: &[u8]) -> io::Result<()> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not an acknowledgement");
    let kind: [u8; 2] = bytes.get(4..6).and_then(|b| b.try_into().ok()).ok_or_else(broken)?;
    let error: [u8; 4] = bytes.get(16..20).and_then(|b| b.try_into().ok()).ok_or_else(broken)?;
    if u16::from_ne_bytes(kind) != NLMSG_ERROR {
        return Err(broken());
    }
    match i32::from_ne_bytes(error) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// Bytes as `ip link set`, `ip addr add` and `ip route add` send them, seen with strace on a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn requests_are_laid_out_as_the_kernel_reads_them() {
        let up = link_request(2, IFF_UP, IFF_UP).finish();
        assert_eq!(
            up,
            [32, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
        );
        let mut wanted = LinkAddress { address: [10, 0, 2, 15].into(), prefix: 24, lifetime: None };
        let address = address_request(RTM_NEWADDR, NLM_F_CREATE, 2, &wanted).finish();
        assert_eq!(address[0], 48);
        assert_eq!(address[16..24], [2, 24, 2, 0, 2, 0, 0, 0]);
        assert_eq!(address[24..32], [8, 0, 2, 0, 10, 0, 2, 15]);
        assert_eq!(address[40..48], [8, 0, 4, 0, 10, 0, 2, 255]);
        wanted.lifetime = Some((600, 3600));
        let leased = address_request(RTM_NEWADDR, NLM_F_CREATE, 2, &wanted).finish();
        assert_eq!(leased[48..60], [20, 0, 6, 0, 88, 2, 0, 0, 16, 14, 0, 0]);
        let mut route = default_route([10, 0, 2, 2]);
        let bytes = route_request(2, &route).finish();
        assert_eq!(bytes[16..28], [2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[28..44], [8, 0, 5, 0, 10, 0, 2, 2, 8, 0, 4, 0, 2, 0, 0, 0]);
        route.origin = Origin::Dhcp;
        assert_eq!(route_request(2, &route).finish()[36..44], [8, 0, 6, 0, 0, 4, 0, 0]);
    }

    /// As `ip link add link IF name v12 type vlan id 12` sends it.
    #[test]
    #[cfg(target_endian = "little")]
    fn what_describes_a_link_is_nested() {
        let info = link_info("vlan", &[(IFLA_VLAN_ID, vec![12, 0])]);
        assert_eq!(info, [8, 0, 1, 0, b'v', b'l', b'a', b'n', 12, 0, 2, 0, 6, 0, 1, 0, 12, 0, 0, 0]);
    }

    fn default_route(gateway: [u8; 4]) -> LinkRoute {
        let destination = [0; 4].into();
        let gateway = Some(gateway.into());
        LinkRoute { destination, prefix: 0, gateway, on_link: false, source: None, origin: Origin::Static }
    }

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let request = Request::new(RTM_NEWLINK, 0, &[]).attribute(7, &[1, 2, 3, 4, 5]);
        assert_eq!(request.bytes.len(), 16 + 12);
        assert_eq!(request.finish()[0], 28);
    }

    #[test]
    fn acknowledgements_and_errors() {
        let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(0_i32.to_ne_bytes());
        assert!(acknowledgement(&bytes).is_ok());
        bytes.truncate(16);
        bytes.extend((-17_i32).to_ne_bytes());
        assert_eq!(acknowledgement(&bytes).unwrap_err().raw_os_error(), Some(17));
        assert!(acknowledgement(&[]).is_err());
    }

    /// Against the real kernel, in a network namespace of its own, which `unshare` makes for ordinary users too.
    #[test]
    fn the_kernel_takes_them() {
        if !testing::is_inside() {
            let mut unshare = std::process::Command::new("unshare");
            unshare.args(["--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
            return testing::inside(unshare.args(["--exact", testing::name_of(&the_kernel_takes_them)]));
        }
        let address = IpAddr::from([10, 9, 8, 7]);
        // Loopback has number 1 in every namespace.
        set_up(1, true).unwrap();
        set_mtu(1, 9000).unwrap();
        add_address(1, &LinkAddress { address, prefix: 24, lifetime: Some((3600, 3600)) }).unwrap();
        let mut route = default_route([10, 99, 0, 1]);
        route.on_link = true;
        add_route(1, &route).unwrap();
        let near =
            LinkRoute { destination: [192, 168, 0, 0].into(), prefix: 16, gateway: None, on_link: false, ..route };
        add_route(1, &near).unwrap();
        let routes = std::fs::read_to_string("/proc/self/net/route").unwrap();
        assert!(routes.contains("lo\t0000A8C0\t00000000\t0001"), "{routes}");
        assert!(routes.contains("lo\t00000000\t0100630A\t0003"), "{routes}");
        remove_address(1, address, 24).unwrap();
        assert_eq!(remove_address(1, address, 24).unwrap_err().raw_os_error(), Some(99));
        let v6 = "2001:db8::7".parse().unwrap();
        add_address(1, &LinkAddress { address: v6, prefix: 64, lifetime: None }).unwrap();
        let addresses = std::fs::read_to_string("/proc/self/net/if_inet6").unwrap();
        assert!(addresses.contains("20010db8000000000000000000000007 01 40"), "{addresses}");
        remove_address(1, v6, 64).unwrap();
        assert!(set_up(4711, true).is_err());
    }
}
