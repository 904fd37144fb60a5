//! A name resolver: A and AAAA records over UDP, of the name servers that DHCP gave. libc's would load modules that a static
//! program in an empty root does not have.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

const PORT: u16 = 53;
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// How often all servers are asked.
const ROUNDS: u32 = 3;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_INTERNET: u16 = 1;
const NXDOMAIN: &str = "NXDOMAIN";
/// A chain of pointers longer than this is a loop.
const MOST_POINTERS: u32 = 32;

/// Looks up names at given servers.
#[derive(Debug, Clone)]
pub struct Names {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    port: u16,
    /// The number of the interface that link-local addresses are behind.
    link: u32,
}

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// DHCP named no server.
    #[error("no name server is known to ask for {0}")]
    NoServer(String),
    /// All servers are silent.
    #[error("no answer for {name} from {servers}")]
    Silent {
        /// The name.
        name: String,
        /// Who was asked.
        servers: String,
    },
    /// All servers that answer say that they cannot.
    #[error("{server} answers {} for {name}", rcode(*.code))]
    Failed {
        /// The name.
        name: String,
        /// Who said so last.
        server: IpAddr,
        /// The response code (RFC 6895, section 2.3).
        code: u8,
    },
    /// A server answers that there is no address.
    #[error("{server} knows no address of {name} ({code})")]
    Unknown {
        /// The name.
        name: String,
        /// Who said so.
        server: IpAddr,
        /// In the protocol's words.
        code: &'static str,
    },
    /// A name that cannot be asked for.
    #[error("`{0}` is not a host name")]
    Malformed(String),
}

impl Names {
    /// Asks these servers, in order; `search` has the domains to try for a name without a dot.
    #[must_use]
    pub fn new(servers: Vec<IpAddr>, search: Vec<String>) -> Self {
        Self { servers, search, port: PORT, link: 0 }
    }

    /// With the number of the interface that link-local addresses (`fe80::1`, often a router that resolves names) are to be
    /// asked on.
    #[must_use]
    pub fn on_link(self, index: u32) -> Self {
        Self { link: index, ..self }
    }

    fn at(&self, address: IpAddr, port: u16) -> SocketAddr {
        match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                SocketAddrV6::new(address, port, 0, self.link).into()
            }
            _ => SocketAddr::new(address, port),
        }
    }

    /// The addresses of a name.
    ///
    /// # Errors
    ///
    /// As [`DnsError`] says.
    pub fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        if self.servers.is_empty() {
            return Err(DnsError::NoServer(name.to_owned()));
        }
        let mut candidates = vec![name.to_owned()];
        if !name.contains('.') {
            let searched: Vec<String> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
            candidates.splice(0..0, searched);
        }
        let mut last = DnsError::Malformed(name.to_owned());
        for candidate in candidates {
            match self.ask_all(&candidate) {
                Ok(addresses) => return Ok(addresses),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// IPv4 addresses first: where there is no way to them, the kernel says so at once.
    fn ask_all(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let v4 = self.ask_for(name, TYPE_A, ROUNDS);
        if matches!(
            v4,
            Err(DnsError::Unknown { code: NXDOMAIN, .. } | DnsError::Malformed(_) | DnsError::Silent { .. })
        ) {
            return v4;
        }
        // Some old servers never answer to this; and one that failed was asked often enough.
        let rounds = if matches!(v4, Ok(_) | Err(DnsError::Failed { .. })) { 1 } else { ROUNDS };
        match (v4, self.ask_for(name, TYPE_AAAA, rounds)) {
            (Ok(mut v4), Ok(v6)) => {
                v4.extend(v6);
                Ok(v4)
            }
            (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
            (Err(why), Err(_)) => Err(why),
        }
    }

    fn ask_for(&self, name: &str, kind: u16, rounds: u32) -> Result<Vec<IpAddr>, DnsError> {
        let mut failed = None;
        for _ in 0..rounds {
            for server in &self.servers {
                // One unique word per question: an answer to another one is not ours.
                let id = u16::try_from(super::client::random() & 0xffff).unwrap_or_default();
                let query = query(name, kind, id).ok_or_else(|| DnsError::Malformed(name.to_owned()))?;
                let Ok(Some(answer)) = ask(self.at(*server, self.port), &query, id) else { continue };
                return match answer {
                    Answer::Addresses(addresses) if !addresses.is_empty() => Ok(addresses),
                    Answer::Addresses(_) => Err(unknown(name, *server, "it exists but has no address")),
                    Answer::Refused(3) => Err(unknown(name, *server, NXDOMAIN)),
                    // SERVFAIL, REFUSED: another server may know, or this one later.
                    Answer::Refused(code) => {
                        failed = Some(DnsError::Failed { name: name.to_owned(), server: *server, code });
                        continue;
                    }
                };
            }
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        Err(DnsError::Silent { name: name.to_owned(), servers: servers.join(", ") })
    }
}

/// A response code in the protocol's words.
fn rcode(code: u8) -> String {
    match code {
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        other => format!("code {other}"),
    }
}

fn unknown(name: &str, server: IpAddr, code: &'static str) -> DnsError {
    DnsError::Unknown { name: name.to_owned(), server, code }
}

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or_else(|| ureq::Error::BadUri(uri.to_string()))?;
        let of_scheme = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(of_scheme);
        let mut resolved = self.empty();
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            resolved.push(self.at(address, port));
            return Ok(resolved);
        }
        let addresses = self.lookup(host).map_err(|e| ureq::Error::Io(io::Error::new(io::ErrorKind::NotFound, e)))?;
        for address in addresses.into_iter().take(16) {
            resolved.push(self.at(address, port));
        }
        Ok(resolved)
    }
}

