//! What carries the addresses: a network card, a bond of several, a VLAN over either.

use std::fs;
use std::io;
use std::path::Path;

use super::bond::Bond;
use super::{Error, Interface, Layer, Mac, netlink};
use crate::cmdline::Vlan;
use crate::{debug, say, warning};

/// An interface to ask for addresses on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Top {
    /// The interface.
    pub(super) interface: Interface,
    /// What it is made of, from the hardware up.
    pub(super) layers: Vec<Layer>,
    /// The numbers of the network cards in it.
    pub(super) cards: Vec<u32>,
    /// The numbers of what was made for it, in order.
    made: Vec<u32>,
}

impl Top {
    /// A network card, and nothing over it.
    pub(super) fn card(interface: Interface) -> Self {
        let layer = Layer::Ethernet { name: interface.name.clone(), mac: interface.mac };
        Self { cards: vec![interface.index], layers: vec![layer], made: Vec::new(), interface }
    }

    /// Removes what was made for it; the network cards stay.
    pub(super) fn dismantle(&self) {
        for index in self.made.iter().rev() {
            if let Err(e) = netlink::delete_link(*index) {
                debug!("{}: remove: {e}", self.interface.name);
            }
        }
    }

    /// Lets everything in it carry packets of this size, in bytes: a VLAN's can be no larger than those of what is below it.
    pub(super) fn raise_mtu(&self, mtu: u16) {
        if mtu <= 1500 || self.made.is_empty() {
            return;
        }
        for index in self.cards.iter().chain(&self.made) {
            if let Err(e) = netlink::set_mtu(*index, mtu) {
                debug!("{}: MTU {mtu} of the links below: {e}", self.interface.name);
            }
        }
    }

    /// Puts a VLAN over it. Where others get one too, its name is made of what is below it.
    pub(super) fn with_vlan(mut self, sys: &Path, vlan: &Vlan, others: bool) -> Result<Self, Error> {
        let below = &self.interface;
        // A `pre-network` hook may have made it.
        let existing_is_fine = |result: io::Result<()>| match result {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        };
        let name = if others { format!("{}.{}", below.name, vlan.id) } else { vlan.name.clone() };
        let failed = |what| Error::interface(what, &name);
        existing_is_fine(netlink::add_vlan(&name, below.index, vlan.id)).map_err(failed("make the VLAN"))?;
        let interface = find(sys, &name, "8021q").map_err(failed("find the VLAN"))?;
        netlink::set_up(interface.index, true).map_err(failed("switch on the VLAN"))?;
        say!("VLAN {name}: id {} over {}", vlan.id, below.name);
        self.layers.push(Layer::Vlan { name: name.clone(), id: vlan.id });
        self.made.push(interface.index);
        self.interface = interface;
        Ok(self)
    }
}

/// Makes a bond; its address is that of `boot` if that is a member, else the first member's.
pub(super) fn make_bond(sys: &Path, bond: &Bond, members: &[Interface], boot: Option<Mac>) -> Result<Top, Error> {
    let failed = |what| Error::interface(what, &bond.name);
    let of_boot = members.iter().find(|member| Some(member.mac) == boot);
    let mac = of_boot.or(members.first()).map_or(Mac([0; 6]), |member| member.mac);
    netlink::add_bond(&bond.name, mac, &bond.attributes()).map_err(failed("make the bond"))?;
    let interface = find(sys, &bond.name, "bonding").map_err(failed("find the bond"))?;
    let mut layers = Vec::new();
    for member in members {
        // A member has to be down when it joins.
        let joined =
            netlink::set_up(member.index, false).and_then(|()| netlink::set_master(member.index, interface.index));
        match joined.and_then(|()| netlink::set_up(member.index, true)) {
            Ok(()) => layers.push(Layer::Ethernet { name: member.name.clone(), mac: member.mac }),
            Err(e) => warning!("{}: join {}: {e}", member.name, bond.name),
        }
    }
    if let Some(mtu) = bond.mtu
        && let Err(e) = netlink::set_mtu(interface.index, mtu)
    {
        warning!("{}: MTU {mtu}: {e}", bond.name);
    }
    netlink::set_up(interface.index, true).map_err(failed("switch on the bond"))?;
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    say!("bond {} ({}) of {}", bond.name, bond.mode(), names.join(" and "));
    layers.push(Layer::Bond { name: bond.name.clone(), mode: bond.mode().to_owned() });
    let cards = members.iter().map(|member| member.index).collect();
    Ok(Top { made: vec![interface.index], interface, layers, cards })
}

fn find(sys: &Path, name: &str, driver: &str) -> io::Result<Interface> {
    let folder = sys.join("class/net").join(name);
    let text = |file| Ok::<_, io::Error>(fs::read_to_string(folder.join(file))?.trim().to_owned());
    let broken = |_| io::Error::from(io::ErrorKind::InvalidData);
    Ok(Interface {
        name: name.to_owned(),
        index: text("ifindex")?.parse().map_err(broken)?,
        mac: Mac::parse(&text("address")?).ok_or(io::ErrorKind::InvalidData)?,
        driver: Some(driver.to_owned()),
    })
}
