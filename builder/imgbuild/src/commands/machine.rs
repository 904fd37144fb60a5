//! Commands that boot a bundle.

use std::path::PathBuf;

use imgbuild_boot::{Accelerator, BootPath, Error, Fault, Machine, Source, TestOptions};
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
        nics: args.nics.clone(),
        forwards: Vec::new(),
        accelerator: match args.accel {
            args::Accelerator::Auto => None,
            args::Accelerator::Kvm => Some(Accelerator::Kvm),
            args::Accelerator::Tcg => Some(Accelerator::Tcg),
        },
        ipxe: args.ipxe.clone(),
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
        Error::Append { .. }
        | Error::CommandLine { .. }
        | Error::Fault { .. }
        | Error::WhichImage { .. }
        | Error::Nic { .. }
        | Error::Unplugged => Code::Usage,
        _ => Code::Failed,
    };
    Failure::new(code, error)
}

/// What is to be booted.
fn source(args: &args::Booted) -> Outcome<Source> {
    match (&args.from, &args.bundle) {
        (Some(dir), _) => {
            Ok(Source::Published { dir: dir.clone(), name: args.name.clone(), channel: args.channel.clone() })
        }
        (None, Some(bundle)) => Ok(Source::Bundle(bundle.clone())),
        (None, None) => Err(Failure::message(Code::Usage, "name a bundle, or a published folder with --from")),
    }
}

/// `imgbuild boot`.
pub(crate) fn boot(args: &args::Boot, global: &Global, progress: &dyn Progress) -> Outcome {
    let source = source(&args.booted)?;
    let interrupted = interrupt::flag().or_fail(Code::Failed)?;
    let mut machine = machine(&args.machine, global)?;
    machine.forwards.clone_from(&args.forwards);
    if let Some(points) = &args.debug {
        // Before the user's own, which win.
        machine.append.splice(0..0, debug(points));
    }
    let status = imgbuild_boot::boot_until(&source, path(args.path), &machine, &interrupted, progress);
    let status = status.map_err(failure)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::message(Code::Failed, format!("QEMU ended with {status}")))
}

/// The parameters for whoever looks into netboot-init, with a shell at these points.
fn debug(points: &[String]) -> [String; 2] {
    let names = if points.is_empty() { String::new() } else { format!("={}", points.join(",")) };
    [format!("netboot.debug{names}"), "netboot.on_failure=shell".to_owned()]
}

fn path(path: args::BootPath) -> BootPath {
    match path {
        args::BootPath::Direct => BootPath::Direct,
        args::BootPath::PxeBios => BootPath::PxeBios,
        args::BootPath::PxeUefi => BootPath::PxeUefi,
        args::BootPath::HttpUefi => BootPath::HttpUefi,
    }
}