fn ask(server: SocketAddr, query: &[u8], id: u16) -> io::Result<Option<Answer>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_PATIENCE))?;
    socket.send(query)?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer.get(..length).and_then(|bytes| read_answer(bytes, id)))
}

/// A question for the records of a kind that a name has; none if it is not one.
fn query(name: &str, kind: u16, id: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 18);
    bytes.extend(id.to_be_bytes());
    // Recursion desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        if label.is_empty() || label.len() > 63 || !label.is_ascii() {
            return None;
        }
        bytes.push(u8::try_from(label.len()).ok()?);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(CLASS_INTERNET.to_be_bytes());
    Some(bytes)
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Addresses(Vec<IpAddr>),
    /// The response code.
    Refused(u8),
}

/// Reads an answer; none when it is not one to this question, or broken. Aliases need no following: a recursive server
/// sends the addresses at their end along.
fn read_answer(bytes: &[u8], id: u16) -> Option<Answer> {
    if bytes.get(..2)? != id.to_be_bytes() || bytes.get(2)? & 0x80 == 0 {
        return None;
    }
    let code = bytes.get(3)? & 0x0f;
    if code != 0 {
        return Some(Answer::Refused(code));
    }
    let questions = number(bytes, 4)?;
    let answers = number(bytes, 6)?;
    let mut at = 12;
    for _ in 0..questions {
        at = read_name(bytes, at)?.1.checked_add(4)?;
    }
    let mut addresses = Vec::new();
    for _ in 0..answers {
        at = read_name(bytes, at)?.1;
        let (kind, class, length) = (number(bytes, at)?, number(bytes, at + 2)?, usize::from(number(bytes, at + 8)?));
        let data = bytes.get(at + 10..)?.get(..length)?;
        match (kind, class) {
            (TYPE_A, CLASS_INTERNET) => addresses.push(<[u8; 4]>::try_from(data).ok()?.into()),
            (TYPE_AAAA, CLASS_INTERNET) => addresses.push(<[u8; 16]>::try_from(data).ok()?.into()),
            _ => {}
        }
        at += 10 + length;
    }
    Some(Answer::Addresses(addresses))
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..)?.get(..2)?.try_into().ok()?))
}

