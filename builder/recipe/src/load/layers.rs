//! `[[layer]]` tables.

use super::Problems;
use super::decode::{Decode, Fields, InnerPath, Want, check_there, choice, choices, local_path, quoted, wrong};
use super::value::{Node, Span, Value};
use crate::diagnostics::Diagnostic;
use crate::layer::{
    Copy, DebianLayer, FileLayer, Layer, OciLayer, OverlayLayer, Repository, SOURCE_KEYS, Source, TarLayer, UrlLayer,
    Variant,
};
use crate::oci::{OciSource, is_sha256};
use crate::values::Mode;

pub(crate) const LAYER: &[&str] =
    &["name", "oci", "url", "tar", "file", "debian", "overlay", "copy", "sha256", "to", "mode"];
pub(crate) const COPY: &[&str] = &["from", "to"];
pub(crate) const DEBIAN: &[&str] = &[
    "suite",
    "packages",
    "mirror",
    "snapshot",
    "components",
    "repositories",
    "variant",
    "exclude_paths",
    "include_paths",
];
pub(crate) const REPOSITORY: &[&str] = &["uri", "suite", "components", "key"];

choices!(Variant {
    "extract" => Variant::Extract,
    "custom" => Variant::Custom,
    "essential" => Variant::Essential,
    "apt" => Variant::Apt,
    "minbase" => Variant::Minbase,
    "important" => Variant::Important,
    "standard" => Variant::Standard,
});

/// `FILE:LINE` of a place, with the file as the user named it and as seen from the first recipe.
pub(crate) fn place(at: &Span, problems: &Problems) -> (String, String) {
    let Some(file) = problems.file(at) else { return (String::new(), String::new()) };
    let (line, _) = file.line_and_column(at.range.start);
    (format!("{}:{line}", file.label), format!("{}:{line}", file.origin))
}

/// A name that fits into file names and messages.
pub(crate) fn name(node: &Node, what: &str, problems: &mut Problems) -> Option<String> {
    let text = String::decode(node, problems)?;
    let fits = text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-'));
    if !fits {
        let help = "a name has letters, digits, `.`, `_`, `+` and `-`, and starts with a letter or digit";
        wrong(node, Diagnostic::new(format!("{} is not a name for {what}", quoted(&text))).help(help), problems);
    }
    fits.then_some(text)
}

pub(crate) fn layer(node: &Node, problems: &mut Problems) -> Option<Layer> {
    let fields = Fields::of(node, "[[layer]]", LAYER, problems)?;
    let name = fields.required_node("name", problems).and_then(|node| name(node, "a layer", problems));
    let given: Vec<&str> = SOURCE_KEYS.into_iter().filter(|key| fields.key(key).is_some()).collect();
    let kind = match given.as_slice() {
        [one] => *one,
        [] => {
            if !problems.incomplete() && !fields.is_guessed() {
                let diagnostic = Diagnostic::new("[[layer]] does not say where its files come from");
                problems.at(fields.at(), diagnostic.help(format!("give it one of {}", SOURCE_KEYS.join(", "))));
            }
            return None;
        }
        [first, rest @ ..] => {
            for key in rest {
                if let Some(at) = fields.key(key) {
                    let message = format!("[[layer]] has both `{first}` and `{key}`");
                    problems.at(at, Diagnostic::new(message).help("make two layers of it"));
                }
            }
            return None;
        }
    };
    let (goes, source) = match kind {
        "oci" => (&["copy"][..], oci(&fields, problems)),
        "url" => (&["sha256", "to", "mode"][..], url(&fields, problems)),
        "tar" => (&["to"][..], tar(&fields, problems)),
        "file" => (&["to", "mode"][..], file(&fields, problems)),
        "debian" => (&[][..], fields.optional(kind, problems).map(Source::Debian)),
        _ => (&[][..], overlay(&fields, problems)),
    };
    let strangers: Vec<&str> = ["copy", "sha256", "to", "mode"].into_iter().filter(|key| !goes.contains(key)).collect();
    fields.refuse(&strangers, kind, problems);
    let (place, origin) = place(&node.at, problems);
    Some(Layer { name: name?, source: source?, place, origin })
}

