//! Boot servers that fail one after the other.

use super::*;

#[test]
fn a_dead_mirror_and_a_slow_one_are_left_and_a_cut_is_resumed() -> Result<()> {
    let (slow, cut) = (
        Server::start(&Materials::get().squashfs, Manner::Slow)?,
        Server::start(&Materials::get().squashfs, Manner::CutOnce)?,
    );
    // Nobody listens there.
    let dead = "http://10.0.2.2:9/root.squashfs";
    let initrd = Materials::get().initrd("mirrors", &Image::default())?;
    let machine = Machine::new(&initrd).cmdline(&format!("netboot.root={dead},{},{}", slow.url(), cut.url()));
    let boot = machine.card("virtio-net-pci", MAC).boot()?;
    assert_boots(&boot);
    assert!(boot.says(&format!("{dead}: Connection refused")), "{}", boot.tail());
    assert!(boot.says("KiB/s over 20 s (netboot.min_speed=64)"), "{}", boot.tail());
    let ranges = cut.ranges()?;
    ensure!(ranges.len() == 2 && ranges.iter().all(|range| range.starts_with("bytes=")), "both go on: {ranges:?}");
    Ok(())
}
