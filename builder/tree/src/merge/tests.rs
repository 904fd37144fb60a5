use super::*;
use crate::Tree;

type T = Tree<&'static str>;

fn entry(path: &str, kind: EntryKind<&'static str>) -> Entry<&'static str> {
    let mode = if is_directory(&kind) { 0o755 } else { 0o644 };
    Entry { path: path.as_bytes().into(), meta: Metadata::root_owned(mode), kind }
}
fn dir(path: &str) -> Entry<&'static str> {
    entry(path, EntryKind::Directory)
}
fn file(path: &str, content: &'static str) -> Entry<&'static str> {
    entry(path, EntryKind::Regular(content))
}
fn link(path: &str, target: &str) -> Entry<&'static str> {
    entry(path, EntryKind::Symlink(target.as_bytes().into()))
}
fn hard(path: &str, target: &str) -> Entry<&'static str> {
    entry(path, EntryKind::HardLink(target.as_bytes().into()))
}
fn whiteout(path: &str) -> Entry<&'static str> {
    entry(path, EntryKind::Whiteout)
}
fn opaque(path: &str) -> Entry<&'static str> {
    entry(path, EntryKind::Opaque)
}

fn flat(layers: Vec<Vec<Entry<&'static str>>>) -> T {
    let mut tree = T::new();
    for (i, layer) in layers.into_iter().enumerate() {
        tree.apply(Origin(i as u16), layer).unwrap();
    }
    tree
}

/// `path=content`, `path/`, `path->target` for every name but the root.
fn names(tree: &T) -> Vec<String> {
    tree.walk()
        .skip(1)
        .map(|item| {
            let path = String::from_utf8(item.path).unwrap();
            match &tree.node(item.id).kind {
                Kind::Directory(_) => format!("{path}/"),
                Kind::Regular(content) => format!("{path}={content}"),
                Kind::Symlink(target) => format!("{path}->{}", shown(target)),
                other => format!("{path}:{}", other.name()),
            }
        })
        .collect()
}

#[test]
fn whiteouts_hide_lower_layers_only_wherever_they_stand() {
    let lower = || vec![dir("d"), file("d/a", "1"), file("d/b", "1"), file("e", "1")];
    for upper in
        [vec![whiteout("d/a"), file("d/a", "2"), whiteout("e")], vec![file("d/a", "2"), whiteout("e"), whiteout("d/a")]]
    {
        assert_eq!(names(&flat(vec![lower(), upper])), ["/d/", "/d/a=2", "/d/b=1"]);
    }
    // The whole folder, with a new file inside it.
    for upper in [vec![whiteout("d"), file("d/new", "2")], vec![file("d/new", "2"), whiteout("d")]] {
        let tree = flat(vec![lower(), upper]);
        assert_eq!(names(&tree), ["/d/", "/d/new=2", "/e=1"]);
        let id = tree.resolve("/d").unwrap();
        assert_eq!(tree.node(id).meta.origin, Origin::BUILDER, "nobody stated the new folder");
    }
}

#[test]
fn opaque_hides_the_lower_content_and_keeps_the_folder() {
    let lower = vec![dir("d"), file("d/a", "1"), dir("d/s"), file("d/s/x", "1")];
    let upper = vec![file("d/new", "2"), opaque("d"), dir("d/s")];
    assert_eq!(names(&flat(vec![lower.clone(), upper])), ["/d/", "/d/new=2", "/d/s/"]);
    let all = vec![opaque(""), file("only", "2")];
    assert_eq!(names(&flat(vec![lower, all])), ["/only=2"]);
}

#[test]
fn whiteouts_of_nothing_do_nothing() {
    let tree = flat(vec![vec![file("f", "1")], vec![whiteout("x"), whiteout("f/x"), whiteout("no/x"), opaque("no")]]);
    assert_eq!(names(&tree), ["/f=1"]);
}

