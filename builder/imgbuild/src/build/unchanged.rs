//! A build whose inputs are those of the bundle that is there already.
//!
//! After every build the cache keeps what went in, as one hash, and how the files that came out lay on the disk then. If the same
//! goes in again, and length, time and inode of every file are still the same, there is nothing to do. What only a
//! disk's decay changes is found by `imgbuild verify`.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use imgbuild_layers::cache::{Cache, CacheError};
use imgbuild_progress::{Event, Progress};
use imgbuild_tree::{Content, Kind, RootTree};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::root::Made;
use super::{Order, initrd};
use crate::failure::{Code, OrFail, Outcome};

const BUCKET: &str = "builds-v1";

/// What goes into a build, as one hash.
pub(super) struct Inputs {
    /// None where not all of it can be told; then nothing is kept.
    key: Option<String>,
    /// Where bundles are put.
    out: PathBuf,
}

/// What is known of a finished build.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// The name of the bundle's folder.
    name: String,
    /// Its files.
    files: BTreeMap<String, Stamp>,
    /// What its build warned of and said at its end, which holds for it still.
    said: Vec<(bool, String)>,
}

/// Length, inode, and times of content and of the inode in nanoseconds since 1970.
type Stamp = (u64, u64, i64, i64);

impl Inputs {
    /// Hashes everything that decides a byte of the bundle, without reading what lies in the cache: that cannot change.
    pub(super) fn of(order: &Order<'_>, made: &Made, epoch: i64) -> Outcome<Self> {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        // Another build of the tool may make other bytes, though its version be the same. By name it may have been replaced
        // since it was started.
        let program = std::fs::metadata("/proc/self/exe").ok();
        part(format!("{} {:?}", env!("CARGO_PKG_VERSION"), program.as_ref().map(stamp_of)).as_bytes());
        part(std::path::absolute(order.out).or_fail(Code::Failed)?.as_os_str().as_bytes());
        part(format!("{:?} {epoch} {:?}", order.recipe, made.type_changes).as_bytes());
        for layer in &made.layers {
            part(layer.source.as_bytes());
            part(layer.digest.as_bytes());
        }
        for (name, content) in initrd::hooks(order.recipe)? {
            part(name.as_bytes());
            part(&imgbuild_tree::sha256(&content).or_fail(Code::Failed)?);
        }
        if let Some(ca) = initrd::ca(order.recipe)? {
            part(&imgbuild_tree::sha256(&ca).or_fail(Code::Failed)?);
        }
        tree(&made.tree, &mut part).or_fail(Code::Failed)?;
        Ok(Self { key: program.map(|_| hex::encode(hash.finalize())), out: order.out.to_owned() })
    }

    /// The bundle that these inputs made, if it is as it was then; says again what its build said.
    pub(super) fn bundle(&self, cache: &Cache, progress: &dyn Progress) -> Option<PathBuf> {
        let path = cache.bucket(BUCKET).get(self.key.as_ref()?).ok()??;
        let record: Record = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let bundle = self.out.join(&record.name);
        if files(&bundle).ok()? != record.files {
            return None;
        }
        for (warning, message) in record.said {
            progress.event(if warning { Event::Warning { message } } else { Event::Note { message } });
        }
        progress.note("nothing has changed since the bundle was built".to_owned());
        Some(bundle)
    }

    /// Keeps what came of the build. Without it, the next one does its work again.
    pub(super) fn keep(&self, bundle: &Path, said: Said<'_>, cache: &Cache) {
        let Some(key) = &self.key else { return };
        let Said { inner, said } = said;
        let said = said.into_inner().unwrap_or_else(PoisonError::into_inner);
        let keep = || -> Result<(), CacheError> {
            let failed = |e| CacheError::write(bundle, e);
            let name = bundle.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let record = Record { name, files: files(bundle).map_err(failed)?, said };
            let bucket = cache.bucket(BUCKET);
            let mut draft = bucket.draft()?;
            let record = serde_json::to_vec(&record).map_err(|e| failed(e.into()))?;
            draft.write_all(&record).map_err(failed)?;
            draft.flush().map_err(failed)?;
            bucket.remove(key)?;
            draft.commit_as(&bucket, key)?;
            Ok(())
        };
        if let Err(error) = keep() {
            inner.detail(format!("the next build will not know that nothing changed: {error}"));
        }
    }
}

