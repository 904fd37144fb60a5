//! Cables whose frames a test changes on their way between the machine's cards and QEMU's user network, which has DHCP,
//! a router and the boot server. Neither root nor a network device of the host is needed: QEMU gives every frame to a
//! Unix socket.

use std::collections::VecDeque;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// What happens on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The machine's frames have to be in this VLAN; outside of it nobody hears them.
    Vlan(u16),
    /// The cables end in one switch, which sends to where it heard from last.
    Switch,
    /// The same, with a switch that wants the cables in one aggregation (802.3ad) and answers to that on each.
    Lacp,
    /// The same as [`Wire::Lacp`], and the network is reached without a tag and in this VLAN as well: it answers in the way
    /// that it was asked last.
    Trunk(u16),
    /// The same as [`Wire::Switch`], and for so long after the first question there is no DHCP.
    NoDhcp(Duration),
}

/// Bytes of two addresses, after which a VLAN's tag stands.
const ADDRESSES: usize = 12;
/// The Ethernet type of a tag.
const TAG: [u8; 2] = [0x81, 0];

/// The network's side of the cables; it works until the test program ends.
#[derive(Debug)]
pub struct Exchange {
    folder: tempfile::TempDir,
}

struct Relay {
    wire: Wire,
    folder: PathBuf,
    cards: usize,
    /// The card that was heard last.
    last: Mutex<Option<usize>>,
    /// Whether it was heard in the VLAN.
    is_tagged: AtomicBool,
    first_question: Mutex<Option<Instant>>,
}

impl Exchange {
    /// Connects so many cards.
    ///
    /// # Errors
    ///
    /// Those of making sockets.
    pub fn start(wire: Wire, cards: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("wire-").tempdir()?;
        let path = folder.path().to_path_buf();
        let relay = Arc::new(Relay {
            wire,
            folder: path,
            cards,
            last: Mutex::default(),
            is_tagged: AtomicBool::default(),
            first_question: Mutex::default(),
        });
        for end in (0..cards).map(Some).chain([None]) {
            let socket = UnixDatagram::bind(here(folder.path(), end))?;
            let relay = Arc::clone(&relay);
            thread::spawn(move || relay.run(end, &socket));
        }
        Ok(Self { folder })
    }

    /// QEMU's arguments for the network: its user network, at the other end of the cables.
    #[must_use]
    pub fn network(&self) -> String {
        format!(
            "-netdev user,id=u {} -netdev hubport,hubid=8,id=h0,netdev=u -netdev hubport,hubid=8,id=h1,netdev=s",
            self.netdev(None, "s")
        )
    }

    /// QEMU's arguments for one end: a card's, or the network's.
    #[must_use]
    pub fn netdev(&self, end: Option<usize>, id: &str) -> String {
        let (local, remote) = (there(self.folder.path(), end), here(self.folder.path(), end));
        format!(
            "-netdev dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            local.display(),
            remote.display()
        )
    }
}

/// Our end's socket.
fn here(folder: &Path, end: Option<usize>) -> PathBuf {
    folder.join(end.map_or("network".into(), |card| format!("card{card}")))
}

/// QEMU's end.
fn there(folder: &Path, end: Option<usize>) -> PathBuf {
    folder.join(end.map_or("network-qemu".into(), |card| format!("card{card}-qemu")))
}

impl Relay {
    fn run(&self, from: Option<usize>, socket: &UnixDatagram) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length) = socket.recv(&mut buffer) {
            let frame = buffer.get(..length).unwrap_or_default();
            if let (Wire::Lacp | Wire::Trunk(_), Some(card)) = (self.wire, from)
                && is_slow(frame)
            {
                if let Some(reply) = lacp_reply(frame, card) {
                    let _ = socket.send_to(&reply, there(&self.folder, from));
                }
                continue;
            }
            let to: VecDeque<Option<usize>> = match from {
                Some(card) => {
                    if let Ok(mut last) = self.last.lock() {
                        *last = Some(card);
                    }
                    [None].into()
                }
                None => match self.last.lock().ok().and_then(|last| *last) {
                    Some(card) => [Some(card)].into(),
                    None => (0..self.cards).map(Some).collect(),
                },
            };
            let Some(frame) = self.change(frame, from.is_some()) else { continue };
            for end in to {
                // QEMU may not be there yet, or no longer.
                let _ = socket.send_to(&frame, there(&self.folder, end));
            }
        }
    }

    /// What arrives of a frame.
    fn change(&self, frame: &[u8], is_from_machine: bool) -> Option<Vec<u8>> {
        let (addresses, rest) = frame.split_at_checked(ADDRESSES)?;
        let tagged = |id: u16| [addresses, &TAG, &id.to_be_bytes(), rest].concat();
        let untagged = |id: u16| {
            let (tag, inner) = rest.strip_prefix(&TAG)?.split_at_checked(2)?;
            let tag = u16::from_be_bytes(tag.try_into().ok()?);
            (tag & 0xfff == id).then(|| [addresses, inner].concat())
        };
        match self.wire {
            Wire::Switch | Wire::Lacp => Some(frame.to_vec()),
            Wire::Vlan(id) if is_from_machine => untagged(id),
            Wire::Vlan(id) => Some(tagged(id)),
            Wire::Trunk(id) if is_from_machine => {
                let inner = untagged(id);
                self.is_tagged.store(inner.is_some(), Ordering::Relaxed);
                // What is in another VLAN goes nowhere.
                inner.or_else(|| (!rest.starts_with(&TAG)).then(|| frame.to_vec()))
            }
            Wire::Trunk(id) if self.is_tagged.load(Ordering::Relaxed) => Some(tagged(id)),
            Wire::Trunk(_) => Some(frame.to_vec()),
            Wire::NoDhcp(silence) => {
                let mut first = self.first_question.lock().ok()?;
                let is_silent = is_dhcp(frame) && first.get_or_insert_with(Instant::now).elapsed() < silence;
                (!is_silent).then(|| frame.to_vec())
            }
        }
    }
}

/// Whether a frame is of a protocol between neighbours, LACP for one.
fn is_slow(frame: &[u8]) -> bool {
    frame.get(ADDRESSES..ADDRESSES + 2) == Some(&[0x88, 0x09])
}

/// What a switch answers to an LACPDU (IEEE 802.1AX, 6.4.2.3): its own part, and the other's as it was heard.
fn lacp_reply(frame: &[u8], card: usize) -> Option<Vec<u8>> {
    let heard = frame.get(18..36)?;
    let port = u8::try_from(card + 1).ok()?;
    // To the neighbours' group address; LACP, version 1.
    let mut reply = vec![1, 0x80, 0xc2, 0, 0, 2, 2, 0, 0, 0, 1, port, 0x88, 0x09, 1, 1];
    // Actor: priority and address of the system, key, priority and number of the port; active, aggregating, in step,
    // collecting, distributing.
    reply.extend([1, 20, 0x80, 0, 2, 0, 0, 0, 0, 1, 0, 17, 0, 0xff, 0, port, 0x3d, 0, 0, 0]);
    reply.extend([2, 20]);
    reply.extend(heard);
    // Collector without a delay; end.
    reply.extend([3, 16]);
    reply.resize(124, 0);
    Some(reply)
}

/// Whether a frame is UDP over IPv4 to a DHCP server.
fn is_dhcp(frame: &[u8]) -> bool {
    let byte = |at: usize| frame.get(at).copied().unwrap_or_default();
    let header = usize::from(byte(14) & 0x0f) * 4;
    (byte(12), byte(13)) == (8, 0) && byte(23) == 17 && byte(14 + header + 2) == 0 && byte(14 + header + 3) == 67
}
