//! [`Tree::apply`] against a model that knows nothing but paths: what the specification says, written the slow way.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Dir(String, u16),
    Parent(String),
    File(String, u32),
    Hard(String, String),
    Whiteout(String),
    Opaque(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Thing {
    Dir(u16),
    /// The number stands for the inode: equal numbers are hard links.
    File(u32),
}

type Model = BTreeMap<String, Thing>;

fn below<'m>(model: &'m Model, path: &'m str) -> impl Iterator<Item = String> + 'm {
    let inside = move |p: &str| path.is_empty() || p.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    model.keys().filter(move |p| inside(p)).cloned()
}

fn remove(model: &mut Model, path: &str, itself: bool) {
    let inside: Vec<String> = below(model, path).collect();
    inside.iter().for_each(|p| {
        model.remove(p);
    });
    if itself {
        model.remove(path);
    }
}

/// One layer onto the model; false where it must be refused.
fn apply(model: &mut Model, steps: &[Step]) -> bool {
    for step in steps {
        match step {
            Step::Whiteout(path) => remove(model, path, true),
            Step::Opaque(path) if path.is_empty() || matches!(model.get(path), Some(Thing::Dir(_))) => {
                remove(model, path, false);
            }
            _ => {}
        }
    }
    for step in steps {
        let (Step::Dir(path, _) | Step::Parent(path) | Step::File(path, _) | Step::Hard(path, _)) = step else {
            continue;
        };
        for (end, _) in path.match_indices('/') {
            match model.get(&path[..end]) {
                None => {
                    model.insert(path[..end].to_owned(), Thing::Dir(0o755));
                }
                Some(Thing::Dir(_)) => {}
                Some(Thing::File(_)) => return false,
            }
        }
        let there = model.get(path).cloned();
        let thing = match step {
            Step::Parent(_) => there.filter(|t| matches!(t, Thing::Dir(_))).unwrap_or(Thing::Dir(0o700)),
            Step::Dir(_, mode) => Thing::Dir(*mode),
            Step::File(_, inode) => Thing::File(*inode),
            Step::Hard(_, target) => match model.get(target) {
                Some(Thing::File(inode)) => Thing::File(*inode),
                _ => return false,
            },
            Step::Whiteout(_) | Step::Opaque(_) => continue,
        };
        if matches!(thing, Thing::File(_)) {
            remove(model, path, true);
        }
        model.insert(path.clone(), thing);
    }
    true
}

fn entries(steps: &[Step]) -> Vec<Entry<u32>> {
    let entry = |path: &str, mode, kind| Entry { path: path.as_bytes().into(), meta: Metadata::root_owned(mode), kind };
    steps
        .iter()
        .map(|step| match step {
            Step::Dir(path, mode) => entry(path, *mode, EntryKind::Directory),
            Step::Parent(path) => entry(path, 0o700, EntryKind::Parent),
            Step::File(path, inode) => entry(path, 0o644, EntryKind::Regular(*inode)),
            Step::Hard(path, target) => entry(path, 0, EntryKind::HardLink(target.as_bytes().into())),
            Step::Whiteout(path) => entry(path, 0, EntryKind::Whiteout),
            Step::Opaque(path) => entry(path, 0, EntryKind::Opaque),
        })
        .collect()
}

/// The tree as a model: the first content met under a node stands for the node, since each file of the test has its own.
fn seen(tree: &Tree<u32>) -> Model {
    tree.walk()
        .skip(1)
        .map(|item| {
            let node = tree.node(item.id);
            let thing = match &node.kind {
                Kind::Directory(_) => Thing::Dir(node.meta.mode),
                Kind::Regular(inode) => Thing::File(*inode),
                other => panic!("a {} from nowhere", other.name()),
            };
            (String::from_utf8(item.path[1..].to_vec()).unwrap(), thing)
        })
        .collect()
}

fn path() -> impl Strategy<Value = String> {
    "[abc](/[abc]){0,3}"
}

fn layers() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        3 => (path(), prop_oneof![Just(0o755_u16), Just(0o711)]).prop_map(|(p, m)| Step::Dir(p, m)),
        1 => path().prop_map(Step::Parent),
        4 => path().prop_map(|p| Step::File(p, 0)),
        1 => (path(), path()).prop_map(|(p, t)| Step::Hard(p, t)),
        2 => path().prop_map(Step::Whiteout),
        1 => prop_oneof![path(), Just(String::new())].prop_map(Step::Opaque),
    ];
    prop::collection::vec(prop::collection::vec(step, 0..8), 1..5).prop_map(|mut layers| {
        let files = layers.iter_mut().flatten().filter_map(|step| match step {
            Step::File(_, inode) => Some(inode),
            _ => None,
        });
        files.enumerate().for_each(|(i, inode)| *inode = i as u32);
        layers
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn apply_does_what_the_model_does(layers in layers()) {
        let mut model = Model::new();
        let mut tree = Tree::new();
        for (i, steps) in layers.iter().enumerate() {
            let before = model.clone();
            let taken = apply(&mut model, steps);
            let changes = tree.apply(Origin(i as u16), entries(steps));
            prop_assert_eq!(changes.is_ok(), taken, "{:?}", changes);
            let Ok(changes) = changes else { return Ok(()) };
            prop_assert_eq!(seen(&tree), model.clone());
            prop_assert!(tree.ids().eq(tree.walk().map(|item| item.id)));
            // A name of the lower layers that is another kind of thing now is a change, and nothing else is.
            let is_dir = |thing: &Thing| matches!(thing, Thing::Dir(_));
            let expected: Vec<String> = before.iter()
                .filter(|(path, was)| model.get(*path).is_some_and(|is| is_dir(is) != is_dir(was)))
                .map(|(path, _)| format!("/{path}"))
                .collect();
            let found: Vec<String> = changes.iter().map(|c| shown(&c.path)).collect();
            // A folder that gave way took its content along: names in it that came back are new names.
            for path in &found {
                prop_assert!(expected.contains(path), "{path} is no change");
            }
            let gave_way = |path: &str| steps.iter().any(|step| match step {
                Step::Whiteout(up) | Step::Opaque(up) | Step::File(up, _) | Step::Hard(up, _) => {
                    up.is_empty() || path.starts_with(&format!("/{up}/"))
                }
                Step::Dir(..) | Step::Parent(_) => false,
            });
            for path in &expected {
                prop_assert!(found.contains(path) || gave_way(path), "{path} changed and was not reported");
            }
        }
    }
}
