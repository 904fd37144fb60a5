//! `imgbuild test`: boots a bundle unattended and believes nobody but the probe.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use imgbuild_bundle::{Bundle, KERNEL};
use imgbuild_progress::Progress;
use serde_json::{Value, json};

use crate::{
    Accelerator, BootPath, Error, Machine, Report, Source, accelerator,
    arch::Arch,
    firmware::can_boot,
    qemu::Qemu,
    results::Results,
    segment::{self, Spec},
    unattended::{Ended, KVM_SILENCE, Run},
    way::{self, Stage},
};

/// How a test is run.
#[derive(Debug, Clone)]
pub struct TestOptions {
    /// How the guest gets at its kernel.
    pub path: BootPath,
    /// The machine.
    pub machine: Machine,
    /// When to give up, from power on.
    pub timeout: Duration,
    /// How long a test that does not hold yet is tried again, from the probe's start; by default 90 s with KVM, 300 s
    /// without.
    pub patience: Option<Duration>,
    /// Where to keep logs and results; by default a temporary folder, which stays if the test fails.
    pub results: Option<PathBuf>,
    /// More tests than the manifest has, as they would stand in a recipe.
    pub tests: Vec<Value>,
    /// Set by the caller's signal handler to stop the guest and clean up.
    pub interrupted: Arc<AtomicBool>,
}

/// What every image is tested for, whatever its recipe says.
fn defaults() -> Vec<Value> {
    vec![
        json!({"name": "the root is an overlay", "mount": "/", "fstype": "overlay"}),
        json!({"name": "the system has booted", "unit": "basic.target", "state": "active"}),
    ]
}

/// Boots what the source means and lets the probe check the manifest's tests.
///
/// The test has passed only if the probe reported over virtio-serial that each of them held. What is on the console,
/// QEMU's status and silence are never a success.
///
/// # Errors
/// When nothing could be booted, or [`Error::Interrupted`]. A boot that failed is a [`Report`].
pub fn test(source: &Source, options: &TestOptions, progress: &dyn Progress) -> Result<Report, Error> {
    // First of all: whatever goes wrong, no report of an earlier run is there to be taken for this one's.
    let results = Results::new(options.results.as_ref())?;
    let path = options.path;
    let bundle = way::bundle(source)?;
    let qemu = Qemu::find(Arch::parse(&bundle.manifest().arch)?)?;
    can_boot(path, &bundle.manifest().arch, options.machine.ipxe.as_deref())
        .map_err(|missing| Error::Missing { path, missing })?;
    if bundle.manifest().kernel.is_none() {
        return Err(way::no_kernel(&bundle));
    }
    let arch = qemu.arch.name();
    let no_probe = || Error::NoProbe { arch: arch.to_owned() };
    let probe = netboot_programs::for_architecture(arch).ok_or_else(no_probe)?.probe;
    let machine = &options.machine;
    let accelerator = accelerator::choose(&qemu, &bundle.file(KERNEL), machine, progress)?;
    let attempt = Attempt { qemu: &qemu, bundle: &bundle, source, options, probe, results: &results, progress };
    let mut ended = attempt.run(accelerator)?;
    if let Some(last) = ended.kvm_hung {
        let reason = format!("KVM passed its test and then hung a guest for {} s ({last})", KVM_SILENCE.as_secs());
        accelerator::distrust(&qemu, &reason, &machine.cache, progress);
        if machine.accelerator == Some(Accelerator::Kvm) {
            return Err(Error::NoKvm { reason });
        }
        progress.note(format!("{reason}; again with emulation, which is slow"));
        ended = attempt.run(Accelerator::Tcg)?;
    }
    results.keep(&ended.report)?;
    Ok(ended.report)
}

/// One test, however often it has to be run.
struct Attempt<'a> {
    qemu: &'a Qemu,
    bundle: &'a Bundle,
    source: &'a Source,
    options: &'a TestOptions,
    probe: &'a [u8],
    results: &'a Results,
    progress: &'a dyn Progress,
}

impl Attempt<'_> {
    fn run(&self, accelerator: Accelerator) -> Result<Ended, Error> {
        let Self { qemu, bundle, source, options, probe, results, progress } = *self;
        let mut tests = defaults();
        tests.extend(bundle.manifest().tests.iter().cloned());
        tests.extend(options.tests.iter().cloned());
        let patience = options.patience.unwrap_or(match accelerator {
            Accelerator::Kvm => Duration::from_secs(90),
            Accelerator::Tcg => Duration::from_secs(300),
        });
        let extra = segment::probe(probe, &Spec { schema: 1, tests: &tests, deadline: patience.as_secs() })?;
        // A node that fails goes down at once instead of trying again for ever.
        let mut append = options.machine.append.clone();
        append.extend(["netboot.on_failure=poweroff", "panic=-1", qemu.arch.console()].map(str::to_owned));
        append.extend(accelerator.parameter(qemu.arch).map(str::to_owned));
        let stage = Stage::new(source, options.path, &options.machine, Some(&extra), &append, progress)?;
        let run = Run { stage: &stage, options, accelerator, expected: tests.len(), results, progress };
        run.run(qemu)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::results::REPORT;

    #[test]
    fn the_report_of_an_earlier_run_is_gone_before_anything_else() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("results");
        fs::create_dir(&results).unwrap();
        fs::write(results.join(REPORT), "{}").unwrap();
        fs::write(results.join("mine"), "").unwrap();
        let options = TestOptions {
            path: BootPath::Direct,
            machine: Machine { cache: folder.path().join("kvm"), ..Machine::default() },
            timeout: Duration::from_secs(1),
            patience: None,
            results: Some(results.clone()),
            tests: Vec::new(),
            interrupted: Arc::default(),
        };
        let source = Source::Bundle(folder.path().join("no-bundle"));
        assert!(test(&source, &options, &imgbuild_progress::Silent).is_err());
        assert!(!results.join(REPORT).exists());
        assert!(results.join("mine").exists());
    }
}
