//! What manifest and initrd say: artifacts, kernel, layers, RAM, tests, hooks, settings.

use std::collections::{BTreeMap, BTreeSet};

use imgbuild_tree::Kind;
use netboot_init::config::{self, Config};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::files::{self, Files};
use super::side::Contents;
use super::{Change, DiffError, Pair, Side};
use crate::ROOT;
use crate::manifest::{FileEntry, Kernel, LayerEntry, Manifest, Ram};

/// What differs that manifest and initrd tell. What does not differ is null or empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Facts {
    /// The bundles' own files that differ in their bytes, the manifest among them; or the images.
    pub artifacts: Vec<Artifact>,
    /// Kernel and what of it is in the initrd.
    pub kernel: Option<KernelChange>,
    /// Layers that were added or removed, or have another source, digest or content.
    pub layers: Vec<LayerChange>,
    /// Whether the layers that both have lie in another order.
    pub layers_reordered: bool,
    /// RAM budget and need, in bytes.
    pub ram: Option<Pair<Ram>>,
    /// Tests that one of them has only, as the recipe has them; a changed test is a removed and an added one.
    pub tests: Words<Value>,
    /// Hooks.
    pub hooks: Vec<HookChange>,
    /// What else `netboot-init` is told: tmpfs mounts, size of the overlay, modules that are always loaded.
    pub settings: Vec<SettingChange>,
    /// Delivery of the root, by name: `fetch` or `embed`.
    pub delivery: Option<Pair<String>>,
    /// Files in the initrd, its configuration aside: each build has another.
    pub initrd_files: Option<Files>,
}

/// What only one of them has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Words<T> {
    /// Only in the second.
    pub added: Vec<T>,
    /// Only in the first.
    pub removed: Vec<T>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Artifact {
    /// Its name in the bundle.
    pub name: String,
    /// What happened to it.
    pub change: Change,
    /// In the first.
    pub before: Option<FileEntry>,
    /// In the second.
    pub after: Option<FileEntry>,
}

/// How kernel and initrd differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KernelChange {
    /// Its release, where that differs; null on a side without kernel.
    pub release: Option<Pair<Option<String>>>,
    /// The command line, where that differs, be it in its order only.
    pub cmdline: Option<Pair<Vec<String>>>,
    /// Modules in the initrd.
    pub modules: Words<String>,
    /// Firmware files in the initrd.
    pub firmware: Words<String>,
}

/// A layer that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LayerChange {
    /// Its name in the recipe.
    pub name: String,
    /// What happened to it.
    pub change: Change,
    /// In the first.
    pub before: Option<LayerEntry>,
    /// In the second.
    pub after: Option<LayerEntry>,
}

/// A hook that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HookChange {
    /// `STAGE/NAME`.
    pub name: String,
    /// What happened to it.
    pub change: Change,
    /// Of a changed hook: `script`, `timeout`, `on_failure`.
    pub what: Vec<&'static str>,
}

/// A setting that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SettingChange {
    /// `tmpfs /var/lib/kubelet`, `overlay`, `modules`.
    pub name: String,
    /// What happened to it.
    pub change: Change,
    /// In the first.
    pub before: Option<String>,
    /// In the second.
    pub after: Option<String>,
}

impl Facts {
    pub(super) fn of(before: &Side, after: &Side) -> Result<Self, DiffError> {
        let mut facts = Self { artifacts: artifacts(before, after), ..Self::default() };
        match (before.manifest(), after.manifest()) {
            (Some(a), Some(b)) => {
                facts.manifests(a, b);
                facts.initrds(before.initrd.as_ref(), after.initrd.as_ref())?;
            }
            // An image is a root and nothing else.
            _ => facts.artifacts.retain(|artifact| artifact.name == ROOT),
        }
        Ok(facts)
    }

    /// Whether nothing differs.
    pub(super) fn are_empty(&self) -> bool {
        *self == Self::default()
    }

    fn manifests(&mut self, a: &Manifest, b: &Manifest) {
        self.kernel = kernel(a.kernel.as_ref(), b.kernel.as_ref());
        self.layers = layers(&a.layers, &b.layers);
        self.layers_reordered = reordered(&a.layers, &b.layers);
        self.ram = Pair::if_different(a.ram.clone(), b.ram.clone());
        self.tests = words(&a.tests, &b.tests);
        self.delivery = Pair::if_different(a.delivery.clone(), b.delivery.clone());
    }

    fn initrds(&mut self, a: Option<&Contents>, b: Option<&Contents>) -> Result<(), DiffError> {
        let of = |side: Option<&Contents>| (hooks(side), side.map(|s| settings(&s.config)).unwrap_or_default());
        let ((hooks_a, settings_a), (hooks_b, settings_b)) = (of(a), of(b));
        self.hooks = changes(&hooks_a, &hooks_b, |name, change, a, b| HookChange {
            name,
            change,
            what: match (a, b) {
                (Some(a), Some(b)) => {
                    a.iter().zip(b).filter(|(one, two)| one != two).map(|((key, _), _)| *key).collect()
                }
                _ => Vec::new(),
            },
        });
        self.settings = changes(&settings_a, &settings_b, |name, change, a, b| SettingChange {
            name,
            change,
            before: a.cloned(),
            after: b.cloned(),
        });
        if let (Some(a), Some(b)) = (a, b) {
            let mut found = files::compare(&a.root, &b.root)?;
            let is_config = |path: &str| path == config::PATH;
            found.changed -= found.list.iter().filter(|file| is_config(&file.path)).count() as u64;
            found.list.retain(|file| !is_config(&file.path));
            found.time_only = 0;
            self.initrd_files = Some(found).filter(|found| *found != Files::default());
        }
        Ok(())
    }
}

