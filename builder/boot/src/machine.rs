//! The machine that QEMU plays.

use std::{ffi::OsString, path::PathBuf};

use imgbuild_bundle::{budget, manifest::Manifest};

use crate::{accelerator::Accelerator, way::Stage};

const MIB: u64 = 1 << 20;
/// Used when neither the user nor the recipe says how much memory a node has.
const LEAST: u64 = 1 << 30;

/// What the user may choose of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// RAM in bytes; by default the recipe's `[budget] ram`, since that is what the image promises to boot with.
    pub memory: Option<u64>,
    /// Processors.
    pub cpus: u32,
    /// More kernel parameters, after all others.
    pub append: Vec<String>,
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
        arguments.extend(stage.arguments.iter().cloned());
        arguments
    }
}
