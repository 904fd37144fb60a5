//! What dpkg and apt wrote down about the packages of a layer.

use std::collections::BTreeMap;

use deb822_fast::{Deb822, Paragraph};
use imgbuild_recipe::LockedPackage;
use imgbuild_tree::FileContent;
use memchr::memmem;

/// The installed packages of a `/var/lib/dpkg/status` with the hashes that apt's lists have for them, sorted by name.
///
/// A package that no list has any more (installed from a file) keeps an empty hash. The lists of a whole distribution are
/// large: they are read piece by piece.
///
/// # Errors
/// When a file cannot be read, or is not in the format of `deb-control(5)`; the message says where.
pub(super) fn installed<C: FileContent>(status: &C, lists: &[&C]) -> Result<Vec<LockedPackage>, String> {
    let mut packages = Vec::new();
    let mut nameless = false;
    stanzas(status, |stanza| {
        if stanza.get("Status").is_some_and(|s| s.ends_with(" installed")) {
            match identity(stanza) {
                Some((name, version, arch)) => packages.push(LockedPackage {
                    name: name.to_owned(),
                    version: version.to_owned(),
                    arch: arch.to_owned(),
                    sha256: String::new(),
                }),
                None => nameless = true,
            }
        }
    })?;
    if nameless {
        return Err("a package in dpkg's status has no name, version or architecture".to_owned());
    }
    packages.sort_by(|a, b| (&a.name, &a.arch, &a.version).cmp(&(&b.name, &b.arch, &b.version)));
    for list in lists {
        stanzas(*list, |stanza| {
            let (Some((name, version, arch)), Some(sha256)) = (identity(stanza), stanza.get("SHA256")) else { return };
            let place = packages.binary_search_by(|p| (&*p.name, &*p.arch, &*p.version).cmp(&(name, arch, version)));
            if let Some(package) = place.ok().and_then(|place| packages.get_mut(place)) {
                sha256.clone_into(&mut package.sha256);
            }
        })?;
    }
    Ok(packages)
}

/// Read at once.
const CHUNK: u64 = 1 << 20;
/// A stanza longer than this is none.
const LONGEST: usize = 16 << 20;

/// Hands on every stanza of a file.
fn stanzas<C: FileContent>(file: &C, mut each: impl FnMut(&Paragraph)) -> Result<(), String> {
    let (mut buffer, mut offset) = (Vec::new(), 0);
    let mut parse = |bytes: &[u8]| -> Result<(), String> {
        // Maintainers' names are UTF-8 by policy, but an old package's may not be; nothing that is read here is affected.
        let text = String::from_utf8_lossy(bytes);
        let deb822: Deb822 = text.parse().map_err(|e| format!("not in Debian's control format: {e}"))?;
        deb822.iter().for_each(&mut each);
        Ok(())
    };
    while offset < file.len() {
        let take = (file.len() - offset).min(CHUNK) as usize;
        let kept = buffer.len();
        buffer.resize(kept + take, 0);
        file.read_exact_at(&mut buffer[kept..], offset).map_err(|e| e.to_string())?;
        offset += take as u64;
        // Whole stanzas only: up to the last empty line.
        let end = memmem::rfind(&buffer, b"\n\n").map_or(0, |at| at + 1);
        parse(&buffer[..end])?;
        buffer.drain(..end);
        if buffer.len() > LONGEST {
            return Err(format!("not in Debian's control format: no empty line in {LONGEST} bytes"));
        }
    }
    parse(&buffer)
}

fn identity(stanza: &Paragraph) -> Option<(&str, &str, &str)> {
    Some((stanza.get("Package")?, stanza.get("Version")?, stanza.get("Architecture")?))
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
    use imgbuild_tree::Content;

    use super::*;

    const STATUS: &[u8] =
        b"Package: b\nStatus: install ok installed\nVersion: 2\nArchitecture: amd64\nDescription: x\n more\n\n\
        Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n\n\
        Package: a\nStatus: install ok installed\nVersion: 1:1-1\nArchitecture: all\n";
    const LIST: &[u8] = b"Package: a\nVersion: 1:1-1\nArchitecture: all\nSHA256: aa\n\n\
        Package: b\nVersion: 3\nArchitecture: amd64\nSHA256: b3\n\nPackage: b\nVersion: 2\nArchitecture: amd64\nSHA256: b2\n";

    fn installed(status: &[u8], lists: &[&[u8]]) -> Result<Vec<LockedPackage>, String> {
        let lists: Vec<Content> = lists.iter().map(|list| Content::from(*list)).collect();
        super::installed(&Content::from(status), &lists.iter().collect::<Vec<_>>())
    }

    /// Stanzas lie across the pieces in which a list is read.
    #[test]
    fn a_list_longer_than_what_is_read_at_once() {
        let stanza = |n: usize| {
            let text = "x".repeat(n % 3000);
            format!("Package: p{n}\nVersion: {n}\nArchitecture: all\nSHA256: {n:064}\nDescription: {text}\n\n")
        };
        let list: String = (0..3000).map(stanza).collect();
        assert!(list.len() as u64 > 3 * CHUNK);
        let status: String = [0, 777, 2999]
            .map(|n| format!("Package: p{n}\nStatus: install ok installed\nVersion: {n}\nArchitecture: all\n\n"))
            .concat();
        let found = installed(status.as_bytes(), &[list.as_bytes()]).unwrap();
        let hashes: Vec<_> = found.iter().map(|p| p.sha256.trim_start_matches('0')).collect();
        assert_eq!(hashes, ["", "2999", "777"]);
        assert!(found.iter().all(|p| p.sha256.len() == 64));
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        let error = installed(STATUS, &[b"no colon here\n\nx"]).unwrap_err();
        assert!(error.starts_with("not in Debian's control format"), "{error}");
        let error = installed(b"Package: a\nStatus: install ok installed\n", &[]).unwrap_err();
        assert!(error.contains("has no name, version or architecture"), "{error}");
    }

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
