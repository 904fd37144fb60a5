//! What `imgbuild test` makes of guests that behave and of guests that do not.
//!
//! The guests are as small as can be: Debian's kernel for virtual machines, busybox, and for init a script that does what
//! the kernel's command line tells it (`mode=`). `ci/test` runs these; a plain `cargo test` does not.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt, fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, OnceLock},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

mod attended;
mod faults;
mod kinds;
mod kvm;
mod min_ram;
mod misemulated;

const IMGBUILD: &str = env!("CARGO_BIN_EXE_imgbuild");

const INIT: &str = r#"#!/bin/sh
port() { insmod /usr/lib/modules/*/kernel/drivers/char/virtio_console.ko; }
forged='{"event":"done","passed":4,"failed":0}'
case " $(cat /proc/cmdline) " in
*" mode=forge "*)
    echo "$forged" >/dev/console
    echo "$forged" >/dev/kmsg
    poweroff -f ;;
*" mode=liar "*)
    port
    # Its driver shows a port before it can be opened.
    until port=$(ls /dev/vport*) && printf '%s\n' '{"event":"hello","schema":1,"tests":4}' "$forged" >"$port"; do sleep 1; done ;;
*" mode=int3 "*) echo 'Oops: int3: 0000 [#1] PREEMPT SMP NOPTI' >/dev/kmsg; exit 3 ;;
*" mode=panic "*) exit 3 ;;
*" mode=hang "*) echo 'Welcome to nowhere' ;;
*" mode=serve "*)
    mount -t sysfs sys /sys
    while :; do cat /proc/cmdline /sys/class/net/*/address | nc -l -p 7777; done ;;
*" mode=busy "*)
    nc -l -p 7777 &
    port; /usr/lib/imgbuild/probe ;;
*) port; /usr/lib/imgbuild/probe ;;
esac
while :; do sleep 1000; done
"#;

/// As much of systemd as the default tests ask for.
const SYSTEMCTL: &str = "#!/bin/sh
printf 'Id=x.service\\nInactiveExitTimestampMonotonic=1000000\\nInactiveEnterTimestampMonotonic=2000000\\n'
printf 'UserspaceTimestampMonotonic=1500000\\n'
printf 'LoadState=loaded\\nActiveState=active\\nSubState=active\\nResult=success\\nNRestarts=0\\n'
printf 'ActiveEnterTimestampMonotonic=999000000000\\n'
";
/// And of its journal.
const JOURNALCTL: &str = "#!/bin/sh\necho 'Started everything.'\necho 'a disk is full'\n";

fn run(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}", output.status);
    text
}

/// By another process: one that another test starts meanwhile would hold it open for writing, and then it cannot be run.
fn script(path: &Path, text: &str) {
    let write = ["-c", "printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"", "write"];
    assert!(Command::new("sh").args(write).arg(path).arg(text).status().unwrap().success());
}

/// One test's guests at a time: two cores emulate no more.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A folder that everybody may read, with bundles `good-1`, `bad-1` and the cache for the verdict on KVM.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        // One for all runs: what is in it is made anew.
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(place.join("root/usr/bin")).unwrap();
        kernel(&place);
        let root = place.join("root");
        for folder in ["proc", "sys", "dev", "run", "tmp", "etc", "usr/sbin", "usr/lib"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (name, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
            symlink(target, root.join(name)).unwrap();
        }
        fs::copy("/usr/bin/busybox", root.join("usr/bin/busybox")).expect("busybox-static is installed");
        for name in ["sh", "cat", "insmod", "mount", "nc", "poweroff", "printf", "sleep"] {
            symlink("busybox", root.join("usr/bin").join(name)).unwrap();
        }
        script(&root.join("usr/sbin/init"), INIT);
        script(&root.join("usr/bin/systemctl"), SYSTEMCTL);
        script(&root.join("usr/bin/journalctl"), JOURNALCTL);
        script(&place.join("hook.sh"), "#!/bin/sh\necho 'it ran'\nexit 3\n");
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key"];
        let ca = ["req", "-x509", "-subj", "/CN=site", "-out", "ca.pem"];
        run(Command::new("openssl").args(ca).args(key).current_dir(&place));
        recipe(&place, "whole", "[[test]]\nrun = \"cat /proc/cmdline\"\nstdout = \"BOOTIF=\"\n");
        recipe(
            &place,
            "good",
            "[[test]]\nrun = \"cat /proc/cmdline\"\nstdout = \"netboot.sha256=\"\n[[test]]\nrun = \"true\"\n",
        );
        recipe(&place, "kinds", kinds::PASSING);
        recipe(&place, "strict", "[[hook]]\nstage = \"pre-init\"\nscript = \"hook.sh\"\non_failure = \"reboot\"\n");
        recipe(
            &place,
            "bad",
            "[[test]]\nname = \"the moon is out\"\nrun = \"echo clouds >&2; exit 3\"\ntimeout = \"1s\"\n",
        );
        place
    })
}

