//! From the choice of an interface to an address on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::netlink::{self, LinkAddress, LinkRoute, Origin};
use super::race::{Answers, Need, Race, Winner};
use super::renew::{Beside, Keeper, Shared};
use super::stack::{self, Top};
use super::{Address, Choice, Error, Interface, Network, client6, hardware, interfaces};
use crate::cmdline::{Families, Ip, Parameters, Static};
use crate::{debug, say, warning};

/// How long drivers get to show an interface: firmware of some cards takes its time.
const INTERFACE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the other members of a bond get when one is there.
const MEMBER_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How often interfaces are looked for that appear while others are asked already.
const LATECOMERS: Duration = Duration::from_secs(2);
/// How long a static address waits for a cable before it is used all the same: not every driver reports one.
const STATIC_CARRIER_PATIENCE: Duration = Duration::from_secs(20);

/// An interface that is up with an address, to be handed over or put back before the system takes over.
#[derive(Debug)]
pub struct Link {
    shared: Shared,
    top: Top,
    /// What was asked on in vain.
    losers: Vec<Top>,
    /// Network cards that we switched on.
    raised: Vec<Interface>,
    /// They renew leases.
    _keepers: Vec<Keeper>,
}

impl Link {
    /// What is known of the network by now.
    #[must_use]
    pub fn network(&self) -> Network {
        let mut network = self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let v6 = client6::addresses(self.top.interface.index);
        if !v6.is_empty() {
            network.ipv6 = v6;
        }
        network
    }

    /// The number of the interface.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.top.interface.index
    }

    /// Takes addresses and routes away and switches the links off. Before Linux 6.2 udev cannot rename an interface that is
    /// up, and what does not know of this configuration waits for a link that it did not configure.
    pub fn put_back(&self) {
        let network = self.network();
        let index = self.top.interface.index;
        let v6 = network.ipv6.iter().map(|found| (IpAddr::V6(found.address), found.prefix));
        for (address, prefix) in std::iter::once((network.address, network.prefix)).chain(v6) {
            if let Err(e) = netlink::remove_address(index, address, prefix) {
                debug!("{}: remove {address}: {e}", network.interface);
            }
        }
        self.drop_losers();
        self.top.dismantle();
        self.switch_off(&[]);
    }

    /// Leaves the link as it is, and switches off what was tried beside it.
    pub fn keep(&self) {
        self.drop_losers();
        self.switch_off(&self.top.cards);
    }

    fn drop_losers(&self) {
        for loser in &self.losers {
            loser.dismantle();
        }
    }

    fn switch_off(&self, but: &[u32]) {
        for interface in self.raised.iter().filter(|interface| !but.contains(&interface.index)) {
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
    let mut setup = Setup { sys, parameters, choice: Choice::new(parameters), raised: Vec::new(), tops: Vec::new() };
    let found = setup.wait_for_interfaces(retry_modules)?;
    // Another one may be the one with the cable.
    for card in hardware::unclaimed(sys) {
        warning!("network card without a driver: {card}");
    }
    setup.take(found)?;
    match &parameters.ip {
        Some(Ip::Static(address)) => setup.fixed(address),
        Some(Ip::Dhcp(families, _)) => setup.ask(*families, retry_modules),
        _ => setup.ask(Families::Both, retry_modules),
    }
}

/// The work of [`bring_up`].
struct Setup<'a> {
    sys: &'a Path,
    parameters: &'a Parameters,
    choice: Choice,
    raised: Vec<Interface>,
    tops: Vec<Top>,
}

