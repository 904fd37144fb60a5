//! The worker as a node of a real cluster, whose control plane runs on this machine.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use imgbuild_tests_init::{Manner, Server, TimeServer};
use serde_json::{Value, json};

use super::{bundle, imgbuild, project, registry, run};

/// As network add-ons write it once they run; this one reaches no other node.
const POD_NETWORK: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "lab",
  "plugins": [
    { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.85.0.0/24" }]] } },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
"#;

/// A pod that says something and stays. Its image, and that of its node container, come from the registry of this machine.
const POD: &str = r#"{
  "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "hello" },
  "spec": {
    "automountServiceAccountToken": false,
    "containers": [{
      "name": "hello", "image": "registry.k8s.io/busybox:1",
      "command": ["/bin/busybox", "sh", "-c", "echo hello from $HOSTNAME; exec /bin/busybox sleep 1000000"]
    }]
  }
}
"#;

/// How far the clock of the node's hardware is off: by that clock no certificate of the cluster is valid yet.
const CLOCK: &str = "--qemu=base=2001-01-01";

// curl goes by another name: for curl the API server indents its JSON, and what 1.20 does that with (reflect2 1.0.1) crashes when it
// was compiled by Go 1.18 or later.
const SITE: &str = r#"
[[test]]
name   = "kubelet says whether it joined a cluster"
run    = "journalctl -b -u kubelet.service --no-pager -o cat | grep kubelet-run:"
stdout = "joining the cluster of /run/netboot/kubelet/bootstrap.conf"
[[test]]
name   = "kubelet started once the clock had the network's time"
run    = """
first() { journalctl -b -u "$1" --no-pager -o json --output-fields=MESSAGE,__MONOTONIC_TIMESTAMP | grep -m 1 "$2" | sed 's/.*"__MONOTONIC_TIMESTAMP":"//; s/".*//'; }
time=$(first systemd-timesyncd 'Initial clock synchronization') && kubelet=$(first kubelet '"MESSAGE":"I[0-9][0-9][0-9][0-9] ')
journalctl -b -u kubelet --no-pager -o cat | grep 'kubelet-run: .*time'
echo "time after $time us, kubelet after $kubelet us"
test "$time" -lt "$kubelet"
"""
stdout = "kubelet-run: the clock has the network's time"
[[test]]
name    = "the cluster says that this node is ready, in this boot"
run     = """
own=/var/lib/kubelet/pki/kubelet-client-current.pem
server=$(sed -n 's/^ *server: //p' /run/netboot/kubelet/bootstrap.conf)
node=$(curl -sS --user-agent test --max-time 20 --cacert /run/kubelet/ca.crt --cert $own --key $own "$server/api/v1/nodes/$(hostname)" | tr -d ' \\n')
echo "$node" | grep -o '"type":"Ready","status":"[A-Za-z]*"'
echo "$node" | grep -o '"bootID":"[0-9a-f-]*"' | grep -F "$(cat /proc/sys/kernel/random/boot_id)"
"""
stdout  = '"status":"True"'
timeout = "5m"
[[test]]
name    = "a pod runs"
run     = "cat /var/log/pods/default_hello_*/hello/*.log"
stdout  = "hello from hello"
timeout = "5m"
"#;

/// A node, as the control plane knows it.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    name: String,
    uid: String,
    machine_id: String,
    kubelet: String,
    is_ready: bool,
}

impl Node {
    fn new(node: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (metadata, info) = (&node["metadata"], &node["status"]["nodeInfo"]);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        Self {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            machine_id: text(&info["machineID"]),
            kubelet: text(&info["kubeletVersion"]),
            is_ready: conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"),
        }
    }
}

/// A control plane, until this is dropped.
struct ControlPlane {
    folder: PathBuf,
    port: u16,
}

impl ControlPlane {
    fn script(&self, verb: &str) -> Command {
        let mut script = Command::new(project().join("ci/control-plane"));
        script.arg(verb).arg(&self.folder).env("IMGBUILD_CONTROL_PLANE_PORT", self.port.to_string());
        script
    }

    /// Starts it, and returns the kubeconfig that nodes join with.
    fn start(&self) -> String {
        let printed = run(&mut self.script("start"));
        std::fs::read_to_string(printed.lines().last().unwrap()).unwrap()
    }

    fn kubectl(&self) -> Command {
        let program = run(Command::new(project().join("ci/kubernetes-from-source")).arg("kubectl"));
        let mut kubectl = Command::new(program.trim_end());
        kubectl.arg("--kubeconfig").arg(self.folder.join("admin.conf"));
        kubectl
    }

