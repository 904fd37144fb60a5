//! The data area: file contents as blocks and fragment blocks.

use std::io::{Seek, Write};

use imgbuild_tree::{FileContent, Kind};

use crate::codec::Codec;
use crate::format::{BLOCK_RAW, Put};
use crate::inventory::{Inventory, Number};
use crate::plan::{FileFacts, Job, Piece, Placement, Plan};
use crate::reuse::{BlockKey, BlockStore, Digest, Form, KeyPiece, Known, Namer, Packed};
use crate::runs::{BlockOf, Runs};
use crate::sink::Sink;
use crate::sketch::{self, Sketch};
use crate::{Error, Fragments, Options, duplicates, order, pipeline};

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
    /// Blocks of other files that are in the image already.
    pub(crate) duplicate_blocks: u64,
    /// Bytes of all files, holes and duplicates included.
    pub(crate) bytes_in: u64,
    /// Bytes the blocks take in the image.
    pub(crate) bytes_out: u64,
    /// Bytes of the blocks that were not compressed this time, uncompressed.
    pub(crate) bytes_reused: u64,
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
struct Done {
    /// The file it belongs to; `None` for a fragment block.
    file: Option<usize>,
    /// A file of which it holds something.
    any: usize,
    len: u64,
    form: Form,
    bytes: Vec<u8>,
    /// Its name, if it is to be kept.
    save: Option<BlockKey>,
    reused: bool,
}

impl Done {
    fn packed(&self) -> Packed<'_> {
        match self.form {
            Form::Hole => Packed::Hole,
            Form::Compressed => Packed::Compressed(&self.bytes),
            Form::Raw => Packed::Raw(&self.bytes),
        }
    }
}

/// Writes the content of every file.
pub(crate) fn write<C: FileContent, W: Write + Seek>(
    inventory: &Inventory<'_, C>,
    sink: &mut Sink<W>,
    options: &Options,
    known: &Known<'_>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Data, Error> {
    let Regular { numbers, contents, facts, digests, mut sketches } = regular_files(inventory, known);
    let path = |file: usize| inventory.path(numbers[file]);
    let workers = options.workers();
    let first_of = duplicates::find(&contents, &digests, workers, &path)?;
    let small = |file: usize| {
        options.fragments != Fragments::Never
            && facts[file].len < u64::from(options.block_size)
            && first_of[file] == file
    };
    sketch_all(&contents, &mut sketches, &small, workers, &path)?;
    let plan = Plan::new(&facts, &first_of, &order::packing(&facts, &sketches), options)?;
    drop(sketches);

    let repeated = first_of.iter().enumerate().filter(|(file, first)| file != *first).map(|(file, _)| facts[file].len);
    let (duplicates, mut done) = repeated.fold((0, 0_u64), |(n, sum), len| (n + 1, sum.saturating_add(len)));
    progress(done);

    let mut layouts: Vec<Layout> =
        plan.placements.iter().map(|fragment| Layout { fragment: *fragment, ..Layout::default() }).collect();
    let (mut fragments, mut bytes_reused) = (Vec::new(), 0_u64);
    let (mut runs, mut duplicate_blocks) = (Runs::default(), 0);
    let start = sink.position();
    let sources = Sources { contents: &contents, digests: &digests, path: &path };
    let mut compare = Compare::new(&sources, u64::from(options.block_size));
    let packers = (0..workers).map(|_| Packer::new(&sources, options, known.blocks)).collect::<Result<Vec<_>, _>>()?;
    let packers = packers.into_iter().map(|mut packer| move |job| packer.run(job)).collect();
    pipeline::run(packers, plan.jobs(), |packed: Done| {
        let position = sink.position();
        let size = put(sink, packed.packed())?;
        if let (Some(key), Some(store)) = (&packed.save, known.blocks) {
            store.save(key, inventory.inode(numbers[packed.any]).node.meta.origin, packed.packed());
        }
        if let Some(file) = packed.file {
            let layout = &mut layouts[file];
            let block = layout.sizes.len();
            layout.sizes.push(size);
            if size == 0 {
                layout.sparse += packed.len;
            } else {
                if layout.start == 0 {
                    layout.start = position;
                }
                // Beyond 2^32 files or blocks of one the format ends as well.
                runs.add(BlockOf { file: file as u32, block: block as u32 }, position, size, &packed.bytes);
            }
            if layout.sizes.len() as u64 == plan.blocks_of(file)
                && let Some(earlier) = runs.close(|a, b| compare.same(a, b))?
            {
                sink.rewind(layout.start)?;
                layout.start = earlier;
                duplicate_blocks += layout.sizes.iter().filter(|size| **size != 0).count() as u64;
            }
        } else {
            fragments.push((position, size));
        }
        if packed.reused {
            bytes_reused = bytes_reused.saturating_add(packed.len);
        }
        done = done.saturating_add(packed.len);
        progress(done);
        Ok(())
    })?;
    let bytes_out = sink.position() - start;
    let bytes_in = done;
    Ok(Data { numbers, first_of, layouts, fragments, duplicates, duplicate_blocks, bytes_in, bytes_out, bytes_reused })
}

