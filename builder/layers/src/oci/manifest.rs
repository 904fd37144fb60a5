//! Manifests, indexes and configs: bytes in, checked values out.
//!
//! OCI image specification v1.1 and Docker's image manifest version 2, schema 2. The types here hold what a build needs and
//! ignore the rest; digests are always those of the bytes as they came.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;
use super::error::OciError;

/// What a registry may send for a manifest; the `Accept` header.
pub(crate) const MANIFEST_TYPES: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// The annotation of a tag in a layout's index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The same by containerd and buildkit: the full reference.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// One image.
    Image(ImageManifest),
    /// Several, one for each platform as a rule.
    Index(Vec<Descriptor>),
}

/// One image: a config and layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageManifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// A pointer to content (OCI "Content Descriptors").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<DescribedPlatform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// The platform of an index entry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct DescribedPlatform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

/// Of the config, what a build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageConfig {
    os: String,
    architecture: String,
    pub(crate) diff_ids: Vec<Digest>,
}

/// The architecture wanted of an image; the system is always `linux`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// As Go spells it: `amd64`, `arm64`.
    pub architecture: String,
    /// `v8`, `v3`: only if exactly that one will do.
    pub variant: Option<String>,
}

impl Platform {
    /// `amd64`, `arm64`, `arm64/v8`; the kernel's spellings `x86_64` and `aarch64` do too.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let (architecture, variant) = match text.split_once('/') {
            Some((architecture, variant)) => (architecture, Some(variant.to_owned())),
            None => (text, None),
        };
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.to_owned(), variant }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "linux/{}", self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or index; `what` names it in errors.
///
/// The media type is optional (umoci leaves it out), so the document's own shape decides; one that could be read both
/// ways is refused (CVE-2021-41190).
pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Document, OciError> {
    let bad = |reason: String| OciError::Manifest { what: what.to_owned(), reason };
    // A schema 1 manifest has other fields under the same names; look at the version alone first.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: Option<u64>,
    }
    let version: Version =
        serde_json::from_slice(bytes).map_err(|e| bad(format!("the manifest is no JSON object: {e}")))?;
    if version.schema_version == Some(1) {
        return Err(OciError::Schema1 { what: what.to_owned() });
    }
    let raw: RawManifest =
        serde_json::from_slice(bytes).map_err(|e| bad(format!("the manifest cannot be read: {e}")))?;
    if raw.schema_version.is_some_and(|version| version != 2) {
        return Err(bad(format!("the manifest has schema version {}, not 2", raw.schema_version.unwrap_or(0))));
    }
    let says_index = raw.media_type.as_deref().map(|t| t.contains("index") || t.contains("manifest.list"));
    match (raw.config, raw.layers, raw.manifests) {
        (None, None, Some(manifests)) if says_index != Some(false) => Ok(Document::Index(manifests)),
        (Some(config), Some(layers), None) if says_index != Some(true) => {
            Ok(Document::Image(ImageManifest { config, layers }))
        }
        (None, None, None) => Err(bad("the manifest has neither layers nor manifests".to_owned())),
        _ => Err(bad("the manifest is half an image and half an index; nobody can say which is meant".to_owned())),
    }
}

/// Reads an image's config.
pub(crate) fn parse_config(bytes: &[u8], what: &str) -> Result<ImageConfig, OciError> {
    #[derive(Deserialize)]
    struct Raw {
        #[serde(default)]
        os: String,
        #[serde(default)]
        architecture: String,
        rootfs: Option<RootFs>,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Option<Vec<Digest>>,
    }
    let bad = |reason: String| OciError::Manifest { what: what.to_owned(), reason };
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| bad(format!("the image's config cannot be read: {e}")))?;
    let Some(diff_ids) = raw.rootfs.map(|rootfs| rootfs.diff_ids.unwrap_or_default()) else {
        return Err(bad("this is no container image: its config has no rootfs".to_owned()));
    };
    Ok(ImageConfig { os: raw.os, architecture: raw.architecture, diff_ids })
}

impl ImageConfig {
    /// Fails if the image says that it is for another system or architecture.
    pub(crate) fn check_platform(&self, wanted: &Platform, what: &str) -> Result<(), OciError> {
        let fits = |said: &str, wanted: &str| said.is_empty() || said == wanted;
        if fits(&self.os, "linux") && fits(&self.architecture, &wanted.architecture) {
            return Ok(());
        }
        let os = if self.os.is_empty() { "linux" } else { &self.os };
        Err(OciError::NoPlatform {
            what: what.to_owned(),
            wanted: wanted.to_string(),
            found: vec![format!("{os}/{}", self.architecture)],
        })
    }
}

