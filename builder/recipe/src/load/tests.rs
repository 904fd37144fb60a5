//! `[[test]]`: what `imgbuild test` asserts.

use std::net::IpAddr;

use super::Problems;
use super::decode::{Decode, Fields, InnerPath, choice, choices, integer, parsed, quoted, wrong};
use super::layers::{place, sha256};
use super::nearest::nearest;
use super::value::{Node, Value};
use crate::check::{KIND_KEYS, Pattern, Protocol, Test};
use crate::diagnostics::Diagnostic;

/// In the reference's order: kinds, each with what goes with it.
pub(crate) const TEST: &[&str] = &[
    "name",
    "unit",
    "state",
    "mount",
    "fstype",
    "options",
    "size",
    "file",
    "exists",
    "mode",
    "owner",
    "sha256",
    "port",
    "protocol",
    "address",
    "listening",
    "process",
    "user",
    "running",
    "module",
    "loaded",
    "sysctl",
    "value",
    "journal",
    "lacks",
    "hook",
    "ram",
    "time",
    "at_most",
    "run",
    "exit",
    "stdout",
    "stderr",
    "stderr_matches",
    "contains",
    "matches",
    "timeout",
];
/// They go with every kind.
const COMMON: [&str; 2] = ["name", "timeout"];
/// What units' names end in (systemd.unit(5)).
const UNIT_TYPES: [&str; 11] =
    ["automount", "device", "mount", "path", "scope", "service", "slice", "socket", "swap", "target", "timer"];
/// What `time` knows besides units.
const REACHED: [&str; 2] = ["init", "switch_root"];

choices!(Protocol { "tcp" => Protocol::Tcp, "udp" => Protocol::Udp });

/// Reads a test. `hooks` are the names of the recipe's hooks; none are known to a file of nothing but tests.
pub(crate) fn test(node: &Node, hooks: Option<&[String]>, problems: &mut Problems) -> Option<Test> {
    let fields = Fields::of(node, "[[test]]", TEST, problems)?;
    let kind = kind(&fields, problems)?;
    let goes = KIND_KEYS.iter().find(|(key, _)| *key == kind).map_or(&[][..], |(_, goes)| goes);
    let is_strange = |key: &&str| *key != kind && !goes.contains(key) && !COMMON.contains(key);
    let strangers: Vec<&str> = TEST.iter().copied().filter(is_strange).collect();
    fields.refuse(&strangers, kind, problems);
    let filled = |key: &str, problems: &mut Problems| filled(fields.node(key)?, problems);
    let inner = |key: &str, problems: &mut Problems| InnerPath::decode(fields.node(key)?, problems).map(|path| path.0);
    let test = Test {
        name: fields.optional("name", problems),
        unit: filled("unit", problems),
        state: filled("state", problems),
        mount: inner("mount", problems),
        fstype: filled("fstype", problems),
        options: fields.or_default("options", problems),
        size: fields.optional("size", problems),
        file: inner("file", problems),
        exists: fields.optional("exists", problems),
        mode: fields.optional("mode", problems),
        owner: fields.node("owner").and_then(|node| owner(node, problems)),
        sha256: fields.node("sha256").and_then(|node| sha256(node, problems)),
        port: fields.node("port").and_then(|node| port(node, problems)),
        protocol: fields.optional("protocol", problems),
        address: fields.optional("address", problems),
        listening: fields.optional("listening", problems),
        process: fields.node("process").and_then(|node| process(node, problems)),
        user: filled("user", problems),
        running: fields.optional("running", problems),
        module: fields.node("module").and_then(|node| word(node, "a module's name", problems)),
        loaded: fields.optional("loaded", problems),
        sysctl: fields.node("sysctl").and_then(|node| word(node, "a sysctl's name", problems)),
        value: fields.node("value").and_then(|node| value(node, problems)),
        journal: fields.node("journal").and_then(|node| journal(node, problems)),
        lacks: filled("lacks", problems),
        hook: fields.node("hook").and_then(|node| hook(node, hooks, problems)),
        ram: fields.optional("ram", problems),
        time: fields.node("time").and_then(|node| time(node, problems)),
        at_most: fields.optional("at_most", problems),
        run: filled("run", problems),
        exit: fields.optional("exit", problems),
        stdout: fields.optional("stdout", problems),
        stderr: fields.optional("stderr", problems),
        stderr_matches: fields.optional("stderr_matches", problems),
        contains: filled("contains", problems),
        matches: fields.optional("matches", problems),
        timeout: fields.optional("timeout", problems),
        place: place(&node.at, problems).0,
    };
    // A key that is needed, and one that makes no sense beside a value.
    match kind {
        "sysctl" => drop(fields.required_node("value", problems)),
        "time" => drop(fields.required_node("at_most", problems)),
        "journal" => {
            let wanted = ["contains", "matches", "lacks"];
            if wanted.iter().all(|key| fields.node(key).is_none() && fields.is_missing(key, problems)) {
                let diagnostic = Diagnostic::new("[[test]] does not say what the journal has");
                problems.at(fields.at(), diagnostic.help("give it `contains`, `matches` or `lacks`"));
            }
        }
        "file" if test.exists == Some(false) => {
            fields.refuse(&["mode", "owner", "contains", "matches", "sha256"], "exists = false", problems);
        }
        _ => {}
    }
    Some(test)
}

