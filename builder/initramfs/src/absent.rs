//! The drivers that an initrd does not have: what `netboot-init` looks a network card up in that nothing drives, so that
//! it can say what to add to the recipe.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::closure::ModuleClosure;
use crate::error::Result;
use crate::index::ModuleIndex;
use crate::modinfo::normalise;

/// Where the drivers of wired network cards lie, and of the buses that virtual ones hang on.
const FOLDERS: [&str; 4] =
    ["kernel/drivers/net/", "kernel/drivers/virtio/", "kernel/drivers/hv/", "kernel/drivers/pci/controller/"];
/// None of these is booted from.
const EXCEPT: [&str; 4] =
    ["kernel/drivers/net/can/", "kernel/drivers/net/wan/", "kernel/drivers/net/wireless/", "kernel/drivers/net/wwan/"];
/// Buses on which a server's network cards are.
const BUSES: [&str; 4] = ["pci:", "virtio:", "vmbus:", "xen:"];

/// `alias PATTERN MODULE` lines, as in `modules.alias`, of the network drivers that the kernel has as modules and the
/// closure leaves out. About 80 kB for Debian's full kernel, 5 kB of the compressed initrd.
pub(crate) fn modules_absent(closure: &ModuleClosure, index: &ModuleIndex) -> Result<String> {
    let inside: BTreeSet<&str> = closure.modules.iter().map(|module| module.name.as_str()).collect();
    let begins = |path: &str, folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    let outside: BTreeSet<&str> = index
        .modules()
        .filter(|(name, path)| begins(path, &FOLDERS) && !begins(path, &EXCEPT) && !inside.contains(name))
        .map(|(name, _)| name)
        .collect();
    let mut lines: BTreeSet<(String, &str)> = BTreeSet::new();
    let mut add = |alias: &str, module: &str| {
        if let Some(module) = outside.get(module)
            && begins(alias, &BUSES)
        {
            lines.insert((alias.to_owned(), module));
        }
    };
    match index.alias_lines() {
        Some(aliases) => aliases.for_each(|(alias, module)| add(alias, &normalise(module))),
        None => {
            for name in &outside {
                if let Some(file) = index.files.get(*name) {
                    file.load()?.1.aliases.iter().for_each(|alias| add(alias, name));
                }
            }
        }
    }
    Ok(lines.iter().fold(String::new(), |mut text, (alias, module)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "alias {alias} {module}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use crate::ModuleClosure;
    use crate::testing::{Root, strings};

    fn root() -> Root {
        let mut root = Root::new();
        root.put_basics();
        let net = |name: &str| format!("kernel/drivers/net/{name}.ko");
        root.put_module(&net("ethernet/e1000"), &[("alias", "pci:v00008086d0000100Esv*sd*bc*sc*i*")]);
        root.put_module(&net("ethernet/igb"), &[("alias", "pci:v00008086d00001521sv*sd*bc*sc*i*"), ("alias", "of:x")]);
        root.put_module(&net("wireless/iwlwifi"), &[("alias", "pci:v00008086d00002723sv*sd*bc*sc*i*")]);
        root.put_module("kernel/drivers/gpu/i915.ko", &[("alias", "pci:v00008086d00000046sv*sd*bc03sc*i*")]);
        root
    }

    const IGB: &str = "alias pci:v00008086d00001521sv*sd*bc*sc*i* igb\n";

    #[test]
    fn network_drivers_that_are_left_out() {
        let index = root().index();
        let closure = ModuleClosure::resolve(&index, &strings(&["e1000"])).unwrap();
        assert_eq!(super::modules_absent(&closure, &index).unwrap(), IGB);
    }

    #[test]
    fn the_roots_index_is_used_where_there_is_one() {
        let mut root = root();
        root.put_modules("kernel/drivers/net/broken.ko", b"not to be read");
        root.put_modules(
            "modules.alias",
            format!("# comment\n{IGB}alias pci:v1 e1000\nalias pci:v2 unheard\n").as_bytes(),
        );
        let index = root.index();
        let closure = ModuleClosure::resolve(&index, &strings(&["e1000"])).unwrap();
        assert_eq!(super::modules_absent(&closure, &index).unwrap(), IGB);
    }
}
