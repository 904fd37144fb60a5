//! Commands that boot a bundle.

use std::path::PathBuf;

use imgbuild_boot::{BootPath, Error, Fault, Machine, Source, TestOptions};
use imgbuild_progress::Progress;
use imgbuild_recipe::ByteSize;
use serde_json::Value;

use crate::args::{self, Global};
use crate::commands::cache;
use crate::commands::recipe::wrong;
use crate::failure::{Code, Failure, OrFail, Outcome, bundle_code};
use crate::{interrupt, print_either};

fn machine(args: &args::Machine, global: &Global) -> Outcome<Machine> {
    let memory = args.memory.as_ref().map(|text| size("--memory", text)).transpose()?;
    Ok(Machine {
        memory,
        cpus: u32::from(args.cpus.get()),
        append: args.append.clone(),
        qemu: args.qemu.clone(),
        cache: cache(global)?.dir().to_owned(),
    })
}

fn size(option: &str, text: &str) -> Outcome<u64> {
    let size = text.parse().map_err(|e: imgbuild_recipe::ValueError| {
        Failure::message(Code::Usage, format!("{option} {text}: {}; {}", e.message, e.help))
    });
    size.map(|size: ByteSize| size.0)
}

fn failure(error: Error) -> Failure {
    let code = match &error {
        Error::Bundle(e) => bundle_code(e),
        Error::Append { .. } | Error::Fault { .. } | Error::CommandLine { .. } | Error::WhichImage { .. } => {
            Code::Usage
        }
        _ => Code::Failed,
    };
    Failure::new(code, error)
}

/// `imgbuild boot`.
pub(crate) fn boot(args: &args::Boot, global: &Global, progress: &dyn Progress) -> Outcome {
    let source = Source::Bundle(args.bundle.clone());
    let interrupted = interrupt::flag().or_fail(Code::Failed)?;
    let machine = machine(&args.machine, global)?;
    let status =
        imgbuild_boot::boot_until(&source, BootPath::Direct, &machine, &interrupted, progress).map_err(failure)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::message(Code::Failed, format!("QEMU ended with {status}")))
}

/// The ways to boot: those that were asked for, else all that can be gone here, or the quickest one.
fn paths(wanted: &[args::BootPath], quickest: bool, progress: &dyn Progress) -> Vec<BootPath> {
    if !wanted.is_empty() {
        let path = |path: &args::BootPath| match path {
            args::BootPath::Direct => BootPath::Direct,
            args::BootPath::PxeBios => BootPath::PxeBios,
            args::BootPath::PxeUefi => BootPath::PxeUefi,
            args::BootPath::HttpUefi => BootPath::HttpUefi,
        };
        return wanted.iter().map(path).collect();
    }
    if quickest {
        return vec![BootPath::Direct];
    }
    let is_possible = |path: &BootPath| match imgbuild_boot::can_boot(*path) {
        Ok(()) => true,
        Err(missing) => {
            progress.warning(format!("{path} is left out: {missing}"));
            false
        }
    };
    BootPath::ALL.into_iter().filter(is_possible).collect()
}

/// What is done to the node over a way: what was asked for, nothing if that is nothing.
fn faults(wanted: &[String], source: &Source, path: BootPath, progress: &dyn Progress) -> Outcome<Vec<Option<Fault>>> {
    if wanted.iter().any(|name| name == "all") {
        let fitting = imgbuild_boot::fitting_faults(source, path, progress).map_err(failure)?;
        return Ok(fitting.into_iter().map(Some).collect());
    }
    if wanted.is_empty() {
        return Ok(vec![None]);
    }
    let unknown = |name: &String| Failure::message(Code::Usage, format!("there is no fault `{name}`"));
    wanted.iter().map(|name| Fault::named(name).map(Some).ok_or_else(|| unknown(name))).collect()
}

/// What a site asserts besides the recipe.
fn site_tests(files: &[PathBuf]) -> Outcome<Vec<Value>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let tests = imgbuild_recipe::load_tests(files).map_err(|diagnostics| wrong(&diagnostics))?;
    tests.iter().map(serde_json::to_value).collect::<Result<_, _>>().or_fail(Code::Failed)
}

/// `imgbuild test`.
pub(crate) fn test(args: &args::Test, global: &Global, progress: &dyn Progress) -> Outcome {
    let source = match (&args.from, &args.bundle) {
        (Some(dir), _) => {
            Source::Published { dir: dir.clone(), name: args.name.clone(), channel: args.channel.clone() }
        }
        (None, Some(bundle)) => Source::Bundle(bundle.clone()),
        (None, None) => return Err(Failure::message(Code::Usage, "name a bundle, or a published folder with --from")),
    };
    let tests = site_tests(&args.tests)?;
    let interrupted = interrupt::flag().or_fail(Code::Failed)?;
    let (mut failed, mut reports) = (Vec::new(), Vec::new());
    let mut runs = Vec::new();
    for path in paths(&args.paths, args.find_min_ram || !args.faults.is_empty(), progress) {
        runs.extend(faults(&args.faults, &source, path, progress)?.into_iter().map(|fault| (path, fault)));
    }
    for (path, fault) in runs {
        let below =
            |dir: &PathBuf| fault.map_or(dir.join(path.to_string()), |fault| dir.join(format!("{path}/{fault}")));
        let options = TestOptions {
            path,
            machine: machine(&args.machine, global)?,
            timeout: std::time::Duration::from_secs(args.timeout),
            patience: None,
            results: args.results.as_ref().map(below),
            tests: tests.clone(),
            fault,
            interrupted: interrupted.clone(),
        };
        if args.find_min_ram {
            let step = size("--ram-step", &args.ram_step)?;
            let found = imgbuild_boot::find_min_ram(&source, &options, step, progress).map_err(failure)?;
            print_either(global, &found, || found.to_string())?;
            failed.extend(found.memory.is_none().then(|| path.to_string()));
            continue;
        }
        let report = imgbuild_boot::test(&source, &options, progress).map_err(failure)?;
        print_either(global, &report, || report.to_string())?;
        if !report.passed() {
            failed.push(fault.map_or(path.to_string(), |fault| format!("{path} with fault {fault}")));
        }
        reports.push(report);
        // After each, so that an interrupted run leaves what it has found.
        if let Some(file) = &args.junit {
            fs_err::write(file, imgbuild_boot::junit(&reports).or_fail(Code::Failed)?).or_fail(Code::Failed)?;
        }
        if let Some(file) = &args.timeline {
            fs_err::write(file, imgbuild_boot::timeline_svg(&reports).or_fail(Code::Failed)?).or_fail(Code::Failed)?;
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::message(Code::Verification, format!("the boot test failed over {}", failed.join(", "))))
}
