//! Putting an immutable version into the tree.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use imgbuild_bundle::{Bundle, hash, manifest, sums};
use imgbuild_progress::Progress;

use crate::{Error, Stored, catalog, disk};

/// A signature beside `SHA256SUMS`, which cannot list it.
const SIGNATURE: &str = "SHA256SUMS.minisig";

/// A bundle that has been found whole, and what it was then.
pub(crate) struct Offer {
    pub(crate) bundle: Bundle,
    /// Hashes of all files but the two below.
    sums: BTreeMap<String, String>,
    /// Files without a hash of their own, by contents.
    small: BTreeMap<&'static str, Vec<u8>>,
}

impl Offer {
    /// Verifies the bundle and remembers its hashes: what is copied later is compared with these.
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        let bundle = Bundle::open(path)?;
        let mut small = BTreeMap::new();
        for name in [sums::FILE_NAME, SIGNATURE] {
            let file = bundle.file(name);
            match std::fs::read(&file) {
                Ok(bytes) => {
                    small.insert(name, bytes);
                }
                Err(error) if name == SIGNATURE && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(disk::failed("read", &file)(source)),
            }
        }
        bundle.verify()?;
        let text = small.get(sums::FILE_NAME).map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
        let sums = sums::parse(&text).map_err(|line| imgbuild_bundle::Error::NotABundle {
            path: path.to_owned(),
            reason: format!("{}:{line}: not a line of sha256sum", sums::FILE_NAME),
        })?;
        Ok(Self { bundle, sums, small })
    }

    /// The manifest's hash.
    pub(crate) fn manifest_sha256(&self) -> &str {
        self.sums.get(manifest::FILE_NAME).map_or("", String::as_str)
    }

    fn total(&self) -> u64 {
        catalog::total(self.bundle.manifest())
    }
}

/// Puts the version at `images/NAME/VERSION` of the tree, or finds it there. The caller holds the lock.
pub(crate) fn store(root: &Path, offer: &Offer, progress: &dyn Progress) -> Result<(PathBuf, Stored), Error> {
    let manifest = offer.bundle.manifest();
    let parent = disk::folder(root, &Path::new("images").join(&manifest.name))?;
    disk::sweep(&parent)?;
    let place = parent.join(&manifest.version);
    if place.symlink_metadata().is_ok() {
        compare(offer, &place)?;
        return Ok((place, Stored::Unchanged));
    }
    let task = format!("publish {} {}", manifest.name, manifest.version);
    progress.started(&task, Some(offer.total()));
    let folder = tempfile::Builder::new()
        .prefix(disk::UNFINISHED)
        .tempdir_in(&parent)
        .map_err(disk::failed("make a folder in", &parent))?;
    copy(offer, folder.path(), &task, progress)?;
    disk::mode(folder.path(), 0o755)?;
    disk::sync(folder.path())?;
    std::fs::rename(folder.path(), &place).map_err(disk::failed("make the folder", &place))?;
    // It has another name now; the guard must not look for it.
    let _ = folder.keep();
    disk::sync(&parent)?;
    progress.finished(&task, format!("{} files, {} bytes", offer.sums.len() + offer.small.len(), offer.total()));
    Ok((place, Stored::New))
}

fn copy(offer: &Offer, folder: &Path, task: &str, progress: &dyn Progress) -> Result<(), Error> {
    let mut done = 0_u64;
    for (name, expected) in &offer.sums {
        let to = folder.join(name);
        std::fs::copy(offer.bundle.file(name), &to).map_err(disk::failed("copy to", &to))?;
        disk::mode(&to, 0o644)?;
        disk::sync(&to)?;
        // Otherwise it would be memory that is hashed, and not what the disk has.
        disk::forget(&to)?;
        let found = hash(&to)?;
        if found.sha256 != *expected {
            return Err(Error::Copy {
                path: folder.to_owned(),
                file: name.clone(),
                expected: expected.clone(),
                found: found.sha256,
            });
        }
        done = done.saturating_add(found.size);
        progress.advanced(task, done);
    }
    for (name, bytes) in &offer.small {
        let to = folder.join(name);
        std::fs::write(&to, bytes).map_err(disk::failed("write", &to))?;
        disk::mode(&to, 0o644)?;
        disk::sync(&to)?;
    }
    Ok(())
}

/// Is what stands there already this very bundle? Its files are read, so that a damaged copy is not taken for a good one.
fn compare(offer: &Offer, place: &Path) -> Result<(), Error> {
    let published = Bundle::open(place)?;
    published.verify()?;
    let there = published_sums(place)?;
    // The manifest differs whenever any other file does: it is the last one to be named.
    let names = offer.sums.keys().chain(there.keys()).filter(|name| *name != manifest::FILE_NAME);
    for name in names.chain(std::iter::once(&manifest::FILE_NAME.to_owned())) {
        let (ours, theirs) = (offer.sums.get(name), there.get(name));
        if ours != theirs {
            let told = |sum: Option<&String>| sum.map_or("missing".to_owned(), |sum| format!("sha256:{sum}"));
            return Err(Error::Immutable {
                path: place.to_owned(),
                file: name.clone(),
                published: told(theirs),
                offered: told(ours),
            });
        }
    }
    Ok(())
}

fn published_sums(place: &Path) -> Result<BTreeMap<String, String>, Error> {
    let path = place.join(sums::FILE_NAME);
    let text = std::fs::read_to_string(&path).map_err(disk::failed("read", &path))?;
    sums::parse(&text).map_err(|line| {
        Error::Bundle(imgbuild_bundle::Error::NotABundle {
            path: place.to_owned(),
            reason: format!("{}:{line}: not a line of sha256sum", sums::FILE_NAME),
        })
    })
}
