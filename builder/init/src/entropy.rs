//! Randomness before the system starts: keys that are made on a machine that has none yet are somebody else's too.
//!
//! The kernel credits what it trusts itself: the processor's generator (`random.trust_cpu`), the seed that EFI or the
//! boot loader hands over (`random.trust_bootloader`), and generators whose driver vouches for them (virtio-rng does).
//! What is left is a hardware generator whose driver does not: it is read here, and credited, if nothing else served.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::{debug, say, sys, warning};

/// How much is read: a hash's worth twice over, since nobody vouches that every bit counts.
const SEED: usize = 64;
/// How many bits of it are credited: what the kernel wants before it calls its generator ready.
const CREDIT: u32 = 256;
/// A generator that is slower than this helps nobody.
const PATIENCE: Duration = Duration::from_millis(500);

/// Sees to it that the kernel's generator is ready, if the machine has what that takes. Says what it found.
pub fn seed() {
    if is_ready() {
        return debug!("random numbers: the kernel is ready");
    }
    let name = std::fs::read_to_string("/sys/class/misc/hw_random/rng_current").unwrap_or_default();
    match read_seed(Path::new("/dev/hwrng")) {
        Ok(seed) => match sys::add_entropy(&seed, CREDIT) {
            Ok(()) => say!("random numbers: {CREDIT} bits from {}", name.trim()),
            Err(e) => warning!("random numbers: the kernel does not take those of {}: {e}", name.trim()),
        },
        // The device is there as soon as the kernel could have a generator, and says ENODEV while it has none.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
            warning!(
                "random numbers: the kernel has none yet, and this machine no generator (in a virtual one: add virtio-rng)"
            );
        }
        Err(e) => warning!("random numbers: /dev/hwrng ({}): {e}", name.trim()),
    }
}

/// Whether getrandom(2) would give anything now.
fn is_ready() -> bool {
    getrandom(&mut [0; 1], GetRandomFlags::NONBLOCK).is_ok()
}

fn read_seed(device: &Path) -> io::Result<[u8; SEED]> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut device: File = OpenOptions::new().read(true).custom_flags(flags).open(device)?;
    let mut seed = [0; SEED];
    let mut read = 0;
    let deadline = Instant::now() + PATIENCE;
    while let Some(rest) = seed.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match device.read(rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => read += length,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_a_seed() {
        match sys::add_entropy(&[7; SEED], 0) {
            Ok(()) => {}
            // Who is not root learns at least that the kernel knows the request.
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{e}"),
        }
    }

    #[test]
    fn a_seed_is_whole_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hwrng");
        std::fs::write(&path, [7; SEED + 1]).unwrap();
        assert_eq!(read_seed(&path).unwrap(), [7; SEED]);
        std::fs::write(&path, [7; SEED - 1]).unwrap();
        assert_eq!(read_seed(&path).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read_seed(Path::new("/nonexistent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
