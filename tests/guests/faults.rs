//! Every fault that ships with the tool: a node that meets it as it should, and nodes that do not.

use sha2::{Digest, Sha256};

use super::{BTreeMap, Value, bundle, fs, report, tester, turn};

/// Reports of one command, by fault.
fn reports(arguments: &[&str]) -> BTreeMap<String, Value> {
    let temporary = tempfile::tempdir().unwrap();
    let output = tester(temporary.path(), arguments).output().unwrap();
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{error}");
    let reports = serde_json::Deserializer::from_str(&text).into_iter().map(Result::<Value, _>::unwrap);
    reports.map(|report| (report["fault"]["name"].as_str().unwrap().to_owned(), report)).collect()
}

fn found<'a>(reports: &'a BTreeMap<String, Value>, fault: &str) -> &'a str {
    reports[fault]["fault"]["found"].as_str().unwrap_or_else(|| panic!("{:#}", reports[fault]))
}

#[test]
fn a_good_image_meets_every_fault() {
    let _turn = turn();
    let results = tempfile::tempdir().unwrap();
    let reports = reports(&[
        &bundle("good"),
        "--fault",
        "all",
        "--results",
        results.path().to_str().unwrap(),
        "--timeout",
        "300",
    ]);
    let refused = ["truncated-root", "altered-root", "missing-root", "low-memory", "hook-fails"];
    for (fault, report) in &reports {
        assert_eq!(report["failure"], Value::Null, "{report:#}");
        let tests = report["tests"].as_array().unwrap();
        assert_eq!(tests.is_empty(), refused.contains(&fault.as_str()), "{report:#}");
        assert!(tests.iter().all(|test| test["passed"] == true), "{report:#}");
    }
    for (fault, words) in [
        ("connection-cut", "then 206 for "),
        ("dead-mirror", "http://10.0.2.77/root.squashfs: "),
        ("truncated-root", "bytes, expected "),
        ("altered-root", "SHA-256 is "),
        ("missing-root", "HTTP status 404"),
        ("silent-dhcp", "without an answer"),
        ("low-memory", "not enough memory: needs "),
        ("hook-fails", "hook fault-fails ended with status 3"),
        ("hook-hangs", "hook fault-hangs was killed, with its children, after its timeout of 5 s"),
        ("server-gone", "the boot server was gone "),
        ("second-boot", "node-525400123456, machine id "),
    ] {
        assert!(found(&reports, fault).contains(words), "{fault}: {}", found(&reports, fault));
    }
    assert_eq!(reports.len(), 11);
    // What the boot server itself wrote down.
    let log = |fault: &str| fs::read_to_string(results.path().join(format!("direct/{fault}/requests.log"))).unwrap();
    let cut = log("connection-cut");
    let lines: Vec<&str> = cut.lines().collect();
    assert!(matches!(lines[..], [a, b] if a.contains(" 200 ") && b.contains(" 206 ")), "{cut}");
    assert_eq!(log("low-memory"), "");
    assert!(log("missing-root").contains("GET /root.squashfs 404"));
    assert!(results.path().join("direct/second-boot/first-boot/report.json").exists());
    let least = reports["low-memory"]["memory"].as_u64().unwrap();
    assert!(least < 384 << 20, "{least}");
}

#[test]
fn faults_are_met_over_pxe_as_well() {
    let _turn = turn();
    let faults = ["connection-cut", "dead-mirror", "altered-root", "silent-dhcp", "low-memory"];
    let bundle = bundle("good");
    let mut arguments = vec![bundle.as_str(), "--path", "pxe-bios", "--timeout", "300"];
    arguments.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
    let reports = reports(&arguments);
    assert_eq!(reports.len(), faults.len());
    assert!(reports.values().all(|report| report["path"] == "pxe-bios" && report["failure"].is_null()));
    assert!(found(&reports, "connection-cut").contains("then 206 for "));
}

/// A site that overrides the root's hash has nobody to refuse another one.
#[test]
fn an_image_that_takes_an_altered_root_is_told() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let mut root = fs::read(format!("{}/root.squashfs", bundle("good"))).unwrap();
    root[8] ^= 1;
    let hash = Sha256::digest(&root).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let junit = temporary.path().join("junit.xml");
    let (bundle, taken) = (bundle("good"), format!("netboot.sha256={hash}"));
    let arguments = [&bundle, "--fault", "altered-root", "--append", &taken, "--junit", junit.to_str().unwrap()];
    let report = report(&tester(temporary.path(), &arguments).output().unwrap(), 4);
    let reason = report["failure"]["cause"]["reason"].as_str().unwrap();
    assert_eq!((reason, &report["fault"]["found"]), ("the system came up, and all tests passed", &Value::Null));
    let junit = fs::read_to_string(junit).unwrap();
    let (_, case) = junit.split_once(r#"<testcase name="fault altered-root""#).unwrap_or_else(|| panic!("{junit}"));
    assert!(case.split_once("</testcase>").unwrap().0.contains(reason), "{junit}");
    assert!(junit.contains(r#"<testsuite name="good 1 over direct, fault altered-root""#), "{junit}");
}

/// The recipe's own hook fails first, and its policy ends the boot.
#[test]
fn another_cause_than_the_expected_one_is_told() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let output = tester(temporary.path(), &[&bundle("strict"), "--fault", "hook-hangs"]).output().unwrap();
    let hangs = report(&output, 4);
    assert_eq!(hangs["failure"]["cause"]["kind"], "ended", "{hangs:#}");
    let output = tester(temporary.path(), &[&bundle("strict"), "--fault", "hook-fails"]).output().unwrap();
    let reason = report(&output, 4)["failure"]["cause"]["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("hook hook.sh ended with status 3") && reason.contains("expected `hook fault-fails"),
        "{reason}"
    );
}

#[test]
fn what_says_nothing_about_an_image_is_refused_or_left_out() {
    let temporary = tempfile::tempdir().unwrap();
    let output = tester(temporary.path(), &[&bundle("whole"), "--fault", "missing-root"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("--fault missing-root means nothing over direct here: the root is in the initrd"),
        "{error}"
    );
}
