//! A root drawn as a treemap: one HTML file that needs nothing else, to see what is big and what has changed.
//!
//! [`html`] nests the files by folder, leaves out what is too small to be seen (as `n more files`), and puts the result as
//! JSON into `page.html`, whose script lays it out. The page fetches nothing; its content policy forbids it.

mod data;
mod estimate;

use crate::diff::{Change, DiffError, Difference, FileChange, Side};
use crate::inspect::human;

use data::{Leaf, Status};

/// Draws a root; with a difference, against the root before.
///
/// # Errors
/// When a file of the root cannot be read: how well it compresses is estimated from its content.
pub fn html(side: &Side, against: Option<&Difference>) -> Result<String, DiffError> {
    let files = side.root.files();
    let stored = estimate::stored(&side.root, &files, side.root_size)?;
    let changes: std::collections::HashMap<&str, &FileChange> =
        against.iter().flat_map(|d| &d.files.list).map(|change| (change.path.as_str(), change)).collect();
    let total: u64 = files.iter().map(|(_, _, len)| len).sum();
    let mut leaves: Vec<Leaf> = files
        .iter()
        .zip(stored)
        .map(|((path, id, size), stored)| {
            let path = String::from_utf8_lossy(path).into_owned();
            let change = changes.get(path.as_str());
            Leaf {
                layer: side.root.layer(path.as_bytes()).map(str::to_owned),
                package: side.root.owners.package(*id).map(str::to_owned),
                size: *size,
                stored,
                before: change.and_then(|c| c.before.as_ref()).map(|state| state.size),
                status: change.map_or(Status::Same, |c| status(c.change)),
                path,
            }
        })
        .collect();
    let ratio = if total == 0 { 0.0 } else { side.root_size as f64 / total as f64 };
    let gone = against.iter().flat_map(|d| &d.files.list).filter(|c| c.change == Change::Removed);
    leaves.extend(gone.filter_map(|change| removed(change, ratio, side.root.knows_layers())));
    let page = data::page(&heading(side, against, total, files.len()), leaves);
    Ok(render(&page))
}

fn status(change: Change) -> Status {
    match change {
        Change::Added => Status::Added,
        Change::Removed => Status::Removed,
        Change::Changed => Status::Changed,
        Change::Renamed => Status::Renamed,
    }
}

/// A file that is no more, where it was. It is drawn when changes are coloured.
fn removed(change: &FileChange, ratio: f64, layers: bool) -> Option<Leaf> {
    let before = change.before.as_ref().filter(|state| state.kind == "regular file")?;
    Some(Leaf {
        path: change.path.clone(),
        size: before.size,
        stored: (before.size as f64 * ratio) as u64,
        layer: before.layer.clone().filter(|_| layers),
        package: before.package.clone(),
        before: Some(before.size),
        status: Status::Removed,
    })
}

fn heading(side: &Side, against: Option<&Difference>, total: u64, files: usize) -> data::Heading {
    let name = |subject: &crate::diff::Subject| match (&subject.name, &subject.version) {
        (Some(name), Some(version)) => format!("{name} {version}"),
        _ => subject.path.clone(),
    };
    data::Heading {
        title: name(&side.subject),
        facts: format!("{files} files, {} in a squashfs image of {}", human(total), human(side.root_size)),
        against: against.map(|found| name(&found.before)),
        changes: against.map(|found| {
            let files = &found.files;
            format!(
                "{} added, {} removed, {} changed, {} renamed",
                files.added, files.removed, files.changed, files.renamed
            )
        }),
    }
}

fn render(page: &data::Page) -> String {
    // In a script element only `<` can end it; in JSON it stands in strings only.
    let json = serde_json::to_string(page).unwrap_or_default().replace('<', "\\u003c");
    let parts = [
        ("/*STYLE*/", include_str!("page.css")),
        ("/*SCRIPT*/", include_str!("page.js")),
        ("TITLE", &escaped(&page.heading.title)),
        ("{\"DATA\":0}", &json),
    ];
    // One pass, so that nothing in a part is taken for a place.
    let mut out = String::new();
    let mut rest = include_str!("page.html");
    for (place, part) in order(parts) {
        if let Some((before, after)) = rest.split_once(place) {
            out.push_str(before);
            out.push_str(part);
            rest = after;
        }
    }
    out + rest
}

/// The parts in the order in which the page has their places.
fn order<'a>(mut parts: [(&'static str, &'a str); 4]) -> [(&'static str, &'a str); 4] {
    let page = include_str!("page.html");
    parts.sort_by_key(|(place, _)| page.find(place));
    parts
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests;
