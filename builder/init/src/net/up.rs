//! From the choice of an interface to an address on it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::{Choice, Error, Interface, Network, client, interfaces, netlink};
use crate::cmdline::{Ip, Parameters, Static};
use crate::{debug, say, warning};

/// How long drivers get to show an interface: firmware of some cards takes its time.
const INTERFACE_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How often interfaces are looked for that appear while others are asked already.
const LATECOMERS: Duration = Duration::from_secs(2);
/// After how long DHCP is tried again on an interface that could not even be listened on.
const AGAIN: Duration = Duration::from_secs(5);
/// How often a missing cable is told.
const CARRIER_REMINDER: Duration = Duration::from_secs(10);
/// How long a static address waits for a cable before it is used all the same: not every driver reports one.
const STATIC_CARRIER_PATIENCE: Duration = Duration::from_secs(20);

/// An interface that is up with an address, to be put back before the system takes over.
#[derive(Debug)]
pub struct Link {
    /// What is known of the network.
    pub network: Network,
    index: u32,
    /// Interfaces that we switched on.
    raised: Vec<Interface>,
}

impl Link {
    /// Takes address and routes away and switches the links off. udev does not rename an interface that is up, and
    /// networkd waits for a link that it did not configure.
    pub fn put_back(&self) {
        if let Err(e) = netlink::remove_address(self.index, self.network.address, self.network.prefix) {
            debug!("{}: remove {}: {e}", self.network.interface, self.network.address);
        }
        for interface in &self.raised {
            if let Err(e) = netlink::set_up(interface.index, false) {
                debug!("{}: link down: {e}", interface.name);
            }
        }
    }
}

/// Gets an address. `retry_modules` is called while no interface shows up, since devices may still appear.
///
/// # Errors
///
/// [`Error`], after the patience that `netboot.timeout=` sets.
pub fn bring_up(sys: &Path, parameters: &Parameters, retry_modules: &mut dyn FnMut()) -> Result<Link, Error> {
    if parameters.ip == Some(Ip::Off) {
        return Err(Error::Off);
    }
    if let Err(e) = netlink::set_up(1, true) {
        debug!("lo: {e}");
    }
    let choice = Choice::new(parameters);
    let mut raised = Vec::new();
    for interface in wait_for_interfaces(sys, &choice, retry_modules)? {
        raise(interface, &mut raised);
    }
    let network = match &parameters.ip {
        Some(Ip::Static(address)) => static_network(address, first_with_carrier(sys, &raised)),
        _ => dhcp_on_any(sys, &choice, &mut raised, parameters.timeout, retry_modules)?,
    };
    let Some(index) = raised.iter().find(|interface| interface.name == network.interface).map(|i| i.index) else {
        return Err(Error::NoInterface { waited: 0, unclaimed: interfaces::unclaimed(sys) });
    };
    configure(index, &network)?;
    Ok(Link { network, index, raised })
}

/// Switches an interface on; without that it does not know whether it has a carrier.
fn raise(interface: Interface, raised: &mut Vec<Interface>) {
    let driver = interface.driver.as_deref().unwrap_or("unknown driver");
    say!("network interface {} {} ({driver})", interface.name, interface.mac);
    if let Err(e) = netlink::set_up(interface.index, true) {
        warning!("{}: link up: {e}", interface.name);
    }
    raised.push(interface);
}

fn wait_for_interfaces(sys: &Path, choice: &Choice, retry_modules: &mut dyn FnMut()) -> Result<Vec<Interface>, Error> {
    let started = Instant::now();
    loop {
        let all = interfaces::list(sys);
        let fitting: Vec<Interface> = all.iter().filter(|interface| choice.fits(interface)).cloned().collect();
        if !fitting.is_empty() {
            return Ok(fitting);
        }
        if started.elapsed() > INTERFACE_PATIENCE {
            let (waited, unclaimed) = (started.elapsed().as_secs(), interfaces::unclaimed(sys));
            return Err(match choice {
                Choice::Any => Error::NoInterface { waited, unclaimed },
                Choice::One(_) => Error::NotThere {
                    wanted: choice.describe(),
                    waited,
                    present: all.iter().map(|i| format!("{} {}", i.name, i.mac)).collect(),
                    unclaimed,
                },
            });
        }
        thread::sleep(LOOK);
        retry_modules();
    }
}

fn first_with_carrier<'a>(sys: &Path, candidates: &'a [Interface]) -> Option<&'a Interface> {
    let deadline = Instant::now() + STATIC_CARRIER_PATIENCE;
    loop {
        if let Some(found) = candidates.iter().find(|interface| interfaces::has_carrier(sys, &interface.name)) {
            return Some(found);
        }
        if Instant::now() > deadline {
            warning!("no interface has a carrier: is the cable in?");
            return candidates.first();
        }
        thread::sleep(LOOK);
    }
}

