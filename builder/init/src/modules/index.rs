//! `modules.dep`, `modules.alias` and `modules.softdep` as depmod writes them.

use std::collections::{BTreeMap, BTreeSet};

use crate::cmdline::underscored;

/// What is known of the modules in the initrd.
#[derive(Debug, Default)]
pub struct Index {
    /// Path below the modules' folder, and dependencies by name, nearest first.
    modules: BTreeMap<String, (String, Vec<String>)>,
    /// Patterns by the bus in front of the colon.
    aliases: BTreeMap<String, Vec<(String, String)>>,
    /// What to load before and after, if there.
    soft: BTreeMap<String, (Vec<String>, Vec<String>)>,
}

impl Index {
    /// Reads the three files. Lines that make no sense are left out: a module that is missing for it will be missed by
    /// name.
    #[must_use]
    pub fn parse(dep: &str, alias: &str, softdep: &str) -> Self {
        let mut index = Self::default();
        for line in dep.lines() {
            let Some((path, dependencies)) = line.split_once(':') else { continue };
            let dependencies = dependencies.split_whitespace().map(name_of).collect();
            index.modules.insert(name_of(path), (path.to_owned(), dependencies));
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let entry = (pattern.to_owned(), underscored(module));
                index.aliases.entry(bus(pattern).to_owned()).or_default().push(entry);
            }
        }
        for line in softdep.lines() {
            index.soft_dependency(line);
        }
        index
    }

    /// `softdep NAME pre: A B post: C`.
    fn soft_dependency(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { return };
        let (pre, post) = self.soft.entry(underscored(module)).or_default();
        let mut after = false;
        for word in words {
            match word {
                "pre:" => after = false,
                "post:" => after = true,
                name if after => post.push(underscored(name)),
                name => pre.push(underscored(name)),
            }
        }
    }

    /// How many modules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Where a module lies, below the modules' folder.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<&str> {
        self.modules.get(&underscored(name)).map(|(path, _)| path.as_str())
    }

    /// The modules that say they drive a device.
    #[must_use]
    pub fn matching(&self, modalias: &str) -> BTreeSet<&str> {
        let of_bus = self.aliases.get(bus(modalias)).into_iter().chain(self.aliases.get("")).flatten();
        of_bus.filter(|(pattern, _)| glob(pattern, modalias)).map(|(_, module)| module.as_str()).collect()
    }

    /// What to load for a module, it included, in order. Empty when it is not here.
    #[must_use]
    pub fn load_order(&self, name: &str) -> Vec<&str> {
        let mut order = Vec::new();
        let mut entered = BTreeSet::new();
        self.visit(&underscored(name), &mut entered, &mut order);
        order
    }

    fn visit<'a>(&'a self, name: &str, entered: &mut BTreeSet<&'a str>, order: &mut Vec<&'a str>) {
        let Some((name, (_, dependencies))) = self.modules.get_key_value(name) else { return };
        if !entered.insert(name) {
            return;
        }
        let soft = self.soft.get(name);
        for before in soft.iter().flat_map(|(pre, _)| pre) {
            self.visit(before, entered, order);
        }
        // The file lists the nearest first: the farthest has to be loaded first.
        for dependency in dependencies.iter().rev() {
            self.visit(dependency, entered, order);
        }
        order.push(name);
        for after in soft.iter().flat_map(|(_, post)| post) {
            self.visit(after, entered, order);
        }
    }
}

/// What stands before the colon, so that a device is compared with patterns of its bus only; empty for a pattern that
/// has a wildcard there.
fn bus(alias: &str) -> &str {
    let bus = alias.split_once(':').map_or("", |(bus, _)| bus);
    if bus.contains(['*', '?', '[']) { "" } else { bus }
}

/// A module's name from its path: `kernel/net/virtio-net.ko` is `virtio_net`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    underscored(file.split_once(".ko").map_or(file, |(stem, _)| stem))
}

