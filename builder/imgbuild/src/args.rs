//! The command line.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use imgbuild_boot::{Fault, Forward, Mac};
use netboot_init::shell::BreakPoint;

/// Builds, boots, tests and publishes netboot images for diskless Kubernetes workers.
#[derive(Debug, Parser)]
#[command(name = "imgbuild", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more: what is pruned, allowed, retried, and what helper programs say
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Print machine-readable JSON: events one a line on stderr, the result on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Where downloads and intermediate results are kept [default: the user's cache folder]
    #[arg(long, global = true, env = "IMGBUILD_CACHE", value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a bundle from recipes; prints its folder as the last line
    Build(Build),
    /// Pin every input of a recipe in NAME.lock beside it
    Lock(Lock),
    /// Print the merged recipe
    Show(Show),
    /// Print the JSON Schema of recipes
    Schema,
    /// Show what is in a bundle, and where a file came from
    Inspect(Inspect),
    /// Show how two bundles differ: files, packages, sizes, kernel, layers, hooks
    Diff(Diff),
    /// Check a bundle's files against its manifest and SHA256SUMS
    Verify(Verify),
    /// Boot a bundle in QEMU with its console on this terminal
    Boot(Boot),
    /// Boot a bundle in QEMU and check what its recipe promises
    Test(Test),
    /// Try hooks without booting anything
    #[command(subcommand)]
    Hook(HookCommand),
    /// Put a bundle on a boot server and point a channel at it
    Publish(Publish),
    /// Point a channel back at the version before
    Rollback(Rollback),
    /// Serve a boot server's folder over HTTP
    Serve(Serve),
    /// Look after the cache: see what is in it, make it smaller, check it, carry it elsewhere
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Print a shell's completions
    Completions(Completions),
    /// Print a reference page in Markdown
    #[command(hide = true)]
    Reference(Reference),
}

/// Recipes and what is set in them.
#[derive(Debug, Args)]
pub(crate) struct Recipes {
    /// Recipe files, merged from left to right; `-` is stdin
    #[arg(required = true, value_name = "RECIPE")]
    pub(crate) recipes: Vec<String>,
    /// Override a value: image.version=1.4.2, params.registry=…
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
}

/// How inputs are had.
#[derive(Debug, Args)]
pub(crate) struct Inputs {
    /// Use the cache only; what it lacks is an error
    #[arg(long)]
    pub(crate) offline: bool,
    /// Registries to talk to over plain HTTP (loopback addresses always are)
    #[arg(
        long = "insecure-registry",
        value_name = "HOST[:PORT]",
        env = "IMGBUILD_INSECURE_REGISTRIES",
        value_delimiter = ','
    )]
    pub(crate) insecure: Vec<String>,
    /// Certificates to trust besides the system's, in PEM
    #[arg(long, value_name = "FILE", env = "IMGBUILD_CA_FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// `imgbuild build`.
#[derive(Debug, Args)]
pub(crate) struct Build {
    #[command(flatten)]
    pub(crate) recipes: Recipes,
    #[command(flatten)]
    pub(crate) inputs: Inputs,
    /// Folder that gets NAME-VERSION/
    #[arg(short, long, default_value = "out", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Fail unless NAME.lock is there and agrees with the recipe
    #[arg(long)]
    pub(crate) locked: bool,
    /// Threads that compress [default: one for each core]
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    /// How much of what was compressed is kept for later builds; what was used longest ago goes first
    #[arg(long, value_name = "SIZE", default_value = "10GiB", env = "IMGBUILD_PACK_LIMIT")]
    pub(crate) pack_limit: String,
}

/// `imgbuild lock`.
#[derive(Debug, Args)]
pub(crate) struct Lock {
    #[command(flatten)]
    pub(crate) recipes: Recipes,
    #[command(flatten)]
    pub(crate) inputs: Inputs,
    /// Write nothing: fail if the lock there would change, and say how
    #[arg(long)]
    pub(crate) check: bool,
}

/// `imgbuild show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) recipes: Recipes,
}

/// `imgbuild inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A bundle's folder
    pub(crate) bundle: PathBuf,
    /// Show which layer and which recipe line a file of the root came from
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<String>,
    /// Draw the root as a treemap into this HTML file; `-` is stdout
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) html: Option<PathBuf>,
}

/// `imgbuild diff`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 if they are equal byte for byte, 5 if they differ, 1 to 4 as everywhere.\n\
                        The structure that --json prints: docs/reference/diff.schema.json.")]
