//! `sbom.spdx.json`: packages and files, with the layer each came from.
//!
//! SPDX 2.3 in its JSON form (<https://spdx.github.io/spdx-spec/v2.3/>). Identifiers are derived from what they name and
//! the creation time is the build's clock, so that the same root gives the same bytes.

use std::io::Write;

use imgbuild_tree::{Origin, RootTree};
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::packages::Packages;
use crate::scan::Scanned;

/// The SBOM's file name in a bundle.
pub const FILE_NAME: &str = "sbom.spdx.json";
/// How a file's comment begins; the layer's name follows.
pub const LAYER_COMMENT: &str = "layer: ";

/// An SPDX document, as far as imgbuild writes it; one that is to be written makes its files one by one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<F = Vec<SpdxFile>> {
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
    /// Every regular file of the root.
    pub files: F,
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
    /// Of all names and contents.
    sha256: [u8; 32],
    /// The member of the document that they are, if it was made already.
    text: Option<Vec<u8>>,
}

/// How many files are made text beforehand at most: some 450 bytes each.
const FEW: usize = 32 << 10;
/// Where they go in a document that is made without them. Nothing else in JSON looks like this: quotes inside of texts are escaped.
const NO_FILES: &str = "\"files\": []";

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
        let mut files = Self { layers, tree, scanned, places, sha256: [0; 32], text: None };
        let mut whole = Sha256::new();
        for (path, _, found) in files.iter() {
            whole.update(&path);
            whole.update([0]);
            whole.update(found.sha256);
        }
        files.sha256 = whole.finalize().into();
        files
    }

    /// Makes the text of them now, if they are few enough to keep it: for who has time now, and not when the document is written.
    ///
    /// # Errors
    /// Never, as far as is known: JSON has a text for all of it.
    pub fn prepare(&mut self) -> std::io::Result<()> {
        if self.scanned.len() <= FEW {
            let whole = serde_json::to_vec_pretty(&Member { files: self })?;
            // Without the object around it.
            self.text = whole.strip_prefix(b"{\n  ").and_then(|text| text.strip_suffix(b"\n}")).map(<[u8]>::to_vec);
        }
        Ok(())
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

/// The one member of an object, so that it has the indentation that it has in a document.
#[derive(Serialize)]
struct Member<'f, 'a> {
    files: &'f Files<'a>,
}

/// One after the other: all of them together would take more memory than the tree they are about.
impl Serialize for Files<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|(path, layer, found)| file(layer, &path, found)))
    }
}

/// The document for a root.
#[must_use]
pub fn document<'f>(subject: &Subject<'_>, files: Files<'f>, packages: &Packages) -> Document<Files<'f>> {
    let image = format!("{}-{}", subject.name, subject.version);
    let mut all = vec![image_package(subject)];
    all.extend(packages.all.iter().map(|p| package(p, &packages.distribution)));
    let contains = all.iter().skip(1).map(|p| relation(IMAGE_ID, "CONTAINS", &p.spdx_id));
    let relationships = std::iter::once(relation("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE_ID)).chain(contains).collect();
    Document {
        spdx_version: "SPDX-2.3".into(),
        data_license: "CC0-1.0".into(),
        spdx_id: "SPDXRef-DOCUMENT".into(),
        document_namespace: format!("urn:imgbuild:{image}:{}", crate::hex(files.sha256)),
        name: image,
        creation_info: CreationInfo {
            created: crate::time::rfc3339(subject.time),
            creators: vec![format!("Tool: imgbuild-{}", env!("CARGO_PKG_VERSION"))],
        },
        packages: all,
        files,
        relationships,
    }
}

/// Writes the document as pretty JSON with a line end.
///
/// # Errors
/// When `out` fails.
pub fn write(mut document: Document<Files<'_>>, mut out: impl Write) -> std::io::Result<()> {
    match document.files.text.take() {
        None => serde_json::to_writer_pretty(&mut out, &document)?,
        Some(files) => {
            document.files.scanned = &[];
            let rest = serde_json::to_string_pretty(&document)?;
            let (before, behind) = rest.split_once(NO_FILES).unwrap_or((&rest, ""));
            [before.as_bytes(), &files, behind.as_bytes()].into_iter().try_for_each(|piece| out.write_all(piece))?;
        }
    }
    out.write_all(b"\n")
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
        let written = |prepare: bool| {
            let mut files = Files::new(&layers, &tree, &scanned);
            if prepare {
                files.prepare().unwrap();
                assert!(files.text.is_some());
            }
            let mut bytes = Vec::new();
            write(document(&subject, files, &Packages::default()), &mut bytes).unwrap();
            bytes
        };
        let made: Document = serde_json::from_slice(&written(false)).unwrap();
        assert_eq!(made.files.len(), 2);
        assert_eq!(made.files[1].path(), "/usr/bin/x");
        assert_eq!(made.files[1].layer(), "tools; 2");
        assert_eq!(made.files[1].size(), 5);
        assert_eq!(made.files[0].layer(), "imgbuild");
        assert_eq!(made.files[1].checksums[0].checksum_value, "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d");
        assert_eq!(made.creation_info.created, "1970-01-01T00:00:00Z");
        assert_eq!(written(false), written(false));
        assert_eq!(String::from_utf8(written(true)), String::from_utf8(written(false)));
    }
}
