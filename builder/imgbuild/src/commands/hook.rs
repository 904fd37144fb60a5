//! `imgbuild hook run`.

use std::collections::BTreeMap;
use std::time::Duration;

use imgbuild_boot::{HookTrial, run_hook};
use imgbuild_recipe::{Seconds, ValueError};

use crate::args::{self, Global};
use crate::failure::{Code, Failure, OrFail, Outcome};
use crate::{interrupt, print_either};

/// Runs the hook and prints what came of it.
pub(crate) fn run(args: &args::HookRun, global: &Global) -> Outcome {
    let timeout: Seconds = args.timeout.parse().map_err(|e: ValueError| {
        Failure::message(Code::Usage, format!("--timeout {}: {}; {}", args.timeout, e.message, e.help))
    })?;
    if !args.script.is_file() {
        return Err(Failure::message(Code::Input, format!("{} is not a file", args.script.display())));
    }
    let trial = HookTrial {
        script: args.script.clone(),
        variables: variables(&args.variables)?,
        cmdline: args.cmdline.clone(),
        timeout: Duration::from_secs(timeout.0),
    };
    let interrupted = interrupt::flag().or_fail(Code::Failed)?;
    let report = run_hook(&trial, &interrupted).or_fail(Code::Failed)?;
    print_either(global, &report, || report.to_string())?;
    match report.exit {
        Some(0) => Ok(()),
        _ => Err(Failure::message(Code::Verification, format!("the hook {} failed", report.hook))),
    }
}

fn variables(given: &[String]) -> Outcome<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if is_name(name) && !value.contains('\0') => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::message(Code::Usage, format!("--env {text}: write NAME=VALUE"))),
    };
    given.iter().map(pair).collect()
}

/// What a shell takes for the name of a variable.
fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_part)
}
