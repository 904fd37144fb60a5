//! The steps of a boot, in order.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::cmdline::{self, Handover, Ip, Parameters};
use crate::config::{self, Config, Stage};
use crate::environment::{self, Facts};
use crate::error::{Error, Result};
use crate::failure::{self, Policy};
use crate::fetch::{self, Patience, Wanted, memory};
use crate::identity::{Identity, Machine};
use crate::modules::Loader;
use crate::net::dns::Names;
use crate::net::{self, Choice, Link, Mac, Network, interfaces, networkd};
use crate::nodeconfig::{self, NodeConfig};
use crate::report::{Outcome, Report};
use crate::shell::BreakPoint;
use crate::{console, debug, entropy, handover, hooks, overlay, root, say, sys, template, warning};

const SYS: &str = "/sys";
const DMI: &str = "/sys/class/dmi/id";
/// KiB a second below which a source is left for the next one.
const LEAST_SPEED: u32 = 64;
/// What the steps after this one need, whatever the recipe lists.
const NEEDED_MODULES: [&str; 5] = ["loop", "squashfs", "overlay", "af_packet", "ipv6"];

/// Boots. Never returns: at the end this process is the system's init, or the machine starts again.
pub fn run() -> ! {
    console::begin();
    failure::catch_panics(Policy::default());
    let mut boot = Boot::default();
    let error = match boot.steps() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let policy = policy(&boot.parameters, matches!(error, Error::Hook { halt: true, .. }));
    let reason = failure::explanation(boot.step, &error);
    failure::tell(&reason);
    boot.report(|report| report.failed(boot.step, &reason));
    failure::act(policy, &reason)
}

/// What follows a failure. A hook may ask for a halt, but not where somebody waits for the machine to switch itself off.
fn policy(parameters: &Parameters, halt: bool) -> Policy {
    match parameters.on_failure {
        _ if parameters.check => Policy::PowerOff,
        Policy::PowerOff => Policy::PowerOff,
        _ if halt => Policy::Halt,
        asked => asked,
    }
}

#[derive(Default)]
struct Boot {
    /// What is being done, for the explanation of a failure.
    step: &'static str,
    parameters: Parameters,
    facts: Facts,
    machine: Machine,
    node: NodeConfig,
    link: Option<Link>,
}

impl Boot {
    fn steps(&mut self) -> Result<std::convert::Infallible> {
        self.begin("mount /proc, /sys, /dev and /run");
        for mount in root::system_mounts() {
            mount.perform()?;
        }
        console::open();
        self.begin("read the kernel command line");
        self.read_command_line()?;
        self.begin("read the initrd's configuration");
        let config = self.read_config()?;
        raise_clock(config.build_time, self.parameters.time);

        self.begin("load kernel modules");
        let mut loader = self.load_modules(&config);
        entropy::seed();
        self.stop_at(BreakPoint::PreNetwork);
        self.begin("run the pre-network hooks");
        hooks::run_stage(&config.hooks, Stage::PreNetwork, None, &self.facts)?;
        self.begin("bring up the network");
        self.bring_up_network(&config, &mut loader)?;
        self.machine = Machine::read(Path::new(DMI), self.facts.mac);
        self.stop_at(BreakPoint::PostNetwork);
        if !config.root.embedded || !self.parameters.config.is_empty() {
            wait_a_random_time(self.parameters.delay);
        }
        self.begin("get this node's configuration");
        self.get_node_config()?;
        self.begin("get the root");
        let image = self.get_root(&config)?;
        drop(loader);
        self.stop_at(BreakPoint::PostFetch);

        self.begin("mount the root");
        root::assemble(&image, &config)?;
        let new_root = Path::new(root::NEW_ROOT);
        // Before anything is written into the root: what goes below its /run has to go into the tmpfs that it gets.
        root::move_system_mounts()?;
        self.begin("copy the extra segments' files over the root");
        self.copy_overlay(new_root)?;
        self.begin("write the files of this node's configuration");
        self.node.write_files(new_root)?;
        self.begin("give the node its name");
        self.identify(new_root)?;
        self.begin("hand over to the system");
        let network = self.hand_over_network(new_root)?;
        handover::write_facts(Path::new(root::RUN), &self.facts)?;
        let init = handover::find_init(new_root, self.parameters.init.as_deref())?;
        self.stop_at(BreakPoint::PostMount);
        self.begin("run the pre-init hooks");
        hooks::run_stage(&config.hooks, Stage::PreInit, Some(new_root), &self.facts)?;
        self.begin("install the online hooks");
        hooks::install_online(&config.hooks, new_root, self.parameters.on_failure, self.parameters.debug)?;

        self.stop_at(BreakPoint::PreSwitch);
        self.report(|report| report);
        if self.parameters.check {
            say!("netboot.check: this node would start {init} now; power off");
            failure::power_off();
        }
        self.begin("switch to the root");
        match &self.link {
            // A hook that has other plans for the interface takes the file away, and finds the interface as after the
            // kernel's start.
            Some(link) if network == Handover::Keep && Path::new(networkd::FOLDER).join(networkd::FILE).exists() => {
                link.keep();
            }
            Some(link) => link.put_back(),
            None => {}
        }
        sys::reap_orphans();
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        say!("{init}{} takes over; {}", words(&arguments), memory_in_words());
        Err(handover::switch_root(new_root, &init, &arguments))
    }

