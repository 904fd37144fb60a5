//! The machine that QEMU plays.

use std::{ffi::OsString, path::PathBuf};

use imgbuild_bundle::{budget, manifest::Manifest};
use netboot_init::net::Mac;

use crate::{Forward, accelerator::Accelerator, arch::Arch, way::Stage};

const MIB: u64 = 1 << 20;
/// Used when neither the user nor the recipe says how much memory a node has.
const LEAST: u64 = 1 << 30;

/// What the user may choose of the machine. By default it has one processor, one network card, and what RAM the recipe says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// RAM in bytes; by default the recipe's `[budget] ram`, since that is what the image promises to boot with.
    pub memory: Option<u64>,
    /// Processors.
    pub cpus: u32,
    /// More kernel parameters, after all others.
    pub append: Vec<String>,
    /// More arguments for QEMU, after all others: disks, network cards. A `-netdev` with the id `net0` takes the place
    /// of the network that the card that boots is plugged into, `net1` that of the second card, and so on.
    pub qemu: Vec<String>,
    /// The addresses of the network cards; the first one boots. By default there is one card.
    pub nics: Vec<Mac>,
    /// Ports of this machine that lead to the guest, on the card that boots.
    pub forwards: Vec<Forward>,
    /// How the guest is to run; by default with KVM if that works.
    pub accelerator: Option<Accelerator>,
    /// iPXE for UEFI, instead of the one that this machine has.
    pub ipxe: Option<PathBuf>,
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
    pub(crate) fn arguments(&self, arch: Arch, accelerator: Accelerator, stage: &Stage) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from).to_vec();
        arguments.extend(["-machine", arch.machine(), "-display", "none"].map(OsString::from));
        arguments.extend(accelerator.arguments(arch));
        let mebibytes = self.memory(stage.bundle.manifest()).div_ceil(MIB);
        arguments.extend(["-m".into(), format!("{mebibytes}M").into()]);
        arguments.extend(["-smp".into(), self.cpus.max(1).to_string().into()]);
        arguments.extend(["-device", "virtio-rng-pci"].map(OsString::from));
        arguments.extend(self.around(&stage.arguments));
        arguments.extend(self.around(&self.other_cards()));
        arguments.extend(self.qemu.iter().map(OsString::from));
        arguments
    }
}
