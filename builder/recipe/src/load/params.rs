//! Parameters: `${name}` in strings.

use std::collections::{BTreeMap, BTreeSet};

use super::nearest::nearest;
use super::value::{Node, Span, Table, Value};
use super::{Problems, key_text};
use crate::diagnostics::Diagnostic;

/// A string does not grow beyond this by parameters.
const MAX_TEXT: usize = 64 << 10;
/// All strings together do not grow beyond this.
const MAX_TOTAL: usize = 16 << 20;
/// Parameters in parameters go no deeper.
const MAX_DEPTH: usize = 32;

/// A piece of a string.
enum Piece<'a> {
    Text(&'a str),
    Param(&'a str),
}

/// Splits a string at its parameters; `Err` holds what is wrong.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut result = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, tail) = rest.split_at(start);
        if let Some(escaped) = before.strip_suffix('$') {
            result.extend([Piece::Text(escaped), Piece::Text("${")]);
            rest = tail.get(2..).unwrap_or("");
            continue;
        }
        let tail = tail.get(2..).unwrap_or("");
        let Some((name, after)) = tail.split_once('}') else {
            return Err("`${` without a closing `}`".to_owned());
        };
        if !is_name(name) {
            return Err(format!("`${{{}}}` is not a parameter's name", name.escape_debug()));
        }
        result.extend([Piece::Text(before), Piece::Param(name)]);
        rest = after;
    }
    result.push(Piece::Text(rest));
    result.retain(|piece| !matches!(piece, Piece::Text("")));
    Ok(result)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Makes a text out of one that would be read with parameters: the inverse of reading.
pub(crate) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

/// The parameters of a recipe, and which of them are used.
pub(crate) struct Params<'a> {
    problems: &'a mut Problems,
    raw: Table,
    done: BTreeMap<String, Option<Node>>,
    open: Vec<String>,
    used: BTreeSet<String>,
    total: usize,
}

/// Puts parameters into every string of `root`; its `params` table then holds their final values.
///
/// `set` are the parameters given on the command line: one that no recipe has or uses is a mistake.
pub(crate) fn substitute(root: &mut Table, set: &[(String, Span)], problems: &mut Problems) {
    let mut entry = root.remove("params");
    let raw = match entry.as_mut().map(|e| &mut e.node.value) {
        Some(Value::Table(table)) => std::mem::take(table),
        _ => Table::new(),
    };
    let from_files: Vec<String> =
        raw.iter().filter(|(_, e)| !set.iter().any(|(_, at)| *at == e.key)).map(|(k, _)| k.clone()).collect();
    let mut params = Params { problems, raw, done: BTreeMap::new(), open: Vec::new(), used: BTreeSet::new(), total: 0 };
    for entry in root.values_mut() {
        params.node(&mut entry.node, true);
    }
    let names: Vec<String> = params.raw.keys().cloned().collect();
    for name in &names {
        params.value(name);
    }
    for (name, at) in set {
        if !params.used.contains(name) && !from_files.contains(name) {
            let mut diagnostic = Diagnostic::new(format!("no recipe has or uses the parameter `{}`", key_text(name)));
            if let Some(near) = nearest(name, from_files.iter().map(String::as_str)) {
                diagnostic = diagnostic.help(format!("did you mean `params.{near}`?"));
            }
            params.problems.at(at, diagnostic);
        }
    }
    let (mut raw, mut done) = (params.raw, params.done);
    if let Some(mut entry) = entry {
        if let Value::Table(table) = &mut entry.node.value {
            for (name, mut param) in std::mem::take(&mut raw) {
                if let Some(Some(node)) = done.remove(&name) {
                    param.node = node;
                    table.insert(name, param);
                }
            }
        }
        root.insert("params".to_owned(), entry);
    }
}

