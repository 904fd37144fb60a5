//! Values that people write with a unit: sizes, durations, permission bits.
//!
//! Each parses from text (`FromStr`), prints as the shortest text that parses to the same value, and serialises as
//! that text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: `"2GiB"`, `"512MiB"`, `"1M"`, `4096`.
///
/// `K`, `M`, `G`, `T` and `KiB`, `MiB`, `GiB`, `TiB` are powers of 1024, as tmpfs and squashfs have them; `kB`, `KB`,
/// `MB`, `GB`, `TB` are powers of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A size of a tmpfs: bytes, or a share of the machine's RAM (`"25%"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// Per cent of RAM, 1 to 100.
    Percent(u8),
}

/// A duration in whole seconds: `"30s"`, `"2m"`, `"1h30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seconds(pub u64);

/// Permission bits, `0o755` in TOML or `"0755"` as text: at most `0o7777`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode(pub u32);

/// Why a text is no value of its type; the message says what would be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

fn bad(message: String, help: &str) -> ValueError {
    ValueError { message, help: help.to_owned() }
}

const SIZE_HELP: &str =
    "write a number and a unit, like \"512MiB\", \"2GiB\" or \"1M\" (K, M, G, T are powers of 1024)";
const SHARE_HELP: &str = "write bytes like \"512MiB\" or a share of RAM like \"25%\"";
const DURATION_HELP: &str = "write whole seconds, minutes or hours, like \"30s\", \"2m\" or \"1h30m\"";
const MODE_HELP: &str = "write permission bits in octal, like 0o755";

/// Longer text than this is quoted shortened in messages.
const QUOTED: usize = 40;

fn quoted(text: &str) -> String {
    if text.chars().count() <= QUOTED {
        format!("{text:?}")
    } else {
        let start: String = text.chars().take(QUOTED).collect();
        format!("{start:?}…")
    }
}

/// Bytes of a unit of size.
fn unit_of_size(unit: &str) -> Option<u64> {
    Some(match unit {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "m" | "MiB" => 1 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        "T" | "t" | "TiB" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    })
}

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at(digits);
        if number.is_empty() {
            return Err(bad(format!("{} is not a size", quoted(text)), SIZE_HELP));
        }
        if unit.starts_with('.') {
            return Err(bad(
                format!("{} is not a whole number", quoted(text)),
                "write it in a smaller unit, like \"1536MiB\"",
            ));
        }
        let Some(unit_bytes) = unit_of_size(unit.trim_start()) else {
            return Err(bad(format!("{} is no unit of size", quoted(unit.trim_start())), SIZE_HELP));
        };
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_bytes));
        match bytes {
            Some(0) => Err(bad("a size of 0 bytes is never enough".to_owned(), SIZE_HELP)),
            Some(bytes) if bytes <= i64::MAX as u64 => Ok(Self(bytes)),
            _ => Err(bad(format!("{} is more bytes than any machine has", quoted(text)), SIZE_HELP)),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(bytes, _)| self.0 != 0 && self.0.is_multiple_of(*bytes)) {
            Some((bytes, unit)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some(number) = text.trim().strip_suffix('%') else {
            return match text.parse::<ByteSize>() {
                Ok(size) => Ok(Self::Bytes(size.0)),
                Err(error) if error.help == SIZE_HELP => Err(bad(error.message, SHARE_HELP)),
                Err(error) => Err(error),
            };
        };
        match number.trim_end().parse::<u8>() {
            Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
            _ => Err(bad(format!("{} is not a share of RAM between 1% and 100%", quoted(text)), SHARE_HELP)),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => ByteSize(*bytes).fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Size {
    /// How many bytes that is on a machine with `ram` bytes of RAM.
    #[must_use]
    pub fn bytes(self, ram: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => ram / 100 * u64::from(percent),
        }
    }
}

impl FromStr for Seconds {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || bad(format!("{} is not a duration", quoted(text)), DURATION_HELP);
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            let factor = match unit {
                "s" | "sec" => 1,
                "m" | "min" => 60,
                "h" => 3600,
                _ => return Err(wrong()),
            };
            let number: u64 = number.parse().map_err(|_| wrong())?;
            total = number.checked_mul(factor).and_then(|n| n.checked_add(total)).ok_or_else(wrong)?;
            rest = tail;
        }
        // A day is beyond any step of a boot, and far below where sums could overflow.
        match total {
            0 => Err(bad("a duration of 0 seconds is over before it began".to_owned(), DURATION_HELP)),
            1..=86_400 => Ok(Self(total)),
            _ => Err(bad(format!("{} is longer than a day", quoted(text)), DURATION_HELP)),
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n != 0 && n.is_multiple_of(3600) => write!(f, "{}h", n / 3600),
            n if n != 0 && n.is_multiple_of(60) => write!(f, "{}m", n / 60),
            n => write!(f, "{n}s"),
        }
    }
}

