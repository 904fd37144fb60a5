//! The machine that QEMU plays.

use std::{ffi::OsString, path::PathBuf};

use imgbuild_bundle::{budget, manifest::Manifest};

use crate::{accelerator::Accelerator, way::Stage};

const MIB: u64 = 1 << 20;
/// Used when neither the user nor the recipe says how much memory a node has.
const LEAST: u64 = 1 << 30;

/// The id of the network that the guest's card is plugged into.
pub(crate) const NETDEV: &str = "net0";

/// What the user may choose of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// RAM in bytes; by default the recipe's `[budget] ram`, since that is what the image promises to boot with.
    pub memory: Option<u64>,
    /// Processors.
    pub cpus: u32,
    /// More kernel parameters, after all others.
    pub append: Vec<String>,
    /// More arguments for QEMU, after all others: disks, network cards. A `-netdev` with the id `net0` takes the place
    /// of the network that the guest's card is plugged into.
    pub qemu: Vec<String>,
    /// Where the verdict on KVM is kept.
    pub cache: PathBuf,
}

impl Machine {
    /// RAM in bytes for this image.
    pub(crate) fn memory(&self, manifest: &Manifest) -> u64 {
        self.memory.unwrap_or_else(|| match manifest.ram.budget {
            0 => budget::peak(&manifest.ram).max(LEAST),
            budget => budget,
        })
    }

    /// QEMU's options for the machine and for what it boots from.
    pub(crate) fn arguments(&self, accelerator: Accelerator, stage: &Stage) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from).to_vec();
        // Without graphics SeaBIOS, and so iPXE, talks on the serial port.
        arguments.extend(["-machine", "q35,graphics=off", "-display", "none"].map(OsString::from));
        arguments.extend(accelerator.arguments());
        let mebibytes = self.memory(stage.bundle.manifest()).div_ceil(MIB);
        arguments.extend(["-m".into(), format!("{mebibytes}M").into()]);
        arguments.extend(["-smp".into(), self.cpus.max(1).to_string().into()]);
        arguments.extend(["-device", "virtio-rng-pci"].map(OsString::from));
        arguments.extend(self.around(&stage.arguments));
        arguments.extend(self.qemu.iter().map(OsString::from));
        arguments
    }

    /// A stage's arguments without those that the user's replace.
    fn around(&self, stage: &[OsString]) -> Vec<OsString> {
        let id = format!("id={NETDEV}");
        let is_ours = |netdev: &str| netdev.split(',').any(|part| part == id);
        let is_replaced =
            self.qemu.windows(2).any(|pair| matches!(pair, [key, value] if key == "-netdev" && is_ours(value)));
        let mut kept = Vec::with_capacity(stage.len());
        let mut words = stage.iter();
        while let Some(word) = words.next() {
            if is_replaced && word == "-netdev" {
                words.next();
            } else {
                kept.push(word.clone());
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_network_takes_the_place_of_ours() {
        let stage: Vec<OsString> =
            ["-kernel", "k", "-netdev", "user,id=net0", "-device", "card,netdev=net0"].map(Into::into).into();
        let around = |qemu: &[&str]| {
            let qemu = qemu.iter().map(|word| (*word).to_owned()).collect();
            Machine { memory: None, cpus: 1, append: Vec::new(), qemu, cache: PathBuf::new() }.around(&stage)
        };
        assert_eq!(around(&[]), stage);
        assert_eq!(around(&["-netdev", "user,id=net1"]), stage);
        assert_eq!(around(&["-netdev", "hubport,hubid=1,id=net0"]), ["-kernel", "k", "-device", "card,netdev=net0"]);
    }
}