pub(crate) struct Diff {
    /// A bundle's folder, or a squashfs image: what was before
    #[arg(value_name = "A")]
    pub(crate) before: PathBuf,
    /// Another: what is compared with it
    #[arg(value_name = "B")]
    pub(crate) after: PathBuf,
    /// Print every row of every table, not the largest only
    #[arg(long)]
    pub(crate) all: bool,
    /// Draw the root of B with what changed as a treemap into this HTML file; `-` is stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// `imgbuild verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A bundle's folder
    pub(crate) bundle: PathBuf,
}

/// What is booted.
#[derive(Debug, Args)]
pub(crate) struct Booted {
    /// A bundle's folder; with --from, not needed
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub(crate) bundle: Option<PathBuf>,
    /// Boot what this published folder's channel points at
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,
    /// The image's name in that folder [default: the only one]
    #[arg(long, requires = "from", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The channel of --from
    #[arg(long, default_value = "stable")]
    pub(crate) channel: String,
}

/// The virtual machine.
#[derive(Debug, Args)]
pub(crate) struct Machine {
    /// The guest's RAM [default: the recipe's budget]
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// The guest's processors
    #[arg(long, default_value = "2", value_name = "N")]
    pub(crate) cpus: std::num::NonZeroU8,
    /// More kernel command line
    #[arg(long, value_name = "PARAMETER")]
    pub(crate) append: Vec<String>,
    /// A network card with this address; repeat for several: the first one boots, each other one has a network of its own
    #[arg(long = "nic", value_name = "MAC", value_parser = mac)]
    pub(crate) nics: Vec<Mac>,
    /// How the guest runs
    #[arg(long, value_enum, env = "IMGBUILD_ACCEL", default_value_t = Accelerator::Auto)]
    pub(crate) accel: Accelerator,
    /// iPXE for UEFI, an EFI program, instead of this machine's
    #[arg(long, value_name = "FILE")]
    pub(crate) ipxe: Option<PathBuf>,
    /// One more argument for QEMU; repeat for several. A -netdev with id=net0 is what the card that boots is plugged into
    #[arg(long = "qemu", value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub(crate) qemu: Vec<String>,
}

/// How the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accelerator {
    /// With KVM if that works, else emulated
    Auto,
    /// With KVM, or not at all
    Kvm,
    /// Emulated
    Tcg,
}

fn mac(text: &str) -> Result<Mac, String> {
    Mac::parse(text).ok_or_else(|| "expected six bytes in hexadecimal, such as 52:54:00:12:34:56".to_owned())
}

/// `imgbuild boot`.
#[derive(Debug, Args)]
pub(crate) struct Boot {
    #[command(flatten)]
    pub(crate) booted: Booted,
    /// The way the guest boots
    #[arg(long, value_enum, default_value_t = BootPath::Direct)]
    pub(crate) path: BootPath,
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Lead a port of 127.0.0.1 to one of the guest; repeat for several
    #[arg(short = 'p', long = "forward", value_name = "PORT:GUEST-PORT[/udp]")]
    pub(crate) forwards: Vec<Forward>,
    /// Let netboot-init say more, and give a shell where it fails; with names, at these points as well
    #[arg(long, value_name = "POINT", num_args = 0.., require_equals = true, value_delimiter = ',', value_parser = break_points())]
    pub(crate) debug: Option<Vec<String>>,
}

fn break_points() -> clap::builder::PossibleValuesParser {
    BreakPoint::names().into()
}

/// How the guest gets at its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BootPath {
    /// QEMU loads kernel and initrd; the root comes over HTTP
    Direct,
    /// SeaBIOS, the network card's iPXE, DHCP, TFTP, then HTTP from a published folder
    PxeBios,
    /// UEFI, iPXE over DHCP and TFTP, then HTTP from a published folder
    PxeUefi,
    /// UEFI, iPXE by UEFI's HTTP boot, then HTTP from a published folder
    HttpUefi,
}

/// The scenarios, each with what it does.
fn fault_names() -> PossibleValuesParser {
    let names = Fault::ALL.map(|fault| PossibleValue::new(fault.name()).help(fault.what()));
    let all = PossibleValue::new("all").help("All that mean something for this image");
    PossibleValuesParser::new(names.into_iter().chain([all]))
}

