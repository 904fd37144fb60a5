//! `file`: whether something is at a path, whose it is, and what is in it.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Verdict, Wanted, excerpt};
use crate::accounts::{self, Accounts};
use crate::spec::File;

/// Contents that are searched lie in memory; hashes are taken of any length.
const LONGEST: u64 = 16 << 20;

pub(super) fn check(wanted: &File, root: &Path) -> Verdict {
    let path = below(root, &wanted.file);
    let text = Wanted::new(wanted.contains.as_ref(), wanted.matches.as_ref());
    let expected = expected(wanted, &text);
    if !wanted.exists {
        // A link to nowhere is something, too.
        return match fs::symlink_metadata(&path) {
            Ok(meta) => Verdict::new(false, expected, format!("{} is there", kind(&meta))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Verdict::new(true, expected, "there is none"),
            Err(error) => Verdict::new(false, expected, format!("cannot be looked at: {error}")),
        };
    }
    let meta = match fs::metadata(&path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Verdict::new(false, expected, "there is none");
        }
        Err(error) => return Verdict::new(false, expected, format!("cannot be looked at: {error}")),
    };
    let mode = meta.mode() & 0o7777;
    let accounts = Accounts::read(root);
    let mut found = vec![
        kind(&meta).to_owned(),
        format!("mode 0{mode:03o}"),
        format!("owner {}:{}", accounts.user_name(meta.uid()), accounts.group_name(meta.gid())),
    ];
    let mut holds = wanted.mode.is_none_or(|bits| bits == mode);
    if let Some(owner) = &wanted.owner {
        match is_owned_by(owner, &meta, &accounts) {
            Ok(is) => holds &= is,
            Err(why) => {
                holds = false;
                found.push(why.to_string());
            }
        }
    }
    if let Some(sha256) = &wanted.sha256 {
        let (is, said) = match hash(&path) {
            Ok(hex) => (hex == *sha256, format!("SHA-256 {hex}")),
            Err(error) => (false, format!("cannot be read: {error}")),
        };
        holds &= is;
        found.push(said);
    }
    if text.is_anything() {
        match contents(&path) {
            Ok(contents) => {
                let is = text.is_in(&contents);
                holds &= is;
                if !is {
                    found.push(format!("contents `{}`", excerpt(contents.trim_end())));
                }
            }
            Err(error) => {
                holds = false;
                found.push(format!("cannot be read: {error}"));
            }
        }
    }
    Verdict::new(holds, expected, found.join(", "))
}

