//! The guest's network cards, and what they are plugged into.

use std::{
    ffi::OsString,
    fmt,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    str::FromStr,
};

use netboot_init::net::Mac;

use crate::{Error, Machine};

/// The card of a guest for which none is named.
const MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
/// It knows its speed, as real ones do: without it a bonding driver takes no part in LACP.
const CARD: &str = "virtio-net-pci,speed=1000,duplex=full";
/// How many cards a guest may have: each takes a place on the machine's bus, which others need as well.
const MOST: usize = 16;

/// A port of this machine's loopback that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// UDP instead of TCP.
    pub udp: bool,
    /// The port of 127.0.0.1.
    pub host: u16,
    /// The guest's, on the card that boots.
    pub guest: u16,
}

impl FromStr for Forward {
    type Err = String;

    /// `HOST:GUEST`, with `/tcp` or `/udp` at its end if need be.
    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, udp) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), false),
            Some((ports, "udp")) => (ports, true),
            Some((_, other)) => return Err(format!("`{other}` is neither tcp nor udp")),
        };
        let (host, guest) = ports
            .split_once(':')
            .ok_or("expected HOST:GUEST, such as 2222:22 for the guest's SSH at port 2222 here")?;
        let port = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(format!("`{text}` is no port from 1 to 65535")),
            Ok(port) => Ok(port),
        };
        Ok(Self { udp, host: port(host)?, guest: port(guest)? })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.host, self.guest, if self.udp { "/udp" } else { "" })
    }
}

impl Forward {
    /// Whether the port is free. QEMU would say no more than that it could not set up a rule.
    fn check(self) -> Result<(), Error> {
        let here = (Ipv4Addr::LOCALHOST, self.host);
        let bound = if self.udp { UdpSocket::bind(here).map(drop) } else { TcpListener::bind(here).map(drop) };
        bound.map_err(|source| Error::Forward { forward: self, source })
    }
}

/// The id of the network that a card is plugged into, by the card's place.
pub(crate) fn netdev(place: usize) -> String {
    format!("net{place}")
}

impl Machine {
    /// The card that boots.
    pub(crate) fn boot_nic(&self) -> Mac {
        self.nics.first().copied().unwrap_or(MAC)
    }

    /// Whether cards and ports can be had.
    ///
    /// # Errors
    /// [`Error::Nic`] and [`Error::Forward`], [`Error::Unplugged`].
    pub(crate) fn check_network(&self) -> Result<(), Error> {
        let wrong = |mac: Mac, reason| Err(Error::Nic { mac, reason });
        for (place, mac) in self.nics.iter().enumerate() {
            if mac.0.first().is_some_and(|byte| byte & 1 == 1) {
                return wrong(*mac, "it is a group's: the last bit of a card's first byte is 0");
            }
            if self.nics.iter().take(place).any(|before| before == mac) {
                return wrong(*mac, "another card has it");
            }
            if place >= MOST {
                return wrong(*mac, "a guest has 16 cards at most");
            }
        }
        if !self.forwards.is_empty() && self.replaces(&netdev(0)) {
            return Err(Error::Unplugged);
        }
        self.forwards.iter().try_for_each(|forward| forward.check())
    }

    /// QEMU's options for the card that boots. `network` is more about the network that it is plugged into (`bootfile=…`, with
    /// a comma before it), `card` about the card.
    pub(crate) fn boot_card(&self, network: OsString, card: &str) -> Vec<OsString> {
        let mut plugged: OsString = format!("user,id={}", netdev(0)).into();
        plugged.push(network);
        for Forward { udp, host, guest } in &self.forwards {
            let protocol = if *udp { "udp" } else { "tcp" };
            plugged.push(format!(",hostfwd={protocol}:127.0.0.1:{host}-:{guest}"));
        }
        let card = format!("{CARD},netdev={},mac={}{card}", netdev(0), self.boot_nic());
        vec!["-netdev".into(), plugged, "-device".into(), card.into()]
    }

    /// QEMU's options for all other cards: each has a network of its own, with DHCP, on which nothing boots.
    pub(crate) fn other_cards(&self) -> Vec<OsString> {
        let card = |(place, mac): (usize, &Mac)| {
            let id = netdev(place);
            // The first network is 10.0.2.0/24.
            let network = format!("user,id={id},net=10.0.{}.0/24", place + 2);
            ["-netdev".into(), network, "-device".into(), format!("{CARD},netdev={id},mac={mac},romfile=")]
        };
        self.nics.iter().enumerate().skip(1).flat_map(card).map(OsString::from).collect()
    }

    /// Whether the user's arguments have a network of that id.
    fn replaces(&self, id: &str) -> bool {
        let is_it = |netdev: &str| netdev.split(',').any(|part| part.strip_prefix("id=") == Some(id));
        self.qemu.windows(2).any(|pair| matches!(pair, [key, value] if key == "-netdev" && is_it(value)))
    }

