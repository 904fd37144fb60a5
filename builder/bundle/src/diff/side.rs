//! One of the two things that are compared: a bundle, or a bare squashfs image.

use std::path::{Path, PathBuf};

use imgbuild_tree::Content;
use netboot_init::config::Config;
use schemars::JsonSchema;
use serde::Serialize;

use super::packages::Versions;
use super::{DiffError, Root};
use crate::manifest::{FileEntry, Manifest};
use crate::reading::{self, RootFile};
use crate::sbom::Document;
use crate::{Bundle, INITRD, ROOT, manifest};

/// What is compared, for people and tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Subject {
    /// As it was named.
    pub path: String,
    /// Which of the two it is.
    pub kind: SubjectKind,
    /// A bundle's image name.
    pub name: Option<String>,
    /// A bundle's version.
    pub version: Option<String>,
    /// A bundle's machine type.
    pub arch: Option<String>,
}

/// Which kinds of things can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// A bundle's folder.
    Bundle,
    /// A squashfs image.
    Image,
}

/// What an initrd holds.
#[derive(Debug)]
pub struct Contents {
    /// Its files, the embedded root not among them.
    pub root: Root<Content>,
    /// What `netboot-init` is told.
    pub config: Config,
}

/// One of the two, read.
#[derive(Debug)]
pub struct Side {
    /// What it is.
    pub subject: Subject,
    /// Its root.
    pub root: Root<RootFile>,
    /// Bytes of the squashfs image.
    pub root_size: u64,
    /// A bundle's initrd.
    pub initrd: Option<Contents>,
    pub(super) packages: Versions,
    /// Its files with their hashes: a bundle's as the manifest has them, and the manifest itself.
    pub(super) artifacts: Vec<(String, FileEntry)>,
    bundle: Option<Bundle>,
}

impl Side {
    /// Reads a bundle's folder or a squashfs image.
    ///
    /// # Errors
    /// When there is neither, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, DiffError> {
        let about = std::fs::metadata(path).map_err(|source| crate::Error::Io {
            action: "cannot read",
            path: path.to_owned(),
            source,
        })?;
        if about.is_dir() {
            Self::bundle(Bundle::open(path)?)
        } else if about.is_file() {
            Self::image(path)
        } else {
            Err(DiffError::Neither { path: path.to_owned(), found: "neither a folder nor a file" })
        }
    }

    /// What a bundle's manifest says.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.bundle.as_ref().map(Bundle::manifest)
    }

    fn bundle(bundle: Bundle) -> Result<Self, DiffError> {
        let path = bundle.path().to_owned();
        let sbom = bundle.sbom()?;
        let initrd = reading::initrd(&bundle)?;
        let opened = reading::root(&bundle, initrd.as_ref())?;
        let root = Root::new(&path, opened.tree, Some(&sbom))?;
        let manifest = bundle.manifest();
        let mut artifacts: Vec<_> = manifest.files.iter().map(|(n, e)| (n.clone(), e.clone())).collect();
        artifacts.push((manifest::FILE_NAME.to_owned(), crate::hash(&bundle.file(manifest::FILE_NAME))?));
        let initrd = match initrd {
            Some(initrd) => {
                let root = Root::new(&bundle.file(INITRD), initrd.tree, None)?;
                Some(Contents { root, config: initrd.config })
            }
            None => None,
        };
        Ok(Self {
            subject: Subject {
                path: shown(&path),
                kind: SubjectKind::Bundle,
                name: Some(manifest.name.clone()),
                version: Some(manifest.version.clone()),
                arch: Some(manifest.arch.clone()),
            },
            root,
            root_size: opened.size,
            initrd,
            packages: Versions::of_sbom(&sbom),
            artifacts,
            bundle: Some(bundle),
        })
    }

    /// Reads a bundle's files and compares them with its manifest, whose word was taken for what they hold.
    ///
    /// # Errors
    /// When the bundle is damaged.
    pub(super) fn confirm(&self) -> Result<(), DiffError> {
        match &self.bundle {
            Some(bundle) => Ok(bundle.verify()?),
            // An image was hashed as it is.
            None => Ok(()),
        }
    }

    fn image(path: &Path) -> Result<Self, DiffError> {
        let opened = reading::image(path)?;
        let packages = crate::packages::read(&opened.tree)?;
        let root = Root::new(path, opened.tree, None::<&Document>)?;
        Ok(Self {
            subject: Subject { path: shown(path), kind: SubjectKind::Image, name: None, version: None, arch: None },
            root,
            root_size: opened.size,
            initrd: None,
            packages: Versions::of_packages(&packages),
            artifacts: vec![(ROOT.to_owned(), crate::hash(path)?)],
            bundle: None,
        })
    }
}

fn shown(path: &Path) -> String {
    PathBuf::from(path).display().to_string()
}