fn oci(fields: &Fields<'_>, problems: &mut Problems) -> Option<Source> {
    let copy = fields.node("copy").map_or(Some(Vec::new()), |node| Decode::decode(node, problems));
    let node = fields.node("oci")?;
    let text = String::decode(node, problems)?;
    let base = problems.file(&node.at)?.dir.clone();
    let image = match OciSource::parse(&text, &base) {
        Ok(image) => image,
        Err(message) => {
            let help = "write REGISTRY/NAME:TAG, REGISTRY/NAME@sha256:…, oci-layout:DIR[:TAG], oci-archive:FILE[:TAG] or \
                        docker-archive:FILE[:NAME:TAG]";
            wrong(node, Diagnostic::new(message).help(help), problems);
            return None;
        }
    };
    let want = if matches!(image, OciSource::Layout { .. }) { Want::Folder } else { Want::File };
    if let Some(path) = image.path() {
        check_there(node, path, want, problems);
    }
    Some(Source::Oci(OciLayer { image, copy: copy? }))
}

impl Decode for Copy {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "`copy`", COPY, problems)?;
        // A slash at the end means something in both: the folder behind a link, and into a folder.
        let from = fields.required_node("from", problems).and_then(|node| slashed_path(node, problems));
        let to = match fields.node("to") {
            Some(node) => slashed_path(node, problems),
            None => {
                from.as_ref().map(|from| if from == "/" { from.clone() } else { from.trim_end_matches('/').to_owned() })
            }
        };
        Some(Self { from: from?, to: to? })
    }
}

fn url(fields: &Fields<'_>, problems: &mut Problems) -> Option<Source> {
    let url = fields.node("url").and_then(|node| http_url(node, problems));
    let sha256 = fields.required_node("sha256", problems).and_then(|node| sha256(node, problems));
    let to = fields.required_node("to", problems).and_then(|node| slashed_path(node, problems));
    let mode = match fields.node("mode") {
        Some(node) => Some(Mode::decode(node, problems)?),
        None => None,
    };
    Some(Source::Url(UrlLayer { url: url?, sha256: sha256?, to: to?, mode }))
}

/// A path whose trailing slash stays, since it says something: in `to`, that the file's own name follows.
fn slashed_path(node: &Node, problems: &mut Problems) -> Option<String> {
    let InnerPath(path) = InnerPath::decode(node, problems)?;
    let slash = node.as_str().is_some_and(|text| text.ends_with('/')) && path != "/";
    Some(if slash { path + "/" } else { path })
}

fn http_url(node: &Node, problems: &mut Problems) -> Option<String> {
    let text = String::decode(node, problems)?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fits = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?', '#']))
        && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if !fits {
        let message = format!("{} is not a URL that can be downloaded", quoted(&text));
        wrong(node, Diagnostic::new(message).help("write `https://…` or `http://…`"), problems);
    }
    fits.then_some(text)
}

pub(crate) fn sha256(node: &Node, problems: &mut Problems) -> Option<String> {
    let text = String::decode(node, problems)?;
    let hex = text.strip_prefix("sha256:").unwrap_or(&text).to_ascii_lowercase();
    if !is_sha256(&hex) {
        let message = format!("{} is not a SHA-256", quoted(&text));
        let found = hex.chars().count();
        let help = format!("a SHA-256 has 64 digits 0-9 a-f, here are {found} characters; `sha256sum FILE` prints it");
        wrong(node, Diagnostic::new(message).help(help), problems);
        return None;
    }
    Some(hex)
}

fn tar(fields: &Fields<'_>, problems: &mut Problems) -> Option<Source> {
    let path = fields.node("tar").and_then(|node| local_path(node, Want::File, problems));
    let to = match fields.node("to") {
        Some(node) => InnerPath::decode(node, problems)?.0,
        None => "/".to_owned(),
    };
    Some(Source::Tar(TarLayer { path: path?, to }))
}

