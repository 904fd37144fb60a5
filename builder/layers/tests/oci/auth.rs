//! Who may pull: passwords, tokens, certificates.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use imgbuild_layers::oci::{AuthFiles, OciError};
use serde_json::json;

use super::images::{Layout, gzip, run, tar};
use super::servers::{Answer, DockerRegistry, Request, Server, text};
use super::sharing::another_process;
use super::{Bench, chain};

const PASSWORD: &str = "s3cret:word";
/// bcrypt of [`PASSWORD`], as `htpasswd -B` writes it.
const HTPASSWD: &str = "bob:$2b$04$7Nujcps2slf0/J2EHgBMU.LAp1kkzEgnwrnYFtWaZHzZUTb/Wi7HG\n";

/// A file like docker's with one entry.
fn auth_file(dir: &Path, registry: &str, entry: serde_json::Value) -> PathBuf {
    let file = dir.join("auth.json");
    std::fs::write(&file, json!({"auths": {registry: entry}}).to_string()).unwrap();
    file
}

fn password(password: &str) -> serde_json::Value {
    json!({"auth": BASE64_STANDARD.encode(format!("bob:{password}"))})
}

fn layout(bench: &Bench) -> Layout {
    let mut layout = Layout::new(bench.dir.path().join("layout"));
    let image = layout.image("amd64", &[gzip(tar("one", 3000))]);
    layout.tag(image, "v1");
    layout
}

#[test]
fn a_registry_with_passwords() {
    let mut bench = Bench::new();
    let dir = bench.dir.path().to_owned();
    std::fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}", dir.join("htpasswd").display());
    let registry = DockerRegistry::start(&dir, "127.0.0.1", "", &auth);
    let from = format!("oci:{}:v1", layout(&bench).dir.display());
    registry.push(&from, "team/x:1", &["--dest-creds", &format!("bob:{PASSWORD}")]);
    let image = format!("{}/team/x:1", registry.address);

    bench.options.auth = AuthFiles::new(vec![dir.join("none.json")]);
    let error = bench.fetch(&image).unwrap_err();
    assert!(matches!(error, OciError::Refused { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("none.json") && message.contains("podman login"), "{message}");

    let file = auth_file(&dir, &registry.address, password("wrong"));
    bench.options.auth = AuthFiles::new(vec![file.clone()]);
    let message = bench.fetch(&image).unwrap_err().to_string();
    assert!(message.contains("the password of 'bob'") && message.contains(&file.display().to_string()), "{message}");
    assert!(
        !message.contains("wrong") && bench.seen.details().is_empty(),
        "no secret in it, and no second try: {message}"
    );

    // For the registry, for a namespace of it, and from a helper.
    for key in [registry.address.clone(), format!("{}/team", registry.address)] {
        auth_file(&dir, &key, password(PASSWORD));
        bench.resolve(&image).unwrap();
    }
    std::fs::write(&file, json!({"credHelpers": {registry.address.as_str(): "test"}}).to_string()).unwrap();
    let helper = dir.join("docker-credential-test");
    let script = format!("#!/bin/sh\nread host\necho '{{\"Username\":\"bob\",\"Secret\":\"{PASSWORD}\"}}'\n");
    std::fs::write(&helper, script).unwrap();
    run("chmod", &["+x", &helper.display().to_string()]);
    bench.options.auth = AuthFiles::new(vec![file]).with_helper_path(&dir);
    assert_eq!(bench.fetch(&image).unwrap().layers.len(), 1);
}

/// An authority and a certificate of its for 127.0.0.1; returns the paths of authority, certificate and key.
fn certificates(dir: &Path) -> [String; 3] {
    let path = |name: &str| dir.join(name).display().to_string();
    let [ca, ca_key, cert, key, request, extensions] =
        ["ca.pem", "ca.key", "cert.pem", "cert.key", "cert.csr", "ext"].map(path);
    let new_key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"];
    let openssl = |args: &[&str]| run("openssl", args);
    openssl(&[&new_key[..], &["/CN=Test authority", "-x509", "-days", "2", "-keyout", &ca_key, "-out", &ca]].concat());
    openssl(&[&new_key[..], &["/CN=127.0.0.1", "-keyout", &key, "-out", &request]].concat());
    std::fs::write(&extensions, "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        &extensions,
        "-out",
        &cert,
    ]);
    [ca, cert, key]
}

