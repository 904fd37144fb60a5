//! `netboot-init` in QEMU: one good boot, and each way in which a boot goes wrong, with what the console then says.

use anyhow::{Context, Result, ensure};
use imgbuild_tests_init::{Boot, Image, Machine, Manner, Materials, Server};
use netboot_init::config::{OnFailure, Stage};

mod configuration;
mod debugging;
mod fetching;
mod hooks;
mod identity;
mod tls;

const MAC: &str = "52:54:00:12:34:56";
const OTHER: &str = "52:54:00:12:34:57";

fn machine(image: &Image<'_>, name: &str, server: &Server) -> Result<Machine> {
    let initrd = Materials::get().initrd(name, image)?;
    Ok(Machine::new(&initrd).cmdline(&format!("netboot.root={}", server.url())))
}

fn good_server() -> Result<Server> {
    Server::start(&Materials::get().squashfs, Manner::Good)
}

/// Boots with a server of this manner, one card, and an ordinary image.
fn boot_with(manner: Manner, name: &str) -> Result<(Boot, Server)> {
    let server = Server::start(&Materials::get().squashfs, manner)?;
    let boot = machine(&Image::default(), name, &server)?.card("virtio-net-pci", MAC).boot()?;
    Ok((boot, server))
}

#[track_caller]
fn assert_boots(boot: &Boot) {
    assert_eq!(boot.facts().get("end"), Some(&"end"), "{}", boot.tail());
}

#[track_caller]
fn assert_fails(boot: &Boot, step: &str, words: &[&str]) {
    let failure = boot.failure();
    assert_eq!(failure.first().copied(), Some(format!("FAILED: {step}").as_str()), "{}", boot.tail());
    let text = failure.join("\n");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in:\n{text}");
    }
    assert!(failure.iter().any(|line| line.starts_with("what to check: ")), "{text}");
    assert!(boot.says("netboot.on_failure=reboot: reboot in 0 s") && boot.says("reboot: Restarting system"));
    assert!(!boot.says("Kernel panic"), "{}", boot.tail());
}

#[test]
fn a_node_boots_and_the_system_finds_what_it_was_promised() -> Result<()> {
    let server = good_server()?;
    let script = "#!/bin/sh\necho \"$NETBOOT_STAGE $NETBOOT_HOOK $NETBOOT_IP\"\ncat\nls /proc/1 /dev/null /run/netboot/log >/dev/null \
                  && echo \"$NETBOOT_HOSTNAME\" > /etc/from-hook\n";
    let hooks = [("first", Stage::PreInit, 30, OnFailure::Reboot, script)];
    let machine = machine(&Image { hooks: &hooks, ..Image::default() }, "good", &server)?;
    let machine = machine.device("-rtc base=2001-01-01 -uuid 5f1b3c04-0e4e-4a57-9ceb-0c7a3f0b6a11");
    let boot = machine.cmdline("netboot.rot=x netboot.delay=1 word").card("virtio-net-pci", MAC).boot()?;
    assert_boots(&boot);
    assert!(boot.says("netboot.delay: 0.") || boot.says("netboot.delay: 1.0 s"), "{}", boot.tail());
    let facts = boot.facts();
    let fact = |name: &str| facts.get(name).copied().unwrap_or_default();
    assert_eq!((fact("pid"), fact("arguments")), ("1", "word"));
    assert_eq!((fact("hostname"), fact("hostname-file")), ("node-525400123456", "node-525400123456"));
    assert!(fact("hosts").contains("127.0.1.1 node-525400123456;"), "{}", fact("hosts"));
    assert_eq!(fact("machine-id"), "5f1b3c040e4e4a579ceb0c7a3f0b6a11");
    assert!(fact("clock").parse::<i64>()? >= 1_750_000_000, "{}", fact("clock"));
    assert!(boot.says("before the build's; raised"));
    assert!(fact("links").contains("eth0: <BROADCAST,MULTICAST>"), "down for udev to rename: {}", fact("links"));
    assert!(!fact("addresses").contains("eth0"), "{}", fact("addresses"));
    assert_eq!(fact("extra"), "from the extra segment");
    assert_eq!(fact("run-extra"), "for this boot only");
    for name in ["env", "hooks", "image", "image.json", "log", "lower", "network.json", "upper"] {
        assert!(fact("run").split(' ').any(|found| found == name), "{name}: {}", fact("run"));
    }
    assert!(fact("network").contains("\"address\":\"10.0.2.15\""), "{}", fact("network"));
    assert_eq!(fact("hook-log"), "pre-init first 10.0.2.15;");
    assert_eq!(fact("from-hook"), "node-525400123456");
    assert_eq!(fact("writable"), "yes");
    let mounts: Vec<&str> = boot.prefixed("MOUNT ").collect();
    for begin in
        ["/ overlay overlay", "/var/lib/kubelet tmpfs tmpfs", "/run tmpfs", "/run/netboot/lower squashfs /dev/loop0 ro"]
    {
        assert!(mounts.iter().any(|mount| mount.starts_with(begin)), "{begin}: {mounts:#?}");
    }
    let env: Vec<&str> = boot.prefixed("ENV ").collect();
    assert_eq!(env.len(), netboot_init::environment::VARIABLES.len());
    assert!(env.contains(&"NETBOOT_IMAGE='tiny'") && env.contains(&format!("NETBOOT_MAC='{MAC}'").as_str()), "{env:?}");
    assert!(boot.says("netboot.rot is not known, ignored: did you mean netboot.root?"));
    assert_eq!(boot.count("netboot: root: "), 11, "nine tenths, the end, the mount: {}", boot.tail());
    let memory = |name: &str| {
        let value = fact("memory").split(';').find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        value.unwrap_or_default().parse::<u64>().map(|kibibytes| kibibytes << 10)
    };
    let used = memory("MemTotal:")? - memory("MemAvailable:")?;
    let root = Materials::get().root_size();
    assert!(used < root + (40 << 20), "once in memory: {used} bytes are used, the root has {root}");
    Ok(())
}

