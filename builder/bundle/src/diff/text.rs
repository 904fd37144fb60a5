//! A difference as text for a terminal: a summary first, then what is behind it, the largest first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::facts::{Facts, KernelChange, LayerChange};
use super::files::{FileChange, FileState, Files};
use super::{Change, Contribution, Difference, Pair, Subject};
use crate::inspect::human;

/// Rows of a table that is cut.
const FEW: usize = 20;
/// Rows of a table of contributions that is cut.
const FEWER: usize = 8;

/// How much of a difference is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The first rows of each table.
    Largest,
    /// All of them.
    All,
}

/// The difference as text.
#[must_use]
pub fn text(found: &Difference, shown: Shown) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} -> {}", subject(&found.before), subject(&found.after));
    if found.equal {
        out.push_str("They are equal, byte for byte.\n");
        return out;
    }
    let mut page = Page { out, all: shown == Shown::All };
    page.summary(found);
    page.packages(found);
    page.facts(&found.facts);
    for (title, all) in [
        ("Unpacked root by layer", &found.contributions.layers),
        ("Unpacked root by folder", &found.contributions.folders),
        ("Unpacked root by package", &found.contributions.packages),
    ] {
        page.contributions(title, all);
    }
    page.files("Files", &found.files);
    if let Some(files) = &found.facts.initrd_files {
        page.files("Files in the initrd", files);
    }
    page.out
}

fn subject(subject: &Subject) -> String {
    match (&subject.name, &subject.version, &subject.arch) {
        (Some(name), Some(version), Some(arch)) => {
            format!("{} ({} {}, {})", printable(&subject.path), printable(name), printable(version), printable(arch))
        }
        _ => printable(&subject.path),
    }
}

/// What stands in a foreign image may steer a terminal: control characters are written as Rust writes them.
fn printable(text: &str) -> String {
    let each = text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() });
    each.collect()
}

fn growth(bytes: i64) -> String {
    match bytes {
        0 => "0 B".to_owned(),
        _ => format!("{}{}", if bytes < 0 { "-" } else { "+" }, human(bytes.unsigned_abs())),
    }
}

/// The sign of a change, as in `diff`; `~` for what is there and differs.
fn sign(change: Change) -> char {
    match change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Changed => '~',
        Change::Renamed => '>',
    }
}

struct Page {
    out: String,
    all: bool,
}

impl Page {
    fn line(&mut self, text: impl AsRef<str>) {
        self.out.push_str(text.as_ref());
        self.out.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.line(format!("\n{text}"));
    }

    /// At most `few` of some rows, and how many are left out.
    fn rows<T>(&mut self, all: &[T], few: usize, row: impl Fn(&T) -> String) {
        // A last line that says "1 more" takes as much room as the row itself.
        let take = if self.all || all.len() <= few + 1 { all.len() } else { few };
        for each in all.iter().take(take) {
            self.line(format!("  {}", row(each)));
        }
        if take < all.len() {
            self.line(format!("  and {} more (--all shows them)", all.len() - take));
        }
    }

    fn summary(&mut self, found: &Difference) {
        let sizes = &found.sizes;
        self.line(format!("\n{:<22} {:>10} {:>10} {:>10}", "", "before", "after", "growth"));
        let mut size = |name: &str, before: Option<u64>, after: Option<u64>| {
            let (Some(was), Some(is)) = (before.or(after.map(|_| 0)), after.or(before.map(|_| 0))) else { return };
            let change = super::files::signed(is) - super::files::signed(was);
            let percent = match was {
                0 => 0.0,
                _ => change as f64 * 100.0 / was as f64,
            };
            let percent = if percent.abs() < 0.05 { String::new() } else { format!("  {percent:+.1} %") };
            let _ =
                writeln!(self.out, "{name:<22} {:>10} {:>10} {:>10}{percent}", human(was), human(is), growth(change));
        };
        let Pair { before, after } = sizes.root_compressed;
        size("root, compressed", Some(before), Some(after));
        let Pair { before, after } = sizes.root_unpacked;
        size("root, unpacked", Some(before), Some(after));
        size("initrd", sizes.initrd.before, sizes.initrd.after);
        size("initrd, unpacked", sizes.initrd_unpacked.before, sizes.initrd_unpacked.after);
        size("kernel", sizes.kernel.before, sizes.kernel.after);
        if let Some(ram) = &found.facts.ram {
            let phases = [
                ("RAM, unpacking initrd", ram.before.unpack, ram.after.unpack),
                ("RAM, fetching root", ram.before.fetch, ram.after.fetch),
                ("RAM at rest", ram.before.rest, ram.after.rest),
                ("RAM budget", ram.before.budget, ram.after.budget),
            ];
            for (name, was, is) in phases.into_iter().filter(|(_, was, is)| was != is) {
                size(name, Some(was), Some(is));
            }
        }
        self.line("");
        self.line(format!("files     {}", counts(&found.files)));
        let count = |change| found.packages.iter().filter(|p| p.change == change).count();
        let (added, removed, changed) = (count(Change::Added), count(Change::Removed), count(Change::Changed));
        self.line(format!("packages  {added} added, {removed} removed, {changed} changed"));
        let bytes: Vec<_> = found.facts.artifacts.iter().map(|a| format!("{}{}", mark(a.change), a.name)).collect();
        self.line(format!(
            "bundle    {}",
            if bytes.is_empty() {
                "every file has the same bytes".to_owned()
            } else {
                format!("other bytes in {}", printable(&bytes.join(", ")))
            }
        ));
    }

