//! The least RAM with which a guest's tests pass.

use super::{Value, bundle, fs, tester, turn};

const MIB: u64 = 1 << 20;

/// The result of a search, and for each size that was tried why it was too little.
fn search(arguments: &[&str], code: i32) -> (Value, Vec<(u64, Option<String>)>) {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = tester(temporary.path(), arguments);
    let output = command.args(["--find-min-ram", "--ram-step", "64MiB", "--timeout", "300"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {error}"));
    let tried = found["tried"].as_array().unwrap().iter().map(|tried| {
        let failure = tried["failure"].as_str().map(str::to_owned);
        (tried["memory"].as_u64().unwrap() / MIB, failure)
    });
    (found.clone(), tried.collect())
}

#[test]
fn the_smallest_node_is_found_and_what_is_smaller_says_why() {
    let _turn = turn();
    let results = tempfile::tempdir().unwrap();
    let (found, tried) = search(&[&bundle("good"), "--results", results.path().to_str().unwrap()], 0);
    let sizes: Vec<u64> = tried.iter().map(|(memory, _)| *memory).collect();
    assert_eq!((found["memory"].as_u64().unwrap() / MIB, sizes), (192, vec![384, 192, 128]), "{found:#}");
    assert!(tried[2].1.as_ref().unwrap().starts_with("not enough memory: needs 88 MiB"), "{found:#}");
    assert!((tried[0].1.is_none() && tried[1].1.is_none()), "{found:#}");
    assert!(found["floor"].as_u64().unwrap() < 128 * MIB && found["budget"] == 384 * MIB, "{found:#}");
    assert!(results.path().join("direct/192MiB/report.json").exists());
}

#[test]
fn a_test_that_does_not_hold_is_too_little_ram() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let site = temporary.path().join("site.toml");
    let room = "name = \"there is room\"\nrun = \"read name total unit </proc/meminfo; [ $total -ge 260000 ]\"\n";
    fs::write(&site, format!("[[test]]\n{room}timeout = \"1s\"\n")).unwrap();
    let (found, tried) = search(&[&bundle("good"), "--tests", site.to_str().unwrap()], 0);
    assert_eq!(found["memory"].as_u64().unwrap() / MIB, 320, "{found:#}");
    let too_little: Vec<_> = tried.into_iter().filter_map(|(memory, why)| Some((memory, why?))).collect();
    let why = "1 test failed: there is room".to_owned();
    assert_eq!(too_little, [(192, why.clone()), (256, why)]);
}

#[test]
fn an_image_whose_tests_never_pass_has_no_smallest_node() {
    let _turn = turn();
    let (found, tried) = search(&[&bundle("bad")], 4);
    assert_eq!((&found["memory"], tried.len()), (&Value::Null, 1), "{found:#}");
    assert_eq!(tried[0], (384, Some("1 test failed: the moon is out".to_owned())));
}
