//! `imgbuild build`: recipe → layers → root → squashfs, initrd → bundle.

mod epoch;
mod initrd;
mod judge;
mod root;
mod squash;
mod unchanged;

pub(crate) use root::input;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use imgbuild_bundle::budget::{self, Sizes};
use imgbuild_bundle::inspect::human;
use imgbuild_bundle::lint::{self, Programs, Subject};
use imgbuild_bundle::manifest::{self, LayerEntry, Manifest};
use imgbuild_bundle::{Staging, bootfiles, packages, sbom, scan};
use imgbuild_layers::cache::{Cache, WriteBehind};
use imgbuild_layers::source::{Options, Sources};
use imgbuild_progress::Progress;
use imgbuild_recipe::{Delivery, Lock, Recipe};
use imgbuild_tree::{Content, RootTree};
use netboot_init::config::Config;
use sha2::{Digest, Sha256};

use crate::failure::{Code, Failure, OrFail, Outcome};
use crate::interrupt;
use crate::locking;
use unchanged::{Inputs, Said};

/// How a bundle is to be built.
pub(crate) struct Order<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) out: &'a Path,
    pub(crate) inputs: Options,
    pub(crate) locked: bool,
    /// Threads; 0 is one for each core.
    pub(crate) jobs: usize,
    /// Bytes of compressed blocks that are kept for later builds.
    pub(crate) pack_limit: u64,
}

/// Builds a bundle and returns its folder.
pub(crate) fn run(order: &Order<'_>, cache: &Cache, progress: &dyn Progress) -> Outcome<PathBuf> {
    let recipe = order.recipe;
    let terms = judge::Terms::of(recipe)?;
    let lock = locking::for_build(recipe, order.locked, cache, progress)?;
    let sources = Sources::new(recipe, cache, progress, order.inputs.clone());
    let made = root::assemble(recipe, &sources, lock.as_ref(), cache)?;
    let epoch = epoch::of(recipe, &made.tree)?;
    let inputs = Inputs::of(order, &made, epoch)?;
    if let Some(bundle) = inputs.bundle(cache, progress) {
        return Ok(bundle);
    }
    let said = Said::new(progress);
    let bundle = make(order, made, epoch, &terms, cache, &said)?;
    inputs.keep(&bundle, said, cache);
    Ok(bundle)
}

