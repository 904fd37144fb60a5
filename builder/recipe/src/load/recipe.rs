//! The recipe's tables but its layers.

use std::collections::HashMap;

use super::Problems;
use super::decode::{
    Decode, Fields, InnerGlob, InnerPath, Want, choice, choices, integer, local_path, quoted, tables, wrong,
};
use super::layers::{layer, name, place};
use super::merge::name_of;
use super::tests::{filled, test};
use super::value::{Node, Span, Table, Value};
use crate::check::Test;
use crate::diagnostics::Diagnostic;
use crate::recipe::{
    Algorithm, Allow, Arch, Budget, Compression, Delivery, Firmware, Hook, Image, Kernel, Lint, OnFailure, Overlay,
    Prune, PruneGroup, Recipe, Root, Stage, Tmpfs, folder_mode, minute,
};
use crate::values::{ByteSize, Seconds};

pub(crate) const RECIPE: &[&str] =
    &["include", "image", "params", "layer", "prune", "kernel", "root", "tmpfs", "hook", "budget", "test", "lint"];
pub(crate) const IMAGE: &[&str] = &["name", "version", "arch", "source_date_epoch"];
pub(crate) const PRUNE: &[&str] = &["paths", "keep", "group"];
pub(crate) const PRUNE_GROUP: &[&str] = &["name", "paths", "keep"];
pub(crate) const KERNEL: &[&str] = &["version", "modules", "firmware", "cmdline"];
pub(crate) const ROOT: &[&str] = &["delivery", "compression", "overlay", "ca"];
pub(crate) const COMPRESSION: &[&str] = &["algorithm", "level", "block"];
pub(crate) const OVERLAY: &[&str] = &["size"];
pub(crate) const TMPFS: &[&str] = &["path", "size", "mode"];
pub(crate) const HOOK: &[&str] = &["name", "stage", "script", "timeout", "on_failure"];
pub(crate) const BUDGET: &[&str] = &["ram", "root"];
pub(crate) const LINT: &[&str] = &["allow"];
pub(crate) const ALLOW: &[&str] = &["rule", "path", "reason"];

choices!(Arch { "amd64" => Arch::Amd64, "arm64" => Arch::Arm64 });
choices!(Firmware { "needed" => Firmware::Needed, "present" => Firmware::Present, "none" => Firmware::None });
choices!(Delivery { "fetch" => Delivery::Fetch, "embed" => Delivery::Embed });
choices!(Algorithm {
    "zstd" => Algorithm::Zstd, "gzip" => Algorithm::Gzip, "xz" => Algorithm::Xz, "lz4" => Algorithm::Lz4,
    "lzo" => Algorithm::Lzo
});
choices!(Stage { "pre-network" => Stage::PreNetwork, "pre-init" => Stage::PreInit, "online" => Stage::Online });
choices!(OnFailure { "continue" => OnFailure::Continue, "reboot" => OnFailure::Reboot, "halt" => OnFailure::Halt });

