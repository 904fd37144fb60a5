//! systemd's units.

use std::collections::BTreeSet;

use imgbuild_tree::Kind;

use super::programs::{in_path, names};
use super::{Check, Finding, Rule, Subject};
use crate::Error;

pub(super) const PROGRAM: Rule = Rule {
    name: "missing-program",
    demands: "What a systemd unit starts is in the image, or a condition of the unit keeps it from starting.",
    check: Check::Tree(program),
};

/// Where units lie, the first that has a name wins.
const UNITS: [&str; 4] =
    ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
/// Without these the unit does not start. What stops or reloads it is asked for only once it runs.
const STARTS: [&str; 4] = ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost"];
/// Conditions on one path.
const CONDITIONS: [&str; 10] = [
    "ConditionPathExists",
    "ConditionPathIsDirectory",
    "ConditionDirectoryNotEmpty",
    "ConditionFileNotEmpty",
    "ConditionFileIsExecutable",
    "AssertPathExists",
    "AssertPathIsDirectory",
    "AssertDirectoryNotEmpty",
    "AssertFileNotEmpty",
    "AssertFileIsExecutable",
];
/// What is there only in a running system.
const RUNNING: [&str; 4] = ["/proc/", "/run/", "/sys/", "/dev/"];

fn program(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for folder in UNITS {
        for name in names(subject, folder) {
            let path = format!("{folder}/{name}");
            let is_unit = name.ends_with(".service") || name.ends_with(".socket");
            // A link is another name of a unit, or masks it.
            let is_file = subject
                .tree
                .resolve_no_follow(&path)
                .is_ok_and(|id| matches!(subject.tree.node(id).kind, Kind::Regular(_)));
            if !is_unit || !seen.insert(name) || !is_file {
                continue;
            }
            let lines = lines(&subject.text(&path)?.unwrap_or_default());
            let settings = settings(&lines);
            if settings.iter().any(|(key, value)| CONDITIONS.contains(key) && never(subject, value)) {
                continue;
            }
            for (_, value) in settings.iter().filter(|(key, _)| STARTS.contains(key)) {
                if let Some(program) = started(value).filter(|program| !in_path(subject, program)) {
                    let problem = format!("{path} starts {program}, which the image does not have");
                    let fix = "install the package that has it, take it out of [prune], or prune the unit as well";
                    findings.push(PROGRAM.finding(Some(path.clone()), problem, fix));
                }
            }
        }
    }
    Ok(findings)
}

/// The lines of a unit without its comments. One that ends in a backslash goes on with the next, comments between them left out
/// (systemd.syntax(7)).
fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun: Option<String> = None;
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        let mut whole = begun.take().unwrap_or_default() + line;
        // Of two backslashes the first takes away the second's meaning.
        let backslashes = whole.bytes().rev().take_while(|byte| *byte == b'\\').count();
        if backslashes % 2 == 1 {
            whole.pop();
            whole.push(' ');
            begun = Some(whole);
        } else {
            lines.push(whole);
        }
    }
    lines.extend(begun);
    lines
}

/// `Key=value` of every line that is one. An empty value takes back what the key was set to before; that of a condition, all
/// conditions.
fn settings(lines: &[String]) -> Vec<(&str, &str)> {
    let mut settings: Vec<(&str, &str)> = Vec::new();
    for (key, value) in lines.iter().filter_map(|line| line.split_once('=')) {
        let (key, value) = (key.trim(), value.trim());
        if value.is_empty() {
            let kind = ["Condition", "Assert"].into_iter().find(|kind| key.starts_with(kind));
            settings.retain(|(other, _)| kind.map_or(*other != key, |kind| !other.starts_with(kind)));
        } else {
            settings.push((key, value));
        }
    }
    settings
}

/// Whether a condition cannot hold in this image, unless something makes the path at run time.
fn never(subject: &Subject<'_>, path: &str) -> bool {
    // `!` turns it round; of several with `|` one is enough.
    path.starts_with('/') && !RUNNING.iter().any(|root| path.starts_with(root)) && !subject.exists(path)
}

