//! Where things lie in the root.

use imgbuild_tree::{Kind, Origin};

use super::{Check, Finding, Image, Rule, Subject};
use crate::Error;

pub(super) const TMPFS_SHADOW: Rule = Rule {
    name: "tmpfs-shadow",
    demands: "No file lies below the mount point of a tmpfs, which would hide it.",
    check: Check::Tree(tmpfs_shadow),
};

pub(super) const MERGED_USR: Rule = Rule {
    name: "merged-usr",
    demands: "No layer turns a symbolic link to a folder (`/lib`, `/bin`, `/sbin` of a merged /usr) into a folder.",
    check: Check::Tree(merged_usr),
};

pub(super) const INIT: Rule = Rule {
    name: "init",
    demands: "A root with a kernel has a program at `/sbin/init` for the initrd to start.",
    check: Check::Image(init),
};

/// Files named in one finding; the rest is counted.
const NAMED: usize = 5;

fn tmpfs_shadow(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut all = Vec::new();
    for tmpfs in subject.tmpfs {
        // It is mounted where the path leads to: /var/run is /run.
        let Ok(mount) = subject.tree.resolve(&tmpfs.path) else { continue };
        let Some(point) = subject.tree.walk().find(|item| item.id == mount) else { continue };
        let mut below = point.path;
        if below.last() != Some(&b'/') {
            below.push(b'/');
        }
        let mut hidden = subject
            .tree
            .walk()
            .filter(|item| item.path.starts_with(&below) && !subject.tree.node(item.id).kind.is_directory())
            .peekable();
        let Some(first) = hidden.peek() else { continue };
        let layer = subject.layer(subject.tree.node(first.id).meta.origin).to_owned();
        let paths: Vec<_> = hidden.map(|item| String::from_utf8_lossy(&item.path).into_owned()).collect();
        let more = match paths.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let problem = format!(
            "the tmpfs at {} would hide {}{more} (layer {layer})",
            tmpfs.path,
            paths[..paths.len().min(NAMED)].join(", ")
        );
        all.push(TMPFS_SHADOW.finding(
            Some(tmpfs.path.clone()),
            problem,
            "put the files elsewhere, prune them, or write them at boot from a hook",
        ));
    }
    Ok(all)
}

fn merged_usr(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let changed = subject.type_changes.iter().filter(|c| c.from == "symbolic link" && c.to == "directory");
    Ok(changed
        .filter(|c| c.replaced != c.origin && c.replaced != Origin::BUILDER)
        .map(|change| {
            let path = String::from_utf8_lossy(&change.path).into_owned();
            let (by, of) = (subject.layer(change.origin), subject.layer(change.replaced));
            MERGED_USR.finding(
                Some(path.clone()),
                format!("layer {by} turns {path}, a symbolic link in layer {of}, into a folder; what was behind the link is lost"),
                format!("move the layer's files from {path} to where the link leads (/lib is /usr/lib)"),
            )
        })
        .collect())
}