#[test]
fn a_registry_with_a_private_authority() {
    let mut bench = Bench::new();
    let dir = bench.dir.path().to_owned();
    let [ca, cert, key] = certificates(&dir);
    let registry = DockerRegistry::start(&dir, "127.0.0.1", &format!("  tls: {{certificate: {cert}, key: {key}}}"), "");
    registry.push(&format!("oci:{}:v1", layout(&bench).dir.display()), "x:1", &[]);
    let image = format!("{}/x:1", registry.address);

    let message = chain(&bench.fetch(&image).unwrap_err());
    assert!(message.contains("no authority that is known here") && message.contains("IMGBUILD_CA_FILE"), "{message}");
    assert!(bench.seen.details().is_empty(), "asking again makes no certificate better: {}", bench.seen.details());
    bench.options.ca_file = Some(PathBuf::from(&ca));
    bench.fetch(&image).unwrap();
    let child = another_process(&Bench::new(), &image).env("SSL_CERT_FILE", &ca).output().unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));

    let (_, port) = registry.address.split_once(':').unwrap();
    let message = chain(&bench.fetch(&format!("localhost:{port}/x:1")).unwrap_err());
    assert!(message.contains("TLS: ") && message.contains("not valid for name"), "{message}");
    bench.options.ca_file = Some(PathBuf::from(key));
    let message = chain(&bench.fetch(&image).unwrap_err());
    assert!(message.contains("cert.key holds no certificate"), "{message}");
}

/// Signs a token as a token server for docker-registry does.
fn token(dir: &Path, actions: &[&str]) -> String {
    let der = run(
        "openssl",
        &[
            "x509",
            "-in",
            &dir.join("token.pem").display().to_string(),
            "-outform",
            "DER",
            "-out",
            &dir.join("token.der").display().to_string(),
        ],
    );
    assert!(der.is_empty());
    let chain = BASE64_STANDARD.encode(std::fs::read(dir.join("token.der")).unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [chain]});
    let claims = json!({
        "iss": "test-issuer", "aud": "test-service", "sub": "bob", "nbf": now - 10, "iat": now, "exp": now + 300, "jti": "1",
        "access": [{"type": "repository", "name": "team/x", "actions": actions}],
    });
    let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let (input, output) = (dir.join("to-sign"), dir.join("signature"));
    std::fs::write(&input, &signed).unwrap();
    let [key, input, out] = [dir.join("token.key"), input, output.clone()].map(|path| path.display().to_string());
    run("openssl", &["dgst", "-sha256", "-sign", &key, "-out", &out, &input]);
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(std::fs::read(output).unwrap()))
}

#[test]
fn a_registry_with_a_token_server() {
    let mut bench = Bench::new();
    let dir = bench.dir.path().to_owned();
    let path = |name: &str| dir.join(name).display().to_string();
    run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=issuer",
            "-keyout",
            &path("token.key"),
            "-out",
            &path("token.pem"),
        ],
    );
    let (pull, push) = (token(&dir, &["pull"]), token(&dir, &["pull", "push"]));
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("bob:{PASSWORD}")));
    let pusher = format!("Basic {}", BASE64_STANDARD.encode("pusher:x"));
    let server = Server::start(move |request: &Request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let refresh = request.method == "POST"
            && [
                "grant_type=refresh_token",
                "service=test-service",
                "refresh_token=long-lived",
                "scope=repository%3Ateam%2Fx%3Apull",
            ]
            .iter()
            .all(|part| body.contains(part));
        match request.header("authorization") {
            Some(given) if given == basic => text(200, &json!({"token": pull}).to_string()),
            Some(given) if given == pusher => text(200, &json!({"token": push}).to_string()),
            None if refresh => text(200, &json!({"access_token": pull}).to_string()),
            _ => text(401, r#"{"details":"no such user"}"#),
        }
    });
    let auth = format!(
        "auth: {{token: {{realm: 'http://{}/token', service: test-service, issuer: test-issuer, rootcertbundle: {}}}}}",
        server.address,
        path("token.pem")
    );
    let registry = DockerRegistry::start(&dir, "127.0.0.1", "", &auth);
    registry.push(&format!("oci:{}:v1", layout(&bench).dir.display()), "team/x:1", &["--dest-creds", "pusher:x"]);
    let image = format!("{}/team/x:1", registry.address);

    let message = bench.fetch(&image).unwrap_err().to_string();
    assert!(
        message.contains("401") && message.contains("no such user") && message.contains("without credentials"),
        "{message}"
    );
    for entry in [password(PASSWORD), json!({"identitytoken": "long-lived"})] {
        bench.options.auth = AuthFiles::new(vec![auth_file(&dir, &registry.address, entry)]);
        bench.resolve(&image).unwrap();
    }
    let query = server.seen().iter().find(|request| request.method == "GET").unwrap().path.clone();
    assert!(query.contains("scope=repository%3Ateam%2Fx%3Apull") && query.contains("service=test-service"), "{query}");
    // A token for pulling this repository is no token for another one.
    let other = format!("{}/team/y:1", registry.address);
    let error = bench.fetch(&other).unwrap_err();
    assert!(matches!(error, OciError::Refused { .. }), "{error}");
    assert_eq!(bench.fetch(&image).unwrap().layers.len(), 1);
}

