//! `imgbuild boot`: a guest with its console on this terminal.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use imgbuild_bundle::KERNEL;
use imgbuild_progress::Progress;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::{
    BootPath, Error, Machine, Source, accelerator,
    arch::Arch,
    error::failed,
    firmware::can_boot,
    qemu::{Qemu, option, value},
    terminal::Terminal,
    way::{self, Stage},
};

/// How often the guest's end, the user's interruption and what is on the console are looked for.
const TICK: Duration = Duration::from_millis(50);
/// What iPXE says first of all.
const IPXE: &[u8] = b"iPXE ";

/// Boots in QEMU with the serial console on standard input and output; returns when the guest is switched off or QEMU
/// is left with Ctrl-A X. The status is QEMU's.
///
/// # Errors
/// When there is nothing to boot or nothing to boot it with.
pub fn boot(source: &Source, path: BootPath, machine: &Machine, progress: &dyn Progress) -> Result<ExitStatus, Error> {
    boot_until(source, path, machine, &AtomicBool::new(false), progress)
}

/// The same, until a signal handler of the caller's sets `interrupted`: the guest then ends, and nothing is left behind.
/// Ctrl-C on the terminal is the guest's; a terminal that is closed, or `kill`, is the handler's.
///
/// # Errors
/// As [`boot`], and [`Error::Interrupted`].
pub fn boot_until(
    source: &Source,
    path: BootPath,
    machine: &Machine,
    interrupted: &AtomicBool,
    progress: &dyn Progress,
) -> Result<ExitStatus, Error> {
    let bundle = way::bundle(source)?;
    let qemu = Qemu::find(Arch::parse(&bundle.manifest().arch)?)?;
    can_boot(path, &bundle.manifest().arch, machine.ipxe.as_deref())
        .map_err(|missing| Error::Missing { path, missing })?;
    if bundle.manifest().kernel.is_none() {
        return Err(way::no_kernel(&bundle));
    }
    let accelerator = accelerator::choose(&qemu, &bundle.file(KERNEL), machine, progress)?;
    let mut append = vec![qemu.arch.console().to_owned()];
    append.extend(accelerator.parameter(qemu.arch).map(str::to_owned));
    append.extend(machine.append.iter().cloned());
    let stage = Stage::new(source, path, machine, None, &append, progress)?;
    let mut arguments = machine.arguments(qemu.arch, accelerator, &stage);
    let mut copy = None;
    if path == BootPath::PxeUefi {
        let console = Copy::new(stage.folder())?;
        arguments.extend(console.arguments());
        copy = Some(console);
    } else {
        arguments.extend(["-serial", "mon:stdio"].map(OsString::from));
    }
    progress.note(format!(
        "{} {} with {} MiB over {path}; Ctrl-A X ends the guest, Ctrl-A C reaches QEMU's monitor",
        stage.bundle.manifest().name,
        stage.bundle.manifest().version,
        machine.memory(stage.bundle.manifest()) >> 20
    ));
    for forward in &machine.forwards {
        let protocol = if forward.udp { "UDP" } else { "TCP" };
        progress.note(format!("{protocol} port {} of 127.0.0.1 is the guest's {}", forward.host, forward.guest));
    }
    // Before the guest, so that it is the last to go.
    let _terminal = Terminal::keep();
    let mut guest = qemu.start(&arguments, [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()])?;
    loop {
        if let Some(status) = guest.ended()? {
            return Ok(status);
        }
        if interrupted.load(Ordering::Relaxed) {
            guest.stop();
            return Err(Error::Interrupted);
        }
        if let Some(copy) = &mut copy
            && copy.says_ipxe()
        {
            stage.ipxe_runs()?;
        }
        thread::sleep(TICK);
    }
}

/// A copy of what the guest writes on its console, for the sake of [`Stage::ipxe_runs`]: QEMU writes it into a pipe with a
/// name, and it is gone once read.
struct Copy {
    pipe: File,
    path: OsString,
    /// The end of what was read, in which the word sought may have begun.
    end: Vec<u8>,
}

impl Copy {
    fn new(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("console");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(|error| failed("make the pipe", &path)(error.into()))?;
        // For reading and writing, so that it has a reader before QEMU writes, and no end while QEMU does not.
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let pipe = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nonblocking)
            .open(&path)
            .map_err(failed("open the pipe", &path))?;
        Ok(Self { pipe, path: value(&path), end: Vec::new() })
    }

    /// QEMU's options for a console on standard input and output, as `mon:stdio` is, and the copy.
    fn arguments(&self) -> [OsString; 6] {
        let stdio = "stdio,id=console,mux=on,signal=off,logfile=";
        let console = option(&[stdio.as_ref(), &self.path]);
        [
            "-chardev".into(),
            console,
            "-serial".into(),
            "chardev:console".into(),
            "-mon".into(),
            "chardev=console".into(),
        ]
    }

    /// Reads what has come; whether iPXE has said its name.
    fn says_ipxe(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let mut says = false;
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(read @ 1..) => {
                    self.end.extend(buffer.get(..read).unwrap_or_default());
                    says |= self.end.windows(IPXE.len()).any(|window| window == IPXE);
                    let rest = self.end.len().saturating_sub(IPXE.len() - 1);
                    self.end.drain(..rest);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return says,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn ipxe_is_seen_wherever_the_pipe_cuts_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut copy = Copy::new(folder.path()).unwrap();
        let mut guest = OpenOptions::new().write(true).open(folder.path().join("console")).unwrap();
        assert!(!copy.says_ipxe());
        guest.write_all(b"BdsDxe: starting Boot0001 \"UEFI PXEv4\"\r\niP").unwrap();
        assert!(!copy.says_ipxe());
        guest.write_all(b"XE initialising devices...").unwrap();
        assert!(copy.says_ipxe());
        guest.write_all(&vec![b'x'; 40_000]).unwrap();
        assert!(!copy.says_ipxe());
        assert_eq!(copy.end, b"xxxx");
    }
}
