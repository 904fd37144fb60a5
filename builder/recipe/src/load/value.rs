//! TOML values that know where they are written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};
use toml_parser::lexer::TokenKind;

use crate::diagnostics::{Diagnostic, SourceFile};

/// Deeper nesting than any recipe has; parsing and dropping deeper values could exhaust the stack.
const MAX_DEPTH: usize = 64;

/// A place in one of the files that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// Index of the file.
    pub(crate) file: usize,
    /// Bytes of it.
    pub(crate) range: Range<usize>,
}

/// A value and where it is written.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The value.
    pub(crate) value: Value,
    /// Where it is written.
    pub(crate) at: Span,
    /// Where it came from, if it stands at `at` by way of a parameter.
    pub(crate) via: Option<Span>,
    /// What it is where text is wanted, though it is a number: `--set image.version=1.4` means a version.
    pub(crate) text: Option<String>,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    String(String),
    Integer {
        value: i64,
        radix: u32,
    },
    Float(f64),
    Boolean(bool),
    Datetime(toml::value::Datetime),
    Array(Vec<Node>),
    Table(Table),
    /// Nothing: what stood here is reported already.
    Bad,
}

/// A table, by key.
pub(crate) type Table = BTreeMap<String, Entry>;

/// A value in a table.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Where its key is written.
    pub(crate) key: Span,
    /// The value.
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn new(value: Value, at: Span) -> Self {
        Self { value, at, via: None, text: None }
    }

    /// What kind of value it is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::String(_) => "a string",
            Value::Integer { .. } => "an integer",
            Value::Float(_) => "a float",
            Value::Boolean(_) => "a boolean",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
            Value::Bad => "nothing",
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it is a list with nothing but tables in it; an empty list is one.
    pub(crate) fn is_list_of_tables(&self) -> bool {
        matches!(&self.value, Value::Array(items) if items.iter().all(|i| matches!(i.value, Value::Table(_))))
    }

    /// The value without its places.
    pub(crate) fn to_toml(&self) -> toml::Value {
        match &self.value {
            Value::String(text) => toml::Value::String(text.clone()),
            Value::Integer { value, .. } => toml::Value::Integer(*value),
            Value::Float(value) => toml::Value::Float(*value),
            Value::Boolean(value) => toml::Value::Boolean(*value),
            Value::Datetime(value) => toml::Value::Datetime(*value),
            Value::Array(items) => toml::Value::Array(items.iter().map(Self::to_toml).collect()),
            Value::Table(table) => {
                toml::Value::Table(table.iter().map(|(key, entry)| (key.clone(), entry.node.to_toml())).collect())
            }
            Value::Bad => toml::Value::String(String::new()),
        }
    }
}

/// Why a text is no TOML: what, and where.
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    pub(crate) range: Range<usize>,
}

impl SyntaxError {
    pub(crate) fn diagnostic(self, file: &Arc<SourceFile>) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(format!("not TOML: {}", self.message));
        diagnostic.location = Some(crate::diagnostics::Location::new(file, self.range));
        diagnostic
    }
}

