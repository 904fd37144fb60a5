//! Reading recipes: files and what they include, merged, parameters put in, checked.

mod decode;
mod layers;
pub(crate) mod merge;
mod nearest;
pub(crate) mod params;
mod recipe;
mod set;
mod tests;
mod value;

pub(crate) use recipe::RECIPE as TOP_LEVEL;
pub(crate) use value::document;

/// The keys that each table may have, by the name of its type in the schema, in the reference's order.
pub(crate) const TABLES: &[(&str, &[&str])] = &[
    ("Image", recipe::IMAGE),
    ("Layer", layers::LAYER),
    ("Copy", layers::COPY),
    ("DebianLayer", layers::DEBIAN),
    ("Repository", layers::REPOSITORY),
    ("Prune", recipe::PRUNE),
    ("PruneGroup", recipe::PRUNE_GROUP),
    ("Kernel", recipe::KERNEL),
    ("Root", recipe::ROOT),
    ("Compression", recipe::COMPRESSION),
    ("Overlay", recipe::OVERLAY),
    ("Tmpfs", recipe::TMPFS),
    ("Hook", recipe::HOOK),
    ("Budget", recipe::BUDGET),
    ("Test", tests::TEST),
    ("Lint", recipe::LINT),
    ("Allow", recipe::ALLOW),
];

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::set::Setting;
use self::value::{Node, Span, Table, Value};
use crate::diagnostics::{Diagnostic, Diagnostics, Location, SourceFile};
use crate::{Recipe, Test, paths};

/// A recipe is prose for people; what is larger is something else.
const MAX_FILE: u64 = 1 << 20;
/// Files that include files that include files.
const MAX_INCLUDES: usize = 32;
/// More findings than this are only counted.
const MAX_FINDINGS: usize = 200;

/// Reads the recipe that `inputs` make together: files, each merged over those before it; `-` is standard input.
///
/// `sets` are `dotted.key=value`, which win over all files: the value is TOML if it parses as such, else a string.
///
/// # Errors
/// With everything that is wrong, at once.
pub fn load<P: AsRef<Path>, S: AsRef<str>>(inputs: &[P], sets: &[S]) -> Result<Recipe, Diagnostics> {
    load_with(inputs, sets, &mut io::stdin())
}

/// As [`load`], with something else for standard input.
///
/// # Errors
/// With everything that is wrong, at once.
pub fn load_with<P: AsRef<Path>, S: AsRef<str>>(
    inputs: &[P],
    sets: &[S],
    stdin: &mut dyn Read,
) -> Result<Recipe, Diagnostics> {
    let (mut merged, mut problems, dir) = merged(inputs, stdin);
    if inputs.is_empty() {
        problems.nowhere(Diagnostic::new("no recipe is given").help("name a file, or `-` for standard input"));
    }
    let files: Vec<PathBuf> = problems.files.iter().map(|f| PathBuf::from(&f.label)).collect();
    let settings: Vec<Setting> = sets.iter().filter_map(|text| setting(text.as_ref(), &mut problems)).collect();
    let given: Vec<(String, Span)> = settings.iter().filter_map(Setting::param).collect();
    for setting in settings {
        setting.apply(&mut merged, &mut problems);
    }
    params::substitute(&mut merged, &given, &mut problems);
    let recipe = recipe::decode(&merged, &mut problems);
    match (recipe, problems.finish()) {
        (Some(recipe), None) => Ok(Recipe { dir: dir.unwrap_or_default(), files, ..recipe }),
        (_, Some(diagnostics)) => Err(diagnostics),
        // Nothing is left out without a finding; should that be wrong, this is better than a panic.
        (None, None) => Err(Diagnostics::from(Diagnostic::new("the recipe cannot be read"))),
    }
}

/// Reads the tests of files that have nothing else: what a site asserts of an image that somebody else builds. The files
/// merge as recipes do; `-` is standard input.
///
/// # Errors
/// With everything that is wrong, at once.
pub fn load_tests<P: AsRef<Path>>(inputs: &[P]) -> Result<Vec<Test>, Diagnostics> {
    let (mut merged, mut problems, _) = merged(inputs, &mut io::stdin());
    params::substitute(&mut merged, &[], &mut problems);
    let tests = recipe::decode_tests(&merged, &mut problems);
    problems.finish().map_or(Ok(tests), Err)
}

/// All files and what they include as one table, what is wrong with them so far, and the folder of the first.
fn merged<P: AsRef<Path>>(inputs: &[P], stdin: &mut dyn Read) -> (Table, Problems, Option<PathBuf>) {
    let mut loader = Loader { problems: Problems::default(), stdin, dir: None, seen: Vec::new(), open: Vec::new() };
    let mut merged = Table::new();
    for input in inputs {
        loader.input(input.as_ref(), &mut merged);
    }
    (merged, loader.problems, loader.dir)
}