/// The ways to boot: those that were asked for, else all that can be gone here, or the quickest one.
fn paths(
    wanted: &[args::BootPath],
    quickest: bool,
    source: &Source,
    machine: &Machine,
    progress: &dyn Progress,
) -> Outcome<Vec<BootPath>> {
    if !wanted.is_empty() {
        return Ok(wanted.iter().copied().map(path).collect());
    }
    if quickest {
        return Ok(vec![BootPath::Direct]);
    }
    let arch = imgbuild_boot::architecture(source).map_err(failure)?;
    let is_possible = |path: &BootPath| match imgbuild_boot::can_boot(*path, &arch, machine.ipxe.as_deref()) {
        Ok(()) => true,
        Err(missing) => {
            progress.warning(format!("{path} is left out: {missing}"));
            false
        }
    };
    Ok(BootPath::all(&arch).into_iter().filter(is_possible).collect())
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
    let source = source(&args.booted)?;
    let machine = machine(&args.machine, global)?;
    let tests = site_tests(&args.tests)?;
    let interrupted = interrupt::flag().or_fail(Code::Failed)?;
    let (mut failed, mut reports) = (Vec::new(), Vec::new());
    let mut runs = Vec::new();
    for path in paths(&args.paths, args.find_min_ram || !args.faults.is_empty(), &source, &machine, progress)? {
        runs.extend(faults(&args.faults, &source, path, progress)?.into_iter().map(|fault| (path, fault)));
    }
    for (path, fault) in runs {
        let below =
            |dir: &PathBuf| fault.map_or(dir.join(path.to_string()), |fault| dir.join(format!("{path}/{fault}")));
        let options = TestOptions {
            path,
            machine: machine.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(words: &str) -> Result<args::Boot, String> {
        let cli = args::Cli::try_parse_from(words.split(' ')).map_err(|error| error.to_string())?;
        match cli.command {
            args::Command::Boot(boot) => Ok(boot),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_machine_is_what_was_asked_for() {
        let global = Global { quiet: true, verbose: false, json: false, cache: Some("/nowhere".into()) };
        let given = "imgbuild boot b --path pxe-uefi -m 2GiB --cpus 4 --nic 52:54:00:00:00:0A --nic 52-54-00-00-00-0b \
                     --accel kvm -p 2222:22 --forward 53:53/udp --ipxe own.efi";
        let boot = parse(&given.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap();
        assert_eq!(path(boot.path), BootPath::PxeUefi);
        let machine = machine(&boot.machine, &global).unwrap();
        assert_eq!((machine.memory, machine.cpus), (Some(2 << 30), 4));
        let nics: Vec<String> = machine.nics.iter().map(ToString::to_string).collect();
        assert_eq!(nics, ["52:54:00:00:00:0a", "52:54:00:00:00:0b"]);
        assert_eq!(machine.accelerator, Some(Accelerator::Kvm));
        assert_eq!(machine.ipxe, Some("own.efi".into()));
        let forwards: Vec<String> = boot.forwards.iter().map(ToString::to_string).collect();
        assert_eq!(forwards, ["2222:22", "53:53/udp"]);

        let plain = parse("imgbuild boot b").unwrap();
        assert_eq!((path(plain.path), plain.machine.accel), (BootPath::Direct, args::Accelerator::Auto));
        assert!(plain.forwards.is_empty() && plain.debug.is_none() && plain.machine.nics.is_empty());
    }

    #[test]
    fn what_is_booted_is_a_bundle_or_a_channel() {
        assert_eq!(source(&parse("imgbuild boot b").unwrap().booted).unwrap(), Source::Bundle("b".into()));
        let published = source(&parse("imgbuild boot --from d --channel beta").unwrap().booted).unwrap();
        assert_eq!(published, Source::Published { dir: "d".into(), name: None, channel: "beta".into() });
        assert!(parse("imgbuild boot").unwrap_err().contains("<BUNDLE>"));
        assert!(parse("imgbuild boot b --from d").unwrap_err().contains("cannot be used with"));
    }

    #[test]
    fn a_shell_is_had_at_points_that_there_are() {
        let words = |text: &str| debug(&parse(text).unwrap().debug.unwrap());
        assert_eq!(words("imgbuild boot b --debug"), ["netboot.debug", "netboot.on_failure=shell"]);
        assert_eq!(words("imgbuild boot --debug b")[0], "netboot.debug");
        assert_eq!(words("imgbuild boot b --debug=post-mount,pre-switch")[0], "netboot.debug=post-mount,pre-switch");
        let said = parse("imgbuild boot b --debug=post-mortem").unwrap_err();
        assert!(said.contains("post-mount") && said.contains("pre-network"), "{said}");
    }

    #[test]
    fn what_is_written_wrongly_is_told_with_an_example() {
        assert!(parse("imgbuild boot b --nic 52:54").unwrap_err().contains("such as 52:54:00:12:34:56"));
        assert!(parse("imgbuild boot b -p 22").unwrap_err().contains("expected HOST:GUEST"));
        assert!(parse("imgbuild boot b --accel hvf").unwrap_err().contains("auto, kvm, tcg"));
    }
}
