//! What happens when a step fails: say it plainly on every console, then do what was asked for. Never return: a PID 1
//! that ends takes the kernel with it, and the reason scrolls away.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::system::RebootCommand;

use crate::error::Error;
use crate::{console, net, say, shell};

/// How long the reason stays on the screen before a reboot, at least.
const SHORTEST_PAUSE: Duration = Duration::from_secs(30);
/// And at most, the random share left aside.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How often the reason is repeated, for whoever attaches to the serial console later, and because the kernel's own
/// messages may have pushed it off the screen.
const REMINDER: Duration = Duration::from_secs(60);

/// The documentation's words on failures, modes and reports.
pub const REFERENCE: &str = "\
## When a step fails

Every console gets the step, what happened, and what to check, as its last lines; they are repeated every minute until the machine
restarts or is switched off. Then:

| `netboot.on_failure` | |
|---|---|
| `reboot` | after a pause as long as the boot has tried, 30 s at least and 10 min at most, and up to half as much again at random |
| `reboot:SECONDS` | after exactly so long |
| `halt` | stays as it is |
| `poweroff` | switches itself off |
| `shell` | a shell on the console; needs `netboot.debug` |

A diskless machine has nothing to count its failures in that would be worth wearing out (EFI variables are flash memory, and firmware
has been bricked by less), so the pause does not grow from one boot to the next. What may pass grows inside one boot: DHCP is asked
for ever, the boot server for ten rounds without a byte, with pauses of up to 2, 4, 8, 16 and then 30 s, random over their whole
length, and never earlier than its `Retry-After` says (600 s at most). After that a reboot gets the boot script anew. So a node that
fails is quiet for at least half of the time, and a fleet that failed together does not come back together.

A hook's `on_failure = \"halt\"` halts, unless the command line has `netboot.on_failure=poweroff` or `netboot.check`.

## Debugging

`netboot.debug=POINT,…` stops at these points with a shell on the last console:

| point | when |
|---|---|
| `pre-network` | modules are loaded; before the `pre-network` hooks |
| `post-network` | there is an address; before the node's configuration |
| `post-fetch` | the root is in memory and verified; before it is mounted |
| `post-mount` | everything is mounted and written; before the `pre-init` hooks |
| `pre-switch` | right before the system takes over |

The boot goes on when the shell is left. netboot-init brings no shell: an initrd has one program. It takes `/bin/sh` of a further
initrd segment (a cpio with busybox, `netboot-initrd` in iPXE), and from `post-mount` on that of the root, with the root as its own.
Where there is none it says so and goes on. A shell on the console is for whoever stands before it: no password is asked for.

`netboot.check` does everything up to the start of the system, hooks included, reports, and powers off, after a failure as well.

## Reports

`netboot.report=URL` gets one JSON document by HTTP POST, of a failure with netboot-init's log and the kernel's (2000 lines each at
most), of a success in short: `schema`, `outcome` (`booted`, `checked` or `failed`), `node` (`mac`, `uuid`, `serial`, `address`,
`hostname`, `machine_id`), `image`, `version`, `kernel`, `netboot_init`, `seconds` since the kernel started, `source`, `failure`
(`step`, `lines`), `log`, `kernel_log`. It is tried twice. A failure before there is a network cannot be reported, and a defect of netboot-init (`FAILED: netboot-init has a
defect`) is not.
";

