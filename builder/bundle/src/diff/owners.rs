//! Which package each file belongs to, from what the package managers wrote down in the root.

use std::collections::HashMap;
use std::io;

use imgbuild_tree::{FileContent, NodeId, Tree};

use crate::packages::{self, Lists, regular};

/// Where dpkg keeps a list of files for each package.
const DPKG_INFO: &str = "/var/lib/dpkg/info";
/// Where images without dpkg (distroless) keep a list of hashes for each package.
const DPKG_STATUS_D: &str = "/var/lib/dpkg/status.d";
/// Where apk keeps packages and their files.
const APK_INSTALLED: &str = "/lib/apk/db/installed";

/// The package of each file.
#[derive(Debug, Default)]
pub struct Owners {
    names: Vec<String>,
    by_node: HashMap<NodeId, u32>,
}

/// A list that cannot be read: its path in the root, and why.
type Unreadable = (String, io::Error);

impl Owners {
    /// Reads the lists of dpkg and apk.
    ///
    /// # Errors
    /// The first list that cannot be read.
    pub fn read<C: FileContent>(tree: &Tree<C>) -> Result<Self, Unreadable> {
        let mut owners = Self::default();
        each(tree, DPKG_INFO, ".list", |name, bytes| {
            // Packages that are there for several architectures have theirs in the name: `libc6:amd64`.
            let package = name.split(':').next().unwrap_or_default();
            owners.add(tree, package, bytes.split(|b| *b == b'\n'));
        })?;
        each(tree, DPKG_STATUS_D, ".md5sums", |package, bytes| {
            // `HASH  PATH`
            let paths = bytes.split(|b| *b == b'\n').filter_map(|line| line.get(34..));
            owners.add(tree, package, paths);
        })?;
        if let Some(content) = regular(tree, APK_INSTALLED) {
            let bytes = packages::content(content).map_err(|source| (APK_INSTALLED.to_owned(), source))?;
            owners.apk(tree, &bytes);
        }
        Ok(owners)
    }

    /// The package that a node belongs to.
    #[must_use]
    pub fn package(&self, id: NodeId) -> Option<&str> {
        let index = *self.by_node.get(&id)?;
        self.names.get(index as usize).map(String::as_str)
    }

    fn add<'a, C>(&mut self, tree: &Tree<C>, package: &str, paths: impl Iterator<Item = &'a [u8]>) {
        let index = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(package.to_owned());
        for path in paths.filter(|path| !path.is_empty()) {
            // A path of /bin or /lib leads to /usr on a merged system. Folders belong to many packages, so to none.
            if let Ok(id) = tree.resolve_no_follow(path)
                && !tree.node(id).kind.is_directory()
            {
                self.by_node.entry(id).or_insert(index);
            }
        }
    }

    /// apk's list: `P:` names the package, `F:` a folder, `R:` a file in it; a blank line ends a package.
    fn apk<C>(&mut self, tree: &Tree<C>, bytes: &[u8]) {
        let (mut package, mut folder, mut paths) = (String::new(), &bytes[..0], Vec::new());
        for line in bytes.split(|b| *b == b'\n') {
            match line {
                [] if !package.is_empty() => {
                    self.add(tree, &package, paths.iter().map(Vec::as_slice));
                    package.clear();
                    paths.clear();
                }
                [b'P', b':', name @ ..] => package = String::from_utf8_lossy(name).into_owned(),
                [b'F', b':', path @ ..] => folder = path,
                [b'R', b':', name @ ..] => paths.push([folder, b"/", name].concat()),
                _ => {}
            }
        }
        if !package.is_empty() {
            self.add(tree, &package, paths.iter().map(Vec::as_slice));
        }
    }
}

