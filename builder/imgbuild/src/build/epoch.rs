//! The build's clock.

use imgbuild_layers::source::BUILD_TIME;
use imgbuild_recipe::Recipe;
use imgbuild_tree::RootTree;

use crate::failure::{Code, Failure, Outcome};

/// `SOURCE_DATE_EPOCH` of the environment, else the recipe's, else the newest time stamp of the inputs; in seconds since
/// 1970-01-01 UTC.
pub(super) fn of(recipe: &Recipe, tree: &RootTree) -> Outcome<i64> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    if let Some(value) = std::env::var_os(VARIABLE) {
        let text = value.to_string_lossy();
        return text.parse::<u32>().map(i64::from).map_err(|_| {
            Failure::message(
                Code::Usage,
                format!(
                    "{VARIABLE}={text} in the environment is no number of seconds since 1970 from 0 to {}",
                    u32::MAX
                ),
            )
        });
    }
    if let Some(epoch) = recipe.image.source_date_epoch {
        return Ok(i64::from(epoch));
    }
    let times = tree.ids().map(|id| tree.node(id).meta.mtime).filter(|time| *time != BUILD_TIME);
    let newest = times.max().unwrap_or(0);
    Ok(newest.clamp(0, i64::from(u32::MAX)))
}
