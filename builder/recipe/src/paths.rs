//! Paths in recipes: resolved where they are written, shown so that they are the same on every machine.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// `path` from the absolute folder `base`, without `.` and leading `..`.
///
/// Only leading `..` are taken away, and `base` holds no symbolic links, so this names what the kernel would find.
pub(crate) fn resolve(base: &Path, path: &str) -> PathBuf {
    let mut result = base.to_path_buf();
    let mut leading = true;
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir if leading => {
                result.pop();
            }
            Component::CurDir => {}
            Component::RootDir => result = PathBuf::from("/"),
            other => {
                leading = false;
                result.push(other);
            }
        }
    }
    result
}

/// The absolute `path` as seen from the absolute folder `from`.
pub(crate) fn relative(from: &Path, path: &Path) -> String {
    let shared = from.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| OsStr::new(".."));
    let down = path.components().skip(shared).map(Component::as_os_str);
    let result: PathBuf = up.chain(down).collect();
    if result.as_os_str().is_empty() { ".".to_owned() } else { result.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolved() {
        for (path, expected) in [
            ("x", "/a/b/x"),
            ("../x", "/a/x"),
            ("./../../../../x/./y", "/x/y"),
            ("/etc/x", "/etc/x"),
            ("link/../x", "/a/b/link/../x"),
            (".", "/a/b"),
        ] {
            assert_eq!(resolve(Path::new("/a/b"), path), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn relative_paths_lead_back() {
        for (path, expected) in [("/a/b/x", "x"), ("/a/x", "../x"), ("/x/y", "../../x/y"), ("/a/b", ".")] {
            let shown = relative(Path::new("/a/b"), Path::new(path));
            assert_eq!(shown, expected);
            assert_eq!(resolve(Path::new("/a/b"), &shown), Path::new(path));
        }
    }
}
