//! What a build tells the initrd about the image: `/netboot/config.json`.
//!
//! The builder writes it, `netboot-init` reads it; both use these types, so that they cannot drift apart. Kernel
//! command line parameters override what is here.

use serde::{Deserialize, Serialize};

/// Where the configuration lies in the initrd.
pub const PATH: &str = "/netboot/config.json";
/// Where the kernel modules lie in the initrd, below it as in the root (`kernel/drivers/…`), decompressed, with
/// `modules.dep`, `modules.alias` and `modules.softdep` of just these modules.
pub const MODULES: &str = "/netboot/modules";
/// In [`MODULES`]: lines as in `modules.alias` for the network drivers that the kernel has and the initrd leaves out.
pub const ABSENT: &str = "modules.absent";
/// Certificates in PEM, of whom `https://` servers are believed; only where the program speaks TLS.
pub const CA: &str = "/netboot/ca.pem";
/// Where hook scripts lie in the initrd.
pub const HOOKS: &str = "/netboot/hooks";
/// Where firmware lies in the initrd, as in the root.
pub const FIRMWARE: &str = "/lib/firmware";
/// Where an embedded root lies in the initrd (`delivery = "embed"`).
pub const EMBEDDED_ROOT: &str = "/netboot/root.squashfs";
/// Files that extra initrd segments want copied over the new root.
pub const OVERLAY: &str = "/overlay.d";
/// The schema this version reads and writes.
pub const SCHEMA: u32 = 1;

/// The whole of `/netboot/config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of this format; [`SCHEMA`].
    pub schema: u32,
    /// The image's name.
    pub name: String,
    /// The image's version.
    pub version: String,
    /// The build's clock in seconds since 1970-01-01 UTC: the node's clock is raised to at least this.
    pub build_time: i64,
    /// The squashfs root.
    pub root: Root,
    /// Size of the tmpfs that takes what is written to the root.
    pub overlay_size: Size,
    /// tmpfs mounts in the new root, in order.
    pub tmpfs: Vec<Tmpfs>,
    /// Hooks in order of their running.
    pub hooks: Vec<Hook>,
    /// Modules to load on every machine, by name, before those its devices ask for; one built in or absent from the initrd
    /// because built in is skipped.
    pub modules: Vec<String>,
    /// RAM in bytes that the smallest node of this image has (`[budget] ram`); 0 where the recipe says nothing.
    pub ram_budget: u64,
}

/// The squashfs root that this initrd belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256 in lower-case hex.
    pub sha256: String,
    /// Whether it lies in the initrd ([`EMBEDDED_ROOT`]) and needs no download.
    pub embedded: bool,
}

/// A size of a tmpfs: bytes, or a share of the machine's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// Per cent of RAM, 1 to 100.
    Percent(u8),
}

impl Size {
    /// The value of a `size=` mount option.
    #[must_use]
    pub fn mount_option(self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.to_string(),
            Self::Percent(percent) => format!("{percent}%"),
        }
    }

    /// How many bytes that is on a machine with `ram` bytes.
    #[must_use]
    pub fn bytes(self, ram: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => ram / 100 * u64::from(percent),
        }
    }
}

/// A tmpfs in the new root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Absolute path of the mount point, which the root has.
    pub path: String,
    /// How large it may grow.
    pub size: Size,
    /// Permission bits of its root folder.
    pub mode: u32,
}

/// A script run at boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Its name: the script's file name where the recipe gives none. The script is `HOOKS/STAGE/NAME`.
    pub name: String,
    /// When it runs.
    pub stage: Stage,
    /// Seconds after which it is killed.
    pub timeout: u64,
    /// What then, or when it ends with another status than 0.
    pub on_failure: OnFailure,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// In the initrd, before the network is touched.
    PreNetwork,
    /// In the new root (chroot), after its mounts, before its init.
    PreInit,
    /// In the running system, after its network is up.
    Online,
}

/// What a failed step leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Say so and go on.
    Continue,
    /// Say so, pause, reboot.
    Reboot,
    /// Say so and stop.
    Halt,
}