/// Makes a bundle of the merged layers.
fn make(
    order: &Order<'_>,
    made: root::Made,
    epoch: i64,
    terms: &judge::Terms<'_>,
    cache: &Cache,
    said: &Said<'_>,
) -> Outcome<PathBuf> {
    let (recipe, progress): (_, &dyn Progress) = (order.recipe, said);
    let staging = Staging::begin(order.out).or_fail(Code::Failed)?;
    // A signal ends the process at once; what is in the making goes with it.
    let _guard = interrupt::remove_on_signal(staging.path());

    let kernel = initrd::kernel(recipe, &made.tree)?;
    let mut tree = made.tree;
    let complete = || {
        let pruned = root::finish(recipe, &mut tree, kernel.is_some(), progress)?;
        Ok((pruned, squash::scan(&tree, cache, progress)?))
    };
    let options = squash::options(order, epoch);
    let open = || squash::ready(&options, &made.layers, &staging, cache);
    let (completed, ready): (Outcome<_>, _) = beside(complete, open)?;
    let (pruned, scanned) = completed?;
    let layers: Vec<String> = recipe.layers.iter().map(|l| l.name.clone()).collect();
    let root = squash::Root { tree: &tree, scanned: &scanned, watch: &made.watch, options, ready: ready? };
    let tmpfs = initrd::tmpfs(recipe);
    // What can be said of the root before it is written.
    let look = || {
        let files = sbom::Files::new(&layers, &tree, &scanned);
        let sbom = staging.create(sbom::FILE_NAME).or_fail(Code::Failed)?;
        let sbom = sbom::begin(&files, sbom).map_err(|error| unwritten(sbom::FILE_NAME, error))?;
        let subject = Subject {
            tree: &tree,
            scanned: &scanned,
            programs: Programs::read(&tree, &scanned).or_fail(Code::Failed)?,
            type_changes: &made.type_changes,
            pruned: Some(&pruned),
            layers: &layers,
            tmpfs: &tmpfs,
            overlay_size: initrd::size(recipe.root.overlay.size),
        };
        let packages = packages::read(&tree).or_fail(Code::Failed)?;
        let looked = lint::look(&subject).or_fail(Code::Failed)?;
        Ok((sbom, packages, subject, looked))
    };
    let write = || {
        let squash::Written { summary, file, pack } = root.write(&staging, progress)?;
        let stored = store(file)?;
        // It is large, and asked for several times; what goes wrong here goes wrong again where it is needed, and is said there.
        let _ = staging.entry(imgbuild_bundle::ROOT);
        Ok((summary, stored, pack))
    };
    let (written, looked): (_, Outcome<_>) = beside(write, look)?;
    let (squashed, stored, pack) = written?;
    // What was compressed is kept whether or not the image is fit to be used.
    let keep = || squash::keep(pack, order.pack_limit, said.aside());
    let complete = || {
        let (sbom, packages, subject, looked) = looked?;
        let about = About {
            layers: layer_entries(recipe, &made.layers, &tree, &scanned),
            tests: tests(recipe)?,
            tool_version: env!("CARGO_PKG_VERSION"),
        };
        let (config, boot) = write_boot(recipe, kernel.as_ref(), &about, &staging, epoch, (cache, progress))?;
        let ram = ram(recipe, &tree, squashed.bytes_used, boot.as_ref());
        let image = lint::Image {
            ram: ram.clone(),
            root: Some((squashed.bytes_used, recipe.budget.root.map_or(0, |size| size.0))),
            kernel: boot.as_ref().map(|b| b.facts.clone()),
        };
        terms.judge(&subject, looked, &image, progress)?;
        let described = sbom::Subject { name: &recipe.image.name, version: &config.version, time: epoch };
        finish_sbom(&described, sbom, &packages, &staging, progress)?;
        let need = human(budget::peak(&ram));
        let manifest = Manifest {
            schema: manifest::SCHEMA,
            name: recipe.image.name.clone(),
            version: config.version,
            arch: recipe.image.arch.as_str().to_owned(),
            build_time: epoch,
            kernel: boot.map(|b| b.kernel),
            files: BTreeMap::new(),
            layers: about.layers,
            delivery: recipe.root.delivery.as_str().to_owned(),
            ram,
            tests: about.tests,
            tool_version: about.tool_version.to_owned(),
        };
        root::check_untouched(&made.watch)?;
        stored
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map_err(|error| unwritten(imgbuild_bundle::ROOT, error))?;
        Ok((finish(staging, manifest)?, need))
    };
    let (completed, ()): (Outcome<_>, _) = beside(complete, keep)?;
    let (path, need) = completed?;
    // The process ends soon, and gives it all back at once.
    std::mem::forget((tree, scanned));
    let (root, files) = (human(squashed.bytes_used), human(squashed.data_bytes_in));
    progress.note(format!("root of {root} for {files} of files; a node needs {need} of RAM"));
    Ok(path)
}

/// What the manifest says besides what is in the bundle's other files.
#[derive(serde::Serialize)]
struct About {
    layers: Vec<LayerEntry>,
    tests: Vec<serde_json::Value>,
    tool_version: &'static str,
}

/// Writes kernel and initrd, and gives the image its version, which an unnamed one gets from what is inside.
fn write_boot(
    recipe: &Recipe,
    kernel: Option<&initrd::Chosen<'_>>,
    about: &About,
    staging: &Staging,
    epoch: i64,
    (cache, progress): (&Cache, &dyn Progress),
) -> Outcome<(Config, Option<initrd::Written>)> {
    let root = staging.entry(imgbuild_bundle::ROOT).or_fail(Code::Failed)?;
    let mut config = initrd::config(recipe, kernel, epoch, &root);
    let hooks = initrd::hooks(recipe)?;
    config.version = match &recipe.image.version {
        Some(version) => version.clone(),
        None => derived_version(recipe, &config, kernel, &hooks, about)?,
    };
    let written = match kernel {
        Some(kernel) => Some(initrd::write(kernel, &config, &hooks, staging, epoch, cache, progress)?),
        None => None,
    };
    if config.root.embedded && written.is_some() {
        // It is inside the initrd; beside it, it would only be downloaded for nothing.
        staging.remove(imgbuild_bundle::ROOT).or_fail(Code::Failed)?;
    }
    Ok((config, written))
}

fn ram(recipe: &Recipe, tree: &RootTree, root: u64, boot: Option<&initrd::Written>) -> manifest::Ram {
    budget::ram(&Sizes {
        initrd: boot.map_or(0, |b| b.size),
        initrd_unpacked: boot.map_or(0, |b| b.unpacked),
        root,
        embedded: recipe.root.delivery == Delivery::Embed,
        kubernetes: ["/usr/bin/kubelet", "/usr/local/bin/kubelet"].iter().any(|path| tree.resolve(path).is_ok()),
        budget: recipe.budget.ram.map_or(0, |size| size.0),
    })
}

