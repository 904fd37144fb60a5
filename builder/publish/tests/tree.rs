//! Publications into real folders.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use imgbuild_bundle::{
    bootfiles, hash,
    manifest::{self, Kernel, Manifest, Ram},
    sums,
};
use imgbuild_progress::{Event, Progress, Silent};
use imgbuild_publish::{Catalog, Error, Stored, catalog, channel, publish, roll_forward, rollback};

/// Writes a whole bundle whose root holds `content`.
fn bundle(parent: &Path, version: &str, content: &str, kernel: bool) -> PathBuf {
    let dir = parent.join(format!("worker-{version}-{content}"));
    fs_err::create_dir_all(&dir).unwrap();
    let mut manifest = Manifest {
        schema: manifest::SCHEMA,
        name: "worker".into(),
        version: version.into(),
        arch: "amd64".into(),
        build_time: 1_700_000_000,
        kernel: kernel.then(|| Kernel {
            release: "6.1.0-1-amd64".into(),
            cmdline: vec!["console=ttyS0".into()],
            modules: vec![],
            firmware: vec![],
        }),
        files: BTreeMap::new(),
        layers: vec![],
        delivery: "fetch".into(),
        ram: Ram::default(),
        tests: vec![],
        tool_version: "0.1.0".into(),
    };
    let add = |manifest: &mut Manifest, name: &str, text: &str| {
        fs_err::write(dir.join(name), text).unwrap();
        manifest.files.insert(name.to_owned(), hash(&dir.join(name)).unwrap());
    };
    add(&mut manifest, "root.squashfs", content);
    if kernel {
        add(&mut manifest, "vmlinuz", "kernel");
        add(&mut manifest, "initrd.img", "initrd");
    }
    for (name, text) in bootfiles::all(&manifest).unwrap() {
        add(&mut manifest, name, &text);
    }
    fs_err::write(dir.join(manifest::FILE_NAME), serde_json::to_string_pretty(&manifest).unwrap()).unwrap();
    let mut listed: BTreeMap<_, _> =
        manifest.files.iter().map(|(name, entry)| (name.clone(), entry.sha256.clone())).collect();
    listed.insert(manifest::FILE_NAME.to_owned(), hash(&dir.join(manifest::FILE_NAME)).unwrap().sha256);
    fs_err::write(dir.join(sums::FILE_NAME), sums::write(&listed)).unwrap();
    dir
}

/// Every file of a tree with its contents.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                drop(files.insert(path.clone(), fs_err::read(&path).unwrap()))
            }
        }
    }
    files
}

fn pointed(root: &Path) -> String {
    let text = fs_err::read_to_string(root.join("channels/worker/stable.ipxe")).unwrap();
    text.lines().last().unwrap().to_owned()
}

#[test]
fn a_bundle_is_published_whole_and_the_pointer_leads_to_it() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("srv/boot");
    let source = bundle(temp.path(), "1.4.2", "root", true);
    let published = publish(&source, &root, Some("stable"), &Silent).unwrap();
    assert_eq!((published.stored, published.path.as_path()), (Stored::New, root.join("images/worker/1.4.2").as_path()));
    for entry in fs_err::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        let copy = published.path.join(entry.file_name());
        assert_eq!(fs_err::read(entry.path()).unwrap(), fs_err::read(&copy).unwrap());
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    }
    for folder in ["images", "images/worker", "images/worker/1.4.2", "channels/worker", "nodes"] {
        assert_eq!(root.join(folder).metadata().unwrap().permissions().mode() & 0o777, 0o755, "{folder}");
    }
    // Every script's next step is a file that is there.
    assert_eq!(pointed(&root), "chain --autofree ../../images/worker/1.4.2/boot.ipxe");
    assert!(root.join("channels/worker/../../images/worker/1.4.2/boot.ipxe").is_file());
    let default = fs_err::read_to_string(root.join("nodes/default.ipxe")).unwrap();
    assert!(default.ends_with("\nchain --autofree ../channels/worker/stable.ipxe\n"));
    assert!(
        fs_err::read_to_string(root.join("boot.ipxe")).unwrap().contains("imgfetch --name node nodes/default.ipxe")
    );
    let written: Catalog = serde_json::from_slice(&fs_err::read(root.join("catalog.json")).unwrap()).unwrap();
    assert_eq!(written, catalog(&root).unwrap());
    assert_eq!((written.images.len(), written.channels.len(), written.problems.len()), (1, 1, 0));
    assert_eq!(written.images[0].id.manifest_sha256, hash(&source.join("manifest.json")).unwrap().sha256);
}

