//! `imgbuild diff`: how two bundles, or two bare squashfs images, differ.
//!
//! [`Side::open`] reads each, [`compare`] says how they differ, [`text`] shows that to people. What [`Difference`]
//! becomes in JSON is an interface: its JSON Schema is `docs/reference/diff.schema.json`, and [`SCHEMA`] changes when a
//! reader of the old would misread the new.

mod facts;
mod files;
mod owners;
mod packages;
mod root;
mod side;
mod sizes;
mod text;

use std::io;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::Error;

pub use facts::{Artifact, Facts, HookChange, KernelChange, LayerChange, SettingChange, Words};
pub use files::{Aspect, FileChange, FileState, Files};
pub use owners::Owners;
pub use packages::{PackageChange, Versions};
pub use root::Root;
pub use side::{Contents, Side, Subject, SubjectKind};
pub use sizes::{Contribution, Contributions, Sizes};
pub use text::{Shown, text};

/// Version of the JSON form of [`Difference`].
pub const SCHEMA: u32 = 1;

/// How two bundles or images differ. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Difference {
    /// Version of this structure: 1.
    pub schema: u32,
    /// Whether nothing differs, down to the bytes of each of their files.
    pub equal: bool,
    /// The first.
    pub before: Subject,
    /// The second.
    pub after: Subject,
    /// How large the parts are.
    pub sizes: Sizes,
    /// What each layer, folder and package adds to the unpacked root, those that differ only, largest difference first.
    pub contributions: Contributions,
    /// The root's packages.
    pub packages: Vec<PackageChange>,
    /// The root's files.
    pub files: Files,
    /// Everything that is told by manifest and initrd; of images nothing.
    #[serde(flatten)]
    pub facts: Facts,
}

/// What happened to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it, and it differs.
    Changed,
    /// Both have it, under different names.
    Renamed,
}

impl Change {
    /// The change in a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Renamed => "renamed",
        }
    }

    /// What happened to something that was there, or not, before and after.
    fn of<T>(before: Option<&T>, after: Option<&T>) -> Self {
        match (before, after) {
            (None, _) => Self::Added,
            (_, None) => Self::Removed,
            _ => Self::Changed,
        }
    }
}

/// A value in the first and in the second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pair<T> {
    /// In the first.
    pub before: T,
    /// In the second.
    pub after: T,
}

impl<T: PartialEq> Pair<T> {
    /// Both, if they differ.
    fn if_different(before: T, after: T) -> Option<Self> {
        (before != after).then_some(Self { before, after })
    }
}

/// Why two things cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] Error),
    /// A path leads to neither a bundle nor an image.
    #[error("{} is {found}; name a bundle's folder, or a squashfs image", path.display())]
    Neither {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A squashfs image cannot be read.
    #[error("cannot read the squashfs image {}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An initrd cannot be read.
    #[error("cannot read the initrd {}", path.display())]
    Initrd {
        /// The initrd.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file in a root cannot be read.
    #[error("cannot read {path} in the root of {}", root.display())]
    Content {
        /// The bundle or image.
        root: PathBuf,
        /// Path in the root.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Compares two of them.
///
/// # Errors
/// When a file whose content has to be compared cannot be read; when nothing differs, and a bundle is not what its manifest says.
pub fn compare(before: &Side, after: &Side) -> Result<Difference, DiffError> {
    let files = files::compare(&before.root, &after.root)?;
    let sizes = Sizes::of(before, after);
    let facts = Facts::of(before, after)?;
    let packages = packages::compare(&before.packages, &after.packages);
    let contributions = Contributions::of(&before.root, &after.root);
    // An image's bytes are among the artifacts, so what is not listed file by file (its compression) counts, too.
    let equal = facts.are_empty() && files.list.is_empty() && files.time_only == 0 && packages.is_empty();
    if equal {
        before.confirm()?;
        after.confirm()?;
    }
    Ok(Difference {
        schema: SCHEMA,
        equal,
        before: before.subject.clone(),
        after: after.subject.clone(),
        sizes,
        contributions,
        packages,
        files,
        facts,
    })
}

/// The JSON Schema of [`Difference`], with a line end.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.contract = schemars::generate::Contract::Serialize)
        .into_generator()
        .into_root_schema_for::<Difference>();
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
