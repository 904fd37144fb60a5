use std::process::Command;

use super::*;

/// base64 of `user:pass:word`.
const AUTH: &str = "dXNlcjpwYXNzOndvcmQ=";

fn find(json: &str, registry: &str, repository: &str) -> Result<Found, OciError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, json).unwrap();
    for (name, body) in [
        (
            "docker-credential-good",
            r#"read host; printf '{"ServerURL":"%s","Username":"helped","Secret":"%s"}' "$host" "$host""#,
        ),
        ("docker-credential-token", r#"printf '{"Username":"<token>","Secret":"refresh"}'"#),
        ("docker-credential-empty", "echo credentials not found in native keychain; exit 1"),
        ("docker-credential-broken", "echo keyring is locked >&2; exit 3"),
        ("docker-credential-garbled", "echo s3cret"),
    ] {
        let path = dir.path().join(name);
        // By another process: one that another test starts meanwhile would hold it open for writing, and then it cannot be run.
        let write = ["-c", "printf '#!/bin/sh\n%s\n' \"$2\" >\"$1\" && chmod 755 \"$1\"", "write"];
        assert!(Command::new("sh").args(write).arg(&path).arg(body).status().unwrap().success());
    }
    AuthFiles::new(vec![dir.path().join("missing.json"), file]).with_helper_path(dir.path()).find(registry, repository)
}

fn credential(json: &str, registry: &str, repository: &str) -> Credential {
    find(json, registry, repository).unwrap().credential
}

fn basic(user: &str, password: &str) -> Credential {
    Credential::Basic(user.to_owned(), password.to_owned())
}

#[test]
fn a_password_may_hold_colons_and_lack_padding() {
    let json = format!(r#"{{"auths":{{"h:5000":{{"auth":"{AUTH}"}}}}}}"#);
    assert_eq!(credential(&json, "h:5000", "x"), basic("user", "pass:word"));
    assert_eq!(credential(&json.replace('=', ""), "h:5000", "x"), basic("user", "pass:word"));
    let found = find(&json, "h:5000", "x").unwrap();
    assert!(found.tried.contains("'user'") && found.tried.contains("config.json"), "{}", found.tried);
    assert!(!format!("{found:?}").contains("pass:word"), "secrets stay out of the debug form");
}

#[test]
fn the_most_specific_key_wins() {
    let entry = |user: &str| format!(r#"{{"username":"{user}","password":"p"}}"#);
    let json =
        format!(r#"{{"auths":{{"h":{},"h/team":{},"h/team/one":{}}}}}"#, entry("host"), entry("team"), entry("one"));
    assert_eq!(credential(&json, "h", "team/one"), basic("one", "p"));
    assert_eq!(credential(&json, "h", "team/two"), basic("team", "p"));
    assert_eq!(credential(&json, "h", "teammate/x"), basic("host", "p"));
    assert_eq!(credential(&json, "other", "team/one"), Credential::Anonymous);
}

#[test]
fn dockers_old_keys() {
    let json = |key: &str| format!(r#"{{"auths":{{"{key}":{{"auth":"{AUTH}"}}}}}}"#);
    for (key, registry) in
        [("https://index.docker.io/v1/", "docker.io"), ("https://h", "h"), ("http://h:5000/v2/", "h:5000")]
    {
        assert_eq!(credential(&json(key), registry, "x"), basic("user", "pass:word"), "{key}");
    }
    assert_eq!(credential(&json("https://h.example"), "h", "x"), Credential::Anonymous);
}

#[test]
fn tokens() {
    assert_eq!(
        credential(r#"{"auths":{"h":{"auth":"","identitytoken":"r"}}}"#, "h", "x"),
        Credential::Identity("r".to_owned())
    );
    assert_eq!(credential(r#"{"auths":{"h":{"registrytoken":"b"}}}"#, "h", "x"), Credential::Bearer("b".to_owned()));
}

#[test]
fn helpers() {
    assert_eq!(credential(r#"{"credHelpers":{"h":"good"}}"#, "h", "x"), basic("helped", "h"));
    assert_eq!(credential(r#"{"credsStore":"good","auths":{"h":{}}}"#, "h", "x"), basic("helped", "h"));
    assert_eq!(credential(r#"{"credsStore":"good"}"#, "docker.io", "x"), basic("helped", DOCKER_HUB));
    assert_eq!(credential(r#"{"credHelpers":{"h":"token"}}"#, "h", "x"), Credential::Identity("refresh".to_owned()));
    assert_eq!(credential(r#"{"credsStore":"empty"}"#, "h", "x"), Credential::Anonymous);
    // An entry of the file comes before the store, a helper for this very host before the entry.
    let both = format!(r#"{{"credsStore":"good","auths":{{"h":{{"auth":"{AUTH}"}}}}}}"#);
    assert_eq!(credential(&both, "h", "x"), basic("user", "pass:word"));
    assert_eq!(
        credential(&both.replace("\"credsStore\":\"good\"", "\"credHelpers\":{\"h\":\"good\"}"), "h", "x"),
        basic("helped", "h")
    );
}

#[test]
fn what_is_broken_is_named() {
    for (json, reason) in [
        ("{", "EOF"),
        (r#"{"auths":{"h":{"auth":"%%%"}}}"#, "USER:PASSWORD"),
        (r#"{"credHelpers":{"h":"broken"}}"#, "keyring is locked"),
        (r#"{"credHelpers":{"h":"missing"}}"#, "docker-credential-missing"),
        (r#"{"credHelpers":{"h":"../../bin/sh"}}"#, "slash"),
        (r#"{"credHelpers":{"h":"garbled"}}"#, "not what the protocol has"),
    ] {
        let message = find(json, "h", "x").unwrap_err().to_string();
        assert!(message.contains(reason) && message.contains("config.json"), "{json}: {message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
    let nothing = find("{}", "h:5000", "x").unwrap();
    assert!(
        nothing.tried.contains("missing.json") && nothing.tried.contains("podman login h:5000"),
        "{}",
        nothing.tried
    );
}

#[test]
fn the_environment_says_where_the_files_are() {
    let files = |set: &[(&str, &str)]| -> Vec<String> {
        let set: Vec<_> = set.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        let found =
            AuthFiles::from_env_in(|name| set.iter().find(|(set, _)| set == name).map(|(_, value)| value.clone()));
        found.files.iter().map(|path| path.display().to_string()).collect()
    };
    let home = ("HOME", "/home/u");
    let docker = "/home/u/.docker/config.json";
    assert_eq!(files(&[home]), ["/home/u/.config/containers/auth.json", docker]);
    assert_eq!(
        files(&[home, ("XDG_RUNTIME_DIR", "/run/user/1"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")]),
        ["/run/user/1/containers/auth.json", "/c/containers/auth.json", "/d/config.json"]
    );
    assert_eq!(files(&[home, ("REGISTRY_AUTH_FILE", "/a.json")]), ["/a.json"]);
    assert!(files(&[]).is_empty());
}
