//! The file that gives an overlay's paths other owners, modes and attributes, and makes links.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use imgbuild_tree::{Content, EntryKind, Metadata};
use serde::Deserialize;

use super::OverlayError;
use crate::glob::Globs;

/// Name of the manifest, at the top of the overlay. It does not get into the image.
///
/// ```toml
/// [[entry]]
/// path = "/etc/ssl/private/**"   # absolute glob over what the overlay holds
/// kind = "file"                  # optional: only these; "file", "folder" or "link"
/// mode = 0o640                   # or "0640"
/// uid = 0
/// gid = 42
/// xattrs = { "user.note" = "text", "security.capability" = "0x0100000200200000…" }
///
/// [[link]]                       # a symbolic link, which not every archive and version control system keeps
/// path = "/etc/systemd/system/multi-user.target.wants/site.service"
/// target = "../site.service"
/// ```
///
/// Of several entries for a path the last one that says something counts. An entry that matches nothing is an error. A
/// folder that an entry speaks of takes what it says even where lower layers have the folder already.
pub const MANIFEST: &str = ".imgbuild-overlay.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    entry: Vec<Rule>,
    #[serde(default)]
    link: Vec<Link>,
}

/// A symbolic link that the manifest makes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    /// Where, absolute and without `.` and `..`.
    pub(super) path: String,
    /// What it holds.
    pub(super) target: String,
}

impl Link {
    /// What is wrong with it, if anything.
    fn fault(&self) -> Option<String> {
        let parts = self.path.strip_prefix('/').map(|rest| rest.split('/'));
        let sound = parts.is_some_and(|mut parts| parts.all(|part| !matches!(part, "" | "." | "..")));
        if !sound || self.path.contains('\0') {
            return Some(format!("[[link]] path = {:?} is no absolute path without . and ..", self.path));
        }
        let empty = self.target.is_empty() || self.target.contains('\0');
        empty.then(|| format!("[[link]] {}: target = {:?} can be in no link", self.path, self.target))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    path: String,
    kind: Option<RuleKind>,
    mode: Option<Mode>,
    uid: Option<u32>,
    gid: Option<u32>,
    #[serde(default)]
    xattrs: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RuleKind {
    File,
    Folder,
    Link,
}

/// Permission bits, as a number or as octal digits in a string.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "ModeText")]
struct Mode(u16);

#[derive(Deserialize)]
#[serde(untagged)]
enum ModeText {
    Number(u32),
    Digits(String),
}

impl TryFrom<ModeText> for Mode {
    type Error = String;

    fn try_from(text: ModeText) -> Result<Self, String> {
        let bits = match text {
            ModeText::Number(bits) => Some(bits),
            ModeText::Digits(digits) => u32::from_str_radix(digits.trim_start_matches("0o"), 8).ok(),
        };
        match bits.map(u16::try_from) {
            Some(Ok(bits @ 0..=0o7777)) => Ok(Self(bits)),
            _ => Err("a mode is at most 0o7777; write 0o755 or \"0755\"".to_owned()),
        }
    }
}

/// An attribute's bytes: text, or hexadecimal digits after `0x` as getfattr prints them.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Value(Box<[u8]>);

impl TryFrom<String> for Value {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Some(digits) = text.strip_prefix("0x") else { return Ok(Self(text.into_bytes().into())) };
        let bytes = hex::decode(digits).map_err(|_| "after 0x an even number of hexadecimal digits must follow")?;
        Ok(Self(bytes.into()))
    }
}

/// The rules, ready to be asked.
#[derive(Debug)]
pub(super) struct Manifest {
    path: PathBuf,
    rules: Vec<Rule>,
    /// The links that it makes.
    pub(super) links: Vec<Link>,
    globs: Globs,
}

impl Manifest {
    /// Reads the manifest; without a file there are no rules.
    pub(super) fn read(path: &Path) -> Result<Self, OverlayError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(OverlayError::Io { path: path.to_path_buf(), source }),
        };
        let file: File = toml::from_str(&text).map_err(|e| OverlayError::Manifest {
            path: path.to_path_buf(),
            reason: e.to_string().trim_end().to_owned(),
        })?;
        if let Some(reason) = file.link.iter().find_map(Link::fault) {
            return Err(OverlayError::Manifest { path: path.to_path_buf(), reason });
        }
        let globs = Globs::new(file.entry.iter().map(|rule| rule.path.as_str()))
            .map_err(|source| OverlayError::ManifestGlob { path: path.to_path_buf(), source })?;
        Ok(Self { path: path.to_path_buf(), rules: file.entry, links: file.link, globs })
    }

    pub(super) fn matcher(&self) -> Matcher<'_> {
        Matcher { manifest: self, used: vec![false; self.rules.len()], found: Vec::new() }
    }
}

/// Asks the rules and notes which ones had something to say.
pub(super) struct Matcher<'m> {
    manifest: &'m Manifest,
    used: Vec<bool>,
    found: Vec<usize>,
}

impl Matcher<'_> {
    /// Changes the metadata as the rules say; returns the kind, a folder that is spoken of being stated.
    pub(super) fn apply(
        &mut self,
        path: &[u8],
        mut kind: EntryKind<Content>,
        meta: &mut Metadata,
    ) -> EntryKind<Content> {
        self.manifest.globs.matches(path, &mut self.found);
        for i in &self.found {
            let Some((rule, used)) = self.manifest.rules.get(*i).zip(self.used.get_mut(*i)) else { continue };
            let is = match kind {
                EntryKind::Symlink(_) => RuleKind::Link,
                EntryKind::Parent | EntryKind::Directory => RuleKind::Folder,
                _ => RuleKind::File,
            };
            if rule.kind.is_some_and(|wanted| wanted != is) {
                continue;
            }
            *used = true;
            if is == RuleKind::Folder {
                kind = EntryKind::Directory;
            }
            // A link's mode means nothing and is 0777 everywhere.
            if let (Some(Mode(mode)), true) = (rule.mode, is != RuleKind::Link) {
                meta.mode = mode;
            }
            meta.uid = rule.uid.unwrap_or(meta.uid);
            meta.gid = rule.gid.unwrap_or(meta.gid);
            for (name, value) in &rule.xattrs {
                meta.xattrs.insert(name.as_bytes().into(), value.0.clone());
            }
        }
        kind
    }

    /// Fails when a rule matched nothing.
    pub(super) fn finish(self) -> Result<(), OverlayError> {
        match self.used.iter().position(|used| !used).and_then(|i| self.manifest.rules.get(i)) {
            None => Ok(()),
            Some(rule) => Err(OverlayError::Unmatched { path: self.manifest.path.clone(), pattern: rule.path.clone() }),
        }
    }
}
