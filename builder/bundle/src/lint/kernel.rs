//! Kernel, modules, firmware.

use super::programs::names;
use super::{Check, DriverState, Finding, Image, Rule, Subject};
use crate::Error;

/// Where modules lie; in a merged /usr it leads to /usr/lib/modules.
const MODULES: &str = "/lib/modules";

pub(super) const BOOT_DRIVERS: Rule = Rule {
    name: "boot-drivers",
    demands: "`overlay`, `squashfs`, `loop` and every driver that the recipe names are built into the kernel or in the initrd.",
    check: Check::Image(boot_drivers),
};

pub(super) const FIRMWARE: Rule = Rule {
    name: "firmware",
    demands: "Firmware that a module in the initrd asks for is in the image, where the recipe does not call it optional.",
    check: Check::Image(firmware),
};

pub(super) const MODULE_DEPENDENCY: Rule = Rule {
    name: "module-dependency",
    demands: "Every kernel module of the root has the modules that it needs beside it.",
    check: Check::Tree(module_dependency),
};

fn boot_drivers(_: &Subject<'_>, image: &Image) -> Result<Vec<Finding>, Error> {
    let Some(kernel) = &image.kernel else { return Ok(Vec::new()) };
    let missing = kernel.drivers.iter().filter(|(_, state)| *state == DriverState::Missing);
    Ok(missing
        .map(|(name, _)| {
            BOOT_DRIVERS.finding(
                None,
                format!(
                    "kernel {} has no driver {name}, neither built in nor as a module in the initrd",
                    kernel.release
                ),
                format!("install the kernel package that has {name}, or take it out of [kernel] modules"),
            )
        })
        .collect())
}

fn firmware(_: &Subject<'_>, image: &Image) -> Result<Vec<Finding>, Error> {
    let Some(kernel) = &image.kernel else { return Ok(Vec::new()) };
    Ok(kernel
        .missing_firmware
        .iter()
        .map(|(module, file)| {
            FIRMWARE.finding(
                Some(format!("/lib/firmware/{file}")),
                format!("module {module} asks for the firmware {file}, which the image does not have"),
                "install the package that ships it, take the module out of [kernel] modules, or allow it for this path \
                 if these machines do without",
            )
        })
        .collect())
}

fn module_dependency(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for release in names(subject, MODULES) {
        let path = |module: &str| format!("{MODULES}/{release}/{module}");
        let dep = subject.text(&path("modules.dep"))?.unwrap_or_default();
        // `MODULE: what it needs, and what that needs…`
        for (module, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            let missing: Vec<_> = needs.split_whitespace().filter(|module| !subject.exists(&path(module))).collect();
            if !missing.is_empty() && subject.exists(&path(module)) {
                findings.push(MODULE_DEPENDENCY.finding(
                    Some(path(module)),
                    format!("the module {module} needs {}, which the root does not have", missing.join(", ")),
                    "keep what it needs in [prune], or prune the module as well",
                ));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::RootTree;

    use super::super::KernelFacts;
    use super::*;
    use crate::testing::{put, subject};

    #[test]
    fn a_module_whose_dependency_is_gone_is_named() {
        let mut tree = RootTree::new();
        put(&mut tree, "/lib/modules/6.1/modules.dep", b"a.ko: b.ko gone.ko\nb.ko:\ngone.ko: other.ko\n");
        put(&mut tree, "/lib/modules/6.1/a.ko", b"x");
        put(&mut tree, "/lib/modules/6.1/b.ko", b"x");
        let found = module_dependency(&subject(&tree)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path.as_deref(), Some("/lib/modules/6.1/a.ko"));
        assert!(found[0].problem.contains("a.ko needs gone.ko, which"), "{}", found[0].problem);
        put(&mut tree, "/lib/modules/6.1/gone.ko", b"x");
        put(&mut tree, "/lib/modules/6.1/other.ko", b"x");
        assert!(module_dependency(&subject(&tree)).unwrap().is_empty());
    }

    fn facts() -> KernelFacts {
        KernelFacts {
            release: "6.1.0".into(),
            drivers: vec![
                ("overlay".into(), DriverState::Module),
                ("loop".into(), DriverState::BuiltIn),
                ("igb".into(), DriverState::Missing),
            ],
            missing_firmware: vec![("bnx2".into(), "bnx2/x.fw".into())],
        }
    }

    #[test]
    fn a_missing_driver_is_found_others_are_not() {
        let tree = RootTree::new();
        let (subject, mut image) = (subject(&tree), Image::default());
        assert!(boot_drivers(&subject, &image).unwrap().is_empty());
        image.kernel = Some(facts());
        let found = boot_drivers(&subject, &image).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].problem.contains("kernel 6.1.0 has no driver igb"), "{}", found[0].problem);
    }

    #[test]
    fn missing_firmware_is_named_by_its_path() {
        let tree = RootTree::new();
        let (subject, mut image) = (subject(&tree), Image::default());
        assert!(firmware(&subject, &image).unwrap().is_empty());
        image.kernel = Some(facts());
        let found = firmware(&subject, &image).unwrap();
        assert_eq!(found[0].path.as_deref(), Some("/lib/firmware/bnx2/x.fw"));
    }
}
