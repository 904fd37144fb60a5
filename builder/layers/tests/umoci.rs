//! The same layers, unpacked by umoci as root and flattened by us, compared entry by entry: type, mode, owner, size,
//! time, content, link target, hard links, devices, extended attributes.
//!
//! Needs root (ownership, devices, `security.capability`) and umoci.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Layer, difference, flattened, same_as_umoci, unpacked};

fn base() -> Layer {
    Layer::default()
        .dir("./", 0o755)
        .dir("usr/", 0o755)
        .dir("usr/lib/", 0o755)
        .dir("usr/bin", 0o755)
        .link("lib", "usr/lib")
        .link("bin", "/usr/bin")
        .file("usr/lib/a", "a")
        .hard("usr/lib/b", "usr/lib/a")
        .dir("etc", 0o750)
        .file("etc/one", "1")
        .file("etc/two", "22")
        .dir("etc/sub", 0o1777)
        .file("etc/sub/x", "x")
        .dir("etc/sub/deep", 0o700)
        .file("etc/sub/deep/y", "y")
}

#[test]
fn whiteouts_and_opaque_folders_in_any_order() {
    same_as_umoci(&[base(), Layer::default().file("etc/.wh.one", "").file("etc/new", "n")]);
    same_as_umoci(&[base(), Layer::default().file("etc/one", "again").file("etc/.wh.one", "")]);
    same_as_umoci(&[base(), Layer::default().file("etc/.wh.sub", "").dir("etc/sub", 0o711).file("etc/sub/z", "z")]);
    same_as_umoci(&[base(), Layer::default().dir("etc/sub", 0o711).file("etc/sub/z", "z").file("etc/.wh.sub", "")]);
    same_as_umoci(&[base(), Layer::default().dir("etc", 0o700).file("etc/.wh..wh..opq", "").file("etc/n", "n")]);
    same_as_umoci(&[
        base(),
        Layer::default().dir("etc", 0o700).dir("etc/sub", 0o755).file("etc/sub/n", "n").file("etc/.wh..wh..opq", ""),
    ]);
    same_as_umoci(&[
        base(),
        Layer::default().file(".wh.etc", "").file(".wh.nothing", ""),
        Layer::default().file("etc", "f"),
    ]);
    // Through a link; and where the layer makes a folder of the link.
    same_as_umoci(&[base(), Layer::default().file("lib/.wh.a", "").file("bin/x", "x")]);
    same_as_umoci(&[base(), Layer::default().dir("lib", 0o755).file("lib/.wh..wh..opq", "").file("lib/n", "n")]);
    same_as_umoci(&[base(), Layer::default().dir("lib", 0o755).file("lib/.wh.a", "")]);
}

#[test]
fn type_changes_both_ways() {
    same_as_umoci(&[
        base(),
        Layer::default()
            .file("etc/sub", "was a folder")
            .dir("etc/one", 0o755)
            .file("etc/one/in", "in")
            .link("etc/two", "one")
            .dir("lib", 0o755)
            .file("lib/c", "c")
            .link("usr/bin", "lib"),
        Layer::default().link("etc/sub", "/usr").file("etc/one", "back").dir("etc/two", 0o711).file("bin/d", "d"),
        Layer::default().device(b'3', "etc/one", 1, 3).file("etc/sub/through", "t").hard("etc/two", "usr/lib/a"),
    ]);
}

#[test]
fn hard_links_within_and_across_layers() {
    same_as_umoci(&[
        base(),
        Layer::default().hard("etc/c", "lib/b").hard("l2", "lib").file("usr/lib/a", "new"),
        Layer::default().hard("etc/d", "etc/c").file(".wh.l2", "").hard("etc/two", "etc/one"),
    ]);
}

#[test]
fn parents_through_links_and_missing_parents() {
    same_as_umoci(&[
        base(),
        Layer::default()
            .file("lib/m/n/o", "1")
            .file("bin/p", "2")
            .link("esc", "../../../../etc")
            .file("esc/q", "3")
            .link("dangling", "not/here")
            .file("dangling/r", "4")
            .link("chain", "lib")
            .dir("chain/dir", 0o711)
            .file("chain/dir/s", "5"),
    ]);
}