/// Makes the recipe of the merged table. `None` where something is wrong, which is reported.
pub(crate) fn decode(table: &Table, problems: &mut Problems) -> Option<Recipe> {
    let whole = Span { file: 0, range: 0..0 };
    let fields = Fields::of_table(table, &whole, "the recipe", RECIPE, problems);
    let image = match fields.node("image") {
        Some(node) => Image::decode(node, problems),
        None => {
            if fields.is_missing("image", problems) {
                let help = "start it with:\n[image]\nname = \"worker\"";
                problems.whole(Diagnostic::new("the recipe has no [image]").help(help));
            }
            None
        }
    };
    let layer_nodes = tables(fields.node("layer"), "layer", problems);
    let layers: Vec<_> = layer_nodes.iter().map(|node| layer(node, problems)).collect();
    let named = layer_nodes.iter().filter_map(|node| Some((node, name_of(node, "layer")?.to_owned())));
    unique(named, "two layers are called", problems);
    if fields.node("layer").is_none() && fields.node("image").is_some() && fields.is_missing("layer", problems) {
        let help = "give it a [[layer]], where its files come from";
        problems.whole(Diagnostic::new("the recipe has no layer").help(help));
    }
    let hook_nodes = tables(fields.node("hook"), "hook", problems);
    let hooks: Vec<_> = hook_nodes.iter().map(|node| hook(node, problems)).collect();
    let named = hook_nodes.iter().zip(&hooks).filter_map(|(node, hook)| {
        let hook = hook.as_ref()?;
        Some((node, format!("{}/{}", hook.stage.as_str(), hook.name)))
    });
    unique(named, "two hooks are", problems);
    let tmpfs_nodes = tables(fields.node("tmpfs"), "tmpfs", problems);
    let mounts: Vec<_> = tmpfs_nodes.iter().map(|node| tmpfs(node, problems)).collect();
    let named = tmpfs_nodes.iter().zip(&mounts).filter_map(|(node, mount)| Some((node, mount.as_ref()?.path.clone())));
    unique(named, "two [[tmpfs]] have the path", problems);
    let test_nodes = tables(fields.node("test"), "test", problems);
    let names: Vec<String> = hooks.iter().flatten().map(|hook| hook.name.clone()).collect();
    // Those of a hook that is not right are not known.
    let names = (hooks.iter().all(Option::is_some) && !problems.incomplete()).then_some(names);
    let tests: Vec<_> = test_nodes.iter().map(|node| test(node, names.as_deref(), problems)).collect();
    let params = match fields.node("params").map(|node| (node, &node.value)) {
        Some((_, Value::Table(table))) => table.iter().map(|(k, e)| (k.clone(), e.node.to_toml())).collect(),
        Some((node, _)) => {
            wrong(node, Diagnostic::new(format!("`params` is a table, not {}", node.kind())), problems);
            Default::default()
        }
        None => Default::default(),
    };
    let kernel = fields.optional("kernel", problems);
    let (prune, root) = (fields.or_default("prune", problems), fields.or_default("root", problems));
    let (budget, lint) = (fields.or_default("budget", problems), fields.or_default("lint", problems));
    Some(Recipe {
        include: Vec::new(),
        image: image?,
        params,
        layers: layers.into_iter().collect::<Option<_>>()?,
        prune,
        kernel,
        root,
        tmpfs: mounts.into_iter().collect::<Option<_>>()?,
        hooks: hooks.into_iter().collect::<Option<_>>()?,
        budget,
        tests: tests.into_iter().collect::<Option<_>>()?,
        lint,
        dir: Default::default(),
        files: Vec::new(),
    })
}

/// Makes the tests of a merged table that may have nothing else but parameters.
pub(crate) fn decode_tests(table: &Table, problems: &mut Problems) -> Vec<Test> {
    let whole = Span { file: 0, range: 0..0 };
    let fields = Fields::of_table(table, &whole, "a file of tests", &["include", "params", "test"], problems);
    let nodes = tables(fields.node("test"), "test", problems);
    if nodes.is_empty() && fields.is_missing("test", problems) {
        problems.whole(Diagnostic::new("there is no [[test]]").help("a file of tests has nothing but these"));
    }
    nodes.iter().filter_map(|node| test(node, None, problems)).collect()
}

/// Reports names that several entries of a list have.
fn unique<'a>(entries: impl Iterator<Item = (&'a Node, String)>, message: &str, problems: &mut Problems) {
    let mut seen: HashMap<String, &Node> = HashMap::new();
    for (node, name) in entries {
        if let Some(first) = seen.get(&name) {
            let mut diagnostic = Diagnostic::new(format!("{message} `{}`", name.escape_debug()));
            diagnostic.related.extend(problems.related("the first one", &first.at));
            problems.at(&node.at, diagnostic);
        } else {
            seen.insert(name, node);
        }
    }
}

impl Decode for Image {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "[image]", IMAGE, problems)?;
        let name = fields.required_node("name", problems).and_then(|node| image_name(node, problems));
        let version = fields.node("version").and_then(|node| version(node, problems));
        let epoch = fields.node("source_date_epoch").and_then(|node| integer(node, 0, u32::MAX.into(), problems));
        let arch = fields.or_default("arch", problems);
        Some(Self { name: name?, version, arch, source_date_epoch: epoch.and_then(|epoch| epoch.try_into().ok()) })
    }
}

