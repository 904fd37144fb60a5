use std::fs::File;
use std::path::Path;

use imgbuild_initramfs::segment::{self, Compression};
use imgbuild_tree::{Content, FileContent, Kind, Metadata, Node, Origin, RootTree};
use netboot_init::config;

use super::*;
use crate::packages::Packages;
use crate::testing::{add, put};

fn roots(a: RootTree, b: RootTree) -> (Root<Content>, Root<Content>) {
    (Root::new(Path::new("a"), a, None).unwrap(), Root::new(Path::new("b"), b, None).unwrap())
}

fn compared(a: RootTree, b: RootTree) -> Files {
    let (a, b) = roots(a, b);
    files::compare(&a, &b).unwrap()
}

fn shown(files: &Files) -> Vec<String> {
    let each = files.list.iter().map(|f| {
        let what: Vec<_> = f.what.iter().map(|aspect| aspect.name()).collect();
        format!("{} {} {} {}", f.change.name(), f.path, f.growth, what.join("+")).trim_end().to_owned()
    });
    each.collect()
}

fn node(tree: &mut RootTree, path: &str, kind: Kind<Content>) {
    add(tree, path, Node { meta: Metadata::root_owned(0o777), kind });
}

#[test]
fn what_differs_is_named() {
    let (mut a, mut b) = (RootTree::new(), RootTree::new());
    for tree in [&mut a, &mut b] {
        for path in ["/same", "/content", "/mode", "/owner", "/xattrs", "/type", "/time"] {
            put(tree, path, b"content of one length");
        }
    }
    put(&mut b, "/content", b"another of one length");
    let id = |tree: &RootTree, path: &str| tree.resolve(path).unwrap();
    let (mode, owner, xattrs, time) = (id(&b, "/mode"), id(&b, "/owner"), id(&b, "/xattrs"), id(&b, "/time"));
    b.node_mut(mode).meta.mode = 0o4755;
    b.node_mut(owner).meta.gid = 7;
    b.node_mut(xattrs).meta.xattrs.insert((*b"security.capability").into(), (*b"\x01\x02").into());
    b.node_mut(time).meta.mtime = 1;
    node(&mut b, "/type", Kind::Symlink((*b"same").into()));
    node(&mut a, "/link", Kind::Symlink((*b"x").into()));
    node(&mut b, "/link", Kind::Symlink((*b"y").into()));
    node(&mut a, "/null", Kind::CharDevice { major: 1, minor: 3 });
    node(&mut b, "/null", Kind::CharDevice { major: 1, minor: 5 });
    let found = compared(a, b);
    let expected = [
        "changed /type -21 type+mode",
        "changed /mode 0 mode",
        "changed /owner 0 owner",
        "changed /xattrs 0 xattrs",
        "changed /content 0 content",
        "changed /link 0 target",
        "changed /null 0 device",
    ];
    assert_eq!(shown(&found), expected);
    assert_eq!((found.changed, found.time_only), (7, 1));
    let xattrs = &found.list[3].after.as_ref().unwrap().xattrs;
    assert_eq!(xattrs["security.capability"], "0102");
}

#[test]
fn the_largest_difference_comes_first_whatever_its_sign() {
    let (mut a, mut b) = (RootTree::new(), RootTree::new());
    put(&mut a, "/gone/file", &[1; 500]);
    put(&mut a, "/grown", &[1; 100]);
    put(&mut b, "/grown", &[1; 110]);
    put(&mut b, "/new", &[2; 300]);
    let expected = ["removed /gone/file -500", "added /new 300", "changed /grown 10 content", "removed /gone 0"];
    assert_eq!(shown(&compared(a, b)), expected);
}

#[test]
fn equal_content_under_another_name_is_renamed() {
    let (mut a, mut b) = (RootTree::new(), RootTree::new());
    for path in ["/old/one", "/old/two", "/old/three"] {
        put(&mut a, path, b"equal");
    }
    put(&mut a, "/old/other", b"other");
    put(&mut a, "/old/empty", b"");
    put(&mut b, "/new/two", b"equal");
    let moved = put(&mut b, "/new/other-name", b"other");
    b.node_mut(moved).meta.mode = 0o600;
    put(&mut b, "/new/empty", b"");
    let found = compared(a, b);
    let renamed: Vec<_> = found.list.iter().filter(|f| f.change == Change::Renamed).collect();
    let names: Vec<_> = renamed.iter().map(|f| (f.from.as_deref().unwrap(), f.path.as_str())).collect();
    assert_eq!(names, [("/old/other", "/new/other-name"), ("/old/two", "/new/two")]);
    assert_eq!(renamed[0].what, [Aspect::Mode]);
    // The two that are left of the three, the empty file and the folder.
    assert_eq!((found.renamed, found.removed, found.added), (2, 4, 2));
}

