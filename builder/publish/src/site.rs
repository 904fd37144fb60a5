//! The operations on a boot server's tree.

use std::path::{Path, PathBuf};

use imgbuild_bundle::Bundle;
use imgbuild_progress::Progress;

use crate::{Catalog, Error, Pointer, VersionId, catalog as listing, disk, disk::Lock, entry, image, image::Offer};

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Published {
    /// The image's name.
    pub name: String,
    /// The version, with its manifest's hash.
    pub id: VersionId,
    /// Where it lies.
    pub path: PathBuf,
    /// Whether it had to be copied.
    pub stored: Stored,
    /// How the channel moved; none without a channel, or when it stood there already.
    pub moved: Option<Move>,
}

/// Whether a version was new to the boot server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stored {
    /// It was copied.
    New,
    /// It was there, byte for byte.
    Unchanged,
}

/// A channel's way from one version to another.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Move {
    /// The image's name.
    pub name: String,
    /// The channel.
    pub channel: String,
    /// Where it stood; none if it is new.
    pub from: Option<VersionId>,
    /// Where it stands now.
    pub to: VersionId,
}

/// Publishes the bundle in `bundle` into the tree `root` (made when absent), and moves `channel` to it if one is given.
///
/// The bundle is verified before, and its copy after. A version that is there already with the same bytes is taken as
/// it is. Two publishers wait for each other. A catalog that cannot be written is a warning: what machines boot does not
/// depend on it.
///
/// # Errors
/// See [`Error`]; the channel then points where it did before.
pub fn publish(bundle: &Path, root: &Path, channel: Option<&str>, progress: &dyn Progress) -> Result<Published, Error> {
    let offer = Offer::new(bundle)?;
    let manifest = offer.bundle.manifest();
    let (name, version) = (manifest.name.clone(), manifest.version.clone());
    check("image name", &name)?;
    check("version", &version)?;
    if let Some(channel) = channel {
        check("channel", channel)?;
        if manifest.kernel.is_none() {
            return Err(Error::NothingToBoot { name, version });
        }
    }
    disk::make_root(root)?;
    let _lock = lock(root, progress)?;
    let (path, stored) = image::store(root, &offer, progress)?;
    let id = VersionId { version, manifest_sha256: offer.manifest_sha256().to_owned() };
    entry::write(root, progress)?;
    let moved = match channel {
        Some(channel) => {
            entry::write_default(root, &name, channel)?;
            advance(root, &name, channel, &id)?
        }
        None => None,
    };
    list(root, progress);
    Ok(Published { name, id, path, stored, moved })
}

/// Moves a channel back to the version it stood at before; again, and it goes back one more.
///
/// # Errors
/// [`Error::NoChannel`], [`Error::NoPredecessor`]; or the predecessor is no longer there or is damaged.
pub fn rollback(root: &Path, name: &str, channel: &str, progress: &dyn Progress) -> Result<Move, Error> {
    shift(root, name, channel, progress, |pointer| {
        let version = pointer.current.version.clone();
        pointer.back().ok_or(Error::NoPredecessor { name: name.to_owned(), channel: channel.to_owned(), version })
    })
}

/// Undoes the last [`rollback`] of a channel.
///
/// # Errors
/// [`Error::NoChannel`], [`Error::NoSuccessor`]; or the successor is no longer there or is damaged.
pub fn roll_forward(root: &Path, name: &str, channel: &str, progress: &dyn Progress) -> Result<Move, Error> {
    shift(root, name, channel, progress, |pointer| {
        let version = pointer.current.version.clone();
        pointer.forward().ok_or(Error::NoSuccessor { name: name.to_owned(), channel: channel.to_owned(), version })
    })
}

/// Where a channel stands and where it stood.
///
/// # Errors
/// [`Error::NoChannel`], or the pointer is not one of ours.
pub fn channel(root: &Path, name: &str, channel: &str) -> Result<Pointer, Error> {
    check("image name", name)?;
    check("channel", channel)?;
    existing(root, name, channel)?.ok_or_else(|| Error::NoChannel {
        name: name.to_owned(),
        channel: channel.to_owned(),
        path: pointer_path(root, name, channel),
        known: known(root, name),
    })
}

