//! All interfaces that may be meant are asked at once, for IPv4 and for IPv6; which of the answers the node goes on with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::client::Lease;
use super::client6::Reached;
use super::{Interface, client, client6, interfaces};
use crate::cmdline::Families;
use crate::{say, warning};

/// How often it is looked for answers, and for carriers.
const LOOK: Duration = Duration::from_millis(100);
/// After how long an interface that could not even be listened on is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often a missing cable is told.
const CARRIER_REMINDER: Duration = Duration::from_secs(10);
/// How long IPv4 may still come when IPv6 is there and either would do.
const GRACE: Duration = Duration::from_secs(4);

/// What an address is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Servers that have IPv4 addresses only.
    V4,
    /// Servers that have IPv6 addresses only.
    V6,
    /// Names, or both.
    Any,
}

impl Need {
    /// What these URLs need.
    pub(super) fn of<'a>(urls: impl Iterator<Item = &'a str>) -> Self {
        let hosts =
            urls.filter_map(|url| url.split_once("://")).map(|(_, rest)| rest.split('/').next().unwrap_or(rest));
        let mut need = None;
        for host in hosts {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            let this = if host.starts_with('[') {
                Self::V6
            } else if name.parse::<std::net::Ipv4Addr>().is_ok() {
                Self::V4
            } else {
                Self::Any
            };
            need = Some(need.map_or(this, |before| if before == this { this } else { Self::Any }));
        }
        need.unwrap_or(Self::Any)
    }
}

/// What an interface learned, by its number.
pub(super) enum Learned {
    /// By DHCP.
    V4(u32, Box<Lease>),
    /// From routers, and by DHCPv6.
    V6(u32, Box<Reached>),
}

/// What one interface knows, to go on with.
pub(super) struct Winner {
    /// The interface's number.
    pub(super) index: u32,
    /// Its IPv4 address.
    pub(super) v4: Option<Lease>,
    /// Its IPv6 address.
    pub(super) v6: Option<Reached>,
}

/// The answers so far.
pub(super) struct Answers {
    need: Need,
    /// Whether IPv4 is asked for at all.
    v4_may_come: bool,
    v4: Vec<(u32, Lease)>,
    v6: Vec<(u32, Reached)>,
    /// When the first IPv6 answer came.
    v6_since: Option<Instant>,
}

impl Answers {
    pub(super) fn new(need: Need, families: Families) -> Self {
        Self { need, v4_may_come: families != Families::V6, v4: Vec::new(), v6: Vec::new(), v6_since: None }
    }

    pub(super) fn add(&mut self, learned: Learned, now: Instant) {
        match learned {
            Learned::V4(index, lease) => self.v4.push((index, *lease)),
            Learned::V6(index, reached) => {
                self.v6.push((index, *reached));
                self.v6_since.get_or_insert(now);
            }
        }
    }

    /// The interface to go on with, once there is what is needed.
    pub(super) fn winner(&mut self, now: Instant) -> Option<Winner> {
        let v4 = self.v4.first().map(|(index, _)| *index).filter(|_| self.need != Need::V6);
        let waited =
            !self.v4_may_come || self.v6_since.is_some_and(|since| now.saturating_duration_since(since) >= GRACE);
        let is_enough = self.need == Need::V6 || (self.need == Need::Any && waited);
        let v6 = self.v6.first().map(|(index, _)| *index).filter(|_| is_enough);
        let index = v4.or(v6)?;
        let mut lease = self.v4.iter().position(|(of, _)| *of == index).map(|at| self.v4.swap_remove(at).1);
        let mut reached = self.v6.iter().position(|(of, _)| *of == index).map(|at| self.v6.swap_remove(at).1);
        Some(Winner { index, v4: lease.take(), v6: reached.take() })
    }
}

/// A thread for each interface and family; its end stops them all.
pub(super) struct Race {
    sys: PathBuf,
    families: Families,
    pub(super) started: Instant,
    stop: Arc<AtomicBool>,
    sender: Sender<Learned>,
    answers: Receiver<Learned>,
}

impl Race {
    pub(super) fn new(sys: &Path, families: Families) -> Self {
        let (sender, answers) = mpsc::channel();
        let started = Instant::now();
        Self { sys: sys.to_path_buf(), families, started, stop: Arc::default(), sender, answers }
    }

    /// The next answer, if one comes soon.
    pub(super) fn next(&self) -> Option<Learned> {
        self.answers.recv_timeout(LOOK).ok()
    }

    pub(super) fn enter(&self, interface: &Interface) {
        let index = interface.index;
        if self.families != Families::V6 {
            self.run(interface, "DHCP", move |interface, stop| {
                Ok(client::acquire(interface, stop)?.map(|lease| Learned::V4(index, Box::new(lease))))
            });
        }
        if self.families != Families::V4 {
            let needed = self.families == Families::V6;
            self.run(interface, "IPv6", move |interface, stop| {
                let reached = client6::acquire(interface, needed, stop)?;
                Ok(reached.map(|reached| Learned::V6(index, Box::new(reached))))
            });
        }
    }