/// The program of a command line; none where its failure is ignored (`-`), and where it is known at run time only.
fn started(value: &str) -> Option<&str> {
    let command = value.trim_start_matches(['@', ':', '+', '!', '|', '-']);
    if value[..value.len() - command.len()].contains('-') {
        return None;
    }
    let program = command.split_whitespace().next()?.trim_matches('"');
    let known = !program.contains(['%', '$']) && !RUNNING.iter().any(|root| program.starts_with(root));
    known.then_some(program)
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::{Metadata, Node, RootTree};

    use super::*;
    use crate::testing::{add, put, subject};

    fn found(units: &[(&str, &str)]) -> Vec<String> {
        let mut tree = RootTree::new();
        for program in ["/usr/bin/good", "/usr/sbin/tool", "/etc/there"] {
            put(&mut tree, program, b"x");
        }
        let link = Node { meta: Metadata::root_owned(0o777), kind: Kind::Symlink((*b"/dev/null").into()) };
        add(&mut tree, "/etc/systemd/system/masked.service", link);
        for (path, text) in units {
            put(&mut tree, path, text.as_bytes());
        }
        program(&subject(&tree)).unwrap().into_iter().map(|finding| finding.problem).collect()
    }

    #[test]
    fn a_program_that_is_gone_is_named() {
        let unit = "/usr/lib/systemd/system/a.service";
        for start in ["ExecStart=/usr/bin/gone --x", "ExecStartPre=+!/usr/bin/gone", "ExecStart=gone x"] {
            let found = found(&[(unit, &format!("[Service]\nExecStart=/usr/bin/good\n{start}\n"))]);
            assert_eq!(found.len(), 1, "{start}");
            assert!(found[0].contains("a.service starts ") && found[0].contains("gone"), "{}", found[0]);
        }
    }

    #[test]
    fn a_command_may_go_on_on_the_next_line() {
        let found = |text: &str| found(&[("/usr/lib/systemd/system/a.service", text)]);
        for good in [
            "ExecStart=\\\n  /usr/bin/good \\\n  --x",
            "ExecStart=\\\n# a comment\n  ; another\n  /usr/bin/good",
            "# a comment is not continued \\\nExecStart=/usr/bin/good",
            "Description=\\\nExecStart=/usr/bin/gone",
            "ExecStart=/usr/bin/good \\",
        ] {
            assert_eq!(found(good), Vec::<String>::new(), "{good}");
        }
        for gone in ["ExecStart=\\\n/usr/bin/gone", "Description=C:\\\\\nExecStart=/usr/bin/gone"] {
            assert_eq!(
                found(gone),
                ["/usr/lib/systemd/system/a.service starts /usr/bin/gone, which the image does not have"],
                "{gone}"
            );
        }
    }

    #[test]
    fn an_empty_value_takes_back_what_was_set() {
        let count = |text: &str| found(&[("/usr/lib/systemd/system/a.service", text)]).len();
        assert_eq!(count("ExecStart=/usr/bin/gone\nExecStart=\nExecStart=/usr/bin/good"), 0);
        assert_eq!(count("ExecStartPre=/usr/bin/gone\nExecStart=\nExecStart=/usr/bin/good"), 1);
        assert_eq!(count("ConditionPathExists=/absent\nConditionHost=\nExecStart=/usr/bin/gone"), 1);
        assert_eq!(count("ConditionPathExists=/absent\nAssertHost=\nExecStart=/usr/bin/gone"), 0);
    }

    #[test]
    fn what_may_be_absent_is_no_finding() {
        for text in [
            "ExecStart=/usr/bin/good",
            "ExecStart=tool",
            "ExecStart=-/usr/bin/gone",
            "ExecStart=@-/usr/bin/gone gone",
            "ExecStop=/usr/bin/gone",
            "# ExecStart=/usr/bin/gone",
            "ExecStart=",
            "ExecStart=/opt/%i/gone",
            "ExecStart=/run/gone",
            "ConditionFileIsExecutable=/usr/bin/gone\nExecStart=/usr/bin/gone",
            "ConditionPathExists=/etc/initrd-release\nExecStart=/usr/bin/gone",
        ] {
            assert_eq!(found(&[("/usr/lib/systemd/system/a.service", text)]), Vec::<String>::new(), "{text}");
        }
        for condition in ["!/etc/absent", "/etc/there", "|/etc/absent", "/run/x"] {
            let text = format!("ConditionPathExists={condition}\nExecStart=/usr/bin/gone");
            assert_eq!(found(&[("/usr/lib/systemd/system/a.service", &text)]).len(), 1, "{condition}");
        }
    }

    #[test]
    fn the_unit_that_counts_is_the_first_of_its_name() {
        let gone = "ExecStart=/usr/bin/gone";
        let own = ("/etc/systemd/system/a.service", "ExecStart=/usr/bin/good");
        assert!(found(&[own, ("/usr/lib/systemd/system/a.service", gone)]).is_empty());
        assert!(found(&[("/usr/lib/systemd/system/masked.service", gone)]).is_empty());
        assert!(found(&[("/usr/lib/systemd/system/a.txt", gone)]).is_empty());
    }
}
