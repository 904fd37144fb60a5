//! Named sets of modules, as `kernel.modules` names them.
//!
//! A set is a promise about machines, not about a kernel: a member that some kernel does not have is no error.

use std::fmt::Write;

/// A named set.
#[derive(Debug, Clone, Copy)]
pub struct Set {
    /// Its name in a recipe.
    pub name: &'static str,
    /// What machines it is for.
    pub about: &'static str,
    /// Module names, and globs over paths below the modules directory.
    pub members: &'static [&'static str],
}

/// In every initrd, whatever the recipe says: what mounts the root.
pub const ALWAYS: &[&str] = &["loop", "overlay", "squashfs"];

/// In every initrd where they are modules: what `netboot-init` uses besides, the two of `vlan=` and `bond=` too: they are
/// small, and asked for at a time when nobody wants to build another initrd.
pub const IF_MODULAR: &[&str] = &["af_packet", "unix", "ipv6", "8021q", "bonding", "virtio_rng"];

/// All named sets, sorted by name.
pub const SETS: &[Set] = &[
    Set {
        name: "console/virtio",
        about: "a console and channels to the host in QEMU",
        members: &["virtio_console", "virtio_mmio", "virtio_pci"],
    },
    Set { name: "fs/disk", about: "file systems on a node's disks", members: &["btrfs", "ext4", "vfat", "xfs"] },
    Set {
        name: "net/all",
        about: "every driver for wired Ethernet that the kernel has, and the transceivers they use",
        members: &[
            "kernel/drivers/net/ethernet/**",
            "kernel/drivers/net/hyperv/**",
            "kernel/drivers/net/phy/**",
            "kernel/drivers/net/vmxnet3/**",
            "kernel/drivers/net/xen-netfront.ko",
            "pci_hyperv",
            "virtio_mmio",
            "virtio_net",
            "virtio_pci",
        ],
    },
    Set {
        name: "net/cloud",
        about: "virtual machines of public clouds and of VMware, Hyper-V and Xen",
        members: &[
            "ena",
            "gve",
            "hv_netvsc",
            "iavf",
            "ixgbevf",
            "mana",
            "mlx4_en",
            "mlx5_core",
            "pci_hyperv",
            "virtio_net",
            "virtio_pci",
            "vmxnet3",
            "xen_netfront",
        ],
    },
    Set {
        name: "net/common-server",
        about: "network cards and mainboards of rack servers: Intel, Broadcom, NVIDIA/Mellanox, Marvell/QLogic, \
                Chelsio, Emulex, Solarflare, Cisco, AMD, Aquantia, Realtek",
        members: &[
            "amd_xgbe",
            "atlantic",
            "be2net",
            "bnx2",
            "bnx2x",
            "bnxt_en",
            "broadcom",
            "cxgb4",
            "e1000",
            "e1000e",
            "enic",
            "i40e",
            "ice",
            "igb",
            "igc",
            "ionic",
            "ixgbe",
            "marvell",
            "mlx4_en",
            "mlx5_core",
            "qede",
            "r8169",
            "sfc",
            "tg3",
        ],
    },
    Set {
        name: "net/infiniband",
        about: "IP over InfiniBand on NVIDIA/Mellanox adapters",
        members: &["ib_ipoib", "mlx4_ib", "mlx5_ib"],
    },
    Set {
        name: "net/link",
        about: "bridges, where a hook of the initrd makes one; VLANs and bonds come by themselves",
        members: &["8021q", "bonding", "bridge"],
    },
    Set {
        name: "net/usb",
        about: "network adapters on USB, with the host controllers they need",
        members: &[
            "asix",
            "ax88179_178a",
            "cdc_ether",
            "cdc_ncm",
            "r8152",
            "smsc75xx",
            "smsc95xx",
            "xhci_hcd",
            "xhci_pci",
        ],
    },
    Set { name: "net/virtio", about: "QEMU and KVM", members: &["virtio_mmio", "virtio_net", "virtio_pci"] },
    Set { name: "storage/nvme", about: "NVMe disks, behind Intel's VMD too", members: &["nvme", "vmd"] },
    Set {
        name: "storage/sas",
        about: "RAID controllers and host bus adapters of servers",
        members: &["aacraid", "hpsa", "megaraid_sas", "mpi3mr", "mpt3sas", "sd_mod", "ses", "smartpqi"],
    },
    Set { name: "storage/sata", about: "SATA disks", members: &["ahci", "ata_piix", "sd_mod", "sr_mod"] },
    Set {
        name: "storage/software",
        about: "device mapper, encryption, software RAID",
        members: &["dm_crypt", "dm_mod", "dm_verity", "md_mod", "raid0", "raid1", "raid10", "raid456"],
    },
    Set {
        name: "storage/usb",
        about: "disks on USB, with the host controllers they need",
        members: &["ehci_pci", "sd_mod", "uas", "usb_storage", "xhci_pci"],
    },
    Set {
        name: "storage/virtio",
        about: "disks of QEMU and KVM",
        members: &["sd_mod", "virtio_blk", "virtio_mmio", "virtio_pci", "virtio_scsi"],
    },
];

/// A set by its name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Set> {
    SETS.iter().find(|set| set.name == name)
}

/// All sets as a Markdown table, for the documentation.
#[must_use]
pub fn markdown() -> String {
    let mut table = "| set | for | modules |\n|---|---|---|\n".to_owned();
    for set in SETS {
        let members: Vec<String> = set.members.iter().map(|member| format!("`{member}`")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| `{}` | {} | {} |", set.name, set.about, members.join(" "));
    }
    table
}
