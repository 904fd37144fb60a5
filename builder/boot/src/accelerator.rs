//! KVM, if it can be shown to run a guest; else emulation.
//!
//! `/dev/kvm` that opens proves nothing. In a virtual machine, the guest may hang at its first instruction, QEMU may abort
//! over a register that the host does not have, or a boot sector runs and Linux hangs as soon as it leaves real mode: all
//! three have been met. So a guest of 512 bytes is run first, whose boot sector ends QEMU with a status of its own, and
//! then the very kernel that is to be booted, without a root, up to its panic about that. The verdict holds as long as
//! the host stays booted with the same QEMU, and is kept in the cache; a boot that hangs all the same takes it back
//! ([`distrust`]). Whoever asks for one of the two gets that one or an error.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use imgbuild_progress::Progress;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Machine,
    arch::Arch,
    error::failed,
    qemu::{self, Qemu},
};

/// How long the tiny guest may take. It needs a fifth of a second, emulated too.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a kernel may take to find out that it has no root: emulated, it needs four seconds.
const KERNEL_PATIENCE: Duration = Duration::from_secs(30);
/// What Linux says last when nobody gives it a root (`mount_root` in `init/do_mounts.c` panics).
const NO_ROOT: &[u8] = b"Kernel panic - not syncing";
/// Prints nothing, needs nothing: `mov dx, 0xf4; mov al, 0x10; out dx, al`, then `hlt` for ever.
const CODE: [u8; 9] = [0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4, 0xeb, 0xfd];
/// What QEMU's `isa-debug-exit` makes of 0x10: `(value << 1) | 1`.
const STATUS: i32 = 0x21;
/// Where the verdict is kept, in the cache.
const VERDICT: &str = "accelerator.json";

/// How guests run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor's virtualisation.
    Kvm,
    /// Emulation: ten times slower and more.
    Tcg,
}

impl Accelerator {
    /// QEMU's options for it.
    pub(crate) fn arguments(self, arch: Arch) -> Vec<OsString> {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", arch.processor()],
        }
        .map(OsString::from)
        .to_vec()
    }

    /// The kernel parameter it needs. Under KVM the kernel knows its timers by itself.
    pub(crate) fn parameter(self, arch: Arch) -> Option<&'static str> {
        match self {
            Self::Kvm => None,
            Self::Tcg => arch.emulated_parameter(),
        }
    }

    /// Its name as QEMU has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What was found, and for what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    accelerator: Accelerator,
    reason: String,
    /// The host: its boot and kernel, the emulator and when that was installed.
    host: Vec<String>,
}

/// The accelerator for a machine that runs `kernel`: the one that was asked for, else what works; reports the reason.
///
/// # Errors
/// [`Error::NoKvm`] when KVM was asked for and does not work.
pub(crate) fn choose(
    qemu: &Qemu,
    kernel: &Path,
    machine: &Machine,
    progress: &dyn Progress,
) -> Result<Accelerator, Error> {
    if machine.accelerator == Some(Accelerator::Tcg) {
        progress.note("guests are emulated, which is slow: that was asked for".to_owned());
        return Ok(Accelerator::Tcg);
    }
    let verdict = verdict(qemu, kernel, machine, progress);
    match (verdict.accelerator, machine.accelerator) {
        (Accelerator::Tcg, Some(_)) => return Err(Error::NoKvm { reason: verdict.reason }),
        (Accelerator::Tcg, None) => progress.note(format!("guests are emulated, which is slow: {}", verdict.reason)),
        (Accelerator::Kvm, _) => progress.detail(format!("guests run with KVM: {}", verdict.reason)),
    }
    Ok(verdict.accelerator)
}

/// Whether KVM works: as is known, else as is tried now. A guest of another architecture never has it.
fn verdict(qemu: &Qemu, kernel: &Path, machine: &Machine, progress: &dyn Progress) -> Verdict {
    let host = host(qemu);
    if Arch::host() != Some(qemu.arch) {
        let reason = format!("this machine is {}, and the guest {}", std::env::consts::ARCH, qemu.arch.name());
        return Verdict { accelerator: Accelerator::Tcg, reason, host };
    }
    let path = machine.cache.join(VERDICT);
    let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
    // Who asks for KVM does not want to hear what once came of it.
    let holds = |verdict: &Verdict| {
        verdict.host == host && (verdict.accelerator == Accelerator::Kvm || machine.accelerator.is_none())
    };
    known.filter(holds).unwrap_or_else(|| {
        let (accelerator, reason) = probe(qemu, Path::new("/dev/kvm"), kernel, machine.cpus);
        let verdict = Verdict { accelerator, reason, host };
        remember(&path, &verdict, progress);
        verdict
    })
}

