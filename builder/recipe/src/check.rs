//! What `imgbuild test` asserts in the booted system.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::{Seconds, Size};

/// An assertion about the booted system.
///
/// It serialises as the `[[test]]` table stands in the recipe; a bundle's manifest carries it that way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "TestTable", try_from = "TestTable")]
pub struct Test {
    /// Its name in reports; by default derived from what it checks.
    pub name: Option<String>,
    /// What it checks.
    pub check: Check,
    /// How long it is tried again until it holds; the tester's default where none is given.
    pub timeout: Option<Seconds>,
    /// Where it stands: `recipes/worker.toml:40`; empty when it was read from a manifest.
    pub place: String,
}

/// What a test checks. More kinds will come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// A systemd unit's state.
    Unit {
        /// The unit: `containerd.service`.
        unit: String,
        /// Its `ActiveState`: `active`.
        state: String,
    },
    /// Something is mounted.
    Mount {
        /// The mount point.
        mount: String,
        /// The file system's type.
        fstype: Option<String>,
        /// Mount options it has, among others.
        options: Vec<String>,
        /// Its size; a share is one of the machine's RAM.
        size: Option<Size>,
    },
    /// A command ends as expected.
    Run {
        /// The command, run by `/bin/sh -c`.
        run: String,
        /// Its exit status.
        exit: u8,
        /// Text that its standard output contains.
        stdout: Option<String>,
        /// Text that its standard error contains.
        stderr: Option<String>,
    },
}

impl Test {
    /// Its name in reports: the given one, else what it checks.
    #[must_use]
    pub fn title(&self) -> String {
        match (&self.name, &self.check) {
            (Some(name), _) => name.clone(),
            (None, Check::Unit { unit, state }) => format!("unit {unit} is {state}"),
            (None, Check::Mount { mount, fstype: Some(fstype), .. }) => format!("{mount} is a {fstype}"),
            (None, Check::Mount { mount, .. }) => format!("{mount} is mounted"),
            (None, Check::Run { run, .. }) => format!("run {run}"),
        }
    }
}

/// A `[[test]]` as it stands in a recipe: one of the keys `unit`, `mount`, `run`, and what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Test", transform = one_kind)]
pub struct TestTable {
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
    /// A command, run by `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// With `run`: its exit status; by default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<u8>,
    /// With `run`: text that its standard output contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// With `run`: text that its standard error contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// How long it is tried again until it holds. A command may take as long as that, without it 30s an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
}

/// The keys of which a `[[test]]` has exactly one, each with the keys that go with it.
pub(crate) const KIND_KEYS: [(&str, &[&str]); 3] =
    [("unit", &["state"]), ("mount", &["fstype", "options", "size"]), ("run", &["exit", "stdout", "stderr"])];

fn one_kind(schema: &mut schemars::Schema) {
    let one_of = KIND_KEYS.map(|(key, _)| serde_json::json!({ "required": [key] }));
    schema.insert("oneOf".to_owned(), one_of.to_vec().into());
}

impl From<Test> for TestTable {
    fn from(test: Test) -> Self {
        let mut table = Self { name: test.name, timeout: test.timeout, ..Self::default() };
        match test.check {
            Check::Unit { unit, state } => {
                table.unit = Some(unit);
                table.state = Some(state);
            }
            Check::Mount { mount, fstype, options, size } => {
                table.mount = Some(mount);
                table.fstype = fstype;
                table.options = options;
                table.size = size;
            }
            Check::Run { run, exit, stdout, stderr } => {
                table.run = Some(run);
                table.exit = Some(exit);
                table.stdout = stdout;
                table.stderr = stderr;
            }
        }
        table
    }
}

impl TryFrom<TestTable> for Test {
    type Error = String;

    fn try_from(table: TestTable) -> Result<Self, String> {
        let check = match (table.unit, table.mount, table.run) {
            (Some(unit), None, None) => Check::Unit { unit, state: table.state.unwrap_or_else(|| "active".to_owned()) },
            (None, Some(mount), None) => {
                Check::Mount { mount, fstype: table.fstype, options: table.options, size: table.size }
            }
            (None, None, Some(run)) => {
                Check::Run { run, exit: table.exit.unwrap_or(0), stdout: table.stdout, stderr: table.stderr }
            }
            _ => return Err("a test has exactly one of the keys `unit`, `mount`, `run`".to_owned()),
        };
        Ok(Self { name: table.name, check, timeout: table.timeout, place: String::new() })
    }
}
