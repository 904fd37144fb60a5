//! `imgbuild boot`: a guest with its console on this terminal.

use std::{
    ffi::OsString,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use imgbuild_bundle::KERNEL;
use imgbuild_progress::Progress;

use crate::{BootPath, Error, Machine, Source, accelerator, qemu::Qemu, way::Stage};

/// What makes the console the one that Linux uses, whatever the recipe says.
pub(crate) const CONSOLE: &str = "console=ttyS0,115200";

/// How often the guest's end and the user's interruption are looked for.
const TICK: Duration = Duration::from_millis(50);

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
/// As [`boot`], and [`Error::Interrupted`]. `pxe-uefi` is for tests: it takes somebody who reads the console.
pub fn boot_until(
    source: &Source,
    path: BootPath,
    machine: &Machine,
    interrupted: &AtomicBool,
    progress: &dyn Progress,
) -> Result<ExitStatus, Error> {
    if path == BootPath::PxeUefi {
        return Err(Error::Unattended { path });
    }
    let bundle = crate::way::bundle(source)?;
    let qemu = Qemu::find(&bundle.manifest().arch)?;
    if bundle.manifest().kernel.is_none() {
        return Err(crate::way::no_kernel(&bundle));
    }
    let accelerator = accelerator::choose(&qemu, &bundle.file(KERNEL), machine.cpus, &machine.cache, progress);
    let mut append = vec![CONSOLE.to_owned()];
    append.extend(accelerator.parameter().map(str::to_owned));
    append.extend(machine.append.iter().cloned());
    let stage = Stage::new(source, path, None, &append, progress)?;
    let mut arguments = machine.arguments(accelerator, &stage);
    arguments.extend(["-serial", "mon:stdio"].map(OsString::from));
    progress.note(format!(
        "{} {} with {} MiB over {path}; Ctrl-A X ends the guest, Ctrl-A C reaches QEMU's monitor",
        stage.bundle.manifest().name,
        stage.bundle.manifest().version,
        machine.memory(stage.bundle.manifest()) >> 20
    ));
    let mut guest = qemu.start(&arguments, [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()])?;
    loop {
        if let Some(status) = guest.ended()? {
            return Ok(status);
        }
        if interrupted.load(Ordering::Relaxed) {
            guest.stop();
            return Err(Error::Interrupted);
        }
        thread::sleep(TICK);
    }
}