fn expected(wanted: &File, text: &Wanted<'_>) -> String {
    if !wanted.exists {
        return format!("no {}", wanted.file);
    }
    let parts = [
        Some(wanted.file.clone()),
        wanted.mode.map(|mode| format!("mode 0{mode:03o}")),
        wanted.owner.as_ref().map(|owner| format!("owner {owner}")),
        wanted.sha256.as_ref().map(|hex| format!("SHA-256 {hex}")),
        text.is_anything().then(|| text.words()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A path of the system, seen from outside of its root.
pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_dir() {
        "a folder"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_file() {
        "a file"
    } else {
        "a device, pipe or socket"
    }
}

/// `root`, `root:adm`, `0:4`.
fn is_owned_by(owner: &str, meta: &Metadata, accounts: &Accounts) -> Result<bool, accounts::Unknown> {
    let (user, group) = owner.split_once(':').map_or((owner, None), |(user, group)| (user, Some(group)));
    let of_user = accounts.user(user)? == meta.uid();
    let of_group = group.map(|group| accounts.group(group)).transpose()?.is_none_or(|group| group == meta.gid());
    Ok(of_user && of_group)
}

fn hash(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hasher.update(buffer.get(..length).unwrap_or_default()),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn contents(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("it is larger than {} MiB", LONGEST >> 20)));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::tests::attempt;
    use super::*;
    use crate::system::fake::Fake;

    fn system() -> Fake {
        let system = Fake::default();
        system.write("etc/motd", "Welcome\nto node-7\n");
        fs::set_permissions(system.root.path().join("etc/motd"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("nowhere", system.root.path().join("etc/dangling")).unwrap();
        let own = fs::metadata(system.root.path()).unwrap();
        system.write(
            "etc/passwd",
            &format!("me:x:{}:{}::/:/bin/sh\nother:x:4711:4711::/:/bin/sh\n", own.uid(), own.gid()),
        );
        system.write("etc/group", &format!("mine:x:{}:\n", own.gid()));
        system
    }

    fn file(path: &str, rest: &str) -> Verdict {
        attempt(&format!(r#"{{"file": "{path}"{rest}}}"#), &system())
    }

    #[test]
    fn what_is_there_and_what_is_not() {
        assert!(file("/etc/motd", "").holds);
        assert!(file("/etc", "").holds);
        assert!(file("/etc/none", r#", "exists": false"#).holds);
        let verdict = file("/etc/none", "");
        assert_eq!(
            (verdict.holds, verdict.expected.as_str(), verdict.found.as_str()),
            (false, "/etc/none", "there is none")
        );
        assert!(!file("/etc/dangling", "").holds);
        for (path, found) in [
            ("/etc", "a folder is there"),
            ("/etc/motd", "a file is there"),
            ("/etc/dangling", "a symbolic link is there"),
        ] {
            let verdict = file(path, r#", "exists": false"#);
            assert_eq!((verdict.holds, verdict.found.as_str()), (false, found));
        }
    }

    #[test]
    fn mode_and_owner() {
        assert!(file("/etc/motd", r#", "mode": "0640", "owner": "me:mine""#).holds);
        assert!(file("/etc/motd", r#", "owner": "me""#).holds);
        let verdict = file("/etc/motd", r#", "mode": "0600", "owner": "other""#);
        assert!(!verdict.holds);
        assert_eq!(verdict.expected, "/etc/motd, mode 0600, owner other");
        assert_eq!(verdict.found, "a file, mode 0640, owner me:mine");
        assert!(!file("/etc/motd", r#", "mode": "4640""#).holds);
        assert!(!file("/etc/motd", r#", "owner": "me:4711""#).holds);
        let verdict = file("/etc/motd", r#", "owner": "nobody-knows""#);
        assert!(!verdict.holds && verdict.found.ends_with("no user nobody-knows in /etc/passwd"), "{}", verdict.found);
    }

    #[test]
    fn contents_and_hash() {
        assert!(file("/etc/motd", r#", "contains": "to node""#).holds);
        assert!(file("/etc/motd", r#", "matches": "^to node-\\d$""#).holds);
        let verdict = file("/etc/motd", r#", "contains": "node-8", "matches": "^to node-\\d$""#);
        assert!(!verdict.holds);
        assert_eq!(verdict.expected, "/etc/motd, with `node-8`, matching `^to node-\\d$`");
        assert!(verdict.found.ends_with("contents `Welcome\nto node-7`"), "{}", verdict.found);
        let sha256 = "3d9be5ad8e0b2f4b9d6ac9b2dd0d6e0f0b9d4d6f6a0d8a6e9b3e9c2d2a6c1f00";
        let verdict = file("/etc/motd", &format!(r#", "sha256": "{sha256}""#));
        assert!(!verdict.holds && verdict.found.contains("SHA-256 "), "{}", verdict.found);
        let right = verdict.found.rsplit(' ').next().unwrap().to_owned();
        // By another program.
        let output =
            std::process::Command::new("sha256sum").arg(system().root.path().join("etc/motd")).output().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().starts_with(&right));
        assert!(file("/etc/motd", &format!(r#", "sha256": "{right}""#)).holds);
        assert!(file("/etc", r#", "contains": "x""#).found.contains("cannot be read: "));
    }
}