/// Image names are repository names at last, hence lower-case.
fn image_name(node: &Node, problems: &mut Problems) -> Option<String> {
    let text = String::decode(node, problems)?;
    let fits = text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
    if !fits {
        let help =
            "an image's name has lower-case letters, digits, `.`, `_` and `-`, and starts with a letter or digit";
        wrong(node, Diagnostic::new(format!("{} is not a name for an image", quoted(&text))).help(help), problems);
    }
    fits.then_some(text)
}

fn version(node: &Node, problems: &mut Problems) -> Option<String> {
    let text = String::decode(node, problems)?;
    let fits = text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'~' | b'-'));
    if !fits {
        let help = "a version has letters, digits, `.`, `_`, `+`, `~` and `-`, and starts with a letter or digit";
        wrong(node, Diagnostic::new(format!("{} is not a version", quoted(&text))).help(help), problems);
    }
    fits.then_some(text)
}

fn globs(fields: &Fields<'_>, key: &str, problems: &mut Problems) -> Vec<String> {
    let globs: Vec<InnerGlob> = fields.optional(key, problems).unwrap_or_default();
    globs.into_iter().map(|glob| glob.0).collect()
}

impl Decode for Prune {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "[prune]", PRUNE, problems)?;
        let nodes = tables(fields.node("group"), "prune.group", problems);
        let groups: Vec<_> = nodes.iter().map(|node| prune_group(node, problems)).collect();
        let named = nodes.iter().filter_map(|node| Some((node, name_of(node, "group")?.to_owned())));
        unique(named, "two [[prune.group]] are called", problems);
        let (paths, keep) = (globs(&fields, "paths", problems), globs(&fields, "keep", problems));
        Some(Self { paths, keep, groups: groups.into_iter().collect::<Option<_>>()? })
    }
}

fn prune_group(node: &Node, problems: &mut Problems) -> Option<PruneGroup> {
    let fields = Fields::of(node, "[[prune.group]]", PRUNE_GROUP, problems)?;
    let name = fields.required_node("name", problems).and_then(|node| name(node, "a group", problems));
    let (paths, keep) = (globs(&fields, "paths", problems), globs(&fields, "keep", problems));
    Some(PruneGroup { name: name?, paths, keep })
}

impl Decode for Kernel {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "[kernel]", KERNEL, problems)?;
        let mut kernel = Self::default();
        if let Some(version) = fields.node("version") {
            kernel.version = pattern(version, "a kernel release, like \"6.1.*\"", problems).unwrap_or_default();
        }
        kernel.modules = lines(&fields, "modules", problems);
        kernel.cmdline = lines(&fields, "cmdline", problems);
        kernel.firmware = fields.or_default("firmware", problems);
        Some(kernel)
    }
}

fn pattern(node: &Node, what: &str, problems: &mut Problems) -> Option<String> {
    let text = String::decode(node, problems)?;
    let fits = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
    if !fits {
        wrong(node, Diagnostic::new(format!("{} is not {what}", quoted(&text))), problems);
    }
    fits.then_some(text)
}

/// A list of strings, none of them empty or longer than a line.
fn lines(fields: &Fields<'_>, key: &str, problems: &mut Problems) -> Vec<String> {
    let Some(node) = fields.node(key) else { return Vec::new() };
    let Value::Array(items) = &node.value else {
        return Vec::decode(node, problems).unwrap_or_default();
    };
    let mut result = Vec::new();
    for item in items {
        let Some(text) = String::decode(item, problems) else { continue };
        if text.trim().is_empty() || text.contains(|c: char| c.is_control()) {
            wrong(item, Diagnostic::new(format!("{} is empty or has control characters", quoted(&text))), problems);
        } else {
            result.push(text);
        }
    }
    result
}

impl Decode for Root {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "[root]", ROOT, problems)?;
        Some(Self {
            delivery: fields.or_default("delivery", problems),
            compression: fields.or_default("compression", problems),
            overlay: fields.or_default("overlay", problems),
            ca: fields.node("ca").and_then(|node| local_path(node, Want::File, problems)),
        })
    }
}