#[test]
fn a_broken_connection_is_resumed() -> Result<()> {
    let (boot, server) = boot_with(Manner::CutOnce, "cut")?;
    assert_boots(&boot);
    let ranges = server.ranges()?;
    let third = Materials::get().root_size() / 3;
    ensure!(ranges == [String::new(), format!("bytes={third}-")], "{ranges:?}");
    Ok(())
}

#[test]
fn a_busy_server_is_waited_for() -> Result<()> {
    let (boot, server) = boot_with(Manner::Busy, "busy")?;
    assert_boots(&boot);
    assert_eq!(server.ranges()?.len(), 3);
    Ok(())
}

#[test]
fn the_next_source_takes_over() -> Result<()> {
    let (missing, good) = (Server::start(&Materials::get().squashfs, Manner::Missing)?, good_server()?);
    let machine = machine(&Image::default(), "sources", &missing)?.cmdline(&format!("netboot.root={}", good.url()));
    assert_boots(&machine.card("virtio-net-pci", MAC).boot()?);
    Ok(())
}

#[test]
fn an_altered_root_is_not_mounted() -> Result<()> {
    let (boot, _) = boot_with(Manner::Altered, "altered")?;
    assert_fails(&boot, "get the root", &["SHA-256 is ", ", expected ", "a stale boot.ipxe"]);
    Ok(())
}

#[test]
fn a_missing_root_is_a_404_and_not_a_wrong_hash() -> Result<()> {
    let (boot, server) = boot_with(Manner::Missing, "missing")?;
    assert_fails(
        &boot,
        "get the root",
        &[&server.url(), "HTTP status 404 Not Found", "that this version is published"],
    );
    assert!(!boot.says("SHA-256"));
    Ok(())
}

/// Whoever stands before the machine sees the reason, as well as whoever reads the serial port. Of serial ports, Linux takes one
/// as a console.
#[test]
fn the_reason_of_a_failure_is_the_last_thing_on_every_console() -> Result<()> {
    let server = Server::start(&Materials::get().squashfs, Manner::Missing)?;
    let machine = machine(&Image::default(), "consoles", &server)?.cmdline("netboot.on_failure=halt");
    let machine = machine.screen().until("halted: ").card("virtio-net-pci", MAC);
    let boot = machine.boot()?;
    let url = format!("what happened: {}: HTTP status 404 Not Found", server.url());
    let check = "what to check: that this version is published";
    let expected = ["FAILED: get the root", &url, check, "halted: switch the machine off or reset it"];
    for console in [boot.console.concat(), boot.screen.clone()] {
        let mut rest = console.as_str();
        for words in expected {
            rest = rest.split_once(words).with_context(|| format!("`{words}` is not on:\n{console}"))?.1;
        }
        // What is further down in the screen's memory is older.
        let next: String = rest.chars().take(5 * 80).collect();
        assert!(!next.contains("netboot: "), "the last thing: {next}");
    }
    Ok(())
}

#[test]
fn a_root_of_another_length_is_refused_before_it_is_read() -> Result<()> {
    let (boot, _) = boot_with(Manner::Truncated, "truncated")?;
    assert_fails(&boot, "get the root", &["the file there has ", "bytes, expected "]);
    Ok(())
}

