//! How fast this machine is, so that limits of time mean the same on a server, on a laptop and in an emulator.
//!
//! A boot computes, looks into tables that no cache holds, and asks the kernel. Emulation slows down each of these by
//! another factor, so a little of each is done here, and compared with what a server needs for it.

use std::fs;
use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What a core of a server needs for a sample: an AMD EPYC of a few years ago took 4.8 ms.
const OF_A_SERVER: Duration = Duration::from_millis(5);
/// What fewer samples than this say may be chance.
const FEWEST: usize = 5;
/// More would say nothing more.
const MOST: usize = 25;

const STEPS: u32 = 500_000;
const TABLE: usize = 1 << 18;
const CALLS: u32 = 5_000;
const FILES: u32 = 250;

/// Samples taken while the system came up: whatever slowed that down from outside, such as another guest on the same host, slowed
/// them down, too.
#[derive(Debug)]
pub(crate) struct Speed {
    samples: Vec<Duration>,
}

impl Speed {
    pub(crate) const fn new() -> Self {
        Self { samples: Vec::new() }
    }

    /// Takes another sample, if there are not enough yet.
    pub(crate) fn sample(&mut self) {
        if self.samples.len() < MOST {
            self.samples.push(sample());
        }
    }

    /// How many times slower than a server, by the median; 1 for one that is faster.
    pub(crate) fn slowdown(&mut self) -> f64 {
        while self.samples.len() < FEWEST {
            self.sample();
        }
        let mut samples = self.samples.clone();
        samples.sort_unstable();
        let median = samples.get(samples.len() / 2).copied().unwrap_or(OF_A_SERVER);
        (median.as_secs_f64() / OF_A_SERVER.as_secs_f64()).max(1.0)
    }
}

/// Processor time, not the clock's: what else runs in this system meanwhile is the boot that is measured. What an emulator waits for
/// on its host is in it.
fn sample() -> Duration {
    // Not kept for the next one: the memory that a boot takes is tested as well.
    let mut table: Vec<u32> = (0..TABLE as u32).collect();
    let began = processor_time();
    compute(&mut table);
    for _ in 0..CALLS {
        black_box(rustix::process::getppid());
    }
    read_files();
    processor_time().saturating_sub(began)
}

/// Of this thread.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
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
        let mut speed = Speed::new();
        let slowdown = speed.slowdown();
        assert!((1.0..1000.0).contains(&slowdown), "{slowdown}");
        assert_eq!(speed.samples.len(), FEWEST);
    }

    #[test]
    fn the_median_counts_and_samples_end() {
        let mut speed = Speed { samples: [5, 400, 50, 60, 5].map(Duration::from_millis).to_vec() };
        assert_eq!(speed.slowdown(), 10.0);
        (0..MOST).for_each(|_| speed.sample());
        assert_eq!(speed.samples.len(), MOST);
        speed.samples = vec![Duration::from_millis(1); FEWEST];
        assert_eq!(speed.slowdown(), 1.0, "a faster machine gets no stricter limits");
    }
}
