//! What a long-running stage reports while it works.
//!
//! Libraries never print. They call a [`Progress`], and the command decides whether that becomes a bar, a plain line
//! or a JSON event. An event is data: its JSON form is what `--json` prints, one object a line.

use serde::Serialize;

/// Something a stage wants known. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A piece of work begins; `task` names it in all its later events and is unique within a run.
    Started {
        /// Unique name of the work, fit for people: `layer base`, `squashfs`.
        task: String,
        /// How much there is to do, in bytes, where that is known.
        total: Option<u64>,
    },
    /// So much of it is done, counted from its beginning.
    Advanced {
        /// The name given in [`Event::Started`].
        task: String,
        /// Bytes done so far.
        done: u64,
    },
    /// It is done.
    Finished {
        /// The name given in [`Event::Started`].
        task: String,
        /// What came of it, for people: `208 MB, 13 390 files`, `from cache`.
        outcome: String,
    },
    /// What it is at just now, for a terminal that shows it in place; nothing is lost by whoever leaves it out.
    Status {
        /// The name given in [`Event::Started`].
        task: String,
        /// In a few words: `netboot-init, 3 of 14 tests`.
        doing: String,
        /// The last that was heard of it: a line of somebody else's log.
        heard: String,
    },
    /// A fact worth a line in the log that is no piece of work.
    Note {
        /// One sentence.
        message: String,
    },
    /// Something that the user should change, though the run goes on.
    Warning {
        /// One sentence that names the thing and the fix.
        message: String,
    },
    /// Detail that only `-v` shows.
    Detail {
        /// One sentence.
        message: String,
    },
}

/// Where events go. Called from any thread.
pub trait Progress: Send + Sync {
    /// Takes one event. Must not block for long: stages call it from their inner loops (at most some tens of times a
    /// second for each task).
    fn event(&self, event: Event);

    /// Reports [`Event::Started`].
    fn started(&self, task: &str, total: Option<u64>) {
        self.event(Event::Started { task: task.to_owned(), total });
    }
    /// Reports [`Event::Advanced`].
    fn advanced(&self, task: &str, done: u64) {
        self.event(Event::Advanced { task: task.to_owned(), done });
    }
    /// Reports [`Event::Status`].
    fn status(&self, task: &str, doing: String, heard: String) {
        self.event(Event::Status { task: task.to_owned(), doing, heard });
    }
    /// Reports [`Event::Finished`].
    fn finished(&self, task: &str, outcome: String) {
        self.event(Event::Finished { task: task.to_owned(), outcome });
    }
    /// Reports [`Event::Warning`].
    fn warning(&self, message: String) {
        self.event(Event::Warning { message });
    }
    /// Reports [`Event::Note`].
    fn note(&self, message: String) {
        self.event(Event::Note { message });
    }
    /// Reports [`Event::Detail`].
    fn detail(&self, message: String) {
        self.event(Event::Detail { message });
    }
}

/// Takes everything and says nothing; for tests and for callers that do not care.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}