#[test]
fn the_same_bytes_again_change_nothing_and_other_bytes_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    let source = bundle(temp.path(), "1", "one", true);
    publish(&source, &root, Some("stable"), &Silent).unwrap();
    let before = snapshot(&root);
    let again = publish(&source, &root, Some("stable"), &Silent).unwrap();
    assert_eq!((again.stored, again.moved), (Stored::Unchanged, None));
    assert_eq!(snapshot(&root), before);

    let other = bundle(temp.path(), "1", "two", true);
    let error = publish(&other, &root, Some("beta"), &Silent).unwrap_err();
    let Error::Immutable { file, published, offered, .. } = &error else { panic!("{error}") };
    // boot.ipxe names the root's hash, so it differs as well and comes first.
    assert_eq!(file, "boot.ipxe");
    let sum = |dir: &Path| format!("sha256:{}", hash(&dir.join("boot.ipxe")).unwrap().sha256);
    assert_eq!((published, offered), (&sum(&source), &sum(&other)));
    assert_eq!(snapshot(&root), before);
}

#[test]
fn a_damaged_bundle_or_a_bad_name_leaves_the_tree_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    publish(&bundle(temp.path(), "1", "one", true), &root, Some("stable"), &Silent).unwrap();
    let before = snapshot(&root);
    let damaged = bundle(temp.path(), "2", "two", true);
    fs_err::write(damaged.join("root.squashfs"), "owt").unwrap();
    assert!(matches!(publish(&damaged, &root, Some("stable"), &Silent), Err(Error::Bundle(_))));
    let bad = bundle(temp.path(), "3 4", "x", true);
    assert!(matches!(publish(&bad, &root, None, &Silent), Err(Error::Name { what: "version", .. })));
    let good = bundle(temp.path(), "3", "x", true);
    for channel in ["../x", "", "a b", "${x}", ".hidden"] {
        assert!(matches!(publish(&good, &root, Some(channel), &Silent), Err(Error::Name { what: "channel", .. })));
    }
    let rootless = bundle(temp.path(), "4", "data", false);
    assert!(matches!(publish(&rootless, &root, Some("stable"), &Silent), Err(Error::NothingToBoot { .. })));
    assert_eq!(snapshot(&root), before);
    assert_eq!(publish(&rootless, &root, None, &Silent).unwrap().moved, None);
}

#[test]
fn a_damaged_published_version_is_not_taken_for_a_good_one() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    let source = bundle(temp.path(), "1", "one", true);
    let next = bundle(temp.path(), "2", "two", true);
    publish(&source, &root, Some("stable"), &Silent).unwrap();
    publish(&next, &root, Some("stable"), &Silent).unwrap();
    fs_err::write(root.join("images/worker/1/root.squashfs"), "eno").unwrap();
    let error = publish(&source, &root, None, &Silent).unwrap_err().to_string();
    assert!(error.contains("images/worker/1/root.squashfs") && error.contains("damaged"), "{error}");
    assert!(rollback(&root, "worker", "stable", &Silent).unwrap_err().to_string().contains("root.squashfs"));
    assert_eq!(pointed(&root), "chain --autofree ../../images/worker/2/boot.ipxe");
}

