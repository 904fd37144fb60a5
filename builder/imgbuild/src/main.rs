//! The `imgbuild` command: parse, call, print.

mod args;
mod build;
mod commands;
mod failure;
mod interrupt;
mod locking;
mod reference;
mod render;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use args::{Cli, Command, Global};
use failure::Outcome;
use render::{Level, Renderer};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => Level::Quiet,
        (false, false) => Level::Normal,
        (false, true) => Level::Verbose,
    };
    let renderer = Arc::new(Renderer::new(level, cli.global.json));
    match run(&cli, &renderer) {
        Ok(code) => code,
        Err(failure) => {
            renderer.failure(&failure);
            failure.exit_code()
        }
    }
}

fn run(cli: &Cli, shared: &Arc<Renderer>) -> Outcome<ExitCode> {
    let global = &cli.global;
    let renderer = shared.as_ref();
    match &cli.command {
        Command::Build(args) => commands::recipe::build(args, global, renderer),
        Command::Lock(args) => commands::recipe::lock(args, global, renderer),
        Command::Show(args) => commands::recipe::show(args, global),
        Command::Schema => commands::recipe::schema(),
        Command::Inspect(args) => commands::bundle::inspect(args, global),
        Command::Diff(args) => return commands::bundle::diff(args, global),
        Command::Verify(args) => commands::bundle::verify(args, global),
        Command::Boot(args) => commands::machine::boot(args, global, renderer),
        Command::Test(args) => commands::machine::test(args, global, renderer),
        Command::Hook(args::HookCommand::Run(args)) => commands::hook::run(args, global),
        Command::Publish(args) => commands::site::publish(args, global, renderer),
        Command::Rollback(args) => commands::site::rollback(args, global, renderer),
        Command::Serve(args) => commands::site::serve(args, shared.clone()),
        Command::Cache(command) => commands::cache::run(command, global, renderer),
        Command::Completions(args) => commands::completions(args.shell),
        Command::Reference(args) => print(&reference::page(args.page)),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Prints a result. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(failure::Failure::new(failure::Code::Failed, anyhow::Error::new(e).context("cannot write to stdout")))
        }
        _ => Ok(()),
    }
}

/// Prints a result as JSON or for people.
pub(crate) fn print_either(global: &Global, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Outcome {
    use failure::OrFail;
    if global.json {
        print(&serde_json::to_string_pretty(value).or_fail(failure::Code::Failed)?)
    } else {
        print(&text())
    }
}
