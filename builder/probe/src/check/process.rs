//! `process`: which programs run, by /proc.

use std::fs;
use std::path::Path;

use super::Verdict;
use crate::accounts::Accounts;
use crate::spec::Process;

/// What the kernel keeps of a name in `comm` (`TASK_COMM_LEN` in `include/linux/sched.h`, less the NUL).
const COMM: usize = 15;

pub(super) fn check(Process { process, user, running }: &Process, root: &Path) -> Verdict {
    let of_user = user.as_ref().map(|user| format!(" of {user}")).unwrap_or_default();
    let expected = if *running { format!("{process}{of_user}") } else { format!("no {process}{of_user}") };
    let accounts = Accounts::read(root);
    let number = match user.as_ref().map(|user| accounts.user(user)).transpose() {
        Ok(number) => number,
        Err(why) => return Verdict::new(false, expected, why.to_string()),
    };
    let processes = match fs::read_dir(root.join("proc")) {
        Ok(entries) => entries.flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
            Running::read(pid, &entry.path())
        }),
        Err(error) => return Verdict::new(false, expected, format!("/proc: {error}")),
    };
    let mut named: Vec<Running> = processes.filter(|running| running.is(process)).collect();
    named.sort_by_key(|running| running.pid);
    let is = named.iter().any(|running| number.is_none_or(|number| number == running.user));
    let list = named.iter().map(|running| format!("process {} of {}", running.pid, accounts.user_name(running.user)));
    let list = list.collect::<Vec<_>>().join(", ");
    let found = if list.is_empty() { format!("no process is called {process}") } else { list };
    Verdict::new(is == *running, expected, found)
}

struct Running {
    pid: u32,
    /// Effective.
    user: u32,
    /// What it is called: by itself, by its file, by who started it.
    names: [String; 3],
}

impl Running {
    /// A process that has not ended.
    fn read(pid: u32, folder: &Path) -> Option<Self> {
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // Zombies, and those on the way there.
        if field("State:")?.starts_with(['Z', 'X']) {
            return None;
        }
        let user = field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
        let file = fs::read_link(folder.join("exe")).ok();
        let file = file.map(|file| base(file.to_string_lossy().trim_end_matches(" (deleted)")));
        let arguments = fs::read(folder.join("cmdline")).unwrap_or_default();
        let first = arguments.split(|byte| *byte == 0).next().unwrap_or_default();
        let names = [field("Name:")?.to_owned(), file.unwrap_or_default(), base(&String::from_utf8_lossy(first))];
        Some(Self { pid, user, names })
    }

    fn is(&self, name: &str) -> bool {
        let [own, ..] = &self.names;
        let short = name.len() > COMM && name.get(..COMM) == Some(own);
        short || self.names.iter().any(|of| of == name)
    }
}

fn base(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::tests::{attempt, kind};
    use super::*;
    use crate::spec::Kind;
    use crate::system::fake::Fake;

    fn system() -> Fake {
        let system = Fake::default();
        let process = |pid: u32, name: &str, state: &str, user: u32, arguments: &str| {
            let uid = format!("Uid:\t0\t{user}\t{user}\t{user}\n");
            system.write(&format!("proc/{pid}/status"), &format!("Name:\t{name}\nState:\t{state}\n{uid}"));
            system.write(&format!("proc/{pid}/cmdline"), arguments);
        };
        process(1, "systemd", "S (sleeping)", 0, "/sbin/init\0");
        process(7, "systemd-timesyn", "S (sleeping)", 104, "");
        process(9, "gone", "Z (zombie)", 0, "");
        process(12, "python3", "R (running)", 0, "/usr/bin/agent\0--now\0");
        symlink("/usr/bin/python3.11 (deleted)", system.root.path().join("proc/12/exe")).unwrap();
        system.write("etc/passwd", "root:x:0:0::/:/bin/sh\ntime:x:104:104::/:/bin/false\n");
        system
    }

    fn process(rest: &str) -> Verdict {
        attempt(&format!(r#"{{"process": {rest}}}"#), &system())
    }

    #[test]
    fn a_process_is_known_by_any_of_its_names() {
        for name in ["systemd", "init", "systemd-timesyncd", "python3", "python3.11", "agent"] {
            assert!(process(&format!(r#""{name}""#)).holds, "{name}");
        }
        assert_eq!(process(r#""systemd-timesyncd", "user": "time""#).found, "process 7 of time");
        assert!(process(r#""gone", "running": false"#).holds, "a zombie does not run");
        assert!(process(r#""agent", "user": "time", "running": false"#).holds);
    }

    #[test]
    fn what_does_not_run_or_runs_as_somebody_else() {
        let verdict = process(r#""kubelet""#);
        assert_eq!((verdict.holds, verdict.found.as_str()), (false, "no process is called kubelet"));
        assert!(!process(r#""systemd-time""#).holds, "only part of a name");
        let verdict = process(r#""agent", "user": "time""#);
        assert_eq!(
            (verdict.holds, verdict.expected.as_str(), verdict.found.as_str()),
            (false, "agent of time", "process 12 of root")
        );
        assert!(!process(r#""agent", "running": false"#).holds);
        assert_eq!(process(r#""agent", "user": "nobody""#).found, "no user nobody in /etc/passwd");
    }

    #[test]
    fn this_very_process_is_found() {
        let name = std::env::current_exe().unwrap();
        let name = name.file_name().unwrap().to_str().unwrap();
        let Kind::Process(wanted) = kind(&format!(r#"{{"process": "{name}"}}"#)) else { panic!("{name}") };
        assert!(check(&wanted, Path::new("/")).holds, "{name}");
    }
}
