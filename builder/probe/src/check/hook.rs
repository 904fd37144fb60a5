//! `hook`: how a hook of the recipe ended, and what it said.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Verdict, Wanted, excerpt, journal, properties};
use crate::spec::Hook;
use crate::system::System;

/// Where netboot-init keeps `STAGE/NAME.log` and `STAGE/NAME.status`.
const FOLDER: &str = "run/netboot/hooks";
const STAGES: [&str; 2] = ["pre-network", "pre-init"];

pub(super) fn check(wanted: &Hook, system: &dyn System) -> Verdict {
    let text = Wanted::new(wanted.contains.as_ref(), wanted.matches.as_ref());
    let mut expected = format!("exit status {}", wanted.exit);
    if text.is_anything() {
        expected = format!("{expected}, a log {}", text.words());
    }
    let ended = match of_initrd(&wanted.hook, system.root()).map_or_else(|| online(&wanted.hook, system), Ok) {
        Ok(ended) => ended,
        Err(why) => return Verdict::new(false, expected, why),
    };
    let mut holds = ended.exit == Some(wanted.exit);
    let mut found = ended.words;
    if text.is_anything() {
        let log = match ended.log {
            Log::File(path) => fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            Log::Journal(unit) => {
                let mut log = String::new();
                let read = journal::read(system, &unit, &mut |line| log.extend([line, "\n"]));
                read.map(|()| log).map_err(std::io::Error::other)
            }
        };
        match log {
            Ok(log) => {
                let is = text.is_in(&log);
                holds &= is;
                if !is {
                    found = format!("{found}; log `{}`", excerpt(log.trim_end()));
                }
            }
            Err(error) => {
                holds = false;
                found = format!("{found}; its log cannot be read: {error}");
            }
        }
    }
    Verdict::new(holds, expected, found)
}

/// How a hook ended.
struct Ended {
    /// None when it was killed, or not even started.
    exit: Option<i32>,
    words: String,
    log: Log,
}

enum Log {
    File(PathBuf),
    Journal(String),
}

/// A hook that ran before the system did.
fn of_initrd(hook: &str, root: &Path) -> Option<Ended> {
    STAGES.iter().find_map(|stage| {
        let folder = root.join(FOLDER).join(stage);
        let status = fs::read_to_string(folder.join(format!("{hook}.status"))).ok()?;
        let words = status.trim().to_owned();
        // As netboot-init's `hooks::Outcome` puts it.
        let exit = match words.strip_prefix("ended with status ") {
            Some(code) => code.parse().ok(),
            None => (words == "is done").then_some(0),
        };
        Some(Ended { exit, words: format!("{stage}: {words}"), log: Log::File(folder.join(format!("{hook}.log"))) })
    })
}

/// A hook that systemd runs.
fn online(hook: &str, system: &dyn System) -> Result<Ended, String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let unit = format!("netboot-hook-{}.service", hook.chars().map(plain).collect::<String>());
    let properties = properties(system, &unit, "LoadState,ActiveState,Result,ExecMainCode,ExecMainStatus")?;
    let get = |name: &str| properties.get(name);
    if get("LoadState") == "not-found" {
        return Err(format!(
            "no hook {hook} has run: no {} in /{FOLDER} has its status, nor is there a unit {unit}",
            STAGES.join(" or ")
        ));
    }
    if !matches!(get("ActiveState"), "active" | "failed") {
        return Err(format!("online: {}", get("ActiveState")));
    }
    // CLD_EXITED in siginfo.h; others were killed.
    let exit = (get("ExecMainCode") == "1").then(|| get("ExecMainStatus").parse().ok()).flatten();
    let words = match exit {
        Some(0) => "online: is done".to_owned(),
        Some(exit) => format!("online: ended with status {exit}"),
        None => format!("online: result {}", get("Result")),
    };
    Ok(Ended { exit, words, log: Log::Journal(unit) })
}

#[cfg(test)]
mod tests {
    use super::super::tests::attempt;
    use super::*;
    use crate::system::fake::Fake;

    const SHOW: &str =
        "systemctl show --no-pager -p LoadState,ActiveState,Result,ExecMainCode,ExecMainStatus -- netboot-hook-";

    fn system() -> Fake {
        let system = Fake::default();
        system.write("run/netboot/hooks/pre-init/network.sh.status", "is done\n");
        system.write("run/netboot/hooks/pre-init/network.sh.log", "wrote /run/systemd/network/90-netboot.network\n");
        system.write("run/netboot/hooks/pre-network/raid.status", "ended with status 3\n");
        system.write(
            "run/netboot/hooks/pre-init/slow.status",
            "was killed, with its children, after its timeout of 2 s\n",
        );
        let unit = |name: &str, rest: &str| {
            let shown = format!("LoadState=loaded\n{rest}");
            system.answer(&format!("{SHOW}{name}.service"), 0, &shown, "");
        };
        unit("join_it", "ActiveState=active\nResult=success\nExecMainCode=1\nExecMainStatus=0\n");
        unit("fails", "ActiveState=failed\nResult=exit-code\nExecMainCode=1\nExecMainStatus=7\n");
        unit("hangs", "ActiveState=failed\nResult=timeout\nExecMainCode=2\nExecMainStatus=15\n");
        unit("runs", "ActiveState=activating\nResult=success\nExecMainCode=0\nExecMainStatus=0\n");
        let none = "LoadState=not-found\nActiveState=inactive\nResult=success\nExecMainCode=0\nExecMainStatus=0\n";
        system.answer(&format!("{SHOW}none.service"), 0, none, "");
        let log = "journalctl --no-pager -q -a -b -o cat -u netboot-hook-join_it.service";
        system.answer(log, 0, "joined\n", "");
        system
    }

    fn hook(rest: &str) -> Verdict {
        attempt(&format!(r#"{{"hook": {rest}}}"#), &system())
    }

    #[test]
    fn hooks_of_every_stage_with_their_status_and_log() {
        assert!(hook(r#""network.sh", "contains": "90-netboot", "matches": "^wrote /""#).holds);
        assert_eq!(
            hook(r#""raid", "exit": 3"#),
            Verdict::new(true, "exit status 3", "pre-network: ended with status 3")
        );
        assert!(hook(r#""join it", "matches": "^joined$""#).holds);
        assert!(hook(r#""fails", "exit": 7"#).holds);
    }

    #[test]
    fn hooks_that_failed_hang_or_are_none() {
        assert_eq!(hook(r#""raid""#).found, "pre-network: ended with status 3");
        assert_eq!(hook(r#""network.sh", "exit": 1"#).found, "pre-init: is done");
        let verdict = hook(r#""network.sh", "contains": "bond""#);
        assert!(!verdict.holds && verdict.found.contains("log `wrote /run"), "{}", verdict.found);
        assert!(!hook(r#""join it", "contains": "left""#).holds);
        for (name, found) in [
            ("slow", "pre-init: was killed, with its children, after its timeout of 2 s"),
            ("fails", "online: ended with status 7"),
            ("hangs", "online: result timeout"),
            ("runs", "online: activating"),
        ] {
            let verdict = hook(&format!(r#""{name}""#));
            assert_eq!((verdict.holds, verdict.found.as_str()), (false, found));
        }
        assert!(hook(r#""none""#).found.starts_with("no hook none has run"));
    }
}
