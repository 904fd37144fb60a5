//! How a recipe and its lock disagree.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Lock, LockError, LockedLayer, LockedSource, Pin};
use crate::layer::Layer;
use crate::recipe::Hook;
use crate::{Recipe, Source};

/// Hashes of a recipe's local inputs as they are now. What is not in it is not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalHashes {
    /// By layer: SHA-256 of a `tar` or `file` and of a `debian` layer's inputs, in hex; an `overlay`'s tree hash.
    pub layers: BTreeMap<String, String>,
    /// By [`Hook::id`]: SHA-256 of the script, in hex.
    pub hooks: BTreeMap<String, String>,
    /// SHA-256 of `root.ca`, in hex.
    pub ca: Option<String>,
}

impl LocalHashes {
    /// Hashes what needs nothing but reading: the scripts of hooks, `root.ca`, and the files of `tar` and `file` layers.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn of_files(recipe: &Recipe) -> Result<Self, LockError> {
        let hash = |path: &Path| sha256_of(path).map_err(|source| LockError::Read { path: path.to_owned(), source });
        let mut hashes = Self::default();
        for layer in &recipe.layers {
            let path = match &layer.source {
                Source::Tar(tar) => &tar.path,
                Source::File(file) => &file.path,
                _ => continue,
            };
            hashes.layers.insert(layer.name.clone(), hash(path)?);
        }
        for hook in &recipe.hooks {
            hashes.hooks.insert(hook.id(), hash(&hook.script)?);
        }
        hashes.ca = recipe.root.ca.as_deref().map(hash).transpose()?;
        Ok(hashes)
    }
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Hook {
    /// What tells it from the recipe's other hooks: `STAGE/NAME`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.stage.as_str(), self.name)
    }
}

/// One thing that is different in the recipe since its lock was written. It prints as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// The image's name.
    Name {
        /// In the lock.
        locked: String,
        /// In the recipe.
        recipe: String,
    },
    /// The image's machine type.
    Arch {
        /// In the lock.
        locked: String,
        /// In the recipe.
        recipe: String,
    },
    /// The recipe has a layer that the lock has not.
    LayerAdded {
        /// The layer.
        layer: String,
    },
    /// The lock has a layer that the recipe has not.
    LayerRemoved {
        /// The layer.
        layer: String,
    },
    /// The layers are the same, but not in the same order.
    LayersReordered {
        /// The recipe's order.
        layers: Vec<String>,
    },
    /// A layer says something else.
    Layer {
        /// The layer.
        layer: String,
        /// Which of its properties: a recipe's key.
        key: String,
        /// In the lock; empty for nothing.
        locked: String,
        /// In the recipe; empty for nothing.
        recipe: String,
    },
    /// A layer of packages asks for others.
    Packages {
        /// The layer.
        layer: String,
        /// Asked for now.
        added: Vec<String>,
        /// No longer asked for.
        removed: Vec<String>,
    },
    /// Something about a layer of packages that the lock has only a hash of.
    Inputs {
        /// The layer.
        layer: String,
    },
    /// A local file or folder has another content.
    Content {
        /// The layer.
        layer: String,
        /// The file or folder.
        path: String,
    },
    /// The recipe has a hook that the lock has not.
    HookAdded {
        /// `STAGE/NAME`.
        hook: String,
    },
    /// The lock has a hook that the recipe has not.
    HookRemoved {
        /// `STAGE/NAME`.
        hook: String,
    },
    /// A hook's script is another file.
    HookScript {
        /// `STAGE/NAME`.
        hook: String,
        /// In the lock.
        locked: String,
        /// In the recipe.
        recipe: String,
    },
    /// A hook's script has another content.
    HookContent {
        /// `STAGE/NAME`.
        hook: String,
        /// The script.
        path: String,
    },
    /// `root.ca` is new, gone, or has another content.
    Ca,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { locked, recipe } => {
                write!(f, "the lock is for the image `{locked}`, the recipe is `{recipe}`")
            }
            Self::Arch { locked, recipe } => write!(f, "the lock is for {locked}, the recipe for {recipe}"),
            Self::LayerAdded { layer } => write!(f, "layer `{layer}` is new"),
            Self::LayerRemoved { layer } => write!(f, "layer `{layer}` is gone"),
            Self::LayersReordered { layers } => write!(f, "the layers have another order, now {}", layers.join(", ")),
            Self::Layer { layer, key, locked, recipe } => match (locked.as_str(), recipe.as_str()) {
                ("", recipe) => write!(f, "layer `{layer}` has a {key} now, {recipe}"),
                (locked, "") => write!(f, "layer `{layer}` has no {key} any more, was {locked}"),
                (locked, recipe) => write!(f, "layer `{layer}` has another {key}, was {locked}, is now {recipe}"),
            },
            Self::Packages { layer, added, removed } => {
                let more = (!added.is_empty()).then(|| format!("asks for {}", added.join(", ")));
                let less = (!removed.is_empty()).then(|| format!("no longer asks for {}", removed.join(", ")));
                let both: Vec<String> = more.into_iter().chain(less).collect();
                write!(f, "layer `{layer}` {}", both.join(" and "))
            }
            Self::Inputs { layer } => {
                write!(f, "layer `{layer}` has other components, repositories, keys, variant or path filters")
            }
            Self::Content { layer, path } => write!(f, "layer `{layer}` has another content, {path} changed"),
            Self::HookAdded { hook } => write!(f, "hook `{hook}` is new"),
            Self::HookRemoved { hook } => write!(f, "hook `{hook}` is gone"),
            Self::HookScript { hook, locked, recipe } => {
                write!(f, "hook `{hook}` has another script, was {locked}, is now {recipe}")
            }
            Self::HookContent { hook, path } => write!(f, "hook `{hook}` has another content, {path} changed"),
            Self::Ca => f.write_str("the certificates of `root.ca` are others"),
        }
    }
}

