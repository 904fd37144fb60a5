//! Making types out of values, with every finding kept and none in the way of the next.

use std::path::PathBuf;
use std::str::FromStr;

use globset::GlobBuilder;

use super::nearest::nearest;
use super::value::{Node, Span, Table, Value};
use super::{Problems, key_text};
use crate::diagnostics::Diagnostic;
use crate::values::{ByteSize, Mode, Seconds, Size, ValueError};

/// Something that is made of a value. `None` where it cannot be, which is reported.
pub(crate) trait Decode: Sized {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self>;
}

/// Reports what is wrong with a value.
pub(crate) fn wrong(node: &Node, mut diagnostic: Diagnostic, problems: &mut Problems) {
    if matches!(node.value, Value::Bad) {
        return;
    }
    if let Some(via) = &node.via {
        diagnostic.related.extend(problems.related("the value comes from here", via));
    }
    problems.at(&node.at, diagnostic);
}

/// Reports that a value is of another kind than `expected`.
pub(crate) fn wrong_kind(node: &Node, expected: &str, problems: &mut Problems) {
    let diagnostic = Diagnostic::new(format!("expected {expected}, found {}", node.kind()));
    let diagnostic = match (expected, &node.value) {
        ("a string", Value::Integer { .. } | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_)) => {
            diagnostic.help("put it in quotes")
        }
        ("a list", Value::String(_)) => diagnostic.help("put it in brackets: `[…]`"),
        _ => diagnostic,
    };
    wrong(node, diagnostic, problems);
}

impl Decode for String {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match (&node.value, &node.text) {
            (Value::String(text), _) | (_, Some(text)) => {
                if text.contains('\0') {
                    wrong(node, Diagnostic::new("a string with a NUL character"), problems);
                    return None;
                }
                Some(text.clone())
            }
            _ => {
                wrong_kind(node, "a string", problems);
                None
            }
        }
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            wrong_kind(node, "a list", problems);
            return None;
        };
        let decoded: Vec<Option<T>> = items.iter().map(|item| T::decode(item, problems)).collect();
        decoded.into_iter().collect()
    }
}

/// Reads an integer between two bounds.
pub(crate) fn integer(node: &Node, min: i64, max: i64, problems: &mut Problems) -> Option<i64> {
    match node.value {
        Value::Integer { value, .. } if (min..=max).contains(&value) => Some(value),
        Value::Integer { value, .. } => {
            wrong(node, Diagnostic::new(format!("{value} is not between {min} and {max}")), problems);
            None
        }
        _ => {
            wrong_kind(node, "an integer", problems);
            None
        }
    }
}

impl Decode for u8 {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        integer(node, 0, 255, problems)?.try_into().ok()
    }
}

pub(crate) fn parsed<T: FromStr<Err = ValueError>>(node: &Node, text: &str, problems: &mut Problems) -> Option<T> {
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            wrong(node, Diagnostic::new(error.message).help(error.help), problems);
            None
        }
    }
}

/// A text, or a plain number that is read as text.
fn text_or_number<T: FromStr<Err = ValueError>>(node: &Node, problems: &mut Problems) -> Option<T> {
    match &node.value {
        Value::String(text) => parsed(node, text, problems),
        Value::Integer { value, .. } => parsed(node, &value.to_string(), problems),
        _ => {
            wrong_kind(node, "a string", problems);
            None
        }
    }
}

impl Decode for ByteSize {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        text_or_number(node, problems)
    }
}

impl Decode for Size {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        text_or_number(node, problems)
    }
}

impl Decode for Seconds {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        text_or_number(node, problems)
    }
}

impl Decode for Mode {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::String(text) => parsed(node, text, problems),
            Value::Integer { value, radix: 8 } => parsed(node, &format!("0o{value:o}"), problems),
            Value::Integer { value, .. } => {
                let message = format!("{value} is a decimal number; permission bits are octal");
                wrong(node, Diagnostic::new(message).help(format!("write 0o{value}")), problems);
                None
            }
            _ => {
                wrong_kind(node, "permission bits like 0o755", problems);
                None
            }
        }
    }
}

/// An absolute path in the image, without `.`, `..` and double or trailing slashes.
pub(crate) struct InnerPath(pub(crate) String);

