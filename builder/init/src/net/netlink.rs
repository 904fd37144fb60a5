//! Links, addresses and routes over rtnetlink: messages as bytes, one request, one acknowledgement.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTPROT_DHCP: u8 = 16;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

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

/// Gives a link an address.
///
/// # Errors
///
/// The kernel's.
pub fn add_address(index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    talk(&address_request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, address, prefix).finish())
}

/// Takes it away again, and the routes over it.
///
/// # Errors
///
/// The kernel's.
pub fn remove_address(index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    talk(&address_request(RTM_DELADDR, 0, index, address, prefix).finish())
}

/// Adds a route over a link. A gateway outside the link's own network is taken to be on the link all the same: clouds
/// hand out such addresses.
///
/// # Errors
///
/// The kernel's.
pub fn add_route(
    index: u32,
    destination: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    on_link: bool,
) -> io::Result<()> {
    talk(&route_request(index, destination, prefix, gateway, on_link).finish())
}

fn link_request(index: u32, flags: u32, change: u32) -> Request {
    // struct ifinfomsg: family, padding, type, index, flags, mask of changed flags.
    let mut payload = vec![0; 4];
    payload.extend(index.to_ne_bytes());
    payload.extend(flags.to_ne_bytes());
    payload.extend(change.to_ne_bytes());
    Request::new(RTM_NEWLINK, 0, &payload)
}

fn address_request(kind: u16, flags: u16, index: u32, address: Ipv4Addr, prefix: u8) -> Request {
    // struct ifaddrmsg: family, prefix, flags, scope, index.
    let mut payload = vec![AF_INET, prefix, 0, RT_SCOPE_UNIVERSE];
    payload.extend(index.to_ne_bytes());
    let request = Request::new(kind, flags, &payload)
        .attribute(IFA_LOCAL, &address.octets())
        .attribute(IFA_ADDRESS, &address.octets());
    if prefix >= 31 {
        return request;
    }
    let broadcast = u32::from(address) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    request.attribute(IFA_BROADCAST, &broadcast.to_be_bytes())
}

fn route_request(index: u32, destination: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>, on_link: bool) -> Request {
    // struct rtmsg: family, destination's and source's prefix, TOS, table, protocol, scope, type, flags.
    let scope = if gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let protocol = if gateway.is_some() { RTPROT_DHCP } else { RTPROT_BOOT };
    let mut payload = vec![AF_INET, prefix, 0, 0, RT_TABLE_MAIN, protocol, scope, RTN_UNICAST];
    payload.extend((if on_link { RTNH_F_ONLINK } else { 0 }).to_ne_bytes());
    let mut request = Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &payload);
    if prefix > 0 {
        request = request.attribute(RTA_DST, &destination.octets());
    }
    if let Some(gateway) = gateway {
        request = request.attribute(RTA_GATEWAY, &gateway.octets());
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

    /// Bytes as `ip link set`, `ip addr add` and `ip route add` send them, seen with strace on a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn requests_are_laid_out_as_the_kernel_reads_them() {
        let up = link_request(2, IFF_UP, IFF_UP).finish();
        assert_eq!(
            up,
            [32, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
        );
        let address = address_request(RTM_NEWADDR, NLM_F_CREATE, 2, Ipv4Addr::new(10, 0, 2, 15), 24).finish();
        assert_eq!(address[0], 48);
        assert_eq!(address[16..24], [2, 24, 0, 0, 2, 0, 0, 0]);
        assert_eq!(address[24..32], [8, 0, 2, 0, 10, 0, 2, 15]);
        assert_eq!(address[40..48], [8, 0, 4, 0, 10, 0, 2, 255]);
        let route = route_request(2, Ipv4Addr::UNSPECIFIED, 0, Some(Ipv4Addr::new(10, 0, 2, 2)), false).finish();
        assert_eq!(route[16..28], [2, 0, 0, 0, 254, 16, 0, 1, 0, 0, 0, 0]);
        assert_eq!(route[28..44], [8, 0, 5, 0, 10, 0, 2, 2, 8, 0, 4, 0, 2, 0, 0, 0]);
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
        let name = "net::netlink::tests::in_a_namespace";
        let status = std::process::Command::new("unshare")
            .args(["--map-root-user", "--net"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored"])
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    #[ignore = "run by `the_kernel_takes_them`, in a namespace"]
    fn in_a_namespace() {
        let address = Ipv4Addr::new(10, 9, 8, 7);
        // Loopback has number 1 in every namespace.
        set_up(1, true).unwrap();
        set_mtu(1, 9000).unwrap();
        add_address(1, address, 24).unwrap();
        add_route(1, Ipv4Addr::new(192, 168, 0, 0), 16, None, false).unwrap();
        add_route(1, Ipv4Addr::UNSPECIFIED, 0, Some(Ipv4Addr::new(10, 99, 0, 1)), true).unwrap();
        let routes = std::fs::read_to_string("/proc/self/net/route").unwrap();
        assert!(routes.contains("lo\t0000A8C0\t00000000\t0001"), "{routes}");
        assert!(routes.contains("lo\t00000000\t0100630A\t0003"), "{routes}");
        remove_address(1, address, 24).unwrap();
        assert_eq!(remove_address(1, address, 24).unwrap_err().raw_os_error(), Some(99));
        assert!(set_up(4711, true).is_err());
    }
}
