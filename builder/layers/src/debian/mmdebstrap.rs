//! Running mmdebstrap: the one layer source that needs a helper process, as root or in a user namespace.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imgbuild_progress::Progress;
use imgbuild_recipe::LockedPackage;

use super::DebianError;
use super::sources::SourceLine;

/// Lines of mmdebstrap's own words that an error repeats.
const TAIL: usize = 12;
/// Where Debian keeps its archive's keys, outside of Debian too once `debian-archive-keyring` is installed.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What to build.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) layer: &'a str,
    pub(super) suite: &'a str,
    pub(super) variant: &'a str,
    pub(super) arch: &'a str,
    pub(super) sources: &'a [SourceLine],
    pub(super) keys: Vec<PathBuf>,
    pub(super) packages: &'a [String],
    /// Exact versions to take, when a lock names them.
    pub(super) pinned: &'a [LockedPackage],
    /// dpkg's path filters, in order.
    pub(super) dpkg_paths: Vec<String>,
    /// `SOURCE_DATE_EPOCH`.
    pub(super) epoch: i64,
}

/// Builds the layer's tar into `out`.
pub(super) fn run(job: &Job<'_>, out: &File, progress: &dyn Progress) -> Result<(), DebianError> {
    let scratch = tempfile::Builder::new()
        .prefix("imgbuild-debian-")
        .tempdir()
        .map_err(|source| DebianError::Scratch { path: std::env::temp_dir(), source })?;
    // setpriv (util-linux) has the kernel end mmdebstrap when this process is killed; nothing else would.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "mmdebstrap"]).args(arguments(job, scratch.path())?);
    // mmdebstrap takes its time stamps from this, and maintainer scripts of kernel packages make no initrd of their own
    // when INITRD says so: imgbuild makes the only one that boots.
    command.env("SOURCE_DATE_EPOCH", job.epoch.to_string()).env("INITRD", "No").env("LC_ALL", "C.UTF-8");
    command.env_remove("TMPDIR").stdin(Stdio::piped()).stderr(Stdio::piped());
    command
        .stdout(out.try_clone().map_err(|source| DebianError::Scratch { path: PathBuf::from("the cache"), source })?);
    let mut child = command.spawn().map_err(|source| DebianError::Start { source })?;
    if let Some(mut stdin) = child.stdin.take() {
        let list: String = job.sources.iter().map(|line| line.line() + "\n").collect();
        // A child that ends before it read its list says why on stderr.
        let _ = stdin.write_all(list.as_bytes());
    }
    let said = child.stderr.take().map(|stderr| follow(stderr, job.layer, progress)).unwrap_or_default();
    let status = child.wait().map_err(|source| DebianError::Start { source })?;
    if status.success() {
        return Ok(());
    }
    // setpriv's own words for a program that is not there; 127 as a shell has it.
    if status.code() == Some(127) {
        return Err(DebianError::Start { source: std::io::ErrorKind::NotFound.into() });
    }
    Err(DebianError::Failed { status: status.to_string(), said: blame(&said) })
}

fn arguments(job: &Job<'_>, scratch: &Path) -> Result<Vec<OsString>, DebianError> {
    let mut all: Vec<OsString> = vec![
        format!("--variant={}", job.variant).into(),
        format!("--architectures={}", job.arch).into(),
        "--format=tar".into(),
        // The lists hold the hash of every package; they are read from the tar and left out of the layer.
        "--skip=cleanup/apt/lists".into(),
    ];
    if !job.packages.is_empty() {
        all.push(format!("--include={}", job.packages.join(",")).into());
    }
    if Path::new(KEYRING).exists() {
        all.push(format!("--keyring={KEYRING}").into());
    }
    all.extend(job.keys.iter().map(|key| {
        let mut argument = OsString::from("--keyring=");
        argument.push(key);
        argument
    }));
    all.extend(job.dpkg_paths.iter().map(|filter| format!("--dpkgopt={filter}").into()));
    if !job.pinned.is_empty() {
        let file = scratch.join("pins");
        std::fs::write(&file, preferences(job.pinned))
            .map_err(|source| DebianError::Scratch { path: file.clone(), source })?;
        all.push(format!("--setup-hook=upload {} {PINS}", quoted(&file)).into());
        all.push(format!("--customize-hook=rm \"$1\"{PINS}").into());
    }
    all.push(job.suite.into());
    // The tar to stdout, the sources from stdin.
    all.push("-".into());
    all.push("-".into());
    Ok(all)
}

/// A path as one word of a shell: mmdebstrap splits a hook's line as a shell does.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// Where the pins lie while apt works.
const PINS: &str = "/etc/apt/preferences.d/99imgbuild-lock";

/// `apt_preferences(5)` that allow the locked versions, downgrades included, and no others of these packages.
fn preferences(pinned: &[LockedPackage]) -> String {
    pinned.iter().map(|p| format!("Package: {}\nPin: version {}\nPin-Priority: 1001\n\n", p.name, p.version)).collect()
}

/// Passes on what the child says and keeps its last words.
fn follow(stderr: impl std::io::Read, layer: &str, progress: &dyn Progress) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        // apt draws its progress with carriage returns.
        let line = String::from_utf8_lossy(&line).rsplit('\r').next().unwrap_or_default().trim_end().to_owned();
        if line.is_empty() {
            continue;
        }
        progress.detail(format!("layer {layer}: {line}"));
        kept.push(line);
        if kept.len() > 400 {
            kept.drain(..200);
        }
    }
    kept
}

/// The lines that name the cause, else the last ones.
fn blame(said: &[String]) -> String {
    // To apt, a signature by a key that it does not know is a warning; the error that follows knows nothing of keys.
    let named = ["E: ", "dpkg: error", "W: GPG error: "];
    let errors: Vec<_> = said.iter().filter(|l| named.iter().any(|name| l.starts_with(name))).cloned().collect();
    let chosen = if errors.is_empty() { said.to_vec() } else { errors };
    chosen[chosen.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_repeated_not_the_noise() {
        let said: Vec<String> =
            ["I: running apt-get update...", "E: Unable to locate package nosuch", "W: hooks"].map(Into::into).into();
        assert_eq!(blame(&said), "E: Unable to locate package nosuch");
        assert_eq!(blame(&said[..1]), "I: running apt-get update...");
        let said = ["W: GPG error: copy:/site stable InRelease: NO_PUBKEY 1", "E: It is not signed."].map(Into::into);
        assert_eq!(blame(&said), said.join("\n"));
        assert_eq!(blame(&[]), "");
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted(Path::new("/tmp/a b'c")), r"'/tmp/a b'\''c'");
    }

    #[test]
    fn pins_name_package_and_version() {
        let pin = LockedPackage { name: "a".into(), version: "1:2".into(), arch: "all".into(), sha256: String::new() };
        assert_eq!(preferences(&[pin]), "Package: a\nPin: version 1:2\nPin-Priority: 1001\n\n");
    }
}
