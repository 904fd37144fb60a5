//! Values that stand in a test with a unit, as the host writes them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// A size in bytes or in per cent of RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) enum Size {
    Bytes(u64),
    Percent(u64),
}

impl Size {
    /// Bytes on a machine with so much RAM.
    pub(crate) fn bytes(self, memory: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => memory / 100 * percent,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) if bytes.is_multiple_of(1 << 20) => write!(f, "{}MiB", bytes >> 20),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// How long something may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Limit {
    pub(crate) time: Duration,
    text: String,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<Value> for Limit {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let time = duration(&value)?;
        let text = value.as_str().map_or_else(|| format!("{}s", time.as_secs()), str::to_owned);
        Ok(Self { time, text })
    }
}

/// `"1h30m"`, `"30s"`, or a number of seconds.
pub(crate) fn duration(value: &Value) -> Result<Duration, String> {
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

impl TryFrom<Value> for Size {
    type Error = String;

    /// `"20%"`, `"200MiB"`, or a number of bytes.
    fn try_from(value: Value) -> Result<Self, String> {
        let wrong = || format!("`{value}` is not a size like 200MiB or 20%");
        if let Some(bytes) = value.as_u64() {
            return Ok(Self::Bytes(bytes));
        }
        let text = value.as_str().ok_or_else(wrong)?.trim();
        if let Some(percent) = text.strip_suffix('%') {
            return percent.trim().parse().map(Self::Percent).map_err(|_| wrong());
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
        number.checked_mul(unit).map(Self::Bytes).ok_or_else(wrong)
    }
}

/// Permission bits in octal, `"0644"`.
pub(crate) fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bits = u32::from_str_radix(&text, 8).ok().filter(|bits| *bits <= 0o7777);
    bits.map(Some).ok_or_else(|| de::Error::custom(format!("`{text}` is not a mode like 0644")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_and_sizes() {
        assert_eq!(duration(&json!("1h30m5s")), Ok(Duration::from_secs(5405)));
        assert_eq!(duration(&json!(7)), Ok(Duration::from_secs(7)));
        for wrong in [json!(""), json!("5"), json!("m"), json!("5d"), json!(-1), json!("99999999999999999999s")] {
            assert!(duration(&wrong).is_err(), "{wrong}");
        }
        let size = |value| Size::try_from(value);
        assert_eq!(size(json!("200MiB")), Ok(Size::Bytes(200 << 20)));
        assert_eq!(size(json!("1000")), Ok(Size::Bytes(1000)));
        assert_eq!(size(json!(4096)), Ok(Size::Bytes(4096)));
        for wrong in [json!("x%"), json!("5XB"), json!("99999999999TiB"), json!(true)] {
            assert!(size(wrong.clone()).is_err(), "{wrong}");
        }
        assert_eq!(Size::Percent(50).bytes(1000), 500);
    }
}
