//! `sbom.spdx.json`: packages and files, with the layer each came from.
//!
//! SPDX 2.3 in its JSON form (<https://spdx.github.io/spdx-spec/v2.3/>). Identifiers are derived from what they name and
//! the creation time is the build's clock, so that the same root gives the same bytes.

use std::io::{self, BufWriter, Write};

use imgbuild_tree::{Origin, RootTree};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::packages::Packages;
use crate::scan::Scanned;

/// The SBOM's file name in a bundle.
pub const FILE_NAME: &str = "sbom.spdx.json";
/// How a file's comment begins; the layer's name follows.
pub const LAYER_COMMENT: &str = "layer: ";

/// An SPDX document, as far as imgbuild writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// `SPDX-2.3`.
    pub spdx_version: String,
    /// `CC0-1.0`, as the specification demands for the data.
    pub data_license: String,
    /// `SPDXRef-DOCUMENT`.
    #[serde(rename = "SPDXID")]
    pub spdx_id: String,
    /// `NAME-VERSION` of the image.
    pub name: String,
    /// A URI of its own, derived from the content.
    pub document_namespace: String,
    /// When and by what.
    pub creation_info: CreationInfo,
    /// Packages by the root's package managers.
    pub packages: Vec<SpdxPackage>,
    /// Every regular file of the root. They are written by [`begin`], one by one: all of them together would take more memory than the
    /// tree they are about.
    #[serde(skip_serializing)]
    pub files: Vec<SpdxFile>,
    /// The document describes the image.
    pub relationships: Vec<Relationship>,
}

/// When and by what a document was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreationInfo {
    /// RFC 3339, UTC.
    pub created: String,
    /// `Tool: imgbuild-1.2.3`.
    pub creators: Vec<String>,
}

/// A package.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpdxPackage {
    /// Unique in the document.
    #[serde(rename = "SPDXID")]
    pub spdx_id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version_info: String,
    /// Who made it.
    pub supplier: String,
    /// Not known from a root.
    pub download_location: String,
    /// Whether `files` were assigned to it; never.
    pub files_analyzed: bool,
    /// What its manager says, an SPDX licence expression; `NOASSERTION` where it says nothing, or something else.
    pub license_declared: String,
    /// What its manager says, where that is no SPDX licence expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license_comments: Option<String>,
    /// The package URL.
    pub external_refs: Vec<ExternalRef>,
}

/// A reference to a package elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalRef {
    /// `PACKAGE-MANAGER`.
    pub reference_category: String,
    /// `purl`.
    pub reference_type: String,
    /// The package URL.
    pub reference_locator: String,
}

/// A regular file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpdxFile {
    /// Unique in the document.
    #[serde(rename = "SPDXID")]
    pub spdx_id: String,
    /// `./usr/bin/kubelet`.
    pub file_name: String,
    /// SHA-1 and SHA-256.
    pub checksums: Vec<Checksum>,
    /// [`LAYER_COMMENT`] and the layer's name, then the size: `layer: kubelet; 105 bytes`.
    pub comment: String,
}

/// A checksum of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checksum {
    /// `SHA1` or `SHA256`.
    pub algorithm: String,
    /// Lower-case hex.
    pub checksum_value: String,
}

/// How two elements belong together.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relationship {
    /// From.
    pub spdx_element_id: String,
    /// `DESCRIBES` or `CONTAINS`.
    pub relationship_type: String,
    /// To.
    pub related_spdx_element: String,
}

/// What the SBOM is about.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The image's name.
    pub name: &'a str,
    /// The image's version.
    pub version: &'a str,
    /// The build's clock, seconds since 1970-01-01 UTC.
    pub time: i64,
}

const IMAGE_ID: &str = "SPDXRef-Image";
const NO_ASSERTION: &str = "NOASSERTION";

/// The files of a root that have been scanned, in the order of their paths.
#[derive(Debug, Clone)]
pub struct Files<'a> {
    /// The layers' names, by [`Origin`].
    layers: &'a [String],
    tree: &'a RootTree,
    scanned: &'a [Scanned],
    /// For each node where it stands in `scanned`; beyond its end for what was not.
    places: Vec<u32>,
}

impl<'a> Files<'a> {
    /// `layers` are the layers' names, by [`Origin`].
    #[must_use]
    pub fn new(layers: &'a [String], tree: &'a RootTree, scanned: &'a [Scanned]) -> Self {
        let mut places = vec![u32::MAX; tree.len()];
        for (number, found) in scanned.iter().enumerate() {
            if let Some(place) = places.get_mut(found.id.index()) {
                // A tree has fewer nodes.
                *place = number as u32;
            }
        }
        Self { layers, tree, scanned, places }
    }