/// The regular files that are not empty, in the order of their numbers.
struct Regular<'t, C> {
    numbers: Vec<Number>,
    contents: Vec<&'t C>,
    facts: Vec<FileFacts<'t>>,
    digests: Vec<Option<Digest>>,
    sketches: Vec<Option<Sketch>>,
}

fn regular_files<'t, C: FileContent>(inventory: &Inventory<'t, C>, known: &Known<'_>) -> Regular<'t, C> {
    let mut regular = Regular {
        numbers: Vec::new(),
        contents: Vec::new(),
        facts: Vec::new(),
        digests: Vec::new(),
        sketches: Vec::new(),
    };
    for (number, inode) in inventory.iter() {
        let Kind::Regular(content) = &inode.node.kind else { continue };
        if content.is_empty() {
            continue;
        }
        regular.numbers.push(number);
        regular.contents.push(content);
        // Layers change each on its own: what is made of one of them is good as long as it stays.
        let group = inode.node.meta.origin.0;
        regular.facts.push(FileFacts { name: inode.name, len: content.len(), group });
        regular.digests.push(known.digest(inode.id));
        regular.sketches.push(known.sketch(inode.id));
    }
    regular
}

/// Makes the sketches that are missing of the files whose neighbours matter, and forgets all others.
fn sketch_all<C: FileContent>(
    contents: &[&C],
    sketches: &mut [Option<Sketch>],
    matters: &dyn Fn(usize) -> bool,
    workers: usize,
    path: &(dyn Fn(usize) -> String + Sync),
) -> Result<(), Error> {
    let mut missing = Vec::new();
    for (file, sketch) in sketches.iter_mut().enumerate() {
        if !matters(file) {
            *sketch = None;
        } else if sketch.is_none() {
            missing.push(file);
        }
    }
    let worker = || {
        let mut buffer = Vec::new();
        move |file: usize| {
            let sketch = sketch::read(contents[file], &mut buffer);
            Ok((file, sketch.map_err(|source| Error::Read { path: path(file), source })?))
        }
    };
    let workers = (0..workers.min(missing.len())).map(|_| worker()).collect();
    pipeline::run(workers, missing.into_iter(), |(file, sketch)| {
        sketches[file] = Some(sketch);
        Ok(())
    })
}

/// Writes a block and returns its size word.
fn put<W: Write + Seek>(sink: &mut Sink<W>, block: Packed<'_>) -> Result<u32, Error> {
    // Blocks have at most 2^20 bytes.
    match block {
        Packed::Hole => Ok(0),
        Packed::Compressed(bytes) => {
            sink.write(bytes)?;
            Ok(bytes.len() as u32)
        }
        Packed::Raw(bytes) => {
            sink.write(bytes)?;
            Ok(bytes.len() as u32 | BLOCK_RAW)
        }
    }
}

/// What blocks are made of.
struct Sources<'a, C> {
    contents: &'a [&'a C],
    digests: &'a [Option<Digest>],
    path: &'a (dyn Fn(usize) -> String + Sync),
}

