//! `online` hooks as systemd units, and what systemd does when one fails.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::{GRACE, SCRIPTS, install};
use crate::config::{HOOKS, Hook, OnFailure, Stage};
use crate::environment;
use crate::error::{Error, Result};
use crate::failure::{self, Policy};
use crate::{console, net, rootfs, say};

/// Where units of this boot are.
const UNITS: &str = "/run/systemd/system";
/// Waits before a failed node starts again. A timer, since that needs no program of the root.
const PAUSE: &str = "netboot-hook-failed.timer";
const RESTART: &str = "netboot-hook-failed.service";

/// Makes systemd units of the `online` hooks, below /run of the new root: oneshots after the network is up, one after the
/// other, their output in the journal. `policy` is what the command line says of failures, and `debug` whether it may ask
/// for a shell.
///
/// # Errors
///
/// [`Error::File`].
pub fn install_online(hooks: &[Hook], root: &Path, policy: Policy, debug: bool) -> Result<()> {
    let hooks: Vec<&Hook> = hooks.iter().filter(|hook| hook.stage == Stage::Online).collect();
    let reboot = Failure::of(policy, debug);
    let mut before: Option<&str> = None;
    for hook in &hooks {
        let script =
            install(Path::new(HOOKS), Path::new(SCRIPTS), hook).map_err(Error::file("copy the hook", &hook.name))?;
        let name = unit_name(&hook.name);
        write_unit(root, &name, &unit(hook, &script, before, reboot))?;
        let wants = rootfs::resolve_folder(root, &Path::new(UNITS).join("multi-user.target.wants"))?;
        let link = wants.join(&name);
        rootfs::make_way(&link).map_err(Error::file("replace", &link))?;
        std::os::unix::fs::symlink(format!("../{name}"), &link).map_err(Error::file("link", &link))?;
        say!("hook {} runs as {name} once the network is up", hook.name);
        before = Some(&hook.name);
    }
    let longest = hooks.iter().filter(|hook| hook.on_failure == OnFailure::Reboot).map(|hook| hook.timeout).max();
    if let (Failure::Restart(asked), Some(longest)) = (reboot, longest) {
        let tried = Duration::try_from_secs_f64(console::uptime()).unwrap_or_default();
        let pause =
            asked.unwrap_or_else(|| failure::pause(tried.saturating_add(Duration::from_secs(longest)), net::random()));
        write_unit(root, PAUSE, &pause_unit(pause))?;
        write_unit(root, RESTART, RESTART_UNIT)?;
    }
    Ok(())
}

fn write_unit(root: &Path, name: &str, text: &str) -> Result<()> {
    rootfs::write(root, &format!("{UNITS}/{name}"), text.as_bytes(), 0o644)
}

/// What comes of a hook that fails and whose recipe says `reboot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// A start from the firmware, after a pause.
    Restart(Option<Duration>),
    Halt,
    PowerOff,
    /// Nothing: whoever debugs the system has its own ways into it.
    Stay,
}

impl Failure {
    fn of(policy: Policy, debug: bool) -> Self {
        match policy {
            Policy::Reboot { pause } => Self::Restart(pause),
            Policy::Halt => Self::Halt,
            Policy::PowerOff => Self::PowerOff,
            Policy::Shell if debug => Self::Stay,
            Policy::Shell => Self::Restart(None),
        }
    }

    fn lines(self) -> String {
        let at_once = |target| format!("OnFailure={target}\nOnFailureJobMode=replace-irreversibly\n");
        match self {
            Self::Restart(_) => format!("OnFailure={PAUSE}\n"),
            Self::Halt => at_once("halt.target"),
            Self::PowerOff => at_once("poweroff.target"),
            Self::Stay => String::new(),
        }
    }
}

fn unit_name(hook: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    format!("netboot-hook-{}.service", hook.chars().map(plain).collect::<String>())
}

