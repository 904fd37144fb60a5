//! The trees in a bundle: its root and its initrd.

use std::fs::File;
use std::path::Path;

use imgbuild_squashfs::read::{Image, ImageFile, Limits, ReadError};
use imgbuild_tree::{Content, FileContent, Kind, NodeId, Tree};
use netboot_init::config::{self, Config};

use crate::diff::DiffError;
use crate::{Bundle, Error, INITRD, ROOT};

/// What a regular file of a root is.
pub type RootFile = ImageFile;

/// A squashfs image that has been read.
pub(crate) struct Opened {
    /// Its files.
    pub(crate) tree: Tree<RootFile>,
    /// Bytes of the image.
    pub(crate) size: u64,
}

/// An initrd that has been read.
pub(crate) struct Initrd {
    /// Its files, without the embedded root.
    pub(crate) tree: Tree<Content>,
    /// What `netboot-init` is told.
    pub(crate) config: Config,
    /// The squashfs image in it (`delivery = "embed"`).
    embedded: Option<Content>,
}

/// The root of a bundle, be it a file of its own or in the initrd.
pub(crate) fn root(bundle: &Bundle, initrd: Option<&Initrd>) -> Result<Opened, DiffError> {
    let path = bundle.file(ROOT);
    if path.exists() {
        return image(&path);
    }
    match initrd.and_then(|initrd| initrd.embedded.as_ref()) {
        Some(embedded) => Ok(Opened {
            tree: tree(&bundle.file(INITRD), Image::new(embedded.clone(), Limits::default()))?,
            size: embedded.len(),
        }),
        None => {
            let reason = format!("it has no {ROOT}, and its initrd has none either");
            Err(Error::NotABundle { path: bundle.path().to_owned(), reason }.into())
        }
    }
}

/// A squashfs image.
pub(crate) fn image(path: &Path) -> Result<Opened, DiffError> {
    let io = |source| Error::Io { action: "cannot read", path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    Ok(Opened { tree: tree(path, Image::open(file))?, size })
}

fn tree(path: &Path, image: Result<Image, ReadError>) -> Result<Tree<RootFile>, DiffError> {
    let tree = image.and_then(|image| image.tree());
    tree.map_err(|source| DiffError::Image { path: path.to_owned(), source: Box::new(source) })
}

/// The initrd of a bundle that has one.
pub(crate) fn initrd(bundle: &Bundle) -> Result<Option<Initrd>, DiffError> {
    if !bundle.manifest().files.contains_key(INITRD) {
        return Ok(None);
    }
    let path = bundle.file(INITRD);
    let file = File::open(&path).map_err(|source| Error::Io { action: "cannot read", path: path.clone(), source })?;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| DiffError::Initrd { path: path.clone(), source };
    let mut tree = imgbuild_initramfs::read::read(&path, file).map_err(|e| failed(Box::new(e)))?;
    let config = regular(&tree, config::PATH).ok_or_else(|| failed(format!("it has no {}", config::PATH).into()))?;
    let bytes = crate::packages::content(&config).map_err(|e| failed(Box::new(e)))?;
    let config: Config =
        serde_json::from_slice(&bytes).map_err(|e| failed(format!("{} in it: {e}", config::PATH).into()))?;
    let embedded = regular(&tree, config::EMBEDDED_ROOT);
    if let Some((folder, name)) = config::EMBEDDED_ROOT.rsplit_once('/')
        && let Ok(folder) = tree.resolve(folder)
    {
        tree.unlink(folder, name.as_bytes());
    }
    Ok(Some(Initrd { tree, config, embedded }))
}

fn regular(tree: &Tree<Content>, path: &str) -> Option<Content> {
    let id: NodeId = tree.resolve_no_follow(path).ok()?;
    match &tree.node(id).kind {
        Kind::Regular(content) => Some(content.clone()),
        _ => None,
    }
}