fn file(fields: &Fields<'_>, problems: &mut Problems) -> Option<Source> {
    let path = fields.node("file").and_then(|node| local_path(node, Want::File, problems));
    let to_node = fields.required_node("to", problems);
    let to = to_node.and_then(|node| InnerPath::decode(node, problems));
    let mode = match fields.node("mode") {
        Some(node) => Mode::decode(node, problems)?,
        None => Mode(0o644),
    };
    let (path, mut to) = (path?, to?.0);
    if to_node.and_then(Node::as_str).is_some_and(|text| text.ends_with('/')) {
        let own = path.file_name().and_then(|name| name.to_str())?;
        to = format!("{}/{own}", to.trim_end_matches('/'));
    }
    Some(Source::File(FileLayer { path, to, mode }))
}

fn overlay(fields: &Fields<'_>, problems: &mut Problems) -> Option<Source> {
    let path = local_path(fields.node("overlay")?, Want::Folder, problems)?;
    Some(Source::Overlay(OverlayLayer { path }))
}

impl Decode for DebianLayer {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "`debian`", DEBIAN, problems)?;
        let suite = fields.required_node("suite", problems).and_then(|node| word(node, "a suite", problems));
        let packages = words(&fields, "packages", "a package", problems);
        let mirror = fields.node("mirror").and_then(|node| mirror_url(node, problems));
        let snapshot = fields.node("snapshot").and_then(|node| snapshot(node, problems));
        let mut components = words(&fields, "components", "a component", problems).unwrap_or_default();
        if components.is_empty() {
            components.push("main".to_owned());
        }
        if let (Some(_), Some(at)) = (fields.key("mirror"), fields.key("snapshot")) {
            let diagnostic = Diagnostic::new("`snapshot` does not go with `mirror`");
            problems.at(at, diagnostic.help("write the mirror of a past state as `mirror` alone"));
        }
        let (repositories, variant) =
            (fields.or_default("repositories", problems), fields.or_default("variant", problems));
        let exclude_paths = dpkg_globs(&fields, "exclude_paths", problems);
        let include_paths = dpkg_globs(&fields, "include_paths", problems);
        Some(Self {
            suite: suite?,
            packages: packages?,
            mirror,
            snapshot,
            components,
            repositories,
            variant,
            exclude_paths,
            include_paths,
        })
    }
}

impl Decode for Repository {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let fields = Fields::of(node, "`repositories`", REPOSITORY, problems)?;
        let uri = fields.required_node("uri", problems).and_then(|node| mirror_url(node, problems));
        let suite = fields.required_node("suite", problems).and_then(|node| word(node, "a suite", problems));
        let mut components = words(&fields, "components", "a component", problems).unwrap_or_default();
        let key = fields.node("key").and_then(|node| local_path(node, Want::File, problems));
        let (uri, suite) = (uri?, suite?);
        match (suite.ends_with('/'), components.is_empty(), fields.key("components")) {
            (true, false, Some(at)) => {
                let message = "a suite that ends in `/` is an exact path and has no components";
                problems.at(at, Diagnostic::new(message));
            }
            (false, true, _) => components.push("main".to_owned()),
            _ => {}
        }
        Some(Self { uri, suite, components, key })
    }
}

/// Words become arguments of programs and lines of `sources.list`: nothing in them may look like an option, or end one.
fn word(node: &Node, what: &str, problems: &mut Problems) -> Option<String> {
    let text = String::decode(node, problems)?;
    let fits = !text.is_empty()
        && !text.starts_with('-')
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '[' | ']' | '#'));
    if !fits {
        wrong(node, Diagnostic::new(format!("{} is not the name of {what}", quoted(&text))), problems);
    }
    fits.then_some(text)
}

fn words(fields: &Fields<'_>, key: &str, what: &str, problems: &mut Problems) -> Option<Vec<String>> {
    match fields.node(key).map(|node| (node, &node.value)) {
        None => Some(Vec::new()),
        Some((_, Value::Array(items))) => {
            let words: Vec<Option<String>> = items.iter().map(|item| word(item, what, problems)).collect();
            words.into_iter().collect()
        }
        Some((node, _)) => Vec::decode(node, problems),
    }
}

