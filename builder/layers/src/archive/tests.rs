use std::io::Write;
use std::process::Command;

use imgbuild_tree::{DumpOptions, Origin, Tree};

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    cache: Cache,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        Self { dir, cache }
    }
    /// Makes an archive of a small release with a shell script run in the test's folder.
    fn made(&self, script: &str) -> PathBuf {
        let all = format!(
            "set -e; umask 022; rm -rf rel; mkdir -p rel/bin; echo crictl > rel/bin/crictl; chmod 755 rel/bin/crictl; \
             echo doc > rel/README; ln -s bin/crictl rel/link; ln rel/README rel/hard; \
             find rel -exec touch -hd @1000000000 {{}} +; {script}"
        );
        let status = Command::new("sh").current_dir(&self.dir).args(["-c", &all]).status().unwrap();
        assert!(status.success(), "{script}");
        self.dir.path().join("out")
    }
    fn entries(&self, archive: &Path, to: &str, owners: Owners) -> Result<Vec<Entry<Content>>, ArchiveError> {
        let hash: String = imgbuild_tree::sha256(&Content::from(std::fs::read(archive).unwrap()))
            .unwrap()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        archive_entries(archive, &hash, to, owners, &self.cache)
    }
    fn dump(&self, archive: &Path, to: &str, owners: Owners) -> Vec<String> {
        let mut tree = Tree::new();
        tree.apply(Origin(0), self.entries(archive, to, owners).unwrap()).unwrap();
        let dump = tree.dump(DumpOptions { mtime: true, content: true, origin: false }).unwrap();
        dump.lines().skip(1).map(|l| l.split(" sha256").next().unwrap_or(l).to_owned()).collect()
    }
}

#[test]
fn tars_of_all_compressions_under_a_folder() {
    let bench = Bench::new();
    let tar = "tar -C rel --sort=name --owner=x:1001 --group=y:127 -c .";
    for script in [
        format!("{tar} > out"),
        format!("{tar} | gzip > out"),
        format!("{tar} | xz > out"),
        format!("{tar} | zstd -q > out"),
    ] {
        let archive = bench.made(&script);
        assert_eq!(ArchiveKind::detect(&archive).unwrap(), ArchiveKind::Tar);
        let expected = |owner: &str| {
            [
                "/opt d 0755 0:0 - 0".to_owned(),
                // The archive's own root folder: made, since it was not there, with what the archive says.
                format!("/opt/x d 0755 {owner} - 1000000000"),
                format!("/opt/x/README f 0644 {owner} 4 1000000000 link=1"),
                format!("/opt/x/bin d 0755 {owner} - 1000000000"),
                format!("/opt/x/bin/crictl f 0755 {owner} 7 1000000000"),
                format!("/opt/x/hard f 0644 {owner} 4 1000000000 link=1"),
                format!("/opt/x/link l 0777 {owner} - 1000000000 -> bin/crictl"),
            ]
        };
        assert_eq!(bench.dump(&archive, "/opt/x", Owners::Archive), expected("1001:127"), "{script}");
        assert_eq!(bench.dump(&archive, "/opt/x/", Owners::Root), expected("0:0"), "{script}");
    }
}

#[test]
fn the_archives_root_leaves_the_folder_alone() {
    let bench = Bench::new();
    let archive = bench.made("chmod 700 rel; tar -C rel -cf out .");
    let mut tree = Tree::new();
    let usr =
        Entry { path: b"usr/bin".as_slice().into(), meta: Metadata::root_owned(0o711), kind: EntryKind::Directory };
    tree.apply(Origin(0), vec![usr]).unwrap();
    tree.apply(Origin(1), bench.entries(&archive, "/usr/bin", Owners::Root).unwrap()).unwrap();
    assert_eq!(tree.node(tree.resolve("usr/bin").unwrap()).meta.mode, 0o711);
    assert!(tree.resolve("usr/bin/bin/crictl").is_ok());
}

