//! What can go wrong between a root tree and an initrd.

use std::io;

use thiserror::Error;

/// Why an initrd, or a part of it, cannot be made.
#[derive(Debug, Error)]
pub enum Error {
    /// The bytes of a file cannot be had.
    #[error("{path}: cannot be read")]
    Read {
        /// The file's path in the image.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("the initrd cannot be written")]
    Write(#[source] io::Error),
    /// Something that the archive format, or the kernel's reader of it, cannot hold.
    #[error("{path}: {reason}")]
    Unrepresentable {
        /// Path in the archive.
        path: String,
        /// Which limit it breaks.
        reason: String,
    },
    /// Two things want the same place in the initrd.
    #[error("{path}: {taken} stands there already in the initrd, so no {wanted} can be put there")]
    Taken {
        /// Absolute path in the initrd.
        path: String,
        /// What stands there.
        taken: &'static str,
        /// What should have been put there.
        wanted: &'static str,
    },
    /// A zstd level outside of what the kernel can be asked to decompress with.
    #[error(
        "zstd level {level} for an initrd: use {min} to {max}; beyond, the window takes more RAM than small nodes have"
    )]
    Level {
        /// What was asked for.
        level: i32,
        /// The lowest level.
        min: i32,
        /// The highest level.
        max: i32,
    },
    /// No kernel fits.
    #[error(
        "no kernel{}: {}; install one in a layer (Debian: linux-image-amd64) or correct `kernel.version`",
        wanted.as_ref().map(|w| format!(" matches version {w:?}")).unwrap_or_default(),
        if found.is_empty() { "the root has none".to_owned() } else { format!("the root has {}", found.join(", ")) }
    )]
    NoKernel {
        /// The recipe's glob.
        wanted: Option<String>,
        /// Releases that are there.
        found: Vec<String>,
    },
    /// Several kernels fit.
    #[error("{} kernels match{}: {}; name one of them in `kernel.version`", found.len(),
        wanted.as_ref().map(|w| format!(" version {w:?}")).unwrap_or_default(), found.join(", "))]
    SeveralKernels {
        /// The recipe's glob.
        wanted: Option<String>,
        /// Releases that fit.
        found: Vec<String>,
    },
    /// The version in the recipe is no glob.
    #[error("{glob:?} is no glob: {reason}")]
    Glob {
        /// The glob as the recipe has it.
        glob: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A kernel image that names another release than its file name does.
    #[error(
        "{path}: the file name says {expected}, the kernel in it {found}; image and modules would not fit together"
    )]
    KernelRelease {
        /// The kernel image.
        path: String,
        /// The release in its name.
        expected: String,
        /// The release in its header.
        found: String,
    },
    /// A kernel that was built without what an initrd needs.
    #[error("kernel {release} is built without CONFIG_{option}, so it cannot read this initrd; use another kernel")]
    KernelOption {
        /// The kernel's release.
        release: String,
        /// The option.
        option: &'static str,
    },
    /// A kernel without its modules.
    #[error("kernel {release} has no modules: the root has no directory {}", looked.join(" or "))]
    NoModules {
        /// The kernel's release.
        release: String,
        /// Where they were looked for.
        looked: Vec<String>,
    },
    /// A file that should be a kernel module, or an index of modules, and is not.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file in the image.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name in `kernel.modules` that stands for nothing.
    #[error("kernel.modules: {name:?} is {what} of kernel {release}{}",
        if nearest.is_empty() { String::new() } else { format!("; did you mean {}?", nearest.join(", ")) })]
    UnknownModule {
        /// The name in the recipe.
        name: String,
        /// `neither a module nor a built-in`, `no named set`.
        what: &'static str,
        /// The kernel's release.
        release: String,
        /// What is spelled most like it.
        nearest: Vec<String>,
    },
    /// A module needs one that is neither there nor built in.
    #[error(
        "{module} needs the module {dependency}, which kernel {release} neither has nor has built in; the image's \
        modules directory is incomplete: keep it out of `prune`"
    )]
    MissingDependency {
        /// Who needs it.
        module: String,
        /// What it needs.
        dependency: String,
        /// The kernel's release.
        release: String,
    },
    /// Modules that need each other.
    #[error("the modules {} depend on each other in a circle, so the kernel could load none of them", modules.join(", "))]
    DependencyCycle {
        /// The circle.
        modules: Vec<String>,
    },
}

/// A short form for this crate's results.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;
