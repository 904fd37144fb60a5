//! The kinds of checks: one attempt each.

use std::time::Duration;

use crate::spec::{Kind, Size, Test};
use crate::system::{Output, System};

/// One attempt of a command at most, unless its test says how long it may take: one that hangs must not take the time of all
/// others, which are tried after it. And at least: a slow machine gets the chance to answer once.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(30);
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(10);
/// Characters of output in a report.
const EXCERPT: usize = 400;

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) holds: bool,
    /// Whether another attempt makes no sense.
    pub(crate) is_final: bool,
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl Verdict {
    fn new(holds: bool, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { holds, is_final: false, expected: expected.into(), found: found.into() }
    }
}

/// Tries a check once, with so much time left for it.
pub(crate) fn attempt(test: &Test, system: &dyn System, left: Duration) -> Verdict {
    match &test.kind {
        Kind::Unit { unit, state } => check_unit(system, unit, state),
        Kind::Mount { mount, fstype, options, size } => check_mount(system, mount, fstype.as_deref(), options, *size),
        Kind::Run { run, exit, stdout, stderr } => {
            let longest = test.timeout.unwrap_or(LONGEST_ATTEMPT);
            let patience = left.min(longest).max(SHORTEST_ATTEMPT);
            check_run(system.run(&["/bin/sh", "-c", run], patience), *exit, stdout.as_deref(), stderr.as_deref())
        }
        Kind::Unknown(why) => Verdict { is_final: true, ..Verdict::new(false, "a test that can be run", why) },
    }
}

fn check_unit(system: &dyn System, unit: &str, state: &str) -> Verdict {
    let expected = format!("{unit} {state}");
    let command =
        ["systemctl", "show", "--no-pager", "-p", "LoadState,ActiveState,SubState,Result,NRestarts", "--", unit];
    let output = match system.run(&command, LONGEST_ATTEMPT) {
        Ok(output) if output.exit == Some(0) => output,
        Ok(output) => return Verdict::new(false, expected, format!("systemctl: {}", describe(&output))),
        Err(error) => return Verdict::new(false, expected, format!("systemctl: {error}")),
    };
    let property = |name: &str| {
        let line = output.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim()
    };
    let (load, active, sub) = (property("LoadState"), property("ActiveState"), property("SubState"));
    // `state = "running"` is what people call a service's substate.
    let holds = active == state || sub == state;
    let mut found = if load == "loaded" { format!("{active} ({sub})") } else { format!("{active} ({load})") };
    match property("Result") {
        "" | "success" => {}
        result => found = format!("{found}, result {result}"),
    }
    match property("NRestarts") {
        "" | "0" => {}
        restarts => found = format!("{found}, {restarts} restarts"),
    }
    Verdict::new(holds, expected, found)
}

fn check_mount(
    system: &dyn System,
    path: &str,
    fstype: Option<&str>,
    options: &[String],
    size: Option<Size>,
) -> Verdict {
    let mut expected = fstype.map_or_else(|| "a mount".to_owned(), str::to_owned);
    if !options.is_empty() {
        expected = format!("{expected} with {}", options.join(","));
    }
    let wanted_size = match size {
        None => None,
        Some(Size::Bytes(bytes)) => Some((bytes, (bytes / 100).max(64 * 1024))),
        // The kernel counts pages that /proc/meminfo does not.
        Some(Size::Percent(percent)) => match system.memory() {
            Ok(memory) => {
                let bytes = memory / 100 * percent;
                Some((bytes, bytes / 20))
            }
            Err(error) => return Verdict::new(false, expected, format!("/proc/meminfo: {error}")),
        },
    };
    if let Some((bytes, tolerance)) = wanted_size {
        expected = format!("{expected} of {} MiB, give or take {}", bytes >> 20, tolerance >> 20);
    }
    let table = match system.mountinfo() {
        Ok(table) => table,
        Err(error) => return Verdict::new(false, expected, format!("/proc/self/mountinfo: {error}")),
    };
    // The last one lies on top.
    let Some(mount) = table.lines().filter_map(Mount::parse).rfind(|mount| mount.path == path) else {
        return Verdict::new(false, expected, format!("nothing mounted on {path}"));
    };
    let mut found = format!("{} ({})", mount.fstype, mount.options.join(","));
    let mut holds = fstype.is_none_or(|fstype| fstype == mount.fstype);
    holds &= options.iter().all(|option| mount.options.contains(option));
    if let Some((bytes, tolerance)) = wanted_size {
        match system.size(path) {
            Ok(size) => {
                holds &= size.abs_diff(bytes) <= tolerance;
                found = format!("{found} of {} MiB", size >> 20);
            }
            Err(error) => {
                holds = false;
                found = format!("{found} of unknown size: {error}");
            }
        }
    }
    Verdict::new(holds, expected, found)
}

