//! How much RAM a node needs to boot an image, phase by phase.
//!
//! The file sizes are exact; the allowances are what was measured on Debian 12's kernel with systemd, containerd and
//! kubelet idle in a 2 GiB guest. They are meant to be a little too large rather than too small.

use crate::manifest::Ram;

const MIB: u64 = 1 << 20;
/// Kernel text and data, page tables, per-CPU areas, before any program runs.
const KERNEL: u64 = 96 * MIB;
/// Free memory that the node insists on beside the root before it downloads.
const FETCH_MARGIN: u64 = netboot_init::fetch::memory::MARGIN;
/// systemd, udev, journald, networkd, time sync at rest, with their page cache.
const SYSTEM: u64 = 160 * MIB;
/// containerd and kubelet at rest.
const KUBERNETES: u64 = 224 * MIB;

/// Sizes in bytes that a node's memory has to hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizes {
    /// The initrd as it is downloaded.
    pub initrd: u64,
    /// The initrd unpacked.
    pub initrd_unpacked: u64,
    /// The squashfs root.
    pub root: u64,
    /// Whether the root lies inside the initrd, and so in `initrd` and `initrd_unpacked` as well.
    pub embedded: bool,
    /// Whether the root runs a kubelet.
    pub kubernetes: bool,
    /// `[budget] ram`; 0 where the recipe says nothing.
    pub budget: u64,
}

/// The needs of each phase.
#[must_use]
pub fn ram(sizes: &Sizes) -> Ram {
    let in_initrd = if sizes.embedded { 0 } else { sizes.root };
    Ram {
        budget: sizes.budget,
        unpack: KERNEL + sizes.initrd + sizes.initrd_unpacked,
        fetch: KERNEL + sizes.initrd_unpacked + in_initrd + FETCH_MARGIN,
        rest: KERNEL + sizes.root + SYSTEM + if sizes.kubernetes { KUBERNETES } else { 0 },
    }
}

/// The most that any phase needs.
#[must_use]
pub fn peak(ram: &Ram) -> u64 {
    ram.unpack.max(ram.fetch).max(ram.rest)
}

/// What no node can do with less: initrd and root, without any allowance for kernel and system. Below this, booting it
/// need not be tried.
#[must_use]
pub fn least(ram: &Ram, embedded: bool) -> u64 {
    // A root in the initrd is not asked for what must be left beside it.
    let needed = if embedded { ram.unpack } else { ram.unpack.max(ram.fetch) };
    needed.saturating_sub(KERNEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_root_is_in_memory_twice_while_it_unpacks() {
        let fetch = Sizes { initrd: 10 * MIB, initrd_unpacked: 40 * MIB, root: 100 * MIB, ..Sizes::default() };
        let embed = Sizes {
            initrd: 110 * MIB,
            initrd_unpacked: 140 * MIB,
            root: 100 * MIB,
            embedded: true,
            ..Sizes::default()
        };
        assert_eq!(ram(&embed).unpack - ram(&fetch).unpack, 200 * MIB);
        assert_eq!(ram(&embed).fetch, ram(&fetch).fetch);
        assert_eq!(peak(&ram(&fetch)), ram(&fetch).rest);
        assert_eq!((least(&ram(&fetch), false), least(&ram(&embed), true)), (204 * MIB, 250 * MIB));
    }
}