#[test]
fn parents_are_looked_up_through_links_inside_the_root() {
    let lower = vec![dir("usr"), dir("usr/lib"), link("lib", "usr/lib"), link("abs", "/usr/lib/../lib")];
    let upper = vec![file("lib/a", "2"), file("abs/b", "2"), file("lib/new/c", "2")];
    let tree = flat(vec![lower, upper]);
    assert_eq!(
        names(&tree),
        [
            "/abs->/usr/lib/../lib",
            "/lib->usr/lib",
            "/usr/",
            "/usr/lib/",
            "/usr/lib/a=2",
            "/usr/lib/b=2",
            "/usr/lib/new/",
            "/usr/lib/new/c=2"
        ]
    );
    let escaping = flat(vec![vec![link("up", "../../../.."), file("up/etc/x", "1")]]);
    assert_eq!(names(&escaping), ["/etc/", "/etc/x=1", "/up->../../../.."]);
    let nowhere = flat(vec![vec![link("l", "a/../b"), file("l/x", "1")]]);
    assert_eq!(names(&nowhere), ["/a/", "/b/", "/b/x=1", "/l->a/../b"]);
}

#[test]
fn whiteouts_work_through_merged_usr_links() {
    let lower = vec![dir("usr"), dir("usr/lib"), file("usr/lib/a", "1"), link("lib", "usr/lib")];
    let tree = flat(vec![lower.clone(), vec![whiteout("lib/a")]]);
    assert_eq!(names(&tree), ["/lib->usr/lib", "/usr/", "/usr/lib/"]);
    // A layer that makes a directory of the link hides nothing behind the link.
    let tree = flat(vec![lower, vec![dir("lib"), opaque("lib"), whiteout("lib/a"), file("lib/b", "2")]]);
    assert_eq!(names(&tree), ["/lib/", "/lib/b=2", "/usr/", "/usr/lib/", "/usr/lib/a=1"]);
}

#[test]
fn type_changes_are_reported_once_and_as_they_end() {
    let mut tree = flat(vec![vec![dir("usr/lib"), link("lib", "usr/lib"), dir("d"), file("d/x", "1"), file("f", "1")]]);
    let changes =
        tree.apply(Origin(7), vec![dir("lib"), link("d", "f"), file("d", "2"), dir("f"), file("f", "2")]).unwrap();
    let seen: Vec<_> = changes.iter().map(|c| (shown(&c.path), c.from, c.to, c.origin, c.replaced)).collect();
    assert_eq!(
        seen,
        [
            ("/d".to_owned(), "directory", "regular file", Origin(7), Origin(0)),
            ("/lib".to_owned(), "symbolic link", "directory", Origin(7), Origin(0)),
        ]
    );
    assert_eq!(names(&tree), ["/d=2", "/f=2", "/lib/", "/usr/", "/usr/lib/"]);
    // Said by a whiteout, it is a change all the same.
    let changes = tree.apply(Origin(8), vec![whiteout("lib"), link("lib", "usr/lib")]).unwrap();
    assert_eq!(changes.iter().map(|c| (c.from, c.to)).collect::<Vec<_>>(), [("directory", "symbolic link")]);
}

#[test]
fn directories_keep_their_content_and_take_new_metadata() {
    let mut restated = dir("d");
    restated.meta.mode = 0o1777;
    let tree = flat(vec![vec![dir("d"), file("d/x", "1")], vec![restated]]);
    assert_eq!(names(&tree), ["/d/", "/d/x=1"]);
    let meta = &tree.node(tree.resolve("d").unwrap()).meta;
    assert_eq!((meta.mode, meta.origin), (0o1777, Origin(1)));
    let mut root = dir("./");
    root.meta.mode = 0o700;
    let tree = flat(vec![vec![root]]);
    assert_eq!(tree.node(NodeId::ROOT).meta.mode, 0o700);
}

#[test]
fn parents_only_have_to_be_there() {
    let parent = |path: &str| entry(path, EntryKind::Parent);
    let mut home = dir("root");
    home.meta.mode = 0o700;
    let mut tree = flat(vec![vec![home, link("lib", "usr/lib"), dir("usr/lib")]]);
    let changes = tree.apply(Origin(1), vec![parent(""), parent("root"), file("root/x", "1"), parent("new")]).unwrap();
    assert_eq!(changes, []);
    let meta = |tree: &T, path: &str| tree.node(tree.resolve(path).unwrap()).meta.clone();
    assert_eq!((meta(&tree, "root").mode, meta(&tree, "root").origin), (0o700, Origin(0)));
    assert_eq!((meta(&tree, "new").mode, meta(&tree, "new").origin), (0o755, Origin(1)));
    assert_eq!(meta(&tree, "/").origin, Origin::BUILDER);
    // A link gives way all the same, and the lint hears of it.
    let changes = tree.apply(Origin(2), vec![parent("lib"), file("lib/x", "1")]).unwrap();
    assert_eq!(changes.iter().map(|c| shown(&c.path)).collect::<Vec<_>>(), ["/lib"]);
}

