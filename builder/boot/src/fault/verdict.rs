//! Whether a node did what a scenario expects: by the boot test's report, what netboot-init said, and the boot server's log.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use imgbuild_bundle::{ROOT, manifest::Manifest};
use imgbuild_serve::Access;
use netboot_init::fetch::{self, SourceError};
use serde_json::Value;

use super::{Fault, FaultReport, boot_server::DEAD, live::is_root};
use crate::{Cause, Error, Failure, Phase, Report, console::Console, error::failed};

/// What netboot-init said on the console that was written down in a folder.
pub(crate) fn said(results: &Path) -> Result<Vec<String>, Error> {
    let log = results.join("console.log");
    let bytes = fs::read(&log).map_err(failed("read", &log))?;
    let mut said = Vec::new();
    let mut take = |line: &str| said.extend(line.split_once("] netboot: ").map(|(_, words)| words.to_owned()));
    let mut console = Console::new();
    console.take(&bytes, Duration::ZERO, &mut take);
    console.take(b"\n", Duration::ZERO, &mut take);
    Ok(said)
}

/// What is looked at.
pub(crate) struct Seen<'a> {
    pub(crate) manifest: &'a Manifest,
    /// Netboot-init's lines on the console, without what comes before them.
    pub(crate) said: &'a [String],
    /// The boot server's log.
    pub(crate) requests: &'a [Access],
    /// What was done while the guest ran.
    pub(crate) took_place: Option<Result<String, String>>,
    /// The facts of the boot before this one.
    pub(crate) before: Option<&'a BTreeMap<String, Value>>,
}

impl Fault {
    /// Makes a boot test's report that of the scenario.
    pub(crate) fn judge(self, report: &mut Report, seen: &Seen<'_>) {
        let found = match self.refusal(seen.manifest) {
            Some(wanted) => refused(&wanted, report, seen.said).and_then(|said| self.came_in_time(said, seen)),
            // What is wrong with the boot is in the report already.
            None if report.failure.is_some() => Err(None),
            None => self.evidence(report, seen).map_err(Some),
        };
        report.fault = Some(FaultReport {
            name: self,
            done: self.what(),
            expected: self.expected(),
            found: found.as_ref().ok().cloned(),
        });
        match found {
            Ok(_) => report.failure = None,
            Err(None) => {}
            Err(Some(reason)) => {
                let phase = report.reached.last().map_or(Phase::Power, |mark| mark.phase);
                let cause = Cause::Fault { reason };
                report.failure = Some(match report.failure.take() {
                    Some(failure) => Failure { cause, ..failure },
                    None => Failure {
                        cause,
                        phase,
                        advice: "console.log and requests.log".to_owned(),
                        refused: Vec::new(),
                        console: Vec::new(),
                    },
                });
            }
        }
    }

    /// The words with which netboot-init has to refuse; none where the node has to come up. They are its own code's.
    fn refusal(self, manifest: &Manifest) -> Option<Vec<String>> {
        let root = manifest.files.get(ROOT);
        let (size, sha256) = root.map_or((0, ""), |root| (root.size, root.sha256.as_str()));
        let all = |words: &str| words.split("\0").map(str::to_owned).collect();
        match self {
            Self::TruncatedRoot => Some(all(&SourceError::Length { found: size / 2, expected: size }.to_string())),
            Self::AlteredRoot => {
                let found = "\0".to_owned();
                Some(all(&SourceError::Hash { found, expected: sha256.to_owned(), bytes: size }.to_string()))
            }
            Self::MissingRoot => Some(all(&SourceError::Status { code: 404, retry_after: None }.to_string())),
            Self::LowMemory => {
                // How much there is, nobody knows here.
                let words = fetch::Error::Memory { size, available: 0, total: 0 }.to_string();
                Some(words.split_once(", has ").map(|(needs, _)| needs.to_owned()).into_iter().collect())
            }
            Self::HookFails => self.hook_outcome().map(|words| vec![words]),
            _ => None,
        }
    }

