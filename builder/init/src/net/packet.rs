//! What a packet socket sees: IPv4 with UDP in it. A node without an address gets no datagram that was sent to the one
//! it is offered; on this way it does, since not every server and relay heeds the broadcast flag.

/// UDP.
const UDP: u8 = 17;
/// Shorter than this there is no IPv4 header.
const SHORTEST_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// What an IPv4 packet carries for a UDP port; none if it is for another one, a fragment, or broken. Checksums are not
/// looked at: between two machines of one host they are often left to hardware that is not there.
#[must_use]
pub fn datagram(packet: &[u8], port: u16) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    let total = usize::from(number(packet, 2)?);
    // "More fragments", or not the first one.
    let is_fragment = number(packet, 6)? & 0x3fff != 0;
    if first >> 4 != 4 || header < SHORTEST_HEADER || is_fragment || *packet.get(9)? != UDP {
        return None;
    }
    // What is behind the packet is the padding of a short frame.
    let udp = packet.get(header..total)?;
    let length = usize::from(number(udp, 4)?);
    if number(udp, 2)? != port || length < UDP_HEADER {
        return None;
    }
    udp.get(UDP_HEADER..length)
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..)?.get(..2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Vec<u8> {
        let mut packet = vec![0x46, 0, 0, 35, 0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 0, 2, 2, 10, 0, 2, 15, 1, 1, 1, 1];
        packet.extend([0, 67, 0, 68, 0, 11, 0xde, 0xad, b'a', b'b', b'c', 0, 0, 0]);
        packet
    }

    #[test]
    fn what_is_for_the_port_without_options_and_padding() {
        assert_eq!(datagram(&packet(), 68), Some(&b"abc"[..]));
        assert_eq!(datagram(&packet(), 67), None);
    }

    #[test]
    fn other_protocols_fragments_and_broken_packets() {
        for (at, byte) in [(0, 0x66), (0, 0x44), (9, 6), (6, 0x20), (7, 1), (3, 200), (29, 7), (29, 12)] {
            let mut other = packet();
            other[at] = byte;
            assert_eq!(datagram(&other, 68), None, "byte {at} = {byte:#x}");
        }
        for length in 0..35 {
            assert_eq!(datagram(&packet()[..length], 68), None, "{length}");
        }
    }
}
