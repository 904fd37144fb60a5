//! What the host keeps of a system that was tested, whether it passed or not: logs that are gone with the guest.
//!
//! A file goes over the port in pieces, a line each. Nothing is sent of what the system does not have.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::system::System;

/// Bytes of a piece.
const PIECE: usize = 48 << 10;
/// Bytes of a file at most.
const LARGEST: usize = 8 << 20;
/// Lines of the journal at most: the last ones.
const LINES: &str = "20000";
/// For all files together: whoever waits for the verdict has it already, but waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// netboot-init's log.
const NETBOOT: &str = "run/netboot/log";

/// Says one event; the port's end.
pub(crate) type Say<'a> = dyn FnMut(&Value) -> io::Result<()> + 'a;

/// What is settled once the system runs: netboot-init's log, which tells when each of its steps began.
pub(crate) fn at_start(system: &dyn System, say: &mut Say<'_>) -> io::Result<()> {
    let Ok(file) = File::open(system.root().join(NETBOOT)) else { return Ok(()) };
    let mut bytes = Vec::new();
    // What could be read is better than nothing.
    let _ = file.take(LARGEST as u64).read_to_end(&mut bytes);
    let mut pieces = Pieces::new("netboot.log", say);
    for line in String::from_utf8_lossy(&bytes).lines() {
        pieces.line(line);
    }
    pieces.end()
}

/// The journal of this boot, with the kernel's seconds as on the console, and what systemd says of its own times.
pub(crate) fn at_end(system: &dyn System, say: &mut Say<'_>) -> io::Result<()> {
    let began = Instant::now();
    let left = || PATIENCE.saturating_sub(began.elapsed());
    let mut pieces = Pieces::new("journal.log", say);
    let journal = ["journalctl", "--no-pager", "-q", "-a", "-b", "-o", "short-monotonic", "-n", LINES];
    let _ = system.scan(&journal, left(), &mut |line| pieces.line(line));
    pieces.end()?;

    let mut pieces = Pieces::new("systemd-analyze.txt", say);
    for what in ["time", "critical-chain", "blame"] {
        let Ok(output) = system.run(&["systemd-analyze", "--no-pager", what], left()) else { continue };
        pieces.line(&format!("$ systemd-analyze {what}"));
        for line in output.stdout.lines().chain(output.stderr.lines()) {
            pieces.line(line);
        }
        pieces.line("");
    }
    pieces.end()
}

/// A file on its way.
struct Pieces<'a, 'b> {
    name: &'static str,
    say: &'a mut Say<'b>,
    piece: String,
    sent: usize,
    /// What the port said first.
    error: Option<io::Error>,
}

impl<'a, 'b> Pieces<'a, 'b> {
    fn new(name: &'static str, say: &'a mut Say<'b>) -> Self {
        Self { name, say, piece: String::new(), sent: 0, error: None }
    }

    /// One more line, unless the file is full.
    fn line(&mut self, line: &str) {
        if self.sent + self.piece.len() + line.len() >= LARGEST {
            return;
        }
        self.piece.push_str(line);
        self.piece.push('\n');
        if self.piece.len() >= PIECE {
            self.send();
        }
    }

    fn send(&mut self) {
        if self.piece.is_empty() || self.error.is_some() {
            return;
        }
        let event = json!({"event": "file", "name": self.name, "data": self.piece});
        self.error = (self.say)(&event).err();
        self.sent += self.piece.len();
        self.piece.clear();
    }

    fn end(mut self) -> io::Result<()> {
        self.send();
        self.error.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::Fake;

    fn kept(system: &Fake, what: fn(&dyn System, &mut Say<'_>) -> io::Result<()>) -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = Vec::new();
        what(system, &mut |event| {
            assert_eq!(event["event"], "file");
            let text = |key: &str| event[key].as_str().unwrap().to_owned();
            assert!(text("data").len() <= 2 * PIECE);
            match files.iter_mut().find(|(name, _)| *name == text("name")) {
                Some((_, data)) => data.push_str(&text("data")),
                None => files.push((text("name"), text("data"))),
            }
            Ok(())
        })
        .unwrap();
        files
    }

    #[test]
    fn logs_are_sent_in_pieces() {
        let system = Fake::default();
        let journal: String = (0..10_000).map(|n| format!("[    1.{n:06}] node kernel: line {n}\n")).collect();
        system.answer("journalctl --no-pager -q -a -b -o short-monotonic -n 20000", 0, &journal, "");
        system.answer("systemd-analyze --no-pager time", 0, "Startup finished in 1s\n", "");
        system.answer("systemd-analyze --no-pager blame", 1, "", "Bootup is not yet finished.\n");
        let files = kept(&system, at_end);
        assert_eq!(files[0], ("journal.log".into(), journal));
        let analyze = "$ systemd-analyze time\nStartup finished in 1s\n\n$ systemd-analyze blame\nBootup is not yet finished.\n\n";
        assert_eq!(files[1], ("systemd-analyze.txt".into(), analyze.into()));
        assert_eq!(files.len(), 2);
        system.write(NETBOOT, "[    1.0] netboot: step: get the root\n");
        assert_eq!(kept(&system, at_start), [("netboot.log".into(), "[    1.0] netboot: step: get the root\n".into())]);
    }

    #[test]
    fn what_the_system_does_not_have_is_not_sent() {
        assert!(kept(&Fake::default(), at_start).is_empty());
        assert!(kept(&Fake::default(), at_end).is_empty());
    }

    #[test]
    fn a_file_has_an_end() {
        let mut sent = 0;
        let mut say = |event: &Value| {
            sent += event["data"].as_str().unwrap().len();
            Ok(())
        };
        let mut pieces = Pieces::new("journal.log", &mut say);
        let line = "x".repeat(60_000);
        for _ in 0..1000 {
            pieces.line(&line);
        }
        pieces.end().unwrap();
        assert!((LARGEST - 120_000..=LARGEST).contains(&sent), "{sent}");
    }
}