    /// Every path with the layer that it is of, and what was found out about its content.
    fn iter(&self) -> impl Iterator<Item = (Vec<u8>, &'a str, &'a Scanned)> {
        let layer = |origin: Origin| self.layers.get(usize::from(origin.0)).map_or("imgbuild", String::as_str);
        self.tree.walk().filter_map(move |item| {
            let place = self.places.get(item.id.index())?;
            let found = self.scanned.get(*place as usize)?;
            Some((item.path, layer(self.tree.node(item.id).meta.origin), found))
        })
    }
}

/// Bytes, hashed on their way.
#[derive(Debug)]
struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A document whose files are written.
#[derive(Debug)]
pub struct Begun<W: Write> {
    out: BufWriter<Hashing<W>>,
    /// SHA-256 of all names and contents.
    root: [u8; 32],
}

/// Begins a document with the files of a root, one on a line. They come first, so that most of it is written and hashed before all is
/// known that it says of the image.
///
/// # Errors
/// When `out` fails.
pub fn begin<W: Write>(files: &Files<'_>, out: W) -> io::Result<Begun<W>> {
    let mut out = BufWriter::with_capacity(1 << 16, Hashing { out, hash: Sha256::new() });
    let mut root = Sha256::new();
    out.write_all(b"{\n  \"files\": [")?;
    for (number, (path, layer, found)) in files.iter().enumerate() {
        root.update(&path);
        root.update([0]);
        root.update(found.sha256);
        out.write_all(if number == 0 { b"\n    " } else { b",\n    " })?;
        serde_json::to_writer(&mut out, &file(layer, &path, found))?;
    }
    out.write_all(b"\n  ],")?;
    Ok(Begun { out, root: root.finalize().into() })
}

impl<W: Write> Begun<W> {
    /// Writes the rest; returns the SHA-256 of the whole, and what it was written to.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn finish(mut self, subject: &Subject<'_>, packages: &Packages) -> io::Result<([u8; 32], W)> {
        let rest = serde_json::to_string_pretty(&document(subject, self.root, packages))?;
        self.out.write_all(rest.strip_prefix('{').unwrap_or(&rest).as_bytes())?;
        self.out.write_all(b"\n")?;
        let Hashing { out, hash } = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((hash.finalize().into(), out))
    }
}

