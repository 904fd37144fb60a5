//! A folder as a tree; the `pack` example uses it too.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use imgbuild_tree::{Content, Kind, Metadata, Node, NodeId, Origin, Tree, Xattrs};

/// Reads a folder: metadata now, contents when they are asked for. Names of one inode become hard links.
pub(crate) fn load(root: &Path) -> io::Result<Tree<Content>> {
    let mut tree = Tree::new();
    tree.node_mut(NodeId::ROOT).meta = metadata(root)?;
    let mut known = HashMap::new();
    let mut todo = vec![(root.to_owned(), NodeId::ROOT)];
    while let Some((folder, parent)) = todo.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            let stat = fs::symlink_metadata(&path)?;
            let key = (stat.dev(), stat.ino());
            let id = match known.get(&key) {
                Some(id) => *id,
                None => tree.add(Node { meta: metadata(&path)?, kind: kind(&path, &stat)? }),
            };
            if stat.is_dir() {
                todo.push((path, id));
            } else {
                known.insert(key, id);
            }
            tree.link(parent, entry.file_name().as_bytes(), id);
        }
    }
    Ok(tree)
}

fn metadata(path: &Path) -> io::Result<Metadata> {
    let stat = fs::symlink_metadata(path)?;
    Ok(Metadata {
        mode: (stat.mode() & 0o7777) as u16,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: stat.mtime(),
        xattrs: xattrs(path)?,
        origin: Origin(0),
    })
}

fn kind(path: &Path, stat: &fs::Metadata) -> io::Result<Kind<Content>> {
    let kind = stat.file_type();
    let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
    Ok(if kind.is_dir() {
        Kind::Directory(Default::default())
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.into_os_string().into_vec().into())
    } else if kind.is_char_device() {
        Kind::CharDevice { major, minor }
    } else if kind.is_block_device() {
        Kind::BlockDevice { major, minor }
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else {
        Kind::Regular(Content::Path { path: path.into(), len: stat.len() })
    })
}

fn xattrs(path: &Path) -> io::Result<Xattrs> {
    let mut names = vec![0; 4096];
    let len = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        // What the kernel says of a squashfs without any.
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        len => len?,
    };
    let mut found = Xattrs::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 65_536];
        let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
        value.truncate(len);
        found.insert(name.into(), value.into());
    }
    Ok(found)
}
