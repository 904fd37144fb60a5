//! `--set dotted.key=value`.

use super::merge::{identity, name_of};
use super::value::{self, Entry, Node, Span, Table, Value};
use super::{Problems, key_text};
use crate::diagnostics::Diagnostic;

const HELP: &str = "write `--set KEY=VALUE`, like `--set image.version=1.4.2`; the entries of a list are called by \
                    their names, like `--set layer.base.oci=…`";

/// One `--set`, read.
pub(crate) struct Setting {
    /// The key's parts, each with its place.
    path: Vec<(String, Span)>,
    value: Node,
}

impl Setting {
    /// The parameter that it sets, if it sets one.
    pub(crate) fn param(&self) -> Option<(String, Span)> {
        match self.path.as_slice() {
            [(first, _), (name, at)] if first == "params" => Some((name.clone(), at.clone())),
            _ => None,
        }
    }

    /// Reads `KEY=VALUE`, which is the whole text of the file `file`. The value is TOML if it parses as such, else a
    /// string. `None` where it is no setting, which is reported.
    pub(crate) fn read(text: &str, file: usize, problems: &mut Problems) -> Option<Self> {
        let whole = Span { file, range: 0..text.len() };
        let Some(equals) = find_equals(text) else {
            problems.at(&whole, Diagnostic::new("a setting without `=`").help(HELP));
            return None;
        };
        let (key, raw) = (text.get(..equals)?, text.get(equals + 1..)?);
        // TOML's own grammar of keys, quotes and all.
        let (mut node, errors) = value::document(&format!("{key}=0"), file);
        let mut path = Vec::new();
        let single = loop {
            let Value::Table(table) = std::mem::replace(&mut node.value, Value::Bad) else { break true };
            let mut entries = table.into_iter();
            let (Some((name, entry)), None) = (entries.next(), entries.next()) else { break false };
            path.push((name, entry.key));
            node = entry.node;
        };
        if !errors.is_empty() || !single {
            problems.at(&Span { file, range: 0..equals }, Diagnostic::new("not a key").help(HELP));
            return None;
        }
        let at = Span { file, range: equals + 1..text.len() };
        let mut value =
            value::single(raw, file, equals + 1).unwrap_or_else(|| Node::new(Value::String(raw.trim().to_owned()), at));
        if !matches!(value.value, Value::String(_) | Value::Array(_) | Value::Table(_)) {
            value.text = Some(raw.trim().to_owned());
        }
        Some(Self { path, value })
    }

    /// Puts the value where it belongs. Entries of a list of tables are called by their names: `layer.base.oci`.
    pub(crate) fn apply(self, root: &mut Table, problems: &mut Problems) {
        let mut table = root;
        let mut parts = self.path.into_iter().peekable();
        while let Some((key, at)) = parts.next() {
            if parts.peek().is_none() {
                table.insert(key, Entry { key: at, node: self.value });
                return;
            }
            let entry = table
                .entry(key.clone())
                .or_insert_with(|| Entry { key: at.clone(), node: Node::new(Value::Table(Table::new()), at.clone()) });
            let list = entry.node.is_list_of_tables();
            let kind = entry.node.kind();
            table = match &mut entry.node.value {
                Value::Table(inner) => inner,
                Value::Array(items) if list => {
                    let Some((name, name_at)) = parts.next() else { return };
                    let found = items.iter_mut().find(|item| name_of(item, &key) == Some(name.as_str()));
                    match found.map(|item| &mut item.value) {
                        Some(Value::Table(inner)) if parts.peek().is_some() => inner,
                        Some(_) => {
                            problems.at(&name_at, Diagnostic::new("a key of this entry is missing").help(HELP));
                            return;
                        }
                        None => {
                            let (list, by, name) = (key_text(&key), identity(&key), key_text(&name));
                            let message = format!("no entry of `{list}` has the {by} `{name}`");
                            problems.at(&name_at, Diagnostic::new(message).help(HELP));
                            return;
                        }
                    }
                }
                _ => {
                    problems.at(&at, Diagnostic::new(format!("`{}` is {kind} and has no keys", key_text(&key))));
                    return;
                }
            };
        }
    }
}

/// The first `=` outside of quotes.
fn find_equals(text: &str) -> Option<usize> {
    let mut quote = None;
    for (index, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'=') => return Some(index),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}
