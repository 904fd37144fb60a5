//! Kernel and initrd of a bundle.

use std::io::BufWriter;

use imgbuild_bundle::Staging;
use imgbuild_bundle::lint::{DriverState, KernelFacts};
use imgbuild_bundle::manifest::{self, FileEntry};
use imgbuild_initramfs::{Compression, Initrd, Kernel, MissingFirmware, ModuleClosure, ModuleIndex, sets};
use imgbuild_layers::cache::Cache;
use imgbuild_pack::Segments;
use imgbuild_progress::Progress;
use imgbuild_recipe::{Delivery, Firmware, Recipe, Size};
use imgbuild_tree::{Content, FileContent, RootTree};
use netboot_init::config::{self, Config};
use netboot_programs::Programs;
use sha2::{Digest, Sha256};

use crate::failure::{Code, Failure, OrFail, Outcome};

/// The kernel and what of its modules goes into the initrd; the root that they come from as it was before pruning.
pub(super) struct Chosen<'a> {
    recipe: &'a imgbuild_recipe::Kernel,
    delivery: Delivery,
    /// What `root.ca` holds.
    ca: Option<Content>,
    programs: Programs,
    kernel: Kernel,
    index: ModuleIndex,
    modules: ModuleClosure,
    tree: RootTree,
}

/// What was written.
pub(super) struct Written {
    pub(super) kernel: manifest::Kernel,
    pub(super) facts: KernelFacts,
    /// Bytes of the initrd.
    pub(super) size: u64,
    /// Bytes it takes unpacked.
    pub(super) unpacked: u64,
}

/// Finds the recipe's kernel and modules; nothing for a root-only recipe.
pub(super) fn kernel<'a>(recipe: &'a Recipe, tree: &RootTree) -> Outcome<Option<Chosen<'a>>> {
    let Some(wanted) = &recipe.kernel else { return Ok(None) };
    let nodes = recipe.image.arch.as_str();
    let Some(programs) = netboot_programs::for_architecture(nodes) else {
        let carried = netboot_programs::architectures().collect::<Vec<_>>().join(" and ");
        let message = format!(
            "image.arch is {nodes}, and this imgbuild carries a netboot-init for {carried}: an initrd with it would not start; use an \
             imgbuild built for {nodes}, or build one with NETBOOT_PROGRAMS_{} (docs/arm64.md)",
            nodes.to_uppercase()
        );
        return Err(Failure::message(Code::Usage, message));
    };
    let kernel = Kernel::find(tree, Some(&wanted.version)).or_fail(Code::Usage)?;
    let index = ModuleIndex::load(tree, &kernel).or_fail(Code::Failed)?;
    let modules = ModuleClosure::resolve(&index, &wanted.modules).or_fail(Code::Usage)?;
    let delivery = recipe.root.delivery;
    let ca = ca(recipe)?;
    Ok(Some(Chosen { recipe: wanted, delivery, ca, programs, kernel, index, modules, tree: tree.clone() }))
}

impl Chosen<'_> {
    /// A hash over all that comes from here into the bundle.
    pub(super) fn fingerprint(&self) -> Outcome<Vec<u8>> {
        let mut hash = Sha256::new();
        hash.update(imgbuild_tree::sha256(&self.kernel.image).or_fail(Code::Failed)?);
        for module in &self.modules.modules {
            hash.update(&module.path);
            hash.update(imgbuild_tree::sha256(&module.content).or_fail(Code::Failed)?);
        }
        let firmware = imgbuild_initramfs::Firmware::find(&self.tree, &self.kernel.release, &self.modules.modules);
        for file in firmware.or_fail(Code::Failed)?.files {
            hash.update(&file.name);
            hash.update(imgbuild_tree::sha256(&file.content).or_fail(Code::Failed)?);
        }
        for (path, content) in imgbuild_initramfs::microcode(&self.tree).or_fail(Code::Failed)? {
            hash.update(path);
            hash.update(imgbuild_tree::sha256(&content).or_fail(Code::Failed)?);
        }
        hash.update(self.init());
        if let Some(ca) = &self.ca {
            hash.update(imgbuild_tree::sha256(ca).or_fail(Code::Failed)?);
        }
        hash.update(self.recipe.cmdline.join(" "));
        hash.update(format!("{:?}", self.recipe.firmware));
        Ok(hash.finalize().to_vec())
    }

    /// The program that is /init: one that speaks TLS where the recipe says whom to believe.
    fn init(&self) -> &'static [u8] {
        if self.ca.is_some() { self.programs.init_tls } else { self.programs.init }
    }
}

