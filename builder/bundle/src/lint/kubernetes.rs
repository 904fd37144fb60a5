//! What a kubelet and its container runtime need of each other and of the root.

use super::{Check, Finding, Rule, Subject};
use crate::Error;

pub(super) const CONTAINERD_MOUNT: Rule = Rule {
    name: "containerd-mount",
    demands: "`/var/lib/containerd` is a mount of its own: overlayfs cannot stack on the root's overlay, and every image pull \
              would fail.",
    check: Check::Tree(containerd_mount),
};

pub(super) const CGROUP_DRIVER: Rule = Rule {
    name: "cgroup-driver",
    demands: "containerd and kubelet use the same cgroup driver.",
    check: Check::Tree(cgroup_driver),
};

pub(super) const CRI_PLUGIN: Rule = Rule {
    name: "cri-plugin",
    demands: "containerd's interface for kubelet (CRI) is on: packages of Docker's turn it off, and kubelet would never start.",
    check: Check::Tree(cri_plugin),
};

const CONTAINERD: [&str; 2] = ["/usr/bin/containerd", "/usr/local/bin/containerd"];
const KUBELET: [&str; 2] = ["/usr/bin/kubelet", "/usr/local/bin/kubelet"];
/// The plugin as Docker's packages name it, in containerd 1 and in the two halves that containerd 2 has.
const CRI: [&str; 4] =
    ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"];
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
/// Where kubeadm, Debian and this project's overlay put the kubelet's configuration.
const KUBELET_CONFIG: [&str; 4] = [
    "/etc/kubernetes/kubelet.yaml",
    "/etc/kubernetes/kubelet-config.yaml",
    "/etc/kubernetes/kubelet/config.yaml",
    "/var/lib/kubelet/config.yaml",
];

fn containerd_mount(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    const STATE: &str = "/var/lib/containerd";
    let Some(program) = subject.first(&CONTAINERD) else { return Ok(Vec::new()) };
    let mounted = |path: &str| subject.tmpfs.iter().any(|t| t.path.trim_end_matches('/') == path);
    let in_fstab = subject.text("/etc/fstab")?.is_some_and(|text| {
        text.lines().filter(|l| !l.trim_start().starts_with('#')).any(|l| l.split_whitespace().nth(1) == Some(STATE))
    });
    let unit = ["/etc/systemd/system", "/usr/lib/systemd/system"]
        .iter()
        .any(|dir| subject.exists(&format!("{dir}/var-lib-containerd.mount")));
    if mounted(STATE) || mounted("/var/lib") || mounted("/var") || in_fstab || unit {
        return Ok(Vec::new());
    }
    Ok(vec![CONTAINERD_MOUNT.finding(
        Some(STATE.to_owned()),
        format!("{program} is in the image, but {STATE} would lie on the root's overlay"),
        format!("add [[tmpfs]] path = \"{STATE}\" with a size, or a mount unit for a disk"),
    )])
}

fn cri_plugin(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    if subject.first(&CONTAINERD).is_none() || subject.first(&KUBELET).is_none() {
        return Ok(Vec::new());
    }
    let off = disabled_plugins(&subject.text(CONTAINERD_CONFIG)?.unwrap_or_default());
    let finding = |plugin: String| {
        CRI_PLUGIN.finding(
            Some(CONTAINERD_CONFIG.to_owned()),
            format!("{CONTAINERD_CONFIG} turns off {plugin}, by which kubelet talks to containerd"),
            "take it out of disabled_plugins",
        )
    };
    Ok(off.into_iter().filter(|plugin| CRI.contains(&plugin.as_str())).map(finding).collect())
}

