//! Reference pages that cannot drift: made from the code that they describe. `ci/reference` writes them to
//! `docs/reference`, and compares.

use clap::CommandFactory;

use crate::args::{Cli, Page};

/// A page in Markdown, or a schema in JSON.
pub(crate) fn page(page: Page) -> String {
    match page {
        Page::Commands => commands(),
        Page::Recipe => imgbuild_recipe::reference(),
        Page::Lint => imgbuild_bundle::lint::reference(),
        Page::Diff => imgbuild_bundle::diff::schema(),
        Page::Modules => imgbuild_initramfs::sets::markdown(),
        Page::Hooks => netboot_init::hooks::reference(),
        Page::Cmdline => netboot_init::cmdline::reference(),
        Page::Node => netboot_init::nodeconfig::markdown(),
        Page::NodeSchema => format!("{:#}\n", netboot_init::nodeconfig::json_schema()),
    }
}

/// `--help` of every command.
fn commands() -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut out = String::from("# Commands\n\nWhat `imgbuild --help` and `imgbuild COMMAND --help` print.\n");
    section("imgbuild", &mut root, &mut out);
    out
}

/// A command's help, then that of the commands in it.
fn section(name: &str, command: &mut clap::Command, out: &mut String) {
    out.push_str(&format!("\n## {name}\n\n```text\n{}```\n", command.render_long_help()));
    for inner in command.get_subcommands_mut().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        let name = format!("{name} {}", inner.get_name());
        section(&name, inner, out);
    }
}
