//! The static programs that run on the node, carried as bytes.
//!
//! `imgbuild` is one file: what it puts into an initrd travels in it. The programs are built from this workspace's
//! `netboot-init` and `netboot-probe` with the profile `node`, linked statically, for the architecture that
//! `imgbuild` itself is built for, and their bytes do not depend on the folder they were built in.
//!
//! Who has them all already sets `NETBOOT_PROGRAMS` to their folder when building: they are carried as they are. So an
//! `imgbuild` that runs on arm64 can carry the programs of amd64 nodes.

/// `/init` of every initrd: an ELF executable that needs no interpreter and no library.
pub const NETBOOT_INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netboot-init"));

/// The same with TLS, for recipes with `root.ca`: a megabyte more.
pub const NETBOOT_INIT_TLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netboot-init-tls"));

/// The agent that `imgbuild test` runs in the booted system: likewise self-contained.
pub const PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netboot-probe"));

/// The architecture of the nodes that these programs run on, as image indexes name it; nothing if it is neither of those
/// that `imgbuild` knows.
#[must_use]
pub fn architecture() -> Option<&'static str> {
    // e_machine of the ELF header.
    match NETBOOT_INIT.get(18..20) {
        Some([62, 0]) => Some("amd64"),
        Some([183, 0]) => Some("arm64"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