/// Chooses the entry of an index that fits `wanted`.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform, what: &str) -> Result<&'a Descriptor, OciError> {
    let fits = |platform: &DescribedPlatform| {
        (platform.os.is_empty() || platform.os == "linux")
            && platform.architecture == wanted.architecture
            && (wanted.variant.is_none() || wanted.variant == platform.variant)
    };
    // The baseline comes before what only some machines of that architecture can run.
    let rank = |platform: &DescribedPlatform| match platform.variant.as_deref() {
        None | Some("" | "v1") => 0,
        Some("v8") if platform.architecture == "arm64" => 0,
        Some(_) => 1,
    };
    let fitting =
        entries.iter().filter_map(|entry| entry.platform.as_ref().filter(|p| fits(p)).map(|p| (rank(p), entry)));
    if let Some((_, entry)) = fitting.min_by_key(|(rank, _)| *rank) {
        return Ok(entry);
    }
    // An index with one entry that says nothing of its platform (umoci's): its config will tell.
    if let [only] = entries
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let found = entries.iter().filter_map(|entry| entry.platform.as_ref()).map(|p| {
        let variant = p.variant.as_ref().map_or_else(String::new, |v| format!("/{v}"));
        format!("{}/{}{variant}", p.os, p.architecture)
    });
    Err(OciError::NoPlatform {
        what: what.to_owned(),
        wanted: wanted.to_string(),
        // Attestations are entries for a platform that does not exist.
        found: found.filter(|p| p != "unknown/unknown").collect(),
    })
}

impl Descriptor {
    /// The tag by which a layout's index names this entry.
    pub(crate) fn tag(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        annotations.get(REF_NAME).or_else(|| annotations.get(CONTAINERD_NAME)).map(String::as_str)
    }

    /// Whether a layout's index names this entry by `tag`: whole, or as the end of a full reference.
    pub(crate) fn has_tag(&self, tag: &str) -> bool {
        let Some(annotations) = self.annotations.as_ref() else { return false };
        [REF_NAME, CONTAINERD_NAME]
            .iter()
            .filter_map(|key| annotations.get(*key))
            .any(|name| name == tag || name.strip_suffix(tag).is_some_and(|rest| rest.ends_with(':')))
    }
}

