//! The packages in a root, from what the package managers wrote down there.

use deb822_fast::{Deb822, Paragraph};
use imgbuild_tree::{FileContent, Kind, NodeId, Tree};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where dpkg keeps its list.
const DPKG_STATUS: &str = "/var/lib/dpkg/status";
/// Where images without dpkg (distroless) keep one stanza a file.
const DPKG_STATUS_D: &str = "/var/lib/dpkg/status.d";
/// Where apk keeps its list.
const APK_INSTALLED: &str = "/lib/apk/db/installed";
/// Where rpm keeps its data base, newest layout first.
const RPM: [&str; 2] = ["/usr/lib/sysimage/rpm", "/var/lib/rpm"];

/// Bytes; dpkg's status of every package of Debian has 80 MB.
const LONGEST_LIST: u64 = 256 << 20;
/// What one package has of its own, in bytes: a list of 40,000 files has 4 MB.
const LONGEST_OF_ONE: u64 = 16 << 20;
/// What such lists may have together, in bytes: those of nine hundred packages of Debian have 8 MB.
const ALL_OF_ONE: u64 = 256 << 20;

/// Which package manager a package belongs to; the type of its package URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// dpkg, of Debian and its kin.
    Deb,
    /// apk, of Alpine.
    Apk,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as its manager writes it.
    pub version: String,
    /// Its architecture, as its manager writes it.
    pub arch: String,
    /// Who manages it.
    pub manager: Manager,
    /// Source package, where that has another name.
    pub source: Option<String>,
    /// Who maintains it.
    pub maintainer: Option<String>,
    /// Licence, where the manager knows one, in its words.
    pub licence: Option<String>,
    /// What it takes unpacked, in bytes, by its own account.
    pub installed_size: u64,
}

impl Package {
    /// The package URL (`pkg:deb/debian/bash@5.2?arch=amd64`), by the purl specification.
    #[must_use]
    pub fn purl(&self, distribution: &str) -> String {
        let kind = match self.manager {
            Manager::Deb => "deb",
            Manager::Apk => "apk",
        };
        format!(
            "pkg:{kind}/{}/{}@{}?arch={}",
            percent(distribution),
            percent(&self.name),
            percent(&self.version),
            percent(&self.arch)
        )
    }
}

/// Percent-encoding as the purl specification asks for: everything but unreserved characters and `:`.
fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// What was found about packages.
#[derive(Debug, Clone, Default)]
pub struct Packages {
    /// All of them, sorted; each package URL once.
    pub all: Vec<Package>,
    /// `ID=` of `/etc/os-release`: `debian`, `alpine`; `unknown` without one.
    pub distribution: String,
    /// A data base that is there but cannot be read by this version.
    pub unread: Option<String>,
}

/// Reads the package lists of a root.
///
/// # Errors
/// When a list cannot be read or is not in its format; the message names the file in the root.
pub fn read<C: FileContent>(tree: &Tree<C>) -> Result<Packages, Error> {
    let mut all = Vec::new();
    if let Some(bytes) = file(tree, DPKG_STATUS)? {
        all.extend(dpkg(DPKG_STATUS, &bytes)?);
    }
    let mut lists = Lists::new();
    for name in names(tree, DPKG_STATUS_D) {
        // Beside each stanza lies a list of its files' hashes.
        if name.ends_with(".md5sums") {
            continue;
        }
        let path = format!("{DPKG_STATUS_D}/{name}");
        if let Some(content) = regular(tree, &path) {
            let bytes = lists.read(content).map_err(|source| Error::Content { path: path.clone(), source })?;
            all.extend(dpkg(&path, &bytes)?);
        }
    }
    if let Some(bytes) = file(tree, APK_INSTALLED)? {
        all.extend(apk(&bytes));
    }
    all.sort();
    // Two lists may have the same package. What one of them says of it and the other does not, is taken.
    all.dedup_by(|again, kept| {
        let identity = |p: &Package| (p.manager, p.name.clone(), p.version.clone(), p.arch.clone());
        let same = identity(again) == identity(kept);
        if same {
            kept.source = kept.source.take().or_else(|| again.source.take());
            kept.maintainer = kept.maintainer.take().or_else(|| again.maintainer.take());
            kept.licence = kept.licence.take().or_else(|| again.licence.take());
            kept.installed_size = kept.installed_size.max(again.installed_size);
        }
        same
    });
    let unread = RPM.iter().find(|path| !names(tree, path).is_empty()).map(|path| (*path).to_owned());
    let os_release = file(tree, "/etc/os-release")?.unwrap_or_default();
    Ok(Packages { all, distribution: os_id(&os_release), unread })
}