/// Every name with what it stands for; a content in the cache by its place there.
fn tree(tree: &RootTree, part: &mut impl FnMut(&[u8])) -> std::io::Result<()> {
    // By where it is in memory: the tree holds them all, and a path takes long to hash.
    let mut places: HashMap<usize, Vec<u8>> = HashMap::new();
    let mut place = |path: &Arc<Path>, part: &mut dyn FnMut(&[u8])| -> std::io::Result<()> {
        match places.entry(path.as_os_str().as_bytes().as_ptr().addr()) {
            hash_map::Entry::Occupied(known) => part(known.get()),
            hash_map::Entry::Vacant(new) => {
                let mut bytes = path.as_os_str().as_bytes().to_vec();
                bytes.extend_from_slice(format!("\0{:?}", stamp(path)?).as_bytes());
                part(new.insert(bytes));
            }
        }
        Ok(())
    };
    let mut numbers = Vec::new();
    for item in tree.walk() {
        let node = tree.node(item.id);
        let meta = &node.meta;
        part(&item.path);
        numbers.clear();
        numbers.extend(item.id.index().to_le_bytes());
        numbers.extend(meta.mtime.to_le_bytes());
        numbers.extend([meta.uid, meta.gid].map(u32::to_le_bytes).as_flattened());
        numbers.extend([meta.mode, meta.origin.0].map(u16::to_le_bytes).as_flattened());
        numbers.extend(node.kind.name().as_bytes());
        part(&numbers);
        for (name, value) in &meta.xattrs {
            part(name);
            part(value);
        }
        match &node.kind {
            Kind::Regular(Content::Range { path, offset, len, .. }) => {
                place(path, part)?;
                part(&offset.to_le_bytes());
                part(&len.to_le_bytes());
            }
            Kind::Regular(Content::Sparse { path, extents, len, .. }) => {
                place(path, part)?;
                part(format!("{extents:?} {len}").as_bytes());
            }
            // Of a file or an overlay, whose digest is among the inputs.
            Kind::Regular(Content::Path { path, len }) => {
                part(path.as_os_str().as_bytes());
                part(&len.to_le_bytes());
            }
            Kind::Regular(Content::Bytes(bytes)) => part(bytes),
            Kind::Symlink(target) => part(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                part(format!("{major} {minor}").as_bytes());
            }
            Kind::Directory(_) | Kind::Fifo | Kind::Socket => {}
        }
    }
    Ok(())
}

/// The files of a bundle as they lie on the disk.
fn files(bundle: &Path) -> std::io::Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    for item in std::fs::read_dir(bundle)? {
        let item = item?;
        files.insert(item.file_name().to_string_lossy().into_owned(), stamp(&item.path())?);
    }
    Ok(files)
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    Ok(stamp_of(&std::fs::symlink_metadata(path)?))
}

fn stamp_of(meta: &Metadata) -> Stamp {
    let nanoseconds = |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
    let (modified, changed) =
        (nanoseconds(meta.mtime(), meta.mtime_nsec()), nanoseconds(meta.ctime(), meta.ctime_nsec()));
    (meta.len(), meta.ino(), modified, changed)
}

/// Passes events on, and remembers the warnings and notes.
pub(super) struct Said<'a> {
    inner: &'a dyn Progress,
    said: Mutex<Vec<(bool, String)>>,
}

impl<'a> Said<'a> {
    pub(super) fn new(inner: &'a dyn Progress) -> Self {
        Self { inner, said: Mutex::default() }
    }

    /// Where what is said is not remembered: it is about this build alone, and not the image.
    pub(super) fn aside(&self) -> &'a dyn Progress {
        self.inner
    }
}

impl Progress for Said<'_> {
    fn event(&self, event: Event) {
        let kept = match &event {
            Event::Warning { message } => Some((true, message.clone())),
            Event::Note { message } => Some((false, message.clone())),
            _ => None,
        };
        self.said.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
        self.inner.event(event);
    }
}
