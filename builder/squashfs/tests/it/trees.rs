//! Trees made by hand.

use imgbuild_squashfs::{Compression, Options};
use imgbuild_tree::{Content, Kind, Metadata, Node, NodeId, Tree};

/// Some time in 2023.
pub(crate) const TIME: u32 = 1_700_000_000;

/// Blocks of 4 KiB, so that small trees reach every path, and a quick compressor.
pub(crate) fn options() -> Options {
    Options {
        compression: Compression::Zstd { level: 3 },
        block_size: 4096,
        threads: 2,
        time: TIME,
        ..Options::default()
    }
}

/// Metadata that differs from the default in every field.
pub(crate) fn meta(mode: u16) -> Metadata {
    Metadata { uid: 1000, gid: 100, mtime: 1_600_000_000, ..Metadata::root_owned(mode) }
}

/// As `meta`, with one extended attribute.
pub(crate) fn with_xattr(mode: u16, name: &str, value: &[u8]) -> Metadata {
    let mut meta = meta(mode);
    meta.xattrs.insert(name.as_bytes().into(), value.into());
    meta
}

/// Adds a node at a path, and the directories above it.
pub(crate) fn put(tree: &mut Tree<Content>, path: &str, meta: Metadata, kind: Kind<Content>) -> NodeId {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut parent = NodeId::ROOT;
    for component in folder.split('/').filter(|c| !c.is_empty()) {
        let known = tree.children(parent).unwrap().get(component.as_bytes()).copied();
        parent = known.unwrap_or_else(|| {
            let kind = Kind::Directory(Default::default());
            let id = tree.add(Node { meta: Metadata::root_owned(0o755), kind });
            tree.link(parent, component.as_bytes(), id);
            id
        });
    }
    let id = tree.add(Node { meta, kind });
    tree.link(parent, name.as_bytes(), id);
    id
}

/// Adds a regular file.
pub(crate) fn file(tree: &mut Tree<Content>, path: &str, content: impl Into<Content>) -> NodeId {
    put(tree, path, meta(0o644), Kind::Regular(content.into()))
}

/// Bytes that do not compress and are the same every time (xorshift).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Bytes that compress about as text does.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let words: [&[u8; 8]; 4] = [b"layer of", b" a tree ", b"in which", b"all are\n"];
    let mut out = Vec::with_capacity(len + 16);
    for byte in noise(seed, len / 12 + 1) {
        out.extend_from_slice(words[usize::from(byte % 4)]);
        out.extend_from_slice(&u32::from(byte).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// One of everything: every kind, with and without extended attributes, hard links, owners beyond 16 bits, odd times,
/// names that are no UTF-8.
pub(crate) fn everything() -> Tree<Content> {
    let mut tree = Tree::new();
    tree.node_mut(NodeId::ROOT).meta = with_xattr(0o751, "user.root", b"the root's own");
    put(&mut tree, "empty", meta(0o700), Kind::Directory(Default::default()));
    put(&mut tree, "sticky", with_xattr(0o1777, "trusted.overlay.opaque", b"y"), Kind::Directory(Default::default()));
    file(&mut tree, "etc/hostname", b"worker\n".to_vec());
    file(&mut tree, "etc/empty", Vec::new());
    let sudo = put(&mut tree, "usr/bin/sudo", meta(0o4755), Kind::Regular(text(1, 30_000).into()));
    let ping = with_xattr(
        0o755,
        "security.capability",
        b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    );
    let ping = put(&mut tree, "usr/bin/ping", ping, Kind::Regular(noise(2, 10_000).into()));
    let etc = tree.resolve("/etc").unwrap();
    tree.link(etc, b"second-name-of-sudo", sudo);
    tree.link(NodeId::ROOT, b"zz-ping", ping);
    put(&mut tree, "bin", meta(0o777), Kind::Symlink(b"usr/bin"[..].into()));
    let link = with_xattr(0o777, "trusted.note", b"of a link");
    let link = put(&mut tree, "lib", link, Kind::Symlink(b"usr/lib"[..].into()));
    tree.link(etc, b"second-name-of-lib", link);
    put(&mut tree, "dev/console", meta(0o600), Kind::CharDevice { major: 5, minor: 1 });
    put(&mut tree, "dev/big", meta(0o660), Kind::BlockDevice { major: 4095, minor: 1_048_575 });
    put(&mut tree, "dev/c", with_xattr(0o666, "trusted.a", b"1"), Kind::CharDevice { major: 259, minor: 300 });
    put(&mut tree, "dev/b", with_xattr(0o666, "trusted.a", b"2"), Kind::BlockDevice { major: 8, minor: 0 });
    put(&mut tree, "run/fifo", meta(0o640), Kind::Fifo);
    put(&mut tree, "run/fifo-x", with_xattr(0o640, "trusted.a", b"3"), Kind::Fifo);
    put(&mut tree, "run/socket", meta(0o755), Kind::Socket);
    put(&mut tree, "run/socket-x", with_xattr(0o755, "trusted.a", b"4"), Kind::Socket);
    let far = Metadata { uid: 3_000_000, gid: 4_000_000_000, mtime: -1000, ..Metadata::root_owned(0o000) };
    put(&mut tree, "far", far, Kind::Regular(b"from another user namespace".to_vec().into()));
    let late = Metadata { mtime: i64::MAX, ..Metadata::root_owned(0o2755) };
    put(&mut tree, "late", late, Kind::Directory(Default::default()));
    let latin1 = tree.add(Node { meta: meta(0o644), kind: Kind::Regular(b"caf\xe9".to_vec().into()) });
    tree.link(NodeId::ROOT, b"caf\xe9 \n\\", latin1);
    tree
}