    fn packages(&mut self, found: &Difference) {
        if found.packages.is_empty() {
            return;
        }
        self.heading(&format!("Packages ({})", found.packages.len()));
        self.rows(&found.packages, FEW, |package| {
            let versions = match (&package.before, &package.after) {
                (Some(was), Some(is)) => format!("{was} -> {is}"),
                (was, is) => was.as_ref().or(is.as_ref()).cloned().unwrap_or_default(),
            };
            let grown = found.contributions.packages.iter().find(|c| c.name.as_ref() == Some(&package.name));
            let grown = grown.map(|c| growth(c.growth)).unwrap_or_default();
            printable(&format!("{} {grown:>10}  {} {versions}", sign(package.change), package.name))
        });
    }

    fn facts(&mut self, facts: &Facts) {
        if let Some(kernel) = &facts.kernel {
            self.kernel(kernel);
        }
        if !facts.layers.is_empty() || facts.layers_reordered {
            self.heading("Layers");
            self.rows(&facts.layers, usize::MAX - 1, layer_row);
            if facts.layers_reordered {
                self.line("  ~ they lie in another order");
            }
        }
        if !facts.hooks.is_empty() {
            self.heading("Hooks");
            self.rows(&facts.hooks, FEW, |hook| {
                let what = if hook.what.is_empty() { String::new() } else { format!("  ({})", hook.what.join(", ")) };
                printable(&format!("{} {}{what}", sign(hook.change), hook.name))
            });
        }
        if !facts.settings.is_empty() || facts.delivery.is_some() {
            self.heading("Settings");
            if let Some(Pair { before, after }) = &facts.delivery {
                self.line(printable(&format!("  ~ delivery: {before} -> {after}")));
            }
            self.rows(&facts.settings, FEW, |setting| {
                let values = match (&setting.before, &setting.after) {
                    (Some(was), Some(is)) => format!("{was} -> {is}"),
                    (was, is) => was.as_ref().or(is.as_ref()).cloned().unwrap_or_default(),
                };
                printable(&format!("{} {}: {values}", sign(setting.change), setting.name))
            });
        }
        let tests: Vec<_> = [(Change::Removed, &facts.tests.removed), (Change::Added, &facts.tests.added)]
            .into_iter()
            .flat_map(|(change, tests)| tests.iter().map(move |test| (change, test)))
            .collect();
        if !tests.is_empty() {
            self.heading("Tests");
            self.rows(&tests, FEW, |(change, test)| printable(&format!("{} {test}", sign(*change))));
        }
    }

    fn kernel(&mut self, kernel: &KernelChange) {
        self.heading("Kernel");
        if let Some(Pair { before, after }) = &kernel.release {
            let name = |release: &Option<String>| printable(release.as_deref().unwrap_or("none"));
            self.line(format!("  ~ {} -> {}", name(before), name(after)));
        }
        if let Some(Pair { before, after }) = &kernel.cmdline {
            self.line(printable(&format!("  - {}", before.join(" "))));
            self.line(printable(&format!("  + {}", after.join(" "))));
        }
        for (what, words) in [("modules", &kernel.modules), ("firmware", &kernel.firmware)] {
            for (change, names) in [(Change::Removed, &words.removed), (Change::Added, &words.added)] {
                if !names.is_empty() {
                    self.line(printable(&format!("  {} {what} in the initrd: {}", sign(change), names.join(" "))));
                }
            }
        }
    }

    fn contributions(&mut self, title: &str, all: &[Contribution]) {
        if all.is_empty() {
            return;
        }
        self.heading(title);
        self.rows(all, FEWER, |each| {
            let name = each.name.as_deref().unwrap_or("(none)");
            let was = human(each.before);
            printable(&format!("{:>10}  {was:>10} -> {:>10}  {name}", growth(each.growth), human(each.after)))
        });
    }

    fn files(&mut self, title: &str, files: &Files) {
        let rights: Vec<_> = files.list.iter().filter(|file| file.concerns_rights()).collect();
        if !rights.is_empty() {
            self.heading(&format!("{title}: type, owner, mode, attributes ({})", rights.len()));
            self.rows(&rights, FEW, |file| printable(&file_row(file)));
        }
        let rows = if self.all { files.list.iter().map(file_row).collect() } else { folded(&files.list) };
        if !rows.is_empty() {
            self.heading(&format!("{title}: {}", counts(files)));
            self.rows(&rows, FEW, |row| printable(row));
        }
    }
}

