//! `debian` layers, by the real mmdebstrap from archives made here: Debian's essential packages, and a package that changes.
//!
//! Takes the essential packages from Debian's mirror once, and then some ten seconds for each root.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on has failed")]

mod archive;
#[path = "../program/support.rs"]
#[allow(dead_code, reason = "it is for tests of the whole program")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use archive::{Archive, Key};
use support::{IMGBUILD, Place, fails, succeeds, text};

/// Whether the test's users are the machine's: what installs packages needs one.
fn lint() -> String {
    let rules = ["missing-library", "missing-interpreter", "missing-program", "machine-id", "secret", "merged-usr"];
    let allow =
        |rule: &&str| format!("[[lint.allow]]\nrule = \"{rule}\"\npath = \"/**\"\nreason = \"it is not booted\"\n");
    rules.iter().map(allow).collect()
}

/// A place with Debian's archive in `debian`, an archive with `site-tool` of this version in `site`, and a recipe of both.
fn place(key: &Key, version: &str) -> (Place, Archive, Archive) {
    let place = Place::new();
    let debian = Archive::of_debian(place.join("debian"));
    debian.publish("bookworm", key, None);
    let site = Archive::new(place.join("site"));
    site.add_tool(version);
    site.publish("stable", key, None);
    key.export(&place.join("site.asc"));
    let (mirror, uri) = (debian.uri(), site.uri());
    let layer = format!(
        "[[layer]]\nname = \"base\"\n[layer.debian]\nsuite = \"bookworm\"\nvariant = \"essential\"\nmirror = \"{mirror}\"\n\
         packages = [\"site-tool\"]\n\
         repositories = [{{ uri = \"{uri}\", suite = \"stable\", components = [\"main\"], key = \"site.asc\" }}]\n{}",
        lint()
    );
    place.recipe(&layer);
    (place, debian, site)
}

fn imgbuild(place: &Place, arguments: &[&str]) -> Output {
    place.imgbuild().args(arguments).output().unwrap()
}

/// What `site-tool` of the bundle in `out` says of itself.
fn tool(place: &Place, out: &str) -> String {
    let image = place.join(out).join("small-1/root.squashfs");
    let mut cat = Command::new("unsquashfs");
    cat.arg("-cat").arg(image).arg("usr/share/site-tool");
    text(&cat.output().unwrap().stdout)
}

fn sums(place: &Place, out: &str) -> String {
    fs::read_to_string(place.join(out).join("small-1/SHA256SUMS")).unwrap()
}

#[test]
fn a_lock_holds_while_repositories_move_on() {
    let key = Key::new();
    let (place, _, site) = place(&key, "1.0");
    succeeds(&imgbuild(&place, &["lock", "recipe.toml"]));
    let lock = fs::read_to_string(place.join("small.lock")).unwrap();
    let hash = support::hex(&fs::read(site.tool("1.0")).unwrap());
    assert!(lock.contains("site-tool") && lock.contains("1.0") && lock.contains(&hash), "{lock}");
    succeeds(&imgbuild(&place, &["build", "recipe.toml", "--locked"]));
    assert_eq!(tool(&place, "out"), "1.0\n");
    let first = sums(&place, "out");

    // Both versions are there: an empty cache gives the locked one again, byte for byte.
    site.add_tool("2.0");
    site.publish("stable", &key, None);
    fs::remove_dir_all(place.join("cache")).unwrap();
    succeeds(&imgbuild(&place, &["build", "recipe.toml", "--locked", "-o", "again"]));
    assert_eq!((tool(&place, "again"), sums(&place, "again")), ("1.0\n".to_owned(), first.clone()));

    // Only the new one: the cache still has what the lock names, and without it that is said.
    site.remove_tool("1.0");
    site.publish("stable", &key, None);
    fs::remove_dir_all(place.join("again")).unwrap();
    succeeds(&imgbuild(&place, &["build", "recipe.toml", "--locked", "--offline", "-o", "again"]));
    assert_eq!(sums(&place, "again"), first);
    fs::rename(place.join("cache"), place.join("kept")).unwrap();
    let output = imgbuild(&place, &["build", "recipe.toml", "--locked", "-o", "moved"]);
    fails(&output, 3, &["layer base", "site-tool", "imgbuild lock"]);
    assert_eq!(place.names("moved"), [""; 0]);

    // Until somebody says that the new one is wanted.
    succeeds(&imgbuild(&place, &["lock", "recipe.toml"]));
    succeeds(&imgbuild(&place, &["build", "recipe.toml", "--locked", "-o", "moved"]));
    assert_eq!(tool(&place, "moved"), "2.0\n");
}

