//! Reads, merges and checks recipes; knows the lock file.
//!
//! [`load`] makes one [`Recipe`] of files, what they include, parameters and settings from the command line:
//!
//! 1. Each file is read as TOML in which every key and value keeps its place (`load::value`).
//! 2. Later files are laid over earlier ones (`load::merge`), then settings (`load::set`).
//! 3. Parameters are put into strings (`load::params`).
//! 4. What came out is checked and made into plain types (`load::decode`, `load::recipe`, `load::layers`).
//!
//! No step stops at its first error. All of them come back at once as [`Diagnostics`], each with the file's own line, a
//! caret, and what to do. Whatever is read may come from anywhere: depth, length and growth by parameters are bounded,
//! and nothing panics.
//!
//! ```
//! let toml = "[image]\nname = \"web\"\nversoin = \"1\"\n";
//! let errors = imgbuild_recipe::load_with(&["-"], &["image.arch=arm46"], &mut toml.as_bytes()).unwrap_err();
//! let said: Vec<_> = errors.list().iter().map(|error| error.message.as_str()).collect();
//! assert_eq!(
//!     said,
//!     [
//!         "unknown key `versoin` in [image]",
//!         "\"arm46\" is not one of \"amd64\", \"arm64\"",
//!         "the recipe has no layer",
//!     ]
//! );
//! ```
//!
//! The doc comments of the types in `recipe`, `layer` and `check` are the JSON [`schema`] and the [`reference()`] page. A
//! new key is a field there, its name in the list of keys beside the code that reads it, and the reading; a test compares
//! the lists with the schema.
//!
//! [`Lock`] pins what a recipe names. [`Lock::disagreements`] says in sentences what has changed since it was written.

mod check;
mod diagnostics;
mod layer;
mod load;
pub mod lock;
mod oci;
mod paths;
mod recipe;
mod reference;
mod schema;
mod show;
mod values;

pub use check::{Pattern, Protocol, Test};
pub use diagnostics::{Diagnostic, DiagnosticKind, Diagnostics, Location};
pub use layer::{
    Copy, DebianLayer, FileLayer, Layer, LayerTable, OciLayer, OverlayLayer, Repository, Source, TarLayer, UrlLayer,
    Variant,
};
pub use load::{load, load_tests, load_with};
pub use lock::{Change, LocalHashes, Lock, LockError, LockedHook, LockedLayer, LockedPackage, LockedSource, Pin};
pub use oci::{DEFAULT_REGISTRY, DEFAULT_TAG, OciSource, RegistryRef, Select};
pub use recipe::{
    Algorithm, Allow, Arch, Budget, Compression, Delivery, Firmware, Hook, Image, Kernel, Lint, OnFailure, Overlay,
    Prune, PruneGroup, Recipe, Root, Stage, Tmpfs,
};
pub use reference::reference;
pub use schema::schema;
pub use values::{ByteSize, Mode, Seconds, Size, ValueError};