    /// QEMU's options without the networks that the user's replace.
    pub(crate) fn around(&self, arguments: &[OsString]) -> Vec<OsString> {
        let mut kept = Vec::with_capacity(arguments.len());
        let mut words = arguments.iter().peekable();
        while let Some(word) = words.next() {
            let id =
                words.peek().and_then(|value| value.to_str()?.split(',').find_map(|part| part.strip_prefix("id=")));
            if word == "-netdev" && id.is_some_and(|id| self.replaces(id)) {
                words.next();
            } else {
                kept.push(word.clone());
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(qemu: &[&str]) -> Machine {
        Machine { qemu: qemu.iter().map(|word| (*word).to_owned()).collect(), ..Machine::default() }
    }

    #[test]
    fn another_network_takes_the_place_of_ours() {
        let stage: Vec<OsString> =
            ["-kernel", "k", "-netdev", "user,id=net0", "-device", "card,netdev=net0"].map(Into::into).into();
        let around = |qemu: &[&str]| machine(qemu).around(&stage);
        assert_eq!(around(&[]), stage);
        assert_eq!(around(&["-netdev", "user,id=net1"]), stage);
        assert_eq!(around(&["-netdev", "hubport,hubid=1,id=net0"]), ["-kernel", "k", "-device", "card,netdev=net0"]);
    }

    #[test]
    fn ports_are_written_as_people_know_them() {
        let forward = |text: &str| text.parse::<Forward>();
        assert_eq!(forward("2222:22"), Ok(Forward { udp: false, host: 2222, guest: 22 }));
        assert_eq!(forward("2222:22/tcp"), forward("2222:22"));
        assert_eq!(forward("5353:53/udp"), Ok(Forward { udp: true, host: 5353, guest: 53 }));
        for shown in ["2222:22", "5353:53/udp"] {
            assert_eq!(forward(shown).unwrap().to_string(), shown);
        }
        assert!(forward("22").unwrap_err().contains("HOST:GUEST"));
        for wrong in ["0:22", "22:0", "65536:1", ":22", "22:", "-1:2", "127.0.0.1:22:22"] {
            assert!(forward(wrong).unwrap_err().contains("is no port"), "{wrong}");
        }
        assert_eq!(forward("22:22/sctp").unwrap_err(), "`sctp` is neither tcp nor udp");
    }

    #[test]
    fn cards_have_the_addresses_that_were_given() {
        let words = |arguments: &[OsString]| arguments.join(" ".as_ref()).into_string().unwrap();
        let mut machine = machine(&[]);
        assert_eq!(machine.boot_nic(), MAC);
        assert!(machine.other_cards().is_empty());
        machine.nics = ["aa:00:00:00:00:01", "aa:00:00:00:00:02"].map(|mac| Mac::parse(mac).unwrap()).to_vec();
        machine.forwards = vec!["2222:22".parse().unwrap(), "53:53/udp".parse().unwrap()];
        assert_eq!(
            words(&machine.boot_card(",bootfile=x".into(), ",romfile=")),
            format!(
                "-netdev user,id=net0,bootfile=x,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp:127.0.0.1:53-:53 \
                 -device {CARD},netdev=net0,mac=aa:00:00:00:00:01,romfile="
            )
        );
        assert_eq!(
            words(&machine.other_cards()),
            format!("-netdev user,id=net1,net=10.0.3.0/24 -device {CARD},netdev=net1,mac=aa:00:00:00:00:02,romfile=")
        );
    }

    #[test]
    fn what_cannot_be_had_is_told_before_qemu_starts() {
        let nics = |macs: &[&str]| {
            let nics = macs.iter().map(|mac| Mac::parse(mac).unwrap()).collect();
            Machine { nics, ..Machine::default() }.check_network().map_err(|error| error.to_string())
        };
        assert_eq!(nics(&["52:54:00:00:00:01", "52:54:00:00:00:02"]), Ok(()));
        assert!(nics(&["52:54:00:00:00:01", "52:54:00:00:00:01"]).unwrap_err().contains("another card has it"));
        assert!(nics(&["01:00:5e:00:00:01"]).unwrap_err().contains("it is a group's"));
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let host = taken.local_addr().unwrap().port();
        let mut machine = machine(&["-netdev", "hubport,hubid=1,id=net0"]);
        machine.forwards = vec![Forward { udp: false, host, guest: 22 }];
        assert!(matches!(machine.check_network(), Err(Error::Unplugged)));
        machine.qemu.clear();
        let said = machine.check_network().unwrap_err().to_string();
        assert_eq!(said, format!("{host}:22 cannot be forwarded: port {host} of 127.0.0.1 cannot be had"));
    }
}