/// Takes back that KVM works here: a guest has shown that it does not.
pub(crate) fn distrust(qemu: &Qemu, reason: &str, cache: &Path, progress: &dyn Progress) {
    let verdict = Verdict { accelerator: Accelerator::Tcg, reason: reason.to_owned(), host: host(qemu) };
    remember(&cache.join(VERDICT), &verdict, progress);
}

fn remember(path: &Path, verdict: &Verdict, progress: &dyn Progress) {
    if let Err(error) = keep(path, verdict) {
        progress.detail(format!("the verdict on KVM is not kept: {error}"));
    }
}

fn host(qemu: &Qemu) -> Vec<String> {
    let text = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let device = fs::metadata("/dev/kvm").map(|device| {
        use std::os::unix::fs::MetadataExt;
        format!("{:o} {}:{}", device.mode(), device.uid(), device.gid())
    });
    let user = rustix::process::geteuid().as_raw();
    let installed = fs::metadata(&qemu.program).and_then(|file| file.modified());
    vec![
        text("/proc/sys/kernel/random/boot_id"),
        text("/proc/sys/kernel/osrelease"),
        format!("{} {installed:?}", qemu.program.display()),
        format!("{} user {user}", device.unwrap_or_else(|_| "no /dev/kvm".to_owned())),
    ]
}

fn keep(path: &Path, verdict: &Verdict) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
    let file = tempfile::NamedTempFile::new_in(folder).map_err(failed("write in", folder))?;
    serde_json::to_writer(&file, verdict).map_err(|error| failed("write", path)(io::Error::from(error)))?;
    file.persist(path).map_err(|error| failed("write", path)(error.error))?;
    Ok(())
}

/// Runs the tiny guest and then the kernel under KVM and says what came of it.
fn probe(qemu: &Qemu, device: &Path, kernel: &Path, cpus: u32) -> (Accelerator, String) {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(device) {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "this machine offers no virtualisation",
            io::ErrorKind::PermissionDenied => "add this user to the group kvm",
            _ => "KVM is not usable",
        };
        return (Accelerator::Tcg, format!("{} cannot be opened ({error}); {hint}", device.display()));
    }
    let tiny = match qemu.arch {
        Arch::Amd64 => tiny_guest(qemu, Accelerator::Kvm).map(drop),
        // The boot sector is a PC's.
        Arch::Arm64 => Ok(()),
    };
    match tiny.and_then(|()| rootless_kernel(qemu, Accelerator::Kvm, kernel, cpus)) {
        Ok(took) => (Accelerator::Kvm, format!("the kernel ran in {:.1} s", took.as_secs_f64())),
        Err(reason) => (Accelerator::Tcg, format!("KVM is there, but {reason}")),
    }
}

/// Runs the guest that ends by itself; how long it took, or what it did instead.
fn tiny_guest(qemu: &Qemu, accelerator: Accelerator) -> Result<Duration, String> {
    let said = |what: &'static str| move |error: &dyn std::fmt::Display| format!("{what}: {error}");
    let folder = tempfile::tempdir().map_err(|error| said("no temporary folder")(&error))?;
    let disk: PathBuf = folder.path().join("sector");
    let mut sector = [0_u8; 512];
    sector[..CODE.len()].copy_from_slice(&CODE);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&disk, sector).map_err(|error| said("no temporary file")(&error))?;
    let mut arguments = accelerator.arguments(qemu.arch);
    arguments
        .extend(["-nodefaults", "-no-user-config", "-display", "none", "-m", "32", "-no-reboot"].map(OsString::from));
    arguments.extend(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-drive"].map(OsString::from));
    arguments.push(qemu::option(&["format=raw,if=floppy,file=".as_ref(), &qemu::value(&disk)]));
    let began = Instant::now();
    let mut guest = qemu
        .start(&arguments, [Stdio::null(), Stdio::null(), Stdio::null()])
        .map_err(|error| said("QEMU does not start")(&error))?;
    loop {
        match guest.ended() {
            Ok(Some(status)) if status.code() == Some(STATUS) => return Ok(began.elapsed()),
            Ok(Some(status)) => return Err(format!("QEMU ended with {status} instead of running a guest")),
            Ok(None) if began.elapsed() > PATIENCE => {
                return Err(format!("a tiny guest hung for {} s", PATIENCE.as_secs()));
            }
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(said("QEMU is lost")(&error)),
        }
    }
}