#[test]
fn rolling_back_goes_back_step_by_step_and_forward_again() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    for version in ["1", "2", "3"] {
        publish(&bundle(temp.path(), version, version, true), &root, Some("stable"), &Silent).unwrap();
    }
    let back = |expected: &str| {
        let moved = rollback(&root, "worker", "stable", &Silent).unwrap();
        assert_eq!(moved.to.version, expected);
        assert_eq!(pointed(&root), format!("chain --autofree ../../images/worker/{expected}/boot.ipxe"));
    };
    back("2");
    back("1");
    assert!(
        matches!(rollback(&root, "worker", "stable", &Silent), Err(Error::NoPredecessor { version, .. }) if version == "1")
    );
    assert_eq!(roll_forward(&root, "worker", "stable", &Silent).unwrap().to.version, "2");
    assert_eq!(roll_forward(&root, "worker", "stable", &Silent).unwrap().to.version, "3");
    assert!(matches!(roll_forward(&root, "worker", "stable", &Silent), Err(Error::NoSuccessor { .. })));
    assert_eq!(catalog(&root).unwrap().channels[0].predecessor.as_ref().unwrap().version, "2");
    let error = rollback(&root, "worker", "stabel", &Silent).unwrap_err().to_string();
    assert!(error.contains("it has stable"), "{error}");
}

#[test]
fn rolling_back_to_a_version_that_is_gone_or_exchanged_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    for version in ["1", "2"] {
        publish(&bundle(temp.path(), version, version, true), &root, Some("stable"), &Silent).unwrap();
    }
    let before = channel(&root, "worker", "stable").unwrap();
    let place = root.join("images/worker/1");
    fs_err::rename(&place, temp.path().join("away")).unwrap();
    assert!(rollback(&root, "worker", "stable", &Silent).unwrap_err().to_string().contains("images/worker/1"));
    // Somebody put another version 1 there by hand: whole, but not what the channel once served.
    let other = bundle(temp.path(), "1", "other", true);
    fs_err::rename(other, &place).unwrap();
    assert!(matches!(rollback(&root, "worker", "stable", &Silent), Err(Error::Changed { .. })));
    assert_eq!(channel(&root, "worker", "stable").unwrap(), before);
}

#[test]
fn what_the_operator_wrote_stays() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    fs_err::create_dir_all(root.join("nodes")).unwrap();
    fs_err::create_dir_all(root.join("images/worker/stray")).unwrap();
    fs_err::write(root.join("nodes/default.ipxe"), "#!ipxe\nexit\n").unwrap();
    fs_err::write(root.join("boot.ipxe"), "#!ipxe\nchain elsewhere\n").unwrap();
    publish(&bundle(temp.path(), "1", "one", true), &root, Some("stable"), &Silent).unwrap();
    assert_eq!(fs_err::read_to_string(root.join("nodes/default.ipxe")).unwrap(), "#!ipxe\nexit\n");
    assert_eq!(fs_err::read_to_string(root.join("boot.ipxe")).unwrap(), "#!ipxe\nchain elsewhere\n");
    let catalog = catalog(&root).unwrap();
    assert_eq!((catalog.images.len(), catalog.problems.len()), (1, 1));
    // Our own entry point of an earlier imgbuild is replaced, an edited pointer is not.
    fs_err::write(root.join("boot.ipxe"), "#!ipxe\n# imgbuild entry 1\nold\n").unwrap();
    let pointer = root.join("channels/worker/stable.ipxe");
    fs_err::write(&pointer, "#!ipxe\nchain mine\n").unwrap();
    let next = bundle(temp.path(), "2", "two", true);
    assert!(matches!(publish(&next, &root, Some("stable"), &Silent), Err(Error::Pointer { line: 1, .. })));
    assert!(fs_err::read_to_string(root.join("boot.ipxe")).unwrap().contains("imgfetch"));
    assert_eq!(fs_err::read_to_string(&pointer).unwrap(), "#!ipxe\nchain mine\n");
}

/// What is reported as a warning.
#[derive(Default)]
struct Warnings(std::sync::Mutex<Vec<String>>);

impl Progress for Warnings {
    fn event(&self, event: Event) {
        if let Event::Warning { message } = event {
            self.0.lock().unwrap().push(message);
        }
    }
}