/// `imgbuild test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    #[command(flatten)]
    pub(crate) booted: Booted,
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// The way the guest boots; repeat for several [default: all that this machine can do]
    #[arg(long = "path", value_enum)]
    pub(crate) paths: Vec<BootPath>,
    /// Assert what this file of [[test]] tables says as well; repeat for several
    #[arg(long, value_name = "FILE")]
    pub(crate) tests: Vec<PathBuf>,
    /// Put the node through this instead, or through all; repeat for several. Over `direct` unless --path says otherwise
    #[arg(long = "fault", value_name = "NAME", value_parser = fault_names())]
    pub(crate) faults: Vec<String>,
    /// Find the least RAM with which all tests pass, from --memory down. Over `direct` unless --path says otherwise
    #[arg(long, conflicts_with_all = ["faults", "junit", "timeline"])]
    pub(crate) find_min_ram: bool,
    /// How exactly --find-min-ram looks
    #[arg(long, default_value = "16MiB", value_name = "SIZE")]
    pub(crate) ram_step: String,
    /// Give up after so many seconds
    #[arg(long, default_value = "900", value_name = "SECONDS")]
    pub(crate) timeout: u64,
    /// Keep console log and results in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) results: Option<PathBuf>,
    /// Write what came of the tests into this file, as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Write the boots' time lines into this file, as an SVG image
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) timeline: Option<PathBuf>,
}

/// `imgbuild hook`.
#[derive(Debug, Subcommand)]
pub(crate) enum HookCommand {
    /// Run a pre-init hook on this machine, in an empty root, with a node's environment; show what it wrote
    Run(HookRun),
}

/// `imgbuild hook run`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 if the hook's was 0, 4 if it failed or its time was over.")]
pub(crate) struct HookRun {
    /// The script
    pub(crate) script: PathBuf,
    /// A variable that the node's configuration would give it; repeat for several
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub(crate) variables: Vec<String>,
    /// The kernel's command line, as the hook reads it
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) cmdline: String,
    /// Kill it after this time
    #[arg(long, default_value = "1m", value_name = "TIME")]
    pub(crate) timeout: String,
}

/// `imgbuild publish`.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// A bundle's folder
    pub(crate) bundle: PathBuf,
    /// The boot server's folder
    pub(crate) target: PathBuf,
    /// Point this channel at it [default: stable, for an image that boots]
    #[arg(long)]
    pub(crate) channel: Option<String>,
}

/// `imgbuild rollback`.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The boot server's folder
    pub(crate) target: PathBuf,
    /// The image's name
    pub(crate) name: String,
    /// The channel to move
    #[arg(long, default_value = "stable")]
    pub(crate) channel: String,
}

/// `imgbuild serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The boot server's folder
    pub(crate) dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS:PORT")]
    pub(crate) listen: std::net::SocketAddr,
}

/// `imgbuild cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show what the cache holds
    Ls,
    /// Delete what was used longest ago; waits for builds that are running
    Prune(CachePrune),
    /// Read everything that can be checked, and delete what is damaged; ends with 4 if anything was
    Verify,
    /// Write a tar of the cache, to be imported on another machine
    Export(CacheExport),
    /// Take over an exported tar, `-` is stdin
    Import {
        /// The tar
        file: PathBuf,
    },
}

/// `imgbuild cache prune`.
#[derive(Debug, Args)]
#[group(id = "limits", required = true, multiple = true)]
pub(crate) struct CachePrune {
    /// Leave no more than this: 20GiB
    #[arg(long, value_name = "SIZE", group = "limits")]
    pub(crate) max_size: Option<String>,
    /// Delete what was not used for so many days
    #[arg(long, value_name = "DAYS", group = "limits")]
    pub(crate) older_than: Option<u32>,
    /// Delete everything
    #[arg(long, group = "limits", conflicts_with_all = ["max_size", "older_than"])]
    pub(crate) all: bool,
    /// Only show what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `imgbuild cache export`.
#[derive(Debug, Args)]
pub(crate) struct CacheExport {
    /// The tar to write, `-` is stdout
    pub(crate) file: PathBuf,
    /// Only these kinds of entries, as `cache ls` names them; by default what was compressed [default: packs segments]
    #[arg(long = "only", value_name = "KIND", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
}

/// `imgbuild completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// `imgbuild reference`.
#[derive(Debug, Args)]
pub(crate) struct Reference {
    /// Which page
    #[arg(value_enum)]
    pub(crate) page: Page,
}

/// The generated pages of docs/reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Page {
    /// Commands and their options
    Commands,
    /// Keys of a recipe
    Recipe,
    /// Lint rules
    Lint,
    /// JSON Schema of what `diff --json` prints
    Diff,
    /// Named sets of kernel modules
    Modules,
    /// Hooks: stages, how they are run, what they find in their environment
    Hooks,
    /// What netboot-init reads on the kernel's command line
    Cmdline,
    /// The node's configuration, `netboot.config=`
    Node,
    /// JSON Schema of the node's configuration
    NodeSchema,
}
