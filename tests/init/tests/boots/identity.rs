//! Clones, and random numbers.

use super::*;

#[test]
fn clones_differ_and_each_one_stays_what_it_is() -> Result<()> {
    let initrd = Materials::get().initrd("clones", &Image { embedded: true, ..Image::default() })?;
    let who = |mac: &str| -> Result<(String, String)> {
        // Virtual machines of one template: the same UUID, of zeros, for all.
        let boot = Machine::new(&initrd).card("virtio-net-pci", mac).boot()?;
        assert_boots(&boot);
        let fact = |name: &str| boot.facts().get(name).copied().unwrap_or_default().to_owned();
        Ok((fact("hostname"), fact("machine-id")))
    };
    let (one, other, again) = (who(MAC)?, who(OTHER)?, who(MAC)?);
    assert_eq!((one.0.as_str(), other.0.as_str()), ("node-525400123456", "node-525400123457"));
    assert!(one.1.len() == 32 && one.1 != other.1, "{one:?} {other:?}");
    assert_eq!(one, again);
    Ok(())
}

#[test]
fn random_numbers_come_from_what_the_machine_has() -> Result<()> {
    let initrd = Materials::get().initrd("random", &Image { embedded: true, ..Image::default() })?;
    // Without the processor's own ones, which QEMU's has, and before interrupts could have brought any.
    let machine = || Machine::new(&initrd).cmdline("random.trust_cpu=off netboot.debug");
    let at = |boot: &Boot, text: &str| boot.console.iter().position(|line| line.contains(text));
    let with = machine().device("-device virtio-rng-pci").boot()?;
    assert_boots(&with);
    // The kernel credits what the driver vouches for as soon as it is loaded; if netboot-init was faster, it did.
    let ready =
        with.says("random numbers: 256 bits from virtio_rng.0") || with.says("random numbers: the kernel is ready");
    let (done, next) = (at(&with, "random: crng init done"), at(&with, "network: left to the system"));
    assert!(ready && done.is_some() && done < next, "{}", with.tail());
    let without = machine().boot()?;
    assert_boots(&without);
    let (done, warned) = (
        at(&without, "random: crng init done"),
        at(&without, "the kernel has none yet, and this machine no generator"),
    );
    match warned {
        Some(warned) => assert!(done.is_none_or(|done| done > warned), "it had some: {}", without.tail()),
        None => assert!(done.is_some(), "{}", without.tail()),
    }
    Ok(())
}