/// Does one thing on this thread, and the other at the same time on one of its own.
fn beside<A, B: Send>(one: impl FnOnce() -> A, other: impl FnOnce() -> B + Send) -> Outcome<(A, B)> {
    std::thread::scope(|scope| {
        let other =
            std::thread::Builder::new().name("beside".to_owned()).spawn_scoped(scope, other).or_fail(Code::Failed)?;
        let one = one();
        Ok((one, other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
    })
}

/// What is said of one of the bundle's files that could not be written.
fn unwritten(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(Code::Failed, anyhow::Error::new(error).context(format!("cannot write {name}")))
}

/// Waits on a thread of its own until all of a file is on the disk.
fn store(file: WriteBehind) -> Outcome<JoinHandle<std::io::Result<()>>> {
    let sync = move || file.finish()?.sync_data();
    std::thread::Builder::new().name("sync".to_owned()).spawn(sync).or_fail(Code::Failed)
}

/// Says in the SBOM what it is about, after all its files.
fn finish_sbom(
    subject: &sbom::Subject<'_>,
    begun: sbom::Begun<File>,
    found: &packages::Packages,
    staging: &Staging,
    progress: &dyn Progress,
) -> Outcome {
    if let Some(path) = &found.unread {
        progress.warning(format!(
            "{path} in the root: this version does not read rpm's data base; the SBOM lacks its packages"
        ));
    }
    let (sha256, _) = begun.finish(subject, found).map_err(|error| unwritten(sbom::FILE_NAME, error))?;
    staging.hashed(sbom::FILE_NAME, sha256).or_fail(Code::Failed)
}

/// Writes the boot loaders' files and gives the bundle its name.
fn finish(staging: Staging, manifest: Manifest) -> Outcome<PathBuf> {
    let manifest = staging.complete(manifest).or_fail(Code::Failed)?;
    if manifest.kernel.is_some() {
        for (name, text) in bootfiles::all(&manifest).or_fail(Code::Usage)? {
            staging.write(name, text.as_bytes()).or_fail(Code::Failed)?;
        }
    }
    staging.finish(manifest).or_fail(Code::Failed)
}

/// A version that says what is inside: one for each bundle that differs in a byte.
fn derived_version(
    recipe: &Recipe,
    config: &Config,
    kernel: Option<&initrd::Chosen<'_>>,
    hooks: &[(String, Content)],
    about: &About,
) -> Outcome<String> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(recipe.image.arch.as_str().as_bytes());
    part(&serde_json::to_vec(config).or_fail(Code::Failed)?);
    part(&serde_json::to_vec(about).or_fail(Code::Failed)?);
    part(recipe.root.delivery.as_str().as_bytes());
    if let Some(kernel) = kernel {
        part(&kernel.fingerprint()?);
    }
    for (name, content) in hooks {
        part(name.as_bytes());
        part(&imgbuild_tree::sha256(content).or_fail(Code::Failed)?);
    }
    Ok(hash.finalize()[..6].iter().map(|byte| format!("{byte:02x}")).collect())
}

fn tests(recipe: &Recipe) -> Outcome<Vec<serde_json::Value>> {
    recipe.tests.iter().map(serde_json::to_value).collect::<Result<_, _>>().or_fail(Code::Failed)
}

fn layer_entries(
    recipe: &Recipe,
    made: &[root::MadeLayer],
    tree: &RootTree,
    scanned: &[scan::Scanned],
) -> Vec<LayerEntry> {
    let mut sums = vec![(0_u64, 0_u64); recipe.layers.len()];
    for file in scanned {
        if let Some(sum) = sums.get_mut(usize::from(tree.node(file.id).meta.origin.0)) {
            sum.0 += 1;
            sum.1 += file.size;
        }
    }
    let rows = recipe.layers.iter().zip(made).zip(sums);
    rows.map(|((layer, made), (files, bytes))| LayerEntry {
        name: layer.name.clone(),
        source: made.source.clone(),
        digest: made.digest.clone(),
        recipe: layer.origin.clone(),
        files,
        bytes,
    })
    .collect()
}

/// Pins every layer and hook of a recipe, fetching what is needed for that.
pub(crate) fn resolve(recipe: &Recipe, inputs: Options, cache: &Cache, progress: &dyn Progress) -> Outcome<Lock> {
    let sources = Sources::new(recipe, cache, progress, inputs);
    locking::resolve(recipe, &sources)
}
