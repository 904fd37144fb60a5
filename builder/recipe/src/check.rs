//! What `imgbuild test` asserts in the booted system.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use regex_lite::RegexBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::{Mode, Seconds, Size, ValueError};

/// An assertion about the booted system. It has exactly one of the keys `unit`, `mount`, `file`, `port`, `process`, `module`, `sysctl`, `journal`, `hook`, `ram`, `time` and `run`, and what goes with that one. It is tried again and again until it holds or its time is over.
//
// It serialises as the `[[test]]` table stands in the recipe, a bundle's manifest carries it that way, and the probe in the
// booted system reads it: what is not given has its default there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = one_kind)]
pub struct Test {
    /// Its name in reports; by default it is derived from what it checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// With `unit`: its state, as `systemctl is-active` prints it; by default `active`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// A mount point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// With `mount`: the file system's type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fstype: Option<String>,
    /// With `mount`: options that it is mounted with, among others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// With `mount`: its size, or its share of the machine's RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// A file or folder. Symbolic links are followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// With `file`: `false` where nothing may be at that path; by default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// With `file`: its permission bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// With `file`: its owner, `USER` or `USER:GROUP`, by name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// With `file`: the SHA-256 of its contents, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// A port that somebody listens on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// With `port`: its protocol; by default `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// With `port`: the node's address that is listened at. `0.0.0.0` and `::` are all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<IpAddr>,
    /// With `port`: `false` where nobody may listen; by default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening: Option<bool>,
    /// A program that runs, by its own name or its file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// With `process`: the user that it runs as, by name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With `process`: `false` where it may not run; by default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// A module of the kernel that is loaded or built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// With `module`: `false` where the kernel may not have it; by default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<bool>,
    /// A kernel parameter, as sysctl(8) spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sysctl: Option<String>,
    /// With `sysctl`, required: its value. Several are separated by blanks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// This boot's journal: of a unit, of the `kernel`, or of the whole `system`. It goes with at least one of `contains`, `matches` and `lacks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<String>,
    /// With `journal`: text that no line has; looked for when all other tests are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// A hook of the recipe, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// RAM that is used at rest, at most: what is not available to programs, the root in RAM among it. Measured when all other tests are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<Size>,
    /// Something that the boot reaches: `init` (netboot-init runs), `switch_root` (the system takes over), or a systemd unit (becomes active).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// With `time`, required: how long after the kernel's start on a server. On a slower machine, such as an emulated one, it is multiplied by how much slower that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Seconds>,
    /// A command, run by `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// With `run` or `hook`: its exit status; by default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<u8>,
    /// With `run`: text that its standard output contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// With `run`: text that its standard error contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// With `run`: a regular expression that its standard error matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub stderr_matches: Option<Pattern>,
    /// With `file`, `journal` or `hook`: text that the contents, one line of the journal, or the hook's log has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// With `file`, `journal`, `hook` or `run`: a regular expression that the contents, one line of the journal, the hook's log, or the command's standard output matches. `^` and `$` are a line's ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub matches: Option<Pattern>,
    /// How long it is tried again until it holds. A command may take as long as that, without it 30s an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
    /// Where it stands: `recipes/worker.toml:40`; empty when it was read from a manifest.
    #[serde(skip)]
    pub place: String,
}

/// What a port is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A regular expression in the syntax of Rust's `regex-lite`: what the probe in the booted system can match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl FromStr for Pattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match RegexBuilder::new(text).multi_line(true).build() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(ValueError {
                message: format!("not a regular expression: {error}"),
                help: r"a backslash goes before a sign that is meant as it is: `\.`, `\(`; in '…' TOML leaves it alone"
                    .to_owned(),
            }),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error: ValueError| error.message)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys of which a `[[test]]` has exactly one, each with the keys that go with it.
pub(crate) const KIND_KEYS: [(&str, &[&str]); 12] = [
    ("unit", &["state"]),
    ("mount", &["fstype", "options", "size"]),
    ("file", &["exists", "mode", "owner", "contains", "matches", "sha256"]),
    ("port", &["protocol", "address", "listening"]),
    ("process", &["user", "running"]),
    ("module", &["loaded"]),
    ("sysctl", &["value"]),
    ("journal", &["contains", "matches", "lacks"]),
    ("hook", &["exit", "contains", "matches"]),
    ("ram", &[]),
    ("time", &["at_most"]),
    ("run", &["exit", "stdout", "matches", "stderr", "stderr_matches"]),
];

fn one_kind(schema: &mut schemars::Schema) {
    let one_of = KIND_KEYS.map(|(key, _)| serde_json::json!({ "required": [key] }));
    schema.insert("oneOf".to_owned(), one_of.to_vec().into());
}