    /// A step begins. The log says when: `imgbuild test` makes a time line of it.
    fn begin(&mut self, step: &'static str) {
        self.step = step;
        debug!("step: {step}");
    }

    fn read_command_line(&mut self) -> Result<()> {
        let bytes = fs::read("/proc/cmdline").map_err(Error::file("read", "/proc/cmdline"))?;
        // Somebody else's parameter in another encoding is no reason not to boot.
        let text = String::from_utf8_lossy(&bytes);
        let parsed = cmdline::parse(&text);
        self.parameters = parsed.parameters;
        failure::catch_panics(policy(&self.parameters, false));
        console::set_debug(self.parameters.debug);
        let run = Path::new(root::RUN);
        fs::create_dir_all(run.join("hooks")).map_err(Error::file("make the folder", run))?;
        console::log_to(&run.join("log"));
        self.facts.kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        self.facts.debug = self.parameters.debug;
        say!("netboot-init {} on Linux {}, {}", env!("CARGO_PKG_VERSION"), self.facts.kernel, memory_in_words());
        debug!("command line: {}", text.trim());
        for warning in &parsed.warnings {
            warning!("{warning}");
        }
        if parsed.errors.is_empty() { Ok(()) } else { Err(Error::CommandLine(parsed.errors)) }
    }

    fn read_config(&mut self) -> Result<Config> {
        let text = fs::read_to_string(config::PATH)
            .map_err(|e| Error::Config { path: config::PATH.into(), what: e.to_string() })?;
        let config = parse_config(&text)?;
        say!("image {} {}", config.name, config.version);
        self.facts.image.clone_from(&config.name);
        self.facts.version.clone_from(&config.version);
        let copy = Path::new(root::RUN).join("image.json");
        fs::write(&copy, text).map_err(Error::file("write", copy))?;
        warn_of_little_memory(config.ram_budget);
        Ok(config)
    }

    fn load_modules(&self, config: &Config) -> Loader {
        let mut loader = Loader::new(Path::new(config::MODULES), &self.parameters);
        let of_links =
            self.parameters.vlan.iter().map(|_| "8021q").chain(self.parameters.bond.iter().map(|_| "bonding"));
        for module in config.modules.iter().map(String::as_str).chain(NEEDED_MODULES).chain(of_links) {
            loader.load(module);
        }
        loader.load_for_devices(&Path::new(SYS).join("devices"));
        say!("{} of the initrd's {} modules loaded", loader.loaded(), loader.available());
        loader
    }

    /// A root that is here needs no network; it gets one only if the command line asks for it.
    fn bring_up_network(&mut self, config: &Config, loader: &mut Loader) -> Result<()> {
        let asked =
            matches!(self.parameters.ip, Some(Ip::Dhcp(..) | Ip::Static(_))) || !self.parameters.config.is_empty();
        if config.root.embedded && !asked {
            self.facts.mac = boot_mac(&self.parameters);
            say!("network: left to the system");
            return Ok(());
        }
        if self.parameters.root.is_empty() && !config.root.embedded {
            return Err(Error::NoRoot);
        }
        let mut retry_modules = || {
            loader.load_for_devices(&Path::new(SYS).join("devices"));
        };
        let link = net::bring_up(Path::new(SYS), &self.parameters, &mut retry_modules)?;
        let network = link.network();
        self.facts.mac = Some(network.mac);
        say!("{}", describe(&network));
        self.facts.network = Some(network);
        self.link = Some(link);
        Ok(())
    }

