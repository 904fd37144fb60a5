//! Commands that begin with recipes.

use std::io::IsTerminal;

use imgbuild_layers::cache::Cache;
use imgbuild_layers::source::Options;
use imgbuild_progress::Progress;
use imgbuild_recipe::{Diagnostics, Lock, Recipe};

use crate::args::{self, Global, Inputs, Recipes};
use crate::build::{self, Order};
use crate::commands::cache;
use crate::commands::cache::size;
use crate::failure::{Code, Failure, OrFail, Outcome};
use crate::{locking, print, print_either};

fn load(recipes: &Recipes) -> Outcome<Recipe> {
    imgbuild_recipe::load(&recipes.recipes, &recipes.sets).map_err(|diagnostics| wrong(&diagnostics))
}

/// Why a recipe cannot be used.
pub(crate) fn wrong(diagnostics: &Diagnostics) -> Failure {
    // A recipe that is right, but names a file that is not there, is an input that cannot be had.
    let code = if diagnostics.only_missing_inputs() { Code::Input } else { Code::Usage };
    Failure::message(code, diagnostics.render(std::io::stderr().is_terminal()))
}

fn options(inputs: &Inputs) -> Options {
    Options { offline: inputs.offline, insecure: inputs.insecure.clone(), ca_file: inputs.ca_file.clone() }
}

/// `imgbuild build`.
pub(crate) fn build(args: &args::Build, global: &Global, progress: &dyn Progress) -> Outcome {
    let recipe = load(&args.recipes)?;
    let order = Order {
        recipe: &recipe,
        out: &args.out,
        inputs: options(&args.inputs),
        locked: args.locked,
        jobs: args.jobs.map_or(0, usize::from),
        pack_limit: size("--pack-limit")(&args.pack_limit)?,
    };
    let cache = cache(global)?;
    let _in_use = cache.in_use();
    let path = build::run(&order, &cache, progress)?;
    let shown = path.display().to_string();
    print_either(global, &serde_json::json!({ "bundle": shown }), || shown.clone())
}

/// `imgbuild lock`.
pub(crate) fn lock(args: &args::Lock, global: &Global, progress: &dyn Progress) -> Outcome {
    let recipe = load(&args.recipes)?;
    let path = recipe.lock_path();
    let old = Lock::load(&path).or_fail(Code::Usage)?;
    let cache = cache(global)?;
    if args.check {
        return check(&recipe, old.as_ref(), &cache);
    }
    let _in_use = cache.in_use();
    let new = build::resolve(&recipe, options(&args.inputs), &cache, progress)?;
    let changed = new.save(&path).or_fail(Code::Failed)?;
    let shown = path.display().to_string();
    print_either(global, &serde_json::json!({ "lock": shown, "changed": changed }), || {
        if changed { shown.clone() } else { format!("{shown} (unchanged)") }
    })
}

fn check(recipe: &Recipe, lock: Option<&Lock>, cache: &Cache) -> Outcome {
    let path = recipe.lock_path();
    let Some(lock) = lock else {
        return Err(Failure::message(Code::Usage, format!("there is no {}; run imgbuild lock", path.display())));
    };
    let changes = locking::changes(recipe, lock, cache)?;
    if changes.is_empty() {
        return Ok(());
    }
    let message = format!("{} is stale:\n  {}\nrun imgbuild lock", path.display(), changes.join("\n  "));
    Err(Failure::message(Code::Usage, message))
}

/// `imgbuild show`.
pub(crate) fn show(args: &args::Show, global: &Global) -> Outcome {
    let recipe = load(&args.recipes)?;
    print_either(global, &recipe, || recipe.to_toml())
}

/// `imgbuild schema`.
pub(crate) fn schema() -> Outcome {
    print(&serde_json::to_string_pretty(&imgbuild_recipe::schema()).or_fail(Code::Failed)?)
}
