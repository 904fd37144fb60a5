//! Hooks: scripts of the recipe, as child processes with a deadline, never sourced, never PID 1.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::config::{HOOKS, Hook, OnFailure, Stage};
use crate::environment::{self, Facts};
use crate::error::{Error, Result};
use crate::{debug, say, sys, warning};
pub use online::install_online;

mod online;

/// The documentation's page.
#[must_use]
pub fn reference() -> String {
    format!("# Hooks\n\n{REFERENCE}\n{}", environment::markdown())
}

const REFERENCE: &str = "\
A hook is an executable file that the recipe names (`[[hook]]`) and the node runs when it boots.

| stage | where | when |
|---|---|---|
| `pre-network` | in the initrd | modules are loaded, the network is untouched |
| `pre-init` | in the new root (chroot) | everything is mounted and written, the system has not started; the network is up |
| `online` | in the running system | after `network-online.target`, as the systemd unit `netboot-hook-NAME.service` |

Hooks of a stage run one after the other in the order of their names' bytes (`LC_ALL=C`). Each one is a process of its own with a
process group of its own, never sourced, never PID 1. It is run by its own first line, so a `pre-network` hook has to be a static
program or bring its interpreter in a further initrd segment. Its standard input is empty.

What it says goes line by line to the consoles (200 lines at most) and to `/run/netboot/hooks/STAGE/NAME.log` (1 MiB at most), how it
ended to `/run/netboot/hooks/STAGE/NAME.status`; an `online` hook's output goes to the journal. After its `timeout` its process group gets
SIGTERM, and SIGKILL 2 s later. When it fails or is killed, its `on_failure` says what next: `continue`, `reboot` (what
`netboot.on_failure=` says) or `halt`. It is the same for an `online` hook, by systemd: `netboot-hook-failed.timer` counts the pause
before the reboot, and `systemctl stop netboot-hook-failed.timer` keeps the node up; where `netboot.debug` allows
`netboot.on_failure=shell`, the node stays up as it is.

Its environment holds what follows, the variables of the node's configuration (from `pre-init` on), and nothing else; to that of an
`online` hook systemd adds its own (`INVOCATION_ID`, `JOURNAL_STREAM`, `LANG` and so on). A variable without a value is set and
empty. `/run/netboot/env`, which only root reads, has the same, but for the hook's own, for `EnvironmentFile=` and a shell.
";

/// Where logs and states are, in a folder for each stage, in the initrd and in the system.
pub const FOLDER: &str = "/run/netboot/hooks";
/// And the scripts, in the same way.
const SCRIPTS: &str = "/run/netboot/hooks/scripts";
/// Lines of one hook on the consoles; the log has them all.
const CONSOLE_LINES: usize = 200;
/// Bytes of one hook's log: it lies in memory.
const LOG_BYTES: usize = 1024 * 1024;
/// Lines that an error shows.
const TAIL: usize = 5;
/// How long the output of a hook that has ended is waited for: a daemon that it left may hold it open.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// Lines that wait to be taken; a hook that says more has to wait, so that it cannot fill the memory.
const WAITING_LINES: usize = 1024;
/// Between the polite and the other signal.
const GRACE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// How long a script's copy may be busy.
const BUSY: Duration = Duration::from_secs(5);

/// A stage's folder.
#[must_use]
pub fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::PreNetwork => "pre-network",
        Stage::PreInit => "pre-init",
        Stage::Online => "online",
    }
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With status 0.
    Done,
    /// With another one.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// It was killed at its deadline.
    TimedOut(u64),
    /// It could not be started.
    NotStarted(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("is done"),
            Self::Status(code) => write!(f, "ended with status {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::TimedOut(seconds) => write!(f, "was killed, with its children, after its timeout of {seconds} s"),
            Self::NotStarted(why) => write!(f, "could not be started: {why}"),
        }
    }
}