#[test]
fn too_little_memory_is_said_before_the_first_byte() -> Result<()> {
    let server = good_server()?;
    let image = Image { ram_budget: 256 << 20, ..Image::default() };
    let boot = machine(&image, "small", &server)?.memory(112).card("virtio-net-pci", MAC).boot()?;
    assert_fails(&boot, "get the root", &["not enough memory: needs ", " MiB available of ", "budget"]);
    assert!(boot.says("this image was made for nodes with 256 MiB of memory; this one has "), "{}", boot.tail());
    assert_eq!(server.ranges()?, [""; 0], "nothing was asked for");
    Ok(())
}

#[test]
fn silence_of_dhcp_is_told_with_address_and_carrier() -> Result<()> {
    let server = good_server()?;
    let machine = machine(&Image::default(), "silent", &server)?.cmdline("netboot.timeout=8").lonely_card(MAC);
    let boot = machine.boot()?;
    assert_fails(&boot, "bring up the network", &["no DHCP answer in 8 s", MAC, "has carrier", "switch port"]);
    assert!(boot.says("attempt 2 without an answer"), "{}", boot.tail());
    Ok(())
}

#[test]
fn of_two_cards_the_one_with_an_answer_is_used() -> Result<()> {
    let server = good_server()?;
    let machine = machine(&Image::default(), "two", &server)?.lonely_card(MAC).card("virtio-net-pci", OTHER);
    let boot = machine.boot()?;
    assert_boots(&boot);
    assert_eq!(boot.facts().get("hostname"), Some(&"node-525400123457"));
    let links = boot.facts().get("links").copied().unwrap_or_default().to_owned();
    assert!(links.contains("eth0: <BROADCAST,MULTICAST>") && links.contains("eth1: <BROADCAST,MULTICAST>"), "{links}");
    Ok(())
}

#[test]
fn a_card_without_a_driver_is_named() -> Result<()> {
    let server = good_server()?;
    let image = Image { no_network_drivers: true, ..Image::default() };
    let machine = machine(&image, "driver", &server)?.card("e1000", MAC).card("virtio-net-pci", OTHER);
    let boot = machine.boot()?;
    let words = [
        "no network interface",
        // This kernel has no driver for one of them at all, and for the other the initrd has none.
        "[8086:100e] pci:v00008086d0000100E",
        "for which the kernel has virtio_pci, left out of this initrd",
        "recipe",
    ];
    assert_fails(&boot, "bring up the network", &words);
    Ok(())
}

#[test]
fn a_static_address_needs_no_dhcp() -> Result<()> {
    let server = good_server()?;
    let ip = "ip=10.0.2.77::10.0.2.2:255.255.255.0:fixed::off:10.0.2.3";
    let boot = machine(&Image::default(), "static", &server)?.cmdline(ip).card("virtio-net-pci", MAC).boot()?;
    assert_boots(&boot);
    assert_eq!(boot.facts().get("hostname"), Some(&"fixed"));
    assert!(boot.says("eth0 10.0.2.77/24, gateway 10.0.2.2"));
    Ok(())
}

#[test]
fn an_embedded_root_needs_no_network_and_is_checked() -> Result<()> {
    let initrd = Materials::get().initrd("embedded", &Image { embedded: true, ..Image::default() })?;
    let boot = Machine::new(&initrd).card("virtio-net-pci", MAC).boot()?;
    assert_boots(&boot);
    assert_eq!(boot.facts().get("hostname"), Some(&"node-525400123456"));
    assert!(!boot.says("DHCP") && boot.says("root: embedded"));
    let image = Image { embedded: true, sha256: Some("0".repeat(64)), ..Image::default() };
    let boot = Machine::new(&Materials::get().initrd("embedded-altered", &image)?).boot()?;
    assert_fails(&boot, "get the root", &["/netboot/root.squashfs has SHA-256 ", "expected 000"]);
    Ok(())
}

#[test]
fn without_a_root_the_parameter_is_named() -> Result<()> {
    let initrd = Materials::get().initrd("no-root", &Image::default())?;
    let boot = Machine::new(&initrd).card("virtio-net-pci", MAC).boot()?;
    assert_fails(&boot, "bring up the network", &["netboot.root=http://SERVER/"]);
    let boot = Machine::new(&initrd).cmdline("netboot.root=https://x/r netboot.sha256=1").boot()?;
    assert_fails(&boot, "read the kernel command line", &["only http:// can be fetched", "64 hexadecimal digits"]);
    Ok(())
}
