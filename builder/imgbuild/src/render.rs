//! Progress for people and for machines: bars on a terminal, plain lines elsewhere, JSON events where asked for.
//!
//! All of it goes to stderr; stdout carries results.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use imgbuild_progress::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Results and errors.
    Quiet,
    /// Each stage and every warning.
    Normal,
    /// Details, too.
    Verbose,
}

/// Shows events.
pub(crate) struct Renderer {
    level: Level,
    mode: Mode,
}

enum Mode {
    Bars { all: MultiProgress, open: Mutex<HashMap<String, ProgressBar>> },
    Lines,
    Json,
}

impl Renderer {
    /// Bars if stderr is a terminal and nothing else was asked for.
    pub(crate) fn new(level: Level, json: bool) -> Self {
        let mode = if json {
            Mode::Json
        } else if std::io::stderr().is_terminal() && level != Level::Quiet {
            Mode::Bars { all: MultiProgress::new(), open: Mutex::default() }
        } else {
            Mode::Lines
        };
        Self { level, mode }
    }

    fn line(&self, text: &str) {
        match &self.mode {
            Mode::Bars { all, .. } => drop(all.println(text)),
            // Nobody is left to tell when stderr is gone.
            Mode::Lines | Mode::Json => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Says why the command failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        match &self.mode {
            Mode::Json => {
                let event = serde_json::json!({
                    "event": "failed",
                    "code": failure.code() as u8,
                    "message": failure.to_string(),
                });
                self.line(&event.to_string());
            }
            _ => self.line(&failure.text()),
        }
    }

    fn wanted(&self, event: &Event) -> bool {
        match event {
            Event::Warning { .. } => true,
            Event::Detail { .. } => self.level >= Level::Verbose,
            _ => self.level >= Level::Normal,
        }
    }
}

impl Progress for Renderer {
    fn event(&self, event: Event) {
        if !self.wanted(&event) {
            return;
        }
        match (&self.mode, event) {
            (Mode::Lines | Mode::Json, Event::Status { .. }) => {}
            (Mode::Json, event) => {
                if let Ok(text) = serde_json::to_string(&event) {
                    self.line(&text);
                }
            }
            (_, Event::Note { message } | Event::Detail { message }) => self.line(&message),
            (_, Event::Warning { message }) => self.line(&format!("warning: {message}")),
            (Mode::Lines, Event::Started { .. } | Event::Advanced { .. }) => {}
            (Mode::Lines, Event::Finished { task, outcome }) => self.line(&format!("{task}: {outcome}")),
            (Mode::Bars { all, open }, event) => draw(all, open, event),
        }
    }
}

fn draw(all: &MultiProgress, open: &Mutex<HashMap<String, ProgressBar>>, event: Event) {
    let Ok(mut open) = open.lock() else { return };
    match event {
        Event::Started { task, total } => {
            let bar = all.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new).with_style(style(total)));
            bar.set_message(task.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
            open.insert(task, bar);
        }
        Event::Advanced { task, done } => {
            if let Some(bar) = open.get(&task) {
                bar.set_position(done);
            }
        }
        Event::Status { task, doing, heard } => {
            if let Some(bar) = open.get(&task) {
                bar.set_style(status_style());
                bar.set_prefix(format!("{task}: {doing}"));
                bar.set_message(heard);
            }
        }
        Event::Finished { task, outcome } => {
            if let Some(bar) = open.remove(&task) {
                bar.finish_and_clear();
                all.remove(&bar);
            }
            let _ = all.println(format!("{task}: {outcome}"));
        }
        Event::Note { .. } | Event::Warning { .. } | Event::Detail { .. } => {}
    }
}

/// Of work that tells its status: the second line is as wide as the terminal.
fn status_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {spinner} {elapsed}\n  {wide_msg:.dim}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn style(total: Option<u64>) -> ProgressStyle {
    let template = match total {
        Some(_) => "{msg:32!} [{bar:30}] {decimal_bytes:>10} of {decimal_total_bytes} {decimal_bytes_per_sec:>12}",
        None => "{msg:32!} {spinner} {decimal_bytes:>10} {elapsed}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