#[test]
fn the_other_way_round_it_is_the_opposite() {
    let (mut a, mut b) = (RootTree::new(), RootTree::new());
    put(&mut a, "/x/only-a", b"aaa");
    put(&mut a, "/moved", b"mmmm");
    put(&mut a, "/both", b"1");
    put(&mut b, "/both", b"22");
    put(&mut b, "/y/moved", b"mmmm");
    let (there, back) = (compared(a.clone(), b.clone()), compared(b, a.clone()));
    assert_eq!((there.added, there.removed), (back.removed, back.added));
    assert_eq!((there.changed, there.renamed), (back.changed, back.renamed));
    let sum = |files: &Files| files.list.iter().map(|f| f.growth).sum::<i64>();
    assert_eq!(sum(&there), -sum(&back));
    assert_eq!(compared(a.clone(), a), Files::default());
}

/// A file that cannot be read.
#[derive(Debug)]
struct Unreadable(u64);

impl FileContent for Unreadable {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
        Err(std::io::Error::other("worn out"))
    }
}

fn unreadable() -> imgbuild_tree::Tree<Unreadable> {
    let mut tree = imgbuild_tree::Tree::new();
    let id = tree.add(Node { meta: Metadata::root_owned(0o644), kind: Kind::Regular(Unreadable(5)) });
    tree.link(imgbuild_tree::NodeId::ROOT, b"file", id);
    tree
}

fn sbom(tree: &RootTree) -> crate::sbom::Document {
    let mut bytes = Vec::new();
    write_sbom(tree, &mut bytes);
    serde_json::from_slice(&bytes).unwrap()
}

fn write_sbom(tree: &RootTree, out: impl std::io::Write) {
    let (layers, scanned) = (["base".to_owned()], crate::scan::scan(tree, None).unwrap());
    let subject = crate::sbom::Subject { name: "worker", version: "1", time: 0 };
    let files = crate::sbom::Files::new(&layers, tree, &scanned);
    crate::sbom::begin(&files, out).unwrap().finish(&subject, &Packages::default()).unwrap();
}

#[test]
fn what_the_sbom_knows_is_not_read() {
    let mut known = RootTree::new();
    let id = put(&mut known, "/file", b"hello");
    known.node_mut(id).meta.origin = Origin(0);
    let document = sbom(&known);
    let root = |document| Root::new(Path::new("worn"), unreadable(), document).unwrap();
    let whole = Root::new(Path::new("whole"), known.clone(), None).unwrap();
    assert_eq!(files::compare(&root(Some(&document)), &whole).unwrap(), Files::default());
    let error = files::compare(&root(None), &whole).unwrap_err().to_string();
    assert_eq!(error, "cannot read /file in the root of worn");
    // An SBOM that speaks of a file of another length is not believed.
    put(&mut known, "/file", b"hell");
    let error = files::compare(&root(Some(&sbom(&known))), &whole).unwrap_err().to_string();
    assert_eq!(error, "cannot read /file in the root of worn");
}

#[test]
fn contributions_are_summed_by_folder_and_package() {
    let (mut a, mut b) = (RootTree::new(), RootTree::new());
    for (tree, size) in [(&mut a, 100), (&mut b, 350)] {
        put(tree, "/usr/bin/tool", &vec![1; size]);
        put(tree, "/usr/bin/same", &[1; 10]);
        put(tree, "/var/lib/dpkg/info/tool.list", b"/usr/bin/tool\n");
    }
    put(&mut b, "/opt/x", &[2; 30]);
    let (a, b) = roots(a, b);
    let found = Contributions::of(&a, &b);
    let rows = |all: &[Contribution]| -> Vec<_> {
        all.iter().map(|c| (c.name.clone().unwrap_or_default(), c.before, c.after, c.growth)).collect()
    };
    assert_eq!(rows(&found.folders), [("/usr/bin".into(), 110, 360, 250), ("/opt".into(), 0, 30, 30)]);
    assert_eq!(rows(&found.packages), [("tool".into(), 100, 350, 250), (String::new(), 24, 54, 30)]);
    assert!(found.layers.is_empty());
}

fn squash(tree: &RootTree, path: &Path) {
    let out = File::create(path).unwrap();
    imgbuild_squashfs::write(tree, out, &imgbuild_squashfs::Options::default(), &|_| {}).unwrap();
}