impl Lock {
    /// The pinned form of a layer, if the lock has it and it still says what the recipe says. `hash` is the layer's
    /// entry in [`LocalHashes::layers`], if any.
    #[must_use]
    pub fn layer(&self, recipe: &Recipe, layer: &Layer, hash: Option<&str>) -> Option<&LockedLayer> {
        let locked = self.layers.iter().find(|locked| locked.name == layer.name)?;
        (self.arch == recipe.image.arch && layer_changes(locked, recipe, layer, hash).is_empty()).then_some(locked)
    }

    /// All that is different in the recipe since the lock was written; nothing when they agree.
    #[must_use]
    pub fn disagreements(&self, recipe: &Recipe, now: &LocalHashes) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.recipe != recipe.image.name {
            changes.push(Change::Name { locked: self.recipe.clone(), recipe: recipe.image.name.clone() });
        }
        if self.arch != recipe.image.arch {
            let (locked, recipe) = (self.arch.to_string(), recipe.image.arch.to_string());
            changes.push(Change::Arch { locked, recipe });
        }
        self.layers_changes(recipe, now, &mut changes);
        self.hooks_changes(recipe, now, &mut changes);
        let other = now.ca.is_some() && now.ca != self.ca;
        if other || recipe.root.ca.is_some() != self.ca.is_some() {
            changes.push(Change::Ca);
        }
        changes
    }

    fn layers_changes(&self, recipe: &Recipe, now: &LocalHashes, changes: &mut Vec<Change>) {
        for layer in &recipe.layers {
            match self.layers.iter().find(|locked| locked.name == layer.name) {
                Some(locked) => {
                    let hash = now.layers.get(&layer.name).map(String::as_str);
                    changes.extend(layer_changes(locked, recipe, layer, hash));
                }
                None => changes.push(Change::LayerAdded { layer: layer.name.clone() }),
            }
        }
        let known = |name: &str| recipe.layers.iter().any(|layer| layer.name == name);
        for locked in self.layers.iter().filter(|locked| !known(&locked.name)) {
            changes.push(Change::LayerRemoved { layer: locked.name.clone() });
        }
        let before: Vec<&str> = self.layers.iter().map(|l| l.name.as_str()).filter(|name| known(name)).collect();
        let after: Vec<&str> = recipe.layers.iter().map(|l| l.name.as_str()).filter(|n| before.contains(n)).collect();
        if before != after {
            let layers = recipe.layers.iter().map(|layer| layer.name.clone()).collect();
            changes.push(Change::LayersReordered { layers });
        }
    }

    fn hooks_changes(&self, recipe: &Recipe, now: &LocalHashes, changes: &mut Vec<Change>) {
        let id = |hook: &super::LockedHook| format!("{}/{}", hook.stage.as_str(), hook.name);
        for hook in &recipe.hooks {
            let Some(locked) = self.hooks.iter().find(|locked| id(locked) == hook.id()) else {
                changes.push(Change::HookAdded { hook: hook.id() });
                continue;
            };
            let path = recipe.relative(&hook.script);
            if locked.script != path {
                changes.push(Change::HookScript { hook: hook.id(), locked: locked.script.clone(), recipe: path });
            } else if now.hooks.get(&hook.id()).is_some_and(|hash| *hash != locked.sha256) {
                changes.push(Change::HookContent { hook: hook.id(), path });
            }
        }
        for locked in &self.hooks {
            if !recipe.hooks.iter().any(|hook| hook.id() == id(locked)) {
                changes.push(Change::HookRemoved { hook: id(locked) });
            }
        }
    }
}

