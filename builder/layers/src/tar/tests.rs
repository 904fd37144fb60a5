use std::io::{Seek, Write};
use std::process::Command;

use imgbuild_tree::FileContent;
use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<Vec<Entry<Content>>, TarError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    read_tar(Arc::new(file), Path::new("a.tar").into())
}

fn content(entry: &Entry<Content>) -> Vec<u8> {
    let EntryKind::Regular(content) = &entry.kind else { panic!("{:?} is no file", entry.kind) };
    let mut bytes = vec![0; content.len() as usize];
    content.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn paths(entries: &[Entry<Content>]) -> Vec<String> {
    entries.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect()
}

/// The kind in words, since contents do not compare.
fn kind(entry: &Entry<Content>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match &entry.kind {
        EntryKind::Regular(_) => "file".to_owned(),
        EntryKind::Symlink(target) => format!("-> {}", text(target)),
        EntryKind::HardLink(target) => format!("= {}", text(target)),
        EntryKind::CharDevice(major, minor) => format!("char {major}:{minor}"),
        EntryKind::BlockDevice(major, minor) => format!("block {major}:{minor}"),
        EntryKind::Directory => "directory".to_owned(),
        EntryKind::Parent => "parent".to_owned(),
        EntryKind::Fifo => "fifo".to_owned(),
        EntryKind::Socket => "socket".to_owned(),
        EntryKind::Whiteout => "whiteout".to_owned(),
        EntryKind::Opaque => "opaque".to_owned(),
    }
}

/// One header, GNU magic, checksum right.
struct Raw(tar::Header);

impl Raw {
    fn new(kind: u8, name: &[u8], size: u64) -> Self {
        let mut header = tar::Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.as_old_mut().linkflag = [kind];
        Self(header)
    }
    fn target(mut self, target: &[u8]) -> Self {
        self.0.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        self
    }
    fn bytes(mut self, data: &[u8]) -> Vec<u8> {
        self.0.set_cksum();
        let mut bytes = self.0.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        data.extend_from_slice(format!("{len} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    Raw::new(b'x', b"pax", data.len() as u64).bytes(&data)
}

fn file(name: &[u8], data: &[u8]) -> Vec<u8> {
    Raw::new(b'0', name, data.len() as u64).bytes(data)
}

/// A folder with everything GNU tar can pack without being root, packed.
fn packed(options: &[&str]) -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"set -e; cd "$1"; mkdir root; cd root
        mkdir -p "$(printf 'd%.0s' $(seq 120))/$(printf 'e%.0s' $(seq 120))"; cd d*/e*; echo deep > "$(printf 'f%.0s' $(seq 200))"; cd ../..
        ln -s "$(printf 't%.0s' $(seq 150))" longlink; ln -s /etc/passwd abs; echo one > a; ln a b; mkfifo pipe; : > empty
        printf '\377\n' > "$(printf 'n\374\nx')"
        truncate -s 5M holes; printf head | dd of=holes conv=notrunc status=none
        printf middle | dd of=holes bs=1 seek=1048576 conv=notrunc status=none
        truncate -s 3M allhole; chmod 4755 a; chmod 1777 d*; touch -d @1234567890.75 a
        shift; tar -cf ../out.tar --sort=name --owner=x:3000000 --group=y:4000000000 "$@" ."#;
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(dir.path()).args(options).status().unwrap();
    assert!(status.success());
    let bytes = std::fs::read(dir.path().join("out.tar")).unwrap();
    (dir, bytes)
}

#[test]
fn everything_gnu_tar_packs() {
    for options in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        let (dir, bytes) = packed(options);
        let entries = read(&bytes).unwrap();
        let find = |name: &str| {
            let path = format!("./{name}");
            entries.iter().find(|e| *e.path == *path.as_bytes()).unwrap_or_else(|| panic!("{options:?}: no {name}"))
        };
        assert_eq!(entries.len(), 13, "{options:?}: {:?}", paths(&entries));
        let deep = format!("{}/{}/{}", "d".repeat(120), "e".repeat(120), "f".repeat(200));
        assert_eq!(content(find(&deep)), b"deep\n", "{options:?}");
        assert_eq!(kind(find("longlink")), format!("-> {}", "t".repeat(150)));
        assert_eq!(kind(find("abs")), "-> /etc/passwd");
        assert_eq!(kind(find("b")), "= ./a");
        assert_eq!(kind(find("pipe")), "fifo");
        assert!(content(find("empty")).is_empty());
        assert!(entries.iter().any(|e| *e.path == *b"./n\xfc\nx" && content(e) == b"\xff\n"), "{options:?}");
        let a = &find("a").meta;
        assert_eq!((a.mode, a.uid, a.gid, a.mtime), (0o4755, 3_000_000, 4_000_000_000, 1_234_567_890), "{options:?}");
        assert_eq!(find(&format!("{}/", "d".repeat(120))).meta.mode, 0o1777);
        for name in ["holes", "allhole"] {
            let expected = std::fs::read(dir.path().join("root").join(name)).unwrap();
            assert!(content(find(name)) == expected, "{options:?}: {name} differs");
            let sparse = matches!(find(name).kind, EntryKind::Regular(Content::Sparse { .. }));
            assert_eq!(sparse, options.contains(&"--sparse"), "{options:?}");
        }
    }
}

#[test]
fn sparse_files_of_many_pieces() {
    for format in ["--format=gnu", "--format=posix"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("many");
        let mut sparse = File::create(&path).unwrap();
        for piece in 0..6000_u64 {
            sparse.seek(io::SeekFrom::Start(piece * 8192)).unwrap();
            sparse.write_all(&piece.to_le_bytes()).unwrap();
        }
        let archive = dir.path().join("out.tar");
        let tar = Command::new("tar").current_dir(&dir).args(["--sparse", format, "-cf", "out.tar", "many"]).status();
        assert!(tar.unwrap().success());
        let entries = read(&std::fs::read(archive).unwrap()).unwrap();
        assert!(
            matches!(&entries[0].kind, EntryKind::Regular(Content::Sparse { extents, .. }) if extents.len() >= 6000)
        );
        assert!(content(&entries[0]) == std::fs::read(path).unwrap(), "{format}");
    }
}

#[test]
fn attributes_times_devices_and_labels() {
    let capability = [1, 0, 0, 2, 0x0a, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = Raw::new(b'V', b"label", 0).bytes(b"");
    bytes.extend(pax(&[
        ("mtime", b"-1000.5"),
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.eq=uals", b"a=b"),
        ("path", "näme".as_bytes()),
    ]));
    bytes.extend(file(b"ignored", b"x"));
    let mut device = Raw::new(b'3', b"dev/null", 0);
    device.0.set_device_major(1).unwrap();
    device.0.set_device_minor(3).unwrap();
    bytes.extend(device.bytes(b""));
    bytes.extend(pax(&[("mtime", b"99999999999999")]));
    bytes.extend(Raw::new(b'4', b"dev/sda", 0).bytes(b""));
    bytes.extend(Raw::new(0, b"old/", 0).bytes(b""));
    // A hard link that states its file's size holds no data for Go, and so not for us.
    bytes.extend(Raw::new(b'1', b"hard", 4000).target(b"./x").bytes(b""));
    bytes.extend(file(b"last", b"y"));
    let entries = read(&bytes).unwrap();
    assert_eq!(paths(&entries), ["näme", "dev/null", "dev/sda", "old/", "hard", "last"]);
    let meta = &entries[0].meta;
    assert_eq!(meta.mtime, -1001);
    assert_eq!(&*meta.xattrs[b"security.capability".as_slice()], capability);
    // The first equals sign ends the key, as in every reader.
    assert_eq!(&*meta.xattrs[b"user.eq".as_slice()], b"uals=a=b");
    assert_eq!(kind(&entries[1]), "char 1:3");
    assert_eq!(kind(&entries[2]), "block 0:0");
    assert_eq!(entries[2].meta.mtime, i64::from(u32::MAX));
    assert_eq!(kind(&entries[3]), "directory");
    assert_eq!(kind(&entries[4]), "= ./x");
    assert_eq!(content(&entries[5]), b"y");
}

#[test]
fn whiteout_names() {
    let names: [(&[u8], &str); 9] = [
        (b"a/.wh.b", "a/b whiteout"),
        (b".wh.top", "top whiteout"),
        (b"./.wh.dir/", "./dir whiteout"),
        (b"a/.wh..wh..opq", "a/ opaque"),
        (b".wh..wh..opq", " opaque"),
        (b".wh..wh.aufs", "-"),
        (b".wh..wh.plnk/1.2", "-"),
        (b"a/.wh..wh.orph/", "-"),
        (b"a/.whatever", "a/.whatever file"),
    ];
    for (name, expected) in names {
        let entries = read(&file(name, b"")).unwrap();
        let seen =
            entries.first().map_or("-".to_owned(), |e| format!("{} {}", String::from_utf8_lossy(&e.path), kind(e)));
        assert_eq!(seen, expected, "{}", String::from_utf8_lossy(name));
    }
    for name in [".wh.", "a/.wh..", "a/.wh..."] {
        let error = read(&file(name.as_bytes(), b"")).unwrap_err().to_string();
        assert_eq!(error, format!("a.tar: {name}: a whiteout without a name (header at byte 0)"));
    }
}

#[test]
fn ends_of_archives() {
    let one = file(b"one", b"1");
    for end in [vec![], vec![0; 512], vec![0; 1024], vec![0; 10240], [&[0; 1024][..], b"garbage"].concat()] {
        assert_eq!(paths(&read(&[one.clone(), end].concat()).unwrap()), ["one"]);
    }
    assert!(read(b"").unwrap().is_empty());
    // A lone block of zeros between entries is passed over, as GNU tar does.
    let stray = [one.clone(), vec![0; 512], file(b"two", b"2"), vec![0; 1024]].concat();
    assert_eq!(paths(&read(&stray).unwrap()), ["one", "two"]);
}

#[test]
fn archives_cut_short_name_entry_and_place() {
    let whole = [file(b"one", b"1"), file(b"two", &[b'2'; 3000])].concat();
    for (cut, message) in [
        (1024 + 100, "the header after one should reach to byte 1536, but the archive ends at byte 1124"),
        (1024 + 512 + 2999, "two should reach to byte 4536, but the archive ends at byte 4535"),
        (513 - 1, "one should reach to byte 513, but the archive ends at byte 512"),
    ] {
        let error = read(&whole[..cut]).unwrap_err().to_string();
        assert_eq!(error, format!("a.tar: cut short: {message}; fetch it again"));
    }
    let header = pax(&[("path", b"x")]);
    assert!(matches!(read(&header[..700]), Err(TarError::Truncated { end: 1024, found: 700, .. })));
    assert!(matches!(read(&header), Err(TarError::Truncated { .. })), "an extended header must belong to something");
}

#[test]
fn hostile_archives_are_refused() {
    let overflow = |kind: u8, first: [u8; 4]| {
        let mut raw = Raw::new(kind, b"big", 0);
        raw.0.as_old_mut().size[..4].copy_from_slice(&first);
        raw.bytes(b"")
    };
    let with = |records: &[(&str, &[u8])]| [pax(records), file(b"f", b"data")].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (file(b"../x", b""), "the path ../x must stay inside the root, without any \"..\""),
        (file(b"a/../../x", b""), "must stay inside the root"),
        (file(b"/..", b""), "must stay inside the root"),
        (Raw::new(b'1', b"h", 0).target(b"../../etc/shadow").bytes(b""), "../../etc/shadow must stay inside the root"),
        (Raw::new(b'1', b"h", 0).bytes(b""), "a link without a target"),
        (Raw::new(b'2', b"s", 0).bytes(b""), "a link without a target"),
        (Raw::new(b'X', b"sun", 0).bytes(b""), "unknown kind of entry 'X'"),
        (with(&[("path", b"a\0b")]), "a NUL byte in a path"),
        (with(&[("size", b"99999999999999999999")]), "the PAX record size has the unreadable value"),
        (with(&[("size", b"-1")]), "the PAX record size has the unreadable value"),
        (with(&[("size", b"18446744073709551615")]), "is more than the 17592186044416 a file can have"),
        (with(&[("uid", b"-2")]), "the PAX record uid has the unreadable value"),
        (with(&[("uid", b"4294967296")]), "uid 4294967296 is more than 32 bits can hold"),
        (overflow(b'0', [0x80, 0, 0, 1]), "its size is more than 64 bits can hold"),
        (overflow(b'0', [0xff, 0xff, 0xff, 0xff]), "its size is more than 64 bits can hold"),
        (
            with(&[("GNU.sparse.map", b"0,4,2,4"), ("GNU.sparse.size", b"10")]),
            "its sparse map is broken at byte 2 of the file",
        ),
        (with(&[("GNU.sparse.map", b"0,5"), ("GNU.sparse.size", b"10")]), "its sparse map is broken at byte 0"),
        (with(&[("GNU.sparse.map", b"8,4"), ("GNU.sparse.size", b"10")]), "its sparse map is broken at byte 8"),
        (
            with(&[("GNU.sparse.map", b"18446744073709551615,4"), ("GNU.sparse.size", b"10")]),
            "its sparse map is broken at byte 18446744073709551615",
        ),
        (
            with(&[("GNU.sparse.map", b"0,4"), ("GNU.sparse.size", b"9223372036854775807")]),
            "its size, 9223372036854775807 bytes, is more than",
        ),
        ([Raw::new(b'g', b"g", 10).bytes(b"10 path=x\n"), file(b"f", b"")].concat(), "it sets path for all entries"),
    ];
    for (bytes, expected) in cases {
        let error = read(&bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}\n  should say: {expected}");
    }
    // Sizes whose sum overflows, and headers without end.
    let base_256 = |kind: u8, size: u64| {
        let mut raw = Raw::new(kind, b"n", 0);
        raw.0.as_old_mut().size = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        raw.0.as_old_mut().size[4..].copy_from_slice(&size.to_be_bytes());
        raw.bytes(b"")
    };
    for size in [u64::MAX, u64::MAX - 600, u64::MAX - 1200, 5 << 20] {
        for kind in [b'L', b'K', b'x', b'g'] {
            let error = read(&[pax(&[("path", &[b'p'; 600])]), base_256(kind, size)].concat()).unwrap_err();
            assert!(matches!(error, TarError::Header { offset: 0, .. }), "{error}");
        }
    }
    let mut endless = Raw::new(b'S', b"s", 0);
    endless.0.as_gnu_mut().unwrap().isextended = [1];
    let mut block = [0; 512];
    block[504] = 1;
    let error = read(&[endless.bytes(b""), block.repeat(140_000)].concat()).unwrap_err();
    assert!(matches!(error, TarError::Header { .. }), "{error}");
    let mut flipped = file(b"f", b"");
    flipped[0] = b'g';
    let error = read(&[file(b"one", b"1"), flipped].concat()).unwrap_err();
    assert_eq!(error.to_string(), "a.tar: broken tar header at byte 1024, after one");
    assert!(read(&[b'x'; 4096]).is_err());
    let git = [Raw::new(b'g', b"g", 13).bytes(b"13 comment=a\n"), file(b"f", b"1")].concat();
    assert_eq!(paths(&read(&git).unwrap()), ["f"], "git archive's comment is passed over");
}

#[test]
fn the_window_moves_over_big_contents() {
    let mut bytes = Vec::new();
    for i in 0..300_usize {
        bytes.extend(file(format!("f{i}").as_bytes(), &vec![i as u8; i * 977]));
    }
    let entries = read(&bytes).unwrap();
    assert_eq!(entries.len(), 300);
    for (i, entry) in entries.iter().enumerate() {
        assert!(content(entry) == vec![i as u8; i * 977], "f{i}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read(&bytes);
    }

    /// Whole archives with bytes changed and the checksums put right again reach deeper than noise does.
    #[test]
    fn changed_archives_never_panic(
        changes in prop::collection::vec((0_usize..6144, any::<u8>()), 1..8),
        cut in 0_usize..6144,
    ) {
        let mut bytes = pax(&[("path", b"p"), ("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9000"), ("size", b"1028"), ("SCHILY.xattr.user.a", b"\n\n")]);
        bytes.extend(file(b"f", &[b"2\n0\n2\n8000\n2\n".as_slice(), &[0; 499], b"data", &[0; 512]].concat()));
        let mut old = Raw::new(b'S', b"s", 4);
        old.0.as_gnu_mut().unwrap().set_real_size(10);
        bytes.extend(old.bytes(b"data"));
        bytes.extend(Raw::new(b'1', b"h", 0).target(b"f").bytes(b""));
        for (at, byte) in changes {
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
        }
        bytes.truncate(cut.max(512));
        for block in bytes.chunks_exact_mut(512) {
            if &block[257..262] == b"ustar" {
                let sum: u32 = block.iter().enumerate()
                    .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if let Ok(entries) = read(&bytes) {
            for entry in entries {
                if let EntryKind::Regular(content) = &entry.kind && content.len() < 1 << 20 {
                    let mut buffer = vec![0; content.len() as usize];
                    content.read_exact_at(&mut buffer, 0).unwrap();
                }
            }
        }
    }
}
