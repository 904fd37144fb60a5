//! A time server, that QEMU's user network shows as 10.0.2.2.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// Bytes of a packet without extensions (RFC 5905, 7.3).
const LENGTH: usize = 48;
/// From NTP's first second to that of Unix.
const BEFORE_UNIX: u64 = 2_208_988_800;

/// A server that tells this machine's time; it ends with the test program.
#[derive(Debug)]
pub struct TimeServer {
    answered: Arc<AtomicUsize>,
}

impl TimeServer {
    /// Starts one on loopback. systemd-timesyncd asks at port 123 only, so that this takes root.
    ///
    /// # Errors
    ///
    /// Those of listening: somebody else may be a time server there.
    pub fn start() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:123").context("port 123 of loopback, for a time server")?;
        let answered = Arc::new(AtomicUsize::default());
        let count = Arc::clone(&answered);
        thread::spawn(move || {
            let mut question = [0; LENGTH];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                if length == LENGTH && socket.send_to(&answer(&question, SystemTime::now()), from).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { answered })
    }

    /// How often it was asked.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

fn answer(question: &[u8; LENGTH], now: SystemTime) -> Vec<u8> {
    let [first, _, poll, ..] = *question;
    let now = timestamp(now);
    // No leap second, the asker's version, a server; of stratum 1, precise to a millisecond or so.
    let mut packet = vec![(first & 0b0011_1000) | 4, 1, poll, 0xf6];
    // No delay and no dispersion on the way to the reference clock, which is the machine's own.
    packet.extend([0; 8]);
    packet.extend(b"LOCL");
    packet.extend(now);
    // When the question left the asker, by its clock; when it came, and when this leaves.
    packet.extend(question.iter().skip(40));
    packet.extend(now);
    packet.extend(now);
    packet
}

/// Seconds and their fraction, in 32 bits each.
fn timestamp(time: SystemTime) -> [u8; 8] {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    // Only the last 32 bits of the seconds are sent: they begin anew in 2036.
    (((since.as_secs() + BEFORE_UNIX) << 32) | fraction).to_be_bytes()
}
