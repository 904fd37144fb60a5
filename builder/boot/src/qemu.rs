//! Running QEMU: found, started, never left behind.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, arch::Arch, sys};

/// How long QEMU may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(3);

/// An emulator of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Qemu {
    /// The program's whole path.
    pub(crate) program: PathBuf,
    /// The architecture of its guests.
    pub(crate) arch: Arch,
}

impl Qemu {
    /// Finds the emulator for an architecture.
    pub(crate) fn find(arch: Arch) -> Result<Self, Error> {
        Self::find_in(arch, env::var_os("PATH").unwrap_or_default().as_os_str())
    }

    fn find_in(arch: Arch, path: &OsStr) -> Result<Self, Error> {
        let (program, package) = arch.emulator();
        env::split_paths(path)
            .map(|folder| folder.join(program))
            .find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file())
            .map(|program| Self { program, arch })
            .ok_or(Error::NoQemu { program, package })
    }

    /// Starts it. The guest dies with the calling thread at the latest, which must live as long as it is wanted.
    pub(crate) fn start(&self, arguments: &[OsString], io: [Stdio; 3]) -> Result<Guest, Error> {
        let [stdin, stdout, stderr] = io;
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(stdin).stdout(stdout).stderr(stderr);
        // QEMU's sound backends look for servers; a guest has none to offer.
        command.env("QEMU_AUDIO_DRV", "none");
        sys::die_with_parent(&mut command);
        let child = command.spawn().map_err(|source| Error::Run { program: self.program.clone(), source })?;
        Ok(Guest { child, program: self.program.clone() })
    }
}

/// A running guest; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) child: Child,
    program: PathBuf,
}

impl Guest {
    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(|source| Error::Run { program: self.program.clone(), source })
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus, Error> {
        self.child.wait().map_err(|source| Error::Run { program: self.program.clone(), source })
    }

    /// Ends it: asks, waits a little, kills. QEMU flushes its outputs when asked.
    pub(crate) fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // The child has not been waited for, so its number is still its own.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Escapes a value within an option such as `-drive file=…`, where a comma ends it.
pub(crate) fn value(path: &std::path::Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut escaped = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        escaped.push(*byte);
        if *byte == b',' {
            escaped.push(b',');
        }
    }
    OsString::from_vec(escaped)
}

/// An option made of text and paths.
pub(crate) fn option(parts: &[&OsStr]) -> OsString {
    let mut whole = OsString::new();
    for part in parts {
        whole.push(part);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_missing_qemu_is_named_with_its_package() {
        let empty = tempfile::tempdir().unwrap();
        let said = |arch| Qemu::find_in(arch, empty.path().as_os_str()).unwrap_err().to_string();
        assert_eq!(
            said(Arch::Amd64),
            "qemu-system-x86_64 is not on the PATH; install it: apt-get install qemu-system-x86"
        );
        assert!(said(Arch::Arm64).ends_with("apt-get install qemu-system-arm"));
    }

    #[test]
    fn commas_in_paths_do_not_end_an_option() {
        assert_eq!(value(Path::new("/a,b/c")), "/a,,b/c");
    }

    fn sleeper() -> Guest {
        let qemu = Qemu { program: "/bin/sleep".into(), arch: Arch::Amd64 };
        qemu.start(&["1000".into()], [Stdio::null(), Stdio::null(), Stdio::null()]).unwrap()
    }

    fn runs(pid: u32) -> bool {
        // A zombie has been killed, and only waits to be reaped by whoever inherits it.
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_dropped_guest_is_gone() {
        let guest = sleeper();
        let pid = guest.child.id();
        assert!(runs(pid));
        drop(guest);
        assert!(!runs(pid));
    }

    /// As when we are killed: nothing of ours runs, the guest goes all the same.
    #[test]
    fn a_guest_dies_with_who_started_it() {
        let pid = thread::spawn(|| {
            let guest = sleeper();
            let pid = guest.child.id();
            std::mem::forget(guest);
            pid
        })
        .join()
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while runs(pid) {
            assert!(Instant::now() < deadline, "it is still there");
            thread::sleep(Duration::from_millis(20));
        }
    }
}
