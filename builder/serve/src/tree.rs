//! What is served: the way from a request's path to a file.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use percent_encoding::percent_decode_str;

use crate::Error;

/// The files a server offers: those of a folder, single named ones, or named ones laid over a folder.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// With all symlinks resolved.
    folder: Option<PathBuf>,
    files: BTreeMap<String, PathBuf>,
}

/// Why a path is not answered with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The path leads above the root or is not a path.
    Malformed,
    /// There is no file, it is outside of the tree, or it is a folder.
    NotFound,
    /// It is there but this process may not read it.
    Forbidden,
}

impl Tree {
    /// All regular files below `path`. A symlink is followed as long as it ends inside.
    ///
    /// # Errors
    /// [`Error::Folder`] and [`Error::NotAFolder`] when it cannot be served.
    pub fn folder(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let whole = path.canonicalize().map_err(|source| Error::Folder { path: path.to_owned(), source })?;
        if !whole.is_dir() {
            return Err(Error::NotAFolder { path: path.to_owned() });
        }
        Ok(Self { folder: Some(whole), files: BTreeMap::new() })
    }

    /// Nothing yet; add to it by [`Tree::with`].
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds one file under `name` (`root.squashfs`, `nodes/52-54-00-12-34-56.ipxe`), before whatever the folder has
    /// there. The file is opened at each request and may be a symlink to anywhere.
    #[must_use]
    pub fn with(mut self, name: &str, file: impl Into<PathBuf>) -> Self {
        self.files.insert(name.trim_matches('/').to_owned(), file.into());
        self
    }

    /// The file that a request's path (still percent-encoded, without its query) means.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn find(&self, path: &str) -> Result<PathBuf, Refusal> {
        let name = normal(path)?;
        if let Some(file) = self.files.get(&name) {
            return Ok(file.clone());
        }
        let folder = self.folder.as_ref().ok_or(Refusal::NotFound)?;
        // Who can plant a symlink between this check and the opening can write to the tree, and has no need to.
        let found = folder.join(&name).canonicalize().map_err(|error| refusal(&error))?;
        if !found.starts_with(folder) {
            return Err(Refusal::NotFound);
        }
        match found.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(found),
            Ok(_) => Err(Refusal::NotFound),
            Err(error) => Err(refusal(&error)),
        }
    }
}

fn refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Refusal::Forbidden,
        _ => Refusal::NotFound,
    }
}

/// The path decoded, without empty, `.` and `..` segments, relative to the root. iPXE scripts make URLs such as
/// `…/boot.ipxe/../root.squashfs`, so dot segments are resolved (RFC 3986, section 5.2.4); above the root there is nothing.
pub(crate) fn normal(path: &str) -> Result<String, Refusal> {
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| Refusal::Malformed)?;
    if decoded.contains('\0') {
        return Err(Refusal::Malformed);
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop().ok_or(Refusal::Malformed)?;
            }
            _ => segments.push(segment),
        }
    }
    Ok(segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_resolved_inside_and_refused_outside() {
        assert_eq!(normal("/images/w/1/boot.ipxe/../root.squashfs").unwrap(), "images/w/1/root.squashfs");
        assert_eq!(normal("//a/./b%20c").unwrap(), "a/b c");
        assert_eq!(normal("/").unwrap(), "");
        for bad in ["/..", "/a/../../etc/passwd", "/%2e%2e/etc/passwd", "/a%2f..%2f..%2fetc", "/a%00b", "/%ff"] {
            assert_eq!(normal(bad), Err(Refusal::Malformed), "{bad}");
        }
    }

    #[test]
    fn symlinks_are_followed_inside_only() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("www");
        fs_err::create_dir_all(root.join("deep")).unwrap();
        fs_err::write(root.join("file"), "x").unwrap();
        fs_err::write(temp.path().join("secret"), "y").unwrap();
        fs_err::os::unix::fs::symlink("../file", root.join("deep/inside")).unwrap();
        fs_err::os::unix::fs::symlink("../secret", root.join("outside")).unwrap();
        fs_err::os::unix::fs::symlink("/", root.join("all")).unwrap();
        fs_err::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        let tree = Tree::folder(&root).unwrap();
        assert!(tree.find("/deep/inside").unwrap().ends_with("www/file"));
        for refused in ["/outside", "/all/etc/passwd", "/loop", "/deep", "/", "/none", "/file/x"] {
            assert_eq!(tree.find(refused), Err(Refusal::NotFound), "{refused}");
        }
    }

    #[test]
    fn named_files_come_first_and_nothing_else_is_there_without_a_folder() {
        let temp = tempfile::tempdir().unwrap();
        fs_err::write(temp.path().join("a"), "x").unwrap();
        let tree = Tree::folder(temp.path()).unwrap().with("/a", "/elsewhere/a").with("nodes/b.ipxe", "/elsewhere/b");
        assert_eq!(tree.find("/a").unwrap(), Path::new("/elsewhere/a"));
        assert_eq!(tree.find("/nodes/b.ipxe").unwrap(), Path::new("/elsewhere/b"));
        assert_eq!(Tree::empty().with("a", "/x").find("/b"), Err(Refusal::NotFound));
    }

    #[test]
    fn a_folder_must_be_there_and_be_one() {
        let temp = tempfile::tempdir().unwrap();
        fs_err::write(temp.path().join("a"), "x").unwrap();
        assert!(matches!(Tree::folder(temp.path().join("none")), Err(Error::Folder { .. })));
        assert!(matches!(Tree::folder(temp.path().join("a")), Err(Error::NotAFolder { .. })));
    }
}
