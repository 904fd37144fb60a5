//! The data area: file contents as blocks and fragment blocks.

use std::io::{Seek, Write};

use imgbuild_tree::{FileContent, Kind, Origin};

use crate::format::Put;
use crate::inventory::{Inventory, Number};
use crate::ledger::Ledger;
use crate::packer::{Done, Packer, Sources};
use crate::plan::{FileFacts, Placement, Plan};
use crate::reuse::{BlockStore, Digest, Known};
use crate::sink::Sink;
use crate::sketch::{self, Sketch};
use crate::{Error, Fragments, Options, duplicates, order, pipeline};

/// Where the content of a file was put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Position of the first block; 0 where there is none.
    pub(crate) start: u64,
    /// For each block its size on disk, with [`BLOCK_RAW`](crate::format::BLOCK_RAW) where it is not compressed; 0 is a hole.
    pub(crate) sizes: Vec<u32>,
    /// Bytes in holes.
    pub(crate) sparse: u64,
    /// Where the end is, if in a fragment block.
    pub(crate) fragment: Option<Placement>,
}

/// The data area once it is written.
pub(crate) struct Data {
    /// The regular files that are not empty, ascending.
    pub(crate) numbers: Vec<Number>,
    pub(crate) first_of: Vec<usize>,
    pub(crate) layouts: Vec<Layout>,
    /// Position and size word of every fragment block.
    pub(crate) fragments: Vec<(u64, u32)>,
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

/// What is to be written.
pub(crate) struct Work<'t, C> {
    /// The regular files that are not empty, ascending.
    pub(crate) numbers: Vec<Number>,
    contents: Vec<&'t C>,
    lens: Vec<u64>,
    digests: Vec<Option<Digest>>,
    /// For each file the first one with the same content.
    pub(crate) first_of: Vec<usize>,
    pub(crate) plan: Plan,
    /// Files whose content another one has too.
    pub(crate) duplicates: u32,
    /// Their bytes.
    duplicate_bytes: u64,
}

impl<'t, C: FileContent> Work<'t, C> {
    /// Finds out which files are the same and which belong together, and plans the blocks.
    pub(crate) fn new(inventory: &Inventory<'t, C>, options: &Options, known: &Known<'_>) -> Result<Self, Error> {
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
        let repeated = first_of.iter().enumerate().filter(|(file, first)| file != *first);
        let (duplicates, duplicate_bytes) =
            repeated.fold((0, 0_u64), |(n, sum), (file, _)| (n + 1, sum.saturating_add(facts[file].len)));
        let lens = facts.iter().map(|facts| facts.len).collect();
        Ok(Self { numbers, contents, lens, digests, first_of, plan, duplicates, duplicate_bytes })
    }

    /// What the blocks are made of.
    pub(crate) fn sources<'a>(&'a self, path: &'a (dyn Fn(usize) -> String + Sync)) -> Sources<'a, C> {
        Sources { contents: &self.contents, digests: &self.digests, path }
    }

    /// Bytes of all files.
    pub(crate) fn bytes_in(&self) -> u64 {
        self.lens.iter().copied().fold(0, u64::saturating_add)
    }
}

/// Writes the content of every file, and reads, compresses and writes at the same time. `origin` is that of a file.
pub(crate) fn write<C: FileContent, W: Write + Seek>(
    work: &Work<'_, C>,
    sources: &Sources<'_, C>,
    sink: &mut Sink<W>,
    options: &Options,
    store: Option<&dyn BlockStore>,
    origin: &dyn Fn(usize) -> Origin,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Data, Error> {
    let mut done = work.duplicate_bytes;
    progress(done);
    let mut ledger = Ledger::new(work, sources, options.block_size, sink.position());
    let packers =
        (0..options.workers()).map(|_| Packer::new(sources, options, store)).collect::<Result<Vec<_>, _>>()?;
    let packers = packers.into_iter().map(|mut packer| move |job| packer.run(job)).collect();
    pipeline::run(packers, work.plan.jobs(), |block: Done| {
        sink.write(&block.bytes)?;
        if let (Some(key), Some(store)) = (&block.save, store) {
            store.save(key, origin(block.any), block.packed());
        }
        if ledger.add(block.file, block.len, block.outline(), block.reused)? {
            sink.rewind(ledger.position())?;
        }
        done = done.saturating_add(block.len);
        progress(done);
        Ok(())
    })?;
    Ok(ledger.finish())
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
