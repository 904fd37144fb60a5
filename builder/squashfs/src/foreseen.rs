//! An image of which all is known before its first byte is written.
//!
//! If nearly every block is in the store, the rest is made first and kept in memory. Then the place of everything is known, and
//! with it the superblock, so that the image is written from its beginning to its end and whoever hashes it can do so meanwhile.

use imgbuild_tree::FileContent;

use crate::data::{Data, Work};
use crate::ledger::Ledger;
use crate::packer::{Done, Packer, Sources};
use crate::plan::Job;
use crate::reuse::{BlockKey, BlockStore, Form, Namer, Outline};
use crate::whole::Whole;
use crate::{Error, Options, pipeline};

/// What is made beforehand at most, in bytes before compression, and as a part of all: more is better written while it is made.
const MOST: u64 = 16 << 20;
const MOST_OF_ALL: u64 = 4;

/// The data area of an image to be written.
pub(crate) struct Foreseen<'a> {
    pub(crate) data: Data,
    /// Where the data area ends.
    pub(crate) end: u64,
    store: &'a dyn BlockStore,
    /// In the order of the image; no holes.
    blocks: Vec<Block>,
    /// What the store did not have.
    made: Vec<Done>,
}

enum Block {
    Stored(BlockKey, Outline),
    /// The number of what was made.
    Made(usize),
}

/// A job and what is known of it.
enum Step {
    Stored { file: Option<usize>, len: u32, key: BlockKey, outline: Outline },
    Made,
}

/// Finds out what each block will be. Nothing if too many are to be made for that.
pub(crate) fn foresee<'a, C: FileContent>(
    work: &Work<'_, C>,
    sources: &Sources<'_, C>,
    options: &Options,
    store: &'a dyn BlockStore,
    start: u64,
) -> Result<Option<Foreseen<'a>>, Error> {
    let Some((steps, missing)) = look_up(work, sources, options, store) else { return Ok(None) };
    let made = make(missing, sources, options, store)?;
    let mut ledger = Ledger::new(work, sources, options.block_size, start);
    let mut blocks = Vec::with_capacity(steps.len());
    let (mut next, mut begun) = (0, (None, 0));
    for step in steps {
        let (file, len, outline, block, is_reused) = match step {
            Step::Stored { file, len, key, outline } => {
                (file, u64::from(len), outline, Block::Stored(key, outline), true)
            }
            Step::Made => {
                let Some(done) = made.get(next) else { return Ok(None) };
                next += 1;
                (done.file, done.len, done.outline(), Block::Made(next - 1), done.reused)
            }
        };
        if file.is_none() || begun.0 != file {
            begun = (file, blocks.len());
        }
        if outline.form != Form::Hole {
            blocks.push(block);
        }
        if ledger.add(file, len, outline, is_reused)? {
            // They are in the image already.
            blocks.truncate(begun.1);
        }
    }
    Ok(Some(Foreseen { end: ledger.position(), data: ledger.finish(), store, blocks, made }))
}

fn look_up<C: FileContent>(
    work: &Work<'_, C>,
    sources: &Sources<'_, C>,
    options: &Options,
    store: &dyn BlockStore,
) -> Option<(Vec<Step>, Vec<Job>)> {
    let namer = Namer::new(options.compression);
    let most = MOST.min(work.bytes_in() / MOST_OF_ALL);
    let (mut steps, mut missing, mut to_make) = (Vec::new(), Vec::new(), 0);
    for job in work.plan.jobs() {
        let known = sources.name(&namer, &job).and_then(|key| Some((key, store.outline(&key)?)));
        if let Some((key, outline)) = known {
            steps.push(Step::Stored { file: job.file(), len: job.len(), key, outline });
        } else {
            to_make += u64::from(job.len());
            if to_make > most {
                return None;
            }
            steps.push(Step::Made);
            missing.push(job);
        }
    }
    Some((steps, missing))
}

fn make<C: FileContent>(
    missing: Vec<Job>,
    sources: &Sources<'_, C>,
    options: &Options,
    store: &dyn BlockStore,
) -> Result<Vec<Done>, Error> {
    let mut made = Vec::with_capacity(missing.len());
    let workers = (0..options.workers().min(missing.len()))
        .map(|_| Packer::new(sources, options, Some(store)))
        .collect::<Result<Vec<_>, _>>()?;
    let workers = workers.into_iter().map(|mut packer| move |job| packer.run(job)).collect();
    pipeline::run(workers, missing.into_iter(), |done| {
        made.push(done);
        Ok(())
    })?;
    Ok(made)
}

impl Foreseen<'_> {
    /// Writes the data area; false if the store does not hand out what it said it would, and the image cannot be written this way.
    pub(crate) fn write(&self, out: &mut Whole<'_>, progress: &(dyn Fn(u64) + Sync)) -> Result<bool, Error> {
        let begin = out.position();
        let (total, all) = (self.data.bytes_in, (self.end - begin).max(1));
        for block in &self.blocks {
            match block {
                Block::Made(number) => out.write(self.made.get(*number).map_or(&[][..], |done| &done.bytes))?,
                Block::Stored(key, outline) => {
                    let mut load = |to: &mut [u8]| self.store.load_exact(key, to) == Some(outline.form);
                    if !out.put(outline.len as usize, &mut load)? {
                        return Ok(false);
                    }
                }
            }
            // Of what goes into the image as much as of the image.
            let done = u128::from(total) * u128::from(out.position() - begin) / u128::from(all);
            progress(done as u64);
        }
        progress(total);
        Ok(true)
    }

    /// Hands what was made to the store.
    pub(crate) fn save(&self, origin: impl Fn(usize) -> imgbuild_tree::Origin) {
        for done in &self.made {
            if let Some(key) = &done.save {
                self.store.save(key, origin(done.any), done.packed());
            }
        }
    }
}
