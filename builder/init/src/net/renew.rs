//! Keeps a lease alive as long as the initrd is at work: a boot server that is down for hours must not cost the node
//! its address, which the DHCP server would give to somebody else.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{self, Lease, Renewal, wait_until};
use super::{Interface, Network, client6, netlink, up};
use crate::{debug, say, warning};

/// Between two questions at least, and for leases of usual length, RFC 2131's minute.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is known of the network now.
pub(super) type Shared = Arc<Mutex<Network>>;

/// What is known of the network beside a lease.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// `nameserver=`.
    pub(super) nameservers: Vec<IpAddr>,
    /// What routers and DHCPv6 said.
    pub(super) v6: Option<Network>,
}

impl Beside {
    /// All that is known, with the lease's part. It is the same before the first renewal and after each.
    pub(super) fn with(&self, lease: &Network) -> Network {
        let mut network = lease.clone();
        if let Some(v6) = &self.v6 {
            network = up::merge(network, v6);
        }
        network.dns.splice(0..0, self.nameservers.iter().copied());
        network
    }
}

/// A thread that renews a lease; it ends with this value.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: Arc<AtomicBool>,
}

impl Keeper {
    /// Keeps a lease of DHCP. The shared network has what came with it, and gets what later answers say; `beside` is what
    /// did not come with the lease.
    pub(super) fn of_dhcp(lease: Lease, (interface, shared): (Interface, Shared), beside: Beside) -> Self {
        Self::start(move |stop| keep(lease, &interface, &shared, &beside, stop))
    }

    /// Keeps an address of DHCPv6. The shared network gets another one that comes in its place.
    pub(super) fn of_dhcp6(lease: client6::Lease, (interface, shared): (Interface, Shared)) -> Self {
        Self::start(move |stop| keep6(lease, &interface, &shared, stop))
    }

    fn start(keep: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        thread::spawn(move || keep(&seen));
        Self { stop }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn keep(mut lease: Lease, interface: &Interface, shared: &Shared, beside: &Beside, stop: &AtomicBool) {
    loop {
        let Some((renew, rebind)) = lease.renewal else { return };
        let end = lease.network.lease_seconds.unwrap_or(rebind);
        let at = |seconds: u32| lease.since + Duration::from_secs(seconds.into());
        if !wait_until(at(renew), stop) {
            return;
        }
        let question = |any_server| client::renew(&lease, interface, any_server, stop);
        match ask("DHCP", lease.address.into(), interface, (at(rebind), at(end)), stop, question) {
            Some(next) => lease = next,
            None if stop.load(Ordering::Relaxed) => return,
            None => {
                warning!("{}: the lease of {} is over; asking for another", interface.name, lease.address);
                let before = (lease.network.address, lease.network.prefix);
                if let Err(e) = netlink::remove_address(interface.index, before.0, before.1) {
                    debug!("{}: remove {}: {e}", interface.name, lease.address);
                }
                match client::acquire(interface, stop) {
                    Ok(Some(next)) => lease = next,
                    Ok(None) => return,
                    Err(e) => {
                        warning!("DHCP on {}: {e}", interface.name);
                        return;
                    }
                }
            }
        }
        take(&lease.network, interface, shared, beside);
    }
}

fn keep6(mut lease: client6::Lease, interface: &Interface, shared: &Shared, stop: &AtomicBool) {
    while let Some((renew, rebind)) = lease.renewal {
        let at = |seconds: u32| lease.since + Duration::from_secs(seconds.into());
        if !wait_until(at(renew), stop) {
            return;
        }
        let question = |any_server| client6::renew(&lease, interface, any_server, stop);
        let next = ask("DHCPv6", lease.address.into(), interface, (at(rebind), at(lease.valid)), stop, question);
        let Some(next) = next.or_else(|| another6(&lease, interface, stop)) else { return };
        if let Err(e) = next.set(interface.index) {
            warning!("{}: set the address {}: {e}", interface.name, next.address);
        }
        if next.address != lease.address {
            replace6(&lease, &next, interface, shared);
        }
        lease = next;
    }
}

/// Asks for an address until one comes; none when it was stopped before.
fn another6(lease: &client6::Lease, interface: &Interface, stop: &AtomicBool) -> Option<client6::Lease> {
    while !stop.load(Ordering::Relaxed) {
        warning!("{}: the lease of {} is over; asking for another", interface.name, lease.address);
        match client6::lease(interface, stop) {
            Ok(Some(next)) => return Some(next),
            Ok(None) => {}
            Err(e) => debug!("DHCPv6 on {}: {e}", interface.name),
        }
        wait_until(Instant::now() + LONGEST_PAUSE, stop);
    }
    None
}

fn replace6(old: &client6::Lease, new: &client6::Lease, interface: &Interface, shared: &Shared) {
    if let Err(e) = netlink::remove_address(interface.index, old.address.into(), 128) {
        // The kernel counts, too.
        debug!("{}: remove {}: {e}", interface.name, old.address);
    }
    let mut known = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if known.address == old.address {
        known.address = new.address.into();
    }
    for address in known.ipv6.iter_mut().filter(|known| known.address == old.address) {
        address.address = new.address;
    }
}

/// Asks until somebody prolongs the lease of an address; none when the server refuses or the lease ends. The times are those
/// from when on any server is asked, and of the lease's end.
fn ask<L>(
    protocol: &str,
    address: IpAddr,
    interface: &Interface,
    (rebind, end): (Instant, Instant),
    stop: &AtomicBool,
    question: impl Fn(bool) -> io::Result<Renewal<L>>,
) -> Option<L> {
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        let any_server = Instant::now() >= rebind;
        match question(any_server) {
            Ok(Renewal::Prolonged(next)) => {
                debug!("{protocol} on {}: {address} is renewed", interface.name);
                return Some(*next);
            }
            Ok(Renewal::Refused(why)) => {
                say!("{protocol} on {}: the server wants {address} back: {why}", interface.name);
                return None;
            }
            Ok(Renewal::Silence) => {}
            Err(e) => debug!("{protocol} on {}: {e}", interface.name),
        }
        let next_stage = if any_server { end } else { rebind };
        let half = next_stage.saturating_duration_since(Instant::now()) / 2;
        wait_until(Instant::now() + half.clamp(SHORTEST_PAUSE, LONGEST_PAUSE), stop);
    }
    None
}

/// Sets what an answer says; what the kernel has already, gets its new lifetime.
fn take(network: &Network, interface: &Interface, shared: &Shared, beside: &Beside) {
    let mut known = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let mut network = beside.with(network);
    network.links.clone_from(&known.links);
    network.ipv6.clone_from(&known.ipv6);
    if let Err(e) = up::configure(interface.index, &network) {
        warning!("{e}");
    }
    *known = network;
}