/// A zip archive of these members: name, Unix mode with type bits (none: as DOS makes it), content.
fn zipped(members: &[(&str, Option<u32>, &[u8])]) -> Vec<u8> {
    let mut zip = ::zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, mode, data) in members {
        let options = ::zip::write::SimpleFileOptions::default()
            .compression_method(::zip::CompressionMethod::Deflated)
            .last_modified_time(::zip::DateTime::default());
        zip.start_file(*name, options.unix_permissions(mode.unwrap_or(0) & 0o777)).unwrap();
        zip.write_all(data).unwrap();
    }
    let mut bytes = zip.finish().unwrap().into_inner();
    // The writer would correct modes; the central directory is the reader's word.
    let headers: Vec<usize> =
        bytes.windows(4).enumerate().filter(|(_, w)| *w == b"PK\x01\x02").map(|(i, _)| i).collect();
    assert_eq!(headers.len(), members.len());
    for (at, (_, mode, _)) in headers.into_iter().zip(members) {
        bytes[at + 5] = if mode.is_some() { 3 } else { 0 };
        let attributes = mode.map_or(0, |mode| mode << 16);
        bytes[at + 38..at + 42].copy_from_slice(&attributes.to_le_bytes());
    }
    bytes
}

#[test]
fn zips_with_modes_and_links() {
    let bench = Bench::new();
    let archive = bench.dir.path().join("out");
    let long_name = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let members: [(&str, Option<u32>, &[u8]); 5] = [
        ("bin/", Some(0o40_750), b""),
        ("bin/crictl", Some(0o100_755), &b"crictl\n".repeat(1000)),
        ("l", Some(0o120_777), b"bin/crictl"),
        ("dos.txt", None, b"x"),
        (&long_name, Some(0o100_600), b"long"),
    ];
    std::fs::write(&archive, zipped(&members)).unwrap();
    assert_eq!(ArchiveKind::detect(&archive).unwrap(), ArchiveKind::Zip);
    let long = format!("/usr/{}", "d".repeat(150));
    let expected = [
        "/usr d 0755 0:0 - 0".to_owned(),
        "/usr/bin d 0750 0:0 - 0".to_owned(),
        "/usr/bin/crictl f 0755 0:0 7000 0".to_owned(),
        format!("{long} d 0755 0:0 - 0"),
        format!("{long}/{} f 0600 0:0 4 0", "f".repeat(150)),
        "/usr/dos.txt f 0644 0:0 1 0".to_owned(),
        "/usr/l l 0777 0:0 - 0 -> bin/crictl".to_owned(),
    ];
    assert_eq!(bench.dump(&archive, "/usr", Owners::Root), expected);
}

#[test]
fn hostile_and_broken_archives() {
    let bench = Bench::new();
    let zip = |name: &str, mode: u32, cut: usize| {
        let mut bytes = zipped(&[(name, Some(mode), &b"content".repeat(500))]);
        bytes.truncate(bytes.len() - cut);
        let hex: String = bytes.iter().map(|b| format!("\\{b:03o}")).collect();
        format!("printf '{hex}' > out")
    };
    let cases = [
        (zip("../x", 0o100_644, 0), "../x: the path must stay inside the root"),
        (zip("a/../../x", 0o100_644, 0), "a/../../x: the path must stay inside the root"),
        (zip("a\\b", 0o100_644, 0), "a backslash in a path"),
        (zip("p", 0o10_644, 0), "p: neither a file nor a folder nor a symbolic link"),
        (zip("f", 0o100_644, 30), "zip archive"),
        ("tar -C rel -cz . | head -c 100 > out".to_owned(), "cannot be unpacked"),
        ("tar -C rel -c --zstd . | head -c 100 > out".to_owned(), "cannot be unpacked"),
        ("tar -C rel -c . | head -c 700 > out".to_owned(), "cut short"),
        ("echo hello | gzip > out".to_owned(), "neither a tar nor a zip archive"),
        (": > out".to_owned(), "neither a tar nor a zip archive"),
        ("printf 'BZh91AY&SY' > out".to_owned(), "cannot be unpacked"),
        ("tar -C rel -cPf out --transform='s,^./README,../../README,' .".to_owned(), "must stay inside the root"),
    ];
    for (script, message) in cases {
        let archive = bench.made(&script);
        let error = bench.entries(&archive, "/", Owners::Root).expect_err(message).to_string();
        assert!(error.contains(message) && error.contains(&*archive.to_string_lossy()), "{script}: {error}");
    }
    assert!(bench.cache.entries().unwrap().is_empty(), "nothing of a broken archive stays in the cache");
}