/// `netboot.on_failure=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Pause, then start again from the firmware.
    Reboot {
        /// How long the reason is shown; by default as [`pause`] says.
        pause: Option<Duration>,
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
        Self::Reboot { pause: None }
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
                Some(Self::Reboot { pause: Some(Duration::from_secs(seconds)) })
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reboot { pause: Some(pause) } => write!(f, "reboot:{}", pause.as_secs()),
            Self::Reboot { pause: None } => f.write_str("reboot"),
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

/// How long a node waits before it starts again, when nobody said so: as long as it has tried, within bounds, and up to
/// half as much again at random.
///
/// There is nothing in a diskless machine to count its failures with that would be worth wearing out. But a boot that
/// tried longer has asked for more; so whatever fails, the node is quiet for at least half of the time, and a fleet that
/// failed together does not come back together. What may pass is retried inside one boot, with growing pauses.
#[must_use]
pub fn pause(uptime: Duration, random: u32) -> Duration {
    let tried = uptime.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    tried + tried.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// Says on every console why a step failed.
pub fn tell(lines: &[String]) {
    for line in lines {
        say!("{line}");
    }
}

/// Does what the policy says; `reason` is on the consoles already.
pub fn act(policy: Policy, reason: &[String]) -> ! {
    match policy {
        Policy::Reboot { pause } => reboot_after(pause, reason),
        Policy::Halt => halt(reason),
        Policy::PowerOff => {
            say!("netboot.on_failure=poweroff: power off");
            end(RebootCommand::PowerOff, reason)
        }
        Policy::Shell => {
            rescue();
            reboot_after(None, reason)
        }
    }
}

/// Switches the machine off.
pub fn power_off() -> ! {
    end(RebootCommand::PowerOff, &[])
}

fn reboot_after(asked: Option<Duration>, reason: &[String]) -> ! {
    let uptime = Duration::try_from_secs_f64(console::uptime()).unwrap_or_default();
    let pause = asked.unwrap_or_else(|| pause(uptime, net::random()));
    say!("netboot.on_failure=reboot: reboot in {} s", pause.as_secs());
    let end_of_pause = Instant::now() + pause;
    loop {
        let left = end_of_pause.saturating_duration_since(Instant::now());
        thread::sleep(left.min(REMINDER));
        if left <= REMINDER {
            end(RebootCommand::Restart, reason);
        }
        tell(reason);
        say!("reboot in {} s", end_of_pause.saturating_duration_since(Instant::now()).as_secs());
    }
}

fn end(command: RebootCommand, reason: &[String]) -> ! {
    rustix::fs::sync();
    let came_back = rustix::system::reboot(command);
    say!("the kernel refused: {came_back:?}");
    halt(reason)
}

fn halt(reason: &[String]) -> ! {
    say!("halted: switch the machine off or reset it");
    loop {
        crate::sys::reap_orphans();
        thread::sleep(REMINDER);
        tell(reason);
        say!("halted: switch the machine off or reset it");
    }
}

fn rescue() {
    if !console::is_debug() {
        say!("netboot.on_failure=shell needs netboot.debug as well");
        return;
    }
    match shell::run("failed", &[]) {
        Ok(()) => end(RebootCommand::Restart, &[]),
        Err(why) => say!("netboot.on_failure=shell: {why}"),
    }
}

/// Makes a panic anywhere take the same way as a failed step.
pub fn catch_panics(policy: Policy) {
    std::panic::set_hook(Box::new(move |panic| {
        let lines = [
            "FAILED: netboot-init has a defect".to_owned(),
            format!("  what happened: {panic}"),
            "  what to check: please report this line with the version of imgbuild".to_owned(),
        ];
        tell(&lines);
        act(policy, &lines)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_as_they_are_written() {
        for text in ["reboot", "reboot:30", "reboot:0", "halt", "poweroff", "shell"] {
            assert_eq!(Policy::parse(text).map(|p| p.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Policy::parse("reboot"), Some(Policy::default()));
        assert_eq!(Policy::parse("reboot:soon"), None);
        assert_eq!(Policy::parse(""), None);
    }

    #[test]
    fn the_pause_is_as_long_as_the_trying_was_within_bounds() {
        let seconds = |uptime, random| pause(Duration::from_secs(uptime), random).as_secs();
        assert_eq!((seconds(5, 0), seconds(5, u32::MAX)), (30, 45));
        assert_eq!((seconds(200, 0), seconds(200, u32::MAX)), (200, 300));
        assert_eq!((seconds(90_000, 0), seconds(90_000, u32::MAX)), (600, 900));
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
