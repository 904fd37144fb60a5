//! Whether a root fits, asked before the first byte: afterwards the kernel kills, or dies of it.

use std::fs;

use super::Error;

/// What must be left beside the root for the initrd to finish and the system to start, in bytes. The smallest start that
/// was measured took some 60 MB beside its image.
pub const MARGIN: u64 = 64 * 1024 * 1024;

/// The machine's memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All that the kernel manages.
    pub total: u64,
    /// What can be had without hurting anybody.
    pub available: u64,
}

impl Memory {
    /// What `/proc/meminfo` says now.
    #[must_use]
    pub fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    /// Reads the text of `/proc/meminfo`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let kibibytes = |key: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Self { total: kibibytes("MemTotal")?, available: kibibytes("MemAvailable")? })
    }

    /// Whether a root of this size fits.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] with both numbers.
    pub fn check(self, size: u64) -> Result<(), Error> {
        if size.saturating_add(MARGIN) > self.available {
            return Err(Error::Memory { size, available: self.available, total: self.total });
        }
        Ok(())
    }
}

/// Rounded up.
#[must_use]
pub fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1024 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_are_said() {
        let text = "MemTotal:         229376 kB\nMemFree:          100 kB\nMemAvailable:     204800 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory, Memory { total: 224 << 20, available: 200 << 20 });
        assert!(memory.check(136 << 20).is_ok());
        let error = memory.check((136 << 20) + 1).unwrap_err().to_string();
        assert_eq!(
            error,
            "not enough memory: needs 201 MiB (the root's 137 and 64 to run in), has 200 MiB available of 224"
        );
        assert!(memory.check(u64::MAX).is_err());
        assert_eq!(Memory::parse("MemTotal: x kB"), None);
    }
}
