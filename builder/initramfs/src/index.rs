//! What modules a kernel has, in files and built in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use imgbuild_tree::{Content, Kind, NodeId, RootTree};

use crate::compressed::{Format, LIMIT};
use crate::error::{Error, Result};
use crate::kernel::{self, Kernel};
use crate::modinfo::{ModInfo, normalise, normalise_alias};

/// An index file of a modules directory is at most so long; Debian's longest are about 2 MB.
pub(crate) const INDEX_LIMIT: u64 = 64 << 20;
/// Deeper than any modules directory.
const MAX_DEPTH: u32 = 32;

/// A module's file.
#[derive(Debug, Clone)]
pub(crate) struct ModuleFile {
    /// Path below the modules directory, without the suffix of its compression.
    pub(crate) path: String,
    /// Path in the root, for messages.
    shown: String,
    content: Content,
    format: Format,
}

impl ModuleFile {
    /// Its decompressed content, and what it says about itself.
    pub(crate) fn load(&self) -> Result<(Content, ModInfo)> {
        let content = self.format.decode(&self.shown, &self.content)?;
        let bytes = match &content {
            Content::Bytes(bytes) => bytes.clone(),
            _ => kernel::read(&self.shown, &content, LIMIT)?.into(),
        };
        let info = ModInfo::parse(&bytes).map_err(|reason| Error::Malformed { path: self.shown.clone(), reason })?;
        Ok((content, info))
    }
}

/// The modules of one kernel, by normalised name.
#[derive(Debug)]
pub struct ModuleIndex {
    pub(crate) release: String,
    pub(crate) files: BTreeMap<String, ModuleFile>,
    /// Built-in names and where their files would be.
    builtin: BTreeMap<String, String>,
    builtin_aliases: BTreeMap<String, BTreeSet<String>>,
    /// `modules.alias`, where the root has it.
    alias_file: Option<String>,
    aliases: OnceLock<BTreeMap<String, BTreeSet<String>>>,
}

/// How a kernel has a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverState {
    /// Built in.
    Builtin,
    /// As a module that the closure holds, so the initrd has it.
    InInitrd,
    /// As a module that only the root has.
    InRoot,
    /// Not at all.
    Missing,
}

impl ModuleIndex {
    /// Reads a kernel's modules directory. Where several files have one module's name, `modules.dep` decides, as it
    /// does for `modprobe`; without it, `updates/` comes before everything else.
    ///
    /// # Errors
    /// When an index file cannot be read or makes no sense.
    pub fn load(tree: &RootTree, kernel: &Kernel) -> Result<Self> {
        let mut found: Vec<ModuleFile> = Vec::new();
        if let Ok(directory) = tree.resolve(&kernel.modules) {
            collect(tree, directory, &kernel.modules, "", MAX_DEPTH, &mut found);
        }
        let text = |name: &str| -> Result<Option<String>> {
            let path = format!("{}/{name}", kernel.modules);
            let Some(content) = kernel::regular(tree, &path) else { return Ok(None) };
            Ok(Some(String::from_utf8_lossy(&kernel::read(&path, &content, INDEX_LIMIT)?).into_owned()))
        };
        let preferred = preferred(text("modules.dep")?.as_deref().unwrap_or_default());
        let mut files: BTreeMap<String, ModuleFile> = BTreeMap::new();
        for file in found {
            let name = module_name(&file.path);
            let rank = |path: &str| (preferred.get(&name).is_some_and(|p| p == path), path.starts_with("updates/"));
            match files.get(&name) {
                Some(other) if rank(&other.path) >= rank(&file.path) => {}
                _ => drop(files.insert(name, file)),
            }
        }
        let builtin = text("modules.builtin")?.unwrap_or_default();
        let builtin = builtin.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(Self {
            release: kernel.release.clone(),
            files,
            builtin: builtin.map(|path| (module_name(path), path.to_owned())).collect(),
            builtin_aliases: builtin_aliases(&text("modules.builtin.modinfo")?.unwrap_or_default()),
            alias_file: text("modules.alias")?,
            aliases: OnceLock::new(),
        })
    }