/// A bundle of these, with hashes in its manifest and `SHA256SUMS` that are right.
fn bundle(dir: &Path, root: &RootTree, initrd: &[u8], change: impl FnOnce(&mut crate::manifest::Manifest)) -> Side {
    let mut manifest = crate::testing::bundle(dir);
    squash(root, &dir.join(crate::ROOT));
    std::fs::write(dir.join(crate::INITRD), initrd).unwrap();
    write_sbom(root, File::create(dir.join(crate::sbom::FILE_NAME)).unwrap());
    change(&mut manifest);
    for (name, entry) in &mut manifest.files {
        *entry = crate::hash(&dir.join(name)).unwrap();
    }
    let path = dir.join(crate::manifest::FILE_NAME);
    std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let mut sums: std::collections::BTreeMap<_, _> =
        manifest.files.into_iter().map(|(name, entry)| (name, entry.sha256)).collect();
    sums.insert(crate::manifest::FILE_NAME.to_owned(), crate::hash(&path).unwrap().sha256);
    std::fs::write(dir.join(crate::sums::FILE_NAME), crate::sums::write(&sums)).unwrap();
    Side::open(dir).unwrap()
}

/// An initrd with a hook, and a root if one is given.
fn initrd(script: &str, timeout: u64, embedded: Option<Vec<u8>>) -> Vec<u8> {
    let told = config::Config {
        schema: config::SCHEMA,
        name: "worker".into(),
        version: String::new(),
        build_time: 0,
        root: config::Root { size: 1, sha256: String::new(), embedded: embedded.is_some() },
        overlay_size: config::Size::Percent(25),
        tmpfs: vec![config::Tmpfs { path: "/var/lib/x".into(), size: config::Size::Bytes(timeout), mode: 0o755 }],
        hooks: vec![config::Hook {
            name: "network.sh".into(),
            stage: config::Stage::PreInit,
            timeout,
            on_failure: config::OnFailure::Continue,
        }],
        modules: Vec::new(),
        ram_budget: 0,
    };
    let mut layout = imgbuild_initramfs::Layout::new(0);
    layout.file(config::PATH, 0o644, serde_json::to_vec(&told).unwrap().into()).unwrap();
    layout.file("/netboot/hooks/pre-init/network.sh", 0o755, script.as_bytes().into()).unwrap();
    let mut bytes = segment::to_bytes(&layout.into_tree(), Compression::default()).unwrap();
    if let Some(root) = embedded {
        let mut layout = imgbuild_initramfs::Layout::new(0);
        layout.file(config::EMBEDDED_ROOT, 0o644, root.into()).unwrap();
        segment::write(&layout.into_tree(), Compression::None, &mut bytes).unwrap();
    }
    bytes
}

fn small() -> RootTree {
    let mut tree = RootTree::new();
    let id = put(&mut tree, "/usr/bin/tool", &[7; 5000]);
    tree.node_mut(id).meta.origin = Origin(0);
    tree
}

#[test]
fn a_bundle_equals_itself_and_its_copy() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [a, b] = [0, 1].map(|i| bundle(dirs[i].path(), &small(), &initrd("true", 9, None), |_| {}));
    let found = compare(&a, &b).unwrap();
    assert!(found.equal, "{found:?}");
    assert!(text(&found, Shown::Largest).ends_with("They are equal, byte for byte.\n"));
    // What is not looked into, and has its length still.
    std::fs::write(dirs[1].path().join(crate::KERNEL), "Kernel").unwrap();
    for (one, other) in [(&a, &b), (&b, &a)] {
        let DiffError::Bundle(crate::Error::Damaged { path, .. }) = compare(one, other).unwrap_err() else { panic!() };
        assert_eq!(path, dirs[1].path().join(crate::KERNEL));
    }
}

