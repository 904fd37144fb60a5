//! The smallest node: the least RAM with which all of an image's tests pass, found by bisection.

use std::{fmt, time::Duration};

use imgbuild_bundle::{budget, manifest::Manifest};
use imgbuild_progress::Progress;
use serde::Serialize;

use crate::{BootPath, Cause, Error, Failure, Report, Source, TestOptions, error::failed, test, way};

const MIB: u64 = 1 << 20;
/// A boot that takes so many times as long as the one with the most RAM, and this much more, is one that has too little.
const SLOWER: f64 = 3.0;
const AND_MORE: Duration = Duration::from_secs(60);
/// What a test that does not hold gets at least.
const LEAST_PATIENCE: Duration = Duration::from_secs(30);

/// The smallest node for an image, and how it was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MinRam {
    /// The image's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How the guests got at their kernel.
    pub path: BootPath,
    /// The least RAM in bytes with which all tests passed; none if they did not with what the search began with.
    pub memory: Option<u64>,
    /// The recipe's `[budget] ram` in bytes; 0 where it says nothing.
    pub budget: u64,
    /// With so much, the initrd and the root alone would not fit: nothing below was tried. In bytes.
    pub floor: u64,
    /// How close two tried sizes may be, in bytes.
    pub step: u64,
    /// What was tried, in this order.
    pub tried: Vec<Tried>,
}

/// One boot of the search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// The guest's RAM in bytes.
    pub memory: u64,
    /// Why it was too little; none if all tests passed.
    pub failure: Option<String>,
    /// How long it took, from power on.
    pub seconds: f64,
}

/// Boots again and again, each time with other RAM, until the least is known with which all tests pass, give or take `step`
/// bytes.
///
/// The search begins with `options`' RAM, which is the recipe's budget unless somebody says otherwise, and does not go below what
/// initrd and root take by themselves. A boot that fails for whatever reason had too little: netboot-init refused, the
/// kernel panicked or killed a program, a test failed, or it took over three times as long as the first one and a minute.
///
/// # Errors
/// As [`test`].
pub fn find_min_ram(
    source: &Source,
    options: &TestOptions,
    step: u64,
    progress: &dyn Progress,
) -> Result<MinRam, Error> {
    let bundle = way::bundle(source)?;
    let manifest = bundle.manifest();
    // QEMU counts whole MiB.
    let step = step.max(MIB).next_multiple_of(MIB);
    let most = options.machine.memory(manifest) / MIB * MIB;
    let mut search = Search { source, options: options.clone(), progress, tried: Vec::new() };
    let floor = floor(manifest);
    let memory = bisect(floor, most, step, |memory| search.holds(memory))?;
    Ok(MinRam {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        path: options.path,
        memory,
        budget: manifest.ram.budget,
        floor,
        step,
        tried: search.tried,
    })
}

/// What initrd and root take by themselves, in bytes: with no more nothing can boot.
fn floor(manifest: &Manifest) -> u64 {
    budget::least(&manifest.ram, manifest.delivery == "embed")
}

/// The least multiple of `step` above `floor`, or else `most`, that holds, if `most` does and all above one that holds do too.
fn bisect<E>(
    floor: u64,
    most: u64,
    step: u64,
    mut holds: impl FnMut(u64) -> Result<bool, E>,
) -> Result<Option<u64>, E> {
    if !holds(most)? {
        return Ok(None);
    }
    let (mut low, mut high) = (floor / step * step, most);
    loop {
        let middle = (low.midpoint(high) / step * step).max(low + step);
        if middle >= high {
            return Ok(Some(high));
        }
        if holds(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
}

/// The search under way.
struct Search<'a> {
    source: &'a Source,
    options: TestOptions,
    progress: &'a dyn Progress,
    tried: Vec<Tried>,
}

impl Search<'_> {
    fn holds(&mut self, memory: u64) -> Result<bool, Error> {
        let mut options = self.options.clone();
        options.machine.memory = Some(memory);
        // Failures are what is looked for: their logs are kept only for who asked for them.
        let temporary = tempfile::Builder::new().prefix("imgbuild-test-").tempdir();
        let temporary = temporary.map_err(failed("make a folder in", std::env::temp_dir()))?;
        let folder = options.results.as_deref().unwrap_or(temporary.path());
        options.results = Some(folder.join(format!("{}MiB", memory / MIB)));
        let report = test(self.source, &options, self.progress)?;
        if self.tried.is_empty() {
            self.hurry(report.seconds);
        }
        let tried = Tried { memory, failure: report.failure.as_ref().map(|_| why(&report)), seconds: report.seconds };
        self.progress.note(tried.to_string());
        self.tried.push(tried);
        Ok(report.passed())
    }

    /// With too little RAM a guest may only be slow, for as long as one waits.
    fn hurry(&mut self, first: f64) {
        let times = |n: f64| Duration::try_from_secs_f64(first * n).unwrap_or(self.options.timeout);
        self.options.patience = Some(times(SLOWER - 1.0).max(LEAST_PATIENCE));
        self.options.timeout = self.options.timeout.min(times(SLOWER).saturating_add(AND_MORE));
    }
}