fn file<C: FileContent>(tree: &Tree<C>, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let Some(content) = regular(tree, path) else { return Ok(None) };
    self::content(content).map(Some).map_err(|source| Error::Content { path: path.to_owned(), source })
}

/// A regular file of a root, links followed.
pub(crate) fn regular<'t, C>(tree: &'t Tree<C>, path: &str) -> Option<&'t C> {
    match &tree.node(tree.resolve(path).ok()?).kind {
        Kind::Regular(content) => Some(content),
        _ => None,
    }
}

/// The whole of a list. One that no package manager writes is refused: an image from outside may say any length.
pub(crate) fn content(content: &impl FileContent) -> std::io::Result<Vec<u8>> {
    whole(content, LONGEST_LIST)
}

fn whole(content: &impl FileContent, longest: u64) -> std::io::Result<Vec<u8>> {
    let len = usize::try_from(content.len()).ok().filter(|_| content.len() <= longest);
    let too_long = || std::io::Error::other(format!("{} bytes is no package list", content.len()));
    let mut bytes = vec![0; len.ok_or_else(too_long)?];
    content.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Reads lists of one package each, as long as they are as long together as such lists can be.
#[derive(Debug)]
pub(crate) struct Lists {
    /// Bytes that may still come.
    left: u64,
}

impl Lists {
    pub(crate) fn new() -> Self {
        Self { left: ALL_OF_ONE }
    }

    /// The whole of the next one.
    pub(crate) fn read(&mut self, content: &impl FileContent) -> std::io::Result<Vec<u8>> {
        let too_long = || std::io::Error::other(format!("it and those before it are over {ALL_OF_ONE} bytes long"));
        self.left = self.left.checked_sub(content.len()).ok_or_else(too_long)?;
        whole(content, LONGEST_OF_ONE)
    }
}

fn names<C>(tree: &Tree<C>, directory: &str) -> Vec<String> {
    let id = tree.resolve(directory).unwrap_or(NodeId::ROOT);
    match tree.children(id) {
        Some(children) if id != NodeId::ROOT => {
            children.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        }
        _ => Vec::new(),
    }
}

fn dpkg(path: &str, bytes: &[u8]) -> Result<Vec<Package>, Error> {
    let text = String::from_utf8_lossy(bytes);
    let parsed: Deb822 = text.parse().map_err(|e| Error::PackageList {
        path: path.to_owned(),
        reason: format!("not in Debian's control format: {e}"),
    })?;
    Ok(parsed.into_iter().filter_map(|stanza| dpkg_package(&stanza)).collect())
}

fn dpkg_package(stanza: &Paragraph) -> Option<Package> {
    // A stanza of status.d has no Status field: what is listed there is installed.
    if stanza.get("Status").is_some_and(|status| !status.ends_with(" installed")) {
        return None;
    }
    let field = |name| stanza.get(name).map(str::to_owned);
    Some(Package {
        name: field("Package")?,
        version: field("Version")?,
        arch: field("Architecture")?,
        manager: Manager::Deb,
        source: field("Source"),
        maintainer: field("Maintainer"),
        licence: None,
        installed_size: stanza
            .get("Installed-Size")
            .and_then(|s| s.parse::<u64>().ok())
            .unwrap_or(0)
            .saturating_mul(1024),
    })
}

/// apk's list: one-letter keys, a blank line between packages.
fn apk(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    text.split("\n\n").filter_map(apk_package).collect()
}

fn apk_package(stanza: &str) -> Option<Package> {
    let field =
        |key: &str| stanza.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::to_owned);
    Some(Package {
        name: field("P")?,
        version: field("V")?,
        arch: field("A")?,
        manager: Manager::Apk,
        source: field("o"),
        maintainer: field("m"),
        licence: field("L"),
        installed_size: field("I").and_then(|s| s.parse().ok()).unwrap_or(0),
    })
}

