//! What the operator sees: one line a step, with a time stamp, on every console, in the kernel's log and in a file.
//!
//! Nothing here can fail the boot and nothing can block it for long: a serial port with flow control and nobody at the
//! other end must not hold up a node.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long a console that takes no bytes may hold up a line.
const CONSOLE_PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
/// Facility "user", level "debug": in `dmesg` and the journal, but not printed on the consoles by the kernel a second
/// time.
const KMSG_PREFIX: &str = "<15>";
/// What the kernel shows first, and what every initrd has even before /dev is mounted.
const FALLBACK: &str = "/dev/console";
/// How much of the log is kept until there is a file for it.
const BACKLOG_LINES: usize = 2000;

static CONSOLE: Mutex<Console> = Mutex::new(Console::new());

struct Console {
    outputs: Vec<File>,
    /// Where to write when there is no output: what fails before the consoles are known has to be seen as well.
    fallback: Option<PathBuf>,
    kmsg: Option<File>,
    log: Option<File>,
    backlog: Vec<String>,
    debug: bool,
}

impl Console {
    const fn new() -> Self {
        Self { outputs: Vec::new(), fallback: None, kmsg: None, log: None, backlog: Vec::new(), debug: false }
    }

    fn line(&mut self, text: &str, shown: bool) {
        let line = format!("[{}] netboot: {}\n", stamp(), printable(text));
        if shown {
            self.show(&line);
        }
        if let Some(kmsg) = &mut self.kmsg {
            // One write is one record; a record is at most 976 bytes or so.
            let record: String = format!("{KMSG_PREFIX}netboot: {}", printable(text)).chars().take(900).collect();
            let _ = kmsg.write_all(record.as_bytes());
        }
        match &mut self.log {
            Some(log) => {
                let _ = log.write_all(line.as_bytes());
            }
            None if self.backlog.len() < BACKLOG_LINES => self.backlog.push(line),
            None => {}
        }
    }

    fn show(&mut self, line: &str) {
        if self.outputs.is_empty() {
            self.outputs.extend(self.fallback.as_deref().and_then(open_tty));
        }
        // A terminal that a kernel message left in mid-line, or in raw mode, still shows a line of its own.
        let line = line.replace('\n', "\r\n");
        self.outputs.retain_mut(|output| write_patiently(output, line.as_bytes()));
    }
}

/// The console, unless somebody holds it for ever: a panic while it is held must still end in a reboot.
fn hold() -> Option<MutexGuard<'static, Console>> {
    for _ in 0..200 {
        match CONSOLE.try_lock() {
            Ok(console) => return Some(console),
            Err(TryLockError::Poisoned(console)) => return Some(console.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
        }
    }
    None
}

/// Lets everything that is said before [`open`] go to `/dev/console`. For PID 1 only, whose console that is.
pub fn begin() {
    if let Some(mut console) = hold() {
        console.fallback = Some(PathBuf::from(FALLBACK));
    }
}

/// Opens every console that the kernel uses, and its log. To be called once /proc, /sys and /dev are mounted.
pub fn open() {
    // Otherwise the kernel drops lines of a talkative program.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let outputs: Vec<File> =
        active.split_whitespace().filter_map(|name| open_tty(&Path::new("/dev").join(name))).collect();
    let Some(mut console) = hold() else { return };
    console.outputs = outputs;
    console.kmsg = OpenOptions::new().write(true).open("/dev/kmsg").ok();
}

/// Whether [`debug`]'s lines are to be on the consoles.
pub fn set_debug(debug: bool) {
    if let Some(mut console) = hold() {
        console.debug = debug;
    }
}

/// Keeps the log in a file as well, what was said before included.
pub fn log_to(path: &Path) {
    let Some(mut console) = hold() else { return };
    let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) else { return };
    for line in std::mem::take(&mut console.backlog) {
        let _ = file.write_all(line.as_bytes());
    }
    console.log = Some(file);
}

/// Whether `netboot.debug` was given.
#[must_use]
pub fn is_debug() -> bool {
    hold().is_some_and(|console| console.debug)
}

/// One line for everybody.
pub fn say(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    if let Some(mut console) = hold() {
        console.line(&text, true);
    }
}

/// One line that is on the consoles only with `netboot.debug`, and always in the log.
pub fn debug(text: fmt::Arguments<'_>) {
    let Some(mut console) = hold() else { return };
    let shown = console.debug;
    console.line(&text.to_string(), shown);
}

/// Prints a line on every console.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::say(format_args!($($argument)*)) };
}

/// Prints a line on every console that begins with `warning:`.
#[macro_export]
macro_rules! warning {
    ($($argument:tt)*) => { $crate::console::say(format_args!("warning: {}", format_args!($($argument)*))) };
}

/// Prints a line that is on the consoles only with `netboot.debug`.
#[macro_export]
macro_rules! debug {
    ($($argument:tt)*) => { $crate::console::debug(format_args!($($argument)*)) };
}

/// Seconds since the kernel started.
#[must_use]
pub fn uptime() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    #[allow(clippy::cast_precision_loss)] // seconds since boot
    let seconds = now.tv_sec as f64;
    #[allow(clippy::cast_precision_loss)] // below 10^9
    let nanos = now.tv_nsec as f64;
    seconds + nanos / 1e9
}

fn stamp() -> String {
    let now = clock_gettime(ClockId::Monotonic);
    format!("{:5}.{:06}", now.tv_sec, now.tv_nsec / 1000)
}

/// The text without what would move a terminal's cursor or change its colours: some of it comes from the network and
/// from hooks.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| !c.is_control()).collect()
}

fn open_tty(path: &Path) -> Option<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().write(true).custom_flags(i32::try_from(flags.bits()).ok()?).open(path).ok()
}

/// Whether the console is still worth writing to.
fn write_patiently(output: &mut File, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return true,
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                if !writable(output.as_fd()) {
                    return true;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

fn writable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    matches!(poll(&mut fds, Some(&CONSOLE_PATIENCE)), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\td\u{9b}"), "a[2Jbc d");
    }

    #[test]
    fn what_is_said_before_the_consoles_are_known_goes_to_the_kernels_own() {
        let folder = tempfile::tempdir().unwrap();
        let (tty, other) = (folder.path().join("console"), folder.path().join("ttyS0"));
        fs::write(&tty, "").unwrap();
        fs::write(&other, "").unwrap();
        let mut console = Console::new();
        console.line("nobody listens", true);
        console.fallback = Some(tty.clone());
        console.line("only for the log", false);
        console.line("early", true);
        console.line("too", true);
        console.outputs = vec![open_tty(&other).unwrap()];
        console.line("late", true);
        let said = |path| -> Vec<String> {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| line.split_once("netboot: ").unwrap().1.to_owned()).collect()
        };
        assert_eq!(said(tty), ["early", "too"]);
        assert_eq!(said(other), ["late"]);
        assert_eq!(console.backlog.len(), 5);
    }

    #[test]
    fn the_log_begins_with_what_was_said_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        say!("before {}", 1);
        log_to(&path);
        warning!("after");
        let log = fs::read_to_string(path).unwrap();
        assert!(log.contains("netboot: before 1\n"), "{log}");
        assert!(log.contains("netboot: warning: after\n"), "{log}");
    }
}
