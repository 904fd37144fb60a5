//! Several files, includes, parameters and settings make one recipe.

mod common;

use std::path::Path;

use common::Folder;
use imgbuild_recipe::*;

const HEAD: &str = "[image]\nname = \"x\"\n[[layer]]\nname = \"a\"\noci = \"r.io/a:1\"\n";

fn oci(recipe: &Recipe) -> Vec<String> {
    let images = recipe.layers.iter().map(|layer| match &layer.source {
        Source::Oci(oci) => format!("{}={}", layer.name, oci.image),
        other => format!("{}:{}", layer.name, other.kind()),
    });
    images.collect()
}

#[test]
fn every_algorithm_has_levels_of_its_own() {
    let folder = Folder::new(&[("a.toml", HEAD)]);
    for (name, algorithm, highest) in [
        ("zstd", Algorithm::Zstd, 22),
        ("gzip", Algorithm::Gzip, 9),
        ("xz", Algorithm::Xz, 9),
        ("lz4", Algorithm::Lz4, 12),
        ("lzo", Algorithm::Lzo, 9),
    ] {
        let name_set = format!("root.compression.algorithm={name}");
        let level = |level: u8| format!("root.compression.level={level}");
        // The default level is one of all of them.
        assert_eq!(folder.ok(&["a.toml"], &[&name_set]).root.compression.level, 9);
        let compression = folder.ok(&["a.toml"], &[&name_set, &level(highest)]).root.compression;
        assert_eq!((compression.algorithm, compression.level), (algorithm, highest));
        assert_eq!(algorithm.as_str(), name);
        let said = folder.errors(&["a.toml"], &[&name_set, &level(highest + 1)]);
        assert!(said.contains(&format!("{} is not between 1 and {highest}", highest + 1)), "{said}");
    }
}

#[test]
fn groups_of_pruned_paths_append_and_are_taken_back_by_name() {
    let group = |name: &str, rest: &str| format!("[[prune.group]]\nname = \"{name}\"\n{rest}\n");
    let base = format!("{HEAD}{}{}", group("perl", "paths = ['/p']\nkeep = ['/p/k']"), group("hwdb", "paths = ['/h']"));
    let site = format!("[prune]\nkeep = ['/h/mine']\n{}", group("ctr", "paths = ['/c']"));
    let folder = Folder::new(&[("a.toml", &base), ("b.toml", &site)]);
    let all = |recipe: &Recipe| {
        let paths: Vec<_> = recipe.prune.all_paths().map(str::to_owned).collect();
        let keep: Vec<_> = recipe.prune.all_keep().map(str::to_owned).collect();
        (paths.join(" "), keep.join(" "))
    };
    let recipe = folder.ok(&["a.toml", "b.toml"], &[]);
    assert_eq!(all(&recipe), ("/p /h /c".to_owned(), "/h/mine /p/k".to_owned()));
    let recipe = folder.ok(&["a.toml", "b.toml"], &["prune.group.hwdb.paths=[]"]);
    assert_eq!(all(&recipe), ("/p /c".to_owned(), "/h/mine /p/k".to_owned()));
    let twice = format!("{HEAD}{0}{0}", group("perl", ""));
    let said = Folder::new(&[("a.toml", &twice)]).errors(&["a.toml"], &[]);
    assert!(said.contains("two [[prune.group]] are called `perl`"), "{said}");
    let said = Folder::new(&[("a.toml", &format!("{HEAD}[[prune.group]]\npaths = ['/a']\n"))]).errors(&["a.toml"], &[]);
    assert!(said.contains("[[prune.group]] lacks `name`"), "{said}");
}

#[test]
fn later_files_win_and_lists_of_tables_append_or_replace() {
    let folder = Folder::new(&[
        ("a.toml", HEAD),
        (
            "b.toml",
            "[[layer]]\nname = \"b\"\noci = \"r.io/b:1\"\n[prune]\npaths = [\"/a\", \"/b\"]\n[root.compression]\nlevel = 19\n",
        ),
        (
            "c.toml",
            "layer = [{ name = \"c\", oci = \"r.io/c:1\" }, { name = \"a\", oci = \"r.io/a:2\" }]\nprune.paths = [\"/c\"]\n[image]\nversion = \"2\"\n",
        ),
    ]);
    let recipe = folder.ok(&["a.toml", "b.toml", "c.toml"], &[]);
    assert_eq!(oci(&recipe), ["a=r.io/a:2", "b=r.io/b:1", "c=r.io/c:1"]);
    assert_eq!((recipe.image.name.as_str(), recipe.image.version.as_deref()), ("x", Some("2")));
    assert_eq!(recipe.prune.paths, ["/c"], "a list of strings is replaced");
    assert_eq!((recipe.root.compression.level, recipe.root.compression.algorithm), (19, Algorithm::Zstd));
    let places: Vec<_> = recipe.layers.iter().map(|layer| layer.origin.as_str()).collect();
    assert_eq!(places, ["c.toml:1", "b.toml:1", "c.toml:1"]);
    let order: Vec<_> = recipe.files.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(order, ["a.toml", "b.toml", "c.toml"]);
}

