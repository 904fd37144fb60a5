//! `module` and `sysctl`: what the kernel has, and how it is set.

use std::fs;
use std::io;
use std::path::Path;

use super::Verdict;
use crate::spec::{Module, Sysctl};

pub(super) fn check_module(Module { module, loaded }: &Module, root: &Path) -> Verdict {
    let expected = format!("{module}{}", if *loaded { "" } else { " not loaded" });
    // The kernel spells all names with underscores.
    let name = module.replace('-', "_");
    let folder = root.join("sys/module").join(&name);
    let state = fs::read_to_string(folder.join("initstate")).ok();
    let (is, found) = match state.as_deref().map(str::trim) {
        Some("live") => (true, "loaded".to_owned()),
        Some(state) => (false, format!("{state}, not live")),
        // Those without parameters have no folder.
        None if folder.is_dir() || is_built_in(&name, root) => (true, "built into the kernel".to_owned()),
        None => (false, "not loaded".to_owned()),
    };
    Verdict::new(is == *loaded, expected, found)
}

fn is_built_in(name: &str, root: &Path) -> bool {
    let release = fs::read_to_string(root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
    let list = fs::read_to_string(root.join("lib/modules").join(release.trim()).join("modules.builtin"));
    // `kernel/fs/ext4/ext4.ko`
    let is_name = |line: &str| {
        let file = line.rsplit('/').next().unwrap_or_default();
        file.trim_end().trim_end_matches(".ko").replace('-', "_") == name
    };
    list.is_ok_and(|list| list.lines().any(is_name))
}

pub(super) fn check_sysctl(Sysctl { sysctl, value }: &Sysctl, root: &Path) -> Verdict {
    let expected = format!("{sysctl} = {value}");
    match fs::read_to_string(root.join("proc/sys").join(path_of(sysctl))) {
        Ok(text) => {
            // Several values are separated by tabs.
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            Verdict::new(words(&text) == words(value), expected, format!("`{}`", words(&text).join(" ")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Verdict::new(false, expected, format!("the kernel has no {sysctl}, or its module is not loaded"))
        }
        Err(error) => Verdict::new(false, expected, format!("{sysctl} cannot be read: {error}")),
    }
}

/// The file of a name, in sysctl(8)'s two spellings: whichever of `.` and `/` comes first separates, and the other one stands
/// for the first.
fn path_of(name: &str) -> String {
    match name.find(['.', '/']).and_then(|at| name.get(at..=at)) {
        Some("/") => name.to_owned(),
        _ => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::attempt;
    use super::*;
    use crate::system::fake::Fake;

    fn system() -> Fake {
        let system = Fake::default();
        system.write("sys/module/br_netfilter/initstate", "live\n");
        system.write("sys/module/slow/initstate", "coming\n");
        system.write("sys/module/printk/parameters/time", "Y\n");
        system.write("proc/sys/kernel/osrelease", "6.1.0\n");
        system.write("lib/modules/6.1.0/modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/crypto/sha256-generic.ko\n");
        system.write("proc/sys/net/ipv4/ip_forward", "1\n");
        system.write("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n");
        system.write("proc/sys/net/ipv4/conf/eth0.1/rp_filter", "2\n");
        system
    }

    #[test]
    fn modules_that_are_loaded_or_built_in_and_such_that_are_not() {
        let module = |rest: &str| attempt(&format!(r#"{{"module": {rest}}}"#), &system());
        assert_eq!(module(r#""br-netfilter""#), Verdict::new(true, "br-netfilter", "loaded"));
        for name in ["printk", "ext4", "sha256_generic"] {
            assert_eq!(module(&format!(r#""{name}""#)).found, "built into the kernel");
        }
        assert!(module(r#""kvm", "loaded": false"#).holds);
        assert_eq!(module(r#""kvm""#), Verdict::new(false, "kvm", "not loaded"));
        assert_eq!(module(r#""slow""#), Verdict::new(false, "slow", "coming, not live"));
        assert_eq!(
            module(r#""ext4", "loaded": false"#),
            Verdict::new(false, "ext4 not loaded", "built into the kernel")
        );
    }

    #[test]
    fn sysctls_in_both_spellings() {
        let sysctl =
            |name: &str, value: &str| attempt(&format!(r#"{{"sysctl": "{name}", "value": "{value}"}}"#), &system());
        assert!(sysctl("net.ipv4.ip_forward", "1").holds);
        assert!(sysctl("net/ipv4/ip_forward", "1").holds);
        assert!(sysctl("net.ipv4.tcp_rmem", "4096 131072  6291456").holds);
        assert!(sysctl("net.ipv4.conf.eth0/1.rp_filter", "2").holds);
        assert!(sysctl("net/ipv4/conf/eth0.1/rp_filter", "2").holds);
        assert_eq!(sysctl("net.ipv4.ip_forward", "0"), Verdict::new(false, "net.ipv4.ip_forward = 0", "`1`"));
        assert!(sysctl("net.bridge.x", "1").found.starts_with("the kernel has no net.bridge.x"));
    }
}
