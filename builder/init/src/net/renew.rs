//! Keeps a lease alive as long as the initrd is at work: a boot server that is down for hours must not cost the node
//! its address, which the DHCP server would give to somebody else.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{self, Lease, Renewal, wait_until};
use super::{Interface, Network, netlink, up};
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
    /// Starts one. `shared` has the lease's network, and gets what later answers say; `beside` is what did not come with
    /// the lease.
    pub(super) fn start(lease: Lease, interface: Interface, shared: Shared, beside: Beside) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        thread::spawn(move || keep(lease, &interface, &shared, &beside, &seen));
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
        match ask(&lease, interface, at(rebind), at(end), stop) {
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

/// Asks until somebody prolongs the lease; none when the server refuses or the lease ends.
fn ask(lease: &Lease, interface: &Interface, rebind: Instant, end: Instant, stop: &AtomicBool) -> Option<Lease> {
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        let any_server = Instant::now() >= rebind;
        match client::renew(lease, interface, any_server, stop) {
            Ok(Renewal::Prolonged(next)) => {
                debug!("DHCP on {}: {} for {:?} s more", interface.name, next.address, next.network.lease_seconds);
                return Some(*next);
            }
            Ok(Renewal::Refused(why)) => {
                say!("DHCP on {}: the server wants {} back: {why}", interface.name, lease.address);
                return None;
            }
            Ok(Renewal::Silence) => {}
            Err(e) => debug!("DHCP on {}: {e}", interface.name),
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
