//! What goes into which block, decided from the files' lengths before any content is read.
//!
//! The plan depends on the tree and the options alone, so the image does too, whatever the threads do.
//!
//! A fragment block ends where it is full, but rather a little earlier behind a file that chance, a hash of its name and
//! length, has marked: so the blocks of two trees that differ in one file differ around that file only, and all others
//! need not be compressed again.

use crate::format::NO_INDEX;
use crate::{Error, Fragments, Options};

/// Part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Index of the file.
    pub(crate) file: usize,
    /// Where the part begins in the file.
    pub(crate) offset: u64,
    /// Its length in bytes, at most a block's.
    pub(crate) len: u32,
}

/// Where a fragment block holds the end of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Number of the fragment block.
    pub(crate) fragment: u32,
    /// Offset in the uncompressed fragment block.
    pub(crate) offset: u32,
}

/// One block to be read, compressed and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    /// A block of one file.
    Block(Piece),
    /// A fragment block.
    Fragment(Vec<Piece>),
}

impl Job {
    /// The file that a block belongs to; `None` for a fragment block.
    pub(crate) fn file(&self) -> Option<usize> {
        match self {
            Self::Block(piece) => Some(piece.file),
            Self::Fragment(_) => None,
        }
    }

    /// What goes into it.
    pub(crate) fn pieces(&self) -> &[Piece] {
        match self {
            Self::Block(piece) => std::slice::from_ref(piece),
            Self::Fragment(pieces) => pieces,
        }
    }

    /// Its length in bytes before it is compressed, at most a block's.
    pub(crate) fn len(&self) -> u32 {
        self.pieces().iter().map(|piece| piece.len).sum()
    }
}

/// A fragment block may end within its last eighth, and within so many bytes at least: fewer than a dozen files might have no
/// marked one among them.
const WINDOW: u64 = 48 << 10;

/// What the plan needs to know of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileFacts<'a> {
    /// Its first name.
    pub(crate) name: &'a [u8],
    /// Its length in bytes.
    pub(crate) len: u64,
    /// Files of different groups share no fragment block.
    pub(crate) group: u16,
}

impl FileFacts<'_> {
    /// Whether a fragment block that is nearly full ends behind this file: one in four.
    fn is_mark(&self) -> bool {
        // FNV-1a, which is the same everywhere and for ever.
        let bytes = self.name.iter().copied().chain(self.len.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        (hash >> 32).is_multiple_of(4)
    }
}

enum Step {
    /// The blocks of a file: so many of its bytes.
    File {
        file: usize,
        len: u64,
    },
    Fragment(Vec<Piece>),
}

/// The order of the data area.
pub(crate) struct Plan {
    block_size: u64,
    steps: Vec<Step>,
    /// For each file how many of its bytes lie in blocks of its own.
    own: Vec<u64>,
    /// For each file where its end is, if that is in a fragment block.
    pub(crate) placements: Vec<Option<Placement>>,
}