fn setting(text: &str, problems: &mut Problems) -> Option<Setting> {
    let dir = std::env::current_dir().and_then(fs_err::canonicalize).unwrap_or_else(|_| PathBuf::from("/"));
    let label = "--set".to_owned();
    let file = problems.add(SourceFile::new(label.clone(), label, dir, text.to_owned()));
    Setting::read(text, file, problems)
}

/// A key as it stands in TOML: plain where it can be, else in quotes; shortened.
pub(crate) fn key_text(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let short: String = key.chars().take(64).collect();
    let dots = if short.len() < key.len() { "…" } else { "" };
    if plain { format!("{short}{dots}") } else { format!("{short:?}{dots}") }
}

/// The files that are read, and what is wrong with them.
#[derive(Default)]
pub(crate) struct Problems {
    files: Vec<Arc<SourceFile>>,
    /// With the file and byte they are sorted by.
    list: Vec<(usize, usize, Diagnostic)>,
    more: usize,
    /// Lines with errors of syntax: what else is found there follows from them.
    broken: Vec<(usize, usize)>,
}

impl Problems {
    fn add(&mut self, file: SourceFile) -> usize {
        self.files.push(Arc::new(file));
        self.files.len() - 1
    }

    pub(crate) fn file(&self, at: &Span) -> Option<&Arc<SourceFile>> {
        self.files.get(at.file)
    }

    /// Whether something could not be read, so that what seems to be missing may be there.
    pub(crate) fn incomplete(&self) -> bool {
        !self.broken.is_empty()
    }

    /// Records what is wrong at a place.
    pub(crate) fn at(&mut self, at: &Span, mut diagnostic: Diagnostic) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        if let Some(file) = self.files.get(at.file) {
            let location = Location::new(file, at.range.clone());
            if self.broken.contains(&(at.file, location.line())) {
                return;
            }
            diagnostic.location = Some(location);
        }
        self.list.push((at.file, at.range.start, diagnostic));
    }

    /// A place that matters to a finding at another place.
    pub(crate) fn related(&self, label: &str, at: &Span) -> Option<(String, Location)> {
        self.files.get(at.file).map(|file| (label.to_owned(), Location::new(file, at.range.clone())))
    }

    /// Whether further findings are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= MAX_FINDINGS
    }

    /// Records what is wrong with the recipe as a whole.
    pub(crate) fn whole(&mut self, diagnostic: Diagnostic) {
        self.list.push((usize::MAX, 0, diagnostic));
    }

    /// Records why a file cannot be read, which the user named.
    fn nowhere(&mut self, diagnostic: Diagnostic) {
        self.list.push((0, 0, diagnostic));
        self.broken.push((usize::MAX, 0));
    }

    /// Where `needle` stands in the text at `at`, if it stands there as it is; else `at`.
    pub(crate) fn narrow(&self, at: &Span, needle: &str) -> Span {
        let text = self.files.get(at.file).and_then(|file| file.text.get(at.range.clone()));
        match text.and_then(|text| text.find(needle)) {
            Some(offset) => {
                let start = at.range.start + offset;
                Span { file: at.file, range: start..start + needle.len() }
            }
            None => at.clone(),
        }
    }

    fn syntax(&mut self, file: usize, errors: Vec<value::SyntaxError>) {
        let Some(source) = self.files.get(file).cloned() else { return };
        for error in errors.into_iter().take(MAX_FINDINGS) {
            let (line, _) = source.line_and_column(error.range.start);
            // The first error of a line is the one that was made.
            if !self.broken.contains(&(file, line)) {
                self.broken.push((file, line));
                let start = error.range.start;
                self.list.push((file, start, error.diagnostic(&source)));
            }
        }
    }

    fn finish(mut self) -> Option<Diagnostics> {
        self.list.sort_by_key(|(file, start, _)| (*file, *start));
        let mut list: Vec<Diagnostic> = self.list.into_iter().map(|(_, _, d)| d).collect();
        if self.more > 0 {
            list.push(Diagnostic::new(format!("{} more errors are not listed", self.more)));
        }
        Diagnostics::of(list)
    }
}

struct Loader<'a> {
    problems: Problems,
    stdin: &'a mut dyn Read,
    /// The folder of the first file.
    dir: Option<PathBuf>,
    /// Files read already, without symbolic links.
    seen: Vec<PathBuf>,
    /// Files whose includes are being read, with their names.
    open: Vec<(PathBuf, String)>,
}

