//! What happens when a step fails: say it plainly on every console, then do what was asked for. Never return: a PID 1
//! that ends takes the kernel with it, and the reason scrolls away.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::system::RebootCommand;

use crate::error::Error;
use crate::{console, say};

/// How long the reason stays on the screen before a reboot.
const DEFAULT_PAUSE: Duration = Duration::from_secs(30);
/// How often a halted node says that it is halted, for whoever attaches to its serial console later.
const REMINDER: Duration = Duration::from_secs(60);
/// The shell that a site may put into the initrd.
const SHELL: &str = "/bin/sh";

/// `netboot.on_failure=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Pause, then start again from the firmware.
    Reboot {
        /// How long the reason is shown.
        pause: Duration,
    },
    /// Stay, with the reason on the consoles.
    Halt,
    /// Pause, then switch the machine off.
    PowerOff,
    /// A shell on the console, if `netboot.debug` allows one and the initrd has one.
    Shell,
}

impl Default for Policy {
    fn default() -> Self {
        Self::Reboot { pause: DEFAULT_PAUSE }
    }
}

impl Policy {
    /// Reads `reboot`, `reboot:SECONDS`, `halt`, `poweroff` or `shell`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "reboot" => Some(Self::default()),
            "halt" => Some(Self::Halt),
            "poweroff" => Some(Self::PowerOff),
            "shell" => Some(Self::Shell),
            _ => {
                let seconds = text.strip_prefix("reboot:")?.parse().ok()?;
                Some(Self::Reboot { pause: Duration::from_secs(seconds) })
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reboot { pause } => write!(f, "reboot:{}", pause.as_secs()),
            Self::Halt => f.write_str("halt"),
            Self::PowerOff => f.write_str("poweroff"),
            Self::Shell => f.write_str("shell"),
        }
    }
}

/// The lines that explain a failure.
#[must_use]
pub fn explanation(step: &str, error: &Error) -> Vec<String> {
    let mut lines = vec![format!("FAILED: {step}")];
    let mut tried = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        tried = format!("{tried}: {cause}");
        source = cause.source();
    }
    lines.extend(tried.lines().map(|line| format!("  what happened: {line}")));
    lines.extend(error.what_to_check().lines().map(|line| format!("  what to check: {line}")));
    lines
}

/// Reports a failed step and does what the policy says.
pub fn fail(step: &str, error: &Error, policy: Policy) -> ! {
    for line in explanation(step, error) {
        say!("{line}");
    }
    act(policy)
}

/// Does what the policy says; the reason is on the consoles already.
pub fn act(policy: Policy) -> ! {
    match policy {
        Policy::Reboot { pause } => reboot_after(pause),
        Policy::Halt => halt(),
        Policy::PowerOff => {
            say!("netboot.on_failure=poweroff: power off");
            end(RebootCommand::PowerOff)
        }
        Policy::Shell => shell(),
    }
}

fn reboot_after(pause: Duration) -> ! {
    say!("netboot.on_failure=reboot: reboot in {} s", pause.as_secs());
    thread::sleep(pause);
    end(RebootCommand::Restart)
}

fn end(command: RebootCommand) -> ! {
    rustix::fs::sync();
    let came_back = rustix::system::reboot(command);
    say!("the kernel refused: {came_back:?}");
    halt()
}

fn halt() -> ! {
    loop {
        say!("halted; the reason is above; switch the machine off or reset it");
        crate::sys::reap_orphans();
        thread::sleep(REMINDER);
    }
}

fn shell() -> ! {
    if !console::is_debug() {
        say!("netboot.on_failure=shell needs netboot.debug as well");
    } else if !Path::new(SHELL).exists() {
        say!("netboot.on_failure=shell: this initrd has no {SHELL}; add a segment with one (busybox will do)");
    } else {
        say!("a shell on the console; leaving it reboots");
        if let Err(e) = Command::new(SHELL).current_dir("/").status() {
            say!("{SHELL}: {e}");
        }
        return_to_firmware();
    }
    reboot_after(DEFAULT_PAUSE)
}

fn return_to_firmware() -> ! {
    end(RebootCommand::Restart)
}

/// Makes a panic anywhere take the same way as a failed step.
pub fn catch_panics(policy: Policy) {
    std::panic::set_hook(Box::new(move |panic| {
        say!("FAILED: netboot-init has a defect");
        say!("  what happened: {panic}");
        say!("  what to check: please report this line with the version of imgbuild");
        act(policy)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_as_they_are_written() {
        for text in ["reboot:30", "reboot:0", "halt", "poweroff", "shell"] {
            assert_eq!(Policy::parse(text).map(|p| p.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Policy::parse("reboot"), Some(Policy::default()));
        assert_eq!(Policy::parse("reboot:soon"), None);
        assert_eq!(Policy::parse(""), None);
    }

    #[test]
    fn an_explanation_has_step_cause_and_advice() {
        let error = Error::NoRoot;
        let lines = explanation("find the root", &error);
        assert_eq!(lines[0], "FAILED: find the root");
        assert!(lines[1].starts_with("  what happened: "));
        assert!(lines.last().unwrap().starts_with("  what to check: "));
    }
}