#[test]
fn a_repository_that_another_key_has_signed_is_refused() {
    let (key, other) = (Key::new(), Key::new());
    let (place, _, site) = place(&key, "1.0");
    site.publish("stable", &other, None);
    let output = imgbuild(&place, &["build", "recipe.toml"]);
    fails(&output, 3, &["layer base (recipe.toml:4", &site.uri(), "NO_PUBKEY"]);
    assert_eq!(place.names("out"), [""; 0]);
    // And one that is gone is named.
    fs::remove_dir_all(place.join("site/dists")).unwrap();
    fails(
        &imgbuild(&place, &["build", "recipe.toml"]),
        3,
        &["layer base", &format!("{}/dists/stable/InRelease", site.uri())],
    );
}

#[test]
fn a_snapshot_is_the_archive_of_that_day_though_it_has_expired() {
    let key = Key::new();
    let (place, debian, _) = place(&key, "1.0");
    let long_ago = Some("Sat, 01 Nov 2025 00:00:00 UTC");
    debian.add_tool("0.9");
    debian.publish("bookworm", &key, long_ago);
    Archive::new(place.join("updates")).publish("bookworm-updates", &key, long_ago);
    Archive::new(place.join("security")).publish("bookworm-security", &key, long_ago);
    let proxy = archive::proxy(&[
        (
            "http://snapshot.debian.org/archive/debian/20251020T000000Z/dists/bookworm-updates/",
            place.join("updates/dists/bookworm-updates"),
        ),
        ("http://snapshot.debian.org/archive/debian/20251020T000000Z/", place.join("debian")),
        ("http://snapshot.debian.org/archive/debian-security/20251020T000000Z/", place.join("security")),
    ]);
    // A repository is where a key comes from; it has nothing newer.
    Archive::new(place.join("keys")).publish("stable", &key, None);
    place.recipe(&format!(
        "[[layer]]\nname = \"base\"\n[layer.debian]\nsuite = \"bookworm\"\nvariant = \"essential\"\nsnapshot = \"2025-10-20\"\n\
         packages = [\"site-tool\"]\n\
         repositories = [{{ uri = \"copy:{}\", suite = \"stable\", components = [\"main\"], key = \"site.asc\" }}]\n{}",
        place.join("keys").display(),
        lint()
    ));
    let output = place.imgbuild().args(["build", "recipe.toml"]).env("http_proxy", &proxy).output().unwrap();
    succeeds(&output);
    assert_eq!(tool(&place, "out"), "0.9\n");
}

/// In a user namespace, by mmdebstrap's own means: the bytes are those that root makes.
#[test]
fn an_ordinary_user_makes_the_same() {
    let key = Key::new();
    let (place, ..) = place(&key, "1.0");
    succeeds(&imgbuild(&place, &["lock", "recipe.toml"]));
    succeeds(&imgbuild(&place, &["build", "recipe.toml", "--locked"]));
    for folder in ["home", "theirs"] {
        let path = place.join(folder);
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(GAMES), Some(GAMES)).unwrap();
    }
    // Those of the archives are read in the namespace by apt's own user.
    open_up(place.path());
    place.write("ids", "games:200000:65536\n");
    let script = "mount --bind ids /etc/subuid && mount --bind ids /etc/subgid && exec setpriv --reuid games --regid games --clear-groups \
                  env HOME=\"$PWD/home\" IMGBUILD_CACHE=\"$PWD/home/cache\" \"$0\" build recipe.toml --locked -o theirs";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, IMGBUILD]);
    place.prepare(&mut command);
    succeeds(&command.output().unwrap());
    assert_eq!(sums(&place, "theirs"), sums(&place, "out"));
}

/// Debian's fixed number of a user that every system has.
const GAMES: u32 = 5;

fn open_up(folder: &Path) {
    for item in walkdir::WalkDir::new(folder).into_iter().flatten() {
        let bits = if item.file_type().is_dir() { 0o755 } else { 0o644 };
        if !item.path_is_symlink() && !item.path().starts_with(folder.join("cache")) {
            fs::set_permissions(item.path(), fs::Permissions::from_mode(bits)).unwrap();
        }
    }
}