    fn get_node_config(&mut self) -> Result<()> {
        if self.parameters.config.is_empty() {
            return Ok(());
        }
        let fill = |url: &String| self.fill(url).map_err(|what| Error::NodeConfigUrl { url: url.clone(), what });
        let urls = self.parameters.config.iter().map(fill).collect::<Result<Vec<String>>>()?;
        let (url, document) = fetch::document(&urls, self.names(), Patience::default(), nodeconfig::MOST_BYTES)
            .map_err(Error::NodeConfigSources)?;
        nodeconfig::keep(Path::new(root::RUN), &document)?;
        let parsed =
            nodeconfig::parse(&document).map_err(|problems| Error::NodeConfig { url: url.clone(), problems })?;
        for warning in &parsed.warnings {
            warning!("{url}: {warning}");
        }
        self.node = parsed.config;
        say!(
            "this node's configuration: {} variables, {} files{}",
            self.node.variables.len(),
            self.node.files.len(),
            self.node.hostname.as_deref().map(|name| format!(", host name {name}")).unwrap_or_default()
        );
        self.facts.config = url;
        self.facts.variables.clone_from(&self.node.variables);
        Ok(())
    }

    /// A URL with this machine's values.
    fn fill(&self, url: &str) -> std::result::Result<String, String> {
        let hostname =
            Identity::new(self.node.hostname.as_deref(), self.facts.network.as_ref(), &self.machine).hostname;
        template::fill(url, &self.machine, &hostname)
    }

    fn names(&self) -> Names {
        let network = self.facts.network.as_ref();
        let servers = network.map(|network| network.dns.clone()).unwrap_or_default();
        let search = network.map(|network| network.domain.iter().chain(&network.search).cloned().collect());
        Names::new(servers, search.unwrap_or_default()).on_link(self.link.as_ref().map_or(0, Link::index))
    }

    fn stop_at(&self, point: BreakPoint) {
        point.reach(&self.parameters.break_points, &environment::values(&self.facts));
    }

    /// Sends a report if `netboot.report=` asks for one; a failure's is made of one of success.
    fn report<'a>(&'a self, finish: impl FnOnce(Report<'a>) -> Report<'a>) {
        let Some(url) = &self.parameters.report else { return };
        if self.facts.network.is_none() {
            return warning!("netboot.report: not sent, there is no network");
        }
        let outcome = if self.parameters.check { Outcome::Checked } else { Outcome::Booted };
        match self.fill(url) {
            Ok(url) => finish(Report::new(outcome, &self.facts, &self.machine)).send(&url, self.names()),
            Err(why) => warning!("netboot.report={url}: {why}"),
        }
    }

    fn get_root(&mut self, config: &Config) -> Result<PathBuf> {
        if config.root.embedded {
            self.facts.source = "embedded".into();
            return root::check_embedded(config);
        }
        self.facts.source = self.parameters.root.first().cloned().unwrap_or_default();
        let sha256 = self.parameters.sha256.as_deref().unwrap_or(&config.root.sha256);
        let wanted = Wanted {
            urls: &self.parameters.root,
            sha256,
            // Another root than the built one has another length.
            size: (sha256 == config.root.sha256).then_some(config.root.size),
            least_speed: u64::from(self.parameters.min_speed.unwrap_or(LEAST_SPEED)) * 1024,
            connections: self.parameters.connections.unwrap_or(1),
        };
        let file = fetch::fetch(&wanted, self.names(), Patience::default(), &mut root::place)?;
        root::seal(&file)?;
        Ok(root::image_path())
    }

    /// Tells the system of the network, if it is to find it as it is.
    fn hand_over_network(&mut self, new_root: &Path) -> Result<Handover> {
        let Some(link) = &self.link else { return Ok(Handover::Down) };
        // Renewals may have brought news.
        let network = link.network();
        let way = self.parameters.handover.unwrap_or_else(|| handover::way(new_root));
        if way == Handover::Keep {
            let files = networkd::files(&network, &self.parameters, &self.facts.kernel);
            handover::write_network(Path::new(networkd::FOLDER), &files)?;
        }
        self.facts.network = Some(network);
        Ok(way)
    }

