//! How a recipe names an OCI image: `REGISTRY/NAME:TAG`, `oci-layout:DIR`, `oci-archive:FILE`, `docker-archive:FILE`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::paths;

/// The registry meant by a name that has none, as docker and podman have it.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag meant by a reference without tag and digest.
pub const DEFAULT_TAG: &str = "latest";

/// Where an OCI image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OciSource {
    /// In a registry.
    Registry(RegistryRef),
    /// In an OCI image layout, a folder with `oci-layout`, `index.json` and `blobs/`.
    Layout {
        /// The folder, absolute.
        path: PathBuf,
        /// Which of its images; not needed where there is only one.
        select: Select,
    },
    /// In a tar of an OCI image layout.
    OciArchive {
        /// The tar, absolute.
        path: PathBuf,
        /// Which of its images; not needed where there is only one.
        select: Select,
    },
    /// In a tar as `docker save` writes it.
    DockerArchive {
        /// The tar, absolute.
        path: PathBuf,
        /// Which of its images (`NAME:TAG`); not needed where there is only one.
        reference: Option<String>,
    },
}

/// Which image of a layout is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Select {
    /// The only one.
    #[default]
    Only,
    /// The one whose `org.opencontainers.image.ref.name` is this.
    Tag(String),
    /// The one with this manifest digest (`sha256:…`).
    Digest(String),
}

/// An image in a registry, as in `registry.example.com:5000/kubernetes/kubelet:v1.34.1@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryRef {
    /// Host with port, if any: `registry.example.com:5000`.
    pub registry: String,
    /// Name of the repository: `kubernetes/kubelet`.
    pub repository: String,
    /// Tag; a digest beside it wins.
    pub tag: Option<String>,
    /// Digest of the manifest or index: `sha256:…`.
    pub digest: Option<String>,
}

impl RegistryRef {
    /// What the registry is asked for: the digest, else the tag, else `latest`.
    #[must_use]
    pub fn reference(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or(DEFAULT_TAG)
    }
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A source that is read but for its path, which is relative to the file it stands in.
const TRANSPORTS: [&str; 3] = ["oci-layout:", "oci-archive:", "docker-archive:"];

impl OciSource {
    /// Reads a source as recipes have it; `base` is the absolute folder that relative paths start from.
    ///
    /// # Errors
    /// With a sentence that says what is wrong with `text`.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, reference) = match rest.split_once(':') {
                Some((path, reference)) => (path, Some(reference)),
                None => (rest, None),
            };
            if reference == Some("") {
                return Err(format!("`{text}` ends in a colon without an image's name"));
            }
            return Ok(Self::DockerArchive { path: local(path, text, base)?, reference: reference.map(str::to_owned) });
        }
        for layout in ["oci-layout:", "oci-archive:"] {
            if let Some(rest) = text.strip_prefix(layout) {
                let (path, select) = split_select(rest, text)?;
                let path = local(path, text, base)?;
                return Ok(match layout {
                    "oci-layout:" => Self::Layout { path, select },
                    _ => Self::OciArchive { path, select },
                });
            }
        }
        for scheme in ["docker://", "oci://", "https://", "http://"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return Err(format!("an image in a registry has no `{scheme}`: write `{rest}`"));
            }
        }
        if let Some((scheme, _)) = text.split_once(':')
            && matches!(scheme, "oci" | "dir" | "docker-daemon" | "containers-storage" | "ostree" | "docker")
        {
            return Err(format!("`{scheme}:` is not a source that imgbuild reads; it reads {}", TRANSPORTS.join(", ")));
        }
        registry(text).map(Self::Registry)
    }

    /// The local file or folder that it names, if any.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Registry(_) => None,
            Self::Layout { path, .. } | Self::OciArchive { path, .. } | Self::DockerArchive { path, .. } => Some(path),
        }
    }

    /// The source with its path relative to `from`, so that it is the same on every machine.
    #[must_use]
    pub fn relative_to(&self, from: &Path) -> String {
        self.shown(|path| paths::relative(from, path))
    }

    fn shown(&self, show: impl Fn(&Path) -> String) -> String {
        match self {
            Self::Registry(reference) => reference.to_string(),
            Self::Layout { path, select } => format!("oci-layout:{}{select}", show(path)),
            Self::OciArchive { path, select } => format!("oci-archive:{}{select}", show(path)),
            Self::DockerArchive { path, reference: None } => format!("docker-archive:{}", show(path)),
            Self::DockerArchive { path, reference: Some(name) } => format!("docker-archive:{}:{name}", show(path)),
        }
    }
}

impl fmt::Display for OciSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(|path| path.display().to_string()))
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => Ok(()),
            Self::Tag(tag) => write!(f, ":{tag}"),
            Self::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl Serialize for OciSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn local(path: &str, text: &str, base: &Path) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err(format!("`{text}` names no file or folder"));
    }
    Ok(paths::resolve(base, path))
}

fn split_select<'a>(rest: &'a str, text: &str) -> Result<(&'a str, Select), String> {
    if let Some((path, digest)) = rest.split_once('@') {
        return Ok((path, Select::Digest(checked_digest(digest)?)));
    }
    match rest.split_once(':') {
        None => Ok((rest, Select::Only)),
        Some((_, "")) => Err(format!("`{text}` ends in a colon without a tag")),
        Some((path, tag)) => Ok((path, Select::Tag(tag.to_owned()))),
    }
}

