//! Rules that every image must keep, checked in every build.
//!
//! A rule is data: a name, a sentence for the reference page, and a function from the [`Subject`] to findings. A finding
//! says what is wrong where and what to do. That a rule cannot be checked (a file of the root cannot be read) is an
//! [`Error`], not a finding. Most rules are about the tree alone, and can be checked while the root is written ([`look`]); those
//! about the [`Image`] come after it ([`check`]).

mod identity;
mod kernel;
mod kubernetes;
mod layout;
mod memory;
mod programs;
mod units;

use std::collections::BTreeSet;

use globset::GlobMatcher;
use imgbuild_tree::{FileContent, Kind, Origin, RootTree, TypeChange};
use netboot_init::config::{Size, Tmpfs};
use serde::Serialize;

use crate::Error;
use crate::manifest::Ram;
use crate::scan::Scanned;

pub use programs::Programs;

/// What the rules look at.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The finished root, pruned, before it is written.
    pub tree: &'a RootTree,
    /// Hashes and secrets of its files.
    pub scanned: &'a [Scanned],
    /// What its programs are linked with.
    pub programs: Programs<'a>,
    /// Names that changed their kind while layers were laid over each other.
    pub type_changes: &'a [TypeChange],
    /// The paths of files that `[prune]` took out.
    pub pruned: Option<&'a BTreeSet<Box<[u8]>>>,
    /// The layers' names, by [`Origin`].
    pub layers: &'a [String],
    /// The recipe's tmpfs mounts.
    pub tmpfs: &'a [Tmpfs],
    /// Size of the tmpfs that takes what is written to the root.
    pub overlay_size: Size,
}

/// What was made of it.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// RAM that the image needs, by phase, and its budget.
    pub ram: Ram,
    /// Size of the squashfs in bytes and its budget, where there is one.
    pub root: Option<(u64, u64)>,
    /// The kernel; none in a root-only bundle.
    pub kernel: Option<KernelFacts>,
}

/// What the rules need to know about the kernel and the initrd.
#[derive(Debug, Clone, Default)]
pub struct KernelFacts {
    /// Its release.
    pub release: String,
    /// Drivers that a node cannot boot without, or that the recipe names, and where they are.
    pub drivers: Vec<(String, DriverState)>,
    /// Firmware files that a module in the initrd asks for and the root does not have: module, file.
    pub missing_firmware: Vec<(String, String)>,
}

/// Where a driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverState {
    /// In the kernel itself.
    BuiltIn,
    /// In the initrd, as a module.
    Module,
    /// Neither.
    Missing,
}

/// Something that is wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// The path in the root that it is about, where there is one.
    pub path: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// A rule.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its name, as `[[lint.allow]]` takes it.
    pub name: &'static str,
    /// What it demands, in one sentence.
    pub demands: &'static str,
    check: Check,
}

type Findings = Result<Vec<Finding>, Error>;