#[test]
fn attributes_devices_owners_and_names() {
    let capability = [1, 0, 0, 2, 0x0a, 0x20, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
    let mut owned = Layer::header(b'0', "owned", 0o6755);
    owned.set_uid(3_000_000);
    owned.set_gid(4_000_000_000);
    let mut big_mtime = Layer::header(b'0', "old", 0o600);
    big_mtime.as_old_mut().mtime = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc, 0x18];
    same_as_umoci(&[
        Layer::default()
            .add(owned, b"")
            .add(big_mtime, b"")
            .pax(&[("SCHILY.xattr.security.capability", &capability), ("mtime", b"1234567890.987654321")])
            .file("ping", "ping")
            .pax(&[("SCHILY.xattr.user.text", b"a\nb=c\0"), ("SCHILY.xattr.trusted.t", b"")])
            .dir("attributed", 0o755)
            .pax(&[("path", long.as_bytes()), ("uid", b"70000"), ("gid", b"70001")])
            .file("short", "long")
            .pax(&[("linkpath", "t".repeat(300).as_bytes()), ("mtime", b"-1000.25")])
            .link("l", "t")
            .dir("dev", 0o755)
            .device(b'3', "dev/null", 1, 3)
            .device(b'4', "dev/sda", 8, 300)
            .device(b'6', "dev/fifo", 0, 0),
        Layer::default()
            .pax(&[("SCHILY.xattr.user.other", b"2")])
            .dir("attributed", 0o700)
            .file("ping", "no capability"),
    ]);
}

#[test]
fn layers_packed_by_gnu_tar() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"set -e; cd "$1"; mkdir -p root/usr/bin root/etc; cd root
        echo sh > usr/bin/sh; ln usr/bin/sh usr/bin/bash; ln -s usr/bin bin; chmod 4755 usr/bin/sh; chown 3000000:70000 etc
        truncate -s 9M etc/holes; printf x | dd of=etc/holes bs=1 seek=5000000 conv=notrunc status=none
        n=$(printf 'n%.0s' $(seq 200)); mkdir $n; echo long > $n/$n; ln -s $n/$n etc/longlink
        mkfifo etc/fifo; mknod etc/null c 1 3; printf x > "$(printf 'odd\377\nname')"
        setcap cap_dac_override,cap_fowner+ep usr/bin/sh; setfattr -n user.n -v 0x0a3d0a etc # both with newlines in them
        find . -exec touch -hd @1234567890 {} +; more=  # umoci knows no sparse files of the GNU kind
        [ "$2" = gnu ] || more="--sparse --xattrs --xattrs-include=*"
        tar --sort=name $more --format="$2" -cf ../one.tar .
        rm -r etc/holes usr/bin/bash; echo new > etc/.wh.holes; touch usr/bin/.wh..wh..opq
        find . -exec touch -hd @1234567899 {} +
        tar --sort=name --format="$2" -cf ../two.tar etc usr"#;
    for format in ["posix", "gnu"] {
        let dir = dir.path().join(format);
        std::fs::create_dir(&dir).unwrap();
        let status =
            std::process::Command::new("bash").args(["-c", script, "bash"]).arg(&dir).arg(format).status().unwrap();
        assert!(status.success());
        let layer = |name: &str| Layer(std::fs::read(dir.join(name)).unwrap());
        same_as_umoci(&[layer("one.tar"), layer("two.tar")]);
    }
}