/// The one key that says what is checked.
fn kind(fields: &Fields<'_>, problems: &mut Problems) -> Option<&'static str> {
    let given: Vec<_> = KIND_KEYS.into_iter().map(|(key, _)| key).filter(|key| fields.key(key).is_some()).collect();
    match given.as_slice() {
        [kind] => Some(kind),
        [] => {
            if !problems.incomplete() && !fields.is_guessed() {
                let kinds = KIND_KEYS.map(|(key, _)| key).join(", ");
                let diagnostic = Diagnostic::new("[[test]] does not say what it checks");
                problems.at(fields.at(), diagnostic.help(format!("give it one of {kinds}")));
            }
            None
        }
        [first, rest @ ..] => {
            for key in rest {
                if let Some(at) = fields.key(key) {
                    let message = format!("[[test]] has both `{first}` and `{key}`");
                    problems.at(at, Diagnostic::new(message).help("make two tests of it"));
                }
            }
            None
        }
    }
}

/// A string that says something.
pub(crate) fn filled(node: &Node, problems: &mut Problems) -> Option<String> {
    let text = String::decode(node, problems)?;
    if text.trim().is_empty() {
        wrong(node, Diagnostic::new("an empty string"), problems);
        return None;
    }
    Some(text)
}

/// A name without blanks.
fn word(node: &Node, what: &str, problems: &mut Problems) -> Option<String> {
    let text = filled(node, problems)?;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) || text.starts_with('/') {
        wrong(node, Diagnostic::new(format!("{} is not {what}", quoted(&text))), problems);
        return None;
    }
    Some(text)
}

fn port(node: &Node, problems: &mut Problems) -> Option<u16> {
    integer(node, 1, u16::MAX.into(), problems)?.try_into().ok()
}

/// `USER` or `USER:GROUP`.
fn owner(node: &Node, problems: &mut Problems) -> Option<String> {
    let text = filled(node, problems)?;
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 2 || parts.iter().any(|part| part.is_empty() || part.contains(char::is_whitespace)) {
        let diagnostic = Diagnostic::new(format!("{} is not an owner", quoted(&text)));
        wrong(node, diagnostic.help("write USER or USER:GROUP, by name or number: \"root:adm\", \"0:4\""), problems);
        return None;
    }
    Some(text)
}

/// Processes are known by names, not by paths or command lines.
fn process(node: &Node, problems: &mut Problems) -> Option<String> {
    let text = filled(node, problems)?;
    if text.contains('/') {
        let base = text.rsplit('/').next().unwrap_or_default();
        let diagnostic = Diagnostic::new(format!("{} is not a process's name", quoted(&text)));
        wrong(node, diagnostic.help(format!("write the program's name alone: {}", quoted(base))), problems);
        return None;
    }
    Some(text)
}

/// Most values of sysctls are numbers.
fn value(node: &Node, problems: &mut Problems) -> Option<String> {
    match node.value {
        Value::Integer { value, .. } => Some(value.to_string()),
        _ => filled(node, problems),
    }
}

fn is_unit(text: &str) -> bool {
    text.rsplit_once('.').is_some_and(|(name, kind)| !name.is_empty() && UNIT_TYPES.contains(&kind))
}

/// A word, or a unit.
fn word_or_unit(node: &Node, words: &[&str], what: &str, problems: &mut Problems) -> Option<String> {
    let text = filled(node, problems)?;
    if words.contains(&text.as_str()) || is_unit(&text) {
        return Some(text);
    }
    let list = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let mut diagnostic = Diagnostic::new(format!("{} is not {what}", quoted(&text)));
    if let Some(near) = nearest(&text, words.iter().copied()) {
        diagnostic = diagnostic.label(format!("did you mean \"{near}\"?"));
    }
    wrong(node, diagnostic.help(format!("write {list}, or a unit like \"containerd.service\"")), problems);
    None
}

fn journal(node: &Node, problems: &mut Problems) -> Option<String> {
    word_or_unit(node, &["system", "kernel"], "anybody's journal", problems)
}

fn time(node: &Node, problems: &mut Problems) -> Option<String> {
    word_or_unit(node, &REACHED, "anything that a boot reaches", problems)
}

fn hook(node: &Node, hooks: Option<&[String]>, problems: &mut Problems) -> Option<String> {
    let text = filled(node, problems)?;
    let Some(hooks) = hooks else { return Some(text) };
    if hooks.contains(&text) {
        return Some(text);
    }
    let mut diagnostic = Diagnostic::new(format!("no hook of this recipe is called {}", quoted(&text)));
    diagnostic = match nearest(&text, hooks.iter().map(String::as_str)) {
        Some(near) => diagnostic.label(format!("did you mean {}?", quoted(near))),
        None if hooks.is_empty() => diagnostic.help("it has no [[hook]]"),
        None => diagnostic.help(format!("its hooks are {}", hooks.join(", "))),
    };
    wrong(node, diagnostic, problems);
    None
}

impl Decode for bool {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        if let Value::Boolean(value) = node.value {
            return Some(value);
        }
        super::decode::wrong_kind(node, "true or false", problems);
        None
    }
}

impl Decode for IpAddr {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let text = String::decode(node, problems)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let diagnostic = Diagnostic::new(format!("{} is not an IP address", quoted(&text)));
            wrong(node, diagnostic.help("write one like \"127.0.0.1\" or \"::1\""), problems);
        }
        parsed
    }
}

impl Decode for Pattern {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        parsed(node, &filled(node, problems)?, problems)
    }
}