impl Loader<'_> {
    fn input(&mut self, path: &Path, merged: &mut Table) {
        if path.as_os_str() == "-" {
            let dir = std::env::current_dir().and_then(fs_err::canonicalize).unwrap_or_else(|_| PathBuf::from("/"));
            let label = "<stdin>".to_owned();
            let mut bytes = Vec::new();
            let read = (&mut *self.stdin).take(MAX_FILE + 1).read_to_end(&mut bytes);
            match read.map_err(|e| e.to_string()).and_then(|_| text_of(bytes)) {
                Ok(text) => self.text(SourceFile::new(label.clone(), label, dir, text), None, merged),
                Err(reason) => {
                    self.problems
                        .nowhere(Diagnostic::new(format!("cannot read the recipe on standard input: {reason}")));
                }
            }
        } else {
            self.file(path, None, merged);
        }
    }

    /// Reads a file that `from` includes, or the user names.
    fn file(&mut self, path: &Path, from: Option<&Span>, merged: &mut Table) {
        let label = path.display().to_string();
        let read = open(path);
        let (real, text) = match read {
            Ok(read) => read,
            Err(reason) => {
                self.unreadable(from, Diagnostic::new(format!("cannot read the recipe {label}: {reason}")));
                return;
            }
        };
        if let Some(start) = self.open.iter().position(|(open, _)| *open == real) {
            let circle: Vec<_> = self.open.iter().skip(start).map(|(_, name)| name.as_str()).collect();
            let message = format!("recipes include each other in a circle: {} -> {label}", circle.join(" -> "));
            self.unreadable(from, Diagnostic::new(message));
            return;
        }
        if self.seen.contains(&real) {
            return;
        }
        if self.open.len() >= MAX_INCLUDES {
            let message = format!("recipes include each other deeper than {MAX_INCLUDES} levels");
            self.unreadable(from, Diagnostic::new(message));
            return;
        }
        self.seen.push(real.clone());
        let dir = real.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
        let origin = paths::relative(self.dir.as_ref().unwrap_or(&dir), &real);
        self.open.push((real, label.clone()));
        self.text(SourceFile::new(label, origin, dir, text), Some(path), merged);
        self.open.pop();
    }

    fn unreadable(&mut self, from: Option<&Span>, diagnostic: Diagnostic) {
        match from {
            Some(at) => {
                self.problems.at(at, diagnostic);
                self.problems.broken.push((usize::MAX, 0));
            }
            None => self.problems.nowhere(diagnostic),
        }
    }

    fn text(&mut self, source: SourceFile, path: Option<&Path>, merged: &mut Table) {
        self.dir.get_or_insert_with(|| source.dir.clone());
        let base = path.and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        let text = source.text.clone();
        let file = self.problems.add(source);
        let (node, errors) = value::document(&text, file);
        self.problems.syntax(file, errors);
        let Value::Table(mut table) = node.value else { return };
        if let Some(include) = table.remove("include") {
            self.includes(&include.node, &base, merged);
        }
        merge::merge_tables(merged, table);
    }

    fn includes(&mut self, include: &Node, base: &Path, merged: &mut Table) {
        let Value::Array(items) = &include.value else {
            let message = format!("`include` is a list of files, not {}", include.kind());
            self.problems.at(&include.at, Diagnostic::new(message).help("write `include = [\"base.toml\"]`"));
            return;
        };
        for item in items {
            match item.as_str() {
                Some(name) if name.contains("${") => {
                    let message = "`include` takes no parameters: they are known only when all files are read";
                    self.problems.at(&item.at, Diagnostic::new(message));
                }
                Some("") => self.problems.at(&item.at, Diagnostic::new("an empty file name")),
                None => {
                    let message = format!("`include` lists files, not {}", item.kind());
                    self.problems.at(&item.at, Diagnostic::new(message));
                }
                Some(name) => self.file(&base.join(name), Some(&item.at), merged),
            }
        }
    }
}

fn open(path: &Path) -> Result<(PathBuf, String), String> {
    let reason = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => e.to_string(),
    };
    let real = std::fs::canonicalize(path).map_err(reason)?;
    if real.is_dir() {
        return Err("it is a folder".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(&real).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(reason)?;
    Ok((real, text_of(bytes)?))
}

fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("it is larger than {} KiB, too large for a recipe", MAX_FILE >> 10));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        let line = bytes.iter().take(valid).filter(|&&b| b == b'\n').count() + 1;
        let byte = bytes.get(valid).copied().unwrap_or_default();
        format!("line {line} is not UTF-8 text: it has a byte 0x{byte:02x}")
    })
}