/// Asks on all interfaces at once, those too that appear later; whoever answers first is it.
fn dhcp_on_any(
    sys: &Path,
    choice: &Choice,
    raised: &mut Vec<Interface>,
    timeout: Option<Duration>,
    retry_modules: &mut dyn FnMut(),
) -> Result<Network, Error> {
    let race = Race::new(sys);
    for interface in raised.iter() {
        race.enter(interface);
    }
    let mut next_look = Instant::now() + LATECOMERS;
    loop {
        if let Ok(network) = race.answers.recv_timeout(LOOK) {
            return Ok(network);
        }
        let waited = race.started.elapsed();
        if timeout.is_some_and(|timeout| waited >= timeout) {
            return Err(Error::NoLease {
                waited: waited.as_secs(),
                attempts: raised.iter().map(|i| in_words(sys, i)).collect(),
            });
        }
        if Instant::now() >= next_look {
            next_look = Instant::now() + LATECOMERS;
            retry_modules();
            for interface in interfaces::list(sys) {
                if choice.fits(&interface) && !raised.iter().any(|known| known.index == interface.index) {
                    raise(interface.clone(), raised);
                    race.enter(&interface);
                }
            }
        }
    }
}

fn in_words(sys: &Path, interface: &Interface) -> String {
    let carrier = if interfaces::has_carrier(sys, &interface.name) { "has carrier" } else { "has no carrier" };
    format!("{} {} {carrier}", interface.name, interface.mac)
}

/// DHCP on several interfaces, a thread each; its end stops them all.
struct Race {
    sys: PathBuf,
    started: Instant,
    stop: Arc<AtomicBool>,
    sender: Sender<Network>,
    answers: Receiver<Network>,
}

impl Race {
    fn new(sys: &Path) -> Self {
        let (sender, answers) = mpsc::channel();
        Self { sys: sys.to_path_buf(), started: Instant::now(), stop: Arc::default(), sender, answers }
    }

    fn enter(&self, interface: &Interface) {
        let (interface, sys) = (interface.clone(), self.sys.clone());
        let (stop, sender) = (Arc::clone(&self.stop), self.sender.clone());
        thread::spawn(move || {
            while wait_for_carrier(&sys, &interface, &stop) {
                match client::acquire(&interface, &stop) {
                    Ok(Some(network)) => {
                        let _ = sender.send(network);
                        return;
                    }
                    Ok(None) => return,
                    // A card that was reset, for example.
                    Err(e) => warning!("DHCP on {}: {e}; once more in {} s", interface.name, AGAIN.as_secs()),
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

fn wait_for_carrier(sys: &Path, interface: &Interface, stop: &AtomicBool) -> bool {
    let started = Instant::now();
    let mut next_reminder = CARRIER_REMINDER;
    while !stop.load(Ordering::Relaxed) {
        if interfaces::has_carrier(sys, &interface.name) {
            return true;
        }
        if started.elapsed() > next_reminder {
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

fn static_network(address: &Static, interface: Option<&Interface>) -> Network {
    Network {
        interface: interface.map(|i| i.name.clone()).unwrap_or_default(),
        mac: interface.map_or(super::Mac([0; 6]), |i| i.mac),
        method: "static",
        address: address.address,
        prefix: address.prefix,
        gateway: address.gateway,
        routes: Vec::new(),
        dns: address.dns.clone(),
        domain: None,
        search: Vec::new(),
        hostname: address.hostname.clone(),
        mtu: None,
        ntp: address.ntp.clone(),
        dhcp_server: None,
        lease_seconds: None,
    }
}

fn configure(index: u32, network: &Network) -> Result<(), Error> {
    let failed = |what: &'static str| {
        let interface = network.interface.clone();
        move |source| Error::Interface { what, interface, source }
    };
    if let Some(mtu) = network.mtu
        && let Err(e) = netlink::set_mtu(index, mtu)
    {
        warning!("{}: the MTU of {mtu} that the network gave: {e}", network.interface);
    }
    netlink::add_address(index, network.address, network.prefix).map_err(failed("set the address"))?;
    for route in &network.routes {
        let gateway = Some(route.gateway).filter(|gateway| !gateway.is_unspecified());
        let on_link = gateway.is_some_and(|gateway| !is_near(network, gateway));
        if let Err(e) = netlink::add_route(index, route.destination, route.prefix, gateway, on_link) {
            warning!("{}: route to {}/{}: {e}", network.interface, route.destination, route.prefix);
        }
    }
    if let Some(gateway) = network.gateway {
        let on_link = !is_near(network, gateway);
        netlink::add_route(index, Ipv4Addr::UNSPECIFIED, 0, Some(gateway), on_link)
            .map_err(failed("set the default route"))?;
    }
    Ok(())
}

/// Whether an address is in the network of our own.
fn is_near(network: &Network, address: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix.min(32))).unwrap_or(0);
    u32::from(address) & mask == u32::from(network.address) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_what_the_mask_says() {
        let mut network = static_network(
            &Static {
                address: Ipv4Addr::new(10, 1, 2, 3),
                prefix: 23,
                gateway: None,
                hostname: None,
                device: None,
                dns: vec![],
                ntp: vec![],
            },
            None,
        );
        assert!(is_near(&network, Ipv4Addr::new(10, 1, 3, 254)));
        assert!(!is_near(&network, Ipv4Addr::new(10, 1, 4, 1)));
        network.prefix = 0;
        assert!(is_near(&network, Ipv4Addr::new(1, 1, 1, 1)));
        network.prefix = 32;
        assert!(!is_near(&network, Ipv4Addr::new(10, 1, 2, 2)));
    }

    #[test]
    fn off_means_off() {
        let parameters = crate::cmdline::parse("ip=off").parameters;
        assert!(matches!(bring_up(Path::new("/nonexistent"), &parameters, &mut || {}), Err(Error::Off)));
    }
}
