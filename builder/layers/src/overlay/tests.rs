use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use imgbuild_tree::{DumpOptions, Origin, Tree};

use super::*;

fn overlay(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn dump(entries: Vec<Entry<Content>>) -> Vec<String> {
    let mut tree = Tree::new();
    tree.apply(Origin(0), entries).unwrap();
    let dump = tree.dump(DumpOptions { mtime: true, content: false, origin: false }).unwrap();
    dump.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn modes_as_git_has_them_and_one_time() {
    let dir = overlay(&[("etc/a", "a"), ("usr/bin/run", "x"), ("var/empty/.gitkeep", ""), ("z-b", ""), ("z/a", "")]);
    let set = |path: &str, mode| {
        fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("etc/a", 0o600);
    set("usr/bin/run", 0o4710);
    set("etc", 0o700);
    symlink("../nowhere", dir.path().join("etc/l")).unwrap();
    let entries = read_overlay(dir.path(), 77).unwrap();
    let paths: Vec<_> = entries.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect();
    let sorted =
        ["/etc", "/etc/a", "/etc/l", "/usr", "/usr/bin", "/usr/bin/run", "/var", "/var/empty", "/z", "/z/a", "/z-b"];
    assert_eq!(paths, sorted);
    assert_eq!(
        dump(entries)[..6],
        [
            "/etc d 0755 0:0 - 77",
            "/etc/a f 0644 0:0 1 77",
            "/etc/l l 0777 0:0 - 77 -> ../nowhere",
            "/usr d 0755 0:0 - 77",
            "/usr/bin d 0755 0:0 - 77",
            "/usr/bin/run f 0755 0:0 1 77",
        ]
    );
}

#[test]
fn the_manifest_says_otherwise() {
    let dir = overlay(&[
        ("etc/ssl/private/key", "k"),
        ("etc/ssl/private/sub/key", "k"),
        ("var/lib/app/.gitkeep", ""),
        (
            MANIFEST,
            r#"
            [[entry]]
            path = "/etc/ssl/private/**"
            mode = 0o640
            gid = 42
            kind = "file"
            [[entry]]
            path = "/etc/ssl/private/sub/key"
            mode = "0600"
            uid = 3000000
            xattrs = { "user.note" = "text", "security.capability" = "0x0a00ff" }
            [[entry]]
            path = "/var/lib/app/"
            mode = "1777"
            "#,
        ),
    ]);
    let entries = read_overlay(dir.path(), 0).unwrap();
    let stated: Vec<_> = entries.iter().filter(|e| matches!(e.kind, EntryKind::Directory)).map(|e| &*e.path).collect();
    assert_eq!(stated, [b"/var/lib/app"]);
    let dump = dump(entries);
    for line in [
        "/etc/ssl/private d 0755 0:0 - 0",
        "/etc/ssl/private/key f 0640 0:42 1 0",
        "/etc/ssl/private/sub d 0755 0:0 - 0",
        "/etc/ssl/private/sub/key f 0600 3000000:42 1 0 xattr.security.capability=0a00ff xattr.user.note=74657874",
        "/var/lib/app d 1777 0:0 - 0",
    ] {
        assert!(dump.iter().any(|l| l == line), "{line} is not in {dump:#?}");
    }
    assert!(!dump.iter().any(|l| l.contains("imgbuild-overlay") || l.contains("gitkeep")));
}

#[test]
fn the_manifest_makes_links() {
    let manifest = "[[entry]]\npath = \"/etc/**\"\nkind = \"link\"\nuid = 7\n\
        [[link]]\npath = \"/etc/wants/a.service\"\ntarget = \"../a.service\"\n\
        [[link]]\npath = \"/opt/bin\"\ntarget = \"/usr/bin\"\n";
    let dir = overlay(&[("etc/a.service", "a"), (MANIFEST, manifest)]);
    let dump = dump(read_overlay(dir.path(), 5).unwrap());
    assert_eq!(dump[2..4], ["/etc/wants d 0755 0:0 - 0", "/etc/wants/a.service l 0777 7:0 - 5 -> ../a.service"]);
    assert_eq!(dump[5], "/opt/bin l 0777 0:0 - 5 -> /usr/bin");
}

#[test]
fn wrong_manifests_are_errors() {
    let cases = [
        ("[[entry]]\npath = \"/etc/*\"\nmod = 1", "unknown field `mod`"),
        ("[[entry]]\npath = \"/etc/*\"\nmode = 0o17777", "a mode is at most 0o7777"),
        ("[[entry]]\npath = \"/etc/*\"\nmode = \"rw\"", "a mode is at most 0o7777"),
        ("[[entry]]\npath = \"/etc/*\"\nxattrs = { \"user.x\" = \"0x1\" }", "even number of hexadecimal digits"),
        ("[[entry]]\npath = \"/none\"\nuid = 1", "/none matches nothing in the overlay"),
        ("[[entry]]\npath = \"/etc/a\"\nkind = \"folder\"", "/etc/a matches nothing in the overlay"),
        ("[[entry]]\npath = \"etc\"", "a path cannot be used"),
        ("[[link]]\npath = \"etc/l\"\ntarget = \"a\"", "is no absolute path"),
        ("[[link]]\npath = \"/etc/../l\"\ntarget = \"a\"", "is no absolute path"),
        ("[[link]]\npath = \"/etc/l\"\ntarget = \"\"", "can be in no link"),
        ("[[link]]\npath = \"/etc/a\"\ntarget = \"b\"", "/etc/a: the overlay has that path already"),
    ];
    for (manifest, message) in cases {
        let dir = overlay(&[("etc/a", ""), (MANIFEST, manifest)]);
        let error = read_overlay(dir.path(), 0).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains(MANIFEST), "{error}");
    }
}

#[test]
fn folders_leave_lower_ones_as_they_are() {
    let mut tree = Tree::new();
    let mut root = Metadata::root_owned(0o700);
    root.gid = 5;
    let entry = Entry { path: b"root".as_slice().into(), meta: root, kind: EntryKind::Directory };
    tree.apply(Origin(0), vec![entry]).unwrap();
    let dir = overlay(&[("root/.profile", "p")]);
    tree.apply(Origin(1), read_overlay(dir.path(), 0).unwrap()).unwrap();
    let root = &tree.node(tree.resolve("root").unwrap()).meta;
    assert_eq!((root.mode, root.gid), (0o700, 5));
}

#[test]
fn the_hash_is_of_what_counts() {
    let hash = |dir: &tempfile::TempDir, mtime| entries_sha256(&read_overlay(dir.path(), mtime).unwrap()).unwrap();
    let files = [("etc/a", "a"), ("etc/b/c", "c")];
    let (one, two) = (overlay(&files), overlay(&files));
    fs::set_permissions(two.path().join("etc/a"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(hash(&one, 1), hash(&two, 2), "neither the place nor umask nor times count");
    fs::set_permissions(two.path().join("etc/a"), fs::Permissions::from_mode(0o740)).unwrap();
    assert_ne!(hash(&one, 0), hash(&two, 0), "being a program counts");
    for other in [&[("etc/a", "A"), ("etc/b/c", "c")][..], &[("etc/a", "a"), ("etc/bc", "c")], &[("etc/a", "a")]] {
        assert_ne!(hash(&one, 0), hash(&overlay(other), 0));
    }
    fs::write(one.path().join("etc/d"), "").unwrap();
    symlink("a", two.path().join("etc/d")).unwrap();
    assert_ne!(hash(&one, 0), hash(&two, 0));
}

#[test]
fn what_cannot_be_in_an_overlay() {
    let dir = overlay(&[("run/x", "")]);
    let socket = dir.path().join("run/socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let error = read_overlay(dir.path(), 0).unwrap_err().to_string();
    assert!(error.contains("run/socket: a socket cannot be in an overlay"), "{error}");
    drop(listener);
    fs::remove_file(&socket).unwrap();
    fs::write(dir.path().join("run/.wh.x"), "").unwrap();
    let error = read_overlay(dir.path(), 0).unwrap_err().to_string();
    assert!(error.contains(".wh.x: an overlay adds and replaces; take paths out with [prune]"), "{error}");
    assert!(matches!(read_overlay(&dir.path().join("run/x"), 0), Err(OverlayError::NotAFolder { .. })));
    assert!(matches!(read_overlay(&dir.path().join("none"), 0), Err(OverlayError::Io { .. })));
}