/// What a boot server has, read from the tree itself.
///
/// # Errors
/// When the tree's folders cannot be read.
pub fn catalog(root: &Path) -> Result<Catalog, Error> {
    // A mistyped folder is not an empty boot server.
    std::fs::read_dir(root).map_err(disk::failed("read the boot server's folder", root))?;
    listing::scan(root)
}

/// Moves a pointer within its own history, once the version it is to go to has been found whole.
fn shift(
    root: &Path,
    name: &str,
    channel: &str,
    progress: &dyn Progress,
    step: impl FnOnce(&mut Pointer) -> Result<(), Error>,
) -> Result<Move, Error> {
    // Before the lock, which would make a file in a folder that is no boot server's.
    self::channel(root, name, channel)?;
    let _lock = lock(root, progress)?;
    let mut pointer = self::channel(root, name, channel)?;
    let from = pointer.current.clone();
    step(&mut pointer)?;
    let to = pointer.current.clone();
    let place = root.join("images").join(name).join(&to.version);
    let bundle = Bundle::open(&place)?;
    bundle.verify()?;
    let found = bundle.manifest_sha256()?;
    if found != to.manifest_sha256 {
        return Err(Error::Changed { path: place, expected: to.manifest_sha256, found });
    }
    write(root, &pointer)?;
    list(root, progress);
    Ok(Move { name: name.to_owned(), channel: channel.to_owned(), from: Some(from), to })
}

/// Writes the catalog anew. Machines boot by now what was published, whether or not it says so, so that a failure here must
/// not look as if nothing had happened.
fn list(root: &Path, progress: &dyn Progress) {
    if let Err(error) = listing::write(root) {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        progress.warning(format!(
            "{error}{cause}; everything else is done, but {} is not up to date; publish again once that is mended",
            listing::CATALOG
        ));
    }
}

/// Moves a channel to a version that is in the tree.
fn advance(root: &Path, name: &str, channel: &str, id: &VersionId) -> Result<Option<Move>, Error> {
    let mut from = None;
    let pointer = match existing(root, name, channel)? {
        Some(pointer) if pointer.current == *id => return Ok(None),
        Some(mut pointer) => {
            from = Some(pointer.current.clone());
            pointer.advance(id.clone());
            pointer
        }
        None => Pointer::first(name, channel, id.clone()),
    };
    write(root, &pointer)?;
    Ok(Some(Move { name: name.to_owned(), channel: channel.to_owned(), from, to: id.clone() }))
}

fn write(root: &Path, pointer: &Pointer) -> Result<(), Error> {
    let folder = disk::folder(root, &Path::new("channels").join(&pointer.name))?;
    disk::sweep(&folder)?;
    disk::replace(&pointer_path(root, &pointer.name, &pointer.channel), &pointer.text())
}

fn existing(root: &Path, name: &str, channel: &str) -> Result<Option<Pointer>, Error> {
    let path = pointer_path(root, name, channel);
    let pointer = match listing::read(&path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if (pointer.name.as_str(), pointer.channel.as_str()) != (name, channel) {
        let reason = format!("it is the pointer of channel {} of {}", pointer.channel, pointer.name);
        return Err(Error::Pointer { path, line: 3, reason });
    }
    Ok(Some(pointer))
}

fn known(root: &Path, name: &str) -> Vec<String> {
    let catalog = listing::scan(root).map(|catalog| catalog.channels).unwrap_or_default();
    catalog.into_iter().filter(|entry| entry.name == name).map(|entry| entry.channel).collect()
}

fn pointer_path(root: &Path, name: &str, channel: &str) -> PathBuf {
    root.join("channels").join(name).join(format!("{channel}.ipxe"))
}

fn lock(root: &Path, progress: &dyn Progress) -> Result<Lock, Error> {
    let lock = Lock::take(root, || progress.note(format!("waiting for another publisher in {}", root.display())))?;
    disk::sweep(root)?;
    disk::sweep(&root.join("nodes"))?;
    Ok(lock)
}

fn check(what: &'static str, name: &str) -> Result<(), Error> {
    if is_name(name) { Ok(()) } else { Err(Error::Name { what, name: name.to_owned() }) }
}

/// Whether a name can be a folder's, a URL segment and a word of an iPXE script.
pub(crate) fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() <= 128
        && characters.all(|c| c.is_ascii_alphanumeric() || "._+~-".contains(c))
}