/// What `netboot-init` is told; without the version, which is derived from it.
pub(super) fn config(recipe: &Recipe, kernel: Option<&Chosen<'_>>, epoch: i64, root: &FileEntry) -> Config {
    // What the recipe names itself is loaded on every machine, whether a device asks for it or not.
    let named = kernel.iter().flat_map(|chosen| chosen.modules.named.iter().cloned());
    Config {
        schema: config::SCHEMA,
        name: recipe.image.name.clone(),
        version: String::new(),
        build_time: epoch,
        root: config::Root {
            size: root.size,
            sha256: root.sha256.clone(),
            embedded: recipe.root.delivery == Delivery::Embed,
        },
        overlay_size: size(recipe.root.overlay.size),
        tmpfs: tmpfs(recipe),
        hooks: sorted_hooks(recipe)
            .into_iter()
            .map(|hook| config::Hook {
                name: hook.name.clone(),
                stage: match hook.stage {
                    imgbuild_recipe::Stage::PreNetwork => config::Stage::PreNetwork,
                    imgbuild_recipe::Stage::PreInit => config::Stage::PreInit,
                    imgbuild_recipe::Stage::Online => config::Stage::Online,
                },
                timeout: hook.timeout.0,
                on_failure: match hook.on_failure {
                    imgbuild_recipe::OnFailure::Continue => config::OnFailure::Continue,
                    imgbuild_recipe::OnFailure::Reboot => config::OnFailure::Reboot,
                    imgbuild_recipe::OnFailure::Halt => config::OnFailure::Halt,
                },
            })
            .collect(),
        modules: sets::ALWAYS.iter().map(|name| (*name).to_owned()).chain(named).collect(),
        ram_budget: recipe.budget.ram.map_or(0, |size| size.0),
    }
}

/// The mounts of the recipe, as `netboot-init` is told.
pub(super) fn tmpfs(recipe: &Recipe) -> Vec<config::Tmpfs> {
    let mounts = recipe.tmpfs.iter();
    mounts.map(|t| config::Tmpfs { path: t.path.clone(), size: size(t.size), mode: t.mode.0 }).collect()
}

pub(super) fn size(size: Size) -> config::Size {
    match size {
        Size::Bytes(bytes) => config::Size::Bytes(bytes),
        Size::Percent(percent) => config::Size::Percent(percent),
    }
}

/// By stage, then by name bytewise: the order of their running.
fn sorted_hooks(recipe: &Recipe) -> Vec<&imgbuild_recipe::Hook> {
    let mut hooks: Vec<_> = recipe.hooks.iter().collect();
    hooks.sort_by(|a, b| (a.stage, a.name.as_bytes()).cmp(&(b.stage, b.name.as_bytes())));
    hooks
}

/// The hooks' scripts, by their path below [`config::HOOKS`].
pub(super) fn hooks(recipe: &Recipe) -> Outcome<Vec<(String, Content)>> {
    let mut scripts = Vec::new();
    for hook in sorted_hooks(recipe) {
        let bytes = fs_err::read(&hook.script).or_fail(Code::Input)?;
        scripts.push((hook.id(), Content::from(bytes)));
    }
    Ok(scripts)
}

/// What `root.ca` holds.
pub(super) fn ca(recipe: &Recipe) -> Outcome<Option<Content>> {
    let Some(path) = &recipe.root.ca else { return Ok(None) };
    let pem = fs_err::read(path).or_fail(Code::Input)?;
    let begin = b"-----BEGIN CERTIFICATE-----";
    if !pem.windows(begin.len()).any(|window| window == begin) {
        let what = format!("{}: `root.ca` holds no certificate in PEM (-----BEGIN CERTIFICATE-----)", path.display());
        return Err(Failure::message(Code::Usage, what));
    }
    Ok(Some(pem.into()))
}

/// Writes `vmlinuz` and `initrd.img`.
pub(super) fn write(
    chosen: &Chosen<'_>,
    config: &Config,
    hooks: &[(String, Content)],
    staging: &Staging,
    epoch: i64,
    cache: &Cache,
    progress: &dyn Progress,
) -> Outcome<Written> {
    let mut config_json = serde_json::to_vec_pretty(config).or_fail(Code::Failed)?;
    config_json.push(b'\n');
    let mut files = Vec::new();
    if chosen.delivery == Delivery::Embed {
        let path = staging.file(imgbuild_bundle::ROOT);
        let len = fs_err::metadata(&path).or_fail(Code::Failed)?.len();
        files.push((config::EMBEDDED_ROOT.to_owned(), 0o644, Content::Path { path: path.into(), len }));
    }
    if let Some(ca) = &chosen.ca {
        files.push((config::CA.to_owned(), 0o444, ca.clone()));
    }
    for absent in &chosen.modules.absent {
        let (set, member, release) = (absent.set, absent.member, &chosen.kernel.release);
        progress.detail(format!("kernel {release} has no {member}, which the module set {set} would take"));
    }
    let mut out = BufWriter::with_capacity(1 << 18, staging.create(imgbuild_bundle::INITRD).or_fail(Code::Failed)?);
    let built = Initrd {
        tree: &chosen.tree,
        kernel: &chosen.kernel,
        index: &chosen.index,
        modules: &chosen.modules,
        init: chosen.init(),
        config: &config_json,
        hooks,
        files: &files,
        mtime: epoch,
        // A tenth larger than at the highest level, for a tenth of the time.
        compression: Compression::default(),
        microcode: true,
        firmware: chosen.recipe.firmware != Firmware::None,
        store: Some(&Segments::open(cache)),
    }
    .build(&mut out, progress)
    .or_fail(Code::Failed)?;
    if chosen.recipe.firmware == Firmware::Present
        && let Some(warning) = without_firmware(&built.missing_firmware)
    {
        progress.warning(warning);
    }
    let mut image = vec![0; usize::try_from(chosen.kernel.image.len()).unwrap_or(usize::MAX)];
    chosen.kernel.image.read_exact_at(&mut image, 0).or_fail(Code::Failed)?;
    staging.write(imgbuild_bundle::KERNEL, &image).or_fail(Code::Failed)?;
    Ok(Written {
        facts: facts(chosen, &built),
        size: built.size,
        unpacked: built.unpacked_size,
        kernel: manifest::Kernel {
            release: chosen.kernel.release.clone(),
            cmdline: chosen.recipe.cmdline.clone(),
            modules: built.modules,
            firmware: built.firmware,
        },
    })
}