fn unit(hook: &Hook, script: &Path, before: Option<&str>, reboot: Failure) -> String {
    let after = before.map(|name| format!(" {}", unit_name(name))).unwrap_or_default();
    let on_failure = match hook.on_failure {
        OnFailure::Continue => String::new(),
        OnFailure::Reboot => reboot.lines(),
        // Somebody waits for the machine to switch itself off.
        OnFailure::Halt if reboot == Failure::PowerOff => reboot.lines(),
        OnFailure::Halt => Failure::Halt.lines(),
    };
    // `%` begins a specifier in a unit.
    let escaped = |text: &str| text.replace('%', "%%");
    let mut text = format!(
        "[Unit]\nDescription=netboot hook {name}\nWants=network-online.target\nAfter=network-online.target{after}\n{on_failure}\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=\"{script}\"\nStandardInput=null\n\
         EnvironmentFile=/run/netboot/env\nEnvironment=NETBOOT_STAGE=online \"NETBOOT_HOOK={name}\"\n\
         Environment=PATH={path} HOME=/root LC_ALL=C\n",
        name = escaped(&hook.name),
        script = escaped(&script.display().to_string()),
        path = environment::PATH,
    );
    let (start, stop) = (hook.timeout.max(1), GRACE.as_secs());
    let _ = writeln!(text, "TimeoutStartSec={start}\nTimeoutStopSec={stop}");
    text
}

fn pause_unit(pause: Duration) -> String {
    format!(
        "[Unit]\nDescription=Pause after a netboot hook that failed, before the node starts again\n\n\
         [Timer]\nOnActiveSec={}\nAccuracySec=1\nUnit={RESTART}\n",
        pause.as_secs()
    )
}

const RESTART_UNIT: &str = "[Unit]\nDescription=Restart of the node, since a netboot hook failed\nSuccessAction=reboot\n\n\
    [Service]\nType=oneshot\n";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn hook(on_failure: OnFailure) -> Hook {
        Hook { name: "join cluster".into(), stage: Stage::Online, timeout: 30, on_failure }
    }

    #[test]
    fn the_units_are_such_that_systemd_takes_them() {
        let folder = tempfile::tempdir().unwrap();
        let restart = Failure::of(Policy::default(), false);
        let unit = unit(&hook(OnFailure::Reboot), Path::new("/bin/true"), Some("first"), restart);
        assert!(unit.contains("After=network-online.target netboot-hook-first.service\n"), "{unit}");
        assert!(unit.contains("TimeoutStartSec=30\nTimeoutStopSec=2\n"), "{unit}");
        let set: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("Environment=")).collect();
        let set = set.join(" ");
        for (name, _) in environment::OF_HOOKS {
            assert!(set.split([' ', '"']).any(|word| word.starts_with(&format!("{name}="))), "{name}: {set}");
        }
        assert!(set.contains(&format!("PATH={} HOME=/root", environment::PATH)), "{set}");
        let name = unit_name("join cluster");
        assert_eq!(name, "netboot-hook-join_cluster.service");
        let pause = pause_unit(Duration::from_secs(37));
        assert!(pause.contains("OnActiveSec=37\n"), "{pause}");
        let mut verify = Command::new("systemd-analyze");
        verify.arg("verify");
        for (name, text) in [(name.as_str(), unit.as_str()), (PAUSE, &pause), (RESTART, RESTART_UNIT)] {
            fs::write(folder.path().join(name), text).unwrap();
            verify.arg(folder.path().join(name));
        }
        let words = verify.output().unwrap().stderr;
        let words = String::from_utf8_lossy(&words);
        assert!(!words.contains("netboot-hook-"), "{words}");
    }

    #[test]
    fn a_failure_is_followed_by_what_recipe_and_command_line_say() {
        let lines = |on_failure, policy: &str, debug| {
            let failure = Failure::of(Policy::parse(policy).unwrap(), debug);
            let unit = unit(&hook(on_failure), Path::new("/x"), None, failure);
            unit.lines().find_map(|line| line.strip_prefix("OnFailure=")).map(str::to_owned)
        };
        for (on_failure, policy, debug, expected) in [
            (OnFailure::Reboot, "reboot", false, Some(PAUSE)),
            (OnFailure::Reboot, "reboot:5", false, Some(PAUSE)),
            (OnFailure::Reboot, "halt", false, Some("halt.target")),
            (OnFailure::Reboot, "poweroff", false, Some("poweroff.target")),
            (OnFailure::Reboot, "shell", true, None),
            (OnFailure::Reboot, "shell", false, Some(PAUSE)),
            (OnFailure::Halt, "reboot", false, Some("halt.target")),
            (OnFailure::Halt, "poweroff", false, Some("poweroff.target")),
            (OnFailure::Continue, "reboot", false, None),
        ] {
            assert_eq!(lines(on_failure, policy, debug).as_deref(), expected, "{on_failure:?} {policy}");
        }
    }
}
