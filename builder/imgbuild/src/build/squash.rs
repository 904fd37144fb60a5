//! The root as a squashfs, out of what earlier builds have read and compressed as far as they have.

use std::cell::Cell;
use std::fs::File;
use std::io;

use imgbuild_bundle::Staging;
use imgbuild_bundle::inspect::human;
use imgbuild_bundle::scan::{self, FOUND_BYTES, Found, Memory, Scanned};
use imgbuild_layers::Watch;
use imgbuild_layers::cache::{Cache, Direct, WriteBehind};
use imgbuild_pack::{Pack, Scans};
use imgbuild_progress::Progress;
use imgbuild_recipe::Algorithm;
use imgbuild_squashfs::{self as squashfs, Digest, Known, Straight};
use imgbuild_tree::{Content, RootTree};

use super::root::{MadeLayer, check_untouched};
use super::{Order, unwritten};
use crate::failure::{Code, Failure, OrFail, Outcome};

struct Remembered(Scans<FOUND_BYTES>);

impl Memory for Remembered {
    fn recall(&self, content: &Content) -> Option<Found> {
        Found::from_bytes(&self.0.get(content)?)
    }

    fn remember(&self, content: &Content, found: Found) {
        self.0.put(content, found.to_bytes());
    }
}

/// Hashes every file and looks for secrets; only in files that no build has looked at.
pub(super) fn scan(tree: &RootTree, cache: &Cache, progress: &dyn Progress) -> Outcome<Vec<Scanned>> {
    let memory = Remembered(Scans::open(cache, scan::VERSION));
    let scanned = scan::scan(tree, Some(&memory)).or_fail(Code::Failed)?;
    if let Err(error) = memory.0.finish() {
        progress.detail(format!("files will be read again by the next build: {error}"));
    }
    Ok(scanned)
}

/// What can be had before it is known what is in the root.
pub(super) struct Ready {
    /// What earlier builds have compressed.
    pub(super) pack: Pack,
    file: File,
    direct: Option<Direct>,
}

/// Opens what is read and what is written.
pub(super) fn ready(
    options: &squashfs::Options,
    layers: &[MadeLayer],
    staging: &Staging,
    cache: &Cache,
) -> Outcome<Ready> {
    let layers: Vec<String> = layers.iter().map(|layer| layer.digest.clone()).collect();
    let pack = Pack::open(cache, options.compression, options.block_size, &layers).or_fail(Code::Failed)?;
    let file = staging.create(imgbuild_bundle::ROOT).or_fail(Code::Failed)?;
    // Whoever has compressed nothing before has to first.
    let direct = if pack.is_empty() { None } else { Direct::begin(&file).ok() };
    Ok(Ready { pack, file, direct })
}

/// What the recipe, and whoever builds it, want of the squashfs.
pub(super) fn options(order: &Order<'_>, epoch: i64) -> squashfs::Options {
    let wanted = &order.recipe.root.compression;
    let level = u32::from(wanted.level);
    squashfs::Options {
        compression: match wanted.algorithm {
            Algorithm::Zstd => squashfs::Compression::Zstd { level },
            Algorithm::Gzip => squashfs::Compression::Gzip { level },
            Algorithm::Xz => squashfs::Compression::Xz { level },
            // As LZ4's own tool: from 3 on it takes its time.
            Algorithm::Lz4 => squashfs::Compression::Lz4 { high: level >= 3 },
            Algorithm::Lzo => squashfs::Compression::Lzo,
        },
        block_size: u32::try_from(wanted.block.0).unwrap_or(u32::MAX),
        threads: order.jobs,
        time: u32::try_from(epoch.max(0)).unwrap_or(u32::MAX),
        ..squashfs::Options::default()
    }
}

/// What the squashfs is made of.
pub(super) struct Root<'a> {
    pub(super) tree: &'a RootTree,
    pub(super) scanned: &'a [Scanned],
    pub(super) watch: &'a Watch,
    pub(super) options: squashfs::Options,
    pub(super) ready: Ready,
}

/// What came of it.
pub(super) struct Written {
    pub(super) summary: squashfs::Summary,
    /// On its way to the disk.
    pub(super) file: WriteBehind,
    pub(super) pack: Pack,
}

const TASK: &str = "squashfs";

/// Past the page cache: the root is large, and nobody reads it soon.
struct Past(Direct);

impl Straight for Past {
    fn put(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8]) -> bool) -> io::Result<bool> {
        self.0.put(len, fill)
    }

    fn finish(self: Box<Self>) -> io::Result<Digest> {
        self.0.finish()
    }
}

impl Root<'_> {
    /// Writes `root.squashfs`.
    pub(super) fn write(self, staging: &Staging, progress: &dyn Progress) -> Outcome<Written> {
        let Self { options, ready: Ready { pack, file, direct }, .. } = self;
        let (mut digests, mut sketches) = (vec![None; self.tree.len()], vec![None; self.tree.len()]);
        for file in self.scanned {
            if let (Some(digest), Some(sketch)) = (digests.get_mut(file.id.index()), sketches.get_mut(file.id.index()))
            {
                (*digest, *sketch) = (Some(file.sha256), file.sketch);
            }
        }
        progress.started(TASK, Some(self.scanned.iter().map(|file| file.size).fold(0, u64::saturating_add)));
        let direct = Cell::new(direct);
        let straight = || Some(Box::new(Past(direct.take()?)) as Box<dyn Straight>);
        let known = Known { digests: &digests, sketches: &sketches, blocks: Some(&pack), straight: Some(&straight) };
        let mut file = WriteBehind::new(file);
        let summary =
            squashfs::write_known(self.tree, &mut file, &options, &known, &|done| progress.advanced(TASK, done))
                .map_err(failed)?;
        // Blocks that turned out to be there already can have left room behind the image.
        let meta = file.file().metadata().map_err(failed)?;
        if meta.len() > summary.bytes_used {
            file.file().set_len(summary.bytes_used).map_err(failed)?;
        }
        if let Some(sha256) = summary.sha256 {
            staging.hashed(imgbuild_bundle::ROOT, sha256).or_fail(Code::Failed)?;
        }
        let reused = match summary.data_bytes_reused {
            0 => String::new(),
            bytes => format!(", {} of them packed before", human(bytes)),
        };
        progress.finished(TASK, format!("{} from {}{reused}", human(summary.bytes_used), human(summary.data_bytes_in)));
        for dropped in &summary.dropped_xattrs {
            progress.detail(format!(
                "squashfs cannot store the attribute {} of {} ({} files)",
                dropped.name, dropped.first, dropped.files
            ));
        }
        // Blocks have the names of what the scan read, and were made of what was read after it.
        check_untouched(self.watch)?;
        Ok(Written { summary, file, pack })
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    unwritten(imgbuild_bundle::ROOT, error)
}

/// Leaves what was compressed to later builds.
pub(super) fn keep(pack: Pack, limit: u64, progress: &dyn Progress) {
    let summary = pack.finish(limit);
    for key in &summary.damaged {
        progress
            .warning(format!("the cache's pack {key} was damaged; it is deleted, and its blocks are compressed again"));
    }
    if summary.evicted > 0 {
        progress
            .detail(format!("pack: {} not used for long are deleted, to keep to --pack-limit", human(summary.evicted)));
    }
    match summary.failed {
        Some(error) => progress
            .warning(format!("what was compressed is not kept for the next build, which will take as long: {error}")),
        None => progress.detail(format!(
            "pack: {} reused, {} in {} blocks kept for later builds",
            human(summary.reused),
            human(summary.added_bytes),
            summary.added
        )),
    }
}
