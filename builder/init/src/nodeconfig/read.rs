//! From JSON to a configuration, or to everything that is wrong with it.

use serde_json::{Map, Value};

use super::schema::{FIELDS, OWN_PREFIX};
use super::{ConfigFile, NodeConfig};
use crate::{cmdline, identity};

/// Permission bits of a file for which nothing is said.
const DEFAULT_MODE: u32 = 0o644;
/// Where the kernel's own files are: writing there is not what a file in a root means.
const NO_PLACE: [&str; 3] = ["/proc", "/sys", "/dev"];
/// What decides how a hook's interpreter and its commands are found and run.
const RESERVED: [&str; 6] = ["PATH", "HOME", "LC_ALL", "IFS", "ENV", "BASH_ENV"];
const RESERVED_PREFIXES: [&str; 2] = ["NETBOOT_", "LD_"];
/// Characters of a string that an error shows.
const SHOWN: usize = 40;

/// A configuration with what is odd about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The configuration.
    pub config: NodeConfig,
    /// What is not known, and ignored.
    pub warnings: Vec<String>,
}

/// Reads a document.
///
/// # Errors
///
/// Everything that is wrong with it, each with its path and what was found there.
pub fn parse(document: &[u8]) -> Result<Parsed, Vec<String>> {
    let value: Value = serde_json::from_slice(document).map_err(|e| vec![format!("not JSON: {e}")])?;
    let mut reading = Reading::default();
    let mut config = NodeConfig::default();
    if let Some(root) = reading.object("the document", &value) {
        reading.known("", root);
        config.hostname = root.get("hostname").and_then(|value| reading.hostname(value));
        if let Some(variables) = root.get("variables").and_then(|value| reading.object("variables", value)) {
            for (name, value) in variables {
                if let Some(text) = reading.variable(name, value) {
                    config.variables.insert(name.clone(), text);
                }
            }
        }
        let files = root.get("files").and_then(|value| reading.list("files", value)).unwrap_or_default();
        for (index, value) in files.iter().enumerate() {
            let Some(file) = reading.file(index, value) else { continue };
            if let Some(other) = config.files.iter().position(|other| other.path == file.path) {
                reading.wrong(format!("files[{index}].path: {} is that of files[{other}] already", file.path));
            }
            config.files.push(file);
        }
    }
    if reading.problems.is_empty() { Ok(Parsed { config, warnings: reading.warnings }) } else { Err(reading.problems) }
}

#[derive(Default)]
struct Reading {
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Reading {
    fn wrong(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn expected<T>(&mut self, path: &str, what: &str, value: &Value) -> Option<T> {
        self.wrong(format!("{path}: expected {what}, found {}", found(value)));
        None
    }

    fn object<'a>(&mut self, path: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        value.as_object().or_else(|| self.expected(path, "an object", value))
    }

    fn list<'a>(&mut self, path: &str, value: &'a Value) -> Option<&'a [Value]> {
        value.as_array().map(Vec::as_slice).or_else(|| self.expected(path, "a list", value))
    }

    fn text<'a>(&mut self, path: &str, value: &'a Value) -> Option<&'a str> {
        value.as_str().or_else(|| self.expected(path, "a string", value))
    }

    /// Warns of keys that nobody reads. `prefix` is that of the fields' paths.
    fn known(&mut self, prefix: &str, object: &Map<String, Value>) {
        let names = || FIELDS.iter().filter_map(|field| field.path.strip_prefix(prefix));
        for key in object.keys().filter(|key| !key.starts_with(OWN_PREFIX)) {
            if names().any(|name| name == key) {
                continue;
            }
            let near = names().map(|name| (cmdline::distance(key, name), name)).min();
            let hint = near.filter(|(steps, _)| *steps <= 3).map(|(_, name)| format!(": did you mean `{name}`?"));
            let prefix = prefix.replace("[]", "");
            self.warnings.push(format!("{prefix}{key} is not known, ignored{}", hint.unwrap_or_default()));
        }
    }

    fn hostname(&mut self, value: &Value) -> Option<String> {
        let name = self.text("hostname", value)?;
        let of_all = name == "localhost" || name.starts_with("localhost.");
        if name.len() <= 253 && name.split('.').all(identity::is_hostname) && !of_all {
            return Some(name.to_owned());
        }
        self.expected("hostname", "a host name of letters, digits and `-` (RFC 1123)", value)
    }

    fn variable(&mut self, name: &str, value: &Value) -> Option<String> {
        let path = format!("variables.{name}");
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            self.wrong(format!("{path}: not the name of a variable: letters, digits and `_`, no digit first"));
            return None;
        }
        if RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            self.wrong(format!("{path}: reserved, it decides how hooks run; take another name"));
            return None;
        }
        match value {
            Value::String(text) if !text.contains('\0') => Some(text.clone()),
            Value::Bool(on) => Some(on.to_string()),
            Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            // 1.10 would become 1.1.
            _ => self.expected(&path, "a string (without NUL), a whole number or a boolean", value),
        }
    }

    fn file(&mut self, index: usize, value: &Value) -> Option<ConfigFile> {
        let at = format!("files[{index}]");
        let object = self.object(&at, value)?;
        self.known("files[].", object);
        let mut required = |name: &str| match object.get(name) {
            Some(value) => Some(value),
            None => {
                self.wrong(format!("{at}.{name}: missing"));
                None
            }
        };
        let (path, contents) = (required("path"), required("contents"));
        let path = path.and_then(|value| self.path(&format!("{at}.path"), value));
        let contents = contents.and_then(|value| self.text(&format!("{at}.contents"), value));
        let mode = match object.get("mode") {
            Some(value) => self.mode(&format!("{at}.mode"), value),
            None => Some(DEFAULT_MODE),
        };
        Some(ConfigFile { path: path?, mode: mode?, contents: contents?.to_owned() })
    }

    fn path(&mut self, at: &str, value: &Value) -> Option<String> {
        let text = self.text(at, value)?;
        let mut parts = text.split('/').skip(1).peekable();
        // The last part is the file's name, so that neither `/` nor `/etc/` is a path of one.
        let whole = parts.peek().is_some() && parts.all(|part| !matches!(part, "" | "." | ".."));
        if !text.starts_with('/') || !whole || text.contains('\0') {
            return self.expected(at, "the absolute path of a file, without `.`, `..` and empty parts", value);
        }
        let below =
            |folder: &&&str| text.strip_prefix(**folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(folder) = NO_PLACE.iter().find(below) {
            self.wrong(format!("{at}: {text} is in {folder}, which is the kernel's and no place for files"));
            return None;
        }
        Some(text.to_owned())
    }

    fn mode(&mut self, at: &str, value: &Value) -> Option<u32> {
        let text = value.as_str().unwrap_or_default();
        let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(mode) if digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()) => Some(mode),
            _ => self.expected(at, "a string of octal digits from \"0000\" to \"0777\"", value),
        }
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(on) => format!("the boolean {on}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() > SHOWN => {
            format!("the string `{}…`", text.chars().take(SHOWN).collect::<String>())
        }
        Value::String(text) => format!("the string `{text}`"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}