fn mirror_url(node: &Node, problems: &mut Problems) -> Option<String> {
    let text = String::decode(node, problems)?;
    let schemes = ["https://", "http://", "file:/", "copy:/"];
    let fits = schemes.iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '[' | ']' | '#'));
    if !fits {
        let message = format!("{} is not the URL of a package archive", quoted(&text));
        wrong(node, Diagnostic::new(message).help("write `https://…`, `http://…`, `file:/…` or `copy:/…`"), problems);
    }
    fits.then_some(text)
}

fn dpkg_globs(fields: &Fields<'_>, key: &str, problems: &mut Problems) -> Vec<String> {
    let Some(node) = fields.node(key) else { return Vec::new() };
    let Value::Array(items) = &node.value else {
        return Vec::decode(node, problems).unwrap_or_default();
    };
    let mut result = Vec::new();
    for item in items {
        let Some(text) = String::decode(item, problems) else { continue };
        if text.starts_with('/') && !text.contains(|c: char| c.is_control()) {
            result.push(text);
        } else {
            let diagnostic = Diagnostic::new(format!("{} is not an absolute path or glob", quoted(&text)));
            wrong(item, diagnostic.help("dpkg compares whole paths, like `/usr/share/doc/*`"), problems);
        }
    }
    result
}

/// A time as snapshot.debian.org spells it: `20261101T083000Z`. Read from that, or `2026-11-01`,
/// `2026-11-01T08:30:00Z`, as text or as TOML's own date.
fn snapshot(node: &Node, problems: &mut Problems) -> Option<String> {
    let text = match &node.value {
        Value::Datetime(date) => date.to_string(),
        _ => String::decode(node, problems)?,
    };
    let result = snapshot_time(&text);
    if result.is_none() {
        let message = format!("{} is not a date or time in UTC", quoted(&text));
        let help = "write it like \"2026-11-01\", \"2026-11-01T08:30:00Z\" or \"20261101T083000Z\"";
        wrong(node, Diagnostic::new(message).help(help), problems);
    }
    result
}

fn snapshot_time(text: &str) -> Option<String> {
    let (date, time) = match text.split_once(['T', ' ', 't']) {
        Some((date, time)) => (date, time.strip_suffix(['Z', 'z'])?),
        None => (text, "000000"),
    };
    let digits = |text: &str, separator: char, groups: &[usize]| -> Option<String> {
        let joined = if text.contains(separator) {
            let parts: Vec<&str> = text.split(separator).collect();
            let fits = parts.len() == groups.len() && parts.iter().zip(groups).all(|(p, n)| p.len() == *n);
            fits.then(|| parts.concat())?
        } else {
            text.to_owned()
        };
        (joined.len() == groups.iter().sum::<usize>() && joined.bytes().all(|b| b.is_ascii_digit())).then_some(joined)
    };
    let (date, time) = (digits(date, '-', &[4, 2, 2])?, digits(time, ':', &[2, 2, 2])?);
    let within = |text: &str, from: usize, min: u32, max: u32| {
        text.get(from..from + 2).and_then(|t| t.parse::<u32>().ok()).is_some_and(|n| (min..=max).contains(&n))
    };
    let valid = within(&date, 4, 1, 12)
        && within(&date, 6, 1, 31)
        && within(&time, 0, 0, 23)
        && within(&time, 2, 0, 59)
        && within(&time, 4, 0, 59);
    valid.then(|| format!("{date}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, time) in [
            ("2026-11-01", Some("20261101T000000Z")),
            ("20261101", Some("20261101T000000Z")),
            ("2026-11-01T08:30:00Z", Some("20261101T083000Z")),
            ("2026-11-01 08:30:00Z", Some("20261101T083000Z")),
            ("20261101T083000Z", Some("20261101T083000Z")),
            ("2026-11-01T08:30:00", None),
            ("2026-11-01T08:30:00+02:00", None),
            ("2026-13-01", None),
            ("2026-1-1", None),
            ("26-11-01", None),
            ("yesterday", None),
            ("2026-11-01T25:00:00Z", None),
            ("２０２６-11-01", None),
        ] {
            assert_eq!(snapshot_time(text).as_deref(), time, "{text}");
        }
    }
}
