//! The data area: file contents as blocks and fragment blocks.

use std::io::{Seek, Write};

use imgbuild_tree::{FileContent, Kind};

use crate::codec::Codec;
use crate::format::{BLOCK_RAW, Put};
use crate::inventory::{Inventory, Number};
use crate::plan::{Job, Placement, Plan};
use crate::sink::Sink;
use crate::{Error, Options, duplicates, order, pipeline};

/// Where the content of a file was put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Position of the first block; 0 where there is none.
    pub(crate) start: u64,
    /// For each block its size on disk, with [`BLOCK_RAW`] where it is not compressed; 0 is a hole.
    pub(crate) sizes: Vec<u32>,
    /// Bytes in holes.
    pub(crate) sparse: u64,
    /// Where the end is, if in a fragment block.
    pub(crate) fragment: Option<Placement>,
}

/// The data area once it is written.
pub(crate) struct Data {
    /// The regular files that are not empty, ascending.
    numbers: Vec<Number>,
    first_of: Vec<usize>,
    layouts: Vec<Layout>,
    /// Position and size word of every fragment block.
    fragments: Vec<(u64, u32)>,
    /// Files whose content another one has too.
    pub(crate) duplicates: u32,
    /// Bytes of all files, holes and duplicates included.
    pub(crate) bytes_in: u64,
    /// Bytes the blocks take in the image.
    pub(crate) bytes_out: u64,
}

impl Data {
    /// Where a file's content is; `None` for an empty file.
    pub(crate) fn layout(&self, number: Number) -> Option<&Layout> {
        let file = self.numbers.binary_search(&number).ok()?;
        Some(&self.layouts[self.first_of[file]])
    }

    /// How many fragment blocks there are.
    pub(crate) fn fragment_count(&self) -> u32 {
        // The plan refuses more.
        self.fragments.len() as u32
    }

    /// The fragment table, uncompressed.
    pub(crate) fn fragment_table(&self) -> Vec<u8> {
        let mut table = Vec::with_capacity(16 * self.fragments.len());
        for (start, size) in &self.fragments {
            table.put_u64(*start);
            table.put_u32(*size);
            table.put_u32(0);
        }
        table
    }
}

/// What became of a block.
enum Block {
    /// Nothing but zeros.
    Hole,
    Packed(Vec<u8>),
    Raw(Vec<u8>),
}

struct Done {
    /// The file it belongs to; `None` for a fragment block.
    file: Option<usize>,
    len: u64,
    block: Block,
}

/// Writes the content of every file.
pub(crate) fn write<C: FileContent, W: Write + Seek>(
    inventory: &Inventory<'_, C>,
    sink: &mut Sink<W>,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Data, Error> {
    let (numbers, contents) = regular_files(inventory);
    let path = |file: usize| inventory.path(numbers[file]);
    let workers = options.workers();
    let first_of = duplicates::find(&contents, workers, &path)?;
    let lens: Vec<u64> = contents.iter().map(|c| c.len()).collect();
    let names: Vec<_> = numbers.iter().map(|number| inventory.inode(*number).name).collect();
    let plan = Plan::new(&lens, &first_of, &order::packing(&names), options)?;

    let repeated = first_of.iter().enumerate().filter(|(file, first)| file != *first).map(|(file, _)| lens[file]);
    let (duplicates, mut done) = repeated.fold((0, 0_u64), |(n, sum), len| (n + 1, sum.saturating_add(len)));
    progress(done);

    let mut layouts: Vec<Layout> =
        plan.placements.iter().map(|fragment| Layout { fragment: *fragment, ..Layout::default() }).collect();
    let mut fragments = Vec::new();
    let start = sink.position();
    let packers = (0..workers).map(|_| Packer::new(&contents, options, &path)).collect::<Result<Vec<_>, _>>()?;
    let packers = packers.into_iter().map(|mut packer| move |job| packer.run(job)).collect();
    pipeline::run(packers, plan.jobs(), |packed: Done| {
        let position = sink.position();
        let size = put(sink, &packed.block)?;
        if let Some(file) = packed.file {
            let layout = &mut layouts[file];
            if size == 0 {
                layout.sparse += packed.len;
            } else if layout.start == 0 {
                layout.start = position;
            }
            layout.sizes.push(size);
        } else {
            fragments.push((position, size));
        }
        done = done.saturating_add(packed.len);
        progress(done);
        Ok(())
    })?;
    let bytes_out = sink.position() - start;
    Ok(Data { numbers, first_of, layouts, fragments, duplicates, bytes_in: done, bytes_out })
}

fn regular_files<'t, C: FileContent>(inventory: &Inventory<'t, C>) -> (Vec<Number>, Vec<&'t C>) {
    let regular = inventory.iter().filter_map(|(number, inode)| match &inode.node.kind {
        Kind::Regular(content) if !content.is_empty() => Some((number, content)),
        _ => None,
    });
    regular.unzip()
}

/// Writes a block and returns its size word.
fn put<W: Write + Seek>(sink: &mut Sink<W>, block: &Block) -> Result<u32, Error> {
    // Blocks have at most 2^20 bytes.
    match block {
        Block::Hole => Ok(0),
        Block::Packed(bytes) => {
            sink.write(bytes)?;
            Ok(bytes.len() as u32)
        }
        Block::Raw(bytes) => {
            sink.write(bytes)?;
            Ok(bytes.len() as u32 | BLOCK_RAW)
        }
    }
}

/// A worker: reads what a block is made of and compresses it.
struct Packer<'a, C> {
    contents: &'a [&'a C],
    path: &'a (dyn Fn(usize) -> String + Sync),
    codec: Codec,
    /// As long as the longest block so far, so that no byte is cleared before it is read into.
    buffer: Vec<u8>,
}

impl<'a, C: FileContent> Packer<'a, C> {
    fn new(
        contents: &'a [&'a C],
        options: &Options,
        path: &'a (dyn Fn(usize) -> String + Sync),
    ) -> Result<Self, Error> {
        Ok(Self { contents, path, codec: Codec::new(options.compression)?, buffer: Vec::new() })
    }

    fn run(&mut self, job: Job) -> Result<Done, Error> {
        let (file, pieces) = match &job {
            Job::Block(piece) => (Some(piece.file), std::slice::from_ref(piece)),
            Job::Fragment(pieces) => (None, pieces.as_slice()),
        };
        // A block has at most 2^20 bytes.
        let len = pieces.iter().map(|piece| piece.len as usize).sum();
        if self.buffer.len() < len {
            self.buffer = vec![0; len];
        }
        let raw = &mut self.buffer[..len];
        let mut rest = &mut *raw;
        for piece in pieces {
            let (now, later) = rest.split_at_mut(piece.len as usize);
            let read = self.contents[piece.file].read_exact_at(now, piece.offset);
            read.map_err(|source| Error::Read { path: (self.path)(piece.file), source })?;
            rest = later;
        }
        let block = if file.is_some() && is_zero(raw) {
            Block::Hole
        } else {
            let packed = self.codec.pack(raw)?;
            packed.map_or_else(|| Block::Raw(raw.to_vec()), |packed| Block::Packed(packed.to_vec()))
        };
        Ok(Done { file, len: len as u64, block })
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_any_length_are_a_hole_and_one_bit_is_not() {
        for len in [1, 4095, 4096, 4097, 10_000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            bytes[len - 1] = 1;
            assert!(!is_zero(&bytes));
        }
    }
}
