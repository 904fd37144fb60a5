//! The lint, on a recipe's terms.

use std::collections::BTreeSet;

use imgbuild_bundle::lint::{self, Allowance, KernelFacts, Programs, Subject};
use imgbuild_bundle::manifest::Ram;
use imgbuild_bundle::scan::Scanned;
use imgbuild_progress::Progress;
use imgbuild_recipe::Recipe;
use imgbuild_tree::{RootTree, TypeChange};
use netboot_init::config::Config;

use crate::failure::{Code, Failure, OrFail, Outcome};

/// What is judged.
pub(super) struct Case<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) tree: &'a RootTree,
    pub(super) scanned: &'a [Scanned],
    pub(super) programs: Programs<'a>,
    pub(super) type_changes: &'a [TypeChange],
    pub(super) pruned: &'a BTreeSet<Box<[u8]>>,
    pub(super) layers: &'a [String],
    pub(super) config: &'a Config,
    pub(super) ram: Ram,
    pub(super) root_size: u64,
    pub(super) kernel: Option<KernelFacts>,
}

/// Fails when a rule is broken that the recipe does not allow to be.
pub(super) fn lint(case: Case<'_>, progress: &dyn Progress) -> Outcome {
    let subject = Subject {
        tree: case.tree,
        scanned: case.scanned,
        programs: case.programs,
        type_changes: case.type_changes,
        pruned: Some(case.pruned),
        layers: case.layers,
        tmpfs: &case.config.tmpfs,
        overlay_size: case.config.overlay_size,
        ram: case.ram,
        root: Some((case.root_size, case.recipe.budget.root.map_or(0, |size| size.0))),
        kernel: case.kernel,
    };
    let verdict = lint::check(&subject, &allowances(case.recipe)?).or_fail(Code::Failed)?;
    for (finding, reason) in &verdict.allowed {
        progress.detail(format!("allowed [{}]: {} ({reason})", finding.rule, finding.problem));
    }
    for index in &verdict.unused {
        if let Some(allow) = case.recipe.lint.allow.get(*index) {
            progress.warning(format!("{}: nothing breaks the rule {} there any more", allow.place, allow.rule));
        }
    }
    if verdict.findings.is_empty() {
        return Ok(());
    }
    let mut text = format!("the image breaks {} lint rule(s):\n", verdict.findings.len());
    for finding in &verdict.findings {
        text.push_str(&format!("\n[{}] {}\n  fix: {}\n", finding.rule, finding.problem, finding.fix));
    }
    text.push_str("\nWhat is meant to be so is allowed in the recipe: [[lint.allow]] rule, path, reason.");
    Err(Failure::message(Code::Failed, text))
}

fn allowances(recipe: &Recipe) -> Outcome<Vec<Allowance>> {
    let mut all = Vec::new();
    for allow in &recipe.lint.allow {
        if !lint::RULES.iter().any(|rule| rule.name == allow.rule) {
            let names: Vec<_> = lint::RULES.iter().map(|rule| rule.name).collect();
            let message =
                format!("{}: there is no lint rule {}; the rules are {}", allow.place, allow.rule, names.join(", "));
            return Err(Failure::message(Code::Usage, message));
        }
        let glob = allow.path.as_deref().map(globset::Glob::new).transpose();
        let path = glob
            .map_err(|e| Failure::message(Code::Usage, format!("{}: {e}", allow.place)))?
            .map(|glob| glob.compile_matcher());
        all.push(Allowance { rule: allow.rule.clone(), path, reason: allow.reason.clone() });
    }
    Ok(all)
}