impl Plan {
    /// Plans for files, taken in this order; `first_of` has for each the file whose content it shares, if
    /// not itself.
    pub(crate) fn new(
        files: &[FileFacts<'_>],
        first_of: &[usize],
        order: &[usize],
        options: &Options,
    ) -> Result<Self, Error> {
        let block_size = u64::from(options.block_size);
        let mut plan =
            Self { block_size, steps: Vec::new(), own: vec![0; files.len()], placements: vec![None; files.len()] };
        let nearly_full = block_size - (block_size / 8).max(WINDOW.min(block_size / 2));
        let mut open = OpenFragment { number: 0, len: 0, group: 0, pieces: Vec::new() };
        for file in order.iter().copied().filter(|file| first_of[*file] == *file) {
            let facts = files[file];
            let len = facts.len;
            let tail = if takes_fragment(len, block_size, options.fragments) { len % block_size } else { 0 };
            plan.own[file] = len - tail;
            if len - tail > 0 {
                plan.steps.push(Step::File { file, len: len - tail });
            }
            if tail > 0 {
                if open.len > 0 && (open.len + tail > block_size || open.group != facts.group) {
                    plan.steps.push(Step::Fragment(open.close()?));
                }
                open.group = facts.group;
                plan.placements[file] = Some(open.add(file, len - tail, tail));
                if open.len >= nearly_full && facts.is_mark() {
                    plan.steps.push(Step::Fragment(open.close()?));
                }
            }
        }
        if open.len > 0 {
            plan.steps.push(Step::Fragment(open.close()?));
        }
        Ok(plan)
    }

    /// How many blocks a file has of its own.
    pub(crate) fn blocks_of(&self, file: usize) -> u64 {
        self.own[file].div_ceil(self.block_size)
    }

    /// The blocks in the order in which they are written.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = Job> {
        self.steps.iter().flat_map(move |step| {
            let (blocks, fragment) = match step {
                Step::File { file, len } => (Some(self.blocks(*file, *len)), None),
                Step::Fragment(pieces) => (None, Some(Job::Fragment(pieces.clone()))),
            };
            blocks.into_iter().flatten().chain(fragment)
        })
    }

    fn blocks(&self, file: usize, len: u64) -> impl Iterator<Item = Job> + use<> {
        let block_size = self.block_size;
        (0..len.div_ceil(block_size)).map(move |block| {
            let offset = block * block_size;
            // At most the block size, which has 21 bits.
            Job::Block(Piece { file, offset, len: (len - offset).min(block_size) as u32 })
        })
    }
}

/// Whether the end of a file of this length goes into a fragment block.
fn takes_fragment(len: u64, block_size: u64, fragments: Fragments) -> bool {
    match fragments {
        Fragments::Never => false,
        Fragments::SmallFiles => len < block_size,
        Fragments::SmallFilesAndTails => true,
    }
}

struct OpenFragment {
    number: u32,
    len: u64,
    group: u16,
    pieces: Vec<Piece>,
}

impl OpenFragment {
    fn add(&mut self, file: usize, offset: u64, len: u64) -> Placement {
        let placement = Placement { fragment: self.number, offset: self.len as u32 };
        self.pieces.push(Piece { file, offset, len: len as u32 });
        self.len += len;
        placement
    }

