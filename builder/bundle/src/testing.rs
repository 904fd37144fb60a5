//! Small roots for the unit tests of this crate.

use imgbuild_tree::{Content, Kind, Metadata, Node, NodeId, RootTree};

/// Puts a regular file into a tree, with the folders above it.
pub(crate) fn put(tree: &mut RootTree, path: &str, content: &[u8]) -> NodeId {
    add(tree, path, Node { meta: Metadata::root_owned(0o644), kind: Kind::Regular(Content::from(content)) })
}

/// Puts any node into a tree, with the folders above it.
pub(crate) fn add(tree: &mut RootTree, path: &str, node: Node<Content>) -> NodeId {
    let mut here = NodeId::ROOT;
    let (parents, name) = path.rsplit_once('/').unwrap();
    for part in parents.split('/').filter(|p| !p.is_empty()) {
        here = match tree.children(here).unwrap().get(part.as_bytes()) {
            Some(id) => *id,
            None => {
                let id =
                    tree.add(Node { meta: Metadata::root_owned(0o755), kind: Kind::Directory(Default::default()) });
                tree.link(here, part.as_bytes(), id);
                id
            }
        };
    }
    let id = tree.add(node);
    tree.link(here, name.as_bytes(), id);
    id
}

/// Writes a tiny but whole bundle into a folder.
pub(crate) fn bundle(dir: &std::path::Path) -> crate::manifest::Manifest {
    use crate::manifest::{FileEntry, Kernel, LayerEntry, Manifest, Ram, SCHEMA};
    use std::collections::BTreeMap;

    let entry = |name: &str, text: &str| -> (String, FileEntry) {
        std::fs::write(dir.join(name), text).unwrap();
        (name.to_owned(), crate::bundle::hash(&dir.join(name)).unwrap())
    };
    let files = [entry(crate::KERNEL, "kernel"), entry(crate::INITRD, "initrd"), entry(crate::ROOT, "root")];
    let manifest = Manifest {
        schema: SCHEMA,
        name: "worker".into(),
        version: "1.4.2".into(),
        arch: "amd64".into(),
        build_time: 1_700_000_000,
        kernel: Some(Kernel {
            release: "6.1.0-1-amd64".into(),
            cmdline: vec!["console=ttyS0,115200".into()],
            modules: vec!["virtio_net".into()],
            firmware: Vec::new(),
        }),
        files: files.into_iter().collect(),
        layers: vec![LayerEntry {
            name: "base".into(),
            source: "debian bookworm".into(),
            digest: "sha256:00".into(),
            recipe: "recipes/worker.toml:3".into(),
            files: 1,
            bytes: 5,
        }],
        delivery: "fetch".into(),
        ram: Ram::default(),
        tests: Vec::new(),
        tool_version: "0.1.0".into(),
    };
    let mut text = serde_json::to_string_pretty(&manifest).unwrap();
    text.push('\n');
    std::fs::write(dir.join(crate::manifest::FILE_NAME), text).unwrap();
    let mut listed: BTreeMap<String, String> =
        manifest.files.iter().map(|(name, entry)| (name.clone(), entry.sha256.clone())).collect();
    let own = crate::bundle::hash(&dir.join(crate::manifest::FILE_NAME)).unwrap();
    listed.insert(crate::manifest::FILE_NAME.to_owned(), own.sha256);
    std::fs::write(dir.join(crate::sums::FILE_NAME), crate::sums::write(&listed)).unwrap();
    manifest
}

/// A subject for lint rules with nothing but a tree.
pub(crate) fn subject(tree: &RootTree) -> crate::lint::Subject<'_> {
    crate::lint::Subject {
        tree,
        scanned: &[],
        programs: crate::lint::Programs::default(),
        type_changes: &[],
        pruned: None,
        layers: &[],
        tmpfs: &[],
        overlay_size: netboot_init::config::Size::Bytes(0),
    }
}
