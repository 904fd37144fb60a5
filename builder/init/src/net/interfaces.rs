//! The machine's network interfaces as sysfs shows them, and which of them to use.

use std::fs;
use std::path::Path;

use super::Mac;
use crate::cmdline::{Ip, NicName, Parameters};

/// `ARPHRD_ETHER`.
const ETHERNET: &str = "1";

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// Its address.
    pub mac: Mac,
    /// Its driver's name, where sysfs tells.
    pub driver: Option<String>,
}

/// Which interfaces to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Just this one.
    One(NicName),
    /// All of these: a bond's members.
    All(Vec<NicName>),
    /// Whichever gets an address.
    Any,
}

impl Choice {
    /// What the command line asks for. What an administrator writes (`bond=`, `vlan=`, `netboot.nic=`, `ip=`) comes before
    /// what the boot loader fills in.
    #[must_use]
    pub fn new(parameters: &Parameters) -> Self {
        if let Some(bond) = &parameters.bond {
            return Self::All(bond.members.clone());
        }
        let of_ip = match &parameters.ip {
            Some(Ip::Dhcp(_, device)) => device.as_ref(),
            Some(Ip::Static(address)) => address.device.as_ref(),
            _ => None,
        };
        let vlan = parameters.vlan.as_ref();
        // An address on the VLAN says nothing of what the VLAN is on.
        let is_vlan = |name: &&NicName| vlan.is_some_and(|vlan| **name == NicName::Name(vlan.name.clone()));
        let parent = vlan.and_then(|vlan| vlan.parent.as_ref());
        let named = parent.or(parameters.nic.as_ref()).or(of_ip.filter(|name| !is_vlan(name)));
        match (named, parameters.bootif) {
            (Some(name), _) => Self::One(name.clone()),
            (None, Some(mac)) => Self::One(NicName::Mac(mac)),
            (None, None) => Self::Any,
        }
    }

    /// Whether an interface is meant.
    #[must_use]
    pub fn fits(&self, interface: &Interface) -> bool {
        match self {
            Self::Any => true,
            Self::One(name) => name.means(&interface.name, interface.mac),
            Self::All(names) => names.iter().any(|name| name.means(&interface.name, interface.mac)),
        }
    }

    /// Which of them none of these interfaces is, in words.
    #[must_use]
    pub fn missing(&self, present: &[Interface]) -> Vec<String> {
        let names = match self {
            Self::Any => return Vec::new(),
            Self::One(name) => std::slice::from_ref(name),
            Self::All(names) => names,
        };
        let is_there = |name: &&NicName| !present.iter().any(|interface| name.means(&interface.name, interface.mac));
        names.iter().filter(is_there).map(ToString::to_string).collect()
    }

    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Any => "any".into(),
            Self::One(name) => name.to_string(),
            Self::All(names) => names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
        }
    }
}

/// The Ethernet interfaces that have a device behind them, by number. `sys` is where sysfs is mounted.
#[must_use]
pub fn list(sys: &Path) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = fs::read_dir(sys.join("class/net"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| read(&entry.path(), &entry.file_name().into_string().ok()?))
        .collect();
    interfaces.sort_by_key(|interface| interface.index);
    interfaces
}

fn read(folder: &Path, name: &str) -> Option<Interface> {
    let text = |file: &str| fs::read_to_string(folder.join(file)).ok().map(|text| text.trim().to_owned());
    // Without a device it is lo, a bridge, a bond, a tunnel: nothing that has a cable.
    if text("type")? != ETHERNET || !folder.join("device").exists() {
        return None;
    }
    let driver = fs::read_link(folder.join("device/driver")).ok();
    Some(Interface {
        name: name.to_owned(),
        index: text("ifindex")?.parse().ok()?,
        mac: Mac::parse(&text("address")?)?,
        driver: driver.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned())),
    })
}

/// Whether a cable is in; an interface that is down does not know.
#[must_use]
pub fn has_carrier(sys: &Path, name: &str) -> bool {
    fs::read_to_string(sys.join("class/net").join(name).join("carrier")).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn sys() -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let net = sys.path().join("class/net");
        for (name, kind, index, mac) in [
            ("lo", "772", "1", "00:00:00:00:00:00"),
            ("eth1", "1", "3", "52:54:00:00:00:02"),
            ("eth0", "1", "2", "52:54:00:00:00:01"),
            ("br0", "1", "4", "52:54:00:00:00:03"),
        ] {
            write(&net.join(name).join("type"), kind);
            write(&net.join(name).join("ifindex"), index);
            write(&net.join(name).join("address"), mac);
            if name.starts_with("eth") {
                fs::create_dir_all(net.join(name).join("device")).unwrap();
                symlink("../../bus/pci/drivers/e1000", net.join(name).join("device/driver")).unwrap();
            }
        }
        write(&net.join("eth1/carrier"), "1\n");
        sys
    }

    #[test]
    fn only_what_may_have_a_cable_is_listed_by_number() {
        let sys = sys();
        let list = list(sys.path());
        assert_eq!(list.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["eth0", "eth1"]);
        assert_eq!(list[0].driver.as_deref(), Some("e1000"));
        assert_eq!((has_carrier(sys.path(), "eth0"), has_carrier(sys.path(), "eth1")), (false, true));
    }

    #[test]
    fn the_administrator_comes_before_the_boot_loader() {
        let choose = |text: &str| Choice::new(&crate::cmdline::parse(text).parameters).describe();
        assert_eq!(choose(""), "any");
        assert_eq!(choose("BOOTIF=01-52-54-00-00-00-01"), "52:54:00:00:00:01");
        assert_eq!(choose("BOOTIF=01-52-54-00-00-00-01 netboot.nic=52:54:00:00:00:02"), "52:54:00:00:00:02");
        assert_eq!(choose("BOOTIF=01-52-54-00-00-00-01 ip=eth1:dhcp"), "eth1");
        assert_eq!(choose("BOOTIF=01-52-54-00-00-00-01 vlan=vlan5:eth1 ip=vlan5:dhcp"), "eth1");
        assert_eq!(choose("BOOTIF=01-52-54-00-00-00-01 vlan=vlan5 ip=vlan5:dhcp"), "52:54:00:00:00:01");
        assert_eq!(choose("bond=bond0:eth1,52-54-00-00-00-01 vlan=vlan5:bond0"), "eth1 or 52:54:00:00:00:01");
        let list = list(sys().path());
        let choice = Choice::One(NicName::Mac(Mac([0x52, 0x54, 0, 0, 0, 2])));
        assert_eq!(list.iter().filter(|i| choice.fits(i)).map(|i| i.name.as_str()).collect::<Vec<_>>(), ["eth1"]);
        let choice = Choice::new(&crate::cmdline::parse("bond=bond0:eth1,eth7").parameters);
        assert_eq!(choice.missing(&list), ["eth7"]);
    }
}
