//! What each command does, in terms of the libraries.

pub(crate) mod bundle;
pub(crate) mod cache;
pub(crate) mod hook;
pub(crate) mod machine;
pub(crate) mod recipe;
pub(crate) mod site;

use clap::CommandFactory;
use imgbuild_layers::cache::Cache;

use crate::args::{Cli, Global};
use crate::failure::{Code, OrFail, Outcome};

/// Opens the cache that the command line or the environment names.
fn cache(global: &Global) -> Outcome<Cache> {
    let dir = match &global.cache {
        Some(dir) => dir.clone(),
        None => Cache::default_dir().or_fail(Code::Usage)?,
    };
    Cache::open(dir).or_fail(Code::Failed)
}

/// `imgbuild completions`.
pub(crate) fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "imgbuild", &mut out);
    crate::print(&String::from_utf8_lossy(&out))
}
