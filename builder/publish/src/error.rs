//! What can go wrong on a boot server.

use std::{io, path::PathBuf};

/// Why a version was not published or a pointer not moved. Every channel then points where it did; a version that had been
/// copied whole may stay, for the next publication to find.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bundle to publish, or a published one, is damaged or is none.
    #[error(transparent)]
    Bundle(#[from] imgbuild_bundle::Error),
    /// A file or folder of the boot server.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`, `lock`, ….
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A name that cannot be a folder's, a URL's and a word in a boot script at once.
    #[error(
        "the {what} `{name}` cannot stand in a URL and a boot script; use letters, digits and . _ + ~ -, and begin with a letter or digit"
    )]
    Name {
        /// `image name`, `version`, `channel`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The version is there already, and is another one.
    #[error(
        "{} is published already and differs: {file} is {published} there and {offered} here; \
         a published version is never rewritten, give this one another version",
        path.display()
    )]
    Immutable {
        /// The published version's folder.
        path: PathBuf,
        /// The first file that differs.
        file: String,
        /// `sha256:…` of the published file, or `missing`.
        published: String,
        /// `sha256:…` of the bundle's file, or `missing`.
        offered: String,
    },
    /// What arrived is not what was sent.
    #[error("{file} was copied to {} and reads back as sha256:{found} instead of sha256:{expected}; is that disk sound?", path.display())]
    Copy {
        /// Where the copy lay; it has been removed.
        path: PathBuf,
        /// The file's name.
        file: String,
        /// The hash in `SHA256SUMS`.
        expected: String,
        /// The hash of what was read back.
        found: String,
    },
    /// A channel cannot point to a version that cannot boot.
    #[error("{name} {version} has no kernel, so no channel can boot it; publish it without a channel")]
    NothingToBoot {
        /// The image's name.
        name: String,
        /// Its version.
        version: String,
    },
    /// The channel does not exist.
    #[error("there is no channel {channel} of {name} on this boot server (no {}); {}", path.display(), list(.known))]
    NoChannel {
        /// The image's name.
        name: String,
        /// The channel asked for.
        channel: String,
        /// Where its pointer would be.
        path: PathBuf,
        /// The channels of that image.
        known: Vec<String>,
    },
    /// A rollback without a predecessor.
    #[error("channel {channel} of {name} stands at {version}, its first version: there is nothing to roll back to")]
    NoPredecessor {
        /// The image's name.
        name: String,
        /// The channel.
        channel: String,
        /// Where it stands.
        version: String,
    },
    /// A roll forward where nothing was rolled back.
    #[error("channel {channel} of {name} stands at {version} and was not rolled back from a later one")]
    NoSuccessor {
        /// The image's name.
        name: String,
        /// The channel.
        channel: String,
        /// Where it stands.
        version: String,
    },
    /// The version that a pointer is to go to is not the one it once pointed to.
    #[error(
        "the manifest of {} is sha256:{found}, but the channel knew that version as sha256:{expected}; \
         publish the right bundle under a new version",
        path.display()
    )]
    Changed {
        /// The version's folder.
        path: PathBuf,
        /// The hash in the pointer's history.
        expected: String,
        /// The hash of the manifest there.
        found: String,
    },
    /// A pointer that imgbuild did not write.
    #[error("{}:{line}: {reason}; it was not written by imgbuild or was edited: move it away and publish again", path.display())]
    Pointer {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

fn list(channels: &[String]) -> String {
    if channels.is_empty() { "it has none".to_owned() } else { format!("it has {}", channels.join(", ")) }
}
