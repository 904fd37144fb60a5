//! The `sources.list` of a `debian` layer.

use imgbuild_recipe::DebianLayer;

/// Debian's own mirror, which redirects to a near one.
pub(super) const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
/// Debian's security mirror.
pub(super) const DEFAULT_SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";
/// Where every past state of the archive is kept.
pub(super) const SNAPSHOT: &str = "http://snapshot.debian.org/archive";

/// One line of a `sources.list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceLine {
    /// Base URL of the repository.
    pub(super) uri: String,
    /// Suite (`bookworm-updates`), or an exact path that ends in `/`.
    pub(super) suite: String,
    /// Components (`main`); none with an exact path.
    pub(super) components: Vec<String>,
    /// `[key=value]` options.
    pub(super) options: Vec<(&'static str, String)>,
}

impl SourceLine {
    /// The line as `sources.list(5)` has it.
    #[must_use]
    pub(super) fn line(&self) -> String {
        let options = match self.options.as_slice() {
            [] => String::new(),
            some => {
                let words: Vec<_> = some.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}] ", words.join(" "))
            }
        };
        let components: String = self.components.iter().map(|c| format!(" {c}")).collect();
        format!("deb {options}{} {}{components}", self.uri, self.suite)
    }

    /// Where the repository's signed index is.
    #[must_use]
    pub(super) fn in_release_url(&self) -> String {
        let uri = self.uri.trim_end_matches('/');
        if self.suite.ends_with('/') {
            format!("{uri}/{}InRelease", self.suite.trim_start_matches('/'))
        } else {
            format!("{uri}/dists/{}/InRelease", self.suite)
        }
    }
}

/// The repositories that a layer takes its packages from: the suite with its updates and security updates, then those
/// that the recipe adds.
#[must_use]
pub(super) fn lines(layer: &DebianLayer, arch: &str) -> Vec<SourceLine> {
    let components = if layer.components.is_empty() { vec!["main".to_owned()] } else { layer.components.clone() };
    let mut options = vec![("arch", arch.to_owned())];
    let (mirror, security) = match (&layer.mirror, &layer.snapshot) {
        (Some(mirror), _) => (mirror.clone(), None),
        (None, Some(time)) => {
            // A past state's Release file has expired; that it is past is just what was asked for.
            options.push(("check-valid-until", "no".to_owned()));
            (format!("{SNAPSHOT}/debian/{time}"), Some(format!("{SNAPSHOT}/debian-security/{time}")))
        }
        (None, None) => (DEFAULT_MIRROR.to_owned(), Some(DEFAULT_SECURITY_MIRROR.to_owned())),
    };
    let line = |uri: &str, suite: String| SourceLine {
        uri: uri.to_owned(),
        suite,
        components: components.clone(),
        options: options.clone(),
    };
    let mut lines = vec![line(&mirror, layer.suite.clone())];
    // A mirror of one's own may hold the suite alone: it is taken at its word, and what else it has is a repository.
    if let (Some(security), true) = (security, has_updates(&layer.suite)) {
        lines.push(line(&mirror, format!("{}-updates", layer.suite)));
        lines.push(line(&security, format!("{}-security", layer.suite)));
    }
    for repository in &layer.repositories {
        lines.push(SourceLine {
            uri: repository.uri.clone(),
            suite: repository.suite.clone(),
            components: repository.components.clone(),
            options: vec![("arch", arch.to_owned())],
        });
    }
    lines
}

/// Unstable, experimental and testing's rolling names have no suites for updates.
fn has_updates(suite: &str) -> bool {
    !matches!(suite, "sid" | "unstable" | "experimental")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> DebianLayer {
        DebianLayer { suite: "bookworm".into(), packages: vec!["ethtool".into()], ..DebianLayer::default() }
    }

    fn shown(layer: &DebianLayer) -> Vec<String> {
        lines(layer, "amd64").iter().map(SourceLine::line).collect()
    }

    #[test]
    fn a_stable_suite_comes_with_its_updates() {
        assert_eq!(
            shown(&layer()),
            [
                "deb [arch=amd64] http://deb.debian.org/debian bookworm main",
                "deb [arch=amd64] http://deb.debian.org/debian bookworm-updates main",
                "deb [arch=amd64] http://deb.debian.org/debian-security bookworm-security main",
            ]
        );
    }

    #[test]
    fn a_snapshot_pins_all_three_and_may_be_expired() {
        let layer = DebianLayer { snapshot: Some("20261101T000000Z".into()), ..layer() };
        let shown = shown(&layer);
        assert_eq!(shown.len(), 3);
        assert!(
            shown.iter().all(|l| l.contains("/20261101T000000Z ") && l.contains("check-valid-until=no")),
            "{shown:?}"
        );
    }

    #[test]
    fn a_mirror_of_ones_own_is_taken_at_its_word() {
        let layer = DebianLayer { mirror: Some("http://10.0.0.1/debian".into()), ..layer() };
        assert_eq!(shown(&layer), ["deb [arch=amd64] http://10.0.0.1/debian bookworm main"]);
    }

    #[test]
    fn where_the_index_is() {
        let mut line = lines(&layer(), "amd64").remove(0);
        assert_eq!(line.in_release_url(), "http://deb.debian.org/debian/dists/bookworm/InRelease");
        line.suite = "./".into();
        assert_eq!(line.in_release_url(), "http://deb.debian.org/debian/./InRelease");
    }
}
