//! What dpkg and apt wrote down about the packages of a layer.

use std::collections::BTreeMap;

use deb822_fast::Deb822;
use imgbuild_recipe::LockedPackage;

/// The installed packages of a `/var/lib/dpkg/status` with the hashes that apt's lists have for them, sorted by name.
///
/// A package that no list has any more (installed from a file) keeps an empty hash.
///
/// # Errors
/// When a file is not in the format of `deb-control(5)`; the message says where.
pub(super) fn installed(status: &[u8], lists: &[&[u8]]) -> Result<Vec<LockedPackage>, String> {
    let mut hashes = BTreeMap::new();
    for list in lists {
        for stanza in &parse(list)? {
            if let (Some(id), Some(sha256)) = (identity(stanza), stanza.get("SHA256")) {
                hashes.insert(id, sha256.to_owned());
            }
        }
    }
    let mut packages = Vec::new();
    for stanza in &parse(status)? {
        if !stanza.get("Status").is_some_and(|s| s.ends_with(" installed")) {
            continue;
        }
        let Some((name, version, arch)) = identity(stanza) else {
            return Err("a package in dpkg's status has no name, version or architecture".to_owned());
        };
        let sha256 = hashes.get(&(name.clone(), version.clone(), arch.clone())).cloned().unwrap_or_default();
        packages.push(LockedPackage { name, version, arch, sha256 });
    }
    packages.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    Ok(packages)
}

fn parse(bytes: &[u8]) -> Result<Vec<deb822_fast::Paragraph>, String> {
    // Maintainers' names are UTF-8 by policy, but an old package's may not be; nothing that is read here is affected.
    let text = String::from_utf8_lossy(bytes);
    let deb822: Deb822 = text.parse().map_err(|e| format!("not in Debian's control format: {e}"))?;
    Ok(deb822.into_iter().collect())
}

fn identity(stanza: &deb822_fast::Paragraph) -> Option<(String, String, String)> {
    let field = |name| stanza.get(name).map(str::to_owned);
    Some((field("Package")?, field("Version")?, field("Architecture")?))
}

/// One sentence for each difference between two package lists.
#[must_use]
pub(super) fn differences(wanted: &[LockedPackage], found: &[LockedPackage]) -> Vec<String> {
    let index = |list: &[LockedPackage]| -> BTreeMap<(String, String), LockedPackage> {
        list.iter().map(|p| ((p.name.clone(), p.arch.clone()), p.clone())).collect()
    };
    let (wanted, found) = (index(wanted), index(found));
    let mut all = Vec::new();
    for (key, package) in &wanted {
        match found.get(key) {
            None => all.push(format!("{} {} is gone", package.name, package.version)),
            Some(other) if other.version != package.version => {
                all.push(format!("{} was {}, is now {}", package.name, package.version, other.version));
            }
            Some(other) if other.sha256 != package.sha256 => {
                all.push(format!("{} {} has another hash", package.name, package.version));
            }
            Some(_) => {}
        }
    }
    for (key, package) in &found {
        if !wanted.contains_key(key) {
            all.push(format!("{} {} is new", package.name, package.version));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &[u8] =
        b"Package: b\nStatus: install ok installed\nVersion: 2\nArchitecture: amd64\nDescription: x\n more\n\n\
        Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n\n\
        Package: a\nStatus: install ok installed\nVersion: 1:1-1\nArchitecture: all\n";
    const LIST: &[u8] = b"Package: a\nVersion: 1:1-1\nArchitecture: all\nSHA256: aa\n\n\
        Package: b\nVersion: 3\nArchitecture: amd64\nSHA256: b3\n\nPackage: b\nVersion: 2\nArchitecture: amd64\nSHA256: b2\n";

    #[test]
    fn installed_packages_with_the_hash_of_their_version() {
        let packages = installed(STATUS, &[LIST]).unwrap();
        let shown: Vec<_> =
            packages.iter().map(|p| format!("{} {} {} {}", p.name, p.version, p.arch, p.sha256)).collect();
        assert_eq!(shown, ["a 1:1-1 all aa", "b 2 amd64 b2"]);
    }

    #[test]
    fn differences_are_sentences() {
        let old = installed(STATUS, &[LIST]).unwrap();
        let mut new = old.clone();
        new[0].version = "1:2-1".into();
        new.remove(1);
        new.push(LockedPackage { name: "c".into(), version: "9".into(), arch: "all".into(), sha256: String::new() });
        assert_eq!(differences(&old, &new), ["a was 1:1-1, is now 1:2-1", "b 2 is gone", "c 9 is new"]);
        assert!(differences(&old, &old).is_empty());
    }
}