#[test]
fn a_tmpfs_is_named_by_its_path_and_a_lint_exception_by_nothing() {
    let allow = "[lint]\nallow = [{ rule = \"r\", reason = \"because\" }]\n";
    let folder = Folder::new(&[
        ("a.toml", &format!("{HEAD}[[tmpfs]]\npath = \"/v\"\nsize = \"20%\"\n{allow}")),
        ("b.toml", &format!("[[tmpfs]]\npath = \"/v\"\nsize = \"1G\"\n{allow}")),
    ]);
    let recipe = folder.ok(&["a.toml", "b.toml"], &[]);
    assert_eq!(recipe.tmpfs.iter().map(|t| t.size).collect::<Vec<_>>(), [Size::Bytes(1 << 30)]);
    assert_eq!(recipe.lint.allow.len(), 2);
}

#[test]
fn includes_come_before_and_once_and_paths_start_from_their_file() {
    let folder = Folder::new(&[
        ("site/base/deep.toml", &format!("{HEAD}[[layer]]\nname = \"over\"\noverlay = \"../files\"\n")),
        ("site/base/one.toml", "include = [\"deep.toml\"]\n[image]\nversion = \"one\"\n"),
        ("site/base/two.toml", "include = [\"deep.toml\", \"../base/one.toml\"]\n[image]\nversion = \"two\"\n"),
        ("site/files/", ""),
        ("main.toml", "include = [\"site/base/one.toml\", \"site/base/two.toml\"]\n[image]\nname = \"main\"\n"),
    ]);
    let recipe = folder.ok(&["main.toml"], &[]);
    assert_eq!((recipe.image.name.as_str(), recipe.image.version.as_deref()), ("main", Some("two")));
    assert_eq!(oci(&recipe), ["a=r.io/a:1", "over:overlay"]);
    assert_eq!(recipe.layers[1].source, Source::Overlay(OverlayLayer { path: folder.path("site/files") }));
    assert_eq!(recipe.layers[1].origin, "site/base/deep.toml:6");
    assert_eq!(recipe.relative(&folder.path("site/files")), "site/files");
}

#[test]
fn symbolic_links_do_not_lead_astray() {
    let folder = Folder::new(&[
        ("real/deep/r.toml", &format!("{HEAD}[[layer]]\nname = \"o\"\noverlay = \"../o\"\n")),
        ("real/o/", ""),
    ]);
    std::os::unix::fs::symlink("real/deep/r.toml", folder.path("link.toml")).unwrap();
    let recipe = folder.ok(&["link.toml"], &[]);
    assert_eq!(recipe.layers[1].source, Source::Overlay(OverlayLayer { path: folder.path("real/o") }));
}

#[test]
fn settings_win_and_have_types() {
    let folder = Folder::new(&[(
        "a.toml",
        &format!(
            "{HEAD}[[tmpfs]]\npath = \"/var/lib/x\"\nsize = \"20%\"\n[params]\ntag = \"1\"\n[[layer]]\nname = \"b\"\noci = \"r.io/b:${{tag}}\"\n"
        ),
    )]);
    let sets = [
        "image.version=1.4",
        "params.tag=2.10",
        "layer.a.oci=r.io/other:7",
        "tmpfs.\"/var/lib/x\".size=30%",
        "root.compression.level=3",
        "kernel.modules=[\"virtio_net\"]",
        "kernel.version = 6.1.*",
        "budget.ram=2GiB",
    ];
    let recipe = folder.ok(&["a.toml"], &sets);
    assert_eq!(recipe.image.version.as_deref(), Some("1.4"), "a version stays text");
    assert_eq!(oci(&recipe), ["a=r.io/other:7", "b=r.io/b:2.10"], "and a tag keeps its last digit");
    assert_eq!(recipe.tmpfs[0].size, Size::Percent(30));
    assert_eq!(recipe.root.compression.level, 3);
    assert_eq!(recipe.kernel.as_ref().unwrap().modules, ["virtio_net"]);
    assert_eq!(recipe.budget.ram, Some(ByteSize(2 << 30)));
    // The last of two settings of one key stands.
    assert_eq!(folder.ok(&["a.toml"], &["image.version=1", "image.version=2"]).image.version.as_deref(), Some("2"));
}