impl Params<'_> {
    fn node(&mut self, node: &mut Node, typed: bool) {
        match &mut node.value {
            Value::Table(table) => table.values_mut().for_each(|entry| self.node(&mut entry.node, true)),
            Value::Array(items) => {
                for mut item in std::mem::take(items) {
                    if let Some(list) = self.list(&item) {
                        items.extend(list);
                    } else {
                        self.node(&mut item, false);
                        items.push(item);
                    }
                }
            }
            Value::String(text) if text.contains("${") => {
                let text = std::mem::take(text);
                let at = node.at.clone();
                // What has no value is reported here, and must not be reported again as something else.
                *node = self.text(&text, &at, typed).unwrap_or_else(|| Node::new(Value::Bad, at));
            }
            _ => {}
        }
    }

    /// The values that stand for the item of a list, if it is nothing but a parameter that is a list itself.
    fn list(&mut self, item: &Node) -> Option<Vec<Node>> {
        let pieces = pieces(item.as_str()?).ok()?;
        let [Piece::Param(name)] = pieces.as_slice() else { return None };
        match self.param(name, &item.at) {
            Some(Node { value: Value::Array(list), .. }) => Some(list),
            Some(_) => None,
            None => Some(vec![Node::new(Value::Bad, item.at.clone())]),
        }
    }

    /// The value of the string `text`, which stands at `at`; `typed` if a lone parameter keeps its type. `None` where it
    /// has none, which is reported.
    fn text(&mut self, text: &str, at: &Span, typed: bool) -> Option<Node> {
        let pieces = match pieces(text) {
            Ok(pieces) => pieces,
            Err(message) => {
                self.problems.at(at, Diagnostic::new(message).help("write `$${` for a plain `${`"));
                return None;
            }
        };
        if let ([Piece::Param(name)], true) = (pieces.as_slice(), typed) {
            let value = self.param(name, at)?;
            return Some(Node { at: at.clone(), ..value });
        }
        let mut result = Some(String::new());
        for piece in &pieces {
            let piece = match piece {
                Piece::Text(text) => Some((*text).to_owned()),
                Piece::Param(name) => self.param(name, at).and_then(|value| self.as_text(&value, name, at)),
            };
            // After a parameter without a value the others are still looked up, so that all are reported.
            result = result.zip(piece).map(|(result, piece)| result + &piece);
            if let Some(text) = &result {
                self.bound(text.len(), text.len(), at)?;
            }
        }
        Some(Node::new(Value::String(result?), at.clone()))
    }

    /// Takes `weight` bytes from what parameters may grow to together, for a string of `len` bytes.
    fn bound(&mut self, len: usize, weight: usize, at: &Span) -> Option<()> {
        if self.total > MAX_TOTAL {
            // Reported already.
            return None;
        }
        self.total = self.total.saturating_add(weight);
        if len <= MAX_TEXT && self.total <= MAX_TOTAL {
            return Some(());
        }
        let diagnostic = Diagnostic::new("parameters make this string too long");
        self.problems.at(at, diagnostic.help("is one of them doubled again and again?"));
        None
    }

    fn as_text(&mut self, value: &Node, name: &str, at: &Span) -> Option<String> {
        match (&value.value, &value.text) {
            (Value::String(text), _) | (_, Some(text)) => Some(text.clone()),
            (Value::Bad, _) => None,
            _ => {
                let message = format!("the parameter `{name}` is {}, which does not fit into a string", value.kind());
                let at = self.problems.narrow(at, &format!("${{{name}}}"));
                self.problems.at(
                    &at,
                    Diagnostic::new(message)
                        .help("a list stands for a whole value or for items of a list: `\"${name}\"` alone"),
                );
                None
            }
        }
    }

    /// The value of a parameter that is used at `at`.
    fn param(&mut self, name: &str, at: &Span) -> Option<Node> {
        self.used.insert(name.to_owned());
        if !self.raw.contains_key(name) {
            let mut diagnostic = Diagnostic::new(format!("unknown parameter `{name}`"));
            diagnostic = match nearest(name, self.raw.keys().map(String::as_str)) {
                Some(near) => diagnostic.label(format!("did you mean `${{{near}}}`?")),
                None => diagnostic,
            };
            let help = format!("give it a value in `[params]`, or write `$${{{name}}}` for a plain `${{{name}}}`");
            let at = self.problems.narrow(at, &format!("${{{name}}}"));
            self.problems.at(&at, diagnostic.help(help));
            return None;
        }
        if self.open.iter().any(|open| open == name) || self.open.len() >= MAX_DEPTH {
            let message = match self.open.iter().position(|open| open == name) {
                Some(start) => {
                    let circle: Vec<_> = self.open.iter().skip(start).map(String::as_str).collect();
                    format!("parameters go in a circle: {} -> {name}", circle.join(" -> "))
                }
                None => format!("parameters in parameters go deeper than {MAX_DEPTH} levels"),
            };
            self.problems.at(at, Diagnostic::new(message));
            return None;
        }
        self.value(name);
        let value = self.done.get(name)?.as_ref()?;
        let weight = match &value.value {
            Value::Array(items) => items.iter().map(|item| item.as_str().map_or(0, str::len) + 32).sum(),
            _ => 32,
        };
        self.bound(0, weight, at)?;
        self.done.get(name)?.clone()
    }

    /// Computes the value of a parameter, once.
    fn value(&mut self, name: &str) {
        if self.done.contains_key(name) {
            return;
        }
        let Some(mut node) = self.raw.get(name).map(|entry| entry.node.clone()) else { return };
        self.open.push(name.to_owned());
        let at = node.at.clone();
        let plain = |node: &Node| !matches!(node.value, Value::Array(_) | Value::Table(_));
        let fits = match &node.value {
            Value::Array(items) => items.iter().all(plain),
            _ => plain(&node),
        };
        if fits {
            self.node(&mut node, true);
            node.text = node.text.or_else(|| scalar_text(&node.value));
        } else {
            let message = format!("the parameter `{}` is {}", key_text(name), node.kind());
            let help = "a parameter is a string, a number, a boolean, a date, or a list of these";
            self.problems.at(&at, Diagnostic::new(message).help(help));
            node.value = Value::Bad;
        }
        node.via = Some(at);
        self.open.pop();
        self.done.insert(name.to_owned(), (!matches!(node.value, Value::Bad)).then_some(node));
    }
}

/// A number, boolean or date as it would stand in a string.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Integer { value, .. } => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Boolean(value) => Some(value.to_string()),
        Value::Datetime(value) => Some(value.to_string()),
        _ => None,
    }
}
