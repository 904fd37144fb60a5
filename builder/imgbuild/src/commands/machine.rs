//! Commands that boot a bundle.

use std::path::PathBuf;

use imgbuild_boot::{BootPath, Error, Machine, Source, TestOptions};
use imgbuild_progress::Progress;
use imgbuild_recipe::ByteSize;
use serde_json::Value;

use crate::args::{self, Global};
use crate::commands::cache;
use crate::commands::recipe::wrong;
use crate::failure::{Code, Failure, OrFail, Outcome, bundle_code};
use crate::{interrupt, print_either};

fn machine(args: &args::Machine, global: &Global) -> Outcome<Machine> {
    let memory = match &args.memory {
        Some(text) => {
            let size: ByteSize = text.parse().map_err(|e: imgbuild_recipe::ValueError| {
                Failure::message(Code::Usage, format!("--memory {text}: {}; {}", e.message, e.help))
            })?;
            Some(size.0)
        }
        None => None,
    };
    Ok(Machine {
        memory,
        cpus: u32::from(args.cpus.get()),
        append: args.append.clone(),
        qemu: args.qemu.clone(),
        cache: cache(global)?.dir().to_owned(),
    })
}

fn failure(error: Error) -> Failure {
    let code = match &error {
        Error::Bundle(e) => bundle_code(e),
        Error::Append { .. } | Error::CommandLine { .. } | Error::WhichImage { .. } => Code::Usage,
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

/// The ways to boot: those that were asked for, else all that can be gone here.
fn paths(wanted: &[args::BootPath], progress: &dyn Progress) -> Vec<BootPath> {
    if !wanted.is_empty() {
        let path = |path: &args::BootPath| match path {
            args::BootPath::Direct => BootPath::Direct,
            args::BootPath::PxeBios => BootPath::PxeBios,
            args::BootPath::PxeUefi => BootPath::PxeUefi,
            args::BootPath::HttpUefi => BootPath::HttpUefi,
        };
        return wanted.iter().map(path).collect();
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
    for path in paths(&args.paths, progress) {
        let options = TestOptions {
            path,
            machine: machine(&args.machine, global)?,
            timeout: std::time::Duration::from_secs(args.timeout),
            patience: None,
            results: args.results.as_ref().map(|dir| dir.join(path.to_string())),
            tests: tests.clone(),
            interrupted: interrupted.clone(),
        };
        let report = imgbuild_boot::test(&source, &options, progress).map_err(failure)?;
        print_either(global, &report, || report.to_string())?;
        if !report.passed() {
            failed.push(path.to_string());
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