/// Boots the kernel with nothing to mount, with the machine and the processors of the boot to come, until it panics over
/// that; how long it took, or what it did instead.
fn rootless_kernel(qemu: &Qemu, accelerator: Accelerator, kernel: &Path, cpus: u32) -> Result<Duration, String> {
    let mut arguments = accelerator.arguments(qemu.arch);
    arguments
        .extend(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256"].map(OsString::from));
    arguments.extend(["-machine", qemu.arch.machine(), "-serial", "stdio", "-smp"].map(OsString::from));
    arguments.extend([cpus.max(1).to_string().into(), "-kernel".into(), kernel.into(), "-append".into()]);
    let words = [qemu.arch.console(), "panic=-1", "root=/dev/ram0"].into_iter().chain(accelerator.parameter(qemu.arch));
    arguments.push(words.collect::<Vec<_>>().join(" ").into());
    let began = Instant::now();
    let mut guest = qemu
        .start(&arguments, [Stdio::null(), Stdio::piped(), Stdio::null()])
        .map_err(|error| format!("QEMU does not start: {error}"))?;
    let (send, said) = mpsc::channel();
    let reader = guest.child.stdout.take().map(|mut stdout| {
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                if send.send(buffer.get(..read).unwrap_or_default().to_vec()).is_err() {
                    return;
                }
            }
        })
    });
    let mut console = Vec::new();
    let verdict = loop {
        match said.recv_timeout(Duration::from_millis(50)) {
            Ok(bytes) => console.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => break Err("QEMU ended before the kernel had come up".to_owned()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if console.windows(NO_ROOT.len()).any(|window| window == NO_ROOT) {
            break Ok(began.elapsed());
        }
        if began.elapsed() > KERNEL_PATIENCE {
            let last =
                String::from_utf8_lossy(&console).lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned);
            let last =
                last.map_or_else(|| "it said nothing".to_owned(), |line| format!("its last line: {}", line.trim()));
            break Err(format!("a kernel hung for {} s ({last})", KERNEL_PATIENCE.as_secs()));
        }
    };
    guest.stop();
    drop(said);
    if let Some(reader) = reader {
        let _ = reader.join();
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use imgbuild_progress::{Event, Silent};
    use std::{process::Command, sync::Mutex};

    fn qemu() -> Qemu {
        Qemu::find(Arch::Amd64).expect("qemu-system-x86 is installed")
    }

    #[test]
    fn the_tiny_guest_runs_and_says_so() {
        tiny_guest(&qemu(), Accelerator::Tcg).unwrap();
    }

    #[test]
    fn a_guest_that_ends_otherwise_is_no_proof() {
        let not_qemu = Qemu { program: "/bin/false".into(), arch: Arch::Amd64 };
        assert!(tiny_guest(&not_qemu, Accelerator::Kvm).unwrap_err().contains("instead of running a guest"));
        let temp = tempfile::tempdir().unwrap();
        let (accelerator, reason) = probe(&not_qemu, &temp.path().join("kvm"), Path::new("/none"), 1);
        assert_eq!(accelerator, Accelerator::Tcg);
        assert!(reason.contains("offers no virtualisation"), "{reason}");
    }

    /// A program in QEMU's place.
    fn pretender(folder: &Path, script: &str) -> Qemu {
        let program = folder.join("qemu");
        // By another process: one that another test starts meanwhile would hold it open for writing, and then it cannot be run.
        let write = ["-c", "printf '#!/bin/sh\n%s\n' \"$2\" >\"$1\" && chmod 755 \"$1\"", "write"];
        assert!(Command::new("sh").args(write).arg(&program).arg(script).status().unwrap().success());
        Qemu { program, arch: Arch::Amd64 }
    }

    #[test]
    fn a_kernel_has_come_up_when_it_misses_its_root_and_not_before() {
        let temp = tempfile::tempdir().unwrap();
        let run = |script: &str| {
            rootless_kernel(&pretender(temp.path(), script), Accelerator::Kvm, Path::new("/boot/vmlinuz"), 2)
        };
        let good =
            "printf 'Linux version 6\\r\\n[ 1.0] Kernel panic - not syn'; sleep 0.1; echo 'cing: VFS'; exec sleep 100";
        assert!(run(good).unwrap() < KERNEL_PATIENCE);
        assert_eq!(run("echo 'Probing EDD... ok'").unwrap_err(), "QEMU ended before the kernel had come up");
    }

    fn machine(cache: &tempfile::TempDir) -> Machine {
        Machine { cache: cache.path().to_owned(), ..Machine::default() }
    }

    #[test]
    fn who_asks_for_one_gets_that_one_or_an_error() {
        let cache = tempfile::tempdir().unwrap();
        let qemu = Qemu { program: "/bin/false".into(), arch: Arch::Amd64 };
        let wanted = |accelerator| Machine { accelerator: Some(accelerator), ..machine(&cache) };
        let emulated = choose(&qemu, Path::new("/none"), &wanted(Accelerator::Tcg), &Silent);
        assert_eq!(emulated.unwrap(), Accelerator::Tcg);
        assert!(!cache.path().join(VERDICT).exists(), "nothing was tried");
        // What is remembered is not enough to refuse.
        distrust(&qemu, "it hung", cache.path(), &Silent);
        let error = choose(&qemu, Path::new("/none"), &wanted(Accelerator::Kvm), &Silent).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("guests cannot run with KVM here: ") && !said.contains("it hung"), "{said}");
    }

    #[test]
    fn a_guest_of_another_architecture_is_emulated() {
        let cache = tempfile::tempdir().unwrap();
        let arch = if Arch::host() == Some(Arch::Amd64) { Arch::Arm64 } else { Arch::Amd64 };
        let qemu = Qemu { program: "/bin/false".into(), arch };
        let notes = Notes::default();
        assert_eq!(choose(&qemu, Path::new("/none"), &machine(&cache), &notes).unwrap(), Accelerator::Tcg);
        let notes = notes.0.into_inner().unwrap();
        assert!(notes[0].contains("this machine is ") && !cache.path().join(VERDICT).exists(), "{notes:?}");
    }

    #[test]
    fn a_verdict_is_taken_back() {
        let cache = tempfile::tempdir().unwrap();
        let qemu = Qemu { program: "/bin/false".into(), arch: Arch::Amd64 };
        distrust(&qemu, "it hung", cache.path(), &Silent);
        let notes = Notes::default();
        assert_eq!(choose(&qemu, Path::new("/none"), &machine(&cache), &notes).unwrap(), Accelerator::Tcg);
        assert_eq!(notes.0.into_inner().unwrap(), ["guests are emulated, which is slow: it hung"]);
    }

    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Progress for Notes {
        fn event(&self, event: Event) {
            if let Event::Note { message } | Event::Detail { message } = event {
                self.0.lock().unwrap().push(message);
            }
        }
    }

    #[test]
    fn the_verdict_is_kept_for_this_boot_of_the_host_and_reported_each_time() {
        let cache = tempfile::tempdir().unwrap();
        let qemu = Qemu { program: "/bin/false".into(), arch: Arch::Amd64 };
        let verdict = |boot: &str, accelerator| Verdict {
            accelerator,
            reason: "of old".to_owned(),
            host: std::iter::once(boot.to_owned()).chain(host(&qemu).into_iter().skip(1)).collect(),
        };
        let this_boot = host(&qemu)[0].clone();
        keep(&cache.path().join(VERDICT), &verdict(&this_boot, Accelerator::Kvm)).unwrap();
        let notes = Notes::default();
        assert_eq!(choose(&qemu, Path::new("/none"), &machine(&cache), &notes).unwrap(), Accelerator::Kvm);
        assert_eq!(notes.0.into_inner().unwrap(), ["guests run with KVM: of old"]);
        keep(&cache.path().join(VERDICT), &verdict("another boot", Accelerator::Kvm)).unwrap();
        assert_eq!(choose(&qemu, Path::new("/none"), &machine(&cache), &Silent).unwrap(), Accelerator::Tcg);
        let kept: Verdict = serde_json::from_slice(&fs::read(cache.path().join(VERDICT)).unwrap()).unwrap();
        assert_eq!((kept.accelerator, kept.host), (Accelerator::Tcg, host(&qemu)));
    }
}