/// The reason of a failure in a line: netboot-init's, if it has one.
fn why(report: &Report) -> String {
    let Some(Failure { cause, phase, console, .. }) = &report.failure else { return String::new() };
    let refusal = console.iter().find_map(|line| Some(line.split_once("what happened: ")?.1.to_owned()));
    match (cause, refusal) {
        (Cause::Tests { .. }, _) => {
            let failed = report.tests.iter().filter(|test| !test.passed).map(|test| test.name.as_str());
            format!("{cause}: {}", failed.collect::<Vec<_>>().join("; "))
        }
        (_, Some(refusal)) => refusal,
        (cause, None) => format!("phase {phase}: {cause}"),
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (memory, seconds) = (self.memory / MIB, self.seconds);
        match &self.failure {
            None => write!(f, "{memory:6} MiB  enough      {seconds:6.1} s"),
            Some(why) => write!(f, "{memory:6} MiB  too little  {seconds:6.1} s  {why}"),
        }
    }
}

/// For people: a line for each boot, the most RAM first.
impl fmt::Display for MinRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, path, .. } = self;
        writeln!(f, "{name} {version} over {path}: the smallest node")?;
        let mut tried: Vec<&Tried> = self.tried.iter().collect();
        tried.sort_by_key(|tried| std::cmp::Reverse(tried.memory));
        for tried in tried {
            writeln!(f, "  {tried}")?;
        }
        let budget = match self.budget {
            0 => "the recipe has no [budget] ram".to_owned(),
            budget => format!("the recipe's budget is {} MiB", budget / MIB),
        };
        match self.memory {
            Some(least) => {
                let (least, step) = (least / MIB, self.step / MIB);
                write!(f, "all tests pass with {least} MiB and more, to within {step} MiB; {budget}")
            }
            None => write!(f, "the tests do not pass with the RAM that the search begins with; {budget}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(floor: u64, most: u64, step: u64, enough: u64) -> (Option<u64>, Vec<u64>) {
        let mut tried = Vec::new();
        let found = bisect(floor, most, step, |memory| {
            tried.push(memory);
            Ok::<_, ()>(memory >= enough)
        });
        (found.unwrap(), tried)
    }

    #[test]
    fn the_least_is_found_within_a_step() {
        for enough in 105..=384 {
            let (found, tried) = search(100, 384, 16, enough);
            let found = found.unwrap();
            assert!(found >= enough && found < enough + 16, "{enough}: {found}");
            assert!(tried.len() <= 6, "{tried:?}");
        }
        assert_eq!(search(100, 384, 16, 200), (Some(208), vec![384, 240, 160, 192, 208]));
    }

    #[test]
    fn nothing_is_tried_that_cannot_be() {
        assert_eq!(search(100, 384, 16, 385), (None, vec![384]));
        // Below a budget that is no multiple, and with a floor above it.
        assert_eq!(search(100, 120, 16, 0), (Some(112), vec![120, 112]));
        assert_eq!(search(500, 384, 16, 0), (Some(384), vec![384]));
        assert_eq!(search(0, 10, 16, 0), (Some(10), vec![10]));
    }

    #[test]
    fn a_table_says_what_was_tried_and_why_it_failed() {
        let tried = |memory: u64, failure: Option<&str>, seconds| Tried {
            memory: memory * MIB,
            failure: failure.map(str::to_owned),
            seconds,
        };
        let found = MinRam {
            name: "w".to_owned(),
            version: "1".to_owned(),
            path: BootPath::Direct,
            memory: Some(208 * MIB),
            budget: 384 * MIB,
            floor: 100 * MIB,
            step: 16 * MIB,
            tried: vec![
                tried(384, None, 12.34),
                tried(192, Some("not enough memory: needs 88 MiB"), 7.0),
                tried(208, None, 20.0),
            ],
        };
        let expected = "w 1 over direct: the smallest node
     384 MiB  enough        12.3 s
     208 MiB  enough        20.0 s
     192 MiB  too little     7.0 s  not enough memory: needs 88 MiB
all tests pass with 208 MiB and more, to within 16 MiB; the recipe's budget is 384 MiB";
        assert_eq!(found.to_string(), expected);
        let none = MinRam { memory: None, budget: 0, ..found };
        assert!(none.to_string().ends_with("with the RAM that the search begins with; the recipe has no [budget] ram"));
    }
}