    fn close(&mut self) -> Result<Vec<Piece>, Error> {
        self.len = 0;
        self.number += 1;
        if self.number == NO_INDEX {
            return Err(Error::TableTooLarge { table: "fragment" });
        }
        Ok(std::mem::take(&mut self.pieces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lens: &[u64], first_of: &[usize], fragments: Fragments) -> (Vec<Job>, Vec<Option<Placement>>) {
        let options = Options { block_size: 4096, fragments, ..Options::default() };
        let order: Vec<_> = (0..lens.len()).collect();
        let plan = Plan::new(&facts(lens), first_of, &order, &options).unwrap();
        (plan.jobs().collect(), plan.placements)
    }

    fn facts(lens: &[u64]) -> Vec<FileFacts<'static>> {
        lens.iter().map(|len| FileFacts { name: b"file", len: *len, group: 0 }).collect()
    }

    fn block(file: usize, offset: u64, len: u32) -> Job {
        Job::Block(Piece { file, offset, len })
    }

    fn at(fragment: u32, offset: u32) -> Option<Placement> {
        Some(Placement { fragment, offset })
    }

    #[test]
    fn small_files_share_a_fragment_until_it_is_full() {
        let (jobs, placements) = plan(&[3000, 1096, 1], &[0, 1, 2], Fragments::SmallFiles);
        assert_eq!(placements, [at(0, 0), at(0, 3000), at(1, 0)]);
        let piece = |file, len| Piece { file, offset: 0, len };
        assert_eq!(jobs, [Job::Fragment(vec![piece(0, 3000), piece(1, 1096)]), Job::Fragment(vec![piece(2, 1)])]);
    }

    #[test]
    fn a_longer_file_keeps_its_tail_unless_tails_are_wanted() {
        let (jobs, placements) = plan(&[8193, 4096], &[0, 1], Fragments::SmallFiles);
        assert_eq!(jobs, [block(0, 0, 4096), block(0, 4096, 4096), block(0, 8192, 1), block(1, 0, 4096)]);
        assert_eq!(placements, [None, None]);

        let (jobs, placements) = plan(&[8193, 4096], &[0, 1], Fragments::SmallFilesAndTails);
        let tail = Job::Fragment(vec![Piece { file: 0, offset: 8192, len: 1 }]);
        assert_eq!(jobs, [block(0, 0, 4096), block(0, 4096, 4096), block(1, 0, 4096), tail]);
        assert_eq!(placements, [at(0, 0), None]);
    }

    #[test]
    fn without_fragments_every_file_has_blocks() {
        let (jobs, placements) = plan(&[1, 4097], &[0, 1], Fragments::Never);
        assert_eq!(jobs, [block(0, 0, 1), block(1, 0, 4096), block(1, 4096, 1)]);
        assert_eq!(placements, [None, None]);
    }

    #[test]
    fn files_are_packed_in_the_order_asked_for() {
        let options = Options { block_size: 4096, ..Options::default() };
        let plan = Plan::new(&facts(&[10, 5000, 20]), &[0, 1, 2], &[2, 1, 0], &options).unwrap();
        assert_eq!(plan.placements, [at(0, 20), None, at(0, 0)]);
        let fragment = [Piece { file: 2, offset: 0, len: 20 }, Piece { file: 0, offset: 0, len: 10 }];
        let jobs: Vec<_> = plan.jobs().collect();
        assert_eq!(jobs, [block(1, 0, 4096), block(1, 4096, 904), Job::Fragment(fragment.to_vec())]);
    }

    #[test]
    fn duplicates_are_not_planned() {
        let (jobs, placements) = plan(&[5, 9000, 5, 9000], &[0, 1, 0, 1], Fragments::SmallFiles);
        let small = Job::Fragment(vec![Piece { file: 0, offset: 0, len: 5 }]);
        assert_eq!(jobs, [block(1, 0, 4096), block(1, 4096, 4096), block(1, 8192, 808), small]);
        assert_eq!(placements, [at(0, 0), None, None, None]);
    }

    #[test]
    fn groups_share_no_fragment() {
        let options = Options { block_size: 4096, ..Options::default() };
        let mut files = facts(&[10, 20, 30]);
        files[2].group = 1;
        let plan = Plan::new(&files, &[0, 1, 2], &[0, 1, 2], &options).unwrap();
        assert_eq!(plan.placements, [at(0, 0), at(0, 10), at(1, 0)]);
    }

    /// The blocks of a tree in which one small file grew are, but for a few, those that were there before.
    #[test]
    fn a_change_moves_few_fragments() {
        let options = Options { block_size: 1 << 17, ..Options::default() };
        let names: Vec<String> = (0..20_000).map(|i| format!("file-{i}")).collect();
        let fragments = |changed: Option<usize>| {
            let files: Vec<_> = (0..names.len())
                .map(|i| {
                    let len = if changed == Some(i) { 4000 } else { 1 + (i as u64 * 7919) % 8000 };
                    FileFacts { name: names[i].as_bytes(), len, group: 0 }
                })
                .collect();
            let all: Vec<usize> = (0..files.len()).collect();
            let plan = Plan::new(&files, &all, &all, &options).unwrap();
            let jobs: Vec<Job> = plan.jobs().collect();
            jobs.into_iter()
                .map(|job| match job {
                    Job::Fragment(pieces) => pieces,
                    Job::Block(_) => panic!("all files are small"),
                })
                .collect::<Vec<_>>()
        };
        let before = fragments(None);
        assert!(before.len() > 500);
        for changed in [0, 1, 777, 10_000, 19_999] {
            let after = fragments(Some(changed));
            let new = after.iter().filter(|pieces| !before.contains(pieces)).count();
            assert!((1..=8).contains(&new), "{new} of {} blocks are new", after.len());
        }
    }
}