fn init(subject: &Subject<'_>, image: &Image) -> Result<Vec<Finding>, Error> {
    if image.kernel.is_none() {
        return Ok(Vec::new());
    }
    let node = subject.tree.resolve("/sbin/init").map(|id| subject.tree.node(id));
    let problem = match node {
        Ok(node) if !matches!(node.kind, Kind::Regular(_)) => format!("/sbin/init is a {}", node.kind.name()),
        Ok(node) if node.meta.mode & 0o111 == 0 => {
            format!("/sbin/init has mode {:04o}: it cannot be run", node.meta.mode)
        }
        Ok(_) => return Ok(Vec::new()),
        Err(e) => e.to_string(),
    };
    let fix = "install an init (Debian: systemd-sysv), or leave [kernel] out for a root-only bundle";
    Ok(vec![INIT.finding(Some("/sbin/init".to_owned()), problem, fix)])
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::{Metadata, Node, RootTree, TypeChange};
    use netboot_init::config::{Size, Tmpfs};

    use super::super::KernelFacts;
    use super::*;
    use crate::testing::{add, put, subject};

    #[test]
    fn files_below_a_tmpfs() {
        let mut tree = RootTree::new();
        put(&mut tree, "/var/lib/kubelet-not/x", b"");
        let tmpfs = [Tmpfs { path: "/var/lib/kubelet".into(), size: Size::Percent(10), mode: 0o755 }];
        let findings = |tree: &RootTree| tmpfs_shadow(&Subject { tmpfs: &tmpfs, ..subject(tree) }).unwrap();
        assert!(findings(&tree).is_empty());
        for n in 0..7 {
            put(&mut tree, &format!("/var/lib/kubelet/{n}"), b"");
        }
        let found = findings(&tree);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].problem.contains("/var/lib/kubelet/0, ") && found[0].problem.contains("and 2 more"),
            "{found:?}"
        );
    }

    #[test]
    fn files_below_a_tmpfs_behind_links() {
        let mut tree = RootTree::new();
        let link = |target: &[u8]| Node { meta: Metadata::root_owned(0o777), kind: Kind::Symlink(target.into()) };
        add(&mut tree, "/var/run", link(b"/run"));
        add(&mut tree, "/run/other", link(b"../srv/data"));
        put(&mut tree, "/run/foo/x", b"");
        put(&mut tree, "/srv/data/y", b"");
        for (path, hidden) in
            [("/var/run/foo", Some("/run/foo/x")), ("/var/run/other/", Some("/srv/data/y")), ("/var/run/none", None)]
        {
            let tmpfs = [Tmpfs { path: path.into(), size: Size::Percent(10), mode: 0o755 }];
            let found = tmpfs_shadow(&Subject { tmpfs: &tmpfs, ..subject(&tree) }).unwrap();
            let problems: Vec<_> = found.iter().map(|finding| finding.problem.as_str()).collect();
            let wanted = hidden.map(|hidden| format!("the tmpfs at {path} would hide {hidden} (layer imgbuild)"));
            assert_eq!(problems, Vec::from_iter(wanted.as_deref()), "{path}");
        }
    }

    #[test]
    fn empty_folders_below_a_tmpfs_hide_nothing() {
        let mut tree = RootTree::new();
        let folder = Node { meta: Metadata::root_owned(0o755), kind: Kind::Directory(Default::default()) };
        add(&mut tree, "/var/lib/kubelet/pods", folder);
        let tmpfs = [Tmpfs { path: "/var/lib/kubelet/".into(), size: Size::Percent(10), mode: 0o755 }];
        assert!(tmpfs_shadow(&Subject { tmpfs: &tmpfs, ..subject(&tree) }).unwrap().is_empty());
    }

    #[test]
    fn a_link_that_became_a_folder() {
        let tree = RootTree::new();
        let change = |from, to| TypeChange { path: b"/lib".to_vec(), from, to, origin: Origin(1), replaced: Origin(0) };
        let layers = ["base".to_owned(), "site".to_owned()];
        let findings = |change: TypeChange| {
            merged_usr(&Subject { type_changes: &[change], layers: &layers, ..subject(&tree) }).unwrap()
        };
        let found = findings(change("symbolic link", "directory"));
        assert!(found[0].problem.starts_with("layer site turns /lib, a symbolic link in layer base,"), "{found:?}");
        assert!(findings(change("regular file", "directory")).is_empty());
    }

    #[test]
    fn an_init_that_can_be_run() {
        let mut tree = RootTree::new();
        let problem = |tree: &RootTree| {
            let image = Image { kernel: Some(KernelFacts::default()), ..Image::default() };
            let found = init(&subject(tree), &image).unwrap();
            found.first().map(|f| f.problem.clone())
        };
        assert_eq!(problem(&tree).as_deref(), Some("/sbin/init does not exist"));
        assert!(init(&subject(&tree), &Image::default()).unwrap().is_empty(), "a root-only bundle needs none");
        let id = put(&mut tree, "/sbin/init", b"#!");
        assert_eq!(problem(&tree).as_deref(), Some("/sbin/init has mode 0644: it cannot be run"));
        tree.node_mut(id).meta.mode = 0o755;
        assert_eq!(problem(&tree), None);
    }
}
