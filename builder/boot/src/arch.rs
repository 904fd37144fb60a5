//! What differs between guests of one architecture and of another.

use crate::Error;

/// An architecture that guests can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// Reads Debian's spelling, which is a manifest's.
    ///
    /// # Errors
    /// [`Error::Arch`] for those that no emulator is known for.
    pub(crate) fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "amd64" => Ok(Self::Amd64),
            "arm64" => Ok(Self::Arm64),
            other => Err(Error::Arch { arch: other.to_owned() }),
        }
    }

    /// This machine's, if guests can have it.
    pub(crate) fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// Debian's spelling.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// QEMU's program, and Debian's package that has it.
    pub(crate) fn emulator(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    /// QEMU's machine. Without graphics SeaBIOS, and so iPXE, talks on the serial port; `virt` has none, and its oldest interrupt
    /// controller, the default, knows eight processors.
    pub(crate) fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "q35,graphics=off",
            Self::Arm64 => "virt,gic-version=max",
        }
    }

    /// The emulated processor: all that QEMU knows. Pointers are signed by arithmetic of QEMU's own, since the architecture's
    /// takes an emulator ten times as long.
    pub(crate) fn processor(self) -> &'static str {
        match self {
            Self::Amd64 => "max",
            Self::Arm64 => "max,pauth-impdef=on",
        }
    }

    /// What makes the machine's serial port the console that Linux uses, whatever the recipe says.
    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "console=ttyS0,115200",
            Self::Arm64 => "console=ttyAMA0,115200",
        }
    }

    /// The kernel parameter that emulation needs. On a busy host an emulated timer is late enough for a PC's kernel to think
    /// that it does not work at all ("IO-APIC + timer doesn't work!").
    pub(crate) fn emulated_parameter(self) -> Option<&'static str> {
        match self {
            Self::Amd64 => Some("no_timer_check"),
            Self::Arm64 => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_known_by_debians_names() {
        for arch in [Arch::Amd64, Arch::Arm64] {
            assert_eq!(Arch::parse(arch.name()).unwrap(), arch);
        }
        let said = Arch::parse("s390x").unwrap_err().to_string();
        assert_eq!(said, "bundles for s390x cannot be booted by this imgbuild; it boots amd64 and arm64");
    }
}