/// Debian's kernel, in `kernel/usr/lib` as a merged /usr has it.
fn kernel(place: &Path) {
    let folder = place.join("kernel");
    let unpacked = match std::env::var_os("IMGBUILD_TEST_KERNEL") {
        Some(given) => PathBuf::from(given),
        None => {
            let depends = run(Command::new("apt-cache").args(["depends", "--important", "linux-image-cloud-amd64"]));
            let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-")).unwrap();
            let download = ["-q", "-o", "APT::Sandbox::User=root", "download", &format!("linux-image-{name}")];
            run(Command::new("apt-get").args(download).current_dir(place));
            let all = fs::read_dir(place).unwrap().flatten().map(|entry| entry.path());
            let deb = all.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb")).unwrap();
            let unpacked = place.join("deb");
            run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&unpacked));
            run(Command::new("depmod").arg("-b").arg(&unpacked).arg(name));
            unpacked
        }
    };
    fs::create_dir_all(folder.join("usr/lib")).unwrap();
    run(Command::new("cp").arg("-r").arg(unpacked.join("boot")).arg(&folder));
    run(Command::new("cp").arg("-r").arg(unpacked.join("lib/modules")).arg(folder.join("usr/lib")));
}

fn recipe(place: &Path, name: &str, tests: &str) {
    let text = format!(
        "[image]\nname = \"{name}\"\nversion = \"1\"\n[[layer]]\nname = \"root\"\noverlay = \"root\"\n\
         [[layer]]\nname = \"kernel\"\noverlay = \"kernel\"\n\
         [prune]\npaths = [\"/boot/System.map*\", \"/boot/config*\"]\n\
         [kernel]\nversion = \"*\"\nmodules = [\"net/virtio\"]\ncmdline = [\"console=tty0\"]\n\
         [root]\ncompression = {{ algorithm = \"zstd\", level = 1, block = \"1M\" }}\n[budget]\nram = \"384MiB\"\n{tests}"
    );
    // Kernel and initrd are all there is of this one.
    let text = if name == "whole" {
        text.replace("[root]\n", "[root]\ndelivery = \"embed\"\nca = \"ca.pem\"\n")
    } else {
        text
    };
    fs::write(place.join(format!("{name}.toml")), text).unwrap();
    run(imgbuild(place).arg("build").arg(place.join(format!("{name}.toml"))).arg("-o").arg(place));
}

fn imgbuild(place: &Path) -> Command {
    let mut command = Command::new(IMGBUILD);
    command.env("IMGBUILD_CACHE", place.join("cache")).stdin(Stdio::null());
    command
}