fn check_run(output: std::io::Result<Output>, exit: i32, stdout: Option<&str>, stderr: Option<&str>) -> Verdict {
    let mut expected = format!("exit status {exit}");
    for (stream, text) in [("stdout", stdout), ("stderr", stderr)] {
        if let Some(text) = text {
            expected = format!("{expected}, {stream} with `{text}`");
        }
    }
    let output = match output {
        Ok(output) => output,
        Err(error) => return Verdict::new(false, expected, format!("/bin/sh: {error}")),
    };
    let holds = !output.timed_out
        && output.exit == Some(exit)
        && stdout.is_none_or(|text| output.stdout.contains(text))
        && stderr.is_none_or(|text| output.stderr.contains(text));
    Verdict::new(holds, expected, describe(&output))
}

fn describe(output: &Output) -> String {
    let mut text = match (output.timed_out, output.exit) {
        (true, _) => "killed, its time was over".to_owned(),
        (false, Some(exit)) => format!("exit status {exit}"),
        (false, None) => "killed by a signal".to_owned(),
    };
    for (stream, said) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let said = said.trim();
        if !said.is_empty() {
            text = format!("{text}; {stream} `{}`", excerpt(said));
        }
    }
    text
}

/// Beginning and end: the reason is at one of them.
fn excerpt(text: &str) -> String {
    let length = text.chars().count();
    if length <= EXCERPT {
        return text.to_owned();
    }
    let half = EXCERPT / 2;
    let begin: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(length - half).collect();
    format!("{begin} … {end}")
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) path: String,
    pub(crate) fstype: String,
    /// Of the mount and of the file system.
    pub(crate) options: Vec<String>,
}

impl Mount {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(4);
        let (path, options) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let fstype = after.next()?;
        let of_super = after.nth(1).unwrap_or_default();
        let options = options.split(',').chain(of_super.split(',')).filter(|o| !o.is_empty());
        Some(Self { path: unescape(path), fstype: fstype.to_owned(), options: options.map(str::to_owned).collect() })
    }
}

