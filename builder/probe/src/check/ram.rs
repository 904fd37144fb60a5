//! `ram`: how much is taken at rest.

use super::Verdict;
use crate::spec::Ram;
use crate::system::System;

pub(super) fn check(Ram { ram }: &Ram, system: &dyn System) -> Verdict {
    let memory = match system.memory() {
        Ok(memory) => memory,
        Err(error) => return Verdict::new(false, format!("at most {ram} used"), format!("/proc/meminfo: {error}")),
    };
    // The root lies in a tmpfs, which is not available to anybody else.
    let used = memory.total.saturating_sub(memory.available);
    let most = ram.bytes(memory.total);
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let found = format!("{} MiB of {} MiB used", mebibytes(used), mebibytes(memory.total));
    Verdict::new(used <= most, format!("at most {} MiB used", most >> 20), found)
}

#[cfg(test)]
mod tests {
    use super::super::tests::attempt;
    use super::*;
    use crate::system::{Memory, fake::Fake};

    #[test]
    fn what_is_not_available_is_used() {
        let system = Fake { memory: Memory { total: 1000 << 20, available: 600 << 20 }, ..Fake::default() };
        let ram = |most: &str| attempt(&format!(r#"{{"ram": "{most}"}}"#), &system);
        assert!(ram("400MiB").holds && ram("40%").holds && ram("2GiB").holds);
        assert_eq!(ram("399MiB"), Verdict::new(false, "at most 399 MiB used", "400 MiB of 1000 MiB used"));
        assert!(!ram("39%").holds);
    }
}