/// `imgbuild --json test`, with a folder of its own for temporary files.
fn tester(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = imgbuild(place());
    command.env("TMPDIR", temporary).args(["--json", "test"]).args(arguments);
    if !arguments.contains(&"--path") {
        command.args(["--path", "direct"]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Has a program called where QEMU would be, which finds that by `REAL_QEMU`.
fn in_place_of_qemu(command: &mut Command, temporary: &Path, program: &str) {
    let folder = temporary.join("bin");
    fs::create_dir(&folder).unwrap();
    script(&folder.join("qemu-system-x86_64"), program);
    let real = run(Command::new("sh").args(["-c", "command -v qemu-system-x86_64"]));
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("REAL_QEMU", real.trim());
}

fn bundle(name: &str) -> String {
    place().join(format!("{name}-1")).to_str().unwrap().to_owned()
}

/// Runs a test that is to fail over the guest, and returns the report.
#[track_caller]
fn failing(arguments: &[&str]) -> Value {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = tester(temporary.path(), arguments);
    if !arguments.contains(&"--timeout") {
        command.args(["--timeout", "300"]);
    }
    report(&command.output().unwrap(), 4)
}

#[track_caller]
fn report(output: &Output, code: i32) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {error}"));
    assert_eq!(report["failure"].is_null(), code == 0, "{report:#}");
    report
}

fn named<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["tests"].as_array().unwrap().iter().find(|test| test["name"] == name).unwrap()
}

/// Two at once: one as somebody who may do nothing special, over PXE; one that finds a fault.
#[test]
fn a_good_image_passes_while_a_bad_one_fails() {
    let _turn = turn();
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::set_permissions(ours.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut good = tester(
        ours.path(),
        &["--path", "pxe-bios", "--path", "pxe-uefi", "--path", "http-uefi", "--path", "direct", &bundle("good")],
    );
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        good.uid(65534).gid(65534).env("IMGBUILD_CACHE", ours.path().join("cache"));
    }
    let good = good.spawn().unwrap();
    let results = theirs.path().join("kept");
    let junit = theirs.path().join("junit.xml");
    let timeline = theirs.path().join("timeline.svg");
    let mut arguments = vec!["--results", results.to_str().unwrap(), "--junit", junit.to_str().unwrap()];
    let bundle_of_bad = bundle("bad");
    arguments.extend(["--timeline", timeline.to_str().unwrap(), &bundle_of_bad]);
    let bad = tester(theirs.path(), &arguments).output().unwrap();

    let bad = report(&bad, 4);
    assert_eq!(bad["failure"]["cause"], serde_json::json!({"kind": "tests", "failed": 1}));
    let moon = named(&bad, "the moon is out");
    assert_eq!(moon["passed"], false);
    assert!(moon["message"].as_str().unwrap().contains("clouds"), "{moon}");
    assert_eq!(named(&bad, "the root is an overlay")["passed"], true);
    let junit = fs::read_to_string(junit).unwrap();
    let (_, case) = junit.split_once(r#"<testcase name="the moon is out""#).unwrap_or_else(|| panic!("{junit}"));
    assert!(case.split_once("</testcase>").unwrap().0.contains("clouds"), "{junit}");
    assert!(junit.contains(r#"failures="1" errors="0">"#), "{junit}");
    let kept: Value = serde_json::from_slice(&fs::read(results.join("direct/report.json")).unwrap()).unwrap();
    assert_eq!(kept, bad);
    let said = fs::read_to_string(results.join("direct/probe.jsonl")).unwrap();
    let last: Vec<&str> = said.lines().rev().take(2).collect();
    assert!(last[0].contains("\"end\"") && last[1].contains("\"done\""), "{said}");
    assert!(fs::read_to_string(results.join("direct/console.log")).unwrap().contains("netboot: "));
    // What is gone with the guest is kept; systemd-analyze is none of its programs.
    let log = |name: &str| fs::read_to_string(results.join("direct").join(name));
    assert_eq!(log("journal.log").unwrap(), "Started everything.\na disk is full\n");
    assert!(log("netboot.log").unwrap().contains("netboot: step: get the root\n"));
    assert!(log("systemd-analyze.txt").is_err());
    let spans = bad["timeline"].as_array().unwrap();
    let span = |what: &str| spans.iter().find(|span| span["what"] == what).unwrap_or_else(|| panic!("{what}: {bad:#}"));
    let fetched = span("root fetched");
    assert!(fetched["detail"].as_str().unwrap().contains(" MB at "), "{fetched}");
    // The guest's clock and the boot server's agree to within what a console and a busy host add.
    let (from, to) = (fetched["from"].as_f64().unwrap(), fetched["to"].as_f64().unwrap());
    assert!(from > bad["reached"][2]["seconds"].as_f64().unwrap() - 1.0 && from < to, "{bad:#}");
    assert_eq!(span("x.service")["phase"], "system");
    let svg = fs::read_to_string(timeline).unwrap();
    assert!(svg.contains(">root fetched</text>") && svg.contains("bad 1 over direct"), "{svg}");
    assert_eq!(svg, log("timeline.svg").unwrap());
    assert!(fs::read_to_string(results.join("direct/requests.log")).unwrap().contains("GET /root.squashfs 200"));

    let output = good.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let reports: Vec<Value> = serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>().unwrap();
    for (report, path) in reports.iter().zip(["pxe-bios", "pxe-uefi", "http-uefi", "direct"]) {
        assert_eq!((&report["path"], &report["failure"]), (&path.into(), &Value::Null));
        assert_eq!(report["tests"].as_array().unwrap().len(), 4);
        assert_eq!(report["memory"], 384_u64 << 20);
        let phases: Vec<&str> =
            report["reached"].as_array().unwrap().iter().map(|m| m["phase"].as_str().unwrap()).collect();
        assert_eq!(phases.contains(&"ipxe"), path != "direct", "{phases:?}");
        for phase in ["kernel", "netboot-init", "probe", "done"] {
            assert!(phases.contains(&phase), "{phase} is not among {phases:?}");
        }
    }
    assert_eq!(reports.len(), 4);
    let left: Vec<_> = fs::read_dir(ours.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["cache"]);
}

/// Nothing is asked for but what iPXE loads, and there is no network to ask over.
#[test]
fn an_image_that_is_all_in_its_initrd_boots() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let results = temporary.path().join("kept");
    let report_to = "netboot.report=https://10.0.2.2:9/";
    let (bundle, results_to) = (bundle("whole"), results.to_str().unwrap());
    let arguments = [&bundle, "--path", "pxe-bios", "--append", report_to, "--results", results_to];
    let report = report(&tester(temporary.path(), &arguments).output().unwrap(), 0);
    assert_eq!(named(&report, "the root is an overlay")["passed"], true);
    let console = fs::read_to_string(results.join("pxe-bios/console.log")).unwrap();
    assert!(console.contains("root: embedded, ") && !console.contains("netboot: GET "), "{console}");
    // With `root.ca`, its program speaks TLS.
    assert!(console.contains("netboot.report: not sent, there is no network"), "{console}");
    let requests = fs::read_to_string(results.join("pxe-bios/requests.log")).unwrap();
    assert!(!requests.contains("root.squashfs"), "{requests}");
}

#[test]
fn words_on_the_console_are_no_success() {
    let _turn = turn();
    let report = failing(&[&bundle("good"), "--append", "mode=forge"]);
    let failure = &report["failure"];
    assert_eq!(failure["cause"]["kind"], "ended", "{failure:#}");
    let console = failure["console"].as_array().unwrap();
    assert!(console.iter().any(|line| line.as_str().unwrap().contains("\"failed\":0")), "{failure:#}");
}

#[test]
fn a_report_without_results_is_no_success() {
    let _turn = turn();
    let report = failing(&[&bundle("good"), "--append", "mode=liar"]);
    assert_eq!(report["failure"]["cause"]["kind"], "probe", "{report:#}");
    assert_eq!(report["failure"]["cause"]["reason"], "0 results for 4 tests");
}

#[test]
fn a_panic_is_told_with_the_kernels_line() {
    let _turn = turn();
    let report = failing(&[&bundle("good"), "--append", "mode=panic"]);
    let line = report["failure"]["cause"]["line"].as_str().unwrap();
    assert!(line.contains("Attempted to kill init! exitcode=0x00000300"), "{line}");
    assert!(!report["failure"]["console"].as_array().unwrap().is_empty());
}

#[test]
fn a_wrong_hash_is_told_in_netboot_inits_words() {
    let _turn = turn();
    let wrong = format!("netboot.sha256={}", "0".repeat(64));
    let report = failing(&[&bundle("good"), "--append", &wrong]);
    let failure = &report["failure"];
    assert_eq!(
        (&failure["cause"]["kind"], &failure["phase"]),
        (&"ended".into(), &"netboot-init".into()),
        "{failure:#}"
    );
    let console = failure["console"].to_string();
    assert!(failure["advice"].as_str().unwrap().contains("what to check: "), "{failure:#}");
    assert!(console.contains("SHA-256 is ") && console.contains("FAILED: "), "{console}");
}

#[test]
fn silence_is_a_failure_when_time_is_up() {
    let _turn = turn();
    let report = failing(&[&bundle("good"), "--append", "mode=hang", "--timeout", "60"]);
    let failure = &report["failure"];
    assert_eq!(failure["cause"], serde_json::json!({"kind": "timeout", "seconds": 60}), "{failure:#}");
    assert_eq!(failure["phase"], "system");
}

#[test]
fn what_is_damaged_is_not_booted() {
    let _turn = turn();
    let copy = tempfile::tempdir().unwrap();
    let damaged = copy.path().join("damaged");
    run(Command::new("cp").arg("-r").arg(bundle("good")).arg(&damaged));
    let initrd = damaged.join("initrd.img");
    let mut bytes = fs::read(&initrd).unwrap();
    bytes[100] ^= 1;
    fs::write(&initrd, bytes).unwrap();
    let output = tester(copy.path(), &[damaged.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("initrd.img: expected sha256:"), "{error}");
}

/// The processes of a parent.
fn children(parent: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A test in the middle of a boot, and its QEMU.
#[allow(clippy::zombie_processes, reason = "whoever called this waits for it, and a test that failed ends it all")]
fn under_way(temporary: &Path) -> (Child, u32) {
    let tester = tester(temporary, &[&bundle("good"), "--append", "mode=hang"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // Past the probe of KVM, which also is a guest.
        let booting = fs::read_dir(temporary).unwrap().flatten().any(|entry| {
            entry.file_name().to_string_lossy().starts_with("imgbuild-test-")
                && fs::metadata(entry.path().join("console.log")).is_ok_and(|log| log.len() > 0)
        });
        if let (true, [qemu]) = (booting, children(tester.id()).as_slice()) {
            return (tester, *qemu);
        }
        assert!(Instant::now() < deadline, "no guest after a minute");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_interrupted_test_leaves_nothing() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let (tester, qemu) = under_way(temporary.path());
    kill_process(Pid::from_child(&tester), Signal::INT).unwrap();
    let output = tester.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert!(!runs(qemu));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_guest_does_not_outlive_a_killed_test() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let (mut tester, qemu) = under_way(temporary.path());
    tester.kill().unwrap();
    tester.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs(qemu) {
        assert!(Instant::now() < deadline, "QEMU is still there");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_node_may_fetch_its_root_by_several_requests_at_once() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let results = temporary.path().join("kept");
    let arguments = [&bundle("good"), "--append", "netboot.connections=4", "--results", results.to_str().unwrap()];
    report(&tester(temporary.path(), &arguments).output().unwrap(), 0);
    let requests = fs::read_to_string(results.join("direct/requests.log")).unwrap();
    let pieces = requests.matches("GET /root.squashfs 206 2097152 of 2097152 bytes").count();
    let all = requests.matches("GET /root.squashfs").count();
    assert!(pieces > 4 && all == pieces + 1, "all but the last one are whole:\n{requests}");
}
