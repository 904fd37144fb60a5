//! What goes wrong around a node, on purpose: scenarios that any image can be put through.
//!
//! A scenario changes what is around the shipped files: what the boot server answers ([`boot_server`]), what the machine
//! has, what one more initrd segment brings ([`hook`]), what happens while the guest runs ([`live`]). Kernel, initrd and root
//! stay what they are. What came of it is judged by what the node said and by the boot server's log ([`verdict`]): a fault
//! that did not take place is not met.

pub(crate) mod boot_server;
pub(crate) mod hook;
pub(crate) mod live;
pub(crate) mod verdict;

use std::{borrow::Cow, fmt, time::Duration};

use imgbuild_bundle::manifest::Manifest;
use imgbuild_progress::Progress;
use netboot_init::fetch::memory::MARGIN;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::{BootPath, Error, Source, TestOptions, way};

const MIB: u64 = 1 << 20;
/// How long DHCP is silent.
const SILENCE: Duration = Duration::from_secs(20);
/// The node's number in its firmware, where a test is about the node being the same one.
const UUID: &str = "6d2b1c0e-7a4f-4f0b-9d52-525400123456";

/// Something that a node meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The connection breaks in mid-download.
    ConnectionCut,
    /// The first of the root's sources is a machine that is not there.
    DeadMirror,
    /// The boot server's root is only half of it.
    TruncatedRoot,
    /// The boot server's root is another one, by one byte.
    AlteredRoot,
    /// The boot server has no root.
    MissingRoot,
    /// Nobody answers DHCP for a while.
    SilentDhcp,
    /// The machine has less RAM than the image needs.
    LowMemory,
    /// A hook fails whose policy is to halt.
    HookFails,
    /// A hook hangs whose policy is to go on.
    HookHangs,
    /// The boot server goes away once the node has its root.
    ServerGone,
    /// The same node boots twice.
    SecondBoot,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::ConnectionCut,
        Self::DeadMirror,
        Self::TruncatedRoot,
        Self::AlteredRoot,
        Self::MissingRoot,
        Self::SilentDhcp,
        Self::LowMemory,
        Self::HookFails,
        Self::HookHangs,
        Self::ServerGone,
        Self::SecondBoot,
    ];

    /// What it is called on command lines and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectionCut => "connection-cut",
            Self::DeadMirror => "dead-mirror",
            Self::TruncatedRoot => "truncated-root",
            Self::AlteredRoot => "altered-root",
            Self::MissingRoot => "missing-root",
            Self::SilentDhcp => "silent-dhcp",
            Self::LowMemory => "low-memory",
            Self::HookFails => "hook-fails",
            Self::HookHangs => "hook-hangs",
            Self::ServerGone => "server-gone",
            Self::SecondBoot => "second-boot",
        }
    }

    /// The scenario of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// What is done to the node.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::ConnectionCut => "The boot server drops the connection in the middle of the root",
            Self::DeadMirror => "The first source that netboot.root= lists is a machine that is not there",
            Self::TruncatedRoot => "The boot server's root ends in the middle",
            Self::AlteredRoot => "One byte of the boot server's root is another (its time stamp: it would mount)",
            Self::MissingRoot => "The boot server answers 404 for the root",
            Self::SilentDhcp => "The link is up and nothing comes over it, for 20 s from netboot-init's start",
            Self::LowMemory => "The node has too little RAM for the root and the 64 MiB to run in",
            Self::HookFails => "One more pre-init hook ends with status 3; its policy is to halt",
            Self::HookHangs => {
                "One more pre-init hook hangs, with a child that ignores SIGTERM; its policy is to go on"
            }
            Self::ServerGone => "The boot server goes away once the node has its root",
            Self::SecondBoot => "The same node (MAC address, UUID) boots twice",
        }
    }

    /// What the node has to do.
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::ConnectionCut => "it goes on where it stopped, by a Range request, and all tests pass",
            Self::DeadMirror => "it takes the next source, and all tests pass",
            Self::TruncatedRoot => "netboot-init refuses the root for its length, and the node goes down",
            Self::AlteredRoot => "netboot-init refuses the root for its SHA-256, and the node goes down",
            Self::MissingRoot => "netboot-init says that there is none, and the node goes down",
            Self::SilentDhcp => "it asks again until it is answered, and all tests pass",
            Self::LowMemory => "netboot-init says so before it asks for the root, and the node goes down",
            Self::HookFails => "netboot-init names the hook and its status, and the node goes down",
            Self::HookHangs => "the hook is killed with its child after its timeout of 5 s, and all tests pass",
            Self::ServerGone => "the node does not need it any more: all tests pass",
            Self::SecondBoot => "all tests pass both times, with the same host name and machine id",
        }
    }

    /// Whether the scenario means something for an image over a way.
    ///
    /// # Errors
    /// Why it does not.
    pub fn fits(self, path: BootPath, manifest: &Manifest) -> Result<(), String> {
        let is_about_the_root =
            !matches!(self, Self::SilentDhcp | Self::HookFails | Self::HookHangs | Self::SecondBoot);
        if manifest.delivery == "embed" && (is_about_the_root || self == Self::SilentDhcp) {
            return Err("the root is in the initrd, and nothing is fetched".to_owned());
        }
        if self == Self::LowMemory {
            if matches!(path, BootPath::PxeUefi | BootPath::HttpUefi) {
                return Err("UEFI's firmware needs more RAM than is left out".to_owned());
            }
            if too_little(manifest) >= manifest.ram.fetch {
                return Err("unpacking the initrd takes more RAM than the download".to_owned());
            }
        }
        Ok(())
    }

    /// Tests that go with the scenario.
    pub(crate) fn tests(self) -> Vec<Value> {
        match self {
            Self::HookHangs => vec![json!({
                "name": "nothing is left of the hook that hung", "process": hook::HANGS, "running": false,
            })],
            _ => Vec::new(),
        }
    }

    /// More arguments for QEMU.
    pub(crate) fn qemu(self) -> &'static [&'static str] {
        match self {
            Self::SecondBoot => &["-uuid", UUID],
            _ => &[],
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The scenario of a test, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultReport {
    /// Which one.
    pub name: Fault,
    /// What was done to the node.
    pub done: &'static str,
    /// What it had to do.
    pub expected: &'static str,
    /// What shows that it did; none if it did not.
    pub found: Option<String>,
}

/// The scenarios that mean something for an image over a way; of the others it is said why not.
///
/// # Errors
/// When there is no such image.
pub fn fitting_faults(source: &Source, path: BootPath, progress: &dyn Progress) -> Result<Vec<Fault>, Error> {
    let bundle = way::bundle(source)?;
    let fits = |fault: &Fault| match fault.fits(path, bundle.manifest()) {
        Ok(()) => true,
        Err(reason) => {
            progress.note(format!("fault {fault} is left out over {path}: {reason}"));
            false
        }
    };
    Ok(Fault::ALL.into_iter().filter(fits).collect())
}

/// The options with what a scenario changes of the machine.
pub(crate) fn adapted<'a>(options: &'a TestOptions, manifest: &Manifest) -> Cow<'a, TestOptions> {
    let mut adapted = Cow::Borrowed(options);
    if options.fault == Some(Fault::LowMemory) {
        adapted.to_mut().machine.memory = Some(too_little(manifest));
    }
    adapted
}

/// RAM in bytes with which the kernel unpacks the initrd, but the root does not fit: without what netboot-init wants to be
/// left beside it. Whole MiB.
fn too_little(manifest: &Manifest) -> u64 {
    let ram = &manifest.ram;
    ram.fetch.saturating_sub(MARGIN).max(ram.unpack) / MIB * MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        for fault in Fault::ALL {
            assert_eq!(Fault::named(fault.name()), Some(fault));
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.to_string());
        }
        assert_eq!(Fault::named("all"), None);
    }
}
