//! What to check, as the host writes it: the recipe's `[[test]]` tables as JSON.

use std::net::IpAddr;
use std::time::Duration;

use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::values;
pub(crate) use crate::values::{Limit, Size};

/// The schema that this probe reads.
pub(crate) const SCHEMA: u32 = 1;

/// The whole specification.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) tests: Vec<Test>,
    /// How long a test without a time of its own is tried.
    pub(crate) deadline: Duration,
}

/// One test.
#[derive(Debug)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) kind: Kind,
}

/// What it checks.
#[derive(Debug, PartialEq)]
pub(crate) enum Kind {
    Unit(Unit),
    Mount(Mount),
    File(File),
    Port(Port),
    Process(Process),
    Module(Module),
    Sysctl(Sysctl),
    Journal(Journal),
    Hook(Hook),
    Ram(Ram),
    Time(Time),
    Run(Run),
    /// Nothing that this probe can check; says why.
    Unknown(String),
}

/// A systemd unit's state.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unit {
    pub(crate) unit: String,
    #[serde(default = "active")]
    pub(crate) state: String,
}

/// Something is mounted.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mount {
    pub(crate) mount: String,
    pub(crate) fstype: Option<String>,
    #[serde(default)]
    pub(crate) options: Vec<String>,
    pub(crate) size: Option<Size>,
}

/// A file is there, or is not.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) file: String,
    #[serde(default = "yes")]
    pub(crate) exists: bool,
    #[serde(default, deserialize_with = "values::mode")]
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<String>,
    pub(crate) contains: Option<String>,
    pub(crate) matches: Option<Pattern>,
    pub(crate) sha256: Option<String>,
}

/// Somebody listens on a port, or nobody does.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Port {
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) protocol: Protocol,
    pub(crate) address: Option<IpAddr>,
    #[serde(default = "yes")]
    pub(crate) listening: bool,
}

/// What a port is one of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// A program runs, or does not.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    pub(crate) process: String,
    pub(crate) user: Option<String>,
    #[serde(default = "yes")]
    pub(crate) running: bool,
}

/// The kernel has a module, or has not.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Module {
    pub(crate) module: String,
    #[serde(default = "yes")]
    pub(crate) loaded: bool,
}

/// A kernel parameter has a value.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sysctl {
    pub(crate) sysctl: String,
    pub(crate) value: String,
}

/// What this boot's journal says.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    /// `system`, `kernel`, or a unit.
    pub(crate) journal: String,
    pub(crate) contains: Option<String>,
    pub(crate) matches: Option<Pattern>,
    pub(crate) lacks: Option<String>,
}

/// How a hook ended.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hook {
    pub(crate) hook: String,
    #[serde(default)]
    pub(crate) exit: i32,
    pub(crate) contains: Option<String>,
    pub(crate) matches: Option<Pattern>,
}

/// How much RAM is taken at rest, at most.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ram {
    pub(crate) ram: Size,
}

/// When something was reached, at most so long after the kernel's start.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Time {
    /// `init`, `switch_root`, or a unit.
    pub(crate) time: String,
    pub(crate) at_most: Limit,
}

/// A command ends as expected.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    pub(crate) run: String,
    #[serde(default)]
    pub(crate) exit: i32,
    pub(crate) stdout: Option<String>,
    pub(crate) matches: Option<Pattern>,
    pub(crate) stderr: Option<String>,
    pub(crate) stderr_matches: Option<Pattern>,
}

fn active() -> String {
    "active".to_owned()
}

fn yes() -> bool {
    true
}

/// A regular expression; `^` and `$` are a line's ends.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Pattern(Regex);

impl Pattern {
    pub(crate) fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    pub(crate) fn text(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // As builder/recipe reads it.
        let built = RegexBuilder::new(&text).multi_line(true).build();
        built.map(Self).map_err(|error| format!("`{text}` is not a regular expression: {error}"))
    }
}

#[derive(Deserialize)]
struct Raw {
    schema: u32,
    tests: Vec<Map<String, Value>>,
    deadline: u64,
}

impl Spec {
    /// Reads a specification. A test that makes no sense becomes one that fails and says so.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let raw: Raw = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if raw.schema != SCHEMA {
            return Err(format!("schema {}, but this probe reads {SCHEMA}", raw.schema));
        }
        let tests = raw.tests.into_iter().map(Test::new).collect();
        Ok(Self { tests, deadline: Duration::from_secs(raw.deadline) })
    }
}

impl Test {
    fn new(mut table: Map<String, Value>) -> Self {
        let given_name = table.remove("name").and_then(|name| name.as_str().map(str::to_owned));
        let timeout = table.remove("timeout").map(|value| values::duration(&value)).transpose();
        let (timeout, kind) = match timeout.and_then(|timeout| Ok((timeout, Kind::read(table)?))) {
            Ok(read) => read,
            Err(why) => (None, Kind::Unknown(why)),
        };
        Self { name: given_name.unwrap_or_else(|| kind.title()), timeout, kind }
    }
}

