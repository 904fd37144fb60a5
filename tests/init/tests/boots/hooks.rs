//! Hooks that behave and hooks that do not.

use std::collections::BTreeMap;

use netboot_init::environment;

use super::*;

/// What a shell and systemd set besides.
const OF_OTHERS: [&str; 11] = [
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LANG",
    "LOGNAME",
    "SHELL",
    "SYSTEMD_EXEC_PID",
    "USER",
];

/// The names in `env`'s output, without those that others set, must be the documented ones, and `own`.
#[track_caller]
fn assert_environment<'a>(lines: impl Iterator<Item = &'a str>, own: &[&str]) -> BTreeMap<&'a str, &'a str> {
    let found: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once('=')).collect();
    let names: Vec<&str> = found.keys().copied().filter(|name| !OF_OTHERS.contains(name)).collect();
    let page = netboot_init::hooks::reference();
    let documented = page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once("` |")?.0));
    let mut expected: Vec<&str> = documented.filter(|name| !name.contains(['-', '.']) && *name != "online").collect();
    assert!(expected.len() == environment::VARIABLES.len() + environment::OF_HOOKS.len(), "{expected:?}");
    expected.extend(own);
    expected.sort_unstable();
    assert_eq!(names, expected);
    found
}

#[test]
fn hooks_of_every_stage_run_in_order_with_what_the_documentation_promises() -> Result<()> {
    let server = Server::start(Materials::get().system()?, Manner::Good)?;
    server.document("/node.json", r#"{"hostname": "n1", "variables": {"ROLE": "it's \"gpu\" $x"}}"#)?;
    let busybox = std::fs::read("/usr/bin/busybox")?;
    let env = "#!/bin/sh\nenv\n";
    let early = "#!/bin/busybox sh\n/bin/busybox env\n/bin/busybox ls /sys/class/net/eth0/address\n";
    let last =
        "#!/bin/sh\necho begin\ncat\ncat /run/netboot/hooks/pre-network/env.log /run/netboot/hooks/pre-init/env.log\n";
    let hooks = [
        ("a", Stage::Online, 30, OnFailure::Continue, env),
        ("b", Stage::Online, 30, OnFailure::Continue, last),
        ("env", Stage::PreInit, 30, OnFailure::Reboot, env),
        ("env", Stage::PreNetwork, 30, OnFailure::Reboot, early),
    ];
    let extra = [("/bin/busybox", 0o755, busybox.as_slice())];
    let image = Image { hooks: &hooks, system: true, extra: &extra, ..Image::default() };
    let machine = machine(&image, "stages", &server)?.cmdline(&format!("netboot.config={}", server.at("/node.json")));
    let boot = machine.card("virtio-net-pci", MAC).boot()?;
    assert_boots(&boot);
    let of = |unit: &'static str| boot.prefixed("JOURNAL ").filter_map(move |line| line.strip_prefix(unit));
    let online = assert_environment(of("netboot-hook-a.service "), &["ROLE"]);
    assert_eq!((online["NETBOOT_STAGE"], online["NETBOOT_HOOK"]), ("online", "a"));
    assert_eq!((online["ROLE"], online["NETBOOT_HOSTNAME"]), ("it's \"gpu\" $x", "n1"));
    let after: Vec<&str> = of("netboot-hook-b.service ").collect();
    assert_eq!(after.first(), Some(&"begin"), "stdin is empty: {}", boot.tail());
    // The logs of the two others, one after the other.
    let second = after.iter().position(|line| *line == "NETBOOT_STAGE=pre-init").unwrap_or_default();
    let first = after.iter().position(|line| *line == "/sys/class/net/eth0/address").unwrap_or_default();
    assert!(first > 0 && second > first, "{after:#?}");
    let (early, chroot) = after.split_at(first);
    let early = assert_environment(early.iter().copied(), &[]);
    assert_eq!((early["NETBOOT_STAGE"], early["NETBOOT_IP"]), ("pre-network", ""));
    let chroot = assert_environment(chroot.iter().copied(), &["ROLE"]);
    assert_eq!((chroot["NETBOOT_STAGE"], chroot["NETBOOT_IP"]), ("pre-init", "10.0.2.15"));
    assert_eq!((chroot["ROLE"], chroot["NETBOOT_CONFIG"]), (online["ROLE"], server.at("/node.json").as_str()));
    assert_eq!(chroot["NETBOOT_MAC"], MAC);
    let said = |text: &str| boot.console.iter().position(|line| line.contains(text)).unwrap_or(usize::MAX);
    assert!(said("hook env (pre-network)") < said("network interface eth0"), "{}", boot.tail());
    assert!(said("GET http://") < said("hook env (pre-init)"), "{}", boot.tail());
    Ok(())
}

#[test]
fn a_talkative_hook_is_cut_and_the_boot_goes_on() -> Result<()> {
    let server = good_server()?;
    let script = "#!/bin/sh\nyes 'a line of some length to fill the log with' | head -n 50000\nexit 0\n";
    let hooks = [("first", Stage::PreInit, 60, OnFailure::Reboot, script)];
    let image = Image { hooks: &hooks, ..Image::default() };
    let boot = machine(&image, "hook-talks", &server)?.card("virtio-net-pci", MAC).boot()?;
    assert_boots(&boot);
    assert!(boot.says("(more than 200 lines: the rest is in /run/netboot/hooks/pre-init/first.log)"));
    assert_eq!(boot.count("hook first: a line"), 200);
    let bytes: u64 = boot.facts().get("hook-bytes").copied().unwrap_or_default().parse()?;
    assert!(bytes > 1_000_000 && bytes < (1 << 20) + 8192, "{bytes}");
    Ok(())
}

#[test]
fn a_failing_hook_stops_the_boot_and_shows_its_last_lines() -> Result<()> {
    let server = good_server()?;
    let hooks = [
        ("may-fail", Stage::PreInit, 30, OnFailure::Continue, "#!/bin/sh\nexit 1\n"),
        ("first", Stage::PreInit, 30, OnFailure::Reboot, "#!/bin/sh\necho no route to the vault >&2\nexit 7\n"),
        ("never", Stage::PreInit, 30, OnFailure::Reboot, "#!/bin/sh\necho ran\n"),
    ];
    let image = Image { hooks: &hooks, ..Image::default() };
    let boot = machine(&image, "hook-fails", &server)?.card("virtio-net-pci", MAC).boot()?;
    assert!(boot.says("hook may-fail ended with status 1; its policy is to go on"));
    let words = ["hook first ended with status 7; its last lines: no route to the vault"];
    assert_fails(&boot, "run the pre-init hooks", &words);
    assert!(!boot.says("hook never"));
    Ok(())
}

#[test]
fn a_hanging_hook_is_killed_at_its_deadline() -> Result<()> {
    let server = good_server()?;
    let hooks = [("first", Stage::PreInit, 2, OnFailure::Reboot, "#!/bin/sh\necho waiting\nsleep 1000\n")];
    let image = Image { hooks: &hooks, ..Image::default() };
    let boot = machine(&image, "hook-hangs", &server)?.card("virtio-net-pci", MAC).boot()?;
    let words = ["hook first was killed, with its children, after its timeout of 2 s; its last lines: waiting"];
    assert_fails(&boot, "run the pre-init hooks", &words);
    Ok(())
}

#[test]
fn an_online_hook_that_fails_restarts_the_node_after_the_pause_that_was_asked_for() -> Result<()> {
    let server = Server::start(Materials::get().system()?, Manner::Good)?;
    let hooks = [
        ("a", Stage::Online, 30, OnFailure::Reboot, "#!/bin/sh\nexit 1\n"),
        // The system is not up, and does not end by itself, before this one is over.
        (
            "b",
            Stage::Online,
            200,
            OnFailure::Continue,
            "#!/bin/sh\nsleep 6\necho during the pause > /dev/console\nsleep 190\n",
        ),
    ];
    let image = Image { hooks: &hooks, system: true, ..Image::default() };
    let machine = machine(&image, "online-fails", &server)?.cmdline("netboot.on_failure=reboot:10");
    let boot = machine.card("virtio-net-pci", MAC).boot()?;
    assert!(boot.says("during the pause") && boot.says("reboot: Restarting system"), "{}", boot.tail());
    assert!(!boot.says("FACT end"), "{}", boot.tail());
    Ok(())
}

#[test]
fn a_hook_may_halt_the_machine() -> Result<()> {
    let server = good_server()?;
    let hooks = [("first", Stage::PreInit, 30, OnFailure::Halt, "#!/bin/sh\nexit 1\n")];
    let image = Image { hooks: &hooks, ..Image::default() };
    let machine = machine(&image, "hook-halts", &server)?.until("halted: switch the machine off or reset it");
    let boot = machine.card("virtio-net-pci", MAC).boot()?;
    assert!(boot.says("what happened: hook first ended with status 1") && !boot.says("Restarting"), "{}", boot.tail());
    Ok(())
}
