use super::*;

fn hook(name: &str, timeout: u64) -> Hook {
    Hook { name: name.into(), stage: Stage::PreInit, timeout, on_failure: OnFailure::Reboot }
}

/// Runs a script as a hook and returns how it ended, its log, and its last lines.
fn run(script: &str, timeout: u64) -> (Outcome, String, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, tail) = run_in(folder.path(), &hook("test", timeout), script);
    let log = fs::read_to_string(folder.path().join("run/pre-init/test.log")).unwrap_or_default();
    let status = fs::read_to_string(folder.path().join("run/pre-init/test.status")).unwrap();
    assert_eq!(status, format!("{outcome}\n"));
    (outcome, log, tail)
}

/// Runs a script as this hook, with logs in `run` of a folder.
fn run_in(folder: &Path, hook: &Hook, script: &str) -> (Outcome, Vec<String>) {
    let source = folder.join("hooks");
    let of_stage = source.join(stage_name(hook.stage));
    fs::create_dir_all(&of_stage).unwrap();
    fs::write(of_stage.join(&hook.name), script).unwrap();
    let facts = Facts { image: "worker".into(), version: "1.2".into(), ..Facts::default() };
    let runner = Runner { source: &source, scripts: &folder.join("scripts"), folder: &folder.join("run"), root: None };
    runner.run(hook, &facts)
}

#[test]
fn hooks_of_one_name_in_two_stages_have_logs_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    for (stage, status) in [(Stage::PreNetwork, 0), (Stage::PreInit, 3)] {
        let script = format!("#!/bin/sh\necho $NETBOOT_STAGE\nexit {status}\n");
        run_in(folder.path(), &Hook { stage, ..hook("network.sh", 10) }, &script);
    }
    let read = |path: &str| fs::read_to_string(folder.path().join("run").join(path)).unwrap();
    assert_eq!(read("pre-network/network.sh.log"), "pre-network\n");
    assert_eq!(read("pre-init/network.sh.log"), "pre-init\n");
    assert_eq!(read("pre-network/network.sh.status"), "is done\n");
    assert_eq!(read("pre-init/network.sh.status"), "ended with status 3\n");
}

#[test]
fn output_and_status_are_kept() {
    let (outcome, log, tail) = run("#!/bin/sh\necho out; echo err >&2; printf 'no end'; exit 3\n", 10);
    assert_eq!(outcome, Outcome::Status(3));
    assert_eq!(log, "out\nerr\nno end\n");
    assert_eq!(tail, ["out", "err", "no end"]);
    assert_eq!(run("#!/bin/sh\n:\n", 10).0, Outcome::Done);
    assert_eq!(run("#!/bin/sh\nkill -9 $$\n", 10).0, Outcome::Signal(9));
}

#[test]
fn the_environment_is_the_documented_one_and_nothing_else() {
    let (_, log, _) = run("#!/bin/sh\nexec env\n", 10);
    // What the shell itself sets.
    let of_shell = ["PWD", "OLDPWD", "SHLVL", "_"];
    let mut names: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .filter(|name| !of_shell.contains(name))
        .collect();
    names.sort_unstable();
    let mut expected: Vec<&str> = environment::VARIABLES.iter().map(|variable| variable.name).collect();
    expected.extend(environment::OF_HOOKS.iter().map(|(name, _)| name));
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert!(log.contains("NETBOOT_VERSION=1.2\n") && log.contains("NETBOOT_STAGE=pre-init\n"), "{log}");
}

#[test]
fn stdin_is_empty() {
    let (outcome, log, _) = run("#!/bin/sh\ncat; echo end\n", 10);
    assert_eq!((outcome, log.as_str()), (Outcome::Done, "end\n"));
}

#[test]
fn a_hanging_hook_dies_with_its_children() {
    let started = Instant::now();
    let (outcome, log, _) = run("#!/bin/sh\ntrap '' TERM\nsleep 4711.5 & echo $!; wait; sleep 100\n", 1);
    assert_eq!(outcome, Outcome::TimedOut(1));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let child = log.trim();
    thread::sleep(Duration::from_millis(100));
    let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z"), "{state}");
}

#[test]
fn a_daemon_that_keeps_the_output_open_does_not_hold_up_the_boot() {
    let started = Instant::now();
    let (outcome, log, _) = run("#!/bin/sh\nsleep 5 &\necho started\n", 30);
    assert_eq!((outcome, log.as_str()), (Outcome::Done, "started\n"));
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_megabyte_of_output_is_bounded() {
    let (outcome, log, tail) =
        run("#!/bin/sh\nyes 'a line of some length to fill the log with' | head -n 60000\necho last\n", 60);
    assert_eq!(outcome, Outcome::Done);
    assert!(log.len() < LOG_BYTES + 8192 && log.len() > LOG_BYTES / 2, "{}", log.len());
    assert!(log.ends_with("(cut here: the log is full)\n"));
    assert_eq!(tail.last().map(String::as_str), Some("last"));
}

#[test]
fn a_hook_that_floods_its_output_dies_at_its_deadline() {
    let started = Instant::now();
    // As fast as can be, and in a process group that the polite signal does not end.
    let (outcome, log, tail) = run("#!/bin/sh\ntrap '' TERM\nyes\n", 1);
    assert_eq!(outcome, Outcome::TimedOut(1));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert!(log.len() < LOG_BYTES + 8192, "{}", log.len());
    assert_eq!(tail, ["y"; TAIL]);
    assert_eq!(run("#!/bin/sh\nwhile :; do echo x; done\n", 1).0, Outcome::TimedOut(1));
}

#[test]
fn output_that_nobody_takes_waits_in_the_hook() {
    let (reader, mut writer) = io::pipe().unwrap();
    let lines = read_lines(reader);
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = written.clone();
    thread::spawn(move || {
        while writer.write_all(&[b'\n'; 4096]).is_ok() {
            counter.fetch_add(4096, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let count = || written.load(std::sync::atomic::Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(20);
    while count() < 64 * 1024 && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    thread::sleep(Duration::from_millis(500));
    // The channel, the reader's buffer, and the pipe's 64 KiB.
    assert!(count() >= 64 * 1024 && count() <= WAITING_LINES + 8192 + 65536 + 4096, "{}", count());
    drop(lines);
}

#[test]
fn what_cannot_start_says_why() {
    let (outcome, ..) = run("#!/no/such/shell\n", 10);
    assert!(outcome.to_string().contains("interpreter in its first line"), "{outcome}");
}