    fn came_in_time(self, said: String, seen: &Seen<'_>) -> Result<String, Option<String>> {
        if self == Self::LowMemory && seen.requests.iter().any(is_root) {
            return Err(Some(format!("netboot-init asked for the root before it said `{said}`")));
        }
        Ok(said)
    }

    /// What shows that a fault took place which the node has come through.
    fn evidence(self, report: &Report, seen: &Seen<'_>) -> Result<String, String> {
        let roots = || seen.requests.iter().filter(|access| is_root(access));
        let says = |words: &str| seen.said.iter().find(|line| line.contains(words)).cloned();
        match self {
            Self::ConnectionCut => {
                let cut = roots().find(|access| access.status == 200 && access.sent < access.length);
                let rest = roots().find(|access| access.status == 206 && access.sent == access.length);
                let (cut, rest) = (cut.ok_or("the connection was not cut")?, rest.ok_or("nobody asked for the rest")?);
                if cut.sent + rest.sent < cut.length {
                    return Err(format!("{} of {} bytes were sent", cut.sent + rest.sent, cut.length));
                }
                Ok(format!("cut after {} of {} bytes, then 206 for {}", cut.sent, cut.length, rest.sent))
            }
            Self::DeadMirror => {
                let tried = says(&format!("GET {DEAD}")).ok_or("the dead source was not asked")?;
                let warned = says(&format!("{DEAD}: ")).ok_or_else(|| format!("nothing was said after `{tried}`"))?;
                roots().find(|access| access.status == 200).ok_or("the root came from nowhere")?;
                Ok(warned)
            }
            Self::SilentDhcp => {
                done(seen)?;
                let last = seen.said.iter().rev().find(|line| line.contains("without an answer"));
                Ok(last.ok_or("netboot-init did not wait for an answer")?.clone())
            }
            Self::ServerGone => done(seen),
            Self::HookHangs => {
                let words = self.hook_outcome().unwrap_or_default();
                says(&words).ok_or_else(|| format!("netboot-init did not say `{words}`"))
            }
            Self::SecondBoot => same_node(seen.before, &report.facts),
            _ => Err("this scenario needs no evidence".to_owned()),
        }
    }
}

/// What was done while the guest ran.
fn done(seen: &Seen<'_>) -> Result<String, String> {
    seen.took_place.clone().unwrap_or_else(|| Err("the boot was over before its time came".to_owned()))
}

/// Netboot-init's words, if it refused with all that is wanted, and the node went down for it.
fn refused(wanted: &[String], report: &Report, said: &[String]) -> Result<String, Option<String>> {
    let not = |reason: String| Err(Some(reason));
    let Some(failure) = &report.failure else { return not("the system came up, and all tests passed".to_owned()) };
    let words = wanted.join("…");
    let is_started = |mark: &crate::Mark| mark.phase >= Phase::System;
    if report.reached.iter().any(is_started) || said.iter().any(|line| line.contains(" takes over; ")) {
        return not(format!("the system was started, in place of `{words}`; {}", failure.cause));
    }
    let Some(at) = said.iter().position(|line| line.starts_with("FAILED: ")) else {
        return not(format!("netboot-init did not say `{words}`; {}", failure.cause));
    };
    let what = said.iter().skip(at).filter_map(|line| line.trim().strip_prefix("what happened: "));
    let what: Vec<&str> = what.collect();
    let Some(found) = what.iter().find(|line| wanted.iter().all(|part| line.contains(part.as_str()))) else {
        return not(format!("netboot-init said `{}`, expected `{words}`", what.join("; ")));
    };
    match failure.cause {
        Cause::Ended { .. } => Ok((*found).to_owned()),
        ref other => not(format!("netboot-init said `{found}`, and the node did not go down: {other}")),
    }
}