/// A worker: finds a block in the store, or reads what it is made of and compresses it.
struct Packer<'a, C> {
    sources: &'a Sources<'a, C>,
    store: Option<&'a dyn BlockStore>,
    namer: Namer,
    codec: Codec,
    /// As long as the longest block so far, so that no byte is cleared before it is read into.
    buffer: Vec<u8>,
}

impl<'a, C: FileContent> Packer<'a, C> {
    fn new(sources: &'a Sources<'a, C>, options: &Options, store: Option<&'a dyn BlockStore>) -> Result<Self, Error> {
        let (namer, codec) = (Namer::new(options.compression), Codec::new(options.compression)?);
        Ok(Self { sources, store, namer, codec, buffer: Vec::new() })
    }

    fn run(&mut self, job: Job) -> Result<Done, Error> {
        let (file, pieces) = match &job {
            Job::Block(piece) => (Some(piece.file), std::slice::from_ref(piece)),
            Job::Fragment(pieces) => (None, pieces.as_slice()),
        };
        // A block has at most 2^20 bytes.
        let len = pieces.iter().map(|piece| piece.len as usize).sum();
        let any = pieces.first().map_or(0, |piece| piece.file);
        let mut done =
            Done { file, any, len: len as u64, form: Form::Hole, bytes: Vec::new(), save: None, reused: false };
        if let Some(store) = self.store
            && let Some(key) = self.name(file.is_none(), pieces)
        {
            if let Some(form) = store.load(&key, &mut done.bytes) {
                (done.form, done.reused) = (form, true);
                return Ok(done);
            }
            done.save = Some(key);
        }
        if self.buffer.len() < len {
            self.buffer = vec![0; len];
        }
        let raw = &mut self.buffer[..len];
        let mut rest = &mut *raw;
        for piece in pieces {
            let (now, later) = rest.split_at_mut(piece.len as usize);
            let read = self.sources.contents[piece.file].read_exact_at(now, piece.offset);
            read.map_err(|source| Error::Read { path: (self.sources.path)(piece.file), source })?;
            rest = later;
        }
        if file.is_some() && is_zero(raw) {
            done.bytes.clear();
        } else {
            let packed = self.codec.pack(raw)?;
            (done.form, done.bytes) = match packed {
                Some(packed) => (Form::Compressed, packed.to_vec()),
                None => (Form::Raw, raw.to_vec()),
            };
        }
        Ok(done)
    }

    /// The name of a block, if the digest of all that goes into it is known.
    fn name(&self, fragment: bool, pieces: &[Piece]) -> Option<BlockKey> {
        let digest = |piece: &Piece| self.sources.digests[piece.file];
        if pieces.iter().any(|piece| digest(piece).is_none()) {
            return None;
        }
        let key = |piece: &Piece| Some(KeyPiece { digest: digest(piece)?, offset: piece.offset, len: piece.len });
        Some(self.namer.name(fragment, pieces.iter().filter_map(key)))
    }
}

/// Compares blocks that look the same once packed.
struct Compare<'a, C> {
    sources: &'a Sources<'a, C>,
    block_size: u64,
    buffers: [Vec<u8>; 2],
}

impl<'a, C: FileContent> Compare<'a, C> {
    fn new(sources: &'a Sources<'a, C>, block_size: u64) -> Self {
        Self { sources, block_size, buffers: [Vec::new(), Vec::new()] }
    }

    fn same(&mut self, a: BlockOf, b: BlockOf) -> Result<bool, Error> {
        for (of, buffer) in [a, b].into_iter().zip(&mut self.buffers) {
            let file = of.file as usize;
            let content = self.sources.contents[file];
            let offset = u64::from(of.block) * self.block_size;
            // At most a block.
            buffer.resize(content.len().saturating_sub(offset).min(self.block_size) as usize, 0);
            let read = content.read_exact_at(buffer, offset);
            read.map_err(|source| Error::Read { path: (self.sources.path)(file), source })?;
        }
        Ok(self.buffers[0] == self.buffers[1])
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
