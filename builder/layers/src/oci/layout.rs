//! OCI image layouts: a folder, or a tar of one (OCI image specification, "Image Layout").

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgbuild_recipe::Select;
use imgbuild_tree::{Content, FileContent};

use super::archive::{Archive, read_small};
use super::digest::{Digest, DigestError};
use super::error::OciError;
use super::manifest::{Descriptor, Document, Platform, choose, parse};
use crate::cache::Cache;

/// The longest index, manifest or config that is read; the largest in the wild are some hundred kilobytes.
pub(crate) const MOST_METADATA: u64 = 32 << 20;

/// A layout, wherever it is.
pub(crate) struct Layout {
    path: PathBuf,
    kind: &'static str,
    members: Members,
    index: Vec<Descriptor>,
}

enum Members {
    Folder,
    Archive(Archive),
}

impl Layout {
    /// Opens a layout folder.
    pub(crate) fn open(dir: &Path) -> Result<Self, OciError> {
        Self::with(dir, "OCI layout", Members::Folder)
    }

    /// Opens a tar of one.
    pub(crate) fn open_archive(file: &Path, cache: &Cache) -> Result<Self, OciError> {
        const KIND: &str = "OCI archive";
        Self::with(file, KIND, Members::Archive(Archive::open(file, KIND, cache)?))
    }

    fn with(path: &Path, kind: &'static str, members: Members) -> Result<Self, OciError> {
        let mut layout = Self { path: path.to_owned(), kind, members, index: Vec::new() };
        let Some(index) = layout.member("index.json")? else {
            return Err(layout.not_a("index.json is missing".to_owned()));
        };
        let bytes = read_small(&index, MOST_METADATA).map_err(|e| layout.not_a(format!("index.json: {e}")))?;
        match parse(&bytes, "index.json") {
            Ok(Document::Index(entries)) => layout.index = entries,
            Ok(Document::Image(_)) => return Err(layout.not_a("index.json is a manifest".to_owned())),
            Err(e) => return Err(layout.not_a(e.to_string())),
        }
        Ok(layout)
    }

    fn not_a(&self, reason: String) -> OciError {
        OciError::NotA { path: self.path.clone(), kind: self.kind, reason }
    }

    fn member(&self, name: &str) -> Result<Option<Content>, OciError> {
        match &self.members {
            Members::Archive(archive) => Ok(archive.get(name).cloned()),
            Members::Folder => {
                let path = self.path.join(name);
                let read = |source| OciError::Read { path: path.clone(), source };
                let file = match File::open(&path) {
                    Ok(file) => file,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.path.is_dir() => return Ok(None),
                    Err(e) => return Err(read(e)),
                };
                let len = file.metadata().map_err(read)?.len();
                Ok(Some(Content::Range { file: Arc::new(file), path: path.as_path().into(), offset: 0, len }))
            }
        }
    }

    /// A blob that has the right length; its digest is the reader's to check.
    pub(crate) fn blob(&self, descriptor: &Descriptor) -> Result<Content, OciError> {
        let Some(content) = self.member(&format!("blobs/{}", descriptor.digest.key()))? else {
            return Err(self.not_a(format!("blob {} is missing", descriptor.digest)));
        };
        if content.len() != descriptor.size {
            let what = format!("{} in {}", descriptor.digest, self.path.display());
            return Err(OciError::SizeMismatch { what, expected: descriptor.size, found: content.len() });
        }
        Ok(content)
    }

    /// A manifest or config: read whole, digest checked.
    pub(crate) fn metadata(&self, digest: &Digest) -> Result<Vec<u8>, OciError> {
        let Some(content) = self.member(&format!("blobs/{}", digest.key()))? else {
            let found = self.tags();
            return Err(OciError::NoSuchImage { path: self.path.clone(), wanted: digest.to_string(), found });
        };
        let bytes = read_small(&content, MOST_METADATA).map_err(|e| self.not_a(format!("blob {digest}: {e}")))?;
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            let what = format!("a blob in {}", self.path.display());
            return Err(OciError::DigestMismatch { what, expected: digest.clone(), found: found.to_string() });
        }
        Ok(bytes)
    }

    /// The digest of what `select` names: an image's manifest, or an index yet to be read for the platform.
    pub(crate) fn find(&self, select: &Select, platform: &Platform) -> Result<Digest, OciError> {
        let tag = match select {
            Select::Digest(digest) => {
                let wrong = |e: DigestError| OciError::Manifest {
                    what: self.path.display().to_string(),
                    reason: e.to_string(),
                };
                return digest.parse().map_err(wrong);
            }
            Select::Tag(tag) => Some(tag),
            Select::Only => None,
        };
        let mut entries: Vec<_> =
            self.index.iter().filter(|entry| tag.is_none_or(|tag| entry.has_tag(tag))).cloned().collect();
        // Two tags of one image are one image.
        entries.sort_by(|a, b| a.digest.cmp(&b.digest));
        entries.dedup_by(|a, b| a.digest == b.digest);
        match entries.as_slice() {
            [] => {
                let wanted = tag.cloned().unwrap_or_else(|| "of any name".to_owned());
                Err(OciError::NoSuchImage { path: self.path.clone(), wanted, found: self.tags() })
            }
            [only] => Ok(only.digest.clone()),
            // Several under one name, or without names, are one image for several platforms.
            [first, ..] if entries.iter().all(|entry| entry.platform.is_some() && entry.tag() == first.tag()) => {
                Ok(choose(&entries, platform, &self.path.display().to_string())?.digest.clone())
            }
            _ => Err(OciError::Ambiguous { path: self.path.clone(), found: self.tags() }),
        }
    }

    /// How people may name what is here: tags, and digests of what has none.
    fn tags(&self) -> Vec<String> {
        let name = |entry: &Descriptor| entry.tag().map_or_else(|| format!("@{}", entry.digest), str::to_owned);
        let mut tags: Vec<_> = self.index.iter().map(name).collect();
        tags.sort();
        tags.dedup();
        tags
    }
}
