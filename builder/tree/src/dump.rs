//! The tree as text, for golden tests, comparison with other tools, and hashes of whole trees.

use std::fmt::Write as _;
use std::io;

use thiserror::Error;

use crate::{FileContent, Kind, Tree, sha256};

/// What [`Tree::dump`] shows besides the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpOptions {
    /// Modification times.
    pub mtime: bool,
    /// The SHA-256 of every file, which reads them all.
    pub content: bool,
    /// The layer each node came from.
    pub origin: bool,
}

/// A file that could not be read for the dump.
#[derive(Debug, Error)]
#[error("{path}: cannot be read")]
pub struct DumpError {
    /// Path in the tree.
    pub path: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl<C: FileContent> Tree<C> {
    /// One line for each name, parents before children, children in bytewise order:
    ///
    /// ```text
    /// PATH TYPE MODE UID:GID SIZE MTIME [-> TARGET] [dev=MAJOR:MINOR] [link=N] [sha256=HEX] [origin=N] [xattr.NAME=HEX]…
    /// /usr/bin/ping f 0755 0:0 90568 1661261829 link=3 sha256=… xattr.security.capability=0100000200200000…
    /// ```
    ///
    /// TYPE is a letter as `find -type` has it. SIZE is a file's length in bytes and `-` for all else. MTIME is `-` where the
    /// options leave it out. N of `link` numbers the nodes with several names by the first of them. Bytes of
    /// names and targets outside printable ASCII, blanks and backslashes are `\xNN`. Nothing in it depends on the
    /// order in which the tree was made.
    ///
    /// # Errors
    /// When a content cannot be read; only with [`DumpOptions::content`].
    pub fn dump(&self, options: DumpOptions) -> Result<String, DumpError> {
        let counts = self.link_counts();
        let mut numbers = vec![0_u32; self.len()];
        let mut last_number = 0;
        let mut text = String::new();
        for item in self.walk() {
            let node = self.node(item.id);
            let meta = &node.meta;
            escape(&mut text, &item.path);
            let size = match &node.kind {
                Kind::Regular(content) => content.len().to_string(),
                _ => "-".to_owned(),
            };
            let mtime = if options.mtime { meta.mtime.to_string() } else { "-".to_owned() };
            let letter = letter(&node.kind);
            // Writing to a String cannot fail.
            let _ = write!(text, " {letter} {:04o} {}:{} {size} {mtime}", meta.mode, meta.uid, meta.gid);
            match &node.kind {
                Kind::Symlink(target) => {
                    text.push_str(" -> ");
                    escape(&mut text, target);
                }
                Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                    let _ = write!(text, " dev={major}:{minor}");
                }
                _ => {}
            }
            let index = item.id.index();
            if counts[index] > 1 {
                if numbers[index] == 0 {
                    last_number += 1;
                    numbers[index] = last_number;
                }
                let _ = write!(text, " link={}", numbers[index]);
            }
            if let Kind::Regular(content) = &node.kind
                && options.content
            {
                let hash = sha256(content)
                    .map_err(|source| DumpError { path: String::from_utf8_lossy(&item.path).into_owned(), source })?;
                text.push_str(" sha256=");
                hex(&mut text, &hash);
            }
            if options.origin {
                let _ = write!(text, " origin={}", meta.origin.0);
            }
            for (name, value) in &meta.xattrs {
                text.push_str(" xattr.");
                escape(&mut text, name);
                text.push('=');
                hex(&mut text, value);
            }
            text.push('\n');
        }
        Ok(text)
    }
}

fn letter<C>(kind: &Kind<C>) -> char {
    match kind {
        Kind::Directory(_) => 'd',
        Kind::Regular(_) => 'f',
        Kind::Symlink(_) => 'l',
        Kind::CharDevice { .. } => 'c',
        Kind::BlockDevice { .. } => 'b',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    }
}

fn escape(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'\\' | 0..=0x20 | 0x7f.. => {
                let _ = write!(text, "\\x{byte:02x}");
            }
            _ => text.push(char::from(*byte)),
        }
    }
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Entry, EntryKind, Metadata, Origin};

    #[test]
    fn one_line_for_each_name() {
        let mut tree = Tree::new();
        let meta = |mode, uid, mtime| Metadata { uid, mtime, ..Metadata::root_owned(mode) };
        let mut capable = meta(0o4755, 3_000_000, -5);
        capable.xattrs.insert(b"security.capability".as_slice().into(), [1, 0, 0x0a].as_slice().into());
        capable.xattrs.insert(b"user.=".as_slice().into(), [].as_slice().into());
        let entry = |path: &[u8], meta, kind| Entry { path: path.into(), meta, kind };
        let entries = vec![
            entry(b"ping", capable, EntryKind::Regular(Content::from(&b"abc"[..]))),
            entry(b"a b\\\xff", meta(0o777, 0, 0), EntryKind::Symlink(b"to \n".as_slice().into())),
            entry(b"dev/null", meta(0o666, 0, 7), EntryKind::CharDevice(1, 3)),
            entry(b"dev/sda", meta(0o660, 0, 7), EntryKind::BlockDevice(8, 0)),
            entry(b"dev/log", meta(0o666, 0, 7), EntryKind::Socket),
            entry(b"dev/pipe", meta(0o600, 0, 7), EntryKind::Fifo),
            entry(b"other", meta(0, 0, 0), EntryKind::HardLink(b"ping".as_slice().into())),
        ];
        tree.apply(Origin(4), entries).unwrap();
        let dump = tree.dump(DumpOptions { mtime: true, content: true, origin: false }).unwrap();
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let capability = "xattr.security.capability=01000a xattr.user.==";
        assert_eq!(
            dump,
            format!(
                "/ d 0755 0:0 - 0\n\
                 /a\\x20b\\x5c\\xff l 0777 0:0 - 0 -> to\\x20\\x0a\n\
                 /dev d 0755 0:0 - 0\n\
                 /dev/log s 0666 0:0 - 7\n\
                 /dev/null c 0666 0:0 - 7 dev=1:3\n\
                 /dev/pipe p 0600 0:0 - 7\n\
                 /dev/sda b 0660 0:0 - 7 dev=8:0\n\
                 /other f 4755 3000000:0 3 -5 link=1 sha256={hash} {capability}\n\
                 /ping f 4755 3000000:0 3 -5 link=1 sha256={hash} {capability}\n"
            )
        );
        let dump = tree.dump(DumpOptions { mtime: false, content: false, origin: true }).unwrap();
        assert!(dump.starts_with("/ d 0755 0:0 - - origin=65535\n"), "{dump}");
        assert!(dump.contains(&format!("/ping f 4755 3000000:0 3 - link=1 origin=4 {capability}\n")), "{dump}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let mut tree = Tree::new();
        let content = Content::Path { path: std::path::Path::new("/nonexistent/x").into(), len: 3 };
        let entry = Entry {
            path: b"etc/x".as_slice().into(),
            meta: Metadata::root_owned(0),
            kind: EntryKind::Regular(content),
        };
        tree.apply(Origin(0), vec![entry]).unwrap();
        let error = tree.dump(DumpOptions { mtime: true, content: true, origin: false }).unwrap_err();
        assert_eq!(error.to_string(), "/etc/x: cannot be read");
    }
}
