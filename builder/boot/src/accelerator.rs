//! KVM, if it can be shown to run a guest; else emulation.
//!
//! `/dev/kvm` that opens proves nothing. In a virtual machine, the guest may hang at its first instruction, QEMU may abort
//! over a register that the host does not have, or a boot sector runs and Linux hangs as soon as it leaves real mode: all
//! three have been met. So a guest of 512 bytes is run first, whose boot sector ends QEMU with a status of its own, and
//! then the very kernel that is to be booted, without a root, up to its panic about that. The verdict holds as long as
//! the host stays booted with the same QEMU, and is kept in the cache; a boot that hangs all the same takes it back
//! ([`distrust`]).

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
    Error,
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
    pub(crate) fn arguments(self) -> Vec<OsString> {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
        .map(OsString::from)
        .to_vec()
    }

    /// The kernel parameter it needs. On a busy host an emulated timer is late enough for the kernel to think that it does
    /// not work at all ("IO-APIC + timer doesn't work!"); under KVM the kernel knows better by itself.
    pub(crate) fn parameter(self) -> Option<&'static str> {
        match self {
            Self::Kvm => None,
            Self::Tcg => Some("no_timer_check"),
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

/// The accelerator for guests of this host's architecture that run `kernel` with so many processors; reports the reason.
pub(crate) fn choose(qemu: &Qemu, kernel: &Path, cpus: u32, cache: &Path, progress: &dyn Progress) -> Accelerator {
    let host = host(qemu);
    let path = cache.join(VERDICT);
    let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
    let verdict = match known {
        Some(verdict) if verdict.host == host => verdict,
        _ => {
            let (accelerator, reason) = probe(qemu, Path::new("/dev/kvm"), kernel, cpus);
            let verdict = Verdict { accelerator, reason, host };
            remember(&path, &verdict, progress);
            verdict
        }
    };
    match verdict.accelerator {
        Accelerator::Kvm => progress.detail(format!("guests run with KVM: {}", verdict.reason)),
        Accelerator::Tcg => progress.note(format!("guests are emulated, which is slow: {}", verdict.reason)),
    }
    verdict.accelerator
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
    match tiny_guest(qemu, Accelerator::Kvm).and_then(|_| rootless_kernel(qemu, Accelerator::Kvm, kernel, cpus)) {
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
    let mut arguments = accelerator.arguments();
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
    let mut arguments = accelerator.arguments();
    arguments
        .extend(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256"].map(OsString::from));
    arguments.extend(["-machine", "q35,graphics=off", "-serial", "stdio", "-smp"].map(OsString::from));
    arguments.extend([cpus.max(1).to_string().into(), "-kernel".into(), kernel.into(), "-append".into()]);
    let words = ["console=ttyS0,115200", "panic=-1", "root=/dev/ram0"].into_iter().chain(accelerator.parameter());
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
    use std::sync::Mutex;

    fn qemu() -> Qemu {
        Qemu::find("amd64").expect("qemu-system-x86 is installed")
    }

    #[test]
    fn the_tiny_guest_runs_and_says_so() {
        tiny_guest(&qemu(), Accelerator::Tcg).unwrap();
    }

    #[test]
    fn a_guest_that_ends_otherwise_is_no_proof() {
        let not_qemu = Qemu { program: "/bin/false".into() };
        assert!(tiny_guest(&not_qemu, Accelerator::Kvm).unwrap_err().contains("instead of running a guest"));
        let temp = tempfile::tempdir().unwrap();
        let (accelerator, reason) = probe(&not_qemu, &temp.path().join("kvm"), Path::new("/none"), 1);
        assert_eq!(accelerator, Accelerator::Tcg);
        assert!(reason.contains("offers no virtualisation"), "{reason}");
    }

    /// A program in QEMU's place.
    fn pretender(folder: &Path, script: &str) -> Qemu {
        use std::os::unix::fs::PermissionsExt;
        let program = folder.join("qemu");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Qemu { program }
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

    #[test]
    fn a_verdict_is_taken_back() {
        let cache = tempfile::tempdir().unwrap();
        let qemu = Qemu { program: "/bin/false".into() };
        distrust(&qemu, "it hung", cache.path(), &Silent);
        let notes = Notes::default();
        assert_eq!(choose(&qemu, Path::new("/none"), 1, cache.path(), &notes), Accelerator::Tcg);
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
        let qemu = Qemu { program: "/bin/false".into() };
        let verdict = |boot: &str, accelerator| Verdict {
            accelerator,
            reason: "of old".to_owned(),
            host: std::iter::once(boot.to_owned()).chain(host(&qemu).into_iter().skip(1)).collect(),
        };
        let this_boot = host(&qemu)[0].clone();
        keep(&cache.path().join(VERDICT), &verdict(&this_boot, Accelerator::Kvm)).unwrap();
        let notes = Notes::default();
        assert_eq!(choose(&qemu, Path::new("/none"), 1, cache.path(), &notes), Accelerator::Kvm);
        assert_eq!(notes.0.into_inner().unwrap(), ["guests run with KVM: of old"]);
        keep(&cache.path().join(VERDICT), &verdict("another boot", Accelerator::Kvm)).unwrap();
        assert_eq!(choose(&qemu, Path::new("/none"), 1, cache.path(), &Silent), Accelerator::Tcg);
        let kept: Verdict = serde_json::from_slice(&fs::read(cache.path().join(VERDICT)).unwrap()).unwrap();
        assert_eq!((kept.accelerator, kept.host), (Accelerator::Tcg, host(&qemu)));
    }
}