/// Runs the hooks of a stage one after the other. `root` is what they see as their root folder.
///
/// # Errors
///
/// [`Error::Hook`] when one fails whose policy is not to go on.
pub fn run_stage(hooks: &[Hook], stage: Stage, root: Option<&Path>, facts: &Facts) -> Result<()> {
    for hook in hooks.iter().filter(|hook| hook.stage == stage) {
        let runner = Runner { source: Path::new(HOOKS), scripts: Path::new(SCRIPTS), folder: Path::new(FOLDER), root };
        let (outcome, tail) = runner.run(hook, facts);
        sys::reap_orphans();
        if outcome == Outcome::Done {
            continue;
        }
        if hook.on_failure == OnFailure::Continue {
            warning!("hook {} {outcome}; its policy is to go on", hook.name);
            continue;
        }
        return Err(Error::Hook {
            name: hook.name.clone(),
            outcome: outcome.to_string(),
            tail: if tail.is_empty() { "none".into() } else { tail.join(" | ") },
            halt: hook.on_failure == OnFailure::Halt,
        });
    }
    Ok(())
}

/// Runs hooks: from where, from which copies, with which log folder, in which root.
struct Runner<'a> {
    source: &'a Path,
    scripts: &'a Path,
    folder: &'a Path,
    root: Option<&'a Path>,
}

impl Runner<'_> {
    fn run(&self, hook: &Hook, facts: &Facts) -> (Outcome, Vec<String>) {
        let started = Instant::now();
        say!("hook {} ({})", hook.name, stage_name(hook.stage));
        // Where that does not work, neither do the two below, and say so.
        let _ = fs::create_dir_all(self.folder.join(stage_name(hook.stage)));
        let result = self.start(hook, facts).and_then(|(child, output)| self.attend(hook, child, output));
        let (outcome, tail) = result.unwrap_or_else(|e| (Outcome::NotStarted(not_started(&e)), Vec::new()));
        let seconds = started.elapsed().as_secs_f64();
        let status = format!("{outcome}\n");
        if let Err(e) = fs::write(self.place(hook, "status"), status) {
            debug!("hook {}: its state could not be written: {e}", hook.name);
        }
        if outcome == Outcome::Done {
            say!("hook {} is done, {seconds:.1} s", hook.name);
        }
        (outcome, tail)
    }

    /// Its log or state.
    fn place(&self, hook: &Hook, what: &str) -> PathBuf {
        self.folder.join(stage_name(hook.stage)).join(format!("{}.{what}", hook.name))
    }

    /// The script's copy, which a chroot sees as well, started.
    fn start(&self, hook: &Hook, facts: &Facts) -> io::Result<(Child, io::PipeReader)> {
        let script = install(self.source, self.scripts, hook)?;
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(&script);
        command
            .env_clear()
            .envs(&facts.variables)
            .envs(environment::values(facts))
            .envs([("PATH", environment::PATH), ("HOME", "/root"), ("LC_ALL", "C")])
            .env("NETBOOT_STAGE", stage_name(hook.stage))
            .env("NETBOOT_HOOK", &hook.name)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        if let Some(root) = self.root {
            sys::chroot_child(&mut command, root);
        }
        // The command holds the pipe's other end: it has to go for the reader to see the end.
        Ok((spawn(&mut command)?, reader))
    }

    /// Reads what it says and waits until it ends or its time is over.
    fn attend(&self, hook: &Hook, mut child: Child, output: io::PipeReader) -> io::Result<(Outcome, Vec<String>)> {
        let deadline = Instant::now() + Duration::from_secs(hook.timeout.max(1));
        let lines = read_lines(output);
        let mut record = Record::new(self.place(hook, "log"), &hook.name);
        let status = loop {
            record.take_until(&lines, Instant::now() + LOOK);
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() >= deadline {
                break None;
            }
        };
        let outcome = match status {
            Some(status) => outcome_of(status),
            None => {
                kill(&mut child)?;
                Outcome::TimedOut(hook.timeout)
            }
        };
        record.take_until(&lines, Instant::now() + LAST_OUTPUT);
        Ok((outcome, record.tail))
    }
}

