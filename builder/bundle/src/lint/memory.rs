//! What has to fit into RAM.

use super::{Check, Finding, Image, Rule, Subject};
use crate::inspect::human;
use crate::{Error, budget};

pub(super) const TMPFS_SUM: Rule = Rule {
    name: "tmpfs-sum",
    demands: "All tmpfs mounts together, the root's overlay included, promise no more than the RAM that the root leaves.",
    check: Check::Image(tmpfs_sum),
};

pub(super) const RAM_BUDGET: Rule = Rule {
    name: "ram-budget",
    demands: "No phase of the boot needs more than `[budget] ram`.",
    check: Check::Image(ram_budget),
};

pub(super) const ROOT_BUDGET: Rule = Rule {
    name: "root-budget",
    demands: "`root.squashfs` is no larger than `[budget] root`.",
    check: Check::Image(root_budget),
};

fn tmpfs_sum(subject: &Subject<'_>, image: &Image) -> Result<Vec<Finding>, Error> {
    let ram = image.ram.budget;
    if ram == 0 {
        return Ok(Vec::new());
    }
    let root = image.root.map_or(0, |(size, _)| size);
    let mut parts = vec![("the root's overlay".to_owned(), subject.overlay_size.bytes(ram))];
    parts.extend(subject.tmpfs.iter().map(|t| (t.path.clone(), t.size.bytes(ram))));
    let sum = parts.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
    let left = ram.saturating_sub(root);
    if sum <= left {
        return Ok(Vec::new());
    }
    let list: Vec<_> = parts.iter().map(|(path, size)| format!("{path} {}", human(*size))).collect();
    let problem = format!(
        "tmpfs mounts promise {} where {} of RAM less the root of {} leave {}: {}",
        human(sum),
        human(ram),
        human(root),
        human(left),
        list.join(", ")
    );
    Ok(vec![TMPFS_SUM.finding(
        None,
        problem,
        "lower the sizes, or raise [budget] ram to what the smallest node has: pods are evicted by the size of a tmpfs, and \
         when it is more than there is, the OOM killer comes first",
    )])
}

fn ram_budget(_: &Subject<'_>, image: &Image) -> Result<Vec<Finding>, Error> {
    let ram = &image.ram;
    if ram.budget == 0 || budget::peak(ram) <= ram.budget {
        return Ok(Vec::new());
    }
    let problem = format!(
        "the image needs {} to unpack the initrd, {} to fetch the root, {} at rest; the budget is {}",
        human(ram.unpack),
        human(ram.fetch),
        human(ram.rest),
        human(ram.budget)
    );
    Ok(vec![RAM_BUDGET.finding(
        None,
        problem,
        "prune the root (imgbuild inspect shows what is big), or raise [budget] ram",
    )])
}

fn root_budget(_: &Subject<'_>, image: &Image) -> Result<Vec<Finding>, Error> {
    match image.root {
        Some((size, allowed)) if allowed != 0 && size > allowed => Ok(vec![ROOT_BUDGET.finding(
            None,
            format!(
                "root.squashfs is {} ({size} bytes), the budget is {} ({allowed} bytes)",
                human(size),
                human(allowed)
            ),
            "prune the root (imgbuild inspect shows what is big), compress harder, or raise [budget] root",
        )]),
        _ => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::RootTree;
    use netboot_init::config::{Size, Tmpfs};

    use super::*;
    use crate::manifest::Ram;
    use crate::testing::subject;

    const GIB: u64 = 1 << 30;

    #[test]
    fn sizes_that_promise_more_than_there_is() {
        let tree = RootTree::new();
        let (mut subject, mut image) = (subject(&tree), Image::default());
        let tmpfs = |percent| [Tmpfs { path: "/var/lib/kubelet".into(), size: Size::Percent(percent), mode: 0o755 }];
        image.ram.budget = 2 * GIB;
        subject.overlay_size = Size::Percent(25);
        image.root = Some((GIB / 2, 0));
        let fits = tmpfs(49);
        subject.tmpfs = &fits;
        assert!(tmpfs_sum(&subject, &image).unwrap().is_empty());
        let over = tmpfs(60);
        subject.tmpfs = &over;
        let found = tmpfs_sum(&subject, &image).unwrap();
        assert!(found[0].problem.contains("/var/lib/kubelet 1.3 GB"), "{}", found[0].problem);
        image.ram.budget = 0;
        assert!(tmpfs_sum(&subject, &image).unwrap().is_empty(), "no budget, no judgement");
    }

    #[test]
    fn the_hungriest_phase_counts() {
        let tree = RootTree::new();
        let (subject, mut image) = (subject(&tree), Image::default());
        image.ram = Ram { budget: GIB, unpack: GIB + 1, fetch: 0, rest: 0 };
        assert_eq!(ram_budget(&subject, &image).unwrap().len(), 1);
        image.ram.unpack = GIB;
        assert!(ram_budget(&subject, &image).unwrap().is_empty());
    }

    #[test]
    fn a_root_over_its_budget() {
        let tree = RootTree::new();
        let (subject, mut image) = (subject(&tree), Image::default());
        image.root = Some((101, 100));
        assert_eq!(root_budget(&subject, &image).unwrap().len(), 1);
        image.root = Some((100, 100));
        assert!(root_budget(&subject, &image).unwrap().is_empty());
        image.root = Some((101, 0));
        assert!(root_budget(&subject, &image).unwrap().is_empty());
    }
}
