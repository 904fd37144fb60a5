//! Images from real registries, layouts and archives; and from a registry of ours that misbehaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod archives;
mod auth;
mod broken;
mod images;
mod registries;
mod servers;
mod sharing;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imgbuild_layers::cache::Cache;
use imgbuild_layers::oci::{Digest, Image, Oci, OciError, Options, Platform, RetryPolicy};
use imgbuild_progress::{Event, Progress};
use imgbuild_recipe::OciSource;

/// Keeps what is reported.
#[derive(Default, Clone)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Progress for Recorder {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Recorder {
    pub(crate) fn started(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let started = events.iter().filter_map(|event| match event {
            Event::Started { task, .. } => Some(task.clone()),
            _ => None,
        });
        started.collect()
    }

    pub(crate) fn details(&self) -> String {
        let events = self.0.lock().unwrap();
        let details = events.iter().filter_map(|event| match event {
            Event::Detail { message } => Some(message.as_str()),
            _ => None,
        });
        details.collect::<Vec<_>>().join("\n")
    }
}

/// A cache of its own, and options that do not wait long.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cache: Cache,
    pub(crate) options: Options,
    pub(crate) seen: Recorder,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        let retry = RetryPolicy {
            attempts: 4,
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(20),
            stalled_after: Duration::from_millis(400),
        };
        let options = Options { retry, ..Options::default() };
        Self { dir, cache, options, seen: Recorder::default() }
    }

    pub(crate) fn oci(&self) -> Oci<'_> {
        Oci::new(&self.cache, &self.seen, self.options.clone())
    }

    pub(crate) fn resolve(&self, source: &str) -> Result<Digest, OciError> {
        self.oci().resolve(&named(source), &Platform::new("amd64"))
    }

    /// Resolves and fetches with one client, as a build does.
    pub(crate) fn fetch(&self, source: &str) -> Result<Image, OciError> {
        self.fetch_for(source, "amd64")
    }

    pub(crate) fn fetch_for(&self, source: &str, arch: &str) -> Result<Image, OciError> {
        let (oci, source, platform) = (self.oci(), named(source), Platform::new(arch));
        let digest = oci.resolve(&source, &platform)?;
        oci.fetch(&source, &digest, &platform, "base")
    }

    /// The uncompressed tars, lowest first.
    pub(crate) fn tars(&self, image: &Image) -> Vec<Vec<u8>> {
        let oci = self.oci();
        let tar = |layer| std::fs::read(oci.open_layer_tar(layer).unwrap().1).unwrap();
        image.layers.iter().map(tar).collect()
    }

    /// How many files the cache holds in folders that begin with `bucket`.
    pub(crate) fn entries(&self, bucket: &str) -> usize {
        fn count(dir: &Path) -> usize {
            let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
            entries.flatten().map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
        }
        count(&self.cache.dir().join(bucket))
    }
}

pub(crate) fn named(source: &str) -> OciSource {
    OciSource::parse(source, Path::new("/")).unwrap()
}

/// An error and its sources, as the command prints them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
