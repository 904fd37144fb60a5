//! What a machine boots with besides QEMU: the network card's boot ROM, UEFI firmware, and iPXE as an EFI program.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{BootPath, qemu::Qemu};

/// The card's iPXE for BIOS, in one of QEMU's own folders.
const PXE_ROM: &str = "pxe-virtio.rom";
/// UEFI for virtual machines (EDK II's OVMF) and its empty store of variables: Debian's, then Fedora's and Arch's.
const OVMF: [(&str, &str); 4] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
];
/// iPXE for UEFI, likewise.
const IPXE_EFI: [&str; 3] =
    ["/usr/lib/ipxe/ipxe.efi", "/usr/share/ipxe/ipxe-x86_64.efi", "/usr/share/ipxe/x86_64/ipxe.efi"];

/// What a way of booting lacks on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// What it is.
    pub what: &'static str,
    /// Debian's package that has it.
    pub package: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not installed: apt-get install {}", self.what, self.package)
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
    pub(crate) fn find() -> Result<Self, Missing> {
        Self::find_below(Path::new("/"))
    }

    fn find_below(root: &Path) -> Result<Self, Missing> {
        let below = |path: &str| Some(root.join(path.trim_start_matches('/'))).filter(|path| path.is_file());
        let ovmf = OVMF.iter().find_map(|(code, variables)| Some((below(code)?, below(variables)?)));
        let (code, variables) = ovmf.ok_or(Missing { what: "UEFI firmware for guests (OVMF)", package: "ovmf" })?;
        let ipxe = IPXE_EFI.iter().find_map(|path| below(path));
        let ipxe = ipxe.ok_or(Missing { what: "iPXE for UEFI (ipxe.efi)", package: "ipxe" })?;
        Ok(Self { code, variables, ipxe })
    }
}

/// What a way of booting lacks; nothing if a guest can take it here.
///
/// # Errors
/// With the first thing that is not installed.
pub fn can_boot(path: BootPath) -> Result<(), Missing> {
    match path {
        BootPath::Direct => Ok(()),
        BootPath::PxeBios => boot_rom(),
        BootPath::PxeUefi | BootPath::HttpUefi => Uefi::find().map(drop),
    }
}

/// Whether QEMU's network card has its iPXE. Without any QEMU there is nothing to say: that is told where it is started.
fn boot_rom() -> Result<(), Missing> {
    let Ok(qemu) = Qemu::find("amd64") else { return Ok(()) };
    // QEMU's own list of where it looks, a folder a line.
    let listed = Command::new(&qemu.program).args(["-L", "help"]).stdin(Stdio::null()).output();
    let Ok(listed) = listed else { return Ok(()) };
    let text = String::from_utf8_lossy(&listed.stdout);
    let is_there = text.lines().any(|folder| Path::new(folder.trim()).join(PXE_ROM).is_file());
    if is_there { Ok(()) } else { Err(Missing { what: "the network card's iPXE", package: "ipxe-qemu" }) }
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
        let missing = || Uefi::find_below(root.path()).unwrap_err().to_string();
        assert_eq!(missing(), "UEFI firmware for guests (OVMF) is not installed: apt-get install ovmf");
        touch(OVMF[2].0);
        assert!(missing().contains("OVMF"), "one half is not enough");
        touch(OVMF[2].1);
        assert_eq!(missing(), "iPXE for UEFI (ipxe.efi) is not installed: apt-get install ipxe");
        touch(IPXE_EFI[1]);
        let found = Uefi::find_below(root.path()).unwrap();
        assert!(found.code.ends_with("ovmf/OVMF_CODE.fd") && found.ipxe.ends_with("ipxe-x86_64.efi"), "{found:?}");
    }

    #[test]
    fn this_machine_has_what_ci_setup_installs() {
        for path in BootPath::ALL {
            assert_eq!(can_boot(path), Ok(()), "{path}");
        }
    }
}
