//! `imgbuild test`: boots a bundle unattended and believes nobody but the probe.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use imgbuild_bundle::{Bundle, KERNEL};
use imgbuild_progress::Progress;
use serde_json::{Value, json};

use crate::{
    Accelerator, BootPath, Error, Fault, Machine, Report, Source, accelerator,
    arch::Arch,
    fault::{
        self,
        verdict::{self, Seen},
    },
    firmware::can_boot,
    qemu::Qemu,
    results::Results,
    segment::{self, Spec},
    unattended::{Ended, KVM_SILENCE, Run, Spoilt},
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
    /// What is to go wrong around the node.
    pub fault: Option<Fault>,
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
    if let Some(fault) = options.fault {
        fault.fits(path, bundle.manifest()).map_err(|reason| Error::Fault { fault, path, reason })?;
    }
    let options = &*fault::adapted(options, bundle.manifest());
    let arch = qemu.arch.name();
    let no_probe = || Error::NoProbe { arch: arch.to_owned() };
    let probe = netboot_programs::for_architecture(arch).ok_or_else(no_probe)?.probe;
    let machine = &options.machine;
    let accelerator = accelerator::choose(&qemu, &bundle.file(KERNEL), machine, progress)?;
    let attempt = Attempt { qemu: &qemu, bundle: &bundle, source, options, probe, results: &results, progress };
    let report = match options.fault {
        Some(Fault::SecondBoot) => attempt.twice(accelerator)?,
        _ => attempt.judged(attempt.settled(accelerator)?, None)?,
    };
    results.keep(&report)?;
    Ok(report)
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
    /// The same node once more, if it came up the first time; its first boot's logs are in a folder of their own.
    fn twice(&self, accelerator: Accelerator) -> Result<Report, Error> {
        let results = Results::new(Some(&self.results.path.join("first-boot")))?;
        let first = Attempt { results: &results, ..*self }.settled(accelerator)?;
        if !first.report.passed() {
            return self.judged(first, None);
        }
        results.keep(&first.report)?;
        let second = self.settled(first.report.accelerator)?;
        self.judged(second, Some(&first.report.facts))
    }

    /// One boot, whatever the host makes of it.
    fn settled(&self, accelerator: Accelerator) -> Result<Ended, Error> {
        let mut ended = self.run(accelerator)?;
        if let Some(Spoilt::Hung(last)) = &ended.spoilt {
            let reason = format!("KVM passed its test and then hung a guest for {} s ({last})", KVM_SILENCE.as_secs());
            accelerator::distrust(self.qemu, &reason, &self.options.machine.cache, self.progress);
            if self.options.machine.accelerator == Some(Accelerator::Kvm) {
                return Err(Error::NoKvm { reason });
            }
            self.progress.note(format!("{reason}; again with emulation, which is slow"));
            ended = self.run(Accelerator::Tcg)?;
        }
        if let Some(Spoilt::Misemulated(said)) = &ended.spoilt {
            // Once: what comes twice in a row is no race.
            self.progress.note(format!("QEMU's emulation broke the kernel's change of its own code ({said}); again"));
            ended = self.run(Accelerator::Tcg)?;
        }
        Ok(ended)
    }

    /// The report, with what came of the scenario if there is one.
    fn judged(&self, ended: Ended, before: Option<&BTreeMap<String, Value>>) -> Result<Report, Error> {
        let Ended { mut report, requests, took_place, .. } = ended;
        if let Some(fault) = self.options.fault {
            let said = verdict::said(&report.results)?;
            let manifest = self.bundle.manifest();
            fault.judge(&mut report, &Seen { manifest, said: &said, requests: &requests, took_place, before });
        }
        Ok(report)
    }

    fn run(&self, accelerator: Accelerator) -> Result<Ended, Error> {
        let Self { qemu, bundle, source, options, probe, results, progress } = *self;
        let mut tests = defaults();
        tests.extend(bundle.manifest().tests.iter().cloned());
        tests.extend(options.tests.iter().cloned());
        tests.extend(options.fault.map(Fault::tests).unwrap_or_default());
        let patience = options.patience.unwrap_or(match accelerator {
            Accelerator::Kvm => Duration::from_secs(90),
            Accelerator::Tcg => Duration::from_secs(300),
        });
        let mut extra = segment::probe(probe, &Spec { schema: 1, tests: &tests, deadline: patience.as_secs() })?;
        if let Some(segment) = options.fault.map(|fault| fault.segment(bundle)).transpose()?.flatten() {
            segment::append(&mut extra, &segment);
        }
        // A node that fails goes down at once instead of trying again for ever.
        let mut append = options.machine.append.clone();
        append.extend(["netboot.on_failure=poweroff", "panic=-1", qemu.arch.console()].map(str::to_owned));
        append.extend(accelerator.parameter(qemu.arch).map(str::to_owned));
        // What a scenario does to a download, it does to one request.
        append.extend(options.fault.map(|_| "netboot.connections=1".to_owned()));
        let machine = &options.machine;
        let stage = Stage::with_fault(source, options.path, machine, Some(&extra), &append, options.fault, progress)?;
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
            fault: None,
            interrupted: Arc::default(),
        };
        let source = Source::Bundle(folder.path().join("no-bundle"));
        assert!(test(&source, &options, &imgbuild_progress::Silent).is_err());
        assert!(!results.join(REPORT).exists());
        assert!(results.join("mine").exists());
    }
}
