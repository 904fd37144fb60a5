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
    let machine = || Machine::new(&initrd).cmdline("random.trust_cpu=off netboot.debug");
    let with = machine().device("-device virtio-rng-pci").boot()?;
    assert_boots(&with);
    let ready =
        with.says("random numbers: 256 bits from virtio_rng.0") || with.says("random numbers: the kernel is ready");
    assert!(ready && with.says("crng init done"), "{}", with.tail());
    let without = machine().boot()?;
    assert_boots(&without);
    Ok(())
}
