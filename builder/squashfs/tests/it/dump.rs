//! A tree as lines of text, to compare trees by.

use std::collections::HashMap;
use std::fmt::Write;

use imgbuild_squashfs::Options;
use imgbuild_tree::{FileContent, Kind, Tree, sha256};

/// One line for every name: path, kind, mode, owners, time as an image with these options has it, extended attributes,
/// content; for a further name of a file only the first one.
pub(crate) fn dump<C: FileContent>(tree: &Tree<C>, options: &Options) -> Vec<String> {
    let mut first_names = HashMap::new();
    let mut lines = Vec::new();
    for item in tree.walk() {
        let path = item.path.escape_ascii().to_string();
        if let Some(first) = first_names.get(&item.id) {
            lines.push(format!("{path} = {first}"));
            continue;
        }
        let node = tree.node(item.id);
        let meta = &node.meta;
        // Linux gives every link 0777.
        let mode = if matches!(node.kind, Kind::Symlink(_)) { 0o777 } else { meta.mode };
        let mtime = meta.mtime.clamp(0, i64::from(options.time));
        let mut line = format!("{path} {} {mode:04o} {}:{} @{mtime}", node.kind.name(), meta.uid, meta.gid);
        for (name, value) in &meta.xattrs {
            write!(line, " {}={}", name.escape_ascii(), value.escape_ascii()).unwrap();
        }
        match &node.kind {
            Kind::Regular(content) => {
                write!(line, " {} ", content.len()).unwrap();
                for byte in sha256(content).unwrap() {
                    write!(line, "{byte:02x}").unwrap();
                }
            }
            Kind::Symlink(target) => write!(line, " -> {}", target.escape_ascii()).unwrap(),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                write!(line, " {major}:{minor}").unwrap();
            }
            Kind::Directory(_) | Kind::Fifo | Kind::Socket => {}
        }
        lines.push(line);
        if !node.kind.is_directory() {
            first_names.insert(item.id, path);
        }
    }
    lines
}

/// Fails with the first lines that differ.
pub(crate) fn assert_same(found: &[String], expected: &[String], what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected, "{what}");
    }
    assert_eq!(found.len(), expected.len(), "{what}: {:?}", found.get(expected.len()).or(expected.get(found.len())));
}
