//! What files have in common, told from a few bytes of each.
//!
//! A sketch is a one-permutation MinHash (Li, Owen, Zhang: "One Permutation Hashing", NIPS 2012): every stretch of a dozen bytes is
//! hashed, the hashes are dealt out to slots, and each slot keeps the least. The share of slots in which two files agree is about
//! the share of such stretches that they have in common.

use std::io;

use imgbuild_tree::FileContent;

use crate::chunks;

/// Slots of a sketch.
pub(crate) const SLOTS: usize = 32;

/// A factor as `FxHash` and others have it: odd, its bits without pattern.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is added for each byte: numbers without pattern, the same for ever, by Sebastiano Vigna's `SplitMix64`.
static GEAR: [u64; 256] = {
    let mut gear = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut number = (byte as u64 + 1).wrapping_mul(MIX);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        gear[byte] = number ^ (number >> 31);
        byte += 1;
    }
    gear
};

/// What tells how much a file has in common with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sketch([u16; SLOTS]);

impl Sketch {
    /// How many bytes [`Sketch::to_bytes`] makes.
    pub const BYTES: usize = 2 * SLOTS;

    /// For keeping.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (two, slot) in bytes.chunks_exact_mut(2).zip(self.0) {
            two.copy_from_slice(&slot.to_le_bytes());
        }
        bytes
    }

    /// What [`Sketch::to_bytes`] made.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut slots = [0; SLOTS];
        for (slot, two) in slots.iter_mut().zip(bytes.chunks_exact(2)) {
            *slot = u16::from_le_bytes([two[0], two[1]]);
        }
        Self(slots)
    }

    /// What a slot holds, if anything: files agree there if it is the same.
    pub(crate) fn feature(&self, slot: usize) -> Option<u16> {
        self.0.get(slot).copied().filter(|value| *value != 0)
    }
}

/// Makes a sketch of bytes that come piece by piece.
#[derive(Debug, Clone)]
pub struct Sketcher {
    rolling: u64,
    least: [u32; SLOTS],
}

impl Default for Sketcher {
    fn default() -> Self {
        Self { rolling: 0, least: [u32::MAX; SLOTS] }
    }
}

impl Sketcher {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (mut rolling, least) = (self.rolling, &mut self.least);
        for byte in bytes {
            // After 13 bytes nothing is left of the first: each is shifted out.
            rolling = (rolling << 5).wrapping_add(GEAR[usize::from(*byte)]);
            let hash = rolling.wrapping_mul(MIX);
            let (slot, value) = ((hash >> 59) as usize, (hash >> 24) as u32);
            if value < least[slot] {
                least[slot] = value;
            }
        }
        self.rolling = rolling;
    }

    /// The sketch of all of them.
    #[must_use]
    pub fn finish(&self) -> Sketch {
        // The upper half of what is least is zeros; 0 is for a slot without anything.
        Sketch(self.least.map(|least| if least == u32::MAX { 0 } else { (least as u16).max(1) }))
    }
}

/// Reads a content whole; `buffer` is for reuse.
pub(crate) fn read<C: FileContent>(content: &C, buffer: &mut Vec<u8>) -> io::Result<Sketch> {
    let mut sketcher = Sketcher::default();
    chunks::read(content, u64::MAX, buffer, |chunk| sketcher.update(chunk))?;
    Ok(sketcher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn of(bytes: &[u8]) -> Sketch {
        let mut sketcher = Sketcher::default();
        sketcher.update(bytes);
        sketcher.finish()
    }

    fn common(a: &[u8], b: &[u8]) -> usize {
        let (a, b) = (of(a), of(b));
        (0..SLOTS).filter(|slot| a.feature(*slot).is_some() && a.feature(*slot) == b.feature(*slot)).count()
    }

    #[test]
    fn how_bytes_come_does_not_matter() {
        let bytes = noise(1, 100_000);
        for step in [1, 7, 4096] {
            let mut sketcher = Sketcher::default();
            bytes.chunks(step).for_each(|chunk| sketcher.update(chunk));
            assert_eq!(sketcher.finish(), of(&bytes));
        }
        assert_eq!(read(&imgbuild_tree::Content::from(&bytes[..]), &mut Vec::new()).unwrap(), of(&bytes));
        assert_eq!(Sketch::from_bytes(&of(&bytes).to_bytes()), of(&bytes));
        assert!((0..SLOTS).all(|slot| of(b"").feature(slot).is_none()));
    }

    #[test]
    fn files_agree_by_what_they_share_wherever_it_stands() {
        let (a, b, c) = (noise(1, 30_000), noise(2, 30_000), noise(3, 30_000));
        assert_eq!(common(&a, &a), SLOTS);
        assert!(common(&a, &b) <= 1, "{}", common(&a, &b));
        // A third of the stretches of both.
        let half = common(&[&a[..], &b].concat(), &[&c[..], &a].concat());
        assert!((4..=20).contains(&half), "{half}");
    }

    /// Images would change with it.
    #[test]
    fn sketches_are_those_of_last_time() {
        let sketch = of(&noise(7, 1000)).to_bytes();
        assert_eq!(
            sketch.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte))),
            3_582_434_191
        );
    }
}
