//! What to check, as the host writes it: the recipe's `[[test]]` tables as JSON.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

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
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unit {
        unit: String,
        state: String,
    },
    Mount {
        mount: String,
        fstype: Option<String>,
        options: Vec<String>,
        size: Option<Size>,
    },
    Run {
        run: String,
        exit: i32,
        stdout: Option<String>,
        stderr: Option<String>,
    },
    /// Nothing that this probe can check; says why.
    Unknown(String),
}

/// A size in bytes or in per cent of RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Bytes(u64),
    Percent(u64),
}

#[derive(Deserialize)]
struct Raw {
    schema: u32,
    tests: Vec<Map<String, Value>>,
    deadline: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    timeout: Option<Value>,
    unit: Option<String>,
    state: Option<String>,
    mount: Option<String>,
    fstype: Option<String>,
    #[serde(default)]
    options: Vec<String>,
    size: Option<Value>,
    run: Option<String>,
    exit: Option<i32>,
    stdout: Option<String>,
    stderr: Option<String>,
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
        let keys: Vec<String> = table.keys().cloned().collect();
        let read = serde_json::from_value::<Table>(Value::Object(table))
            .map_err(|error| format!("a kind of test that this probe does not know: {} ({error})", keys.join(", ")));
        let (timeout, kind) = match read.and_then(kind) {
            Ok((timeout, kind)) => (timeout, kind),
            Err(why) => (None, Kind::Unknown(why)),
        };
        Self { name: given_name.unwrap_or_else(|| kind.title()), timeout, kind }
    }
}

fn kind(table: Table) -> Result<(Option<Duration>, Kind), String> {
    let timeout = table.timeout.as_ref().map(duration).transpose()?;
    let kind = match (table.unit, table.mount, table.run) {
        (Some(unit), None, None) => Kind::Unit { unit, state: table.state.unwrap_or_else(|| "active".into()) },
        (None, Some(mount), None) => {
            let size = table.size.as_ref().map(size).transpose()?;
            Kind::Mount { mount, fstype: table.fstype, options: table.options, size }
        }
        (None, None, Some(run)) => {
            Kind::Run { run, exit: table.exit.unwrap_or(0), stdout: table.stdout, stderr: table.stderr }
        }
        _ => return Err("a test has exactly one of unit, mount, run".into()),
    };
    Ok((timeout, kind))
}

impl Kind {
    fn title(&self) -> String {
        match self {
            Self::Unit { unit, state } => format!("unit {unit} is {state}"),
            Self::Mount { mount, fstype: Some(fstype), .. } => format!("{mount} is a {fstype}"),
            Self::Mount { mount, .. } => format!("{mount} is mounted"),
            Self::Run { run, .. } => format!("run {run}"),
            Self::Unknown(_) => "a test of an unknown kind".into(),
        }
    }
}

/// `"1h30m"`, `"30s"`, or a number of seconds.
fn duration(value: &Value) -> Result<Duration, String> {
    let wrong = || format!("`{value}` is not a time like 30s, 2m or 1h30m");
    if let Some(seconds) = value.as_u64() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = value.as_str().ok_or_else(wrong)?;
    let mut seconds = 0_u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let unit = match after.chars().next() {
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        rest = after.get(1..).unwrap_or_default();
    }
    Ok(Duration::from_secs(seconds))
}

/// `"20%"`, `"200MiB"`, or a number of bytes.
fn size(value: &Value) -> Result<Size, String> {
    let wrong = || format!("`{value}` is not a size like 200MiB or 20%");
    if let Some(bytes) = value.as_u64() {
        return Ok(Size::Bytes(bytes));
    }
    let text = value.as_str().ok_or_else(wrong)?.trim();
    if let Some(percent) = text.strip_suffix('%') {
        return percent.trim().parse().map(Size::Percent).map_err(|_| wrong());
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).map(Size::Bytes).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
            Kind::Mount {
                mount: "/var/lib/kubelet".into(),
                fstype: Some("tmpfs".into()),
                options: vec!["nosuid".into()],
                size: Some(Size::Percent(20)),
            }
        );
        assert_eq!(spec.tests[2].timeout, Some(Duration::from_secs(120)));
    }

    #[test]
    fn what_is_not_understood_becomes_a_test_that_fails() {
        let spec = Spec::parse(
            r#"{"schema": 1, "deadline": 1, "tests": [{"http": "/healthz", "status": 200}, {"unit": "a", "run": "b"},
                {"run": "x", "timeout": "soon"}, {"mount": "/", "size": "much"}, {"run": "x", "exits": 1}]}"#,
        )
        .unwrap();
        let why = |index: usize| match &spec.tests[index].kind {
            Kind::Unknown(why) => why.clone(),
            other => panic!("{other:?}"),
        };
        assert!(why(0).starts_with("a kind of test that this probe does not know: http, status"), "{}", why(0));
        assert_eq!(why(1), "a test has exactly one of unit, mount, run");
        assert!(why(2).contains("soon") && why(3).contains("much") && why(4).contains("exits"));
        assert!(Spec::parse(r#"{"schema": 2, "deadline": 1, "tests": []}"#).unwrap_err().contains("schema 2"));
    }

    #[test]
    fn times_and_sizes() {
        assert_eq!(duration(&json!("1h30m5s")), Ok(Duration::from_secs(5405)));
        assert_eq!(duration(&json!(7)), Ok(Duration::from_secs(7)));
        for wrong in [json!(""), json!("5"), json!("m"), json!("5d"), json!(-1), json!("99999999999999999999s")] {
            assert!(duration(&wrong).is_err(), "{wrong}");
        }
        assert_eq!(size(&json!("200MiB")), Ok(Size::Bytes(200 << 20)));
        assert_eq!(size(&json!("1000")), Ok(Size::Bytes(1000)));
        assert_eq!(size(&json!(4096)), Ok(Size::Bytes(4096)));
        for wrong in [json!("x%"), json!("5XB"), json!("99999999999TiB"), json!(true)] {
            assert!(size(&wrong).is_err(), "{wrong}");
        }
    }
}