/// How a layer differs from its locked form.
fn layer_changes(locked: &LockedLayer, recipe: &Recipe, layer: &Layer, hash: Option<&str>) -> Vec<Change> {
    let name = &layer.name;
    let differs = |key: &str, locked: &str, recipe: &str| {
        let (layer, key) = (name.clone(), key.to_owned());
        (locked != recipe).then(|| Change::Layer { layer, key, locked: locked.to_owned(), recipe: recipe.to_owned() })
    };
    // What a lock written now would say; the hashes that only a build finds are left out of the comparison.
    let wanted = LockedLayer::new(recipe, layer, Pin::default()).source;
    let content = |path: &str, locked: &str| {
        let changed = hash.is_some_and(|hash| hash != locked);
        changed.then(|| Change::Content { layer: name.clone(), path: path.to_owned() })
    };
    match (&locked.source, &wanted) {
        (LockedSource::Oci { image: old, .. }, LockedSource::Oci { image: new, .. }) => {
            differs("oci", old, new).into_iter().collect()
        }
        (LockedSource::Url { url: old, sha256: old_hash }, LockedSource::Url { url: new, sha256: new_hash }) => {
            differs("url", old, new).into_iter().chain(differs("sha256", old_hash, new_hash)).collect()
        }
        (LockedSource::Tar { path: old, sha256 }, LockedSource::Tar { path: new, .. })
        | (LockedSource::File { path: old, sha256 }, LockedSource::File { path: new, .. })
        | (LockedSource::Overlay { path: old, tree: sha256 }, LockedSource::Overlay { path: new, .. }) => {
            differs(wanted.kind(), old, new).or_else(|| content(new, sha256)).into_iter().collect()
        }
        (
            LockedSource::Debian {
                suite: old, mirror: old_mirror, snapshot: old_time, asked: old_asked, inputs, ..
            },
            LockedSource::Debian { suite, mirror, snapshot, asked, .. },
        ) => {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let mut changes: Vec<Change> = differs("suite", old, suite)
                .into_iter()
                .chain(differs("mirror", &text(old_mirror), &text(mirror)))
                .chain(differs("snapshot", &text(old_time), &text(snapshot)))
                .collect();
            let without = |list: &[String], other: &[String]| -> Vec<String> {
                list.iter().filter(|item| !other.contains(item)).cloned().collect()
            };
            let (added, removed) = (without(asked, old_asked), without(old_asked, asked));
            if !added.is_empty() || !removed.is_empty() {
                changes.push(Change::Packages { layer: name.clone(), added, removed });
            }
            if changes.is_empty() && hash.is_some_and(|hash| hash != inputs) {
                changes.push(Change::Inputs { layer: name.clone() });
            }
            changes
        }
        (old, new) => differs("kind", old.kind(), new.kind()).into_iter().collect(),
    }
}