/// Fails for a layer that cannot become part of a root file system. How it is compressed is told by its bytes, not by its
/// type: images exist whose type is wrong, and every other tool takes them.
pub(crate) fn check_layer(layer: &Descriptor, what: &str) -> Result<(), OciError> {
    let media_type = layer.media_type.as_str();
    let reason = if media_type.contains("nondistributable") || media_type.contains(".foreign.") {
        "its bytes are not in the registry (Windows base layers are like that)"
    } else if media_type.ends_with("+encrypted") {
        "it is encrypted; push the image without encryption"
    } else if media_type.is_empty()
        || media_type.starts_with("application/vnd.oci.image.layer.v1.tar")
        || media_type.starts_with("application/vnd.docker.image.rootfs.diff.tar")
    {
        return Ok(());
    } else {
        "this is an artifact, not a layer of an image"
    };
    Err(OciError::MediaType {
        what: what.to_owned(),
        digest: layer.digest.clone(),
        media_type: media_type.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn image(media_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,{media_type}"config":{{"digest":"{D}","size":2}},"layers":[{{"digest":"{D}","size":3}}]}}"#
        )
    }

    fn entry(platform: &str) -> Descriptor {
        let platform = if platform.is_empty() { String::new() } else { format!(r#","platform":{platform}"#) };
        serde_json::from_str(&format!(r#"{{"digest":"{D}","size":1{platform}}}"#)).unwrap()
    }

    fn described(os: &str, architecture: &str, variant: Option<&str>) -> Descriptor {
        let variant = variant.map_or_else(String::new, |v| format!(r#","variant":"{v}""#));
        entry(&format!(r#"{{"os":"{os}","architecture":"{architecture}"{variant}}}"#))
    }

    #[test]
    fn the_shape_decides_what_a_manifest_is() {
        let docker = r#""mediaType":"application/vnd.docker.distribution.manifest.v2+json","#;
        for media_type in ["", docker] {
            let Document::Image(manifest) = parse(image(media_type).as_bytes(), "x").unwrap() else { panic!() };
            assert_eq!((manifest.config.size, manifest.layers[0].size), (2, 3));
        }
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{D}","size":1}}]}}"#);
        assert!(matches!(parse(index.as_bytes(), "x").unwrap(), Document::Index(entries) if entries.len() == 1));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let both = image("").replacen('{', r#"{"manifests":[],"#, 1);
        let lying = image(r#""mediaType":"application/vnd.oci.image.index.v1+json","#);
        for (text, reason) in [
            ("7", "no JSON object"),
            ("{", "no JSON object"),
            ("{}", "neither layers nor manifests"),
            (r#"{"schemaVersion":3}"#, "version 3"),
            (&both, "half an image"),
            (&lying, "half an image"),
            (&image("").replace("\"size\":3", "\"size\":-3"), "cannot be read"),
            (&image("").replace(D, "sha256:../../../etc"), "no digest"),
        ] {
            let message = parse(text.as_bytes(), "h.io/x:1").unwrap_err().to_string();
            assert!(message.contains(reason) && message.contains("h.io/x:1"), "{text}: {message}");
        }
        let schema1 =
            r#"{"schemaVersion":1,"name":"x","tag":"1","architecture":"amd64","fsLayers":[],"signatures":[]}"#;
        assert!(matches!(parse(schema1.as_bytes(), "x"), Err(OciError::Schema1 { .. })));
    }

    #[test]
    fn an_index_is_read_for_the_wanted_architecture() {
        let entries = [
            described("unknown", "unknown", None),
            described("windows", "amd64", None),
            described("linux", "amd64", Some("v3")),
            described("linux", "amd64", None),
            described("linux", "arm64", Some("v8")),
        ];
        let chosen = |arch: &str| {
            choose(&entries, &Platform::new(arch), "x").map(|d| entries.iter().position(|e| std::ptr::eq(e, d)))
        };
        assert_eq!(chosen("amd64").unwrap(), Some(3));
        assert_eq!(chosen("x86_64").unwrap(), Some(3));
        assert_eq!(chosen("amd64/v3").unwrap(), Some(2));
        assert_eq!(chosen("arm64").unwrap(), Some(4));
        let message = chosen("riscv64").unwrap_err().to_string();
        assert_eq!(
            message,
            "x is not made for linux/riscv64; it is there for windows/amd64, linux/amd64/v3, linux/amd64, linux/arm64/v8"
        );
        assert!(choose(&[entry("")], &Platform::new("arm64"), "x").is_ok());
        assert!(choose(&[entry(""), entry("")], &Platform::new("arm64"), "x").is_err());
        assert!(choose(&[], &Platform::new("arm64"), "x").is_err());
    }

    #[test]
    fn layers_that_cannot_be_used_are_refused_by_type() {
        for (media_type, good) in [
            ("", true),
            ("application/vnd.oci.image.layer.v1.tar", true),
            ("application/vnd.oci.image.layer.v1.tar+gzip", true),
            ("application/vnd.oci.image.layer.v1.tar+zstd", true),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", false),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", false),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", false),
            ("application/vnd.in-toto+json", false),
        ] {
            let layer = Descriptor { media_type: media_type.to_owned(), ..entry("") };
            assert_eq!(check_layer(&layer, "x").is_ok(), good, "{media_type}");
        }
    }

    #[test]
    fn configs() {
        let config =
            parse_config(format!(r#"{{"architecture":"amd64","rootfs":{{"diff_ids":["{D}"]}}}}"#).as_bytes(), "x");
        let config = config.unwrap();
        assert_eq!(config.diff_ids.len(), 1);
        assert!(config.check_platform(&Platform::new("amd64"), "x").is_ok());
        assert!(config.check_platform(&Platform::new("arm64"), "x").is_err());
        let windows = parse_config(br#"{"os":"windows","architecture":"amd64","rootfs":{}}"#, "x").unwrap();
        let message = windows.check_platform(&Platform::new("amd64"), "x").unwrap_err().to_string();
        assert!(message.ends_with("it is there for windows/amd64"), "{message}");
        assert!(parse_config(b"{}", "x").unwrap_err().to_string().contains("no container image"));
    }

    proptest::proptest! {
        /// Whatever a registry sends is an answer or an error, never a panic.
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, at: usize, with: u8) {
            let _ = parse(&bytes, "x");
            let _ = parse_config(&bytes, "x");
            let mut spoilt = image("").into_bytes();
            let at = at % spoilt.len();
            spoilt[at] = with;
            if let Ok(Document::Image(manifest)) = parse(&spoilt, "x") {
                proptest::prop_assert!(manifest.layers.len() <= 1);
            }
        }
    }
}
