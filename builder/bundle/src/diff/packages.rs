//! Packages: added, removed, another version.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::Change;
use crate::sbom::Document;

/// A package that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PackageChange {
    /// What happened to it.
    pub change: Change,
    /// Its name.
    pub name: String,
    /// Its package URL without the version: `pkg:deb/debian/bash?arch=amd64`.
    pub purl: String,
    /// Its version in the first root; of several, joined with `, `.
    pub before: Option<String>,
    /// Its version in the second root.
    pub after: Option<String>,
}

/// The packages of a root: their versions by package URL without the version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions(BTreeMap<String, (String, BTreeSet<String>)>);

impl Versions {
    /// What an SBOM lists.
    #[must_use]
    pub fn of_sbom(sbom: &Document) -> Self {
        let mut all = Self::default();
        for package in &sbom.packages {
            // The image itself has no package URL.
            if let Some(reference) = package.external_refs.first() {
                all.add(&package.name, &package.version_info, &reference.reference_locator);
            }
        }
        all
    }

    /// What a root's package managers list.
    #[must_use]
    pub fn of_packages(packages: &crate::packages::Packages) -> Self {
        let mut all = Self::default();
        for package in &packages.all {
            all.add(&package.name, &package.version, &package.purl(&packages.distribution));
        }
        all
    }

    fn add(&mut self, name: &str, version: &str, purl: &str) {
        let (path, qualifiers) = purl.split_once('?').unwrap_or((purl, ""));
        let path = path.rsplit_once('@').map_or(path, |(path, _)| path);
        let entry = self.0.entry(format!("{path}?{qualifiers}")).or_default();
        name.clone_into(&mut entry.0);
        entry.1.insert(version.to_owned());
    }
}

/// The packages that differ, by name.
pub(super) fn compare(before: &Versions, after: &Versions) -> Vec<PackageChange> {
    let keys: BTreeSet<_> = before.0.keys().chain(after.0.keys()).collect();
    let mut all: Vec<_> = keys
        .into_iter()
        .filter_map(|purl| {
            let (a, b) = (before.0.get(purl), after.0.get(purl));
            let versions = |side: Option<&(String, BTreeSet<String>)>| {
                side.map(|(_, versions)| versions.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
            };
            let (name, _) = b.or(a)?;
            let (was, is) = (versions(a), versions(b));
            (was != is).then(|| PackageChange {
                change: Change::of(was.as_ref(), is.as_ref()),
                name: name.clone(),
                purl: purl.clone(),
                before: was,
                after: is,
            })
        })
        .collect();
    all.sort_by(|a, b| (&a.name, &a.purl).cmp(&(&b.name, &b.purl)));
    all
}