/// The things that differ between two maps.
fn changes<T: PartialEq, R>(
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    make: impl Fn(String, Change, Option<&T>, Option<&T>) -> R,
) -> Vec<R> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let each = names.into_iter().map(|name| (name, before.get(name), after.get(name)));
    each.filter(|(_, a, b)| a != b).map(|(name, a, b)| make(name.clone(), Change::of(a, b), a, b)).collect()
}

fn artifacts(before: &Side, after: &Side) -> Vec<Artifact> {
    let of = |side: &Side| side.artifacts.iter().cloned().collect::<BTreeMap<_, _>>();
    changes(&of(before), &of(after), |name, change, a, b| Artifact {
        name,
        change,
        before: a.cloned(),
        after: b.cloned(),
    })
}

fn words<T: PartialEq + Clone>(before: &[T], after: &[T]) -> Words<T> {
    let only = |these: &[T], others: &[T]| these.iter().filter(|t| !others.contains(t)).cloned().collect();
    Words { added: only(after, before), removed: only(before, after) }
}

fn kernel(before: Option<&Kernel>, after: Option<&Kernel>) -> Option<KernelChange> {
    if before == after {
        return None;
    }
    let release = |kernel: Option<&Kernel>| kernel.map(|k| k.release.clone());
    let list = |kernel: Option<&Kernel>, of: fn(&Kernel) -> &Vec<String>| kernel.map(of).cloned().unwrap_or_default();
    let lists = |of: fn(&Kernel) -> &Vec<String>| (list(before, of), list(after, of));
    let (cmdline_a, cmdline_b) = lists(|k| &k.cmdline);
    let (modules_a, modules_b) = lists(|k| &k.modules);
    let (firmware_a, firmware_b) = lists(|k| &k.firmware);
    Some(KernelChange {
        release: Pair::if_different(release(before), release(after)),
        cmdline: Pair::if_different(cmdline_a, cmdline_b),
        modules: words(&modules_a, &modules_b),
        firmware: words(&firmware_a, &firmware_b),
    })
}

fn layers(before: &[LayerEntry], after: &[LayerEntry]) -> Vec<LayerChange> {
    // The line of the recipe says nothing of the image.
    let of = |layers: &[LayerEntry]| -> BTreeMap<String, LayerEntry> {
        layers.iter().map(|l| (l.name.clone(), LayerEntry { recipe: String::new(), ..l.clone() })).collect()
    };
    let whole = |layers: &[LayerEntry], name: &str| layers.iter().find(|l| l.name == name).cloned();
    changes(&of(before), &of(after), |name, change, _, _| LayerChange {
        change,
        before: whole(before, &name),
        after: whole(after, &name),
        name,
    })
}

/// Whether those that both have lie in another order.
fn reordered(before: &[LayerEntry], after: &[LayerEntry]) -> bool {
    let common = |these: &[LayerEntry], others: &[LayerEntry]| -> Vec<String> {
        let shared = these.iter().filter(|l| others.iter().any(|o| o.name == l.name));
        shared.map(|l| l.name.clone()).collect()
    };
    common(before, after) != common(after, before)
}

type HookFacts = [(&'static str, String); 3];

/// Each hook with all that makes it. In a stage they run by name, so there is no order to compare.
fn hooks(initrd: Option<&Contents>) -> BTreeMap<String, HookFacts> {
    let Some(initrd) = initrd else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    for hook in &initrd.config.hooks {
        let name = format!("{}/{}", word(&hook.stage), hook.name);
        let tree = &initrd.root.tree;
        let script = tree.resolve(format!("{}/{name}", config::HOOKS)).ok().and_then(|id| match &tree.node(id).kind {
            Kind::Regular(content) => imgbuild_tree::sha256(content).ok().map(crate::hex),
            _ => None,
        });
        let facts = [
            ("script", script.unwrap_or_default()),
            ("timeout", hook.timeout.to_string()),
            ("on_failure", word(&hook.on_failure)),
        ];
        all.insert(name, facts);
    }
    all
}

/// What `netboot-init` is told besides hooks, name, version, root and time.
fn settings(config: &Config) -> BTreeMap<String, String> {
    let mut all: BTreeMap<_, _> = config
        .tmpfs
        .iter()
        .map(|t| (format!("tmpfs {}", t.path), format!("size={},mode={:o}", t.size.mount_option(), t.mode)))
        .collect();
    all.insert("overlay".to_owned(), format!("size={}", config.overlay_size.mount_option()));
    all.insert("modules".to_owned(), config.modules.join(" "));
    all
}

/// How a plain enum stands in JSON.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