#[test]
fn manifest_hooks_and_settings() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let a = bundle(dirs[0].path(), &small(), &initrd("true", 9, None), |_| {});
    let mut root = small();
    put(&mut root, "/etc/\u{1b}[31mred", b"x");
    let b = bundle(dirs[1].path(), &root, &initrd("false", 8, None), |manifest| {
        let kernel = manifest.kernel.as_mut().unwrap();
        kernel.release = "6.1.0-2-amd64".into();
        kernel.cmdline.push("quiet".into());
        kernel.modules = vec!["igb".into()];
        manifest.layers[0].digest = "sha256:01".into();
        manifest.ram.budget = 1 << 30;
        manifest.tests.push(serde_json::json!({ "run": "true" }));
    });
    let found = compare(&a, &b).unwrap();
    assert!(!found.equal);
    let facts = &found.facts;
    let kernel = facts.kernel.as_ref().unwrap();
    assert_eq!(kernel.release.as_ref().unwrap().after.as_deref(), Some("6.1.0-2-amd64"));
    assert_eq!(kernel.modules, Words { added: vec!["igb".into()], removed: vec!["virtio_net".into()] });
    assert_eq!(facts.hooks[0].name, "pre-init/network.sh");
    assert_eq!(facts.hooks[0].what, ["script", "timeout"]);
    assert_eq!(facts.settings[0].name, "tmpfs /var/lib/x");
    assert_eq!(facts.layers[0].change, Change::Changed);
    assert_eq!(facts.tests.added.len(), 1);
    let initrd_files: Vec<_> = facts.initrd_files.iter().flat_map(|f| &f.list).map(|f| f.path.as_str()).collect();
    assert_eq!(initrd_files, ["/netboot/hooks/pre-init/network.sh"]);
    let text = text(&found, Shown::Largest);
    for part in
        ["6.1.0-1-amd64 -> 6.1.0-2-amd64", "+ modules in the initrd: igb", "pre-init/network.sh  (script, timeout)"]
    {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "a name steers the terminal:\n{text}");
    let json = serde_json::to_value(&found).unwrap();
    for key in ["schema", "equal", "sizes", "packages", "files", "artifacts", "kernel", "hooks", "initrd_files"] {
        assert!(!json[key].is_null(), "no {key} in {json}");
    }
}

#[test]
fn a_root_inside_the_initrd() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let a = bundle(dirs[0].path(), &small(), &initrd("true", 9, None), |_| {});
    let root = std::fs::read(dirs[0].path().join(crate::ROOT)).unwrap();
    let size = root.len() as u64;
    let embedded = initrd("true", 9, Some(root));
    bundle(dirs[1].path(), &small(), &embedded, |manifest| {
        manifest.files.remove(crate::ROOT);
        "embed".clone_into(&mut manifest.delivery);
    });
    std::fs::remove_file(dirs[1].path().join(crate::ROOT)).unwrap();
    let b = Side::open(dirs[1].path()).unwrap();
    let found = compare(&a, &b).unwrap();
    assert_eq!(found.files, Files::default());
    assert_eq!(found.sizes.root_compressed, Pair { before: size, after: size });
    assert_eq!(found.facts.delivery.as_ref().map(|pair| pair.after.as_str()), Some("embed"));
    assert_eq!(found.facts.initrd_files, None);
}

#[test]
fn two_bare_images_with_their_packages() {
    let dir = tempfile::tempdir().unwrap();
    let side = |version: &str| {
        let mut tree = small();
        put(&mut tree, "/etc/os-release", b"ID=debian\n");
        let status = format!("Package: tool\nStatus: install ok installed\nVersion: {version}\nArchitecture: all\n");
        put(&mut tree, "/var/lib/dpkg/status", status.as_bytes());
        let path = dir.path().join(version);
        squash(&tree, &path);
        Side::open(&path).unwrap()
    };
    let (one, two) = (side("1.0"), side("2.0"));
    assert!(compare(&one, &one).unwrap().equal);
    let found = compare(&one, &two).unwrap();
    assert_eq!(found.packages.len(), 1);
    assert_eq!(found.packages[0].purl, "pkg:deb/debian/tool?arch=all");
    assert_eq!(found.packages[0].after.as_deref(), Some("2.0"));
    assert_eq!(shown(&found.files), ["changed /var/lib/dpkg/status 0 content"]);
    assert_eq!(found.sizes.initrd, Pair { before: None, after: None });
}

#[test]
fn what_is_neither_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| Side::open(path).unwrap_err().to_string();
    assert!(error(dir.path()).ends_with("it has no manifest.json"));
    assert!(error(&dir.path().join("nothing")).starts_with("cannot read "));
    let text = dir.path().join("text");
    std::fs::write(&text, "just text").unwrap();
    assert_eq!(error(&text), format!("cannot read the squashfs image {}", text.display()));
    assert_eq!(
        error(Path::new("/dev/null")),
        "/dev/null is neither a folder nor a file; name a bundle's folder, or a squashfs image"
    );
}

#[test]
fn a_folder_that_went_is_one_row() {
    let (mut a, mut b) = (RootTree::new(), RootTree::new());
    for n in 0..30 {
        put(&mut a, &format!("/usr/share/doc/{n}/copyright"), &[1; 10]);
    }
    put(&mut b, "/usr/share/x", b"y");
    let rows = text::folded(&compared(a, b).list);
    assert_eq!(rows, ["-     -300 B  /usr/share/doc/  30 files", "+       +1 B  /usr/share/x"]);
}
