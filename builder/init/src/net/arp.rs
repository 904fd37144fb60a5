//! Whether somebody has an address already: ARP probes (RFC 5227, 2.1.1).
//!
//! The RFC's probing takes up to seven seconds, as long as all the rest of a boot, and servers look themselves before they
//! offer an address. What they miss is a host behind a relay or a firewall; it hears a probe on its own network and answers
//! within milliseconds. So there are two probes, the first beside the request for the address, and a tenth of a second.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::{Interface, Mac};
use crate::{debug, sys};

/// How long an answer is waited for, from the first probe on.
const PATIENCE: Duration = Duration::from_millis(100);

/// Ethernet and IPv4, with the lengths of their addresses.
const HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// A question that is under way.
pub(super) struct Probe<'a> {
    socket: Socket,
    interface: &'a Interface,
    address: Ipv4Addr,
    until: Instant,
}

impl<'a> Probe<'a> {
    /// Asks who has an address. None where that cannot be asked: it is no reason not to boot.
    pub(super) fn start(interface: &'a Interface, address: Ipv4Addr) -> Option<Self> {
        let socket = sys::packet_socket(interface.index, sys::ETH_P_ARP)
            .inspect_err(|e| debug!("ARP on {}: {e}", interface.name))
            .ok()?;
        let probe = Self { socket, interface, address, until: Instant::now() + PATIENCE };
        probe.send();
        Some(probe)
    }

    /// Asks once more, waits, and says who has it.
    pub(super) fn owner(self) -> Option<Mac> {
        self.send();
        let mut buffer = [0; 64];
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).ok()?;
            // A timeout ends with the time.
            let Ok(length) = std::io::Read::read(&mut &self.socket, &mut buffer) else { continue };
            let packet = buffer.get(..length).unwrap_or_default();
            if let Some(owner) = claimant(packet, self.address, self.interface.mac) {
                return Some(owner);
            }
        }
    }

    fn send(&self) {
        let packet = probe(self.interface.mac, self.address);
        let sent = sys::broadcast_address(self.interface.index, sys::ETH_P_ARP)
            .and_then(|everybody| self.socket.send_to(&packet, &everybody));
        if let Err(e) = sent {
            debug!("ARP on {}: {e}", self.interface.name);
        }
    }
}

/// A question that tells nobody that we have the address.
fn probe(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut packet = Vec::with_capacity(28);
    packet.extend(HEADER);
    packet.extend(REQUEST);
    packet.extend(mac.0);
    packet.extend([0; 4]);
    packet.extend([0; 6]);
    packet.extend(address.octets());
    packet
}

/// Who else says with this packet that the address is, or is about to be, its own.
fn claimant(packet: &[u8], address: Ipv4Addr, own: Mac) -> Option<Mac> {
    let (header, rest) = packet.split_at_checked(8)?;
    let (sender, rest) = rest.split_first_chunk::<6>()?;
    let (sender_address, rest) = rest.split_first_chunk::<4>()?;
    let target_address = rest.get(6..10)?;
    let (kind, operation) = header.split_at_checked(6)?;
    if kind != HEADER || (operation != REQUEST && operation != REPLY) || *sender == own.0 {
        return None;
    }
    let has_it = *sender_address == address.octets();
    let asks_for_it = operation == REQUEST && *sender_address == [0; 4] && target_address == address.octets();
    (has_it || asks_for_it).then_some(Mac(*sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 0, 2]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

    fn packet(operation: [u8; 2], sender: Mac, sender_address: [u8; 4], target_address: [u8; 4]) -> Vec<u8> {
        [&HEADER[..], &operation, &sender.0, &sender_address, &[0; 6], &target_address].concat()
    }

    #[test]
    fn a_probe_claims_nothing() {
        assert_eq!(probe(OWN, ADDRESS), packet(REQUEST, OWN, [0; 4], [10, 0, 0, 7]));
    }

    #[test]
    fn who_answers_announces_or_asks_for_the_same_has_it() {
        let own_address = [10, 0, 0, 1];
        for (operation, sender, target, claims) in [
            (REPLY, [10, 0, 0, 7], own_address, true),
            (REQUEST, [10, 0, 0, 7], [10, 0, 0, 7], true),
            (REQUEST, [10, 0, 0, 7], own_address, true),
            (REQUEST, [0; 4], [10, 0, 0, 7], true),
            (REQUEST, own_address, [10, 0, 0, 7], false),
            (REPLY, own_address, [10, 0, 0, 7], false),
            (REQUEST, [0; 4], own_address, false),
            ([0, 3], [10, 0, 0, 7], own_address, false),
        ] {
            let bytes = packet(operation, OTHER, sender, target);
            assert_eq!(claimant(&bytes, ADDRESS, OWN), claims.then_some(OTHER), "{operation:?} {sender:?} {target:?}");
            assert_eq!(claimant(&packet(operation, OWN, sender, target), ADDRESS, OWN), None, "our own, come back");
            // Ethernet pads what is shorter than its shortest frame.
            assert_eq!(claimant(&[&bytes[..], &[0; 18]].concat(), ADDRESS, OWN), claims.then_some(OTHER));
            for length in 0..28 {
                assert_eq!(claimant(&bytes[..length], ADDRESS, OWN), None, "{length}");
            }
        }
    }
}