#[test]
fn what_umoci_refuses_we_refuse() {
    let cases: Vec<(&str, Layer)> = vec![
        ("a hard link to nowhere", Layer::default().hard("x", "nowhere")),
        ("a file as parent", Layer::default().file("f", "").file("f/x", "")),
        ("a loop as parent", Layer::default().link("a", "b").link("b", "a").file("a/x", "")),
        ("the root as a file", Layer::default().file(".", "")),
        ("a hard link to a folder", Layer::default().dir("d", 0o755).hard("x", "d")),
        ("cut short", Layer(Layer::default().file("f", "data").0[..514].to_vec())),
    ];
    for (what, layer) in cases {
        let dir = tempfile::tempdir().unwrap();
        let layers = [base(), layer];
        assert!(unpacked(dir.path(), &layers).is_err(), "umoci takes {what}");
        assert!(flattened(dir.path(), &layers).is_err(), "we take {what}");
    }
}

mod random {
    use proptest::prelude::*;

    use super::*;

    /// What may stand in a random layer. Few names, so that layers meet.
    #[derive(Debug, Clone)]
    enum Step {
        Dir(String, u32),
        File(String, String),
        Link(String, String),
        Hard(String, String),
        Whiteout(String, String),
        Opaque(String),
    }

    fn path() -> impl Strategy<Value = String> {
        "[abc](/[abc]){0,2}"
    }

    fn step() -> impl Strategy<Value = Step> {
        let target = prop_oneof!["[abc]", "/[abc]", "\\.\\./[abc]", "[abc]/[abc]", "\\.\\./\\.\\./\\.\\./[abc]"];
        prop_oneof![
            3 => (path(), prop_oneof![Just(0o755_u32), Just(0o700), Just(0o1777)]).prop_map(|(p, m)| Step::Dir(p, m)),
            4 => (path(), "[xyz]{0,3}").prop_map(|(p, d)| Step::File(p, d)),
            2 => (path(), target).prop_map(|(p, t)| Step::Link(p, t)),
            2 => (path(), path()).prop_map(|(p, t)| Step::Hard(p, t)),
            2 => ("([abc]/){0,2}", "[abc]").prop_map(|(p, n)| Step::Whiteout(p, n)),
            1 => "([abc]/){0,2}".prop_map(Step::Opaque),
        ]
    }

