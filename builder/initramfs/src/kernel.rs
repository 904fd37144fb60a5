//! Finds the kernel in a root tree.

use std::collections::BTreeMap;

use globset::{GlobBuilder, GlobMatcher};
use imgbuild_tree::{Content, FileContent, Kind, NodeId, RootTree};

use crate::error::{Error, Result};

/// Where distributions keep modules, the older place first; in a merged `/usr` they are one.
pub(crate) const MODULE_ROOTS: [&str; 2] = ["/lib/modules", "/usr/lib/modules"];

/// A kernel of a root tree: image, modules directory, configuration.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its release as `uname -r` prints it.
    pub release: String,
    /// Path of its image in the root.
    pub path: String,
    /// Its image: what becomes `vmlinuz`.
    pub image: Content,
    /// Path of its modules directory in the root.
    pub modules: String,
    /// Its build configuration, where the image has it.
    pub config: Option<Config>,
}

impl Kernel {
    /// Finds the one kernel whose release matches the glob (`6.1.*`); without one, the only kernel there is. Kernels
    /// are `/boot/vmlinuz-RELEASE` and `vmlinuz` in a modules directory; both of one release count as one, the first.
    ///
    /// # Errors
    /// When none or several match; when its modules directory is missing; when the image is of another release than
    /// its name says.
    pub fn find(tree: &RootTree, version: Option<&str>) -> Result<Self> {
        let glob = version.map(compile).transpose()?;
        let wanted = version.map(str::to_owned);
        let mut images = candidates(tree);
        let mut found: Vec<String> = images.keys().cloned().collect();
        if let Some(glob) = glob {
            let matching: Vec<String> = found.iter().filter(|release| glob.is_match(release)).cloned().collect();
            if matching.is_empty() {
                return Err(Error::NoKernel { wanted, found });
            }
            found = matching;
        }
        let release = match &*found {
            [] => return Err(Error::NoKernel { wanted, found }),
            [one] => one.clone(),
            _ => return Err(Error::SeveralKernels { wanted, found }),
        };
        let Some((path, image)) = images.remove(&release) else { return Err(Error::NoKernel { wanted, found }) };
        check_release(&path, &release, &image)?;
        let looked = MODULE_ROOTS.map(|root| format!("{root}/{release}"));
        let modules = looked
            .iter()
            .find(|path| tree.resolve(path).is_ok_and(|id| tree.node(id).kind.is_directory()))
            .cloned()
            .ok_or_else(|| Error::NoModules { release: release.clone(), looked: looked.to_vec() })?;
        let config = Config::find(tree, &release, &modules)?;
        Ok(Self { release, path, image, modules, config })
    }
}

/// Images by release, with their paths.
fn candidates(tree: &RootTree) -> BTreeMap<String, (String, Content)> {
    let mut images = BTreeMap::new();
    let mut offer = |release: &[u8], path: String| {
        let Ok(release) = std::str::from_utf8(release) else { return };
        if let Some(image) = regular(tree, &path) {
            images.entry(release.to_owned()).or_insert((path, image));
        }
    };
    for name in names(tree, "/boot") {
        if let Some(release) = name.strip_prefix(b"vmlinuz-") {
            offer(release, format!("/boot/{}", String::from_utf8_lossy(name)));
        }
    }
    for root in MODULE_ROOTS {
        for release in names(tree, root) {
            offer(release, format!("{root}/{}/vmlinuz", String::from_utf8_lossy(release)));
        }
    }
    images
}

/// The names in a directory, none where it does not exist.
pub(crate) fn names<'a>(tree: &'a RootTree, path: &str) -> impl Iterator<Item = &'a [u8]> {
    let children = tree.resolve(path).ok().and_then(|id: NodeId| tree.children(id));
    children.into_iter().flat_map(|children| children.keys().map(|name| &**name))
}

/// The content of a regular file, links followed.
pub(crate) fn regular(tree: &RootTree, path: &str) -> Option<Content> {
    match &tree.node(tree.resolve(path).ok()?).kind {
        Kind::Regular(content) => Some(content.clone()),
        _ => None,
    }
}

/// All bytes of a file, up to `limit`.
pub(crate) fn read(path: &str, content: &Content, limit: u64) -> Result<Vec<u8>> {
    if content.len() > limit {
        let reason = format!("{} bytes; {limit} is the most that makes sense here", content.len());
        return Err(Error::Malformed { path: path.to_owned(), reason });
    }
    let mut bytes = vec![0; content.len() as usize];
    content.read_exact_at(&mut bytes, 0).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn compile(glob: &str) -> Result<GlobMatcher> {
    let compiled = GlobBuilder::new(glob).literal_separator(true).build();
    compiled
        .map(|glob| glob.compile_matcher())
        .map_err(|e| Error::Glob { glob: glob.to_owned(), reason: e.kind().to_string() })
}

/// An x86 image says its release in its header (`Documentation/arch/x86/boot.rst`, `kernel_version`); others say
/// nothing at a fixed place, and are taken by their name.
fn check_release(path: &str, expected: &str, image: &Content) -> Result<()> {
    const SIGNATURE: usize = 0x202;
    const VERSION: usize = 0x20e;
    let head = |offset: u64, length: usize| -> Result<Option<Vec<u8>>> {
        let length = length.min(image.len().saturating_sub(offset) as usize);
        let mut bytes = vec![0; length];
        image.read_exact_at(&mut bytes, offset).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok((length > 0).then_some(bytes))
    };
    let Some(header) = head(0, VERSION + 2)? else {
        return Err(Error::Malformed { path: path.to_owned(), reason: "an empty file is no kernel".to_owned() });
    };
    if header.get(SIGNATURE..SIGNATURE + 4) != Some(b"HdrS") {
        return Ok(());
    }
    let pointer = match header.get(VERSION..VERSION + 2) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => 0,
    };
    if pointer == 0 {
        return Ok(());
    }
    let Some(text) = head(u64::from(pointer) + 0x200, 256)? else { return Ok(()) };
    let found = text.split(|b| matches!(b, 0 | b' ')).next().unwrap_or_default();
    if found != expected.as_bytes() {
        let found = String::from_utf8_lossy(found).into_owned();
        return Err(Error::KernelRelease { path: path.to_owned(), expected: expected.to_owned(), found });
    }
    Ok(())
}

/// A kernel's build configuration (`/boot/config-RELEASE`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    options: BTreeMap<String, String>,
}

/// What a configuration says about an option that is built in, a module, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `=y`.
    Builtin,
    /// `=m`.
    Module,
    /// Not set, or set to a value.
    Off,
}

impl Config {
    fn find(tree: &RootTree, release: &str, modules: &str) -> Result<Option<Self>> {
        let paths = [format!("/boot/config-{release}"), format!("{modules}/config")];
        for path in paths {
            if let Some(content) = regular(tree, &path) {
                return Ok(Some(Self::parse(&String::from_utf8_lossy(&read(&path, &content, 16 << 20)?))));
            }
        }
        Ok(None)
    }

    /// Reads `CONFIG_NAME=VALUE` lines; all others are comments.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let options = text
            .lines()
            .filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Self { options }
    }

    /// An option by its name without `CONFIG_`.
    #[must_use]
    pub fn get(&self, name: &str) -> Setting {
        match self.options.get(name).map(String::as_str) {
            Some("y") => Setting::Builtin,
            Some("m") => Setting::Module,
            _ => Setting::Off,
        }
    }
}

#[cfg(test)]
mod tests;
