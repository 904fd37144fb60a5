//! Puts an initrd together.

use std::collections::BTreeMap;
use std::io::Write;

use imgbuild_progress::Progress;
use imgbuild_tree::{Content, FileContent, Kind, NodeId, RootTree};
use netboot_init::config;

use crate::absent;
use crate::closure::ModuleClosure;
use crate::error::{Error, Result};
use crate::firmware::{self, Firmware, MissingFirmware};
use crate::index::ModuleIndex;
use crate::kernel::{Kernel, Setting};
use crate::layout::Layout;
use crate::segment::{self, Compression, SegmentStore};

/// Unpacked files take whole pages of RAM.
const PAGE: u64 = 4096;
const TASK: &str = "initrd";
/// Bytes between two reports of progress.
const STEP: u64 = 4 << 20;

/// Everything that goes into an initrd.
pub struct Initrd<'a> {
    /// The root that kernel, modules and firmware come from.
    pub tree: &'a RootTree,
    /// The kernel it is for.
    pub kernel: &'a Kernel,
    /// That kernel's modules.
    pub index: &'a ModuleIndex,
    /// Those of them that go in.
    pub modules: &'a ModuleClosure,
    /// `netboot-init`: a static executable.
    pub init: &'a [u8],
    /// What `netboot-init` reads at [`config::PATH`].
    pub config: &'a [u8],
    /// Hook scripts by path below [`config::HOOKS`]: `pre-init/network.sh`.
    pub hooks: &'a [(String, Content)],
    /// Further files by absolute path, with their permission bits. The one at [`config::EMBEDDED_ROOT`] is compressed
    /// already: it makes a last segment of its own, stored as it is.
    pub files: &'a [(String, u16, Content)],
    /// Time of every entry in seconds since 1970: `SOURCE_DATE_EPOCH`.
    pub mtime: i64,
    /// Whether the firmware that the modules ask for goes in, as far as the root has it; else they wait for the root.
    pub firmware: bool,
    /// How the main segment is compressed.
    pub compression: Compression,
    /// Whether microcode that the root has goes in front.
    pub microcode: bool,
    /// Where compressed segments are kept from one build to the next.
    pub store: Option<&'a dyn SegmentStore>,
}

/// What is to be known of a finished initrd.
#[derive(Debug, Clone)]
pub struct Built {
    /// How many bytes it has; a multiple of [`segment::ALIGNMENT`].
    pub size: u64,
    /// Modules in it, by name, sorted.
    pub modules: Vec<String>,
    /// Firmware files in it, below the firmware directory, sorted.
    pub firmware: Vec<String>,
    /// Firmware that a module may ask for and the root does not have.
    pub missing_firmware: Vec<MissingFirmware>,
    /// Microcode in it, by path.
    pub microcode: Vec<String>,
    /// What it takes in the node's RAM once unpacked, in bytes.
    pub unpacked_size: u64,
}

impl Initrd<'_> {
    /// Builds it and writes it to `out`, an embedded root piece by piece. The same input gives the same bytes.
    ///
    /// # Errors
    /// When a file cannot be read, two want one place, the kernel cannot read what would come out, or `out` fails.
    pub fn build(&self, out: impl Write, progress: &dyn Progress) -> Result<Built> {
        self.check_kernel()?;
        let blobs = if self.microcode { firmware::microcode(self.tree)? } else { Vec::new() };
        let firmware = if self.firmware {
            Firmware::find(self.tree, &self.kernel.release, &self.modules.modules)?
        } else {
            Firmware::default()
        };
        let (embedded, files): (Vec<_>, Vec<_>) =
            self.files.iter().partition(|(path, ..)| path.as_str() == config::EMBEDDED_ROOT);
        // What stays the same from build to build is a segment of its own, which need not be compressed each time.
        let (drivers, site) = (self.drivers(&firmware)?, self.site(&files)?);
        check_apart(&drivers, &site)?;
        let mut segments = vec![(drivers, self.compression), (site, self.compression)];
        if !blobs.is_empty() {
            let mut early = Layout::new(self.mtime);
            for (path, content) in &blobs {
                early.file(path, 0o644, content.clone())?;
            }
            segments.insert(0, (early.into_tree(), Compression::None));
        }
        if !embedded.is_empty() {
            let mut last = Layout::new(self.mtime);
            for (path, mode, content) in embedded {
                last.file(path, *mode, content.clone())?;
            }
            segments.push((last.into_tree(), Compression::None));
        }
        let (size, unpacked) = write_segments(&segments, self.store, out, progress)?;
        let mut modules: Vec<String> = self.modules.modules.iter().map(|module| module.name.clone()).collect();
        modules.sort();
        progress.finished(
            TASK,
            format!(
                "{} modules, {} firmware files, {size} bytes from {unpacked}",
                modules.len(),
                firmware.files.len(),
            ),
        );
        Ok(Built {
            size,
            modules,
            firmware: firmware.files.into_iter().map(|file| file.name).collect(),
            missing_firmware: firmware.missing,
            microcode: blobs.iter().map(|(path, _)| (*path).to_owned()).collect(),
            unpacked_size: segments.iter().map(|(tree, _)| ram_size(tree)).sum(),
        })
    }

    /// A kernel that says it cannot decompress the initrd is not given one: it would boot to a panic about a missing
    /// root, with nothing said about the reason.
    fn check_kernel(&self) -> Result<()> {
        let Some(config) = &self.kernel.config else { return Ok(()) };
        let mut needed = vec!["BLK_DEV_INITRD"];
        if matches!(self.compression, Compression::Zstd(_)) {
            needed.push("RD_ZSTD");
        }
        match needed.into_iter().find(|option| config.get(option) != Setting::Builtin) {
            Some(option) => Err(Error::KernelOption { release: self.kernel.release.clone(), option }),
            None => Ok(()),
        }
    }

    /// What this image alone has: configuration, hooks, further files.
    fn site(&self, files: &[&(String, u16, Content)]) -> Result<RootTree> {
        let mut layout = Layout::new(self.mtime);
        layout.file(config::PATH, 0o644, self.config.into())?;
        for (path, content) in self.hooks {
            layout.file(&format!("{}/{path}", config::HOOKS), 0o755, content.clone())?;
        }
        for (path, mode, content) in files {
            layout.file(path, *mode, content.clone())?;
        }
        Ok(layout.into_tree())
    }

    /// `netboot-init`, modules and firmware.
    fn drivers(&self, firmware: &Firmware) -> Result<RootTree> {
        let mut layout = Layout::new(self.mtime);
        // Mount points, so that init need not make them. The kernel's own archive brings /dev/console.
        for directory in ["/dev", "/proc", "/run", "/sys"] {
            layout.directory(directory, 0o755)?;
        }
        layout.directory("/tmp", 0o1777)?;
        layout.file("/init", 0o755, self.init.into())?;
        for module in &self.modules.modules {
            layout.file(&format!("{}/{}", config::MODULES, module.path), 0o644, module.content.clone())?;
        }
        let indexes = [
            ("modules.dep", self.modules.modules_dep()),
            ("modules.alias", self.modules.modules_alias()),
            ("modules.softdep", self.modules.modules_softdep(self.index)?),
            (config::ABSENT, absent::modules_absent(self.modules, self.index)?),
        ];
        for (name, text) in indexes {
            layout.file(&format!("{}/{name}", config::MODULES), 0o644, text.into_bytes().into())?;
        }
        let mut named: BTreeMap<NodeId, NodeId> = BTreeMap::new();
        for file in &firmware.files {
            let path = format!("{}/{}", config::FIRMWARE, file.name);
            match named.get(&file.source()) {
                Some(id) => layout.link(&path, *id)?,
                None => {
                    let id = layout.file(&path, 0o644, file.content.clone())?;
                    named.insert(file.source(), id);
                }
            }
        }
        Ok(layout.into_tree())
    }
}