/// How a table with a key is read.
type Read = fn(Value) -> Result<Kind, serde_json::Error>;

fn as_kind<T: DeserializeOwned>(table: Value, kind: fn(T) -> Kind) -> Result<Kind, serde_json::Error> {
    serde_json::from_value(table).map(kind)
}

/// The keys of which a test has exactly one.
const KINDS: [(&str, Read); 12] = [
    ("unit", |table| as_kind(table, Kind::Unit)),
    ("mount", |table| as_kind(table, Kind::Mount)),
    ("file", |table| as_kind(table, Kind::File)),
    ("port", |table| as_kind(table, Kind::Port)),
    ("process", |table| as_kind(table, Kind::Process)),
    ("module", |table| as_kind(table, Kind::Module)),
    ("sysctl", |table| as_kind(table, Kind::Sysctl)),
    ("journal", |table| as_kind(table, Kind::Journal)),
    ("hook", |table| as_kind(table, Kind::Hook)),
    ("ram", |table| as_kind(table, Kind::Ram)),
    ("time", |table| as_kind(table, Kind::Time)),
    ("run", |table| as_kind(table, Kind::Run)),
];

impl Kind {
    fn read(table: Map<String, Value>) -> Result<Self, String> {
        let mut kinds = KINDS.iter().filter(|(key, _)| table.contains_key(*key));
        let keys: Vec<&str> = table.keys().map(String::as_str).collect();
        let unknown = |why: &dyn std::fmt::Display| {
            format!("a kind of test that this probe does not know: {} ({why})", keys.join(", "))
        };
        match (kinds.next(), kinds.next()) {
            (Some((_, read)), None) => read(Value::Object(table.clone())).map_err(|error| unknown(&error)),
            (Some((one, _)), Some((other, _))) => Err(format!("a test has one kind, not both `{one}` and `{other}`")),
            _ => Err(unknown(&format!("it has none of {}", KINDS.map(|(key, _)| key).join(", ")))),
        }
    }

    /// Whether it is tried when the tests that come up one by one are over: it is about a system at rest, or about what
    /// must not have happened up to then.
    pub(crate) fn is_for_the_end(&self) -> bool {
        match self {
            Self::Ram(_) | Self::Time(_) => true,
            Self::Journal(journal) => journal.lacks.is_some(),
            // Before a system is up nothing is there yet, and what must not be there would be missing at once.
            Self::File(file) => !file.exists,
            Self::Port(port) => !port.listening,
            Self::Process(process) => !process.running,
            Self::Module(module) => !module.loaded,
            Self::Unit(unit) => unit.state == "inactive",
            _ => false,
        }
    }

