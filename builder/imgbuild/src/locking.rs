//! The lock: read for a build, written by `imgbuild lock`.

use imgbuild_layers::cache::Cache;
use imgbuild_layers::source::{Sources, local_hash};
use imgbuild_progress::Progress;
use imgbuild_recipe::{Layer, LocalHashes, Lock, LockError, LockedHook, LockedLayer, LockedSource, Recipe, lock};

use crate::build::input;
use crate::failure::{Code, Failure, OrFail, Outcome};

/// The lock beside a recipe, if there is one. `required`: it must be there and agree; otherwise a disagreement is a
/// warning, and what it is about is taken afresh.
pub(crate) fn for_build(
    recipe: &Recipe,
    required: bool,
    cache: &Cache,
    progress: &dyn Progress,
) -> Outcome<Option<Lock>> {
    let path = recipe.lock_path();
    let Some(lock) = Lock::load(&path).map_err(unreadable)? else {
        if required {
            let message = format!("--locked, and there is no {}; run imgbuild lock", path.display());
            return Err(Failure::message(Code::Usage, message));
        }
        return Ok(None);
    };
    let changes = changes(recipe, &lock, cache)?;
    if changes.is_empty() {
        return Ok(Some(lock));
    }
    if required {
        let message = format!(
            "--locked, and {} is stale:\n  {}\nrun imgbuild lock to take the recipe as it is now",
            path.display(),
            changes.join("\n  ")
        );
        return Err(Failure::message(Code::Usage, message));
    }
    let list = changes.join("; ");
    progress.warning(format!("{} is stale: {list}; run imgbuild lock to bring it up to date", path.display()));
    Ok(Some(lock))
}

fn unreadable(error: LockError) -> Failure {
    Failure::new(Code::Usage, error)
}

/// What the lock pins a layer to, if it still says what the recipe says.
pub(crate) fn pinned<'l>(
    lock: &'l Lock,
    recipe: &Recipe,
    layer: &Layer,
    cache: &Cache,
) -> Outcome<Option<&'l LockedSource>> {
    let hash = local_hash(layer, recipe.image.arch.as_str(), cache).map_err(input)?;
    Ok(lock.layer(recipe, layer, hash.as_deref()).map(|locked| &locked.source))
}

/// What has changed in a recipe and its local files since its lock was written, a sentence each.
pub(crate) fn changes(recipe: &Recipe, lock: &Lock, cache: &Cache) -> Outcome<Vec<String>> {
    Ok(lock.disagreements(recipe, &hashes(recipe, cache)?).iter().map(ToString::to_string).collect())
}

/// Hashes of everything that is on this machine.
fn hashes(recipe: &Recipe, cache: &Cache) -> Outcome<LocalHashes> {
    let mut all = LocalHashes::of_files(recipe).or_fail(Code::Input)?;
    for layer in &recipe.layers {
        if let Some(hash) = local_hash(layer, recipe.image.arch.as_str(), cache).map_err(input)? {
            all.layers.insert(layer.name.clone(), hash);
        }
    }
    Ok(all)
}

/// Pins every layer and hook as they are now.
pub(crate) fn resolve(recipe: &Recipe, sources: &Sources<'_>) -> Outcome<Lock> {
    let now = LocalHashes::of_files(recipe).or_fail(Code::Input)?;
    let mut layers = Vec::new();
    for layer in &recipe.layers {
        let fetched = sources.fetch(layer, None).map_err(input)?;
        layers.push(LockedLayer::new(recipe, layer, fetched.pin));
    }
    let hooks = recipe
        .hooks
        .iter()
        .map(|hook| LockedHook::new(recipe, hook, now.hooks.get(&hook.id()).cloned().unwrap_or_default()))
        .collect();
    let (recipe, arch) = (recipe.image.name.clone(), recipe.image.arch);
    Ok(Lock { version: lock::VERSION, recipe, arch, ca: now.ca, layers, hooks })
}