impl Setup<'_> {
    /// The interfaces that are meant, as soon as one is there; of a bond all, or those that came in time.
    fn wait_for_interfaces(&self, retry_modules: &mut dyn FnMut()) -> Result<Vec<Interface>, Error> {
        let started = Instant::now();
        let mut first_seen = None;
        loop {
            let all = self.list();
            let fitting: Vec<Interface> = all.iter().filter(|interface| self.choice.fits(interface)).cloned().collect();
            if !fitting.is_empty() {
                let missing = self.choice.missing(&fitting);
                if missing.is_empty() {
                    return Ok(fitting);
                }
                if first_seen.get_or_insert_with(Instant::now).elapsed() > MEMBER_PATIENCE {
                    warning!("of the bond's members {} did not appear", missing.join(" and "));
                    return Ok(fitting);
                }
            } else if started.elapsed() > INTERFACE_PATIENCE {
                let (waited, unclaimed) = (started.elapsed().as_secs(), hardware::unclaimed(self.sys));
                return Err(match self.choice {
                    Choice::Any => Error::NoInterface { waited, unclaimed },
                    Choice::One(_) | Choice::All(_) => Error::NotThere {
                        wanted: self.choice.describe(),
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

    /// All interfaces, with the names that `ifname=` gives.
    fn list(&self) -> Vec<Interface> {
        let mut all = interfaces::list(self.sys);
        for interface in &mut all {
            let Some((name, _)) = self.parameters.names.iter().find(|(_, mac)| *mac == interface.mac) else { continue };
            if interface.name == *name {
                continue;
            }
            match netlink::rename(interface.index, name) {
                Ok(()) => interface.name.clone_from(name),
                Err(e) => debug!("{}: name it {name}: {e}", interface.name),
            }
        }
        all
    }

    /// Switches interfaces on, and makes of them what is asked for.
    fn take(&mut self, found: Vec<Interface>) -> Result<(), Error> {
        for interface in &found {
            self.raise(interface);
        }
        let bottoms = match &self.parameters.bond {
            Some(bond) => vec![stack::make_bond(self.sys, bond, &found, self.parameters.bootif)?],
            None => found.into_iter().map(Top::card).collect(),
        };
        // With several, the VLAN's own name would be taken by the first.
        let others = bottoms.len() > 1 || !self.tops.is_empty();
        for bottom in bottoms {
            let top = match &self.parameters.vlan {
                Some(vlan) => bottom.with_vlan(self.sys, vlan, others)?,
                None => bottom,
            };
            self.tops.push(top);
        }
        Ok(())
    }

    /// Switches an interface on; without that it does not know whether it has a carrier.
    fn raise(&mut self, interface: &Interface) {
        let driver = interface.driver.as_deref().unwrap_or("unknown driver");
        say!("network interface {} {} ({driver})", interface.name, interface.mac);
        if let Err(e) = netlink::set_up(interface.index, true) {
            warning!("{}: link up: {e}", interface.name);
        }
        self.raised.push(interface.clone());
    }

    /// Asks on all interfaces at once, those too that appear later.
    fn ask(mut self, families: Families, retry_modules: &mut dyn FnMut()) -> Result<Link, Error> {
        let need = match families {
            Families::Both => Need::of(self.parameters.root.iter().chain(&self.parameters.config).map(String::as_str)),
            Families::V4 => Need::V4,
            Families::V6 => Need::V6,
        };
        let race = Race::new(self.sys, families);
        let mut answers = Answers::new(need, families);
        for top in &self.tops {
            race.enter(&top.interface);
        }
        let mut next_look = Instant::now() + LATECOMERS;
        loop {
            if let Some(learned) = race.next() {
                answers.add(learned, Instant::now());
            }
            if let Some(winner) = answers.winner(Instant::now()) {
                return self.finish(winner);
            }
            if let Some(timeout) = self.parameters.timeout.filter(|timeout| race.started.elapsed() >= *timeout) {
                return Err(Error::NoLease {
                    waited: timeout.as_secs(),
                    attempts: self.raised.iter().map(|i| in_words(self.sys, i)).collect(),
                    unclaimed: hardware::unclaimed(self.sys),
                });
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + LATECOMERS;
                retry_modules();
                let before = self.tops.len();
                self.look_for_latecomers()?;
                for top in self.tops.iter().skip(before) {
                    race.enter(&top.interface);
                }
            }
        }
    }

    fn look_for_latecomers(&mut self) -> Result<(), Error> {
        if self.parameters.bond.is_some() {
            return Ok(());
        }
        let is_new = |interface: &Interface| {
            self.choice.fits(interface) && !self.raised.iter().any(|known| known.index == interface.index)
        };
        let new = self.list().into_iter().filter(is_new).collect();
        self.take(new)
    }

    fn finish(self, winner: Winner) -> Result<Link, Error> {
        let Winner { index, v4, v6 } = winner;
        let mut beside = Beside { nameservers: self.parameters.nameservers.clone(), v6: None };
        let (v6, lease6) = v6.map_or((None, None), |reached| (Some(reached.network), reached.lease));
        let network = match (&v4, v6) {
            (Some(lease), v6) => {
                beside.v6 = v6;
                beside.with(&lease.network)
            }
            (None, Some(v6)) => beside.with(&v6),
            (None, None) => return Err(Error::NoInterface { waited: 0, unclaimed: Vec::new() }),
        };
        self.link(index, network, |link| {
            let place = || (link.top.interface.clone(), Arc::clone(&link.shared));
            let v4 = v4.map(|lease| Keeper::of_dhcp(lease, place(), beside));
            let v6 = lease6.map(|lease| Keeper::of_dhcp6(lease, place()));
            v4.into_iter().chain(v6).collect()
        })
    }

    fn fixed(self, address: &Static) -> Result<Link, Error> {
        let top = self.first_with_carrier();
        let mut network = static_network(address, &top.interface);
        network.dns.splice(0..0, self.parameters.nameservers.iter().copied());
        let index = top.interface.index;
        self.link(index, network, |_| Vec::new())
    }

    fn first_with_carrier(&self) -> &Top {
        let deadline = Instant::now() + STATIC_CARRIER_PATIENCE;
        loop {
            if let Some(found) = self.tops.iter().find(|top| interfaces::has_carrier(self.sys, &top.interface.name)) {
                return found;
            }
            if Instant::now() > deadline {
                warning!("no interface has a carrier: is the cable in?");
                // There is one: without any the boot has ended.
                return &self.tops[0];
            }
            thread::sleep(LOOK);
        }
    }

    /// Configures the interface with this number.
    fn link(
        mut self,
        index: u32,
        mut network: Network,
        keepers: impl FnOnce(&Link) -> Vec<Keeper>,
    ) -> Result<Link, Error> {
        let Some(at) = self.tops.iter().position(|top| top.interface.index == index) else {
            return Err(Error::NoInterface { waited: 0, unclaimed: hardware::unclaimed(self.sys) });
        };
        let top = self.tops.swap_remove(at);
        network.links.clone_from(&top.layers);
        if let Some(mtu) = network.mtu {
            top.raise_mtu(mtu);
        }
        configure(index, &network)?;
        let shared = Arc::new(Mutex::new(network));
        let mut link = Link { shared, top, losers: self.tops, raised: self.raised, _keepers: Vec::new() };
        link._keepers = keepers(&link);
        Ok(link)
    }
}

fn in_words(sys: &Path, interface: &Interface) -> String {
    let carrier = if interfaces::has_carrier(sys, &interface.name) { "has carrier" } else { "has no carrier" };
    format!("{} {} {carrier}", interface.name, interface.mac)
}

/// What both families say.
pub(super) fn merge(mut network: Network, v6: &Network) -> Network {
    network.ipv6.clone_from(&v6.ipv6);
    network.ipv6_gateway = v6.ipv6_gateway;
    network.mtu = network.mtu.or(v6.mtu);
    for server in &v6.dns {
        if !network.dns.contains(server) {
            network.dns.push(*server);
        }
    }
    for domain in &v6.search {
        if !network.search.contains(domain) {
            network.search.push(domain.clone());
        }
    }
    network.ntp.extend(&v6.ntp);
    network
}

fn static_network(address: &Static, interface: &Interface) -> Network {
    // IPv4 first: it is the node's address.
    let (main, prefix) = address
        .addresses
        .iter()
        .copied()
        .min_by_key(|(address, _)| address.is_ipv6())
        .unwrap_or((Ipv4Addr::UNSPECIFIED.into(), 0));
    let mut network = Network::new(&interface.name, interface.mac, "static", main, prefix);
    let is_v6 = |(address, prefix): &(IpAddr, u8)| match address {
        IpAddr::V6(address) => Some(Address { address: *address, prefix: *prefix }),
        IpAddr::V4(_) => None,
    };
    network.ipv6 = address.addresses.iter().filter_map(is_v6).collect();
    network.gateway = address.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == main.is_ipv4());
    network.ipv6_gateway = address.gateways.iter().find_map(|gateway| match gateway {
        IpAddr::V6(gateway) => Some(*gateway),
        IpAddr::V4(_) => None,
    });
    network.dns.clone_from(&address.dns);
    network.ntp.clone_from(&address.ntp);
    network.hostname.clone_from(&address.hostname);
    network.mtu = address.mtu;
    network
}

/// Sets MTU, addresses and routes. What routers said, the kernel has set already.
pub(super) fn configure(index: u32, network: &Network) -> Result<(), Error> {
    let failed = |what: &'static str| Error::interface(what, &network.interface);
    if let Some(mtu) = network.mtu
        && let Err(e) = netlink::set_mtu(index, mtu)
    {
        warning!("{}: the MTU of {mtu} that the network gave: {e}", network.interface);
    }
    let origin = if network.method == "static" { Origin::Static } else { Origin::Dhcp };
    for address in addresses_to_set(network) {
        netlink::add_address(index, &address).map_err(failed("set the address"))?;
    }
    for route in routes_to_set(network, origin) {
        let is_default = route.prefix == 0;
        match netlink::add_route(index, &route) {
            Ok(()) => {}
            Err(e) if is_default => return Err(failed("set the default route")(e)),
            Err(e) => warning!("{}: route to {}/{}: {e}", network.interface, route.destination, route.prefix),
        }
    }
    Ok(())
}

fn addresses_to_set(network: &Network) -> Vec<LinkAddress> {
    let (address, prefix) = (network.address, network.prefix);
    match network.method {
        "dhcp" => {
            // Longer than the kernel can count is for ever.
            let seconds = network.lease_seconds.filter(|seconds| *seconds != u32::MAX);
            vec![LinkAddress { address, prefix, lifetime: seconds.map(|seconds| (seconds, seconds)) }]
        }
        "static" => {
            let main = Some((address, prefix)).filter(|(address, _)| address.is_ipv4());
            let v6 = network.ipv6.iter().map(|found| (IpAddr::V6(found.address), found.prefix));
            let all = main.into_iter().chain(v6);
            all.map(|(address, prefix)| LinkAddress { address, prefix, lifetime: None }).collect()
        }
        _ => Vec::new(),
    }
}

/// The default route comes last: its gateway may be behind another one.
fn routes_to_set(network: &Network, origin: Origin) -> Vec<LinkRoute> {
    let source = Some(network.address).filter(|_| origin == Origin::Dhcp);
    let route = |destination: IpAddr, prefix, gateway: Option<IpAddr>| {
        let gateway = gateway.filter(|gateway| !gateway.is_unspecified());
        let on_link = gateway.is_some_and(|gateway| !is_near(network, gateway));
        LinkRoute { destination, prefix, gateway, on_link, source, origin }
    };
    let mut routes: Vec<LinkRoute> =
        network.routes.iter().map(|known| route(known.destination, known.prefix, Some(known.gateway))).collect();
    if network.address.is_ipv4() {
        routes.extend(network.gateway.map(|gateway| route(Ipv4Addr::UNSPECIFIED.into(), 0, Some(gateway))));
    }
    // Otherwise the kernel has it from the router.
    if network.method == "static" {
        let v6 = network.ipv6_gateway.map(IpAddr::V6);
        routes.extend(v6.map(|gateway| route(Ipv6Addr::UNSPECIFIED.into(), 0, Some(gateway))));
    }
    routes
}

/// Whether an address is in a network of our own.
fn is_near(network: &Network, address: IpAddr) -> bool {
    match (network.address, address) {
        (IpAddr::V4(own), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix.min(32))).unwrap_or(0);
            u32::from(address) & mask == u32::from(own) & mask
        }
        (_, IpAddr::V6(address)) => network.ipv6.iter().any(|own| {
            let mask = u128::MAX.checked_shl(128 - u32::from(own.prefix.min(128))).unwrap_or(0);
            u128::from(address) & mask == u128::from(own.address) & mask
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Mac, Route};

    fn network(address: [u8; 4], prefix: u8) -> Network {
        Network::new("eth0", Mac([0; 6]), "dhcp", address.into(), prefix)
    }

    #[test]
    fn near_is_what_the_mask_says() {
        let mut network = network([10, 1, 2, 3], 23);
        network.ipv6 = vec![Address { address: "2001:db8::7".parse().unwrap(), prefix: 64 }];
        assert!(is_near(&network, [10, 1, 3, 254].into()));
        assert!(!is_near(&network, [10, 1, 4, 1].into()));
        assert!(is_near(&network, "2001:db8::1".parse().unwrap()));
        assert!(!is_near(&network, "2001:db8:1::1".parse().unwrap()));
        network.prefix = 0;
        assert!(is_near(&network, [1, 1, 1, 1].into()));
        network.prefix = 32;
        assert!(!is_near(&network, [10, 1, 2, 2].into()));
    }

    #[test]
    fn off_means_off() {
        let parameters = crate::cmdline::parse("ip=off").parameters;
        assert!(matches!(bring_up(Path::new("/nonexistent"), &parameters, &mut || {}), Err(Error::Off)));
    }

    #[test]
    fn a_lease_is_set_with_its_lifetime_and_its_routes_as_networkd_would() {
        let mut network = network([10, 0, 2, 15], 24);
        network.lease_seconds = Some(3600);
        network.gateway = Some([10, 9, 9, 9].into());
        network.routes =
            vec![Route { destination: [10, 9, 9, 0].into(), prefix: 24, gateway: Ipv4Addr::UNSPECIFIED.into() }];
        let set = addresses_to_set(&network);
        assert_eq!((set.len(), set[0].lifetime), (1, Some((3600, 3600))));
        let routes = routes_to_set(&network, Origin::Dhcp);
        assert_eq!((routes[0].gateway, routes[0].on_link), (None, false));
        assert_eq!((routes[1].prefix, routes[1].on_link, routes[1].source), (0, true, Some([10, 0, 2, 15].into())));
        network.lease_seconds = Some(u32::MAX);
        assert_eq!(addresses_to_set(&network)[0].lifetime, None, "for ever");
    }

    #[test]
    fn static_addresses_of_both_families() {
        let cmdline = "ip=[2001:db8::7]::[fe80::1]:64:::off ip=192.0.2.7::192.0.2.1:24:::off";
        let Some(Ip::Static(address)) = crate::cmdline::parse(cmdline).parameters.ip else { panic!("not static") };
        let interface = Interface { name: "eth0".into(), index: 2, mac: Mac([0; 6]), driver: None };
        let network = static_network(&address, &interface);
        assert_eq!((network.address, network.gateway), ([192, 0, 2, 7].into(), Some([192, 0, 2, 1].into())));
        assert_eq!(addresses_to_set(&network).len(), 2);
        let routes = routes_to_set(&network, Origin::Static);
        assert_eq!((routes.len(), routes[0].on_link, routes[1].on_link), (2, false, true));
        let Some(Ip::Static(v6)) = crate::cmdline::parse("ip=[2001:db8::7]::[2001:db8::1]").parameters.ip else {
            panic!("not static")
        };
        let network = static_network(&v6, &interface);
        assert_eq!((network.gateway, network.ipv6.len()), ("2001:db8::1".parse().ok(), 1));
        assert_eq!((addresses_to_set(&network).len(), routes_to_set(&network, Origin::Static).len()), (1, 1));
    }

    #[test]
    fn both_families_are_one_network() {
        let mut v4 = network([10, 0, 2, 15], 24);
        v4.dns = vec![[10, 0, 2, 3].into()];
        let mut v6 = Network::new("eth0", Mac([0; 6]), "ra", "2001:db8::7".parse().unwrap(), 64);
        v6.dns = vec!["2001:db8::53".parse().unwrap(), [10, 0, 2, 3].into()];
        v6.ipv6_gateway = "fe80::1".parse().ok();
        let both = merge(v4, &v6);
        assert_eq!((both.method, both.dns.len(), both.ipv6_gateway), ("dhcp", 2, "fe80::1".parse().ok()));
    }
}
