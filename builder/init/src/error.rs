//! Everything that can stop a boot, each with what to check.

use std::io;
use std::path::PathBuf;

use crate::{fetch, net};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can stop a boot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The initrd's configuration cannot be used.
    #[error("{path}: {what}")]
    Config {
        /// The file.
        path: String,
        /// Why.
        what: String,
    },
    /// The kernel command line asks for what cannot be done.
    #[error("the kernel command line: {}", .0.join("; "))]
    CommandLine(Vec<String>),
    /// A file could not be read or written.
    #[error("{what} {}", path.display())]
    File {
        /// The verb, for example `read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// A mount failed.
    #[error("mount {from} on {} (type {fstype}, options `{options}`)", target.display())]
    Mount {
        /// What.
        from: String,
        /// Where.
        target: PathBuf,
        /// As what.
        fstype: String,
        /// With which options.
        options: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The root could not be put behind a loop device.
    #[error("a loop device for {}: {what}", file.display())]
    Loop {
        /// The file.
        file: PathBuf,
        /// The call that failed.
        what: &'static str,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The node's configuration could not be had.
    #[error("{}", .0.iter().map(|(url, error)| format!("{url}: {error}")).collect::<Vec<_>>().join("\n"))]
    NodeConfigSources(fetch::Failures),
    /// The URL of the node's configuration asks for what this machine does not have.
    #[error("netboot.config={url}: {what}")]
    NodeConfigUrl {
        /// The URL as it was given.
        url: String,
        /// What is missing.
        what: String,
    },
    /// The node's configuration cannot be used.
    #[error("{}", .problems.iter().map(|problem| format!("{url}: {problem}")).collect::<Vec<_>>().join("\n"))]
    NodeConfig {
        /// Where it came from.
        url: String,
        /// Everything that is wrong with it.
        problems: Vec<String>,
    },
    /// Nobody said where the root is.
    #[error("no root: the initrd embeds none and the kernel command line has no netboot.root=")]
    NoRoot,
    /// The network.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// The download.
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// An embedded root is not the one that the build made.
    #[error("{} has SHA-256 {found} and {found_size} bytes, expected {expected} and {expected_size}", path.display())]
    EmbeddedRoot {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// Its length.
        found_size: u64,
        /// The hash that the build wrote down.
        expected: String,
        /// The length that the build wrote down.
        expected_size: u64,
    },
    /// A hook failed and its policy is not to go on.
    #[error("hook {name} {outcome}; its last lines: {tail}")]
    Hook {
        /// Its name.
        name: String,
        /// How it ended.
        outcome: String,
        /// Its last output.
        tail: String,
        /// What its recipe asks for.
        halt: bool,
    },
    /// The root has no init.
    #[error("the root has no program {0}")]
    NoInit(String),
    /// The root's init could not be started.
    #[error("start {path}")]
    Exec {
        /// The program.
        path: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: names the file.
    pub fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// What a field engineer should look at, a line each.
    #[must_use]
    pub fn what_to_check(&self) -> String {
        match self {
            Self::Config { .. } => {
                "whether kernel and initrd come from one bundle, and whether every initrd segment is \
                                    padded to 4 bytes (imgbuild pads to 512): a misaligned one is dropped silently"
                    .into()
            }
            Self::CommandLine(_) => {
                "the boot server's script that this node booted (boot.ipxe, /nodes/MAC.ipxe)".into()
            }
            Self::File { .. } => "whether the machine has memory left, and the root's contents".into(),
            Self::Mount { fstype, .. } => format!(
                "whether {fstype} is in this kernel or its module in this initrd (the kernel's own words are just above)"
            ),
            Self::Loop { .. } => "whether `loop` is in this kernel or its module in this initrd".into(),
            Self::NodeConfigSources(errors) => {
                let missing = errors.iter().any(|(_, e)| matches!(e, fetch::SourceError::Status { code: 404, .. }));
                if missing {
                    "that the boot server has a configuration under this name, and netboot.config= on the kernel command line"
                        .into()
                } else {
                    fetch::what_to_check(errors)
                }
            }
            Self::NodeConfigUrl { .. } => "the firmware's settings, or name the node by ${mac}".into(),
            Self::NodeConfig { .. } => {
                "the document on the boot server (docs/reference/node.md says what it may hold)".into()
            }
            Self::NoRoot => {
                "that the boot script passes netboot.root=http://SERVER/images/NAME/VERSION/root.squashfs".into()
            }
            Self::Net(error) => error.what_to_check(),
            Self::Fetch(error) => error.what_to_check(),
            Self::EmbeddedRoot { .. } => {
                "the machine's memory, and how the initrd came here: it is not what was built".into()
            }
            Self::Hook { name, .. } => {
                format!("the lines of `{name}` above, and its script; what it was given is in /run/netboot/env")
            }
            Self::NoInit(path) => {
                format!("that the recipe's layers bring {path} (Debian: package systemd-sysv), or set init=")
            }
            Self::Exec { .. } => "that the root is of this machine's architecture and has its dynamic linker".into(),
        }
    }
}