#[derive(Debug, Clone, Copy)]
enum Check {
    /// Of the tree alone.
    Tree(fn(&Subject<'_>) -> Findings),
    /// Of what was made of it as well.
    Image(fn(&Subject<'_>, &Image) -> Findings),
}

/// Every rule, in the order of the reference page.
pub const RULES: &[Rule] = &[
    kernel::BOOT_DRIVERS,
    kernel::FIRMWARE,
    kernel::MODULE_DEPENDENCY,
    kubernetes::CONTAINERD_MOUNT,
    kubernetes::CGROUP_DRIVER,
    kubernetes::CRI_PLUGIN,
    memory::TMPFS_SUM,
    memory::RAM_BUDGET,
    memory::ROOT_BUDGET,
    layout::TMPFS_SHADOW,
    layout::MERGED_USR,
    layout::INIT,
    programs::LIBRARY,
    programs::INTERPRETER,
    units::PROGRAM,
    identity::MACHINE_ID,
    identity::SSH_HOST_KEY,
    identity::SECRET,
];

/// A rule that does not hold for a path, and why.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// The rule's name.
    pub rule: String,
    /// The paths it is about; all where there is none.
    pub path: Option<GlobMatcher>,
    /// Why.
    pub reason: String,
}

/// What the rules said.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// What must be mended, sorted.
    pub findings: Vec<Finding>,
    /// What the recipe allows, with its reason.
    pub allowed: Vec<(Finding, String)>,
    /// Allowances that allowed nothing, by their position in the recipe.
    pub unused: Vec<usize>,
}

/// What the rules find in the tree alone.
#[derive(Debug)]
pub struct Looked(Vec<Finding>);

/// Checks the rules that are about the tree alone.
///
/// # Errors
/// When a rule could not be checked.
pub fn look(subject: &Subject<'_>) -> Result<Looked, Error> {
    let mut findings = Vec::new();
    for rule in RULES {
        if let Check::Tree(check) = rule.check {
            findings.extend(check(subject)?);
        }
    }
    Ok(Looked(findings))
}

/// Checks the other rules, and says what comes of all of them.
///
/// # Errors
/// When a rule could not be checked.
pub fn check(subject: &Subject<'_>, looked: Looked, image: &Image, allowances: &[Allowance]) -> Result<Verdict, Error> {
    let Looked(mut findings) = looked;
    for rule in RULES {
        if let Check::Image(check) = rule.check {
            findings.extend(check(subject, image)?);
        }
    }
    findings.sort();
    let mut verdict = Verdict::default();
    let mut used = BTreeSet::new();
    for finding in findings {
        match allowances.iter().position(|a| a.covers(&finding)) {
            Some(index) => {
                used.insert(index);
                verdict.allowed.push((finding, allowances[index].reason.clone()));
            }
            None => verdict.findings.push(finding),
        }
    }
    verdict.unused = (0..allowances.len()).filter(|index| !used.contains(index)).collect();
    Ok(verdict)
}

impl Allowance {
    fn covers(&self, finding: &Finding) -> bool {
        self.rule == finding.rule
            && match (&self.path, &finding.path) {
                (None, _) => true,
                (Some(glob), Some(path)) => glob.is_match(path),
                (Some(_), None) => false,
            }
    }
}

impl Rule {
    fn finding(&self, path: Option<String>, problem: String, fix: impl Into<String>) -> Finding {
        Finding { rule: self.name, path, problem, fix: fix.into() }
    }
}

impl Subject<'_> {
    /// The layer that a node came from, for messages.
    fn layer(&self, origin: Origin) -> &str {
        self.layers.get(usize::from(origin.0)).map_or("imgbuild", String::as_str)
    }

    /// The content of a regular file, links followed; `None` where there is none.
    fn text(&self, path: &str) -> Result<Option<String>, Error> {
        let Ok(id) = self.tree.resolve(path) else { return Ok(None) };
        let Kind::Regular(content) = &self.tree.node(id).kind else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(content.len()).unwrap_or(usize::MAX)];
        content.read_exact_at(&mut bytes, 0).map_err(|source| Error::Content { path: path.to_owned(), source })?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn exists(&self, path: &str) -> bool {
        self.tree.resolve(path).is_ok()
    }

    /// The first of these paths that is there.
    fn first<'p>(&self, paths: &[&'p str]) -> Option<&'p str> {
        paths.iter().copied().find(|path| self.exists(path))
    }
}

/// The reference page of the rules.
#[must_use]
pub fn reference() -> String {
    let mut out =
        String::from("# Lint rules\n\nEvery build checks these and fails with a sentence that names the fix. ");
    out.push_str("A rule can be allowed for a path, with a reason:\n\n```toml\n[[lint.allow]]\nrule = \"secret\"\n");
    out.push_str("path = \"/usr/share/doc/**\"\nreason = \"an example key in the manual\"\n```\n\n| rule | what it demands |\n|---|---|\n");
    for rule in RULES {
        out.push_str(&format!("| `{}` | {} |\n", rule.name, rule.demands));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{put, subject};

    #[test]
    fn rules_have_distinct_names_and_a_sentence() {
        let names: BTreeSet<_> = RULES.iter().map(|r| r.name).collect();
        assert_eq!(names.len(), RULES.len());
        assert!(RULES.iter().all(|r| r.demands.ends_with('.')));
    }

    #[test]
    fn an_allowance_needs_the_rule_and_the_path_and_is_reported_when_unused() {
        let mut tree = RootTree::new();
        put(&mut tree, "/etc/ssh/ssh_host_rsa_key", b"x");
        let subject = subject(&tree);
        let allow = |rule: &str, path: Option<&str>| Allowance {
            rule: rule.into(),
            path: path.map(|p| globset::Glob::new(p).unwrap().compile_matcher()),
            reason: "a test".into(),
        };
        let allowed = [allow("ssh-host-key", Some("/etc/ssh/*"))];
        let verdict = check(&subject, look(&subject).unwrap(), &Image::default(), &allowed).unwrap();
        assert_eq!((verdict.findings.len(), verdict.allowed.len(), verdict.unused.len()), (0, 1, 0));
        for other in [allow("ssh-host-key", Some("/opt/*")), allow("secret", None)] {
            let verdict = check(&subject, look(&subject).unwrap(), &Image::default(), &[other]).unwrap();
            assert_eq!((verdict.findings.len(), verdict.unused), (1, vec![0]));
        }
    }
}
