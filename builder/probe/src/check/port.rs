//! `port`: who listens, by the kernel's tables of sockets.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::Verdict;
use crate::spec::{Port, Protocol};

/// `TCP_LISTEN` and `TCP_CLOSE` in `include/net/tcp_states.h`; a UDP socket without a peer has the latter.
const LISTENS: &str = "0A";
const UNCONNECTED: &str = "07";
/// Ports that are listed for whoever expected another one.
const SHOWN: usize = 20;

pub(super) fn check(wanted: &Port, root: &Path) -> Verdict {
    let Port { port, protocol, address, listening } = wanted;
    let name = protocol.name();
    let at = address.map(|address| format!(" at {address}")).unwrap_or_default();
    let nobody = if *listening { "" } else { "nothing on " };
    let expected = format!("{nobody}{name} port {port}{at}");
    let sockets = match sockets(*protocol, root) {
        Ok(sockets) => sockets,
        Err(why) => return Verdict::new(false, expected, why),
    };
    let list = |sockets: Vec<&SocketAddr>| sockets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let here: Vec<_> = sockets.iter().filter(|socket| socket.port() == *port).collect();
    let is = here.iter().any(|socket| address.is_none_or(|address| address == socket.ip()));
    let found = if here.is_empty() {
        let others = list(sockets.iter().take(SHOWN).collect());
        let others = if others.is_empty() { "nothing".to_owned() } else { others };
        format!("nothing listens on {name} port {port}; open: {others}")
    } else {
        list(here)
    };
    Verdict::new(is == *listening, expected, found)
}

/// Where a protocol's sockets wait for whoever comes.
fn sockets(protocol: Protocol, root: &Path) -> Result<BTreeSet<SocketAddr>, String> {
    let (files, state) = match protocol {
        Protocol::Tcp => (["proc/net/tcp", "proc/net/tcp6"], LISTENS),
        Protocol::Udp => (["proc/net/udp", "proc/net/udp6"], UNCONNECTED),
    };
    let mut sockets = BTreeSet::new();
    for (index, file) in files.into_iter().enumerate() {
        match fs::read_to_string(root.join(file)) {
            Ok(table) => sockets.extend(table.lines().filter_map(|line| socket(line, state))),
            // A kernel without IPv6 has no such table.
            Err(_) if index > 0 => {}
            Err(error) => return Err(format!("/{file}: {error}")),
        }
    }
    Ok(sockets)
}

/// A line of a table: its number, the socket's own address, its peer's, its state (`net/ipv4/tcp_ipv4.c`).
fn socket(line: &str, wanted: &str) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (own, state) = (fields.next()?, fields.nth(1)?);
    if state != wanted {
        return None;
    }
    let (address, port) = own.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each word as the machine has it in memory.
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::super::tests::attempt;
    use super::*;
    use crate::spec::Kind;
    use crate::system::fake::Fake;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        \x20  0: 0100007F:2808 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n\
        \x20  1: 0F02000A:C350 0202000A:0050 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0\n";
    const TCP6: &str = "  sl  local_address                         remote_address                        st\n\
        \x20  0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0 0 0\n\
        \x20  1: B80D0120000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 0 0 0\n";

    fn port(rest: &str) -> Verdict {
        let system = Fake::default();
        system.write("proc/net/tcp", TCP);
        system.write("proc/net/tcp6", TCP6);
        system.write("proc/net/udp", "  sl\n   0: 3500007F:0035 00000000:0000 07 0 0 0\n");
        attempt(&format!(r#"{{"port": {rest}}}"#), &system)
    }

    #[test]
    fn who_listens_is_found_by_port_and_address() {
        assert!(port("10248").holds);
        assert!(port(r#"10248, "address": "127.0.0.1""#).holds);
        assert!(port("22").holds);
        assert!(port(r#"22, "address": "::""#).holds);
        assert_eq!(port("443").found, "[2001:db8::1]:443");
        assert!(port(r#"53, "protocol": "udp""#).holds);
        assert!(port(r#"23, "listening": false"#).holds);
        assert!(port(r#"10248, "address": "0.0.0.0", "listening": false"#).holds);
    }

    #[test]
    fn who_does_not_is_told_with_those_who_do() {
        let verdict = port("50000");
        assert!(!verdict.holds, "a connection is no listener");
        assert_eq!(
            verdict.found,
            "nothing listens on tcp port 50000; open: 127.0.0.1:10248, [::]:22, [2001:db8::1]:443"
        );
        let verdict = port(r#"10248, "address": "0.0.0.0""#);
        assert_eq!((verdict.holds, verdict.found.as_str()), (false, "127.0.0.1:10248"));
        let verdict = port(r#"22, "listening": false"#);
        assert_eq!((verdict.holds, verdict.expected.as_str()), (false, "nothing on tcp port 22"));
        assert!(!port("53").holds, "UDP is not TCP");
        assert!(attempt(r#"{"port": 1}"#, &Fake::default()).found.starts_with("/proc/net/tcp: "));
    }

    #[test]
    fn this_machines_own_tables_are_read() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (protocol, address) in [("tcp", tcp.local_addr().unwrap()), ("udp", udp.local_addr().unwrap())] {
            let text = format!(r#"{{"port": {}, "protocol": "{protocol}", "address": "127.0.0.1"}}"#, address.port());
            let Kind::Port(wanted) = super::super::tests::kind(&text) else { panic!("{text}") };
            assert!(check(&wanted, Path::new("/")).holds, "{text}");
        }
    }
}
