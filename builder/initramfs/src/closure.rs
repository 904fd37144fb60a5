//! Which modules go into the initrd: what was asked for, and all that needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use globset::{GlobBuilder, GlobMatcher};
use imgbuild_tree::Content;

use crate::error::{Error, Result};
use crate::index::{self, DriverState, ModuleIndex};
use crate::modinfo::{ModInfo, normalise};
use crate::sets;

/// A module of the initrd.
#[derive(Debug, Clone)]
pub struct Module {
    /// Its normalised name.
    pub name: String,
    /// Path below the modules directory: `kernel/drivers/net/virtio_net.ko`.
    pub path: String,
    /// The decompressed file.
    pub content: Content,
    /// What it says about itself.
    pub info: ModInfo,
}

/// A member of a named set that this kernel does not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Absent {
    /// The set.
    pub set: &'static str,
    /// The module or glob.
    pub member: &'static str,
}

/// Modules with everything they depend on.
#[derive(Debug, Clone, Default)]
pub struct ModuleClosure {
    /// In an order in which they can be loaded: each after all it depends on; otherwise by name.
    pub modules: Vec<Module>,
    /// What was asked for and is built in, sorted.
    pub builtin: BTreeSet<String>,
    /// What the recipe names itself, not through a set or a glob, and is a module: to be loaded on every machine,
    /// whether a device asks for it or not. In the recipe's order.
    pub named: Vec<String>,
    /// Members of named sets that this kernel does not have.
    pub absent: Vec<Absent>,
    /// Of [`sets::ALWAYS`], what is neither a module nor built in: such an initrd cannot mount its root.
    pub unbootable: Vec<String>,
}

impl ModuleClosure {
    /// Finds what the recipe's `kernel.modules` means: named sets, module names, paths, and globs over names
    /// (`mlx5_*`) or, where they have a `/`, over paths below the modules directory (`kernel/drivers/net/**`; the
    /// `kernel/` may be left out). What mounts the root ([`sets::ALWAYS`]) comes by itself.
    ///
    /// # Errors
    /// When a name or glob stands for nothing; when a module is broken or needs one that is not there.
    pub fn resolve(index: &ModuleIndex, requests: &[String]) -> Result<Self> {
        let mut selection = Selection { index, closure: Self::default(), wanted: BTreeSet::new() };
        for name in sets::ALWAYS {
            if !selection.take(name) {
                selection.closure.unbootable.push((*name).to_owned());
            }
        }
        for name in sets::IF_MODULAR {
            selection.take(name);
        }
        for request in requests {
            selection.request(request)?;
        }
        let Selection { mut closure, wanted, .. } = selection;
        closure.modules = sort(gather(index, wanted)?)?;
        Ok(closure)
    }

    /// A module by its name; `-` and `_` are the same.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Module> {
        let name = normalise(name);
        self.modules.iter().find(|module| module.name == name)
    }

    /// How a driver is there for a node that boots with these modules.
    #[must_use]
    pub fn driver_state(&self, index: &ModuleIndex, name: &str) -> DriverState {
        if index.is_builtin(name) {
            DriverState::Builtin
        } else if self.get(name).is_some() {
            DriverState::InInitrd
        } else if index.is_module(name) {
            DriverState::InRoot
        } else {
            DriverState::Missing
        }
    }

    /// `modules.dep` of these modules as `depmod` writes it: each line a path and the paths of all it needs, to be
    /// loaded from the last to the first.
    #[must_use]
    pub fn modules_dep(&self) -> String {
        let by_name: BTreeMap<&str, (usize, &Module)> =
            self.modules.iter().enumerate().map(|(at, module)| (module.name.as_str(), (at, module))).collect();
        let mut sorted: Vec<&Module> = self.modules.iter().collect();
        sorted.sort_by(|a, b| a.path.cmp(&b.path));
        let mut text = String::new();
        for module in sorted {
            let mut needed: BTreeMap<usize, &Module> = BTreeMap::new();
            let mut todo: Vec<&Module> = vec![module];
            while let Some(next) = todo.pop() {
                for (at, dependency) in next.info.depends.iter().filter_map(|name| by_name.get(name.as_str())) {
                    if needed.insert(*at, dependency).is_none() {
                        todo.push(dependency);
                    }
                }
            }
            text.push_str(&module.path);
            text.push(':');
            for dependency in needed.values().rev() {
                text.push(' ');
                text.push_str(&dependency.path);
            }
            text.push('\n');
        }
        text
    }

    /// `modules.alias` of these modules: `alias PATTERN MODULE`, the pattern as the module has it and sysfs spells
    /// devices.
    #[must_use]
    pub fn modules_alias(&self) -> String {
        let lines = self
            .modules
            .iter()
            .flat_map(|module| module.info.aliases.iter().map(move |alias| (alias.as_str(), module.name.as_str())));
        // Patterns have no meaning of their order; sorted they compress better.
        let lines: BTreeSet<(&str, &str)> = lines.collect();
        lines.iter().fold(String::new(), |mut text, (alias, module)| {
            let _ = writeln!(text, "alias {alias} {module}");
            text
        })
    }

    /// `modules.softdep` of these modules, reduced to what is among them: `softdep MODULE pre: … post: …`.
    ///
    /// # Errors
    /// When an alias in one can only be looked up in the modules themselves, and one of those is broken.
    pub fn modules_softdep(&self, index: &ModuleIndex) -> Result<String> {
        let mut sorted: Vec<&Module> = self.modules.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let mut text = String::new();
        for module in sorted {
            let mut line = String::new();
            for (keyword, words) in [("pre:", &module.info.pre), ("post:", &module.info.post)] {
                let mut names = Vec::new();
                for word in words {
                    names.extend(index.lookup(word)?.into_iter().filter(|name| self.get(name).is_some()));
                }
                if !names.is_empty() {
                    let _ = write!(line, " {keyword} {}", names.join(" "));
                }
            }
            if !line.is_empty() {
                let _ = writeln!(text, "softdep {}{line}", module.name);
            }
        }
        Ok(text)
    }
}