impl Decode for InnerPath {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let text = String::decode(node, problems)?;
        let mut fail = |message: String, help: &str| {
            wrong(node, Diagnostic::new(message).help(help), problems);
            None
        };
        if !text.starts_with('/') {
            return fail(format!("{text:?} is not an absolute path"), "paths in the image start with `/`");
        }
        if text.split('/').any(|part| part == ".." || part == ".") {
            return fail(format!("{text:?} has a `.` or `..`"), "write the path as it is in the image");
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        Some(Self(format!("/{}", parts.join("/"))))
    }
}

/// A glob over absolute paths in the image.
pub(crate) struct InnerGlob(pub(crate) String);

impl Decode for InnerGlob {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let InnerPath(text) = InnerPath::decode(node, problems)?;
        match GlobBuilder::new(&text).literal_separator(true).backslash_escape(true).build() {
            Ok(_) => Some(Self(text)),
            Err(error) => {
                wrong(node, Diagnostic::new(format!("not a glob: {}", error.kind())), problems);
                None
            }
        }
    }
}

/// What a local path must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    File,
    Folder,
    Either,
}

/// The absolute path of a text relative to the file it stands in. What it names must be there; where it is not, that
/// is reported, and the path is returned all the same.
pub(crate) fn local_path(node: &Node, want: Want, problems: &mut Problems) -> Option<PathBuf> {
    let text = String::decode(node, problems)?;
    if text.is_empty() {
        wrong(node, Diagnostic::new("an empty path"), problems);
        return None;
    }
    let path = crate::paths::resolve(&problems.file(&node.at)?.dir, &text);
    check_there(node, &path, want, problems);
    Some(path)
}

/// Reports when `path`, which `node` names, is not there or not what is wanted.
pub(crate) fn check_there(node: &Node, path: &std::path::Path, want: Want, problems: &mut Problems) {
    let noun = match want {
        Want::File => "file",
        Want::Folder => "folder",
        Want::Either => "file or folder",
    };
    let diagnostic = match std::fs::metadata(path) {
        Ok(found) if want == Want::Either || found.is_dir() == (want == Want::Folder) => return,
        Ok(_) => Diagnostic::new(format!("{} is not a {noun}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Diagnostic::new(format!("there is no {noun} {}", path.display()))
                .help("relative paths start from the folder of the recipe they stand in")
                .missing_input()
        }
        Err(error) => Diagnostic::new(format!("cannot look at {}: {error}", path.display())).missing_input(),
    };
    wrong(node, diagnostic, problems);
}

/// One of the names of an enumeration.
pub(crate) fn choice<T: Copy>(node: &Node, names: &[(&str, T)], problems: &mut Problems) -> Option<T> {
    let text = String::decode(node, problems)?;
    if let Some((_, value)) = names.iter().find(|(name, _)| *name == text) {
        return Some(*value);
    }
    let known: Vec<_> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let mut diagnostic = Diagnostic::new(format!("{} is not one of {}", quoted(&text), known.join(", ")));
    if let Some(near) = nearest(&text, names.iter().map(|(name, _)| *name)) {
        diagnostic = diagnostic.label(format!("did you mean \"{near}\"?"));
    }
    wrong(node, diagnostic, problems);
    None
}

/// A text in quotes, shortened.
pub(crate) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(64).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}

/// A table whose keys are known.
pub(crate) struct Fields<'a> {
    table: &'a Table,
    at: &'a Span,
    what: &'static str,
    /// Known keys that an unknown one most likely means: they are not missing too.
    meant: Vec<String>,
}

