//! Progress at a rate that people and terminals can take.

use std::time::{Duration, Instant};

use imgbuild_progress::Progress;

/// Passes on what is done, at most ten times a second.
pub(crate) struct Throttled<'a> {
    progress: &'a dyn Progress,
    task: &'a str,
    last: Option<Instant>,
}

impl<'a> Throttled<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, task: &'a str) -> Self {
        Self { progress, task, last: None }
    }

    pub(crate) fn advanced(&mut self, done: u64) {
        if self.last.is_none_or(|last| last.elapsed() >= Duration::from_millis(100)) {
            self.last = Some(Instant::now());
            self.progress.advanced(self.task, done);
        }
    }
}
