//! The known word that a misspelt one most likely means.

/// The nearest of `known` to `word`, if any is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // What is longer than any key by far is no slip of the finger, and its distance is dear.
    if word.len() > 64 {
        return None;
    }
    let normal = |text: &str| text.to_lowercase().replace('-', "_");
    let wanted = normal(word);
    // A word that goes on, or stops short, is near whatever its length: `embedded`, `embed`.
    let starts = |a: &str, b: &str| a.len() >= 3 && b.starts_with(a);
    let away =
        |known: &str| if starts(&wanted, known) || starts(known, &wanted) { 1 } else { distance(&wanted, known) };
    let (distance, best) = known.into_iter().map(|k| (away(&normal(k)), k)).min_by_key(|(d, _)| *d)?;
    let longest = wanted.chars().count().max(best.chars().count());
    (distance <= 1.max(longest / 3) && distance < longest).then_some(best)
}

/// Insertions, deletions, substitutions and swaps of neighbours between two words (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood() {
        let known = ["name", "version", "arch", "source_date_epoch", "layer", "on_failure"];
        for (word, meant) in [
            ("verson", Some("version")),
            ("nmae", Some("name")),
            ("layers", Some("layer")),
            ("source-date-epoch", Some("source_date_epoch")),
            ("onfailure", Some("on_failure")),
            ("ARCH", Some("arch")),
            ("architecture", Some("arch")),
            ("vers", Some("version")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(1000), known), None);
    }
}