    fn copy_overlay(&self, new_root: &Path) -> Result<()> {
        let folder = Path::new(config::OVERLAY);
        if folder.is_dir() {
            let copied = overlay::copy(folder, new_root)?;
            say!("{copied} files of {} copied over the root", folder.display());
        }
        Ok(())
    }

    fn identify(&mut self, new_root: &Path) -> Result<()> {
        let identity = Identity::new(self.node.hostname.as_deref(), self.facts.network.as_ref(), &self.machine);
        identity.apply(new_root)?;
        if let Err(e) = rustix::system::sethostname(identity.hostname.as_bytes()) {
            warning!("host name {}: {e}", identity.hostname);
        }
        say!("host name {}, machine id {}", identity.hostname, identity.machine_id);
        self.facts.identity = Some(identity);
        Ok(())
    }
}

/// Reads the configuration, and refuses what a later version wrote in words of its own.
fn parse_config(text: &str) -> Result<Config> {
    #[derive(serde::Deserialize)]
    struct Version {
        schema: u32,
    }
    let broken = |what: String| Error::Config { path: config::PATH.into(), what };
    let version: Version = serde_json::from_str(text).map_err(|e| broken(e.to_string()))?;
    if version.schema != config::SCHEMA {
        return Err(broken(format!("schema {}, but this netboot-init reads {}", version.schema, config::SCHEMA)));
    }
    let config: Config = serde_json::from_str(text).map_err(|e| broken(e.to_string()))?;
    // Names become paths.
    match config.hooks.iter().find(|hook| hook.name.is_empty() || hook.name.starts_with('.') || hook.name.contains('/'))
    {
        Some(hook) => Err(broken(format!("`{}` is not a hook's name", hook.name))),
        None => Ok(config),
    }
}

/// A clock that stands before the build makes every certificate invalid.
fn raise_clock(build_time: i64, told: Option<i64>) {
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    let Some((time, whose)) = time_to_raise_to(now, build_time, told) else { return };
    match clock_settime(ClockId::Realtime, Timespec { tv_sec: time, tv_nsec: 0 }) {
        Ok(()) => warning!("the machine's clock was {} s before {whose}; raised", time.saturating_sub(now)),
        Err(e) => warning!("the machine's clock is before {whose} and could not be raised: {e}"),
    }
}

/// The time that a clock is behind, and in words whose that is.
fn time_to_raise_to(now: i64, build_time: i64, told: Option<i64>) -> Option<(i64, &'static str)> {
    let told = told.map(|time| (time, "netboot.time="));
    let latest = std::iter::once((build_time, "the build's")).chain(told).max_by_key(|(time, _)| *time);
    latest.filter(|(time, _)| *time > now)
}

fn warn_of_little_memory(budget: u64) {
    // The kernel keeps some for itself, so that a machine of just the right size shows less.
    let Some(memory) = memory::Memory::now() else { return };
    if memory.total < budget / 100 * 85 {
        warning!(
            "this image was made for nodes with {} MiB of memory; this one has {} MiB",
            memory::mebibytes(budget),
            memory::mebibytes(memory.total)
        );
    }
}

fn wait_a_random_time(longest: Duration) {
    let longest = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX);
    if longest > 0 {
        let wait = Duration::from_millis(u64::from(net::random() % longest));
        say!("netboot.delay: {:.1} s", wait.as_secs_f32());
        thread::sleep(wait);
    }
}

/// The address that names the node where no network was brought up: that of the interface which would have been.
fn boot_mac(parameters: &Parameters) -> Option<Mac> {
    let choice = Choice::new(parameters);
    let all = interfaces::list(Path::new(SYS));
    all.iter()
        .find(|interface| choice.fits(interface))
        .or(all.first())
        .map(|interface| interface.mac)
        .or(parameters.bootif)
}

