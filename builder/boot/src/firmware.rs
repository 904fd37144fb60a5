//! What a machine boots with besides QEMU: the network card's boot ROM, UEFI firmware, and iPXE as an EFI program.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{BootPath, arch::Arch, qemu::Qemu};

/// The card's iPXE for BIOS, in one of QEMU's own folders.
const PXE_ROM: &str = "pxe-virtio.rom";
/// UEFI for virtual machines (EDK II) and its empty store of variables: Debian's, then Fedora's and Arch's.
const AMD64: Packaged = Packaged {
    firmware: &[
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ],
    no_firmware: Missing { what: "UEFI firmware for guests (OVMF) is not installed", from: "apt-get install ovmf" },
    ipxe: &["/usr/lib/ipxe/ipxe.efi", "/usr/share/ipxe/ipxe-x86_64.efi", "/usr/share/ipxe/x86_64/ipxe.efi"],
    no_ipxe: Missing { what: "iPXE for UEFI (ipxe.efi) is not installed", from: "apt-get install ipxe" },
};
/// The same for arm64. What pads the firmware of QEMU's `virt` to 64 MiB is not told apart from it there.
const ARM64: Packaged = Packaged {
    firmware: &[
        ("/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
        ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
        ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
        ("/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"),
    ],
    no_firmware: Missing {
        what: "UEFI firmware for arm64 guests (AAVMF) is not installed",
        from: "apt-get install qemu-efi-aarch64",
    },
    ipxe: &["/usr/lib/ipxe/ipxe-arm64.efi", "/usr/share/ipxe/arm64-efi/ipxe.efi", "/usr/share/ipxe/arm64/ipxe.efi"],
    no_ipxe: Missing {
        what: "iPXE for UEFI on arm64 (ipxe-arm64.efi) is not installed",
        from: "apt-get install ipxe, of Debian 13 or later; or name the file with --ipxe",
    },
};

/// Where distributions have what UEFI takes, and what to do where they have not.
struct Packaged {
    /// The firmware's program and its store of variables.
    firmware: &'static [(&'static str, &'static str)],
    no_firmware: Missing,
    /// iPXE as an EFI program.
    ipxe: &'static [&'static str],
    no_ipxe: Missing,
}

/// What a way of booting lacks on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// What is not there.
    pub what: &'static str,
    /// How to come by it, on Debian, or what to do without it.
    pub from: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.from)
    }
}

/// UEFI firmware with what it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uefi {
    /// The firmware's program, which guests only read.
    pub(crate) code: PathBuf,
    /// Its variables as they are before the first start; a guest writes into a copy.
    pub(crate) variables: PathBuf,
    /// iPXE.
    pub(crate) ipxe: PathBuf,
}

impl Uefi {
    /// The firmware for an architecture, with the iPXE that is given or this machine's.
    pub(crate) fn find(arch: Arch, ipxe: Option<&Path>) -> Result<Self, Missing> {
        Self::find_below(Path::new("/"), arch, ipxe)
    }

    fn find_below(root: &Path, arch: Arch, ipxe: Option<&Path>) -> Result<Self, Missing> {
        let Packaged { firmware, no_firmware, ipxe: ipxes, no_ipxe } = match arch {
            Arch::Amd64 => AMD64,
            Arch::Arm64 => ARM64,
        };
        let below = |path: &str| Some(root.join(path.trim_start_matches('/'))).filter(|path| path.is_file());
        let found = firmware.iter().find_map(|(code, variables)| Some((below(code)?, below(variables)?)));
        let (code, variables) = found.ok_or(no_firmware)?;
        let ipxe = ipxe.map(Path::to_owned).or_else(|| ipxes.iter().find_map(|path| below(path))).ok_or(no_ipxe)?;
        Ok(Self { code, variables, ipxe })
    }
}

/// What a way of booting lacks; nothing if a guest of that architecture (`amd64`, `arm64`) can take it here, with the iPXE that is
/// given for UEFI or with this machine's.
///
/// # Errors
/// With the first thing that is not installed. Of an architecture without an emulator nothing is said: that is told where a
/// guest is started.
pub fn can_boot(path: BootPath, arch: &str, ipxe: Option<&Path>) -> Result<(), Missing> {
    let Ok(arch) = Arch::parse(arch) else { return Ok(()) };
    match (path, arch) {
        (BootPath::Direct, _) => Ok(()),
        (BootPath::PxeBios, Arch::Amd64) => boot_rom(),
        (BootPath::PxeBios, Arch::Arm64) => {
            Err(Missing { what: "machines with arm64 have no BIOS", from: "they boot by UEFI" })
        }
        (BootPath::PxeUefi | BootPath::HttpUefi, _) => Uefi::find(arch, ipxe).map(drop),
    }
}

/// Whether QEMU's network card has its iPXE. Without any QEMU there is nothing to say: that is told where it is started.
fn boot_rom() -> Result<(), Missing> {
    let Ok(qemu) = Qemu::find(Arch::Amd64) else { return Ok(()) };
    // QEMU's own list of where it looks, a folder a line.
    let listed = Command::new(&qemu.program).args(["-L", "help"]).stdin(Stdio::null()).output();
    let Ok(listed) = listed else { return Ok(()) };
    let text = String::from_utf8_lossy(&listed.stdout);
    let is_there = text.lines().any(|folder| Path::new(folder.trim()).join(PXE_ROM).is_file());
    if is_there {
        Ok(())
    } else {
        Err(Missing { what: "the network card's iPXE is not installed", from: "apt-get install ipxe-qemu" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_named_with_its_package() {
        let root = tempfile::tempdir().unwrap();
        let touch = |path: &str| {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let missing = || Uefi::find_below(root.path(), Arch::Amd64, None).unwrap_err().to_string();
        assert_eq!(missing(), "UEFI firmware for guests (OVMF) is not installed: apt-get install ovmf");
        touch(AMD64.firmware[2].0);
        assert!(missing().contains("OVMF"), "one half is not enough");
        touch(AMD64.firmware[2].1);
        assert_eq!(missing(), "iPXE for UEFI (ipxe.efi) is not installed: apt-get install ipxe");
        let own = Uefi::find_below(root.path(), Arch::Amd64, Some(Path::new("/srv/own.efi"))).unwrap();
        assert_eq!(own.ipxe, Path::new("/srv/own.efi"));
        touch(AMD64.ipxe[1]);
        let found = Uefi::find_below(root.path(), Arch::Amd64, None).unwrap();
        assert!(found.code.ends_with("ovmf/OVMF_CODE.fd") && found.ipxe.ends_with("ipxe-x86_64.efi"), "{found:?}");
        let other = Uefi::find_below(root.path(), Arch::Arm64, None).unwrap_err().to_string();
        assert!(other.ends_with("apt-get install qemu-efi-aarch64"), "{other}");
    }

    #[test]
    fn this_machine_has_what_ci_setup_installs() {
        for path in BootPath::ALL {
            assert_eq!(can_boot(path, "amd64", None), Ok(()), "{path}");
        }
    }
    #[test]
    fn arm64_has_no_bios() {
        let missing = can_boot(BootPath::PxeBios, "arm64", None).unwrap_err();
        assert_eq!(missing.to_string(), "machines with arm64 have no BIOS: they boot by UEFI");
        assert_eq!(can_boot(BootPath::Direct, "arm64", None), Ok(()));
    }
}
