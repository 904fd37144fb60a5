//! The lint, on a recipe's terms.

use imgbuild_bundle::lint::{self, Allowance, Image, Looked, Subject};
use imgbuild_progress::Progress;
use imgbuild_recipe::Recipe;

use crate::failure::{Code, Failure, OrFail, Outcome};

/// What a recipe allows.
pub(super) struct Terms<'a> {
    recipe: &'a Recipe,
    allowances: Vec<Allowance>,
}

impl<'a> Terms<'a> {
    /// Reads them, so that what is wrong with them is said before anything takes time.
    pub(super) fn of(recipe: &'a Recipe) -> Outcome<Self> {
        Ok(Self { recipe, allowances: allowances(recipe)? })
    }

    /// Fails when a rule is broken that the recipe does not allow to be.
    pub(super) fn judge(
        &self,
        subject: &Subject<'_>,
        looked: Looked,
        image: &Image,
        progress: &dyn Progress,
    ) -> Outcome {
        let verdict = lint::check(subject, looked, image, &self.allowances).or_fail(Code::Failed)?;
        for (finding, reason) in &verdict.allowed {
            progress.detail(format!("allowed [{}]: {} ({reason})", finding.rule, finding.problem));
        }
        for index in &verdict.unused {
            if let Some(allow) = self.recipe.lint.allow.get(*index) {
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