/// Sets that the recipe names and of which this kernel has no member at all.
fn empty_sets<'c>(chosen: &'c Chosen<'_>) -> impl Iterator<Item = &'static str> + 'c {
    let named = chosen.recipe.modules.iter().filter_map(|name| sets::find(name));
    let absent = |set: &str, member: &str| chosen.modules.absent.iter().any(|a| a.set == set && a.member == member);
    named.filter(move |set| set.members.iter().all(|member| absent(set.name, member))).map(|set| set.name)
}

fn facts(chosen: &Chosen<'_>, built: &imgbuild_initramfs::Built) -> KernelFacts {
    let state = |name: &str| match chosen.modules.driver_state(&chosen.index, name) {
        imgbuild_initramfs::DriverState::Builtin => DriverState::BuiltIn,
        imgbuild_initramfs::DriverState::InInitrd => DriverState::Module,
        // What only the root has is of no use before the root is there.
        imgbuild_initramfs::DriverState::InRoot | imgbuild_initramfs::DriverState::Missing => DriverState::Missing,
    };
    let missing = match chosen.recipe.firmware {
        Firmware::Needed => {
            let essential = built.missing_firmware.iter().filter(|m| m.essential);
            essential.map(|m| (m.module.clone(), m.name.clone())).collect()
        }
        Firmware::Present | Firmware::None => Vec::new(),
    };
    KernelFacts {
        release: chosen.kernel.release.clone(),
        drivers: sets::ALWAYS
            .iter()
            .map(|name| ((*name).to_owned(), state(name)))
            .chain(empty_sets(chosen).map(|set| (format!("of the set {set}"), DriverState::Missing)))
            .collect(),
        missing_firmware: missing,
    }
}

/// Which drivers lack firmware and of what sort, in one sentence; none if nothing is missing. `missing` is sorted.
fn without_firmware(missing: &[MissingFirmware]) -> Option<String> {
    let drivers = |essential: bool| {
        let drivers: Vec<String> = missing
            .chunk_by(|a, b| a.module == b.module)
            .filter_map(|files| {
                let first = files.first().filter(|first| first.essential == essential)?;
                let more = files.len() - 1;
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                Some(format!("{} ({}{more})", first.module, first.name))
            })
            .collect();
        drivers.join(", ")
    };
    let parts: Vec<String> =
        [(drivers(true), "cards that do nothing without it"), (drivers(false), "cards that do without it, or less")]
            .into_iter()
            .filter(|(drivers, _)| !drivers.is_empty())
            .map(|(drivers, what)| format!("{what}: {drivers}"))
            .collect();
    (!parts.is_empty()).then(|| {
        format!(
            "the root lacks firmware, for {}; if your nodes have such cards, add the packages that hold it and set \
             [kernel] firmware = \"needed\"",
            parts.join("; for ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_without_firmware_are_told_once_each() {
        let missing = |module: &str, name: &str, essential| MissingFirmware {
            module: module.to_owned(),
            name: name.to_owned(),
            essential,
        };
        assert_eq!(without_firmware(&[]), None);
        let found = without_firmware(&[
            missing("bnx2", "bnx2/mips.fw", true),
            missing("bnx2", "bnx2/rv2p.fw", true),
            missing("ice", "intel/ice.pkg", false),
            missing("qed", "qed/init.bin", true),
        ]);
        let expected = "the root lacks firmware, for cards that do nothing without it: bnx2 (bnx2/mips.fw and 1 more), qed \
                        (qed/init.bin); for cards that do without it, or less: ice (intel/ice.pkg); if your nodes have such \
                        cards, add the packages that hold it and set [kernel] firmware = \"needed\"";
        assert_eq!(found.as_deref(), Some(expected));
    }
}