#[test]
fn hard_links_within_and_across_layers() {
    let tree = flat(vec![
        vec![file("a", "1"), hard("b", "./a"), dir("usr/bin"), link("bin", "usr/bin"), file("usr/bin/x", "1")],
        vec![hard("c", "/b"), file("a", "2"), hard("y", "bin/x"), hard("z", "bin")],
    ]);
    let id = |p: &str| tree.resolve_no_follow(p).unwrap();
    assert_eq!(id("b"), id("c"));
    assert_ne!(id("a"), id("b"), "a new file under one name leaves the other name alone");
    assert_eq!(id("y"), id("usr/bin/x"));
    assert_eq!(id("z"), id("bin"), "a link can have two names too");
    assert_eq!(tree.link_counts()[id("b").index()], 2);
    assert_eq!(tree.node(id("b")).meta.origin, Origin(0));
}

#[test]
fn a_hard_link_to_itself_changes_nothing() {
    assert_eq!(names(&flat(vec![vec![file("a", "1"), hard("a", "a")]])), ["/a=1"]);
}

#[test]
fn what_cannot_be_applied_is_refused() {
    let lower = vec![file("f", "1"), dir("d"), link("l1", "l2"), link("l2", "l1"), link("tofile", "f")];
    let cases: Vec<(Vec<Entry<_>>, &str)> = vec![
        (vec![file("../x", "")], "../x: a path in a layer must stay inside the root"),
        (vec![file("d/../../x", "")], "d/../../x: a path in a layer must stay inside the root"),
        (vec![whiteout("d/../f")], "d/../f: a path in a layer must stay inside the root"),
        (vec![opaque("..")], "..: a path in a layer must stay inside the root"),
        (vec![hard("x", "../f")], "../f: a path in a layer must stay inside the root"),
        (
            vec![hard("x", "none")],
            "x: hard link to none, which neither this layer nor one below it has, or which a whiteout hides",
        ),
        (
            vec![hard("x", "none/f")],
            "x: hard link to none/f, which neither this layer nor one below it has, or which a whiteout hides",
        ),
        (
            vec![hard("x", "f"), whiteout("f")],
            "x: hard link to f, which neither this layer nor one below it has, or which a whiteout hides",
        ),
        (vec![hard("x", "d")], "x: hard link to d, which is a directory"),
        (vec![hard("x", "/")], "x: hard link to /, which is a directory"),
        (vec![file("f/x", "")], "f/x: /f is a regular file, not a directory"),
        (vec![file("tofile/x", "")], "tofile/x: /f is a regular file, not a directory"),
        (vec![file("l1/x", "")], "l1/x: /l1 leads round in circles of symbolic links"),
        (vec![file("./", "")], "./: the root of a layer must be a directory"),
        (vec![whiteout("/")], "/: the root of a layer must be a directory"),
        (vec![file("a\0b", "")], "a\0b: a file name cannot hold a NUL byte"),
    ];
    for (upper, message) in cases {
        let mut tree = flat(vec![lower.clone()]);
        assert_eq!(tree.apply(Origin(1), upper).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_last_entry_for_a_path_counts() {
    let tree = flat(vec![vec![
        dir("a"),
        file("a/x", "1"),
        file("a", "2"),
        file("b", "1"),
        hard("c", "b"),
        file("b", "2"),
        link("a", "b"),
    ]]);
    assert_eq!(names(&tree), ["/a->b", "/b=2", "/c=1"]);
}

#[test]
fn a_link_replaced_half_way_is_not_followed_any_more() {
    let tree = flat(vec![
        vec![dir("t"), link("l", "t")],
        vec![file("l/a", "2"), dir("l"), file("l/b", "2"), link("l", "t"), file("l/c", "2")],
    ]);
    assert_eq!(names(&tree), ["/l->t", "/t/", "/t/a=2", "/t/c=2"]);
}