/// A registry of ours behind tokens; `accept` says which are good. Each answer of its token server is `token-N`.
fn token_registry(
    layout: &Layout,
    manifest: &str,
    accept: impl Fn(&Request, &str) -> bool + Send + Sync + 'static,
) -> (Server, Server) {
    let count = AtomicUsize::new(0);
    let tokens = Server::start(move |_| {
        text(200, &json!({"token": format!("token-{}", count.fetch_add(1, Ordering::SeqCst))}).to_string())
    });
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.address);
    let registry = Server::registry(layout, &[("1", manifest)], move |request, _| {
        let good = request
            .header("authorization")
            .and_then(|given| given.strip_prefix("Bearer "))
            .is_some_and(|token| accept(request, token));
        (!good).then(|| Answer::Whole(401, vec![("WWW-Authenticate".to_owned(), challenge.clone())], Vec::new()))
    });
    (registry, tokens)
}

#[test]
fn a_token_that_runs_out_is_renewed_once() {
    let bench = Bench::new();
    let layout = layout(&bench);
    let manifest = layout.image("amd64", &[gzip(tar("one", 3000))])["digest"].as_str().unwrap().to_owned();
    let (registry, tokens) = token_registry(&layout, &manifest, |request, token| {
        // The first one is good for manifests only.
        token == "token-1" || (token == "token-0" && request.path.contains("/manifests/"))
    });
    bench.fetch(&format!("{}/x:1", registry.address)).unwrap();
    assert_eq!(tokens.seen().len(), 2);

    let bench = Bench::new();
    let (registry, tokens) = token_registry(&layout, &manifest, |_, _| false);
    let error = bench.fetch(&format!("{}/x:1", registry.address)).unwrap_err();
    assert!(matches!(error, OciError::Refused { .. }), "{error}");
    assert_eq!(tokens.seen().len(), 2, "a second token, but no third");
}

#[test]
fn a_password_goes_only_where_it_belongs() {
    let mut bench = Bench::new();
    let layout = layout(&bench);
    let manifest = layout.image("amd64", &[gzip(tar("one", 3000))])["digest"].as_str().unwrap().to_owned();
    let blobs = Arc::new(layout.dir.join("blobs"));
    // Where the registry sends us for blobs, as registries on object stores do.
    let store = Server::start(move |request| {
        let content = std::fs::read(blobs.join(request.path.trim_start_matches('/').replace(':', "/")));
        content.map_or_else(|_| text(404, ""), |content| Answer::Whole(200, Vec::new(), content))
    });
    let address = store.address.clone();
    let registry = Server::registry(&layout, &[("1", &manifest)], move |request, _| {
        if request.header("authorization").is_none() {
            return Some(Answer::Whole(
                401,
                vec![("WWW-Authenticate".to_owned(), "Basic realm=\"x\"".to_owned())],
                Vec::new(),
            ));
        }
        let blob = request.path.split_once("/blobs/")?.1;
        Some(Answer::Whole(307, vec![("Location".to_owned(), format!("http://{address}/{blob}"))], Vec::new()))
    });
    bench.options.auth = AuthFiles::new(vec![auth_file(bench.dir.path(), &registry.address, password(PASSWORD))]);
    assert_eq!(bench.fetch(&format!("{}/x:1", registry.address)).unwrap().layers.len(), 1);
    let seen = store.seen();
    assert!(!seen.is_empty() && seen.iter().all(|request| request.header("authorization").is_none()), "{seen:?}");
}

#[test]
fn a_system_without_authorities_is_told_what_to_install() {
    const IMAGE: &str = "IMGBUILD_TEST_OCI_BARE";
    if let Ok(image) = std::env::var(IMAGE) {
        let message = Bench::new().fetch(&image).unwrap_err().to_string();
        assert!(message.contains("ca-certificates") && message.contains("SSL_CERT_FILE"), "{message}");
        return;
    }
    let bench = Bench::new();
    let layout = layout(&bench);
    let manifest = layout.image("amd64", &[])["digest"].as_str().unwrap().to_owned();
    let server = Server::registry(&layout, &[("1", &manifest)], |_, _| None);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "auth::a_system_without_authorities_is_told_what_to_install"])
        .env(IMAGE, format!("{}/x:1", server.address))
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", bench.dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
