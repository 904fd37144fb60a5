//! `SHA256SUMS`, as `sha256sum -c` reads it.

use std::collections::BTreeMap;

/// The file's name in a bundle.
pub const FILE_NAME: &str = "SHA256SUMS";

/// The text for these files: hash, two blanks, name, in the names' order.
#[must_use]
pub fn write(sums: &BTreeMap<String, String>) -> String {
    sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect()
}

/// Reads the text back: names to lower-case hex hashes.
///
/// # Errors
/// The number (from 1) of the first line that is none of `sha256sum`'s, or that names a path instead of a file.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut sums = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let (sum, name) = line.split_once("  ").ok_or(index + 1)?;
        let hex = sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        if !hex || !plain {
            return Err(index + 1);
        }
        sums.insert(name.to_owned(), sum.to_owned());
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let sum = "ab".repeat(32);
        let sums = BTreeMap::from([("b".to_owned(), sum.clone()), ("a".to_owned(), sum.clone())]);
        let text = write(&sums);
        assert_eq!(text, format!("{sum}  a\n{sum}  b\n"));
        assert_eq!(parse(&text), Ok(sums));
        for bad in ["x  a\n", &format!("{sum} a\n"), &format!("{sum}  ../a\n"), &format!("{sum}  ..\n")] {
            assert_eq!(parse(&format!("{sum}  fine\n{bad}")), Err(2), "{bad}");
        }
    }
}