    /// Asks for the pod, before there is a node for it.
    fn ask_for_pod(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        // The controller manager makes it some time after its start, and without it there are no pods.
        while !self.kubectl().args(["get", "serviceaccount", "default"]).output().unwrap().status.success() {
            assert!(Instant::now() < deadline, "no service account");
            std::thread::sleep(Duration::from_millis(500));
        }
        let file = self.folder.join("pod.json");
        std::fs::write(&file, POD).unwrap();
        run(self.kubectl().args(["create", "--filename"]).arg(&file));
    }

    /// What it says of its nodes.
    fn nodes(&self) -> Vec<Node> {
        let list: Value =
            serde_json::from_str(&run(self.kubectl().args(["get", "nodes", "--output", "json"]))).unwrap();
        list["items"].as_array().unwrap().iter().map(Node::new).collect()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = format!("tail -n 20 {}/*.log", self.folder.display());
            let _ = Command::new("sh").args(["-c", &logs]).status();
        }
        let _ = self.script("stop").status();
    }
}

/// Puts the images of pods into the registry of this machine.
fn push_images(folder: &Path) {
    let (source, pause) = (folder.join("pause.c"), folder.join("pause"));
    std::fs::write(&source, "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n").unwrap();
    run(Command::new("gcc").args(["-static", "-Os", "-o"]).args([&pause, &source]));
    let push = |name: &str, program: &Path, path: &str| {
        let file = format!("{}={path}", program.display());
        run(Command::new(project().join("ci/push-image")).args([name, &file]));
    };
    push("pause:3.6", &pause, "/pause");
    push("busybox:1", Path::new("/usr/bin/busybox"), "/bin/busybox");
}

/// Serves what the node needs to join: the token, a mirror of the registry that pods' images are of, and who has the time.
fn serve_configuration(bundle: &Path, bootstrap: &str) -> Server {
    let registry = registry();
    let port = registry.rsplit(':').next().unwrap();
    let mirror = format!(
        "server = \"https://registry.k8s.io\"\n[host.\"http://10.0.2.2:{port}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
    );
    let server = Server::start(&bundle.join("manifest.json"), Manner::Good).unwrap();
    let config = json!({
        "variables": { "NET_NTP": "10.0.2.2" },
        "files": [
            { "path": "/run/netboot/kubelet/bootstrap.conf", "mode": "0600", "contents": bootstrap },
            { "path": "/etc/cni/net.d/10-lab.conflist", "contents": POD_NETWORK },
            { "path": "/etc/containerd/certs.d/registry.k8s.io/hosts.toml", "contents": mirror },
            // Emulation is slow.
            { "path": "/etc/default/kubelet", "contents": "KUBELET_WAIT_FOR_TIME=300\n" },
        ],
    });
    server.document("/nodes/52-54-00-12-34-56.json", &config.to_string()).unwrap();
    server
}

/// Boots the node, until its tests have passed and it is switched off without a warning.
fn boot(bundle: &Path, server: &Server) {
    let config = format!("netboot.config={}", server.at("/nodes/${mac}.json"));
    let mut test = imgbuild();
    test.args(["test", "--path", "direct"]).arg(bundle).args(["--append", &config, "--qemu=-rtc", CLOCK]);
    print!("{}", run(&mut test));
}

/// The second boot is that of a node which the cluster knows already, with pods that it thinks are there.
#[test]
fn the_worker_joins_a_cluster_runs_a_pod_and_is_the_same_node_after_a_reboot() {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site.toml");
    std::fs::write(&site, format!("[params]\nregistry = \"{}\"\n{SITE}", registry())).unwrap();
    let bundle = bundle("recipes/worker.toml", &[site.to_str().unwrap()], folder.path());

    // The four ports after it are the control plane's as well.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cluster = ControlPlane { folder: folder.path().join("cluster"), port };
    push_images(folder.path());
    let bootstrap = cluster.start();
    cluster.ask_for_pod();
    let time = TimeServer::start().unwrap();
    let server = serve_configuration(&bundle, &bootstrap);
    boot(&bundle, &server);
    assert!(time.answered() > 0, "it had the time from elsewhere");
    let first = cluster.nodes();
    let [node] = first.as_slice() else { panic!("{first:?}") };
    assert_eq!((node.name.as_str(), node.kubelet.as_str(), node.is_ready), ("node-525400123456", "v1.20.2", true));

    boot(&bundle, &server);
    assert_eq!(cluster.nodes(), first, "the same node, known by the same machine id");
}