fn checked_digest(digest: &str) -> Result<String, String> {
    let hex = digest.strip_prefix("sha256:").ok_or_else(|| format!("`@{digest}` is not a digest like `@sha256:…`"))?;
    if is_sha256(hex) {
        Ok(digest.to_owned())
    } else {
        Err(format!("`@{digest}` is not a digest: `sha256:` takes 64 digits 0-9 a-f, here are {}", hex.chars().count()))
    }
}

/// Whether that is a SHA-256 in lower-case hex.
pub(crate) fn is_sha256(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn registry(text: &str) -> Result<RegistryRef, String> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(checked_digest(digest)?)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it belongs to the registry's port.
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match name.get(last..).and_then(|tail| tail.rsplit_once(':')) {
        Some((head, tag)) => (name.get(..last + head.len()).unwrap_or(name), Some(tag)),
        None => (name, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(format!("`{tag}` is not a tag: letters, digits, `_`, `.`, `-`, at most 128 of them"));
    }
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host.to_owned(), path.to_owned()),
        Some(_) => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
        None => (DEFAULT_REGISTRY.to_owned(), format!("library/{name}")),
    };
    if !is_host(&host) {
        return Err(format!("`{host}` is not a registry's host name, or HOST:PORT"));
    }
    if path.is_empty() || !path.split('/').all(is_name_component) {
        let shown = if name.is_empty() { text } else { name };
        return Err(format!(
            "`{shown}` is not an image's name: lower-case letters, digits, and `.`, `_`, `-` between them"
        ));
    }
    Ok(RegistryRef { registry: host, repository: path, tag: tag.map(str::to_owned), digest })
}

/// `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`, as the distribution specification has it.
fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        // An IPv6 address.
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address.replace(':', "."), None),
            Some((address, port)) => (address.replace(':', "."), port.strip_prefix(':').or(Some(""))),
            None => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name.to_owned(), Some(port)),
            None => (host.to_owned(), None),
        },
    };
    !name.is_empty()
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, as the distribution specification has it.
fn is_name_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().zip(bytes.last()).is_some_and(|(&first, &last)| alphanumeric(first) && alphanumeric(last));
    ends && bytes
        .split(|&b| alphanumeric(b))
        .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|&b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn what_is_read_is_shown() {
        for (text, shown) in [
            ("registry.example.com/os/debian:12", "registry.example.com/os/debian:12"),
            ("localhost:5000/k8s/kubelet", "localhost:5000/k8s/kubelet"),
            ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
            ("busybox", "docker.io/library/busybox"),
            ("rancher/k3s:v1.2", "docker.io/rancher/k3s:v1.2"),
            (&format!("r.io/a/b@{DIGEST}"), &format!("r.io/a/b@{DIGEST}")),
            (&format!("r.io/a/b:1@{DIGEST}"), &format!("r.io/a/b:1@{DIGEST}")),
            ("oci-layout:../images/x", "oci-layout:/work/images/x"),
            ("oci-layout:x:1.2", "oci-layout:/work/recipes/x:1.2"),
            (&format!("oci-layout:/x@{DIGEST}"), &format!("oci-layout:/x@{DIGEST}")),
            ("oci-archive:x.tar:latest", "oci-archive:/work/recipes/x.tar:latest"),
            ("docker-archive:x.tar:repo/name:tag", "docker-archive:/work/recipes/x.tar:repo/name:tag"),
        ] {
            let source = OciSource::parse(text, Path::new("/work/recipes")).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(source.to_string(), *shown, "{text}");
        }
        let layout = OciSource::parse("oci-layout:../images/x:1", Path::new("/work/recipes")).unwrap();
        assert_eq!(layout.relative_to(Path::new("/work/recipes")), "oci-layout:../images/x:1");
    }

    #[test]
    fn what_is_asked_of_a_registry() {
        for (text, asked) in [("r.io/a", "latest"), ("r.io/a:1", "1"), (&format!("r.io/a:1@{DIGEST}"), DIGEST)] {
            match OciSource::parse(text, Path::new("/")).unwrap() {
                OciSource::Registry(reference) => assert_eq!(reference.reference(), asked),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "is not an image's name"),
            ("r.io/", "is not an image's name"),
            ("r.io/Upper", "is not an image's name"),
            ("r.io/a//b", "is not an image's name"),
            ("r.io/a:", "is not a tag"),
            ("r.io/a:x/y", "is not an image's name"),
            ("r_x.io/a", "is not a registry's host name, or HOST:PORT"),
            ("r.io:port/a", "is not a registry's host name"),
            ("r.io/a@sha256:12", "64 digits 0-9 a-f, here are 2"),
            ("r.io/a@md5:12", "is not a digest like `@sha256:…`"),
            ("docker://r.io/a", "has no `docker://`: write `r.io/a`"),
            ("oci:dir:tag", "`oci:` is not a source that imgbuild reads"),
            ("oci-layout:", "names no file or folder"),
            ("oci-layout:x:", "ends in a colon without a tag"),
            ("docker-archive:x:", "without an image's name"),
        ] {
            let error = OciSource::parse(text, Path::new("/")).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