    /// Whiteouts go first here, as packers write them: where they stand elsewhere, umoci keeps lower metadata of
    /// folders in between, and what the specification says is tested by its words in the tree's own tests.
    fn layer(mut steps: Vec<Step>) -> Layer {
        steps.sort_by_key(|step| !matches!(step, Step::Whiteout(..) | Step::Opaque(_)));
        steps.into_iter().fold(Layer::default(), |layer, step| match step {
            Step::Dir(path, mode) => layer.dir(&path, mode),
            Step::File(path, data) => layer.file(&path, &data),
            Step::Link(path, target) => layer.link(&path, &target),
            Step::Hard(path, target) => layer.hard(&path, &target),
            Step::Whiteout(folder, name) => layer.file(&format!("{folder}.wh.{name}"), ""),
            Step::Opaque(folder) => layer.file(&format!("{folder}.wh..wh..opq"), ""),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

        /// What both take comes out the same, and neither takes what the other refuses.
        #[test]
        fn layers(layers in prop::collection::vec(prop::collection::vec(step(), 0..10), 1..4)) {
            let layers: Vec<Layer> = layers.iter().cloned().map(layer).collect();
            let dir = tempfile::tempdir().unwrap();
            let ours = flattened(dir.path(), &layers);
            let theirs = unpacked(dir.path(), &layers);
            match (ours, theirs) {
                (Ok(ours), Ok(theirs)) => {
                    let (ours, theirs) = common::comparable(&ours, &common::dump_disk(&theirs));
                    prop_assert!(ours == theirs, "{}", difference(&ours, &theirs));
                }
                (Err(_), Err(_)) => {}
                // Umoci removes what has the name before it looks for the target, so it cannot link a file to itself,
                // as GNU tar writes it for `tar c a a`, nor to one inside the folder that it replaces.
                (Ok(_), Err(theirs)) if theirs.contains(": link: no such file") => {}
                (Ok(_), Err(theirs)) => prop_assert!(false, "umoci refuses what we take: {theirs}"),
                (Err(ours), Ok(_)) => prop_assert!(false, "we refuse what umoci takes: {ours}"),
            }
        }
    }
}

/// Layers as a builder of images writes them: umoci packs what changed in a folder, skopeo compresses them anew.
mod built {
    use std::fs::{self, File};
    use std::io::{BufReader, copy};
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;

    use imgbuild_layers::{Compression, Decompressor, read_tar};
    use imgbuild_tree::{Origin, RootTree, Tree};

    use super::*;

    const SCRIPT: &str = r#"set -e; cd "$1"; umoci init --layout l; umoci new --image l:t
        step() { rm -rf b; umoci unpack --image l:t b; (cd b/rootfs; eval "$1"; find . -mmin -60 -exec touch -hd @1234567890 {} +)
                 umoci repack --image l:t b; }
        step 'mkdir -p usr/bin usr/lib var/lib/x/y root; chmod 700 root; ln -s usr/bin bin; ln -s usr/lib lib; echo a > bin/a
              ln bin/a bin/b; ln bin/a lib/c; echo z > var/lib/x/y/z; mknod dev-null c 1 3; mkfifo p; chown 70000:3000000 root'
        step 'rm bin/b; rm -r var/lib/x; echo x > var/lib/x; echo n > lib/new; ln lib/new lib/new2; chmod 4711 bin/a
              setcap cap_dac_override,cap_fowner+ep bin/a'
        step 'rm lib; mkdir lib; echo d > lib/d; rm var/lib/x; mkdir var/lib/x; echo again > var/lib/x/y; rm p; ln -s a p; rm -r root'
        rm -rf b; umoci unpack --image l:t b
        skopeo copy -q --dest-compress-format zstd oci:l:t oci:zst:t
        skopeo copy -q --dest-decompress oci:l:t dir:plain"#;

    fn flattened(layers: &[(Compression, std::path::PathBuf)], dir: &Path) -> RootTree {
        let mut tree = Tree::new();
        for (i, (compression, blob)) in layers.iter().enumerate() {
            let mut plain = Decompressor::new(BufReader::new(File::open(blob).unwrap())).unwrap();
            assert_eq!(plain.compression(), *compression);
            let tar = dir.join(format!("{}-{i}.tar", compression.name()));
            copy(&mut plain, &mut File::create(&tar).unwrap()).unwrap();
            let entries = read_tar(Arc::new(File::open(&tar).unwrap()), tar.into()).unwrap();
            tree.apply(Origin(i as u16), entries).unwrap();
        }
        tree
    }

    fn blob(layout: &Path, descriptor: &serde_json::Value) -> std::path::PathBuf {
        let digest = descriptor["digest"].as_str().unwrap();
        layout.join("blobs").join(digest.replace(':', "/"))
    }

    fn json(path: &Path) -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn images_packed_by_umoci_and_compressed_by_skopeo() {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("bash").args(["-c", SCRIPT, "bash"]).arg(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs = common::dump_disk(&dir.path().join("b/rootfs"));
        assert!(theirs.contains("/lib/d f") && theirs.contains("xattr.security.capability"), "{theirs}");
        for (name, compression) in [("l", Compression::Gzip), ("zst", Compression::Zstd)] {
            let layout = dir.path().join(name);
            let manifest = json(&blob(&layout, &json(&layout.join("index.json"))["manifests"][0]));
            let layers: Vec<_> =
                manifest["layers"].as_array().unwrap().iter().map(|l| (compression, blob(&layout, l))).collect();
            assert_eq!(layers.len(), 3);
            let (ours, theirs) = common::comparable(&flattened(&layers, dir.path()), &theirs);
            assert!(ours == theirs, "{name}: {}", difference(&ours, &theirs));
        }
        let plain = dir.path().join("plain");
        let layers: Vec<_> = json(&plain.join("manifest.json"))["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| (Compression::None, plain.join(l["digest"].as_str().unwrap().trim_start_matches("sha256:"))))
            .collect();
        let (ours, theirs) = common::comparable(&flattened(&layers, dir.path()), &theirs);
        assert!(ours == theirs, "{}", difference(&ours, &theirs));
    }
}
