//! Bundles: manifest, version, lint, SBOM and boot files, and reading them back for inspection.
//!
//! A bundle is a folder (design §5): `vmlinuz`, `initrd.img`, `root.squashfs`, `manifest.json`, `sbom.spdx.json`, the
//! boot loaders' files and `SHA256SUMS`. It is written under another name and renamed when it is whole.

pub mod bootfiles;
pub mod budget;
mod bundle;
pub mod diff;
mod elf;
mod error;
pub mod inspect;
pub mod lint;
pub mod manifest;
pub mod packages;
mod reading;
pub mod sbom;
pub mod scan;
mod staging;
pub mod sums;
#[cfg(test)]
mod testing;
pub mod time;
pub mod treemap;

pub use bundle::{Bundle, INITRD, KERNEL, ROOT, hash};
pub use error::Error;
pub(crate) use hex::encode as hex;
pub use reading::RootFile;
pub use staging::Staging;
