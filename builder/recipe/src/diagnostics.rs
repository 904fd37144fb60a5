//! What is wrong with a recipe: every finding with its file, line and column, all at once.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// More findings than this are counted, not printed.
const SHOWN: usize = 50;

/// A text that a recipe is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceFile {
    /// Its name in messages: the path as the user gave it, `<stdin>`, `--set`.
    pub(crate) label: String,
    /// Its name as seen from the first recipe's folder.
    pub(crate) origin: String,
    /// The folder that paths in it start from; absolute, without symbolic links.
    pub(crate) dir: PathBuf,
    /// What it says.
    pub(crate) text: String,
    /// Where its lines start.
    lines: Vec<usize>,
}

impl SourceFile {
    pub(crate) fn new(label: String, origin: String, dir: PathBuf, text: String) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(index, _)| index + 1)).collect();
        Self { label: printable(&label), origin: printable(&origin), dir, text, lines }
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub(crate) fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|&start| start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        (line, column)
    }
}

/// A place in a recipe file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    file: Arc<SourceFile>,
    range: Range<usize>,
    line: usize,
    column: usize,
}

impl Location {
    pub(crate) fn new(file: &Arc<SourceFile>, range: Range<usize>) -> Self {
        let (line, column) = file.line_and_column(range.start);
        Self { file: Arc::clone(file), range, line, column }
    }

    /// The file as the user named it; `<stdin>` for standard input, `--set` for the command line.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file.label
    }

    /// The line, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in characters, from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }

    /// The place as an element of a message: its line, or its first one, with what is meant underlined. Only that line
    /// is handed over, so that a message costs no more in a large file than in a small one.
    fn element<'a>(&'a self, kind: AnnotationKind, label: Option<&'a str>) -> Element<'a> {
        let text = &self.file.text;
        let start = self.range.start.min(text.len());
        let line_start = text.get(..start).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
        let line_end = text.get(start..).and_then(|rest| rest.find(['\n', '\r'])).map_or(text.len(), |n| start + n);
        let line = text.get(line_start..line_end).unwrap_or_default();
        if line.is_empty() {
            return Origin::path(self.file.label.as_str()).line(self.line).char_column(self.column).into();
        }
        // ASCII's control characters are made visible in rendering; those above are not. Both these letters take two bytes.
        let line = line.replace(|c| ('\u{80}'..='\u{9f}').contains(&c), "·");
        let start = start - line_start;
        let end = self.range.end.saturating_sub(line_start).clamp(start, line.len());
        Snippet::source(line)
            .line_start(self.line)
            .path(self.file.label.as_str())
            .annotation(kind.span(start..end).label(label))
            .into()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.label, self.line, self.column)
    }
}

/// What a finding means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiagnosticKind {
    /// The recipe is wrong.
    Recipe,
    /// The recipe may be right, but a local file or folder that it names is not there.
    MissingInput,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What it means.
    pub kind: DiagnosticKind,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to say below the place.
    pub label: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// Where it is wrong.
    pub location: Option<Location>,
    /// Other places that matter, each with what it has to do with it.
    pub related: Vec<(String, Location)>,
}

/// A text whose control characters are written out: what stands in a recipe does not speak to the terminal.
fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

impl Diagnostic {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            kind: DiagnosticKind::Recipe,
            message: printable(&message.into()),
            label: None,
            help: None,
            location: None,
            related: Vec::new(),
        }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(printable(&label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into().split('\n').map(printable).collect::<Vec<_>>().join("\n"));
        self
    }

    pub(crate) fn missing_input(mut self) -> Self {
        self.kind = DiagnosticKind::MissingInput;
        self
    }

    /// The finding as text with the file's own line and a caret; with ANSI colours if `color`.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut group = Group::with_title(Level::ERROR.primary_title(self.message.as_str()));
        if let Some(at) = &self.location {
            group = group.element(at.element(AnnotationKind::Primary, self.label.as_deref()));
        }
        for (label, at) in &self.related {
            group = group.element(at.element(AnnotationKind::Context, Some(label)));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Diagnostic", 7)?;
        fields.serialize_field("kind", &self.kind)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("label", &self.label)?;
        fields.serialize_field("help", &self.help)?;
        fields.serialize_field("file", &self.location.as_ref().map(Location::file))?;
        fields.serialize_field("line", &self.location.as_ref().map(Location::line))?;
        fields.serialize_field("column", &self.location.as_ref().map(Location::column))?;
        fields.end()
    }
}

/// All that is wrong with a recipe: at least one finding, in the order of files and lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// `None` where nothing is wrong.
    pub(crate) fn of(list: Vec<Diagnostic>) -> Option<Self> {
        (!list.is_empty()).then_some(Self { list })
    }

    /// The findings.
    #[must_use]
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// Whether nothing but local inputs is missing: exit code 3 of the command, else 2.
    #[must_use]
    pub fn only_missing_inputs(&self) -> bool {
        self.list.iter().all(|d| d.kind == DiagnosticKind::MissingInput)
    }

    /// All findings as text with the files' own lines and carets; with ANSI colours if `color`.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let shown: Vec<_> = self.list.iter().take(SHOWN).map(|d| d.render(color)).collect();
        let mut text = shown.join("\n\n");
        if self.list.len() > SHOWN {
            text.push_str(&format!("\n\nand {} more errors", self.list.len() - SHOWN));
        }
        text
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { list: vec![diagnostic] }
    }
}