/// What was asked for, before its dependencies.
struct Selection<'a> {
    index: &'a ModuleIndex,
    closure: ModuleClosure,
    wanted: BTreeSet<String>,
}

impl Selection<'_> {
    /// Takes one name; whether the kernel has it.
    fn take(&mut self, name: &str) -> bool {
        let name = normalise(name);
        if self.index.is_module(&name) {
            self.wanted.insert(name);
        } else if self.index.is_builtin(&name) {
            self.closure.builtin.insert(name);
        } else {
            return false;
        }
        true
    }

    /// Takes everything a glob matches; whether that is anything.
    fn take_glob(&mut self, glob: &str) -> Result<bool> {
        let by_path = glob.contains('/');
        let matcher = matcher(if by_path { glob.to_owned() } else { normalise(glob) })?;
        let matches = |(name, path): (&str, &str)| {
            let below = path.strip_prefix("kernel/").unwrap_or(path);
            let fits = if by_path { matcher.is_match(path) || matcher.is_match(below) } else { matcher.is_match(name) };
            fits.then(|| name.to_owned())
        };
        let modules: Vec<String> = self.index.modules().filter_map(matches).collect();
        let builtin: Vec<String> = self.index.builtins().filter_map(matches).collect();
        let any = !modules.is_empty() || !builtin.is_empty();
        self.wanted.extend(modules);
        self.closure.builtin.extend(builtin);
        Ok(any)
    }

    fn request(&mut self, request: &str) -> Result<()> {
        if let Some(set) = sets::find(request) {
            for member in set.members {
                let found = if member.contains('/') { self.take_glob(member)? } else { self.take(member) };
                if !found {
                    self.closure.absent.push(Absent { set: set.name, member });
                }
            }
            return Ok(());
        }
        let is_glob = request.contains(['*', '?', '[', '{']);
        if is_glob || request.contains('/') {
            if self.take_glob(request)? {
                return Ok(());
            }
            let (what, nearest) = if is_glob {
                ("a glob that matches no module and no built-in", Vec::new())
            } else {
                ("no named set and no path of a module", index::nearest(request, sets::SETS.iter().map(|set| set.name)))
            };
            return Err(self.unknown(request, what, nearest));
        }
        // Someone may write what they see: a file name.
        let name = index::module_name(request);
        if !self.take(&name) {
            return Err(self.unknown(request, "neither a module nor a built-in", self.index.nearest(&name)));
        }
        if self.index.is_module(&name) && !self.closure.named.contains(&name) {
            self.closure.named.push(name);
        }
        Ok(())
    }

    fn unknown(&self, name: &str, what: &'static str, nearest: Vec<String>) -> Error {
        Error::UnknownModule { name: name.to_owned(), what, release: self.index.release.clone(), nearest }
    }
}

fn matcher(glob: String) -> Result<GlobMatcher> {
    GlobBuilder::new(&glob)
        .literal_separator(true)
        .build()
        .map(|compiled| compiled.compile_matcher())
        .map_err(|e| Error::Glob { reason: e.kind().to_string(), glob })
}

/// Reads the wanted modules and all they need, hard and soft.
fn gather(index: &ModuleIndex, wanted: BTreeSet<String>) -> Result<BTreeMap<String, Module>> {
    let mut todo: Vec<String> = wanted.into_iter().collect();
    let mut gathered = BTreeMap::new();
    while let Some(name) = todo.pop() {
        if gathered.contains_key(&name) {
            continue;
        }
        let Some(file) = index.files.get(&name) else { continue };
        let (content, info) = file.load()?;
        for dependency in &info.depends {
            if index.is_module(dependency) {
                todo.push(dependency.clone());
            } else if !index.is_builtin(dependency) {
                return Err(Error::MissingDependency {
                    module: name,
                    dependency: dependency.clone(),
                    release: index.release.clone(),
                });
            }
        }
        // Soft dependencies are wishes: what is not there is no error.
        for word in info.pre.iter().chain(&info.post) {
            todo.extend(index.lookup(word)?);
        }
        gathered.insert(name.clone(), Module { name, path: file.path.clone(), content, info });
    }
    Ok(gathered)
}

/// Puts modules after what they depend on, otherwise by name. Soft dependencies do not count: they may go in circles.
fn sort(mut modules: BTreeMap<String, Module>) -> Result<Vec<Module>> {
    /// `waiting`: the modules whose dependencies are being put, outermost first.
    fn put(
        name: &str,
        modules: &mut BTreeMap<String, Module>,
        waiting: &mut Vec<Module>,
        sorted: &mut Vec<Module>,
    ) -> Result<()> {
        if let Some(start) = waiting.iter().position(|module| module.name == name) {
            let modules = waiting[start..].iter().map(|module| module.name.clone()).collect();
            return Err(Error::DependencyCycle { modules });
        }
        let Some(module) = modules.remove(name) else { return Ok(()) };
        let depends = module.info.depends.clone();
        waiting.push(module);
        for dependency in depends {
            put(&dependency, modules, waiting, sorted)?;
        }
        sorted.extend(waiting.pop());
        Ok(())
    }
    let names: Vec<String> = modules.keys().cloned().collect();
    let mut sorted = Vec::with_capacity(names.len());
    for name in names {
        put(&name, &mut modules, &mut Vec::new(), &mut sorted)?;
    }
    Ok(sorted)
}

#[cfg(test)]
mod tests;