/// Starts a program that was written a moment ago. A process that another thread started while it was written holds it open
/// until it runs a program of its own, and Linux runs no file that somebody may write (ETXTBSY).
fn spawn(command: &mut Command) -> io::Result<Child> {
    let patience = Instant::now() + BUSY;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < patience => {
                thread::sleep(LOOK);
            }
            other => return other,
        }
    }
}

fn not_started(error: &io::Error) -> String {
    match error.raw_os_error() {
        // ENOENT of a script that is there means its interpreter.
        Some(2) => format!("{error} (the script, or the interpreter in its first line)"),
        Some(8) => format!("{error} (a script needs a first line like #!/bin/sh)"),
        _ => error.to_string(),
    }
}

fn outcome_of(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(0), _) => Outcome::Done,
        (Some(code), _) => Outcome::Status(code),
        (None, signal) => Outcome::Signal(signal.unwrap_or_default()),
    }
}

/// Ends a hook with everything that it started.
fn kill(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    signal(Signal::TERM);
    let patience = Instant::now() + GRACE;
    while Instant::now() < patience {
        if child.try_wait()?.is_some() {
            break;
        }
        thread::sleep(LOOK);
    }
    signal(Signal::KILL);
    child.wait()?;
    Ok(())
}

/// Copies the script to where its root sees it, executable whatever mode it came with.
fn install(source: &Path, scripts: &Path, hook: &Hook) -> io::Result<PathBuf> {
    let stage = stage_name(hook.stage);
    let script = scripts.join(stage).join(&hook.name);
    fs::create_dir_all(scripts.join(stage))?;
    fs::copy(source.join(stage).join(&hook.name), &script)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

/// A hook's output line by line; a line without end counts once it is long.
fn read_lines(output: io::PipeReader) -> Receiver<String> {
    const LONGEST: usize = 4096;
    let (sender, receiver) = sync_channel(WAITING_LINES);
    thread::spawn(move || {
        let mut line = Vec::new();
        for byte in BufReader::new(output).bytes() {
            match byte {
                Ok(b'\n') => {}
                Ok(byte) if line.len() < LONGEST => {
                    line.push(byte);
                    continue;
                }
                Ok(byte) => line.push(byte),
                Err(_) => break,
            }
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
        if !line.is_empty() {
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
    receiver
}

/// What a hook said: in its log, on the consoles, and its last lines.
struct Record<'a> {
    name: &'a str,
    path: PathBuf,
    log: Option<File>,
    written: usize,
    lines: usize,
    tail: Vec<String>,
}

impl<'a> Record<'a> {
    fn new(path: PathBuf, name: &'a str) -> Self {
        let log = File::create(&path).map_err(|e| debug!("hook {name}: no log: {e}")).ok();
        Self { name, path, log, written: 0, lines: 0, tail: Vec::new() }
    }

    /// Takes lines until a point in time or the end of the output. A hook that never stops talking does not get longer.
    fn take_until(&mut self, lines: &Receiver<String>, until: Instant) {
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.take(line);
                    if Instant::now() >= until {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return,
                // Nothing more will come: do not spin until then, the caller may only wait for the end of the process.
                Err(RecvTimeoutError::Disconnected) => {
                    thread::sleep(until.saturating_duration_since(Instant::now()).min(LOOK));
                    return;
                }
            }
        }
    }

    fn take(&mut self, line: String) {
        self.lines += 1;
        if self.lines <= CONSOLE_LINES {
            say!("hook {}: {line}", self.name);
        } else if self.lines == CONSOLE_LINES + 1 {
            say!("hook {}: (more than {CONSOLE_LINES} lines: the rest is in {})", self.name, self.path.display());
        }
        if let Some(log) = &mut self.log
            && self.written < LOG_BYTES
        {
            self.written += line.len() + 1;
            let end = if self.written >= LOG_BYTES { "\n(cut here: the log is full)\n" } else { "\n" };
            let _ = log.write_all(line.as_bytes()).and_then(|()| log.write_all(end.as_bytes()));
        }
        if self.tail.len() == TAIL {
            self.tail.remove(0);
        }
        self.tail.push(line);
    }
}

#[cfg(test)]
mod tests;