#[test]
fn a_catalog_that_cannot_be_written_is_a_warning_since_the_pointer_has_moved() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    publish(&bundle(temp.path(), "1", "one", true), &root, Some("stable"), &Silent).unwrap();
    fs_err::remove_file(root.join("catalog.json")).unwrap();
    // Not even root can rename a file over a folder.
    fs_err::create_dir_all(root.join("catalog.json/in-the-way")).unwrap();
    let warnings = Warnings::default();
    let next = bundle(temp.path(), "2", "two", true);
    assert_eq!(publish(&next, &root, Some("stable"), &warnings).unwrap().moved.unwrap().to.version, "2");
    assert_eq!(pointed(&root), "chain --autofree ../../images/worker/2/boot.ipxe");
    assert_eq!(rollback(&root, "worker", "stable", &warnings).unwrap().to.version, "1");
    assert_eq!(pointed(&root), "chain --autofree ../../images/worker/1/boot.ipxe");
    let said = warnings.0.lock().unwrap();
    assert_eq!(said.len(), 2);
    assert!(
        said.iter().all(|text| text.contains("boot/catalog.json: ") && text.contains("not up to date")),
        "{said:?}"
    );
    assert!(snapshot(&root).keys().all(|path| !path.to_string_lossy().contains("unfinished")));
}

#[test]
fn sizes_beyond_all_measure_do_not_stop_the_catalog() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    publish(&bundle(temp.path(), "1", "one", true), &root, Some("stable"), &Silent).unwrap();
    let path = root.join("images/worker/1/manifest.json");
    let mut manifest: Manifest = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    manifest.files.values_mut().for_each(|file| file.size = u64::MAX);
    fs_err::write(&path, serde_json::to_string(&manifest).unwrap()).unwrap();
    assert_eq!(catalog(&root).unwrap().images[0].size, u64::MAX);
}

#[test]
fn what_a_killed_publisher_left_is_removed() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    let source = bundle(temp.path(), "1", "one", true);
    let left = root.join("images/worker/.unfinished-abc");
    fs_err::create_dir_all(&left).unwrap();
    fs_err::write(left.join("root.squashfs"), "o").unwrap();
    fs_err::write(root.join(".unfinished-def"), "{").unwrap();
    publish(&source, &root, Some("stable"), &Silent).unwrap();
    assert!(snapshot(&root).keys().all(|path| !path.to_string_lossy().contains("unfinished")));
}

#[test]
fn many_publishers_at_once_leave_one_history_with_everything_in_it() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    let sources: Vec<_> = (1..=8).map(|n| bundle(temp.path(), &n.to_string(), &n.to_string(), true)).collect();
    std::thread::scope(|scope| {
        for source in sources.iter().chain(&sources) {
            let root = &root;
            scope.spawn(move || publish(source, root, Some("stable"), &Silent).unwrap());
        }
    });
    let pointer = channel(&root, "worker", "stable").unwrap();
    let mut seen: Vec<_> = pointer.before.iter().map(|id| id.version.clone()).collect();
    seen.push(pointer.current.version);
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(catalog(&root).unwrap().images.len(), 8);
}

/// A reader that never stops looking sees a pointer that is whole, and whose version is there.
#[test]
fn a_machine_that_boots_meanwhile_never_sees_half_a_publication() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("boot");
    publish(&bundle(temp.path(), "0", "0", true), &root, Some("stable"), &Silent).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0_u64;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let line = pointed(&root);
                let target = line.strip_prefix("chain --autofree ../../").unwrap().to_owned();
                let boot = fs_err::read_to_string(root.join(&target)).unwrap();
                assert!(boot.ends_with("exit 1\n"));
                assert!(root.join(target).with_file_name("root.squashfs").is_file());
                looks += 1;
            }
            looks
        });
        for n in 1..20 {
            publish(&bundle(temp.path(), &n.to_string(), "x", true), &root, Some("stable"), &Silent).unwrap();
            if n % 3 == 0 {
                rollback(&root, "worker", "stable", &Silent).unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(looks > 10, "only {looks} looks");
}