/// Reads a name and where it ends; pointers count from the beginning of `bytes`.
pub(super) fn read_name(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = at;
    let mut end = None;
    let mut pointers = 0;
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = bytes.get(at + 1..)?.get(..usize::from(length))?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(label));
                at += 1 + usize::from(length);
            }
            0xc0.. => {
                pointers += 1;
                if pointers > MOST_POINTERS {
                    return None;
                }
                end = end.or(Some(at + 2));
                at = usize::from(number(bytes, at)? & 0x3fff);
            }
            _ => return None,
        }
    }
}

/// Reads names one after another, as DHCP and routers send domains to search; pointers count from the beginning. Padding
/// looks like names without a label.
pub(super) fn read_names(bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some((name, next)) = read_name(bytes, at) else { break };
        if !name.is_empty() {
            names.push(name);
        }
        at = next;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tests::{cable, local_address, on_a_cable};

    /// What a server answers for an alias: question, CNAME, A; names compressed.
    fn answer() -> Vec<u8> {
        let mut bytes = query("boot.lab", TYPE_A, 0x1234).unwrap();
        bytes[2] = 0x81;
        bytes[3] = 0x80;
        bytes[7] = 2;
        bytes.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 5, 2, b'n', b'1', 0xc0, 17]);
        bytes.extend([0xc0, 38, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3]);
        bytes
    }

    #[test]
    fn a_question_is_what_the_rfc_says() {
        let bytes = query("a.bc.", TYPE_A, 1).unwrap();
        assert_eq!(bytes, [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
        assert_eq!(query("", TYPE_A, 1), None);
        assert_eq!(query("a..b", TYPE_A, 1), None);
        assert_eq!(query(&"x".repeat(64), TYPE_A, 1), None);
    }

    #[test]
    fn addresses_at_the_end_of_an_alias() {
        assert_eq!(read_answer(&answer(), 0x1234), Some(Answer::Addresses(vec![[10, 1, 2, 3].into()])));
        assert_eq!(read_name(&answer(), 38).unwrap().0, "n1.lab");
    }

    #[test]
    fn refusals_foreign_and_broken_answers() {
        let mut refused = answer();
        refused[3] = 0x83;
        assert_eq!(read_answer(&refused, 0x1234), Some(Answer::Refused(3)));
        assert_eq!(read_answer(&answer(), 0x1235), None);
        for length in 0..answer().len() {
            assert_eq!(read_answer(&answer()[..length], 0x1234), None, "{length}");
        }
    }

    #[test]
    fn a_loop_of_pointers_ends() {
        assert_eq!(read_name(&[0xc0, 0], 0), None);
        assert_eq!(read_name(&[1, b'a', 0xc0, 0], 0), None);
    }

    /// A server that answers as told, each question with the next answer; it sends back the names that were asked for.
    fn server(answers: Vec<fn(Vec<u8>) -> Vec<u8>>) -> (Names, std::sync::mpsc::Receiver<String>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let names = answering(socket, answers);
        (Names { servers: vec![Ipv4Addr::LOCALHOST.into()], search: vec!["lab".into()], port, link: 0 }, names)
    }

    fn answering(socket: UdpSocket, answers: Vec<fn(Vec<u8>) -> Vec<u8>>) -> std::sync::mpsc::Receiver<String> {
        let (sender, names) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for answer in answers {
                let mut buffer = [0; 512];
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                let query = buffer[..length].to_vec();
                sender.send(read_name(&query, 12).unwrap().0).unwrap();
                socket.send_to(&answer(query), from).unwrap();
            }
        });
        names
    }

    #[test]
    fn a_server_may_be_known_on_the_link_alone() {
        if !on_a_cable(a_server_may_be_known_on_the_link_alone) {
            return;
        }
        local_address("cable0");
        let router = local_address("cable1");
        let _asked = answering(UdpSocket::bind("[::]:53").unwrap(), vec![known, empty]);
        let names = Names::new(vec![router.into()], vec![]).on_link(cable().index);
        assert_eq!(names.lookup("boot.lab"), Ok(vec![[10, 1, 2, 3].into()]));
        let url = format!("http://[{router}]/r").parse().unwrap();
        let resolved = names.resolve(&url, &Config::default(), NextTimeout::default()).unwrap();
        assert_eq!(resolved[0].to_string(), format!("[{router}%{}]:80", cable().index));
    }

    fn known(mut query: Vec<u8>) -> Vec<u8> {
        query[2] |= 0x80;
        query[7] = 1;
        query.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3]);
        query
    }

    fn known_v6(mut query: Vec<u8>) -> Vec<u8> {
        query[2] |= 0x80;
        query[7] = 1;
        query.extend([0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16]);
        query.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        query
    }

    fn empty(mut query: Vec<u8>) -> Vec<u8> {
        query[2] |= 0x80;
        query
    }

    #[test]
    fn addresses_of_both_families() {
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        let (names, _asked) = server(vec![known, known_v6]);
        assert_eq!(names.lookup("boot.lab"), Ok(vec![[10, 1, 2, 3].into(), v6]));
        let (names, _asked) = server(vec![empty, known_v6]);
        assert_eq!(names.lookup("boot.lab"), Ok(vec![v6]));
        let (names, _asked) = server(vec![empty, empty]);
        let error = names.lookup("boot.lab").unwrap_err();
        assert_eq!(error.to_string(), "127.0.0.1 knows no address of boot.lab (it exists but has no address)");
    }

    fn code<const CODE: u8>(mut query: Vec<u8>) -> Vec<u8> {
        query[2] |= 0x80;
        query[3] |= CODE;
        query
    }

    #[test]
    fn a_name_without_a_dot_is_searched_and_a_busy_server_asked_again() {
        let (names, asked) = server(vec![code::<2>, known, empty]);
        assert_eq!(names.lookup("boot"), Ok(vec![[10, 1, 2, 3].into()]));
        assert_eq!(asked.iter().take(2).collect::<Vec<_>>(), ["boot.lab", "boot.lab"]);
        let (names, asked) = server(vec![code::<3>, known, empty]);
        assert!(names.lookup("boot").is_ok());
        assert_eq!(asked.iter().take(2).collect::<Vec<_>>(), ["boot.lab", "boot"]);
    }

    #[test]
    fn a_url_without_a_port_means_that_of_its_scheme() {
        let (names, _asked) = server(vec![known, empty, known, empty]);
        for (url, expected) in [
            ("http://boot.lab/r", "10.1.2.3:80"),
            ("https://boot.lab/r", "10.1.2.3:443"),
            ("http://192.0.2.1/r", "192.0.2.1:80"),
            ("https://192.0.2.1/r", "192.0.2.1:443"),
            ("https://192.0.2.1:8443/r", "192.0.2.1:8443"),
            ("https://[2001:db8::1]/r", "[2001:db8::1]:443"),
            ("http://[2001:db8::1]:8080/r", "[2001:db8::1]:8080"),
        ] {
            let resolved = names.resolve(&url.parse().unwrap(), &Config::default(), NextTimeout::default()).unwrap();
            assert_eq!(resolved.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected], "{url}");
        }
    }

    #[test]
    fn what_cannot_be_resolved_says_why() {
        let (names, _asked) = server(vec![code::<3>]);
        let error = names.lookup("boot.example").unwrap_err();
        assert_eq!(error.to_string(), "127.0.0.1 knows no address of boot.example (NXDOMAIN)");
        // Asked in each round, and once for AAAA records.
        let (names, asked) = server(vec![code::<5>, code::<5>, code::<5>, code::<2>]);
        let error = names.lookup("boot.example").unwrap_err();
        assert_eq!(error.to_string(), "127.0.0.1 answers REFUSED for boot.example");
        assert_eq!(asked.iter().count(), 4);
        let (names, _asked) = server(vec![code::<2>, code::<2>, code::<2>, known_v6]);
        assert_eq!(names.lookup("boot.lab"), Ok(vec!["2001:db8::7".parse().unwrap()]));
        assert_eq!(names.lookup("a..b"), Err(DnsError::Malformed("a..b".into())));
        let none = Names::new(vec![], vec![]);
        assert_eq!(none.lookup("boot.lab"), Err(DnsError::NoServer("boot.lab".into())));
    }
}
