//! Runs of blocks that the image has already.
//!
//! All blocks of a file lie behind one another, so what two files share can be stored once only where everything that one of
//! them has in blocks lies somewhere in a row: at the beginning of a longer file, or in its middle. When the last block of a
//! file is written, it is looked up, and if it was all there before the file's own blocks are taken back.

use std::collections::HashMap;

/// Files that begin with the same block are compared with so many earlier places at most.
const CANDIDATES: usize = 16;

/// A block of a file, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockOf {
    pub(crate) file: u32,
    pub(crate) block: u32,
}

/// A block in the image.
struct Stored {
    position: u64,
    size: u32,
    fingerprint: u32,
    of: BlockOf,
    /// The block before this one that has the same size and fingerprint.
    previous: Option<u32>,
}

impl Stored {
    /// What it looks like from afar.
    fn looks(&self) -> (u32, u32) {
        (self.size, self.fingerprint)
    }
}

/// The blocks of files that are in the image, but not its holes and fragment blocks.
#[derive(Default)]
pub(crate) struct Runs {
    stored: Vec<Stored>,
    last: HashMap<(u32, u32), u32>,
    /// Where the blocks of the file that is being written begin.
    open: usize,
}

impl Runs {
    /// Takes a block that was written: its position, size word and fingerprint.
    pub(crate) fn add(&mut self, of: BlockOf, position: u64, size: u32, fingerprint: u32) {
        // More blocks than this are not looked for.
        let Ok(number) = u32::try_from(self.stored.len()) else { return };
        let previous = self.last.insert((size, fingerprint), number);
        self.stored.push(Stored { position, size, fingerprint, of, previous });
    }

    /// Ends the file whose blocks came last. If the image has them all in a row, the position of that row: what was written
    /// for this file is then forgotten, and is to be taken back. `same` decides whether two blocks that look the same are.
    pub(crate) fn close<E>(
        &mut self,
        mut same: impl FnMut(BlockOf, BlockOf) -> Result<bool, E>,
    ) -> Result<Option<u64>, E> {
        let open = std::mem::replace(&mut self.open, self.stored.len());
        let Some(first) = self.stored.get(open) else { return Ok(None) };
        let mut candidate = first.previous;
        for _ in 0..CANDIDATES {
            let Some(number) = candidate else { break };
            let at = number as usize;
            candidate = self.stored[at].previous;
            if self.looks_like(at, open) && self.is(at, open, &mut same)? {
                let position = self.stored[at].position;
                self.forget(open);
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    fn looks_like(&self, at: usize, open: usize) -> bool {
        let (before, own) = self.stored.split_at(open);
        let Some(run) = before.get(at..at + own.len()) else { return false };
        let in_a_row = run.windows(2).all(|two| two[0].position + u64::from(len(two[0].size)) == two[1].position);
        in_a_row && run.iter().zip(own).all(|(a, b)| a.looks() == b.looks())
    }

    fn is<E>(
        &self,
        at: usize,
        open: usize,
        same: &mut impl FnMut(BlockOf, BlockOf) -> Result<bool, E>,
    ) -> Result<bool, E> {
        for (a, b) in self.stored[at..].iter().zip(&self.stored[open..]) {
            if !same(a.of, b.of)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn forget(&mut self, open: usize) {
        for block in self.stored.drain(open..).rev() {
            match block.previous {
                Some(previous) => self.last.insert(block.looks(), previous),
                None => self.last.remove(&block.looks()),
            };
        }
        self.open = open;
    }
}

/// Length in bytes of a block with this size word.
fn len(size: u32) -> u32 {
    size & !crate::format::BLOCK_RAW
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Writes files whose blocks are one byte each, all of the same size on disk; where each file was found to be.
    fn places(files: &[&str], same: impl Fn(u8, u8) -> bool) -> Vec<Option<u64>> {
        let (mut runs, mut position) = (Runs::default(), 100);
        let mut found = Vec::new();
        for (file, text) in files.iter().enumerate() {
            let start = position;
            for (block, byte) in text.bytes().enumerate() {
                runs.add(
                    BlockOf { file: file as u32, block: block as u32 },
                    position,
                    10,
                    u32::from(byte.to_ascii_lowercase()),
                );
                position += 10;
            }
            let byte = |of: BlockOf| files[of.file as usize].as_bytes()[of.block as usize];
            let place = runs.close(|a, b| Ok::<_, Infallible>(same(byte(a), byte(b)))).unwrap();
            if place.is_some() {
                position = start;
            }
            found.push(place);
        }
        found
    }

    #[test]
    fn beginnings_middles_and_ends_are_found_and_nothing_else() {
        let found = places(&["abcdef", "abc", "cd", "ef", "fa", "bd", "", "abcdefg", "fg", "defg"], |a, b| a == b);
        // "fa" and "bd" are new; so is "abcdefg", which is longer than anything before it.
        let at = |block: u64| Some(100 + 10 * block);
        assert_eq!(found, [None, at(0), at(2), at(4), None, None, None, None, at(15), at(13)]);
    }

    #[test]
    fn a_run_may_reach_from_one_file_into_the_next() {
        assert_eq!(places(&["ab", "cd", "bc"], |a, b| a == b), [None, None, Some(110)]);
    }

    #[test]
    fn a_file_is_not_found_in_itself() {
        assert_eq!(places(&["aaaa", "aa", "aaaaa"], |a, b| a == b), [None, Some(120), None]);
    }

    #[test]
    fn what_only_looks_the_same_is_not() {
        assert_eq!(places(&["abc", "aBc", "aBc"], |a, b| a == b), [None, None, Some(130)]);
    }

    #[test]
    fn blocks_that_do_not_follow_each_other_are_no_run() {
        let mut runs = Runs::default();
        let add = |runs: &mut Runs, file, block, position| runs.add(BlockOf { file, block }, position, 10, block);
        // A fragment block lies between the two.
        add(&mut runs, 0, 0, 100);
        runs.close(|_, _| Ok::<_, Infallible>(true)).unwrap();
        add(&mut runs, 1, 1, 150);
        runs.close(|_, _| Ok::<_, Infallible>(true)).unwrap();
        add(&mut runs, 2, 0, 160);
        add(&mut runs, 2, 1, 170);
        assert_eq!(runs.close(|_, _| Ok::<_, Infallible>(true)).unwrap(), None);
    }
}
