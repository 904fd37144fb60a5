//! Taking paths out of the merged root.

use std::collections::BTreeSet;

use imgbuild_tree::{FileContent, Kind, LookupError, NodeId, Tree};

use crate::glob::{GlobError, Globs};

/// What [`prune`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// One for each pattern of `paths`, in their order.
    pub patterns: Vec<PrunedPattern>,
    /// Patterns of `paths` and `keep` that match nothing: mistyped, or no longer needed.
    pub unmatched: Vec<Unmatched>,
    /// The paths of what went, but folders.
    pub files: BTreeSet<Box<[u8]>>,
}

/// What one pattern took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedPattern {
    /// As written.
    pub pattern: String,
    /// How many names went.
    pub names: usize,
    /// How many bytes of files went with their last name.
    pub bytes: u64,
}

/// A pattern that matches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmatched {
    /// As written.
    pub pattern: String,
    /// A pattern that would match, where the given one leads through a symbolic link: `/usr/lib/x` for `/lib/x`.
    pub instead: Option<String>,
}

impl Pruned {
    /// How many names went in all.
    #[must_use]
    pub fn names(&self) -> usize {
        self.patterns.iter().map(|p| p.names).sum()
    }

    /// How many bytes went in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.patterns.iter().map(|p| p.bytes).sum()
    }
}

/// One name on its way out, or not.
struct Step {
    parent: NodeId,
    name: Box<[u8]>,
    id: NodeId,
    /// The first pattern that takes it, or a folder above it.
    taken: Option<usize>,
    /// The step of the folder it is in; none in the root.
    folder: Option<usize>,
    /// It stays: it, something above or something in it is kept.
    stays: bool,
}

/// Takes everything out that a glob of `paths` matches, folders with their content, except what a glob of `keep`
/// matches, again with its content and with the folders that lead to it. The root itself stays.
///
/// # Errors
/// When a pattern is no glob or not absolute; nothing is changed then.
pub fn prune<C: FileContent>(tree: &mut Tree<C>, paths: &[String], keep: &[String]) -> Result<Pruned, GlobError> {
    if paths.is_empty() && keep.is_empty() {
        return Ok(Pruned::default());
    }
    let take = Globs::new(paths.iter().map(String::as_str))?;
    let spare = Globs::new(keep.iter().map(String::as_str))?;
    let mut hits = vec![0_usize; paths.len() + keep.len()];
    let mut steps: Vec<Step> = Vec::new();
    let mut found = Vec::new();
    // Folders still to look into: their path, id, and step.
    let mut todo = vec![(Vec::new(), NodeId::ROOT, None)];
    let mut matched = |path: &[u8], taken: &mut Option<usize>, stays: &mut bool| {
        take.matches(path, &mut found);
        found.iter().for_each(|i| hits[*i] += 1);
        *taken = taken.or(found.first().copied());
        spare.matches(path, &mut found);
        found.iter().for_each(|i| hits[paths.len() + i] += 1);
        *stays |= !found.is_empty();
    };
    let (mut root_taken, mut root_stays) = (None, false);
    matched(b"/", &mut root_taken, &mut root_stays);
    while let Some((path, directory, folder)) = todo.pop() {
        let above = folder.and_then(|i: usize| steps.get(i)).map_or((root_taken, root_stays), |s| (s.taken, s.stays));
        for (name, id) in tree.children(directory).into_iter().flatten() {
            let below = [&*path, b"/", name].concat();
            let (mut taken, mut stays) = above;
            matched(&below, &mut taken, &mut stays);
            steps.push(Step { parent: directory, name: name.clone(), id: *id, taken, folder, stays });
            if tree.node(*id).kind.is_directory() {
                todo.push((below, *id, Some(steps.len() - 1)));
            }
        }
    }
    // Every folder's step comes before those of its content: backwards, what stays holds the folders that lead to it.
    for i in (0..steps.len()).rev() {
        let step = &steps[i];
        if let Some(folder) = step.folder
            && (step.stays || step.taken.is_none())
        {
            steps[folder].stays = true;
        }
    }
    let mut links = tree.link_counts();
    let mut pruned = Pruned {
        patterns: paths.iter().map(|p| PrunedPattern { pattern: p.clone(), names: 0, bytes: 0 }).collect(),
        ..Pruned::default()
    };
    for (number, step) in steps.iter().enumerate().filter(|(_, step)| !step.stays) {
        let Some(pattern) = step.taken.and_then(|i| pruned.patterns.get_mut(i)) else { continue };
        tree.unlink(step.parent, &step.name);
        pattern.names += 1;
        if !tree.node(step.id).kind.is_directory() {
            pruned.files.insert(path(&steps, number));
        }
        let left = &mut links[step.id.index()];
        *left = left.saturating_sub(1);
        if let (Kind::Regular(content), 0) = (&tree.node(step.id).kind, *left) {
            pattern.bytes += content.len();
        }
    }
    let all = paths.iter().chain(keep);
    pruned.unmatched = all
        .zip(&hits)
        .filter(|(_, hits)| **hits == 0)
        .map(|(pattern, _)| Unmatched { pattern: pattern.clone(), instead: through_links(tree, pattern) })
        .collect();
    Ok(pruned)
}