/// Hands on the lists in a folder whose names end so, one after the other, with their names without that ending.
fn each<C: FileContent>(
    tree: &Tree<C>,
    path: &str,
    ending: &str,
    mut each: impl FnMut(&str, &[u8]),
) -> Result<(), Unreadable> {
    let Some(children) = tree.resolve(path).ok().and_then(|id| tree.children(id)) else { return Ok(()) };
    let mut lists = Lists::new();
    for name in children.keys().filter_map(|name| std::str::from_utf8(name).ok()) {
        let Some(stem) = name.strip_suffix(ending) else { continue };
        let path = format!("{path}/{name}");
        if let Some(content) = regular(tree, &path) {
            each(stem, &lists.read(content).map_err(|source| (path, source))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::{Kind, Metadata, Node, RootTree};

    use super::*;
    use crate::testing::{add, put};

    /// Files of nothing but zeros, which take no room in an image.
    struct Hole(u64);

    impl FileContent for Hole {
        fn len(&self) -> u64 {
            self.0
        }

        fn read_exact_at(&self, buf: &mut [u8], _: u64) -> io::Result<()> {
            buf.fill(0);
            Ok(())
        }
    }

    #[test]
    fn lists_that_are_none_are_not_read_into_memory() {
        let read = |lists: &[u64]| {
            let mut tree: Tree<Hole> = Tree::new();
            let mut here = NodeId::ROOT;
            for name in ["var", "lib", "dpkg", "info"] {
                let kind = Kind::Directory(Default::default());
                let folder = tree.add(Node { meta: Metadata::root_owned(0o755), kind });
                tree.link(here, name.as_bytes(), folder);
                here = folder;
            }
            for (number, len) in lists.iter().enumerate() {
                let list = tree.add(Node { meta: Metadata::root_owned(0o644), kind: Kind::Regular(Hole(*len)) });
                tree.link(here, format!("p{number:02}.list").as_bytes(), list);
            }
            Owners::read(&tree).map(drop).map_err(|(path, error)| format!("{path}: {error}"))
        };
        read(&[4 << 20; 3]).unwrap();
        assert_eq!(read(&[1, 17 << 20]), Err("/var/lib/dpkg/info/p01.list: 17825792 bytes is no package list".into()));
        let error = read(&[16 << 20; 17]).unwrap_err();
        assert!(error.starts_with("/var/lib/dpkg/info/p16.list: it and those before it are over "), "{error}");
    }

    fn owner<'a>(owners: &'a Owners, tree: &RootTree, path: &str) -> Option<&'a str> {
        owners.package(tree.resolve(path).unwrap())
    }

    #[test]
    fn dpkg_lists_on_a_merged_usr() {
        let mut tree = RootTree::new();
        put(&mut tree, "/usr/bin/bash", b"x");
        put(&mut tree, "/usr/lib/libc.so.6", b"x");
        put(&mut tree, "/usr/bin/own", b"x");
        let link = Node { meta: Metadata::root_owned(0o777), kind: Kind::Symlink((*b"usr/bin").into()) };
        add(&mut tree, "/bin", link);
        put(&mut tree, "/var/lib/dpkg/info/bash.list", b"/.\n/bin\n/bin/bash\n/usr/share/doc/gone\n");
        put(&mut tree, "/var/lib/dpkg/info/libc6:amd64.list", b"/usr/lib\n/usr/lib/libc.so.6\n");
        put(&mut tree, "/var/lib/dpkg/info/bash.md5sums", b"junk");
        let owners = Owners::read(&tree).unwrap();
        assert_eq!(owner(&owners, &tree, "/usr/bin/bash"), Some("bash"));
        assert_eq!(owner(&owners, &tree, "/usr/lib/libc.so.6"), Some("libc6"));
        assert_eq!(owner(&owners, &tree, "/usr/bin/own"), None);
        assert_eq!(owner(&owners, &tree, "/usr"), None);
    }

    #[test]
    fn distroless_and_apk() {
        let mut tree = RootTree::new();
        put(&mut tree, "/usr/bin/a", b"x");
        put(&mut tree, "/lib/b", b"x");
        put(&mut tree, "/sbin/c", b"x");
        put(&mut tree, "/var/lib/dpkg/status.d/a.md5sums", b"0123456789abcdef0123456789abcdef  usr/bin/a\nshort\n");
        put(&mut tree, "/lib/apk/db/installed", b"C:Q1\nP:musl\nF:lib\nR:b\na:0:0:755\n\nP:busybox\nF:sbin\nR:c\n");
        let owners = Owners::read(&tree).unwrap();
        let found = ["/usr/bin/a", "/lib/b", "/sbin/c"].map(|path| owner(&owners, &tree, path));
        assert_eq!(found, [Some("a"), Some("musl"), Some("busybox")]);
    }
}
