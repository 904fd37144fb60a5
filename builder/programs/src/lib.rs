//! The static programs that run on the node, carried as bytes.
//!
//! `imgbuild` is one file: what it puts into an initrd travels in it. The programs are built from this workspace's
//! `netboot-init` and `netboot-probe` with the profile `node`, linked statically, for the architecture that
//! `imgbuild` itself is built for, and their bytes do not depend on the folder they were built in.
//!
//! Who has them all already sets `NETBOOT_PROGRAMS` to their folder when building: they are carried as they are. So an
//! `imgbuild` that runs on arm64 can carry the programs of amd64 nodes. `NETBOOT_PROGRAMS_ARM64` (or `_AMD64`) names a folder
//! with those of another architecture, which are then carried besides: `ci/arm64-programs` makes it.

/// `/init` of every initrd: an ELF executable that needs no interpreter and no library.
pub const NETBOOT_INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netboot-init"));

/// The same with TLS, for recipes with `root.ca`: a megabyte more.
pub const NETBOOT_INIT_TLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netboot-init-tls"));

/// The agent that `imgbuild test` runs in the booted system: likewise self-contained.
pub const PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netboot-probe"));

/// The programs for nodes of one architecture.
#[derive(Debug, Clone, Copy)]
pub struct Programs {
    /// As [`NETBOOT_INIT`].
    pub init: &'static [u8],
    /// As [`NETBOOT_INIT_TLS`].
    pub init_tls: &'static [u8],
    /// As [`PROBE`].
    pub probe: &'static [u8],
}

/// Those above, and then those of other architectures that were given.
const OWN: Programs = Programs { init: NETBOOT_INIT, init_tls: NETBOOT_INIT_TLS, probe: PROBE };
const FOREIGN: &[Programs] = include!(concat!(env!("OUT_DIR"), "/foreign.rs"));

impl Programs {
    /// The architecture of the nodes that they run on, as image indexes name it; nothing if it is neither of those
    /// that `imgbuild` knows.
    #[must_use]
    pub fn architecture(&self) -> Option<&'static str> {
        // e_machine of the ELF header.
        match self.init.get(18..20) {
            Some([62, 0]) => Some("amd64"),
            Some([183, 0]) => Some("arm64"),
            _ => None,
        }
    }
}

/// The programs for nodes of an architecture, if they are carried.
#[must_use]
pub fn for_architecture(name: &str) -> Option<Programs> {
    all().find(|programs| programs.architecture() == Some(name))
}

/// The architectures of whose nodes the programs are carried.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    all().filter_map(|programs| programs.architecture())
}

fn all() -> impl Iterator<Item = Programs> {
    std::iter::once(OWN).chain(FOREIGN.iter().copied())
}

#[cfg(test)]
mod tests;