/// The path of a step's name.
fn path(steps: &[Step], number: usize) -> Box<[u8]> {
    let mut names: Vec<&[u8]> = Vec::new();
    let mut here = steps.get(number);
    while let Some(step) = here {
        names.extend([&*step.name, b"/"]);
        here = step.folder.and_then(|folder| steps.get(folder));
    }
    names.reverse();
    names.concat().into()
}

/// The pattern with the link resolved that its beginning leads through.
fn through_links<C>(tree: &Tree<C>, pattern: &str) -> Option<String> {
    let mut here = String::new();
    for name in pattern.split('/').filter(|name| !name.is_empty()) {
        let below = format!("{here}/{name}");
        let id = match tree.resolve_no_follow(&below) {
            Ok(id) => id,
            Err(LookupError::NotFound(_) | LookupError::NotADirectory(_) | LookupError::Loop(_)) => return None,
        };
        if let Kind::Symlink(target) = &tree.node(id).kind {
            let target = std::str::from_utf8(target).ok()?;
            let rest = pattern.get(below.len()..)?;
            let start = if target.starts_with('/') { "" } else { &here };
            // `..` in the target would need more than text to be right.
            return (!target.contains("..")).then(|| format!("{start}/{}{rest}", target.trim_matches('/')));
        }
        here = below;
    }
    None
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::{Content, Entry, EntryKind, Metadata, Origin};

    use super::*;

    fn root() -> Tree<Content> {
        let mut tree = Tree::new();
        let file = |path: &str| (path.to_owned(), EntryKind::Regular(Content::from(path.as_bytes())));
        let link = |path: &str, to: &str| (path.to_owned(), EntryKind::Symlink(to.as_bytes().into()));
        let entries = [
            file("usr/share/doc/a/copyright"),
            file("usr/share/doc/a/changelog"),
            file("usr/share/doc/b/readme"),
            file("usr/share/locale/de/x.mo"),
            file("usr/share/locale/en/x.mo"),
            file("usr/share/man/man1/ls.1"),
            file("usr/lib/x.a"),
            file("usr/lib/deep/y.a"),
            file("usr/lib/z.so"),
            ("usr/lib/second".to_owned(), EntryKind::HardLink(b"usr/lib/x.a".as_slice().into())),
            ("empty".to_owned(), EntryKind::Directory),
            link("lib", "usr/lib"),
            link("abs", "/usr/share"),
        ];
        let meta = Metadata::root_owned(0o644);
        let entries = entries.map(|(path, kind)| Entry { path: path.as_bytes().into(), meta: meta.clone(), kind });
        tree.apply(Origin(0), entries.into()).unwrap();
        tree
    }

    fn pruned(paths: &[&str], keep: &[&str]) -> (Vec<String>, Pruned) {
        let mut tree = root();
        let owned = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let before: Vec<_> = tree.walk().map(|i| i.path).collect();
        let pruned = prune(&mut tree, &owned(paths), &owned(keep)).unwrap();
        let after: Vec<_> = tree.walk().map(|i| i.path).collect();
        let gone = before.into_iter().filter(|p| !after.contains(p));
        (gone.map(|p| String::from_utf8(p).unwrap()).collect(), pruned)
    }

    #[test]
    fn folders_go_with_their_content_but_for_what_is_kept() {
        let (gone, report) =
            pruned(&["/usr/share/doc", "/usr/share/locale/*"], &["/usr/share/doc/*/copyright", "/usr/share/locale/en"]);
        assert_eq!(
            gone,
            [
                "/usr/share/doc/a/changelog",
                "/usr/share/doc/b",
                "/usr/share/doc/b/readme",
                "/usr/share/locale/de",
                "/usr/share/locale/de/x.mo"
            ]
        );
        let counts: Vec<_> = report.patterns.iter().map(|p| (p.names, p.bytes)).collect();
        let bytes = |paths: &[&str]| paths.iter().map(|p| p.len() as u64 - 1).sum::<u64>();
        assert_eq!(counts, [(3, bytes(&[&gone[0], &gone[2]])), (2, bytes(&[&gone[4]]))]);
        assert_eq!((report.names(), report.unmatched.len()), (5, 0));
    }

    #[test]
    fn stars_stay_within_a_name_and_double_stars_do_not() {
        assert_eq!(pruned(&["/usr/lib/*.a"], &[]).0, ["/usr/lib/x.a"]);
        assert_eq!(pruned(&["/usr/lib/**/*.a"], &[]).0, ["/usr/lib/deep/y.a", "/usr/lib/x.a"]);
        assert_eq!(pruned(&["/usr/share/{man,doc}/"], &["/usr/share/doc"]).0.len(), 3);
        assert_eq!(pruned(&["/empty"], &[]).0, ["/empty"]);
        assert_eq!(pruned(&["/lib"], &[]).0, ["/lib"], "the link, not what it leads to");
    }

    #[test]
    fn keep_wins_and_keeps_what_is_below() {
        assert!(pruned(&["/usr/share/doc/a/changelog"], &["/usr/share"]).0.is_empty());
        let (gone, _) = pruned(&["/"], &["/usr/lib/z.so"]);
        assert!(gone.contains(&"/usr/share".to_owned()) && gone.contains(&"/empty".to_owned()));
        assert!(!gone.iter().any(|p| ["/", "/usr", "/usr/lib", "/usr/lib/z.so"].contains(&p.as_str())), "{gone:?}");
    }

    #[test]
    fn bytes_count_with_the_last_name() {
        let (_, report) = pruned(&["/usr/lib/x.a"], &[]);
        assert_eq!((report.names(), report.bytes()), (1, 0));
        let (_, report) = pruned(&["/usr/lib/x.a", "/usr/lib/second"], &[]);
        assert_eq!(report.patterns.iter().map(|p| p.bytes).sum::<u64>(), 11);
    }

    #[test]
    fn what_matches_nothing_is_said() {
        let (gone, report) = pruned(&["/usr/shar/doc", "/lib/*.a", "/abs/man"], &["/nothing"]);
        assert!(gone.is_empty());
        let unmatched: Vec<_> = report.unmatched.iter().map(|u| (u.pattern.as_str(), u.instead.as_deref())).collect();
        assert_eq!(
            unmatched,
            [
                ("/usr/shar/doc", None),
                ("/lib/*.a", Some("/usr/lib/*.a")),
                ("/abs/man", Some("/usr/share/man")),
                ("/nothing", None)
            ]
        );
    }

    #[test]
    fn broken_patterns_are_errors() {
        let mut tree = root();
        let error = prune(&mut tree, &["usr/share".to_owned()], &[]).unwrap_err();
        assert_eq!(error.to_string(), "usr/share: must be an absolute path of the image; write /usr/share");
        let error = prune(&mut tree, &[], &["/usr/[".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "/usr/[: is no valid glob");
    }
}