/// A row for each file, but one only for a folder that came or went with all that is in it; the largest first.
pub(super) fn folded(list: &[FileChange]) -> Vec<String> {
    let whole = |change| {
        let folders = list.iter().filter(move |file| file.change == change && file.is_folder());
        folders.map(|folder| format!("{}/", folder.path)).collect::<BTreeSet<_>>()
    };
    let (added, removed) = (whole(Change::Added), whole(Change::Removed));
    let mut sums: BTreeMap<&str, (i64, u64)> = BTreeMap::new();
    let mut rows = Vec::new();
    for file in list {
        let folders = match file.change {
            Change::Added => &added,
            Change::Removed => &removed,
            Change::Changed | Change::Renamed => {
                rows.push((file.growth, file_row(file)));
                continue;
            }
        };
        // The uppermost of the folders that it is in.
        let own = if file.is_folder() { format!("{}/", file.path) } else { file.path.clone() };
        let ends = own.match_indices('/').map(|(at, _)| at + 1);
        match ends.filter_map(|end| folders.get(own.get(..end)?)).next() {
            Some(folder) => {
                let sum = sums.entry(folder).or_default();
                sum.0 += file.growth;
                sum.1 += u64::from(!file.is_folder());
            }
            None => rows.push((file.growth, file_row(file))),
        }
    }
    for (folder, (grown, files)) in sums {
        let change = if added.contains(folder) { Change::Added } else { Change::Removed };
        let plural = if files == 1 { "" } else { "s" };
        rows.push((grown, format!("{} {:>10}  {folder}  {files} file{plural}", sign(change), growth(grown))));
    }
    rows.sort_by_key(|(grown, _)| std::cmp::Reverse(grown.unsigned_abs()));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// A sign before the name of a file that only one bundle has.
fn mark(change: Change) -> &'static str {
    match change {
        Change::Added => "+",
        Change::Removed => "-",
        Change::Changed | Change::Renamed => "",
    }
}

fn counts(files: &Files) -> String {
    let mut text = format!(
        "{} added, {} removed, {} changed, {} renamed",
        files.added, files.removed, files.changed, files.renamed
    );
    if files.time_only > 0 {
        let _ = write!(text, ", {} with another time only", files.time_only);
    }
    text
}

fn layer_row(layer: &LayerChange) -> String {
    let name = printable(&layer.name);
    match (&layer.before, &layer.after) {
        (Some(was), Some(is)) => {
            let grown = growth(super::files::signed(is.bytes) - super::files::signed(was.bytes));
            let mut text = format!("~ {grown:>10}  {name}");
            for (key, was, is) in [("source", &was.source, &is.source), ("digest", &was.digest, &is.digest)] {
                if was != is {
                    let _ = write!(
                        text,
                        "\n                 {key} {}\n                     -> {}",
                        printable(was),
                        printable(is)
                    );
                }
            }
            if was.digest == is.digest && was.files != is.files {
                let _ = write!(text, "  {} -> {} files in the root", was.files, is.files);
            }
            text
        }
        (was, is) => {
            let (Some(entry), change) = (is.as_ref().or(was.as_ref()), layer.change) else { return name };
            format!("{} {:>10}  {name}  {}", sign(change), human(entry.bytes), printable(&entry.source))
        }
    }
}

fn file_row(file: &FileChange) -> String {
    let mut text = format!("{} {:>10}  {}", sign(file.change), growth(file.growth), file.path);
    if let Some(from) = &file.from {
        let _ = write!(text, "  (was {from})");
    }
    let about = file.after.as_ref().or(file.before.as_ref());
    if file.is_folder() {
        text.push('/');
    }
    let details: Vec<_> =
        file.what.iter().map(|aspect| detail(*aspect, file.before.as_ref(), file.after.as_ref())).collect();
    if !details.is_empty() {
        let _ = write!(text, "  {}", details.join(", "));
    }
    match about.map(|state| (&state.package, &state.layer)) {
        Some((Some(package), Some(layer))) => drop(write!(text, "  [{layer}: {package}]")),
        Some((Some(one), None) | (None, Some(one))) => drop(write!(text, "  [{one}]")),
        _ => {}
    }
    text
}

/// What differs, with both values where they are short.
fn detail(aspect: super::Aspect, before: Option<&FileState>, after: Option<&FileState>) -> String {
    let (Some(was), Some(is)) = (before, after) else { return aspect.name().to_owned() };
    let both = |was: &str, is: &str| format!("{} {was} -> {is}", aspect.name());
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    match aspect {
        super::Aspect::Type => both(was.kind, is.kind),
        super::Aspect::Owner => both(&format!("{}:{}", was.uid, was.gid), &format!("{}:{}", is.uid, is.gid)),
        super::Aspect::Mode => both(&was.mode, &is.mode),
        super::Aspect::Target => both(&optional(&was.target), &optional(&is.target)),
        super::Aspect::Device => both(&optional(&was.device), &optional(&is.device)),
        super::Aspect::Content => aspect.name().to_owned(),
        super::Aspect::Xattrs => {
            let names = was.xattrs.keys().chain(is.xattrs.keys()).collect::<std::collections::BTreeSet<_>>();
            let differ = names.into_iter().filter(|name| was.xattrs.get(*name) != is.xattrs.get(*name));
            format!("{} {}", aspect.name(), differ.cloned().collect::<Vec<_>>().join(" "))
        }
    }
}