#[test]
fn parameters_stand_for_text_and_for_values() {
    let folder = Folder::new(&[(
        "a.toml",
        r#"
[params]
host = "r.io"
registry = "${host}/os"
level = 3
packages = ["ethtool", "${tool}"]
tool = "lvm2"
none = []
more = ["${packages}", "jq"]
[image]
name = "x"
[root]
compression = { level = "${level}" }
[kernel]
version = "*"
cmdline = ["level=${level}", "netboot.config=http://c/$${mac}.json", "$a $$ {x} $"]
[[layer]]
name = "a"
oci = "${registry}/debian:${level}"
[[layer]]
name = "b"
debian = { suite = "bookworm", packages = "${packages}" }
[[layer]]
name = "c"
debian = { suite = "bookworm", packages = ["${none}", "curl", "${more}", "${tool}"] }
"#,
    )]);
    let recipe = folder.ok(&["a.toml"], &[]);
    assert_eq!(oci(&recipe), ["a=r.io/os/debian:3", "b:debian", "c:debian"]);
    assert_eq!(recipe.root.compression.level, 3);
    assert_eq!(
        recipe.kernel.as_ref().unwrap().cmdline,
        ["level=3", "netboot.config=http://c/${mac}.json", "$a $$ {x} $"]
    );
    let packages = |layer: usize| match &recipe.layers[layer].source {
        Source::Debian(debian) => debian.packages.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(packages(1), ["ethtool", "lvm2"]);
    assert_eq!(packages(2), ["curl", "ethtool", "lvm2", "jq", "lvm2"]);
    assert_eq!(recipe.params["registry"].as_str(), Some("r.io/os"));
    assert_eq!(oci(&folder.ok(&["a.toml"], &["params.host=other.io"]))[0], "a=other.io/os/debian:3");
}

#[test]
fn standard_input_is_a_file_like_others() {
    let folder = Folder::new(&[("b.toml", "[image]\nversion = \"2\"\n")]);
    let mut stdin = HEAD.as_bytes();
    let recipe = load_with(&[Path::new("-"), &folder.path("b.toml")], &[] as &[&str], &mut stdin).unwrap();
    assert_eq!(recipe.layers[0].place, "<stdin>:3");
    assert_eq!(recipe.image.version.as_deref(), Some("2"));
    assert_eq!(recipe.dir, std::env::current_dir().unwrap().canonicalize().unwrap());
}

#[test]
fn all_kinds_of_layers() {
    let folder = Folder::new(&[
        ("i/", ""),
        ("i.tar", "x"),
        ("motd", "x"),
        ("keys/site.asc", "x"),
        (
            "a.toml",
            r#"
[image]
name = "x"
[[layer]]
name = "layout"
oci = "oci-layout:i:1"
copy = [{ from = "/a/" }]
[[layer]]
name = "tar"
tar = "i.tar"
[[layer]]
name = "file"
file = "motd"
to = "/etc/"
mode = 0o600
[[layer]]
name = "url"
url = "http://h/x"
sha256 = "sha256:ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789"
to = "/usr/bin/x"
mode = "0755"
[[layer]]
name = "debian"
[layer.debian]
suite = "bookworm"
snapshot = 2026-11-01
variant = "apt"
exclude_paths = ["/usr/share/doc/*"]
repositories = [
    { uri = "https://h/apt", suite = "./", key = "keys/site.asc" },
    { uri = "https://h/apt", suite = "stable" },
]
"#,
        ),
    ]);
    let recipe = folder.ok(&["a.toml"], &[]);
    let image = OciSource::Layout { path: folder.path("i"), select: Select::Tag("1".to_owned()) };
    let copy = imgbuild_recipe::Copy { from: "/a/".to_owned(), to: "/a".to_owned() };
    let repository = |suite: &str, components: &[&str], key: Option<&str>| Repository {
        uri: "https://h/apt".to_owned(),
        suite: suite.to_owned(),
        components: components.iter().map(ToString::to_string).collect(),
        key: key.map(|name| folder.path(name)),
    };
    let sources: Vec<Source> = recipe.layers.into_iter().map(|layer| layer.source).collect();
    assert_eq!(
        sources,
        [
            Source::Oci(OciLayer { image, copy: vec![copy] }),
            Source::Tar(TarLayer { path: folder.path("i.tar"), to: "/".to_owned() }),
            Source::File(FileLayer { path: folder.path("motd"), to: "/etc/motd".to_owned(), mode: Mode(0o600) }),
            Source::Url(UrlLayer {
                url: "http://h/x".to_owned(),
                sha256: "abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789".to_owned(),
                to: "/usr/bin/x".to_owned(),
                mode: Some(Mode(0o755)),
            }),
            Source::Debian(DebianLayer {
                suite: "bookworm".to_owned(),
                snapshot: Some("20261101T000000Z".to_owned()),
                components: vec!["main".to_owned()],
                repositories: vec![repository("./", &[], Some("keys/site.asc")), repository("stable", &["main"], None)],
                variant: Variant::Apt,
                exclude_paths: vec!["/usr/share/doc/*".to_owned()],
                ..DebianLayer::default()
            }),
        ]
    );
}