impl Decode for Compression {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "`compression`", COMPRESSION, problems)?;
        let mut compression = Self { algorithm: fields.or_default("algorithm", problems), ..Self::default() };
        let highest = match compression.algorithm {
            Algorithm::Zstd => 22,
            Algorithm::Gzip | Algorithm::Xz | Algorithm::Lzo => 9,
            Algorithm::Lz4 => 12,
        };
        let level = fields.node("level").and_then(|node| integer(node, 1, highest, problems));
        if let Some(level) = level.and_then(|level| level.try_into().ok()) {
            compression.level = level;
        }
        if let Some(node) = fields.node("block") {
            compression.block = ByteSize::decode(node, problems).unwrap_or(compression.block);
            let bytes = compression.block.0;
            if !bytes.is_power_of_two() || !(4 << 10..=1 << 20).contains(&bytes) {
                let message = format!("squashfs has no blocks of {bytes} bytes");
                wrong(node, Diagnostic::new(message).help("write a power of two from \"4K\" to \"1M\""), problems);
            }
        }
        Some(compression)
    }
}

impl Decode for Overlay {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "`overlay`", OVERLAY, problems)?;
        let default = Self::default();
        Some(Self { size: fields.optional("size", problems).unwrap_or(default.size) })
    }
}

fn tmpfs(node: &Node, problems: &mut Problems) -> Option<Tmpfs> {
    let fields = Fields::of(node, "[[tmpfs]]", TMPFS, problems)?;
    let path = fields.required_node("path", problems).and_then(|node| mount_point(node, problems));
    let size = match fields.node("size") {
        None if fields.is_missing("size", problems) => {
            let diagnostic = Diagnostic::new("[[tmpfs]] lacks `size`");
            let help = "a tmpfs without a size promises half the RAM; write one like \"20%\" or \"512MiB\"";
            problems.at(fields.at(), diagnostic.help(help));
            None
        }
        _ => fields.optional("size", problems),
    };
    let mode = match fields.node("mode") {
        Some(_) => fields.optional("mode", problems)?,
        None => folder_mode(),
    };
    Some(Tmpfs { path: path?, size: size?, mode, place: place(&node.at, problems).0 })
}

fn mount_point(node: &Node, problems: &mut Problems) -> Option<String> {
    let InnerPath(path) = InnerPath::decode(node, problems)?;
    if path == "/" {
        wrong(node, Diagnostic::new("`/` is the root itself").help("its tmpfs is [root] overlay"), problems);
        return None;
    }
    Some(path)
}

fn hook(node: &Node, problems: &mut Problems) -> Option<Hook> {
    let fields = Fields::of(node, "[[hook]]", HOOK, problems)?;
    let script_node = fields.required_node("script", problems);
    let script = script_node.and_then(|node| local_path(node, Want::File, problems));
    let given = fields.node("name").map(|node| name(node, "a hook", problems));
    let stage = fields.required("stage", problems);
    let timeout: Option<Seconds> = fields.optional("timeout", problems);
    let on_failure = fields.or_default("on_failure", problems);
    let script = script?;
    let name = match given {
        Some(name) => name?,
        // The script's own name, held to the same rules.
        None => {
            let own = script.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let at = script_node.map_or_else(|| node.at.clone(), |node| node.at.clone());
            name(&Node::new(Value::String(own), at), "a hook", problems)?
        }
    };
    let place = place(&node.at, problems).0;
    Some(Hook { name, stage: stage?, script, timeout: timeout.unwrap_or_else(minute), on_failure, place })
}

impl Decode for Budget {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "[budget]", BUDGET, problems)?;
        Some(Self { ram: fields.optional("ram", problems), root: fields.optional("root", problems) })
    }
}

impl Decode for Lint {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "[lint]", LINT, problems)?;
        Some(Self { allow: fields.or_default("allow", problems) })
    }
}

impl Decode for Allow {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "`allow`", ALLOW, problems)?;
        let rule = fields.required_node("rule", problems).and_then(|node| filled(node, problems));
        let path: Option<InnerGlob> = fields.optional("path", problems);
        let reason = fields.required_node("reason", problems).and_then(|node| filled(node, problems));
        let place = place(&node.at, problems).0;
        Some(Self { rule: rule?, path: path.map(|glob| glob.0), reason: reason?, place })
    }
}