impl<'a> Fields<'a> {
    /// Takes a value as a table that may have `keys`; others are reported. `what` is the table in messages: `[image]`.
    pub(crate) fn of(node: &'a Node, what: &'static str, keys: &[&str], problems: &mut Problems) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            if node.is_list_of_tables() {
                let diagnostic = Diagnostic::new(format!("expected a table, found {}", node.kind()));
                wrong(node, diagnostic.help(format!("there is one {what}, in single brackets")), problems);
            } else {
                wrong_kind(node, "a table", problems);
            }
            return None;
        };
        Some(Self::of_table(table, &node.at, what, keys, problems))
    }

    /// As [`Fields::of`], of a table itself.
    pub(crate) fn of_table(
        table: &'a Table,
        at: &'a Span,
        what: &'static str,
        keys: &[&str],
        problems: &mut Problems,
    ) -> Self {
        let mut meant = Vec::new();
        for (key, entry) in table {
            if keys.contains(&key.as_str()) {
                continue;
            }
            let mut diagnostic = Diagnostic::new(format!("unknown key `{}` in {what}", key_text(key)));
            let near = if problems.is_full() { None } else { nearest(key, keys.iter().copied()) };
            diagnostic = match near {
                Some(near) => {
                    meant.push(near.to_owned());
                    diagnostic.label(format!("did you mean `{near}`?"))
                }
                None => diagnostic.help(format!("the keys are {}", keys.join(", "))),
            };
            problems.at(&entry.key, diagnostic);
        }
        Self { table, at, what, meant }
    }

    /// The value of a key, as it is written.
    pub(crate) fn node(&self, key: &str) -> Option<&'a Node> {
        self.table.get(key).map(|entry| &entry.node)
    }

    /// Where a key is written.
    pub(crate) fn key(&self, key: &str) -> Option<&'a Span> {
        self.table.get(key).map(|entry| &entry.key)
    }

    /// Where the table stands.
    pub(crate) fn at(&self) -> &'a Span {
        self.at
    }

    /// The value of a key that may be absent.
    pub(crate) fn optional<T: Decode>(&self, key: &str, problems: &mut Problems) -> Option<T> {
        T::decode(self.node(key)?, problems)
    }

    /// The value of a key, or a default.
    pub(crate) fn or_default<T: Decode + Default>(&self, key: &str, problems: &mut Problems) -> T {
        self.optional(key, problems).unwrap_or_default()
    }

    /// The value of a key that must be there.
    pub(crate) fn required<T: Decode>(&self, key: &str, problems: &mut Problems) -> Option<T> {
        T::decode(self.required_node(key, problems)?, problems)
    }

    /// The value of a key that must be there, as it is written.
    pub(crate) fn required_node(&self, key: &str, problems: &mut Problems) -> Option<&'a Node> {
        let node = self.node(key);
        if node.is_none() && self.is_missing(key, problems) {
            problems.at(self.at, Diagnostic::new(format!("{} lacks `{key}`", self.what)));
        }
        node
    }

    /// Whether an absent key is a mistake of its own: not the consequence of another one.
    pub(crate) fn is_missing(&self, key: &str, problems: &Problems) -> bool {
        !problems.incomplete() && !self.meant.iter().any(|meant| meant == key)
    }

    /// Whether an unknown key most likely means a known one.
    pub(crate) fn is_guessed(&self) -> bool {
        !self.meant.is_empty()
    }

    /// Reports every one of `keys` that is there: it does not go with `other`.
    pub(crate) fn refuse(&self, keys: &[&str], other: &str, problems: &mut Problems) {
        for key in keys {
            if let Some(at) = self.key(key) {
                problems.at(at, Diagnostic::new(format!("`{key}` does not go with `{other}`")));
            }
        }
    }
}

/// The tables of a list of tables. `name` is the list's key.
pub(crate) fn tables<'a>(node: Option<&'a Node>, name: &str, problems: &mut Problems) -> &'a [Node] {
    match node.map(|node| (node, &node.value)) {
        Some((_, Value::Array(items))) => items,
        Some((node, Value::Table(_))) => {
            let diagnostic = Diagnostic::new(format!("`{name}` is a list of tables, not one table"));
            wrong(node, diagnostic.help(format!("write `[[{name}]]`, in double brackets")), problems);
            &[]
        }
        Some((node, _)) => {
            wrong_kind(node, "a list of tables", problems);
            &[]
        }
        None => &[],
    }
}

/// Makes `Decode` of an enumeration's names.
macro_rules! choices {
    ($type:ty { $($name:literal => $value:expr),+ $(,)? }) => {
        impl Decode for $type {
            fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
                choice(node, &[$(($name, $value)),+], problems)
            }
        }
    };
}
pub(crate) use choices;