/// The kernel would let the later of two files win: two that want one place are an error here as they are in one archive.
fn check_apart(drivers: &RootTree, site: &RootTree) -> Result<()> {
    for item in site.walk() {
        let wanted = &site.node(item.id).kind;
        let Ok(there) = drivers.resolve_no_follow(&item.path) else { continue };
        let taken = &drivers.node(there).kind;
        if !(wanted.is_directory() && taken.is_directory()) {
            let path = String::from_utf8_lossy(&item.path).into_owned();
            return Err(Error::Taken { path, taken: taken.name(), wanted: wanted.name() });
        }
    }
    Ok(())
}

/// Writes the segments one after the other, and returns how many bytes they and their archives have.
fn write_segments(
    segments: &[(RootTree, Compression)],
    store: Option<&dyn SegmentStore>,
    mut out: impl Write,
    progress: &dyn Progress,
) -> Result<(u64, u64)> {
    let total: u64 = segments.iter().map(|(tree, _)| content_size(tree)).sum();
    progress.started(TASK, Some(total));
    let (mut size, mut before, mut reported) = (0u64, 0u64, 0u64);
    for (tree, compression) in segments {
        let kept = match (store, compression) {
            (Some(store), Compression::Zstd(_)) => Some((store, segment::key(tree, *compression)?)),
            _ => None,
        };
        if let Some((store, key)) = &kept
            && let Some(stored) = store.load(key)
            && let Some((segment, unpacked)) = stored.split_last_chunk()
        {
            out.write_all(segment).map_err(Error::Write)?;
            size += segment.len() as u64;
            before += u64::from_le_bytes(*unpacked);
            continue;
        }
        let mut observe = |inside: u64| {
            // Headers and padding come on top of what was counted.
            let done = (before + inside).min(total);
            if done - reported >= STEP {
                reported = done;
                progress.advanced(TASK, done);
            }
        };
        let written = match kept {
            Some((store, key)) => {
                let mut segment = Vec::new();
                let written = segment::write_observed(tree, *compression, &mut segment, &mut observe)?;
                out.write_all(&segment).map_err(Error::Write)?;
                segment.extend_from_slice(&written.unpacked.to_le_bytes());
                store.save(&key, &segment);
                written
            }
            None => segment::write_observed(tree, *compression, &mut out, &mut observe)?,
        };
        size += written.stored;
        before += written.unpacked;
    }
    out.flush().map_err(Error::Write)?;
    Ok((size, before))
}

/// RAM that a tree takes once the kernel has unpacked it: whole pages for each file.
#[must_use]
pub fn ram_size(tree: &RootTree) -> u64 {
    let counts = tree.link_counts();
    let mut seen = vec![false; counts.len()];
    let mut total = 0u64;
    for item in tree.walk() {
        if let Kind::Regular(content) = &tree.node(item.id).kind
            && !std::mem::replace(&mut seen[item.id.index()], true)
        {
            total = total.saturating_add(content.len().div_ceil(PAGE).saturating_mul(PAGE));
        }
    }
    total
}

/// Bytes of a tree's files, which is most of what an archive of it has.
fn content_size(tree: &RootTree) -> u64 {
    tree.walk().fold(0, |total, item| match &tree.node(item.id).kind {
        Kind::Regular(content) => total.saturating_add(content.len()),
        _ => total,
    })
}

#[cfg(test)]
mod tests;