#[test]
fn a_damaged_tar_in_the_cache_is_made_anew() {
    let bench = Bench::new();
    let archive = bench.made("tar -C rel --sort=name -c . | gzip > out");
    let expected = bench.dump(&archive, "/opt", Owners::Root);
    let tar = || {
        let keys = bench.cache.bucket(TARS).keys().unwrap();
        assert_eq!(keys.len(), 1, "{keys:?}");
        bench.cache.bucket(TARS).path(&keys[0]).unwrap()
    };
    let change = |how: &dyn Fn(&mut Vec<u8>)| {
        let (path, mut bytes) = (tar(), std::fs::read(tar()).unwrap());
        how(&mut bytes);
        // Entries are read-only.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    };
    let archives = bench.cache.bucket(BUCKET);
    // Cut between two members it is still a tar; and the pointer to it need not be there.
    for pointer in [true, false] {
        change(&|bytes| bytes.truncate(3 * 512));
        if !pointer {
            archives.keys().unwrap().iter().for_each(|key| archives.remove(key).unwrap());
        }
        assert_eq!(bench.dump(&archive, "/opt", Owners::Root), expected);
    }
    // What keeps its length is found by the digest.
    change(&|bytes| bytes[700] ^= 1);
    assert_eq!(bench.cache.verify(&imgbuild_progress::Silent).unwrap().len(), 1);
    assert_eq!(bench.dump(&archive, "/opt", Owners::Root), expected);
    tar();
}

#[test]
fn plain_files_are_no_archives() {
    let bench = Bench::new();
    for script in
        ["cp /bin/true out", "echo hello | gzip > out", ": > out", "echo short > out", "head -c 2000 /dev/zero > out"]
    {
        assert_eq!(ArchiveKind::detect(&bench.made(script)).unwrap(), ArchiveKind::Plain, "{script}");
    }
}

#[test]
fn single_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tool");
    File::create(&path).unwrap().write_all(b"tool").unwrap();
    for (to, expected) in [("/usr/bin/x", "/usr/bin/x"), ("/usr/bin/", "/usr/bin/tool")] {
        let entry = file_entry(&path, to, 0o4755, 9).unwrap();
        assert_eq!((&*entry.path, entry.meta.mode, entry.meta.mtime), (expected.as_bytes(), 0o4755, 9));
        assert!(matches!(&entry.kind, EntryKind::Regular(content) if imgbuild_tree::FileContent::len(content) == 4));
    }
    assert!(matches!(file_entry(dir.path(), "/x", 0, 0), Err(ArchiveError::NotAFile { .. })));
    assert!(matches!(file_entry(&dir.path().join("none"), "/x", 0, 0), Err(ArchiveError::Io { .. })));
}

#[test]
fn what_is_not_what_was_hashed_is_not_kept_under_that_hash() {
    let bench = Bench::new();
    for pack in ["tar -C rel -cz . > out", "rm -f out.zip; cd rel; zip -qr ../out.zip .; mv ../out.zip ../out"] {
        let archive = bench.made(pack);
        let before = "0".repeat(64);
        let error = archive_entries(&archive, &before, "/", Owners::Root, &bench.cache).unwrap_err();
        assert!(error.to_string().ends_with("was changed while it was unpacked; build again"), "{error}");
        assert!(bench.cache.bucket(BUCKET).get(&before).unwrap().is_none());
        bench.entries(&archive, "/", Owners::Root).unwrap();
    }
}