/// The kernel writes blanks and the like as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::Fake;

    /// A test without a time of its own, tried at the last moment.
    fn attempt(kind: Kind, system: &Fake) -> Verdict {
        super::attempt(&Test { name: String::new(), timeout: None, kind }, system, Duration::ZERO)
    }

    #[test]
    fn an_attempt_is_cut_short_unless_its_test_has_a_time_of_its_own() {
        let run = || Kind::Run { run: "x".into(), exit: 0, stdout: None, stderr: None };
        for (timeout, left, expected) in
            [(None, 300, 30), (None, 20, 20), (None, 0, 10), (Some(120), 90, 90), (Some(5), 5, 10)]
        {
            let system = Fake::default();
            system.answer("sh -c x", 0, "", "");
            let test = Test { name: String::new(), timeout: timeout.map(Duration::from_secs), kind: run() };
            super::attempt(&test, &system, Duration::from_secs(left));
            assert_eq!(system.patience.get(), Duration::from_secs(expected), "{timeout:?} {left}");
        }
    }

    const SHOW: &str =
        "systemctl show --no-pager -p LoadState,ActiveState,SubState,Result,NRestarts -- containerd.service";

    fn unit(state: &str, system: &Fake) -> Verdict {
        attempt(Kind::Unit { unit: "containerd.service".into(), state: state.into() }, system)
    }

    #[test]
    fn a_units_state() {
        let system = Fake::default();
        let running = "Result=success\nNRestarts=0\nLoadState=loaded\nActiveState=active\nSubState=running\n";
        system.answer(SHOW, 0, running, "");
        assert_eq!(unit("active", &system), Verdict::new(true, "containerd.service active", "active (running)"));
        assert!(unit("running", &system).holds);
        assert!(!unit("inactive", &system).holds);
    }

    #[test]
    fn a_unit_that_failed_is_absent_or_cannot_be_asked_about() {
        let system = Fake::default();
        system.answer(
            SHOW,
            0,
            "Result=exit-code\nNRestarts=5\nLoadState=loaded\nActiveState=failed\nSubState=failed\n",
            "",
        );
        system.answer(
            SHOW,
            0,
            "Result=success\nNRestarts=0\nLoadState=not-found\nActiveState=inactive\nSubState=dead\n",
            "",
        );
        system.answer(SHOW, 1, "", "Failed to connect to bus\n");
        assert_eq!(unit("active", &system).found, "failed (failed), result exit-code, 5 restarts");
        assert_eq!(unit("active", &system).found, "inactive (not-found)");
        assert_eq!(unit("active", &system).found, "systemctl: exit status 1; stderr `Failed to connect to bus`");
        assert!(!unit("active", &Fake::default()).holds);
    }

    fn mounts() -> Fake {
        let mut system = Fake { memory: 1 << 30, ..Fake::default() };
        system.mountinfo = "22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/run/netboot/lower\n\
            30 22 0:28 / /var/lib/kubelet rw,nosuid,nodev shared:9 - ext4 /dev/sda rw\n\
            31 22 0:29 / /var/lib/kubelet rw,nosuid,nodev shared:10 - tmpfs tmpfs rw,size=209712k,mode=700\n\
            32 22 0:30 / /a\\040b rw - tmpfs tmpfs rw\n"
            .into();
        system.sizes.insert("/var/lib/kubelet".into(), 209_712 * 1024);
        system
    }

    fn mount(path: &str, fstype: Option<&str>, options: &[&str], size: Option<Size>) -> Verdict {
        let options = options.iter().map(|&o| o.to_owned()).collect();
        let kind = Kind::Mount { mount: path.into(), fstype: fstype.map(str::to_owned), options, size };
        attempt(kind, &mounts())
    }

    #[test]
    fn the_mount_on_top_counts_with_type_options_and_size() {
        assert!(mount("/", Some("overlay"), &[], None).holds);
        assert!(mount("/a b", None, &[], None).holds);
        let path = "/var/lib/kubelet";
        assert!(mount(path, Some("tmpfs"), &["nosuid", "mode=700"], Some(Size::Percent(20))).holds);
        assert!(mount(path, None, &[], Some(Size::Bytes(209_712 * 1024))).holds);
        let verdict = mount(path, Some("tmpfs"), &["noexec"], Some(Size::Percent(40)));
        assert!(!verdict.holds);
        assert_eq!(verdict.expected, "tmpfs with noexec of 409 MiB, give or take 20");
        assert_eq!(verdict.found, "tmpfs (rw,nosuid,nodev,rw,size=209712k,mode=700) of 204 MiB");
        assert!(!mount(path, Some("tmpfs"), &["noexec"], None).holds);
        assert!(!mount(path, None, &[], Some(Size::Percent(40))).holds);
        assert!(!mount(path, Some("ext4"), &[], None).holds);
        assert_eq!(mount("/srv", None, &[], None).found, "nothing mounted on /srv");
        assert!(!mount("/", None, &[], Some(Size::Bytes(1))).holds, "no size is not any size");
    }

    fn run(exit: i32, stdout: &str, stderr: &str, wanted: (i32, Option<&str>, Option<&str>)) -> Verdict {
        let system = Fake::default();
        system.answer("sh -c x", exit, stdout, stderr);
        let (exit, out, err) = wanted;
        let kind = Kind::Run { run: "x".into(), exit, stdout: out.map(Into::into), stderr: err.map(Into::into) };
        attempt(kind, &system)
    }

    #[test]
    fn a_commands_status_and_both_streams() {
        assert!(run(0, "Kubernetes v1.34\n", "", (0, Some("Kubernetes v"), None)).holds);
        assert!(run(3, "", "no such thing\n", (3, None, Some("no such"))).holds);
        assert!(!run(0, "Kubernetes", "", (0, Some("Kubernetes v"), None)).holds);
        assert!(!run(0, "no such", "", (0, None, Some("no such"))).holds);
        let verdict = run(1, "a\n", "b\n", (0, Some("x"), None));
        assert_eq!(verdict.expected, "exit status 0, stdout with `x`");
        assert_eq!(verdict.found, "exit status 1; stdout `a`; stderr `b`");
    }

    #[test]
    fn what_was_killed_does_not_hold_whatever_it_printed() {
        let killed = Output { exit: None, stdout: "x".into(), stderr: String::new(), timed_out: true };
        let verdict = check_run(Ok(killed), 0, Some("x"), None);
        assert_eq!((verdict.holds, verdict.found.as_str()), (false, "killed, its time was over; stdout `x`"));
    }

    #[test]
    fn long_output_is_shown_from_both_ends() {
        let text = format!("begin{}end", "x".repeat(10_000));
        let shown = excerpt(&text);
        assert!(shown.starts_with("begin") && shown.ends_with("end") && shown.chars().count() < EXCERPT + 10);
    }
}
