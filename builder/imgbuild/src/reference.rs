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
    let mut section = |name: &str, command: &mut clap::Command| {
        out.push_str(&format!("\n## {name}\n\n```text\n{}```\n", command.render_long_help()));
    };
    section("imgbuild", &mut root);
    let names: Vec<_> = root.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "help") {
        if let Some(command) = root.find_subcommand_mut(name) {
            section(&format!("imgbuild {name}"), command);
        }
    }
    out
}
