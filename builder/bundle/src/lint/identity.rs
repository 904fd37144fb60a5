//! What must differ from node to node, and what must not be read by everyone.

use imgbuild_tree::Kind;

use super::{Check, Finding, Rule, Subject};
use crate::Error;

pub(super) const MACHINE_ID: Rule = Rule {
    name: "machine-id",
    demands: "`/etc/machine-id` is missing, empty or `uninitialized`: nodes with one id get one DHCP lease.",
    check: Check::Tree(machine_id),
};

pub(super) const SSH_HOST_KEY: Rule = Rule {
    name: "ssh-host-key",
    demands: "No SSH host key is in the image: all nodes would share it, and so would everyone who downloads the image.",
    check: Check::Tree(ssh_host_key),
};

pub(super) const SECRET: Rule = Rule {
    name: "secret",
    demands: "No private key and no Kubernetes bootstrap token is in the image: a boot server gives it to everyone.",
    check: Check::Tree(secret),
};

fn machine_id(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut all = Vec::new();
    for path in ["/etc/machine-id", "/var/lib/dbus/machine-id"] {
        // D-Bus's is usually a link to the other.
        let own =
            subject.tree.resolve_no_follow(path).is_ok_and(|id| matches!(subject.tree.node(id).kind, Kind::Regular(_)));
        let text = if own { subject.text(path)?.unwrap_or_default() } else { String::new() };
        if !matches!(text.trim(), "" | "uninitialized") {
            all.push(MACHINE_ID.finding(
                Some(path.to_owned()),
                format!("{path} holds the machine id {}, which every node would have", text.trim()),
                format!("add an empty {path} in an overlay, or prune it; the node makes its own from its UUID or MAC"),
            ));
        }
    }
    Ok(all)
}

fn ssh_host_key(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let Some(children) = subject.tree.resolve("/etc/ssh").ok().and_then(|id| subject.tree.children(id)) else {
        return Ok(Vec::new());
    };
    let keys = children.keys().filter(|name| name.starts_with(b"ssh_host_") && name.ends_with(b"_key"));
    Ok(keys
        .map(|name| {
            let path = format!("/etc/ssh/{}", String::from_utf8_lossy(name));
            let problem = format!("{path} is a host key, which every node would share");
            SSH_HOST_KEY.finding(Some(path), problem, "prune /etc/ssh/ssh_host_* and make keys at boot (ssh-keygen -A)")
        })
        .collect())
}

fn secret(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut secrets = std::collections::BTreeMap::new();
    for scanned in subject.scanned {
        if let Some(secret) = scanned.secret {
            secrets.insert(scanned.id, secret);
        }
    }
    if secrets.is_empty() {
        return Ok(Vec::new());
    }
    Ok(subject
        .tree
        .walk()
        .filter_map(|item| {
            let secret = secrets.get(&item.id)?;
            let path = String::from_utf8_lossy(&item.path).into_owned();
            let layer = subject.layer(subject.tree.node(item.id).meta.origin);
            Some(SECRET.finding(
                Some(path.clone()),
                format!("{path} (layer {layer}) holds {}", secret.name()),
                "take it out of that layer or prune it, and give it to the node at boot",
            ))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::{Metadata, Node, RootTree};

    use super::*;
    use crate::testing::{add, put, subject};

    #[test]
    fn a_machine_id_of_its_own() {
        for (text, findings) in [("", 0), ("uninitialized\n", 0), ("0123456789abcdef0123456789abcdef\n", 1)] {
            let mut tree = RootTree::new();
            put(&mut tree, "/etc/machine-id", text.as_bytes());
            let link = Node { meta: Metadata::root_owned(0o777), kind: Kind::Symlink((*b"/etc/machine-id").into()) };
            add(&mut tree, "/var/lib/dbus/machine-id", link);
            assert_eq!(machine_id(&subject(&tree)).unwrap().len(), findings, "{text:?}");
        }
    }

    #[test]
    fn host_keys_but_not_their_public_halves() {
        let mut tree = RootTree::new();
        put(&mut tree, "/etc/ssh/ssh_host_ed25519_key.pub", b"x");
        put(&mut tree, "/etc/ssh/sshd_config", b"x");
        assert!(ssh_host_key(&subject(&tree)).unwrap().is_empty());
        put(&mut tree, "/etc/ssh/ssh_host_ed25519_key", b"x");
        assert_eq!(ssh_host_key(&subject(&tree)).unwrap()[0].path.as_deref(), Some("/etc/ssh/ssh_host_ed25519_key"));
    }

    #[test]
    fn secrets_with_path_and_layer() {
        let mut tree = RootTree::new();
        put(&mut tree, "/etc/kubernetes/bootstrap.conf", b"token: abcdef.0123456789abcdef\n");
        put(&mut tree, "/etc/fine", b"nothing");
        let scanned = crate::scan::scan(&tree, None).unwrap();
        let mut subject = subject(&tree);
        subject.scanned = &scanned;
        let found = secret(&subject).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].problem,
            "/etc/kubernetes/bootstrap.conf (layer imgbuild) holds a Kubernetes bootstrap token"
        );
    }
}