fn same_node(before: Option<&BTreeMap<String, Value>>, after: &BTreeMap<String, Value>) -> Result<String, String> {
    let before = before.ok_or("there was no first boot")?;
    let same = |name: &str| {
        let of = |facts: &BTreeMap<String, Value>| facts.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        match (of(before), of(after)) {
            (first, second) if first != second => Err(format!("the {name} was `{first}` and then `{second}`")),
            (first, _) if first.is_empty() => Err(format!("nobody knows the {name}")),
            (first, _) => Ok(first),
        }
    };
    Ok(format!("{}, machine id {}, both times", same("hostname")?, same("machine-id")?))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::{Accelerator, BootPath, Mark};

    fn manifest() -> Manifest {
        let ram = json!({"budget": 0, "unpack": 0, "fetch": 0, "rest": 0});
        let files = json!({ROOT: {"size": 1000, "sha256": "aa11"}});
        serde_json::from_value(json!({
            "schema": 1, "name": "w", "version": "1", "arch": "amd64", "build_time": 1, "kernel": null, "files": files,
            "layers": [], "delivery": "fetch", "ram": ram, "tests": [], "tool_version": "0",
        }))
        .unwrap()
    }

    fn report(phase: Phase, cause: Option<Cause>) -> Report {
        Report {
            name: "w".to_owned(),
            version: "1".to_owned(),
            path: BootPath::Direct,
            accelerator: Accelerator::Tcg,
            memory: 1 << 30,
            fault: None,
            tests: Vec::new(),
            facts: BTreeMap::new(),
            reached: vec![Mark { phase, seconds: 1.0 }],
            timeline: Vec::new(),
            failure: cause.map(|cause| Failure {
                cause,
                phase,
                advice: String::new(),
                refused: Vec::new(),
                console: vec!["last".to_owned()],
            }),
            seconds: 1.0,
            results: "/results".into(),
        }
    }

    fn get(status: u16, length: u64, sent: u64) -> Access {
        Access {
            peer: ([127, 0, 0, 1], 1).into(),
            method: "GET".to_owned(),
            path: "/images/w/1/root.squashfs".to_owned(),
            status,
            length,
            sent,
            began: Instant::now(),
            took: Duration::ZERO,
        }
    }

    /// What is found, or the reason why the scenario is not met.
    fn judged(fault: Fault, mut report: Report, said: &[&str], requests: &[Access]) -> Result<String, String> {
        let said: Vec<String> = said.iter().map(|line| (*line).to_owned()).collect();
        let seen = Seen { manifest: &manifest(), said: &said, requests, took_place: None, before: None };
        fault.judge(&mut report, &seen);
        let found = report.fault.unwrap().found;
        assert_eq!(found.is_some(), report.failure.is_none());
        found.ok_or_else(|| report.failure.unwrap().cause.to_string())
    }

    fn ended() -> Option<Cause> {
        Some(Cause::Ended { status: "exit status: 0".to_owned() })
    }

    #[test]
    fn a_refusal_needs_the_right_words_and_the_nodes_end() {
        let right =
            "  what happened: http://s/root.squashfs: SHA-256 is bb22, expected aa11 (1000 bytes, all received)";
        let words = ["GET http://s/root.squashfs", "FAILED: get the root", right];
        let judge = |phase, cause, said: &[&str]| judged(Fault::AlteredRoot, report(phase, cause), said, &[]);
        assert_eq!(judge(Phase::NetbootInit, ended(), &words).unwrap(), right.trim().split_once(": ").unwrap().1);

        let up = judge(Phase::Done, None, &words[..1]).unwrap_err();
        assert_eq!(up, "the system came up, and all tests passed");
        let up = judge(Phase::Probe, Some(Cause::Tests { failed: 1 }), &words[..1]).unwrap_err();
        assert!(up.starts_with("the system was started, in place of `SHA-256 is …, expected aa11"), "{up}");
        let up = judge(Phase::NetbootInit, ended(), &["/sbin/init takes over; 5 MiB"]).unwrap_err();
        assert!(up.starts_with("the system was started"), "{up}");

        let silent = judge(Phase::NetbootInit, ended(), &[]).unwrap_err();
        assert!(silent.starts_with("netboot-init did not say `SHA-256 is "), "{silent}");
        let other = ["FAILED: get the root", "  what happened: HTTP status 404 Not Found"];
        let other = judge(Phase::NetbootInit, ended(), &other).unwrap_err();
        assert!(other.starts_with("netboot-init said `HTTP status 404 Not Found`, expected `SHA-256 is "), "{other}");
        let stays = judge(Phase::NetbootInit, Some(Cause::Timeout { seconds: 9 }), &words).unwrap_err();
        assert!(stays.ends_with("and the node did not go down: the probe had not finished after 9 s"), "{stays}");
    }

    #[test]
    fn netboot_inits_own_words_are_what_is_expected() {
        for (fault, what) in [
            (Fault::TruncatedRoot, "x: the file there has 500 bytes, expected 1000"),
            (Fault::MissingRoot, "x: HTTP status 404 Not Found"),
            (
                Fault::LowMemory,
                "not enough memory: needs 65 MiB (the root's 1 and 64 to run in), has 60 MiB available of 86",
            ),
            (Fault::HookFails, "hook fault-fails ended with status 3; its last lines: none"),
        ] {
            let said = ["FAILED: step", &format!("  what happened: {what}")];
            let found = judged(fault, report(Phase::NetbootInit, ended()), &said, &[]);
            assert_eq!(found.as_deref(), Ok(what), "{fault}");
        }
        let said = ["FAILED: step", "  what happened: not enough memory: needs 65 MiB (the root's 1 and 64 to run in)"];
        let late = judged(Fault::LowMemory, report(Phase::NetbootInit, ended()), &said, &[get(200, 1000, 1000)]);
        assert!(late.unwrap_err().starts_with("netboot-init asked for the root before it said "));
    }

    #[test]
    fn what_did_not_take_place_was_not_met() {
        let judge =
            |fault, said: &[&str], requests: &[Access]| judged(fault, report(Phase::Done, None), said, requests);
        let whole = get(200, 1000, 1000);
        let (cut, rest) = (get(200, 1000, 500), get(206, 500, 500));
        assert_eq!(
            judge(Fault::ConnectionCut, &[], std::slice::from_ref(&whole)).unwrap_err(),
            "the connection was not cut"
        );
        let again = judge(Fault::ConnectionCut, &[], &[cut.clone(), whole.clone()]);
        assert_eq!(again.unwrap_err(), "nobody asked for the rest");
        let resumed = judge(Fault::ConnectionCut, &[], &[cut, rest]);
        assert_eq!(resumed.unwrap(), "cut after 500 of 1000 bytes, then 206 for 500");

        let dead = ["GET http://10.0.2.77/root.squashfs", "warning: http://10.0.2.77/root.squashfs: No route to host"];
        assert_eq!(judge(Fault::DeadMirror, &dead, std::slice::from_ref(&whole)).unwrap(), dead[1]);
        assert_eq!(judge(Fault::DeadMirror, &dead, &[]).unwrap_err(), "the root came from nowhere");
        assert_eq!(judge(Fault::DeadMirror, &[], &[whole]).unwrap_err(), "the dead source was not asked");
        assert_eq!(judge(Fault::ServerGone, &[], &[]).unwrap_err(), "the boot was over before its time came");
        assert!(
            judge(Fault::HookHangs, &[], &[]).unwrap_err().starts_with("netboot-init did not say `hook fault-hangs")
        );
        assert_eq!(judge(Fault::SecondBoot, &[], &[]).unwrap_err(), "there was no first boot");
    }

    #[test]
    fn tests_that_failed_stay_what_they_are() {
        let report = report(Phase::Done, Some(Cause::Tests { failed: 2 }));
        assert_eq!(judged(Fault::DeadMirror, report, &[], &[]).unwrap_err(), "2 tests failed");
    }

    #[test]
    fn a_node_is_the_same_by_name_and_machine_id() {
        let facts = |name: &str, id: &str| -> BTreeMap<String, Value> {
            [("hostname".to_owned(), name.into()), ("machine-id".to_owned(), id.into())].into()
        };
        let first = facts("node-1", "ab");
        assert!(same_node(Some(&first), &first).unwrap().starts_with("node-1, machine id ab"));
        assert_eq!(
            same_node(Some(&first), &facts("node-1", "cd")).unwrap_err(),
            "the machine-id was `ab` and then `cd`"
        );
        assert_eq!(same_node(Some(&facts("", "")), &facts("", "")).unwrap_err(), "nobody knows the hostname");
    }
}
