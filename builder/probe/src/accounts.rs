//! Names of users and groups, from the files: nothing here can ask a name service.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The accounts of `/etc/passwd` and `/etc/group`.
pub(crate) struct Accounts {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

/// No account has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {what} {name} in {file}")]
pub(crate) struct Unknown {
    what: &'static str,
    name: String,
    file: &'static str,
}

impl Accounts {
    /// Reads both files below a root; what is not there has no names.
    pub(crate) fn read(root: &Path) -> Self {
        let names = |file: &str| {
            let text = fs::read_to_string(root.join(file)).unwrap_or_default();
            let pairs = text.lines().filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?.to_owned();
                Some((name, fields.nth(1)?.parse().ok()?))
            });
            pairs.collect()
        };
        Self { users: names("etc/passwd"), groups: names("etc/group") }
    }

    /// The number of a user, who may be given by number.
    pub(crate) fn user(&self, name: &str) -> Result<u32, Unknown> {
        let unknown = || Unknown { what: "user", name: name.to_owned(), file: "/etc/passwd" };
        name.parse().ok().or_else(|| self.users.get(name).copied()).ok_or_else(unknown)
    }

    /// The number of a group, likewise.
    pub(crate) fn group(&self, name: &str) -> Result<u32, Unknown> {
        let unknown = || Unknown { what: "group", name: name.to_owned(), file: "/etc/group" };
        name.parse().ok().or_else(|| self.groups.get(name).copied()).ok_or_else(unknown)
    }

    /// A user's name, else the number.
    pub(crate) fn user_name(&self, number: u32) -> String {
        name_of(&self.users, number)
    }

    /// A group's name, else the number.
    pub(crate) fn group_name(&self, number: u32) -> String {
        name_of(&self.groups, number)
    }
}

fn name_of(names: &BTreeMap<String, u32>, number: u32) -> String {
    let found = names.iter().find(|(_, of_name)| **of_name == number);
    found.map_or_else(|| number.to_string(), |(name, _)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nbroken\nx:y:z\n").unwrap();
        let accounts = Accounts::read(root.path());
        assert_eq!((accounts.user("root"), accounts.user("17")), (Ok(0), Ok(17)));
        assert_eq!(
            (accounts.user_name(0), accounts.user_name(5), accounts.group_name(0)),
            ("root".into(), "5".into(), "0".into())
        );
        assert_eq!(accounts.user("broken").unwrap_err().to_string(), "no user broken in /etc/passwd");
        assert_eq!(accounts.group("adm").unwrap_err().to_string(), "no group adm in /etc/group");
    }
}
