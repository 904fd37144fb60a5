//! How fast this machine is, so that limits of time mean the same on a server, on a laptop and in an emulator.
//!
//! A boot computes, looks into tables that no cache holds, and asks the kernel. Emulation slows down each of these by
//! another factor, so a little of each is done here, and compared with what a server needs for it.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// What a core of a server needs: an AMD EPYC of a few years ago took 19 ms.
const OF_A_SERVER: Duration = Duration::from_millis(20);
/// The fastest of so many counts: whatever else ran only made the others slower.
const ROUNDS: usize = 5;

const STEPS: u32 = 2_000_000;
const TABLE: usize = 1 << 18;
const CALLS: u32 = 20_000;
const FILES: u32 = 1_000;

/// How many times slower than a server; 1 for one that is faster.
pub(crate) fn slowdown() -> f64 {
    let mut table: Vec<u32> = (0..TABLE as u32).collect();
    let fastest = (0..ROUNDS).map(|_| round(&mut table)).min().unwrap_or(OF_A_SERVER);
    (fastest.as_secs_f64() / OF_A_SERVER.as_secs_f64()).max(1.0)
}

fn round(table: &mut [u32]) -> Duration {
    let began = Instant::now();
    compute(table);
    for _ in 0..CALLS {
        black_box(rustix::process::getppid());
    }
    read_files();
    began.elapsed()
}

/// A xorshift generator that stirs a table of a MiB.
fn compute(table: &mut [u32]) {
    let mut state = 0x2545_f491_u32;
    for _ in 0..STEPS {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let at = state as usize % TABLE;
        if let Some(entry) = table.get_mut(at) {
            *entry = if *entry & 1 == 0 { entry.wrapping_add(state) } else { *entry ^ state };
        }
    }
    black_box(table);
}

/// Files that the kernel writes when they are read.
fn read_files() {
    for _ in 0..FILES {
        let _ = black_box(fs::read("/proc/self/stat"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_a_number_that_can_be_used() {
        let slowdown = slowdown();
        assert!((1.0..1000.0).contains(&slowdown), "{slowdown}");
    }
}
