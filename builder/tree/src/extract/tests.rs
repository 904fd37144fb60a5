use proptest::prelude::*;

use super::*;
use crate::{Content, DumpOptions, Origin};

const ALL: DumpOptions = DumpOptions { mtime: true, content: true, origin: false };

fn entry(path: &str, kind: EntryKind<Content>) -> Entry<Content> {
    Entry { path: path.as_bytes().into(), meta: Metadata { mtime: 9, ..Metadata::root_owned(0o750) }, kind }
}
fn file(path: &str) -> Entry<Content> {
    entry(path, EntryKind::Regular(Content::from(path.as_bytes())))
}
fn link(path: &str, target: &str) -> Entry<Content> {
    entry(path, EntryKind::Symlink(target.as_bytes().into()))
}
fn hard(path: &str, target: &str) -> Entry<Content> {
    entry(path, EntryKind::HardLink(target.as_bytes().into()))
}

fn image() -> Tree<Content> {
    let mut tree = Tree::new();
    let entries = vec![
        file("usr/local/bin/kubelet"),
        hard("usr/local/bin/kubectl", "usr/local/bin/kubelet"),
        link("bin", "usr/local/bin"),
        entry("usr/share", EntryKind::Directory),
        entry("usr/share/empty", EntryKind::Directory),
        file("usr/share/doc/a"),
        hard("elsewhere", "usr/local/bin/kubelet"),
        entry("dev/null", EntryKind::CharDevice(1, 3)),
        entry("run/x", EntryKind::Socket),
        entry("run/p", EntryKind::Fifo),
    ];
    tree.apply(Origin(0), entries).unwrap();
    tree
}

fn copied(paths: &[(&str, &str)]) -> Result<Vec<String>, ExtractError> {
    let entries = image().extract(paths.iter().map(|(from, to)| (from.as_bytes(), to.as_bytes())))?;
    let mut tree = Tree::new();
    tree.apply(Origin(3), entries).unwrap();
    let dump = tree.dump(DumpOptions { mtime: false, content: false, origin: false }).unwrap();
    Ok(dump.lines().skip(1).map(str::to_owned).collect())
}

#[test]
fn entries_give_the_tree_again() {
    let tree = image();
    let mut again = Tree::new();
    again.apply(Origin(1), tree.to_entries()).unwrap();
    assert_eq!(again.dump(ALL).unwrap(), tree.dump(ALL).unwrap());
    let mut nothing = Tree::<Content>::new();
    assert!(nothing.to_entries().is_empty());
    nothing.apply(Origin(1), nothing.clone().to_entries()).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn unstated_folders_leave_metadata_below_alone() {
    let mut base = Tree::new();
    let mut usr = entry("usr", EntryKind::Directory);
    usr.meta.uid = 7;
    base.apply(Origin(0), vec![usr, file("usr/base")]).unwrap();
    base.apply(Origin(1), image().to_entries()).unwrap();
    let usr = base.node(base.resolve("usr").unwrap());
    assert_eq!((usr.meta.uid, usr.meta.origin), (7, Origin(0)), "the image only has folders in /usr");
    assert!(base.resolve("usr/base").is_ok() && base.resolve("usr/share/doc/a").is_ok());
    assert_eq!(base.node(base.resolve("usr/share").unwrap()).meta.origin, Origin(1), "this one the image states");
}

#[test]
fn chosen_paths_under_new_names() {
    assert_eq!(
        copied(&[("/usr/local/bin/kubelet", "/usr/bin/k")]).unwrap(),
        ["/usr d 0755 0:0 - -", "/usr/bin d 0755 0:0 - -", "/usr/bin/k f 0750 0:0 21 -",]
    );
    // Through a link, into a folder, and with the second name inside the selection.
    assert_eq!(
        copied(&[("/bin/kubelet", "/opt/"), ("bin/kubectl", "opt/kc")]).unwrap(),
        ["/opt d 0755 0:0 - -", "/opt/kc f 0750 0:0 21 - link=1", "/opt/kubelet f 0750 0:0 21 - link=1",]
    );
    assert_eq!(copied(&[("/bin", "/b")]).unwrap(), ["/b l 0750 0:0 - - -> usr/local/bin"]);
    assert_eq!(
        copied(&[("/bin/", "/b")]).unwrap(),
        ["/b d 0755 0:0 - -", "/b/kubectl f 0750 0:0 21 - link=1", "/b/kubelet f 0750 0:0 21 - link=1",]
    );
    assert_eq!(
        copied(&[("/usr/share", "/s"), ("/run/x", "/"), ("/dev/null", "/null")]).unwrap(),
        [
            "/null c 0750 0:0 - - dev=1:3",
            "/s d 0750 0:0 - -",
            "/s/doc d 0755 0:0 - -",
            "/s/doc/a f 0750 0:0 15 -",
            "/s/empty d 0750 0:0 - -",
            "/x s 0750 0:0 - -",
        ]
    );
    assert!(copied(&[("/", "/all")]).unwrap().contains(&"/all/usr/share/empty d 0750 0:0 - -".to_owned()));
    assert_eq!(copied(&[("/", "/")]).unwrap().len(), image().walk().count() - 1);
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let cases = [
        ("/usr/bin/kubelet", "/x", "/usr/bin/kubelet is not in the image; the nearest folder that is: /usr"),
        ("nothing", "/x", "nothing is not in the image; the nearest folder that is: /"),
        ("/bin/kubeadm", "/x", "/bin/kubeadm is not in the image; the nearest folder that is: /bin"),
        ("/elsewhere/x", "/x", "/elsewhere/x cannot be had from the image"),
        ("/elsewhere/", "/x", "/elsewhere/ cannot be had from the image"),
        ("/", "/x/", "/ cannot be put inside /x/, since it has no name; write /x/ without the slash at its end"),
    ];
    for (from, to, message) in cases {
        assert_eq!(copied(&[(from, to)]).unwrap_err().to_string(), message);
    }
}

proptest! {
    /// Any tree survives the way through entries, whatever order it was made in.
    #[test]
    fn round_trip(steps in prop::collection::vec((0_u8..5, "[ab](/[ab]){0,3}", "[ab](/[ab]){0,2}"), 0..30)) {
        let mut tree = Tree::new();
        for (kind, path, other) in steps {
            let entry = match kind {
                0 => entry(&path, EntryKind::Directory),
                1 => file(&path),
                2 => link(&path, &other),
                3 => hard(&path, &other),
                _ => entry(&path, EntryKind::Whiteout),
            };
            // Entries that cannot be applied change nothing but parents.
            let _ = tree.apply(Origin(0), vec![entry]);
        }
        let mut again = Tree::new();
        again.apply(Origin(0), tree.to_entries()).unwrap();
        prop_assert_eq!(again.dump(ALL).unwrap(), tree.dump(ALL).unwrap());

        // Laid as a whole, over nothing, over a root of other metadata and over a file.
        let with_origin = DumpOptions { origin: true, ..ALL };
        for below in [vec![], vec![entry(".", EntryKind::Directory)], vec![file("a")]] {
            let mut by_entries = Tree::new();
            by_entries.apply(Origin(0), below).unwrap();
            let mut whole = by_entries.clone();
            let changes = by_entries.apply(Origin(4), tree.to_entries());
            prop_assert_eq!(whole.lay(Origin(4), tree.clone()), changes);
            prop_assert_eq!(whole.dump(with_origin).unwrap(), by_entries.dump(with_origin).unwrap());
        }
    }
}