/// Whether a text fits a shell pattern with `*`, `?` and `[…]`.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what followed the last star does not fit.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let matched = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(_), None) => return false,
            (None, Some(_)) => None,
            (Some(b'?'), Some(_)) => Some(p + 1),
            (Some(b'['), Some(byte)) => class(pattern, p, *byte),
            (Some(expected), Some(byte)) => (expected == byte).then_some(p + 1),
        };
        match (matched, retry) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((after_star, from))) => {
                p = after_star;
                t = from + 1;
                retry = Some((after_star, t));
                if t > text.len() {
                    return false;
                }
            }
            (None, None) => return false,
        }
    }
}

/// Where a class that contains `byte` ends; none when it does not, or has no end.
fn class(pattern: &[u8], open: usize, byte: u8) -> Option<usize> {
    let close = open + 2 + pattern.get(open + 2..)?.iter().position(|b| *b == b']')?;
    let mut members = pattern.get(open + 1..close)?;
    let negated = matches!(members.first(), Some(b'!' | b'^'));
    if negated {
        members = members.get(1..)?;
    }
    let mut inside = false;
    while let Some((&from, rest)) = members.split_first() {
        if let [b'-', to, rest @ ..] = rest {
            inside |= (from..=*to).contains(&byte);
            members = rest;
        } else {
            inside |= from == byte;
            members = rest;
        }
    }
    (inside != negated).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of Debian's files.
    fn index() -> Index {
        Index::parse(
            "kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n\
             kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n\
             kernel/net/core/failover.ko:\n\
             kernel/drivers/block/loop.ko:\n\
             kernel/lib/libcrc32c.ko:\n\
             kernel/crypto/crc32c-generic.ko.xz:\n\
             kernel/drivers/a.ko: kernel/drivers/b.ko\n\
             kernel/drivers/b.ko: kernel/drivers/a.ko\n",
            "# Aliases extracted from modules themselves.\n\
             alias virtio:d00000001v* virtio_net\n\
             alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000\n\
             alias acpi*:PNP0[ABC]0?:* odd-name\n",
            "# Soft dependencies\nsoftdep libcrc32c pre: crc32c post: loop\nsoftdep libcrc32c pre: crc32c-generic nosuch\n",
        )
    }

    #[test]
    fn dependencies_come_first_the_farthest_foremost() {
        assert_eq!(index().load_order("virtio-net"), ["failover", "net_failover", "virtio_net"]);
        assert_eq!(index().load_order("built_in"), [""; 0]);
    }

    #[test]
    fn soft_dependencies_that_are_there_are_loaded_around() {
        assert_eq!(index().load_order("libcrc32c"), ["crc32c_generic", "libcrc32c", "loop"]);
    }

    #[test]
    fn a_circle_ends() {
        assert_eq!(index().load_order("a"), ["b", "a"]);
    }

    #[test]
    fn devices_find_their_modules() {
        let index = index();
        assert_eq!(index.matching("virtio:d00000001v00001AF4").into_iter().collect::<Vec<_>>(), ["virtio_net"]);
        let e1000 = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00";
        assert_eq!(index.matching(e1000).into_iter().collect::<Vec<_>>(), ["e1000"]);
        assert!(index.matching("pci:v00008086d0000100Fsv00001AF4sd00001100bc02sc00i00").is_empty());
        assert_eq!(index.matching("acpi0:PNP0B0A:").into_iter().collect::<Vec<_>>(), ["odd_name"]);
        assert_eq!(index.path("crc32c_generic"), Some("kernel/crypto/crc32c-generic.ko.xz"));
    }

    #[test]
    fn patterns_are_the_shells() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("*:PNP0[ABC]0?:*", "acpi:PNP0A03:", true),
            ("*:PNP0[A-C]0?:*", "acpi:PNP0D03:", false),
            ("[!a]x", "bx", true),
            ("[!a]x", "ax", false),
            ("[ab", "a", false),
            ("a?", "a", false),
            ("", "a", false),
            ("*a", "bab", false),
            ("*ab", "aab", true),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_long_run_of_stars_is_quick() {
        let pattern = "a*".repeat(30) + "b";
        assert!(!glob(&pattern, &"a".repeat(200)));
    }
}
