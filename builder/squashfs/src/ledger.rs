//! Where each block comes to lie.

use imgbuild_tree::FileContent;

use crate::Error;
use crate::data::{Data, Layout, Work};
use crate::format::BLOCK_RAW;
use crate::packer::{Compare, Sources};
use crate::reuse::{Form, Outline};
use crate::runs::{BlockOf, Runs};

/// Takes the blocks in the order of the plan and gives each its place.
pub(crate) struct Ledger<'w, C> {
    work: &'w Work<'w, C>,
    compare: Compare<'w, C>,
    runs: Runs,
    layouts: Vec<Layout>,
    fragments: Vec<(u64, u32)>,
    start: u64,
    position: u64,
    duplicate_blocks: u64,
    bytes_reused: u64,
}

impl<'w, C: FileContent> Ledger<'w, C> {
    /// The first block lies at `start`.
    pub(crate) fn new(work: &'w Work<'w, C>, sources: &'w Sources<'w, C>, block_size: u32, start: u64) -> Self {
        let placements = work.plan.placements.iter();
        Self {
            work,
            compare: Compare::new(sources, u64::from(block_size)),
            runs: Runs::default(),
            layouts: placements.map(|fragment| Layout { fragment: *fragment, ..Layout::default() }).collect(),
            fragments: Vec::new(),
            start,
            position: start,
            duplicate_blocks: 0,
            bytes_reused: 0,
        }
    }

    /// Where the next block lies.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Takes a block of a file, or a fragment block; `len` is its length before it was compressed. True if it was the last one of
    /// a file whose blocks are all in the image already: then they are taken back, and [`Ledger::position`] is where they began.
    pub(crate) fn add(
        &mut self,
        file: Option<usize>,
        len: u64,
        block: Outline,
        is_reused: bool,
    ) -> Result<bool, Error> {
        let position = self.position;
        self.position += u64::from(block.len);
        if is_reused {
            self.bytes_reused = self.bytes_reused.saturating_add(len);
        }
        let size = size_word(block);
        let Some(file) = file else {
            self.fragments.push((position, size));
            return Ok(false);
        };
        let layout = &mut self.layouts[file];
        let number = layout.sizes.len();
        layout.sizes.push(size);
        if size == 0 {
            layout.sparse += len;
        } else {
            if layout.start == 0 {
                layout.start = position;
            }
            // Beyond 2^32 files or blocks of one the format ends as well.
            let of = BlockOf { file: file as u32, block: number as u32 };
            self.runs.add(of, position, size, block.fingerprint);
        }
        if layout.sizes.len() as u64 != self.work.plan.blocks_of(file) {
            return Ok(false);
        }
        let Some(earlier) = self.runs.close(|a, b| self.compare.same(a, b))? else { return Ok(false) };
        self.position = std::mem::replace(&mut layout.start, earlier);
        self.duplicate_blocks += layout.sizes.iter().filter(|size| **size != 0).count() as u64;
        Ok(true)
    }

    /// The data area, once all blocks are in.
    pub(crate) fn finish(self) -> Data {
        Data {
            numbers: self.work.numbers.clone(),
            first_of: self.work.first_of.clone(),
            layouts: self.layouts,
            fragments: self.fragments,
            duplicates: self.work.duplicates,
            duplicate_blocks: self.duplicate_blocks,
            bytes_in: self.work.bytes_in(),
            bytes_out: self.position - self.start,
            bytes_reused: self.bytes_reused,
        }
    }
}

/// How an inode or the fragment table tells a block's size.
fn size_word(block: Outline) -> u32 {
    match block.form {
        Form::Hole => 0,
        Form::Compressed => block.len,
        Form::Raw => block.len | BLOCK_RAW,
    }
}