    /// Whether the kernel has it built in; `-` and `_` are the same.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains_key(&normalise(name))
    }

    /// Whether there is a file of it; `-` and `_` are the same.
    #[must_use]
    pub fn is_module(&self, name: &str) -> bool {
        self.files.contains_key(&normalise(name))
    }

    /// The names of all modules, sorted, and their paths below the modules directory.
    pub fn modules(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(name, file)| (name.as_str(), file.path.as_str()))
    }

    /// The names of everything built in, sorted, and the paths they would have as modules.
    pub fn builtins(&self) -> impl Iterator<Item = (&str, &str)> {
        self.builtin.iter().map(|(name, path)| (name.as_str(), path.as_str()))
    }

    /// The modules that a soft dependency means: the one of that name, or all with that alias. None where it is built
    /// in or nothing has that name.
    pub(crate) fn lookup(&self, name: &str) -> Result<Vec<String>> {
        let normal = normalise(name);
        if self.files.contains_key(&normal) {
            return Ok(vec![normal]);
        }
        if self.is_builtin(&normal) || self.builtin_aliases.contains_key(&normalise_alias(name)) {
            return Ok(Vec::new());
        }
        let aliases = self.aliases()?;
        Ok(aliases.get(&normalise_alias(name)).into_iter().flatten().cloned().collect())
    }

    /// Patterns and modules of the root's `modules.alias` (`alias PATTERN MODULE` in each line), where it has one.
    pub(crate) fn alias_lines(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        let lines = self.alias_file.as_deref()?.lines();
        Some(lines.filter_map(|line| {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("alias"), Some(alias), Some(module)) => Some((alias, module)),
                _ => None,
            }
        }))
    }

    /// Aliases that are names rather than patterns. From `modules.alias`; where the root lacks it, from every module.
    fn aliases(&self) -> Result<&BTreeMap<String, BTreeSet<String>>> {
        if let Some(aliases) = self.aliases.get() {
            return Ok(aliases);
        }
        let mut aliases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut add = |alias: &str, module: &str| {
            if !alias.contains(['*', '?', '[']) {
                aliases.entry(normalise_alias(alias)).or_default().insert(normalise(module));
            }
        };
        if let Some(lines) = self.alias_lines() {
            lines.for_each(|(alias, module)| add(alias, module));
        } else {
            for (name, file) in &self.files {
                file.load()?.1.aliases.iter().for_each(|alias| add(alias, name));
            }
        }
        Ok(self.aliases.get_or_init(|| aliases))
    }

    /// Up to three names that are spelled most like this one.
    pub(crate) fn nearest(&self, name: &str) -> Vec<String> {
        let all = self.files.keys().chain(self.builtin.keys()).map(String::as_str);
        nearest(&normalise(name), all)
    }
}

/// The name of a module in a file of this path: `virtio_net` of `kernel/drivers/net/virtio-net.ko.xz`.
pub(crate) fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let (file, _) = Format::of(file);
    normalise(file.strip_suffix(".ko").unwrap_or(file))
}

/// Modules below a directory. Links to modules count (weak updates are links), links to directories do not: `build`
/// and `source` lead out.
fn collect(tree: &RootTree, directory: NodeId, shown: &str, below: &str, depth: u32, found: &mut Vec<ModuleFile>) {
    for (name, id) in tree.children(directory).into_iter().flatten() {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if tree.node(*id).kind.is_directory() {
            if depth > 0 {
                collect(tree, *id, shown, &path, depth - 1, found);
            }
            continue;
        }
        let (plain, format) = Format::of(&path);
        if !plain.ends_with(".ko") {
            continue;
        }
        let full = format!("{shown}/{path}");
        let Ok(target) = tree.resolve(&full) else { continue };
        if let Kind::Regular(content) = &tree.node(target).kind {
            found.push(ModuleFile { path: plain.to_owned(), shown: full, content: content.clone(), format });
        }
    }
}

/// Which file `modules.dep` (`PATH: DEPENDENCIES` in each line) names for each module.
fn preferred(text: &str) -> BTreeMap<String, String> {
    let paths = text.lines().filter_map(|line| line.split_once(':')).map(|(path, _)| path.trim());
    paths.map(|path| (module_name(path), Format::of(path).0.to_owned())).collect()
}

/// `modules.builtin.modinfo`: `MODULE.alias=ALIAS` among other fields, a NUL after each.
fn builtin_aliases(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut aliases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for field in text.split('\0') {
        if let Some((key, alias)) = field.split_once('=')
            && let Some(module) = key.strip_suffix(".alias")
        {
            aliases.entry(normalise_alias(alias)).or_default().insert(normalise(module));
        }
    }
    aliases
}

/// Up to three of `names` that differ from `name` in a third of its letters at most, or contain it; the nearest first,
/// and none that is much farther.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let most = (name.chars().count() / 3).max(1);
    let mut ranked: BTreeSet<(usize, &str)> = BTreeSet::new();
    for candidate in names {
        let distance = strsim::osa_distance(name, candidate);
        if distance <= most {
            ranked.insert((distance, candidate));
        } else if name.len() >= 3 && candidate.contains(name) {
            ranked.insert((most + candidate.len() - name.len(), candidate));
        }
    }
    let best = ranked.first().map_or(0, |(distance, _)| *distance);
    let near = ranked.into_iter().take_while(|(distance, _)| *distance <= best + 1).take(3);
    near.map(|(_, candidate)| candidate.to_owned()).collect()
}

#[cfg(test)]
mod tests;
