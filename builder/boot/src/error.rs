//! Why a bundle could not be booted at all. A boot that went wrong is no error but a [`crate::Report`].

use std::{io, path::PathBuf};

use netboot_init::net::Mac;

use crate::{BootPath, Fault, Forward, Missing};

/// Why a bundle could not be booted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// QEMU is not installed.
    #[error("{program} is not on the PATH; install it: apt-get install {package}")]
    NoQemu {
        /// The program looked for.
        program: &'static str,
        /// Debian's package that has it.
        package: &'static str,
    },
    /// Something that a way of booting needs is not installed.
    #[error("{path} cannot be booted here: {missing}")]
    Missing {
        /// The way.
        path: BootPath,
        /// What it lacks.
        missing: Missing,
    },
    /// KVM was asked for, and does not run guests here.
    #[error("guests cannot run with KVM here: {reason}; without --accel kvm they are emulated")]
    NoKvm {
        /// What came of the attempt.
        reason: String,
    },
    /// The probe is not carried for the bundle's machines.
    #[error("this imgbuild carries no probe for {arch}, so such a bundle cannot be tested; it takes one built with NETBOOT_PROGRAMS_{} (docs/arm64.md)", arch.to_uppercase())]
    NoProbe {
        /// The bundle's architecture.
        arch: String,
    },
    /// A network card cannot have that address.
    #[error("no network card can have the address {mac}: {reason}")]
    Nic {
        /// The address.
        mac: Mac,
        /// Why not.
        reason: &'static str,
    },
    /// A port of this machine that is to lead to the guest is not to be had.
    #[error("{forward} cannot be forwarded: port {} of 127.0.0.1 cannot be had", forward.host)]
    Forward {
        /// The ports.
        forward: Forward,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Ports are to be forwarded on a network that the user's own replaces.
    #[error(
        "ports cannot be forwarded: the network with the id net0 is one of the arguments for QEMU; add hostfwd= to it"
    )]
    Unplugged,
    /// The bundle is for a machine that no emulator is known for.
    #[error("bundles for {arch} cannot be booted by this imgbuild; it boots amd64 and arm64")]
    Arch {
        /// The bundle's architecture.
        arch: String,
    },
    /// The bundle has nothing to boot.
    #[error("{name} {version} has no kernel, so there is nothing to boot; give its recipe a [kernel]")]
    NoKernel {
        /// The image's name.
        name: String,
        /// Its version.
        version: String,
    },
    /// The kernel's command line would be too long.
    #[error("the kernel's command line has {length} bytes, and the kernel keeps {limit}; append less")]
    CommandLine {
        /// Its length in bytes.
        length: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// A kernel parameter to append would be changed on its way.
    #[error("`{word}` cannot be appended to the command line: iPXE would change it")]
    Append {
        /// The parameter.
        word: String,
    },
    /// A scenario that says nothing about an image or a way.
    #[error("--fault {fault} means nothing over {path} here: {reason}")]
    Fault {
        /// The scenario.
        fault: Fault,
        /// The way.
        path: BootPath,
        /// Why.
        reason: String,
    },
    /// A published folder has several images, or none.
    #[error("{} has {found}; name one of its images", dir.display())]
    WhichImage {
        /// The folder.
        dir: PathBuf,
        /// `no image with a channel`, or their names.
        found: String,
    },
    /// A hook cannot be given a root of its own.
    #[error(
        "a hook cannot be run apart from this machine ({said}); it takes user namespaces, which may be switched off, and util-linux"
    )]
    Namespace {
        /// What unshare or mount says.
        said: String,
    },
    /// The bundle is damaged or is none.
    #[error(transparent)]
    Bundle(#[from] imgbuild_bundle::Error),
    /// The published folder.
    #[error(transparent)]
    Publish(#[from] imgbuild_publish::Error),
    /// The boot server on loopback.
    #[error(transparent)]
    Serve(#[from] imgbuild_serve::Error),
    /// The initrd segment with the probe.
    #[error("cannot make the initrd segment with the probe")]
    Segment(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`, ….
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// QEMU could not be started, or its end not be awaited.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The user interrupted it.
    #[error("interrupted; the guest has been stopped")]
    Interrupted,
}

/// The error of an action on a path.
pub(crate) fn failed(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { action, path, source }
}
