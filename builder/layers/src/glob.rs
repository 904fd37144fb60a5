//! Globs over absolute paths, as recipes and overlay manifests write them: `*`, `?` and `[…]` stay within one name, `**`
//! crosses folders, `{a,b}` is a choice.

use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use thiserror::Error;

/// A pattern that is none.
#[derive(Debug, Error)]
pub enum GlobError {
    /// Not absolute.
    #[error("{pattern}: must be an absolute path of the image; write /{pattern}")]
    Relative {
        /// As written.
        pattern: String,
    },
    /// Not a glob.
    #[error("{pattern}: is no valid glob")]
    Syntax {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: globset::Error,
    },
}

/// Several patterns, matched at once.
#[derive(Debug)]
pub(crate) struct Globs {
    set: GlobSet,
}

impl Globs {
    pub(crate) fn new<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Self, GlobError> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(glob(pattern)?);
        }
        let pattern = || "all patterns together".to_owned();
        Ok(Self { set: set.build().map_err(|source| GlobError::Syntax { pattern: pattern(), source })? })
    }

    /// Which patterns match this absolute path, by their place in the list.
    pub(crate) fn matches(&self, path: &[u8], found: &mut Vec<usize>) {
        self.set.matches_candidate_into(&Candidate::from_bytes(path), found);
    }
}

fn glob(pattern: &str) -> Result<Glob, GlobError> {
    if !pattern.starts_with('/') {
        return Err(GlobError::Relative { pattern: pattern.to_owned() });
    }
    let trimmed = pattern.trim_end_matches('/');
    GlobBuilder::new(if trimmed.is_empty() { "/" } else { trimmed })
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|source| GlobError::Syntax { pattern: pattern.to_owned(), source })
}
