//! A node's configuration, and reports.

use serde_json::Value;

use super::*;

const DOCUMENT: &str = r#"{
    "hostname": "n7.rack3.example",
    "variables": { "ROLE": "gpu", "VLAN": 42 },
    "files": [{ "path": "/etc/configured/file", "mode": "0600", "contents": "for this node" }],
    "later": true
}"#;

/// The only report, whose path was `/report`.
fn report(server: &Server) -> Result<Value> {
    let posts = server.posts()?;
    ensure!(posts.len() == 1 && posts.iter().all(|(path, _)| path == "/report"), "{posts:?}");
    Ok(serde_json::from_str(&posts.iter().map(|(_, body)| body.as_str()).collect::<String>())?)
}

#[test]
fn a_node_gets_its_name_variables_and_files_and_reports() -> Result<()> {
    let server = good_server()?;
    server.document("/nodes/52-54-00-12-34-56.json", DOCUMENT)?;
    let script = "#!/bin/sh\necho \"$ROLE $VLAN $NETBOOT_HOSTNAME\"\ncat /etc/configured/file\n";
    let hooks = [("first", Stage::PreInit, 30, OnFailure::Reboot, script)];
    let cmdline = format!(
        "netboot.config={},{} netboot.report={}",
        server.at("/nodes/gone/${serial}.json"),
        server.at("/nodes/${mac}.json"),
        server.at("/report")
    );
    let machine = machine(&Image { hooks: &hooks, ..Image::default() }, "configured", &server)?.cmdline(&cmdline);
    let boot = machine.device("-smbios type=1,serial=CZ/7").card("virtio-net-pci", MAC).boot()?;
    assert_boots(&boot);
    let facts = boot.facts();
    let fact = |name: &str| facts.get(name).copied().unwrap_or_default();
    assert!(boot.says("/nodes/gone/CZ%2F7.json: HTTP status 404 Not Found"));
    assert!(boot.says("later is not known, ignored"));
    assert_eq!(fact("hostname"), "n7");
    assert!(fact("hosts").contains("127.0.1.1 n7.rack3.example n7;"), "{}", fact("hosts"));
    assert_eq!(fact("hook-log"), "gpu 42 n7;for this node;");
    assert_eq!((fact("configured"), fact("kept")), ("for this node", "-rw------- -rw------- "));
    let env: Vec<&str> = boot.prefixed("ENV ").collect();
    assert!(env.contains(&"ROLE='gpu'") && env.contains(&"VLAN='42'"), "{env:?}");
    let report = report(&server)?;
    let text = |pointer: &str| report.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    assert_eq!((text("/outcome"), text("/image"), text("/version")), ("booted".into(), "tiny".into(), "7".into()));
    assert_eq!(
        (text("/node/mac"), text("/node/hostname"), text("/node/serial")),
        (MAC.into(), "n7".into(), "CZ/7".into())
    );
    assert_eq!((text("/node/address"), text("/source")), ("10.0.2.15".into(), server.url()));
    assert_eq!(report.pointer("/log"), Some(&Value::Array(vec![])));
    Ok(())
}

#[test]
fn a_wrong_configuration_stops_the_boot_and_the_report_says_why() -> Result<()> {
    let server = good_server()?;
    server.document(
        "/node.json",
        r#"{"variables": {"A": ["x"]}, "files": [{"path": "/etc/../../x", "mode": 644, "contents": ""}]}"#,
    )?;
    let parameters = format!("netboot.config={} netboot.report={}", server.at("/node.json"), server.at("/report"));
    let boot = machine(&Image::default(), "misconfigured", &server)?;
    let boot = boot.cmdline(&parameters).card("virtio-net-pci", MAC).boot()?;
    let words = [
        "/node.json: variables.A: expected a string (without NUL), a whole number or a boolean, found a list",
        "/node.json: files[0].path: expected the absolute path of a file, without `.`, `..` and empty parts, found the string `/etc/../../x`",
        "/node.json: files[0].mode: expected a string of octal digits from \"0000\" to \"0777\", found the number 644",
        "docs/reference/node.md",
    ];
    assert_fails(&boot, "get this node's configuration", &words);
    assert_eq!(server.ranges()?, [""; 0], "nothing was fetched");
    let report = report(&server)?;
    assert_eq!(report["outcome"], "failed");
    assert_eq!(report["failure"]["step"], "get this node's configuration");
    let lines = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let has = |lines: &[Value], text: &str| lines.iter().filter_map(Value::as_str).any(|line| line.contains(text));
    assert!(has(&lines("log"), "netboot: GET http://") && has(&lines("log"), "FAILED: "), "{report:#}");
    assert!(has(&lines("kernel_log"), "] Linux version "), "{report:#}");
    Ok(())
}

#[test]
fn a_configuration_that_is_not_there_or_cannot_be_named_stops_the_boot() -> Result<()> {
    let server = good_server()?;
    let boot = machine(&Image::default(), "unconfigured", &server)?;
    let boot =
        boot.cmdline(&format!("netboot.config={}", server.at("/gone.json"))).card("virtio-net-pci", MAC).boot()?;
    assert_fails(
        &boot,
        "get this node's configuration",
        &["/gone.json: HTTP status 404", "has a configuration under this name"],
    );
    let boot = machine(&Image::default(), "nameless", &server)?;
    let boot = boot.cmdline(&format!("netboot.config={}", server.at("/${uuid}"))).card("virtio-net-pci", MAC).boot()?;
    assert_fails(&boot, "get this node's configuration", &["/${uuid}: ${uuid}: this machine has none", "by ${mac}"]);
    Ok(())
}