    fn title(&self) -> String {
        let not = |yes: bool| if yes { "" } else { " not" };
        match self {
            Self::Unit(Unit { unit, state }) => format!("unit {unit} is {state}"),
            Self::Mount(Mount { mount, fstype: Some(fstype), .. }) => format!("{mount} is a {fstype}"),
            Self::Mount(Mount { mount, .. }) => format!("{mount} is mounted"),
            Self::File(File { file, exists: false, .. }) => format!("there is no {file}"),
            Self::File(File { file, .. }) => format!("file {file}"),
            Self::Port(Port { port, protocol, listening, .. }) => {
                format!("{} port {port} is{} listened on", protocol.name(), not(*listening))
            }
            Self::Process(Process { process, running, .. }) => format!("{process} is{} running", not(*running)),
            Self::Module(Module { module, loaded }) => format!("module {module} is{} loaded", not(*loaded)),
            Self::Sysctl(Sysctl { sysctl, value }) => format!("sysctl {sysctl} is {value}"),
            Self::Journal(Journal { journal, contains, matches, lacks }) => {
                let said = contains.as_deref().or(matches.as_ref().map(Pattern::text));
                match (said, lacks) {
                    (Some(said), _) => format!("the journal of {journal} has `{said}`"),
                    (None, lacks) => format!("the journal of {journal} lacks `{}`", lacks.as_deref().unwrap_or("")),
                }
            }
            Self::Hook(Hook { hook, exit: 0, .. }) => format!("hook {hook} is done"),
            Self::Hook(Hook { hook, exit, .. }) => format!("hook {hook} ended with status {exit}"),
            Self::Ram(Ram { ram }) => format!("at most {ram} of RAM are used at rest"),
            Self::Time(Time { time, at_most }) => format!("{time} is reached within {at_most}"),
            Self::Run(Run { run, .. }) => format!("run {run}"),
            Self::Unknown(_) => "a test of an unknown kind".into(),
        }
    }
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(table: &str) -> Test {
        let text = format!(r#"{{"schema": 1, "deadline": 60, "tests": [{table}]}}"#);
        Spec::parse(&text).unwrap().tests.remove(0)
    }

    #[test]
    fn the_recipes_tables_are_read() {
        let spec = Spec::parse(
            r#"{"schema": 1, "deadline": 60, "tests": [
                {"unit": "containerd.service", "state": "active"},
                {"name": "room", "mount": "/var/lib/kubelet", "fstype": "tmpfs", "size": "20%", "options": ["nosuid"]},
                {"run": "kubelet --version", "stdout": "Kubernetes v", "timeout": "2m"}]}"#,
        )
        .unwrap();
        assert_eq!(spec.deadline, Duration::from_secs(60));
        assert_eq!(spec.tests[0].name, "unit containerd.service is active");
        assert_eq!(spec.tests[1].name, "room");
        assert_eq!(
            spec.tests[1].kind,
            Kind::Mount(Mount {
                mount: "/var/lib/kubelet".into(),
                fstype: Some("tmpfs".into()),
                options: vec!["nosuid".into()],
                size: Some(Size::Percent(20)),
            })
        );
        assert_eq!(spec.tests[2].timeout, Some(Duration::from_secs(120)));
    }

    /// As `imgbuild_recipe::Test` writes them and titles them.
    #[test]
    fn every_kind_has_its_title() {
        for (table, title) in [
            (r#"{"unit": "a.service"}"#, "unit a.service is active"),
            (r#"{"mount": "/a"}"#, "/a is mounted"),
            (r#"{"file": "/etc/a", "mode": "0644", "owner": "root:root", "matches": "^a$"}"#, "file /etc/a"),
            (r#"{"file": "/etc/a", "exists": false}"#, "there is no /etc/a"),
            (r#"{"port": 22, "address": "::1"}"#, "tcp port 22 is listened on"),
            (r#"{"port": 53, "protocol": "udp", "listening": false}"#, "udp port 53 is not listened on"),
            (r#"{"process": "sshd", "user": "root"}"#, "sshd is running"),
            (r#"{"module": "kvm", "loaded": false}"#, "module kvm is not loaded"),
            (r#"{"sysctl": "net.ipv4.ip_forward", "value": "1"}"#, "sysctl net.ipv4.ip_forward is 1"),
            (r#"{"journal": "kernel", "lacks": "Oops"}"#, "the journal of kernel lacks `Oops`"),
            (r#"{"journal": "a.service", "matches": "x+", "lacks": "y"}"#, "the journal of a.service has `x+`"),
            (r#"{"hook": "a.sh"}"#, "hook a.sh is done"),
            (r#"{"hook": "a.sh", "exit": 3, "contains": "x"}"#, "hook a.sh ended with status 3"),
            (r#"{"ram": "400MiB"}"#, "at most 400MiB of RAM are used at rest"),
            (r#"{"time": "switch_root", "at_most": "1m30s"}"#, "switch_root is reached within 1m30s"),
            (r#"{"run": "true", "stderr_matches": "x"}"#, "run true"),
        ] {
            let test = one(table);
            assert!(!matches!(test.kind, Kind::Unknown(_)), "{:?}", test.kind);
            assert_eq!(test.name, title);
        }
    }

    #[test]
    fn what_is_about_a_system_at_rest_is_tried_last() {
        for (table, expected) in [
            (r#"{"ram": "1GiB"}"#, true),
            (r#"{"time": "init", "at_most": "1s"}"#, true),
            (r#"{"journal": "system", "lacks": "x"}"#, true),
            (r#"{"journal": "system", "contains": "x"}"#, false),
            (r#"{"unit": "x"}"#, false),
            (r#"{"unit": "x", "state": "inactive"}"#, true),
            (r#"{"file": "/x"}"#, false),
            (r#"{"file": "/x", "exists": false}"#, true),
            (r#"{"port": 22, "listening": false}"#, true),
            (r#"{"process": "x", "running": false}"#, true),
            (r#"{"module": "x", "loaded": false}"#, true),
        ] {
            assert_eq!(one(table).kind.is_for_the_end(), expected, "{table}");
        }
    }

    #[test]
    fn what_is_not_understood_becomes_a_test_that_fails() {
        let why = |table: &str| match one(table).kind {
            Kind::Unknown(why) => why,
            other => panic!("{other:?}"),
        };
        let unknown = why(r#"{"http": "/healthz", "status": 200}"#);
        assert!(unknown.starts_with("a kind of test that this probe does not know: http, status"), "{unknown}");
        assert_eq!(why(r#"{"unit": "a", "run": "b"}"#), "a test has one kind, not both `unit` and `run`");
        for (table, word) in [
            (r#"{"run": "x", "timeout": "soon"}"#, "soon"),
            (r#"{"mount": "/", "size": "much"}"#, "much"),
            (r#"{"run": "x", "exits": 1}"#, "exits"),
            (r#"{"run": "x", "matches": "a("}"#, "a("),
            (r#"{"file": "/x", "mode": "0999"}"#, "0999"),
            (r#"{"port": 70000}"#, "70000"),
            (r#"{"sysctl": "a.b"}"#, "value"),
        ] {
            assert!(why(table).contains(word), "{}", why(table));
        }
        assert!(Spec::parse(r#"{"schema": 2, "deadline": 1, "tests": []}"#).unwrap_err().contains("schema 2"));
    }
}