/// The document for a root, without its files.
fn document(subject: &Subject<'_>, root: [u8; 32], packages: &Packages) -> Document {
    let image = format!("{}-{}", subject.name, subject.version);
    let mut all = vec![image_package(subject)];
    all.extend(packages.all.iter().map(|p| package(p, &packages.distribution)));
    let contains = all.iter().skip(1).map(|p| relation(IMAGE_ID, "CONTAINS", &p.spdx_id));
    let relationships = std::iter::once(relation("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE_ID)).chain(contains).collect();
    Document {
        spdx_version: "SPDX-2.3".into(),
        data_license: "CC0-1.0".into(),
        spdx_id: "SPDXRef-DOCUMENT".into(),
        document_namespace: format!("urn:imgbuild:{image}:{}", crate::hex(root)),
        name: image,
        creation_info: CreationInfo {
            created: crate::time::rfc3339(subject.time),
            creators: vec![format!("Tool: imgbuild-{}", env!("CARGO_PKG_VERSION"))],
        },
        packages: all,
        files: Vec::new(),
        relationships,
    }
}

fn relation(from: &str, kind: &str, to: &str) -> Relationship {
    Relationship {
        spdx_element_id: from.to_owned(),
        relationship_type: kind.to_owned(),
        related_spdx_element: to.to_owned(),
    }
}

fn image_package(subject: &Subject<'_>) -> SpdxPackage {
    SpdxPackage {
        spdx_id: IMAGE_ID.into(),
        name: subject.name.into(),
        version_info: subject.version.into(),
        supplier: NO_ASSERTION.into(),
        download_location: NO_ASSERTION.into(),
        files_analyzed: false,
        license_declared: NO_ASSERTION.into(),
        license_comments: None,
        external_refs: Vec::new(),
    }
}

fn package(package: &crate::packages::Package, distribution: &str) -> SpdxPackage {
    let purl = package.purl(distribution);
    let (expression, other) = match package.licence.as_deref() {
        Some(licence) if is_expression(licence) => (licence, None),
        Some(licence) => (NO_ASSERTION, Some(format!("its package manager says: {licence}"))),
        None => (NO_ASSERTION, None),
    };
    SpdxPackage {
        spdx_id: format!("SPDXRef-Package-{}", short(purl.as_bytes())),
        name: package.name.clone(),
        version_info: package.version.clone(),
        supplier: package.maintainer.as_ref().map_or(NO_ASSERTION.into(), |m| format!("Organization: {m}")),
        download_location: NO_ASSERTION.into(),
        files_analyzed: false,
        license_declared: expression.to_owned(),
        license_comments: other,
        external_refs: vec![ExternalRef {
            reference_category: "PACKAGE-MANAGER".into(),
            reference_type: "purl".into(),
            reference_locator: purl,
        }],
    }
}

/// Whether a text is a licence expression (SPDX 2.3, annex D) that needs no licence texts in the document.
fn is_expression(text: &str) -> bool {
    // Identifiers that are out of use are identifiers still.
    let mode = spdx::ParseMode { allow_deprecated: true, ..spdx::ParseMode::STRICT };
    let Ok(expression) = spdx::Expression::parse_mode(text, mode) else { return false };
    let listed =
        |r: &spdx::LicenseReq| r.license.id().is_some() && r.addition.as_ref().is_none_or(|a| a.id().is_some());
    // The parser takes operators in lower case as well.
    let operator = |word: &str| ["AND", "OR", "WITH"].iter().any(|op| word.eq_ignore_ascii_case(op) && word != *op);
    expression.requirements().all(|r| listed(&r.req)) && !text.split([' ', '\t', '(', ')']).any(operator)
}

fn file(layer: &str, path: &[u8], found: &Scanned) -> SpdxFile {
    SpdxFile {
        spdx_id: format!("SPDXRef-File-{}", short(path)),
        file_name: format!(".{}", String::from_utf8_lossy(path)),
        checksums: vec![
            Checksum { algorithm: "SHA1".into(), checksum_value: crate::hex(found.sha1) },
            Checksum { algorithm: "SHA256".into(), checksum_value: crate::hex(found.sha256) },
        ],
        comment: format!("{LAYER_COMMENT}{layer}; {} bytes", found.size),
    }
}

/// Enough of a hash to tell a million files apart.
fn short(bytes: &[u8]) -> String {
    crate::hex(&Sha256::digest(bytes)[..10])
}

impl SpdxFile {
    /// The layer named in the comment.
    #[must_use]
    pub fn layer(&self) -> &str {
        let rest = self.comment.strip_prefix(LAYER_COMMENT).unwrap_or_default();
        rest.rsplit_once("; ").map_or(rest, |(layer, _)| layer)
    }

    /// The size named in the comment, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        let last = self.comment.rsplit_once("; ").map_or("", |(_, size)| size);
        last.trim_end_matches(" bytes").parse().unwrap_or(0)
    }

    /// Absolute path in the root.
    #[must_use]
    pub fn path(&self) -> &str {
        self.file_name.strip_prefix('.').unwrap_or(&self.file_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::put;

    #[test]
    fn licences_are_expressions_or_comments() {
        let declared = |licence: Option<&str>| {
            let package = crate::packages::Package {
                name: "p".into(),
                version: "1".into(),
                arch: "x86_64".into(),
                manager: crate::packages::Manager::Apk,
                source: None,
                maintainer: None,
                licence: licence.map(str::to_owned),
                installed_size: 0,
            };
            let made = super::package(&package, "alpine");
            (made.license_declared, made.license_comments)
        };
        for good in [
            "MIT",
            "GPL-2.0-only AND (BSD-3-Clause OR MIT)",
            "GPL-2.0",
            "GPL-2.0-or-later WITH Bison-exception-2.2",
            "Apache-2.0+",
        ] {
            assert_eq!(declared(Some(good)), (good.to_owned(), None));
        }
        for other in
            ["GPL2+ BSD custom", "custom", "", "MIT and BSD-3-Clause", "LicenseRef-mine", "mit", "MIT/Zlib", "(MIT"]
        {
            let comment = Some(format!("its package manager says: {other}"));
            assert_eq!(declared(Some(other)), (NO_ASSERTION.to_owned(), comment));
        }
        assert_eq!(declared(None), (NO_ASSERTION.to_owned(), None));
    }

    #[test]
    fn files_with_their_layer_and_stable_bytes() {
        let mut tree = RootTree::new();
        let id = put(&mut tree, "/usr/bin/x", b"hello");
        tree.node_mut(id).meta.origin = Origin(1);
        put(&mut tree, "/etc/made", b"");
        let scanned = crate::scan::scan(&tree, None).unwrap();
        let layers = ["base".to_owned(), "tools; 2".to_owned()];
        let subject = Subject { name: "worker", version: "1", time: 0 };
        let written = || {
            let begun = begin(&Files::new(&layers, &tree, &scanned), Vec::new()).unwrap();
            begun.finish(&subject, &Packages::default()).unwrap()
        };
        let (sha256, bytes) = written();
        assert_eq!(sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        let made: Document = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(made.files.len(), 2);
        assert_eq!(made.files[1].path(), "/usr/bin/x");
        assert_eq!(made.files[1].layer(), "tools; 2");
        assert_eq!(made.files[1].size(), 5);
        assert_eq!(made.files[0].layer(), "imgbuild");
        assert_eq!(made.files[1].checksums[0].checksum_value, "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d");
        assert_eq!(made.creation_info.created, "1970-01-01T00:00:00Z");
        assert_eq!(written(), written());
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("./usr/bin/x")).count(), 1, "{text}");
        assert!(text.ends_with("\n}\n"), "{text}");
    }
}
