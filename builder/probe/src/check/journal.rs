//! `journal`: what this boot's journal says, line by line.

use super::{LONGEST_ATTEMPT, Verdict, Wanted, describe, excerpt};
use crate::spec::Journal;
use crate::system::System;

pub(super) fn check(wanted: &Journal, system: &dyn System) -> Verdict {
    let text = Wanted::new(wanted.contains.as_ref(), wanted.matches.as_ref());
    let mut expected = format!("the journal of {}", wanted.journal);
    if text.is_anything() {
        expected = format!("{expected} {}", text.words());
    }
    if let Some(lacks) = &wanted.lacks {
        expected = format!("{expected} without `{lacks}`");
    }
    let mut seen = Seen::default();
    let result = read(system, &wanted.journal, &mut |line| {
        seen.lines += 1;
        if seen.wanted.is_none() && text.is_anything() && text.is_in(line) {
            seen.wanted = Some(excerpt(line));
        }
        if seen.unwanted.is_none() && wanted.lacks.as_ref().is_some_and(|lacks| line.contains(lacks)) {
            seen.unwanted = Some(excerpt(line));
        }
    });
    // What was said is said, whether all could be read or not.
    if let Some(line) = seen.unwanted {
        return Verdict::new(false, expected, format!("`{line}`")).last();
    }
    if let Err(why) = result {
        return Verdict::new(false, expected, why);
    }
    let all = match seen.lines {
        1 => "1 line".to_owned(),
        lines => format!("{lines} lines"),
    };
    match seen.wanted {
        Some(line) => Verdict::new(true, expected, format!("`{line}`")),
        None => Verdict::new(!text.is_anything(), expected, format!("{all} without it")),
    }
}

#[derive(Default)]
struct Seen {
    lines: u64,
    wanted: Option<String>,
    unwanted: Option<String>,
}

/// Hands on every line of a unit's journal, of the kernel's (`kernel`) or of all there is (`system`).
pub(super) fn read(system: &dyn System, whose: &str, each: &mut dyn FnMut(&str)) -> Result<(), String> {
    let mut command = vec!["journalctl", "--no-pager", "-q", "-a", "-b", "-o", "cat"];
    match whose {
        "system" => {}
        "kernel" => command.push("-k"),
        unit => command.extend(["-u", unit]),
    }
    match system.scan(&command, LONGEST_ATTEMPT, each) {
        Ok(output) if output.exit == Some(0) => Ok(()),
        Ok(output) => Err(format!("journalctl: {}", describe(&output))),
        Err(error) => Err(format!("journalctl: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::attempt;
    use super::*;
    use crate::system::fake::Fake;

    const ALL: &str = "journalctl --no-pager -q -a -b -o cat";

    fn journal(rest: &str) -> Verdict {
        let system = Fake::default();
        system.answer(ALL, 0, "Started a.\nout of memory: x\n", "");
        system.answer(&format!("{ALL} -k"), 0, "Linux version 6.1\n", "");
        system.answer(&format!("{ALL} -u a.service"), 0, "Started a, version 12.\nReady.\n", "");
        system.answer(&format!("{ALL} -u broken.service"), 1, "x\n", "No journal files were found.\n");
        attempt(&format!(r#"{{"journal": {rest}}}"#), &system)
    }

    #[test]
    fn what_must_be_there_is_found_in_the_right_journal() {
        assert_eq!(journal(r#""a.service", "contains": "Ready""#).found, "`Ready.`");
        assert!(journal(r#""a.service", "matches": "version \\d+\\.$""#).holds);
        assert!(journal(r#""kernel", "contains": "Linux version", "lacks": "Oops""#).holds);
        let verdict = journal(r#""a.service", "contains": "Linux""#);
        assert_eq!(
            verdict,
            Verdict::new(false, "the journal of a.service with `Linux`", "2 lines without it"),
            "and may come yet"
        );
        assert!(!journal(r#""a.service", "contains": "Started", "matches": "^Ready""#).holds, "both, on one line");
    }

    #[test]
    fn what_must_not_be_there_ends_it() {
        let verdict = journal(r#""system", "lacks": "out of memory""#);
        assert_eq!((verdict.holds, verdict.is_final, verdict.found.as_str()), (false, true, "`out of memory: x`"));
        assert!(journal(r#""a.service", "lacks": "out of memory""#).holds);
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_no_proof() {
        let verdict = journal(r#""broken.service", "lacks": "y""#);
        assert!(!verdict.holds && !verdict.is_final);
        assert!(verdict.found.contains("No journal files"), "{}", verdict.found);
        assert!(!journal(r#""unknown.service", "lacks": "y""#).holds);
        assert!(!journal(r#""broken.service", "lacks": "x""#).holds, "but what it says counts");
    }
}