/// `ID=` of an `os-release(5)`.
fn os_id(os_release: &[u8]) -> String {
    let text = String::from_utf8_lossy(os_release);
    let id = text.lines().find_map(|line| line.strip_prefix("ID="));
    id.map_or("unknown", |id| id.trim_matches(['"', '\''])).to_owned()
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::{Content, Metadata, Node, RootTree};

    use super::*;
    use crate::testing::put;

    #[test]
    fn dpkg_and_apk_lists() {
        let mut tree = RootTree::new();
        put(&mut tree, "/etc/os-release", b"NAME=x\nID=debian\n");
        put(
            &mut tree,
            DPKG_STATUS,
            b"Package: bash\nStatus: install ok installed\nVersion: 5.2+b1\nArchitecture: amd64\nInstalled-Size: 10\n\n\
              Package: old\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n",
        );
        put(&mut tree, APK_INSTALLED, b"C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nI:42\n\nP:zlib\nV:1\nA:x86_64\n");
        let found = read(&tree).unwrap();
        let shown: Vec<_> = found.all.iter().map(|p| p.purl(&found.distribution)).collect();
        assert_eq!(
            shown,
            [
                "pkg:deb/debian/bash@5.2%2Bb1?arch=amd64",
                "pkg:apk/debian/musl@1.2.5-r0?arch=x86_64",
                "pkg:apk/debian/zlib@1?arch=x86_64"
            ]
        );
        assert_eq!(found.all[0].installed_size, 10 * 1024);
        assert_eq!(found.all[1].licence.as_deref(), Some("MIT"));
        assert_eq!(found.unread, None);
    }

    #[test]
    fn a_package_of_two_lists_is_one() {
        let mut tree = RootTree::new();
        let stanza = "Package: tzdata\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n";
        put(&mut tree, DPKG_STATUS, format!("{stanza}\n{}", stanza.replace("tzdata", "base")).as_bytes());
        put(&mut tree, "/var/lib/dpkg/status.d/tzdata", format!("{stanza}Maintainer: M\n").as_bytes());
        put(&mut tree, "/var/lib/dpkg/status.d/new", stanza.replace(": 1", ": 2").as_bytes());
        let found = read(&tree).unwrap();
        let shown: Vec<_> = found.all.iter().map(|p| (&*p.name, &*p.version, p.maintainer.as_deref())).collect();
        assert_eq!(shown, [("base", "1", None), ("tzdata", "1", Some("M")), ("tzdata", "2", None)]);
    }

    #[test]
    fn an_rpm_data_base_is_named_not_passed_over() {
        let mut tree = RootTree::new();
        put(&mut tree, "/usr/lib/sysimage/rpm/rpmdb.sqlite", b"x");
        assert_eq!(read(&tree).unwrap().unread.as_deref(), Some("/usr/lib/sysimage/rpm"));
    }

    #[test]
    fn an_empty_root_has_none() {
        let mut tree = RootTree::new();
        let id = tree.add(Node { meta: Metadata::root_owned(0o644), kind: Kind::Regular(Content::from(vec![])) });
        tree.link(NodeId::ROOT, b"x", id);
        let found = read(&tree).unwrap();
        assert!(found.all.is_empty());
        assert_eq!(found.distribution, "unknown");
    }
}