/// Reads a document as far as it is TOML: a table, and all errors of syntax.
pub(crate) fn document(text: &str, file: usize) -> (Node, Vec<SyntaxError>) {
    let whole = Span { file, range: 0..0 };
    if let Err(error) = check_depth(text) {
        return (Node::new(Value::Table(Table::new()), whole), vec![error]);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut errors: Vec<_> = errors
        .into_iter()
        .map(|e| SyntaxError { message: e.message().to_owned(), range: e.span().unwrap_or(text.len()..text.len()) })
        .collect();
    let table = convert_table(table.into_inner(), &Place { file, shift: 0 }, &mut errors);
    (Node::new(Value::Table(table), whole), errors)
}

/// Reads a single value that stands at byte `shift` of the file; `None` where it is no TOML.
pub(crate) fn single(text: &str, file: usize, shift: usize) -> Option<Node> {
    check_depth(text).ok()?;
    let parsed = DeValue::parse(text).ok()?;
    let mut errors = Vec::new();
    let node = convert(parsed, &Place { file, shift }, &mut errors);
    errors.is_empty().then_some(node)
}

/// Brackets and dots of keys nest; both are counted without parsing, so that no text can exhaust the stack.
fn check_depth(text: &str) -> Result<(), SyntaxError> {
    let mut open: Vec<usize> = Vec::new();
    let (mut outer, mut dots) = (0_usize, 0_usize);
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            TokenKind::LeftCurlyBracket | TokenKind::LeftSquareBracket => {
                open.push(dots + 1);
                outer += dots + 1;
                dots = 0;
            }
            TokenKind::RightCurlyBracket | TokenKind::RightSquareBracket => {
                outer -= open.pop().unwrap_or(0);
                dots = 0;
            }
            TokenKind::Dot => dots += 1,
            TokenKind::Comma | TokenKind::Newline => dots = 0,
            _ => {}
        }
        if outer + dots > MAX_DEPTH {
            let span = token.span();
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(SyntaxError { message, range: span.start()..span.end() });
        }
    }
    Ok(())
}

struct Place {
    file: usize,
    shift: usize,
}

impl Place {
    fn span(&self, range: Range<usize>) -> Span {
        Span { file: self.file, range: range.start + self.shift..range.end + self.shift }
    }
}

fn convert_table(table: DeTable<'_>, place: &Place, errors: &mut Vec<SyntaxError>) -> Table {
    let entries = table.into_iter().map(|(key, node)| {
        let at = place.span(key.span());
        let entry = Entry { key: at, node: convert(node, place, errors) };
        (key.into_inner().into_owned(), entry)
    });
    entries.collect()
}

fn convert(value: serde_spanned::Spanned<DeValue<'_>>, place: &Place, errors: &mut Vec<SyntaxError>) -> Node {
    let range = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => {
            let radix = number.radix();
            let value = i64::from_str_radix(number.as_str(), radix).unwrap_or_else(|_| {
                let message = format!("the number {number} is too large");
                errors.push(SyntaxError { message, range: range.clone() });
                0
            });
            Value::Integer { value, radix }
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(value) => Value::Datetime(value),
        DeValue::Array(items) => Value::Array(items.into_iter().map(|item| convert(item, place, errors)).collect()),
        DeValue::Table(table) => Value::Table(convert_table(table, place, errors)),
    };
    Node::new(value, place.span(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_nesting_is_an_error_wherever_it_comes_from() {
        let dotted = vec!["a"; 5000].join(".");
        let mixed = format!("{}=1{}", vec!["{a.a.a.a.a"; 20].join("="), "}".repeat(20));
        for text in [
            format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
            format!("x = {}", "[".repeat(100_000)),
            format!("x = {}", "{a=".repeat(100_000)),
            format!("{dotted} = 1"),
            format!("[{dotted}]"),
            format!("x = {mixed}"),
        ] {
            let (_, errors) = document(&text, 0);
            assert!(errors.iter().any(|e| e.message.contains("nested deeper than 64 levels")), "{}", &text[..20]);
        }
        let (_, errors) = document("x = [[[[{a.b.c = [1, 2.5]}]]]] # [[[\ny = '''[[[{{{'''", 0);
        assert!(errors.is_empty());
    }

    #[test]
    fn numbers_that_fit_nothing() {
        let (_, errors) = document("a = 99999999999999999999\nb = 0xffffffffffffffffff", 0);
        let ranges: Vec<_> = errors.iter().map(|e| (e.range.clone(), e.message.as_str())).collect();
        assert_eq!(ranges.len(), 2, "{ranges:?}");
        assert!(ranges.iter().all(|(_, m)| m.contains("too large")), "{ranges:?}");
    }
}
