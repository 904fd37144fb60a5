use super::*;
use serde_json::{Value, json};

fn problems(document: Value) -> Vec<String> {
    parse(document.to_string().as_bytes()).unwrap_err()
}

fn problem(document: Value) -> String {
    let problems = problems(document);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.concat()
}

#[test]
fn all_of_it_arrives() {
    let document = json!({
        "hostname": "n7.rack3",
        "variables": { "ROLE": "gpu \"a\" $(x)\nline", "VLAN": 42, "ON": true, "empty": "" },
        "files": [{ "path": "/etc/motd", "contents": "hi\n" }, { "path": "/a", "mode": "600", "contents": "" }],
        "x-anything": [1, { "a": null }],
    });
    let Parsed { config, warnings } = parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(warnings, [] as [&str; 0]);
    assert_eq!(config.hostname.as_deref(), Some("n7.rack3"));
    let variables: Vec<(&str, &str)> = config.variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(variables, [("ON", "true"), ("ROLE", "gpu \"a\" $(x)\nline"), ("VLAN", "42"), ("empty", "")]);
    let modes: Vec<u32> = config.files.iter().map(|file| file.mode).collect();
    assert_eq!(modes, [0o644, 0o600]);
    assert_eq!(parse(b"{}").unwrap(), Parsed::default());
}

#[test]
fn a_wrong_type_is_named_with_its_path_and_what_was_found() {
    assert_eq!(problem(json!([1])), "the document: expected an object, found a list");
    assert_eq!(problem(json!({ "hostname": 7 })), "hostname: expected a string, found the number 7");
    assert_eq!(problem(json!({ "variables": ["A=b"] })), "variables: expected an object, found a list");
    let scalar = "expected a string (without NUL), a whole number or a boolean";
    assert_eq!(problem(json!({ "variables": { "A": 1.5 } })), format!("variables.A: {scalar}, found the number 1.5"));
    assert_eq!(problem(json!({ "variables": { "A": { "b": 1 } } })), format!("variables.A: {scalar}, found an object"));
    assert_eq!(problem(json!({ "files": {} })), "files: expected a list, found an object");
    assert_eq!(problem(json!({ "files": [null] })), "files[0]: expected an object, found null");
    let file = |path: Value, mode: Value| json!({ "files": [{ "path": path, "mode": mode, "contents": "" }] });
    let mode = "files[0].mode: expected a string of octal digits from \"0000\" to \"0777\"";
    assert_eq!(problem(file(json!("/a"), json!(644))), format!("{mode}, found the number 644"));
    for text in ["4755", "0988", "64", "+64", "rw-r--r--", "00644"] {
        assert_eq!(problem(file(json!("/a"), json!(text))), format!("{mode}, found the string `{text}`"));
    }
    assert_eq!(parse(b"{\"a\":").unwrap_err(), ["not JSON: EOF while parsing a value at line 1 column 5"]);
    assert!(parse(b"<html>404</html>").unwrap_err()[0].starts_with("not JSON: expected value at line 1"));
}

#[test]
fn every_mistake_is_told_at_once() {
    let all = problems(json!({ "hostname": true, "variables": { "a b": 1 }, "files": [{ "contents": 1 }, {}] }));
    assert_eq!(all.len(), 6, "{all:?}");
    assert!(all.contains(&"files[0].path: missing".to_owned()), "{all:?}");
}

#[test]
fn nothing_is_written_outside_the_root() {
    for path in ["etc/x", "/../etc/x", "/etc/../../x", "/etc/./x", "/", "/etc/", "", "//x", "/a\0b"] {
        let text = problem(json!({ "files": [{ "path": path, "contents": "" }] }));
        assert!(text.starts_with("files[0].path: expected the absolute path of a file"), "{text}");
    }
    for path in ["/proc/sys/kernel/panic", "/sys/x", "/dev/sda", "/dev"] {
        let text = problem(json!({ "files": [{ "path": path, "contents": "" }] }));
        assert!(text.ends_with("the kernel's and no place for files"), "{text}");
    }
    assert!(parse(br#"{"files": [{"path": "/developer/x", "contents": ""}]}"#).is_ok());
    let twice = json!({ "files": [{ "path": "/a", "contents": "" }, { "path": "/a", "contents": "" }] });
    assert_eq!(problem(twice), "files[1].path: /a is that of files[0] already");
}

#[test]
fn files_follow_links_into_the_root_only() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("var")).unwrap();
    std::os::unix::fs::symlink("/var", root.join("lib")).unwrap();
    std::os::unix::fs::symlink("../../../..", root.join("up")).unwrap();
    let file = |path: &str| ConfigFile { path: path.into(), mode: 0o640, contents: "x".into() };
    let config = NodeConfig { files: vec![file("/lib/deep/a"), file("/up/b")], ..NodeConfig::default() };
    config.write_files(&root).unwrap();
    assert_eq!(fs::read_to_string(root.join("var/deep/a")).unwrap(), "x");
    assert_eq!(fs::metadata(root.join("var/deep/a")).unwrap().permissions().mode() & 0o7777, 0o640);
    assert!(root.join("b").exists() && !folder.path().join("b").exists());
}

#[test]
fn names_that_decide_how_hooks_run_are_refused() {
    for name in ["PATH", "LD_PRELOAD", "NETBOOT_MAC", "BASH_ENV", "1A", "A-B", "", "A=B", "Ä"] {
        assert_eq!(problems(json!({ "variables": { name: "x" } })).len(), 1, "{name}");
    }
    for name in ["a b", "-a", "a..b", "localhost", "", "ä"] {
        assert!(problem(json!({ "hostname": name })).starts_with("hostname: expected a host name"), "{name}");
    }
}

#[test]
fn what_a_later_version_may_know_is_told_and_ignored() {
    let parsed = parse(br#"{"hostnme": "x", "novelty": 1, "files": [{"path": "/a", "contents": "", "owner": 0}]}"#);
    let warnings = parsed.unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "hostnme is not known, ignored: did you mean `hostname`?",
            "novelty is not known, ignored",
            "files.owner is not known, ignored"
        ]
    );
}

#[test]
fn every_field_of_the_table_is_read() {
    for field in FIELDS {
        let wrong = match field.kind {
            Kind::List => json!(1),
            _ => json!([]),
        };
        let document = match field.path.split_once("[].") {
            Some((list, name)) => {
                let mut item = json!({ "path": "/a", "contents": "" });
                item[name] = wrong;
                json!({ list: [item] })
            }
            None => match field.path.split_once('.') {
                Some((map, name)) => json!({ map: { name: wrong } }),
                None => json!({ (field.path): wrong }),
            },
        };
        let path = field.path.replace("[]", "[0]");
        assert!(problem(document).starts_with(&format!("{path}: expected ")), "{path}");
    }
}

#[test]
fn the_document_is_kept_for_root_only() {
    let folder = tempfile::tempdir().unwrap();
    keep(folder.path(), b"{ }").unwrap();
    let path = folder.path().join("config.json");
    assert_eq!(fs::read(&path).unwrap(), b"{ }");
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o600);
}