/// What `disabled_plugins` lists: a table's key in containerd's configuration, and always of the top one.
fn disabled_plugins(config: &str) -> Vec<String> {
    // What is no TOML containerd refuses, and says so; it is not for this rule.
    let parsed: toml::Table = config.parse().unwrap_or_default();
    let listed = parsed.get("disabled_plugins").and_then(toml::Value::as_array);
    listed.into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

fn cgroup_driver(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    if subject.first(&CONTAINERD).is_none() || subject.first(&KUBELET).is_none() {
        return Ok(Vec::new());
    }
    let containerd = containerd_driver(subject.text(CONTAINERD_CONFIG)?.as_deref());
    let kubelet_config = subject.first(&KUBELET_CONFIG);
    let kubelet = match kubelet_config {
        Some(path) => kubelet_driver(&subject.text(path)?.unwrap_or_default()),
        None => "cgroupfs".to_owned(),
    };
    if containerd == kubelet {
        return Ok(Vec::new());
    }
    let problem = format!(
        "containerd uses the cgroup driver {containerd} ({CONTAINERD_CONFIG}), kubelet {kubelet} ({})",
        kubelet_config.unwrap_or("its default, no configuration was found")
    );
    Ok(vec![CGROUP_DRIVER.finding(
        Some(CONTAINERD_CONFIG.to_owned()),
        problem,
        "set SystemdCgroup = true in containerd's runc options and cgroupDriver: systemd in kubelet's configuration",
    )])
}

/// `SystemdCgroup` of the runc runtime; containerd's default is cgroupfs.
fn containerd_driver(config: Option<&str>) -> String {
    let systemd = config.unwrap_or_default().lines().map(str::trim).any(|line| {
        line.split_once('=').is_some_and(|(key, value)| {
            let value = value.split('#').next().unwrap_or_default();
            key.trim() == "SystemdCgroup" && value.trim() == "true"
        })
    });
    if systemd { "systemd" } else { "cgroupfs" }.to_owned()
}

/// `cgroupDriver` of a KubeletConfiguration in YAML or JSON; kubelet's default is cgroupfs.
fn kubelet_driver(config: &str) -> String {
    let value = config.lines().map(str::trim).find_map(|line| {
        let rest = line.trim_start_matches(['"', '\'']).strip_prefix("cgroupDriver")?;
        let value = rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?;
        let value = value.split(" #").next().unwrap_or_default();
        Some(value.trim().trim_end_matches(',').trim_matches(['"', '\'']).to_owned())
    });
    value.unwrap_or_else(|| "cgroupfs".to_owned())
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::RootTree;
    use netboot_init::config::{Size, Tmpfs};

    use super::*;
    use crate::testing::{put, subject};

    #[test]
    fn containerd_answers_kubelet() {
        let findings = |config: &str| {
            let mut tree = RootTree::new();
            put(&mut tree, "/usr/bin/containerd", b"");
            put(&mut tree, "/usr/bin/kubelet", b"");
            put(&mut tree, CONTAINERD_CONFIG, config.as_bytes());
            cri_plugin(&subject(&tree)).unwrap().len()
        };
        // As Docker's package has it; as containerd 1 and 2 call it.
        for off in ["\"cri\"", "\"a\",\n  'io.containerd.grpc.v1.cri', # why", "\"io.containerd.cri.v1.runtime\""] {
            assert_eq!(findings(&format!("version = 2\ndisabled_plugins = [{off}\n]\n")), 1, "{off}");
        }
        for on in [
            "",
            "disabled_plugins = []",
            "# disabled_plugins = [\"cri\"]",
            "disabled_plugins = [\"btrfs\"]",
            "no = toml =",
        ] {
            assert_eq!(findings(on), 0, "{on}");
        }
        let mut tree = RootTree::new();
        put(&mut tree, "/usr/bin/containerd", b"");
        put(&mut tree, CONTAINERD_CONFIG, b"disabled_plugins = [\"cri\"]");
        assert!(cri_plugin(&subject(&tree)).unwrap().is_empty(), "nobody needs it");
    }

    #[test]
    fn containerd_needs_a_mount() {
        let mut tree = RootTree::new();
        assert!(containerd_mount(&subject(&tree)).unwrap().is_empty());
        put(&mut tree, "/usr/bin/containerd", b"");
        assert_eq!(containerd_mount(&subject(&tree)).unwrap().len(), 1);
        let tmpfs = [Tmpfs { path: "/var/lib/containerd".into(), size: Size::Percent(40), mode: 0o711 }];
        assert!(containerd_mount(&Subject { tmpfs: &tmpfs, ..subject(&tree) }).unwrap().is_empty());
        put(&mut tree, "/etc/fstab", b"#/dev/x /var/lib/containerd ext4\n");
        assert_eq!(containerd_mount(&subject(&tree)).unwrap().len(), 1, "a comment mounts nothing");
        put(&mut tree, "/etc/fstab", b"LABEL=c /var/lib/containerd ext4 defaults 0 0\n");
        assert!(containerd_mount(&subject(&tree)).unwrap().is_empty());
    }

    #[test]
    fn drivers_must_agree() {
        let systemd = "[plugins]\n  SystemdCgroup = true # yes\n";
        let cases = [
            ("", "", 0),
            (systemd, "", 1),
            ("", "cgroupDriver: systemd\n", 1),
            (systemd, "kind: KubeletConfiguration\ncgroupDriver: \"systemd\" # so\n", 0),
            (systemd, "{\n \"cgroupDriver\": \"systemd\",\n}", 0),
            ("  SystemdCgroup = false", "cgroupDriver: cgroupfs", 0),
        ];
        for (containerd, kubelet, findings) in cases {
            let mut tree = RootTree::new();
            put(&mut tree, "/usr/bin/containerd", b"");
            put(&mut tree, "/usr/bin/kubelet", b"");
            put(&mut tree, CONTAINERD_CONFIG, containerd.as_bytes());
            put(&mut tree, KUBELET_CONFIG[0], kubelet.as_bytes());
            assert_eq!(cgroup_driver(&subject(&tree)).unwrap().len(), findings, "{containerd:?} {kubelet:?}");
        }
    }
}