impl FromStr for Mode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(digits, 8) {
            Ok(mode @ 0..=0o7777) if octal => Ok(Self(mode)),
            _ => Err(bad(format!("{} is not a set of permission bits", quoted(text)), MODE_HELP)),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0{:03o}", self.0)
    }
}

/// Serialises as text, deserialises from text, and has a schema that says how the text looks.
macro_rules! textual {
    ($type:ident, $pattern:expr, $description:expr, $integer:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(|e: ValueError| serde::de::Error::custom(format!("{}; {}", e.message, e.help)))
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                if $integer {
                    json_schema!({
                        "description": $description,
                        "oneOf": [{ "type": "string", "pattern": $pattern }, { "type": "integer", "minimum": 0 }],
                    })
                } else {
                    json_schema!({ "description": $description, "type": "string", "pattern": $pattern })
                }
            }
        }
    };
}

textual!(
    ByteSize,
    "^ *[0-9]+ *([KMGTkmgt]|[KMGT]iB|[kKMGT]B|B)? *$",
    "A number of bytes: \"2GiB\", \"512MiB\", \"1M\" or 4096. K, M, G, T and KiB to TiB are powers of 1024, KB to TB of 1000.",
    true
);
textual!(
    Size,
    "^ *[0-9]+ *([KMGTkmgt]|[KMGT]iB|[kKMGT]B|B|%)? *$",
    "A number of bytes like \"512MiB\", or a share of the machine's RAM like \"25%\".",
    true
);
textual!(Seconds, "^ *([0-9]+(s|sec|m|min|h))+ *$", "A duration in whole seconds: \"30s\", \"2m\", \"1h30m\".", false);
textual!(Mode, "^(0o)?[0-7]{1,5}$", "Permission bits: 0o755 or \"0755\".", true);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("2GiB", 2 << 30),
            ("512MiB", 512 << 20),
            ("1M", 1 << 20),
            ("128K", 128 << 10),
            ("1 GiB", 1 << 30),
            ("4096", 4096),
            ("1MB", 1_000_000),
            ("8191PiB", 0),
            ("16777216T", 0),
            ("1.5GiB", 0),
            ("-1", 0),
            ("", 0),
            ("M", 0),
            ("0", 0),
            ("9999999999999999999999", 0),
            ("10mib", 0),
        ] {
            assert_eq!(text.parse::<ByteSize>().map_or(0, |s| s.0), bytes, "{text}");
        }
        for bytes in [1, 1023, 1024, 1536, 1 << 20, 3 << 30, 1 << 40, (1 << 40) + 1] {
            assert_eq!(ByteSize(bytes).to_string().parse::<ByteSize>().unwrap().0, bytes);
        }
    }

    #[test]
    fn shares() {
        assert_eq!("25%".parse(), Ok(Size::Percent(25)));
        assert_eq!("100 %".parse(), Ok(Size::Percent(100)));
        assert_eq!("1G".parse(), Ok(Size::Bytes(1 << 30)));
        assert_eq!(Size::Percent(25).bytes(1 << 30), ((1 << 30) / 100) * 25);
        for wrong in ["0%", "101%", "-5%", "%", "2.5%"] {
            let error = wrong.parse::<Size>().unwrap_err();
            assert!(error.message.contains("between 1% and 100%"), "{wrong}: {error}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in
            [("30s", 30), ("2m", 120), ("1h30m", 5400), ("1m 30s", 0), ("30", 0), ("0s", 0), ("25h", 0)]
        {
            assert_eq!(text.parse::<Seconds>().map_or(0, |s| s.0), seconds, "{text}");
        }
        for seconds in [1, 59, 60, 90, 3600, 5400, 86_400] {
            assert_eq!(Seconds(seconds).to_string().parse::<Seconds>().unwrap().0, seconds);
        }
        assert!("99999999999999999999h".parse::<Seconds>().is_err());
    }

    #[test]
    fn modes() {
        for (text, mode) in
            [("0755", Some(0o755)), ("0o1777", Some(0o1777)), ("644", Some(0o644)), ("0888", None), ("", None)]
        {
            assert_eq!(text.parse::<Mode>().ok().map(|m| m.0), mode, "{text}");
        }
        assert!("17777".parse::<Mode>().is_err());
        for mode in [0, 0o7, 0o644, 0o755, 0o1777, 0o7777] {
            assert_eq!(Mode(mode).to_string().parse::<Mode>().unwrap().0, mode);
        }
    }
}
