//! Stops at named points, and boots that are only tried.

use super::*;

// The end of a shell's session hangs its terminal up, with what is still on its way: hence the `sleep 1`.

#[test]
fn a_shell_stops_the_boot_where_it_was_asked_for() -> Result<()> {
    let server = good_server()?;
    let parameters =
        format!("netboot.debug=pre-network,post-mount netboot.check netboot.report={}", server.at("/report"));
    let machine = machine(&Image::default(), "shell", &server)?.cmdline(&parameters).card("virtio-net-pci", MAC);
    let machine =
        machine.typing("(post-mount) /# ", "echo $((6*7)) $NETBOOT_IP; tty; touch /by-hand; sleep 1; exit 3\n");
    let boot = machine.boot()?;
    assert!(boot.says("netboot.debug=pre-network: no shell: the initrd has no /bin/sh"), "{}", boot.tail());
    assert!(boot.says("post-mount: the root's /bin/sh on /dev/ttyS0"), "{}", boot.tail());
    assert!(boot.says("42 10.0.2.15") && boot.says("/dev/ttyS0"), "{}", boot.tail());
    assert!(boot.says("the shell was left, exit status: 3"), "{}", boot.tail());
    // And it is tried only.
    assert!(boot.says("netboot.check: this node would start /sbin/init now; power off"), "{}", boot.tail());
    assert!(boot.facts().is_empty() && !boot.says("Kernel panic"), "{}", boot.tail());
    let posts = server.posts()?;
    ensure!(posts.len() == 1 && posts.iter().all(|(_, body)| body.contains("\"outcome\":\"checked\"")), "{posts:?}");
    Ok(())
}

#[test]
fn a_segment_may_bring_a_shell_into_the_initrd() -> Result<()> {
    let server = Server::start(&Materials::get().squashfs, Manner::Missing)?;
    let busybox = std::fs::read("/usr/bin/busybox")?;
    let image = Image { extra: &[("/bin/sh", 0o755, busybox.as_slice())], ..Image::default() };
    let machine = machine(&image, "own-shell", &server)?.cmdline("netboot.debug=pre-network netboot.on_failure=shell");
    let machine = machine.typing("(pre-network) /# ", "echo early $((6*7)); sleep 1; exit\n");
    let machine = machine.typing("(failed) /# ", "echo late $((6*7)); sleep 1; exit\n");
    let boot = machine.card("virtio-net-pci", MAC).boot()?;
    assert!(boot.says("pre-network: the initrd's /bin/sh on /dev/ttyS0"), "{}", boot.tail());
    assert!(boot.says("early 42") && boot.says("late 42"), "{}", boot.tail());
    assert!(boot.says("FAILED: get the root") && boot.says("reboot: Restarting system"), "{}", boot.tail());
    Ok(())
}

#[test]
fn a_tried_boot_that_fails_powers_off() -> Result<()> {
    let server = Server::start(&Materials::get().squashfs, Manner::Missing)?;
    let boot =
        machine(&Image::default(), "checked", &server)?.cmdline("netboot.check").card("virtio-net-pci", MAC).boot()?;
    assert!(boot.says("FAILED: get the root") && boot.says("404") && boot.says("power off"), "{}", boot.tail());
    assert!(boot.says("reboot: Power down") && !boot.says("Restarting system"), "{}", boot.tail());
    Ok(())
}