    fn run<F>(&self, interface: &Interface, what: &'static str, ask: F)
    where
        F: Fn(&Interface, &AtomicBool) -> std::io::Result<Option<Learned>> + Send + 'static,
    {
        let (interface, sys) = (interface.clone(), self.sys.clone());
        let (stop, sender) = (Arc::clone(&self.stop), self.sender.clone());
        // Both families wait for the same cable; one says so.
        let tells = what == "DHCP" || self.families == Families::V6;
        thread::spawn(move || {
            while wait_for_carrier(&sys, &interface, tells, &stop) {
                match ask(&interface, &stop) {
                    Ok(Some(learned)) => {
                        let _ = sender.send(learned);
                        return;
                    }
                    Ok(None) => return,
                    // A card that was reset, for example.
                    Err(e) => warning!("{what} on {}: {e}; once more in {} s", interface.name, AGAIN.as_secs()),
                }
                thread::sleep(AGAIN);
            }
        });
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn wait_for_carrier(sys: &Path, interface: &Interface, tells: bool, stop: &AtomicBool) -> bool {
    let started = Instant::now();
    let mut next_reminder = CARRIER_REMINDER;
    while !stop.load(Ordering::Relaxed) {
        if interfaces::has_carrier(sys, &interface.name) {
            return true;
        }
        if tells && started.elapsed() > next_reminder {
            say!(
                "{} ({}): no carrier for {} s: is the cable in?",
                interface.name,
                interface.mac,
                next_reminder.as_secs()
            );
            next_reminder *= 2;
        }
        thread::sleep(LOOK);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Mac, Network};

    fn v6(index: u32) -> Learned {
        let address = "2001:db8::7".parse().unwrap();
        let network = Network::new("eth0", Mac([0; 6]), "ra", address, 64);
        Learned::V6(index, Box::new(Reached { network, lease: None }))
    }

    fn v4(index: u32) -> Learned {
        let network = Network::new("eth0", Mac([0; 6]), "dhcp", [10, 0, 0, 7].into(), 24);
        let (address, server) = ([10, 0, 0, 7].into(), [10, 0, 0, 1].into());
        Learned::V4(index, Box::new(Lease { network, address, server, renewal: None, since: Instant::now() }))
    }

    #[test]
    fn what_the_urls_need() {
        for (urls, need) in [
            (&["http://10.0.0.1/r"][..], Need::V4),
            (&["http://10.0.0.1:8080/r", "http://10.0.0.2"], Need::V4),
            (&["http://[2001:db8::1]:8080/r"], Need::V6),
            (&["http://boot/r"], Need::Any),
            (&["http://boot:80/r", "http://10.0.0.1/r"], Need::Any),
            (&["http://[2001:db8::1]/r", "http://10.0.0.1/r"], Need::Any),
            (&[], Need::Any),
        ] {
            assert_eq!(Need::of(urls.iter().copied()), need, "{urls:?}");
        }
    }

    #[test]
    fn the_first_lease_wins_where_ipv4_does() {
        let now = Instant::now();
        for need in [Need::V4, Need::Any] {
            let mut answers = Answers::new(need, Families::Both);
            answers.add(v6(3), now);
            assert!(answers.winner(now).is_none(), "{need:?}: IPv4 may still come");
            answers.add(v4(2), now);
            answers.add(v4(3), now);
            let winner = answers.winner(now).unwrap();
            assert_eq!((winner.index, winner.v4.is_some(), winner.v6.is_some()), (2, true, false), "{need:?}");
        }
    }

    #[test]
    fn ipv6_alone_is_enough_after_a_while_or_at_once() {
        let now = Instant::now();
        let mut either = Answers::new(Need::Any, Families::Both);
        either.add(v6(3), now);
        assert!(either.winner(now + Duration::from_secs(1)).is_none());
        assert_eq!(either.winner(now + GRACE).unwrap().index, 3);
        let mut alone = Answers::new(Need::Any, Families::V6);
        alone.add(v6(3), now);
        assert!(alone.winner(now).is_some(), "nobody asks for IPv4");
        let mut servers = Answers::new(Need::V6, Families::Both);
        servers.add(v4(2), now);
        assert!(servers.winner(now + GRACE * 9).is_none());
        servers.add(v6(2), now);
        let winner = servers.winner(now).unwrap();
        assert_eq!((winner.index, winner.v4.is_some(), winner.v6.is_some()), (2, true, true));
        let mut never = Answers::new(Need::V4, Families::Both);
        never.add(v6(3), now);
        assert!(never.winner(now + GRACE * 9).is_none());
    }
}
