//! A channel's pointer: an iPXE script whose comments say where it stands and where it stood.
//!
//! Everything is in the one file, so that one rename moves the pointer and its history together.
//!
//! ```text
//! #!ipxe
//! # imgbuild channel 1
//! # name worker
//! # channel stable
//! # version 1.4.2 sha256:…      the manifest's hash
//! # predecessor 1.4.1 sha256:…  where a rollback leads
//! # before 1.4.0 sha256:…       and the next, and so on
//! # after 1.5.0 sha256:…        where a roll forward leads, nearest first
//! chain --autofree ../../images/worker/1.4.2/boot.ipxe
//! ```

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

use crate::Error;

/// How many predecessors a pointer remembers.
const MEMORY: usize = 32;

/// A version, and which one of that name it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionId {
    /// The version.
    pub version: String,
    /// SHA-256 of its manifest in lower-case hex.
    pub manifest_sha256: String,
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sha256:{}", self.version, self.manifest_sha256)
    }
}

/// Where a channel stands, and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// The image's name.
    pub name: String,
    /// The channel's name.
    pub channel: String,
    /// The version that machines boot now.
    pub current: VersionId,
    /// Where it stood before, nearest first; at most 32.
    pub before: Vec<VersionId>,
    /// Where it was rolled back from, nearest first.
    pub after: Vec<VersionId>,
}

impl Pointer {
    pub(crate) fn first(name: &str, channel: &str, version: VersionId) -> Self {
        Self { name: name.to_owned(), channel: channel.to_owned(), current: version, before: vec![], after: vec![] }
    }

    /// Moves on to a newly published version. What was rolled back from is forgotten: it is not what came before this one.
    pub(crate) fn advance(&mut self, version: VersionId) {
        if self.current == version {
            return;
        }
        self.before.insert(0, std::mem::replace(&mut self.current, version));
        self.before.truncate(MEMORY);
        self.after.clear();
    }

    /// Moves to the predecessor; none if there is none.
    pub(crate) fn back(&mut self) -> Option<()> {
        let to = (!self.before.is_empty()).then(|| self.before.remove(0))?;
        self.after.insert(0, std::mem::replace(&mut self.current, to));
        Some(())
    }

    /// Undoes one rollback; none if there is none.
    pub(crate) fn forward(&mut self) -> Option<()> {
        let to = (!self.after.is_empty()).then(|| self.after.remove(0))?;
        self.before.insert(0, std::mem::replace(&mut self.current, to));
        Some(())
    }

    /// The script.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "#!ipxe\n# imgbuild channel 1\n# name {}\n# channel {}\n# version {}\n",
            self.name, self.channel, self.current
        );
        for (index, version) in self.before.iter().enumerate() {
            let key = if index == 0 { "predecessor" } else { "before" };
            text.push_str(&format!("# {key} {version}\n"));
        }
        for version in &self.after {
            text.push_str(&format!("# after {version}\n"));
        }
        text.push_str(&format!("chain --autofree ../../images/{}/{}/boot.ipxe\n", self.name, self.current.version));
        text
    }

    /// Reads a script that [`Pointer::text`] wrote; any other is refused, since moving it would lose what it says.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let wrong =
            |line: usize, reason: &str| Error::Pointer { path: path.to_owned(), line, reason: reason.to_owned() };
        let (mut name, mut channel, mut current) = (None, None, None);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let Some((key, value)) = line.strip_prefix("# ").and_then(|rest| rest.split_once(' ')) else { continue };
            let version = || version(value).ok_or_else(|| wrong(index + 1, "expected VERSION sha256:HASH"));
            match key {
                "name" => name = Some(value.to_owned()),
                "channel" => channel = Some(value.to_owned()),
                "version" => current = Some(version()?),
                "predecessor" | "before" => before.push(version()?),
                "after" => after.push(version()?),
                _ => {}
            }
        }
        let (Some(name), Some(channel), Some(current)) = (name, channel, current) else {
            return Err(wrong(1, "not a channel's pointer"));
        };
        let pointer = Self { name, channel, current, before, after };
        let ours = pointer.text();
        if ours != text {
            let same = ours.lines().zip(text.lines()).take_while(|(ours, theirs)| ours == theirs).count();
            return Err(wrong(same + 1, "unexpected line"));
        }
        Ok(pointer)
    }
}

fn version(text: &str) -> Option<VersionId> {
    let (version, hash) = text.split_once(" sha256:")?;
    let hex = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (hex && crate::site::is_name(version))
        .then(|| VersionId { version: version.to_owned(), manifest_sha256: hash.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(version: &str) -> VersionId {
        VersionId { version: version.to_owned(), manifest_sha256: "ab".repeat(32) }
    }

    fn versions(list: &[VersionId]) -> Vec<&str> {
        list.iter().map(|id| id.version.as_str()).collect()
    }

    #[test]
    fn back_and_forward_are_each_others_inverse() {
        let mut pointer = Pointer::first("worker", "stable", id("1"));
        assert_eq!(pointer.clone().back(), None);
        for version in ["2", "3", "4"] {
            pointer.advance(id(version));
        }
        let latest = pointer.clone();
        pointer.back().unwrap();
        pointer.back().unwrap();
        assert_eq!(pointer.current, id("2"));
        assert_eq!((versions(&pointer.before), versions(&pointer.after)), (vec!["1"], vec!["3", "4"]));
        pointer.forward().unwrap();
        pointer.forward().unwrap();
        assert_eq!(pointer, latest);
        assert_eq!(pointer.forward(), None);
        // Published after a rollback: the predecessor is what ran, not what was rolled back from.
        pointer.back().unwrap();
        pointer.advance(id("5"));
        assert_eq!((versions(&pointer.before), versions(&pointer.after)), (vec!["3", "2", "1"], vec![]));
        pointer.advance(id("5"));
        assert_eq!(versions(&pointer.before), ["3", "2", "1"]);
    }

    #[test]
    fn the_text_is_read_back_and_anything_else_is_refused() {
        let path = Path::new("channels/worker/stable.ipxe");
        let mut pointer = Pointer::first("worker", "stable", id("1.4.0"));
        pointer.advance(id("1.4.1"));
        pointer.advance(id("1.4.2"));
        pointer.back().unwrap();
        let text = pointer.text();
        assert!(text.ends_with("\nchain --autofree ../../images/worker/1.4.1/boot.ipxe\n"), "{text}");
        assert_eq!(Pointer::parse(path, &text).unwrap(), pointer);
        let line = |text: &str| match Pointer::parse(path, text) {
            Err(Error::Pointer { line, .. }) => line,
            other => panic!("{other:?}"),
        };
        assert_eq!(line(&text.replace("chain", "echo hello\nchain")), 8);
        assert_eq!(line(&text.replace("1.4.1 sha", "../x sha")), 5);
        assert_eq!(line(&text.replace("# predecessor 1.4.0 sha256:ab", "# predecessor 1.4.0 sha256:")), 6);
        assert_eq!(line("#!ipxe\nchain elsewhere\n"), 1);
        assert_eq!(line(""), 1);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut pointer = Pointer::first("worker", "stable", id("0"));
        for version in 1..100 {
            pointer.advance(id(&version.to_string()));
        }
        assert_eq!(pointer.before.len(), MEMORY);
        assert_eq!(pointer.before[0], id("98"));
    }
}