fn describe(network: &Network) -> String {
    let some = |what: &str, value: Option<String>| value.map(|value| format!(", {what} {value}")).unwrap_or_default();
    let list = |values: &[std::net::IpAddr]| {
        let words: Vec<String> = values.iter().map(ToString::to_string).collect();
        (!words.is_empty()).then(|| words.join(" "))
    };
    let others: Vec<std::net::IpAddr> = network.ipv6.iter().map(|v6| v6.address.into()).collect();
    let others: Vec<std::net::IpAddr> = others.into_iter().filter(|other| *other != network.address).collect();
    format!(
        "{} {}/{}{}{}{}{}{}{}",
        network.interface,
        network.address,
        network.prefix,
        some("also", list(&others)),
        some("gateway", network.gateway.map(|gateway| gateway.to_string())),
        some("DNS", list(&network.dns)),
        some("MTU", network.mtu.map(|mtu| mtu.to_string())),
        some("from", network.dhcp_server.map(|server| server.to_string())),
        some("for", network.lease_seconds.map(|seconds| format!("{seconds} s"))),
    )
}

fn memory_in_words() -> String {
    memory::Memory::now().map_or_else(
        || "memory unknown".into(),
        |memory| {
            format!("{} of {} MiB available", memory::mebibytes(memory.available), memory::mebibytes(memory.total))
        },
    )
}

fn words(arguments: &[OsString]) -> String {
    arguments.iter().map(|argument| format!(" {}", argument.to_string_lossy())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"schema": 1, "name": "worker", "version": "1", "build_time": 1,
        "root": {"size": 1, "sha256": "00", "embedded": false}, "overlay_size": {"percent": 25},
        "tmpfs": [{"path": "/x", "size": {"bytes": 5}, "mode": 493}],
        "hooks": [{"name": "network.sh", "stage": "pre-init", "timeout": 30, "on_failure": "reboot"}],
        "modules": ["virtio_pci"], "ram_budget": 0}"#;

    #[test]
    fn the_configuration_is_read() {
        let config = parse_config(CONFIG).unwrap();
        assert_eq!((config.name.as_str(), config.hooks.len(), config.tmpfs[0].mode), ("worker", 1, 0o755));
    }

    #[test]
    fn another_schema_says_so_whatever_else_it_holds() {
        let error = parse_config(r#"{"schema": 2, "novelty": true}"#).unwrap_err().to_string();
        assert_eq!(error, "/netboot/config.json: schema 2, but this netboot-init reads 1");
        assert!(parse_config("{").is_err());
        assert!(parse_config(&CONFIG.replace("\"ram_budget\"", "\"ram\"")).is_err());
    }

    #[test]
    fn a_hooks_name_cannot_leave_its_folder() {
        for name in ["../x", "a/b", "", ".."] {
            assert!(parse_config(&CONFIG.replace("network.sh", name)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_hook_may_halt_unless_the_machine_is_to_switch_itself_off() {
        for (cmdline, halt, expected) in [
            ("", false, Policy::default()),
            ("", true, Policy::Halt),
            ("netboot.on_failure=reboot:5", true, Policy::Halt),
            ("netboot.on_failure=poweroff", true, Policy::PowerOff),
            ("netboot.check", true, Policy::PowerOff),
            ("netboot.check netboot.on_failure=halt", false, Policy::PowerOff),
        ] {
            assert_eq!(policy(&cmdline::parse(cmdline).parameters, halt), expected, "{cmdline} {halt}");
        }
    }

    #[test]
    fn a_clock_is_raised_to_the_latest_time_known_and_never_set_back() {
        for (now, told, expected) in [
            (10, None, Some((100, "the build's"))),
            (10, Some(50), Some((100, "the build's"))),
            (10, Some(500), Some((500, "netboot.time="))),
            (200, Some(500), Some((500, "netboot.time="))),
            (200, Some(-1), None),
            (600, Some(500), None),
        ] {
            assert_eq!(time_to_raise_to(now, 100, told), expected, "{now} {told:?}");
        }
    }

    #[test]
    fn the_network_in_words() {
        let mut network = Network::new("eth0", Mac([0; 6]), "static", [10, 0, 0, 2].into(), 24);
        network.gateway = Some([10, 0, 0, 1].into());
        network.mtu = Some(9000);
        assert_eq!(describe(&network), "eth0 10.0.0.2/24, gateway 10.0.0.1, MTU 9000");
    }
}
