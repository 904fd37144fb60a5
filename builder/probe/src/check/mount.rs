//! `mount`: a mount point's type, options and size.

use super::Verdict;
use crate::spec::{Mount, Size};
use crate::system::System;

pub(super) fn check(Mount { mount: path, fstype, options, size }: &Mount, system: &dyn System) -> Verdict {
    let mut expected = fstype.clone().unwrap_or_else(|| "a mount".to_owned());
    if !options.is_empty() {
        expected = format!("{expected} with {}", options.join(","));
    }
    let wanted_size = match size {
        None => None,
        Some(Size::Bytes(bytes)) => Some((*bytes, (bytes / 100).max(64 * 1024))),
        // The kernel counts pages that /proc/meminfo does not.
        Some(share @ Size::Percent(_)) => match system.memory() {
            Ok(memory) => {
                let bytes = share.bytes(memory.total);
                Some((bytes, bytes / 20))
            }
            Err(error) => return Verdict::new(false, expected, format!("/proc/meminfo: {error}")),
        },
    };
    if let Some((bytes, tolerance)) = wanted_size {
        expected = format!("{expected} of {} MiB, give or take {}", bytes >> 20, tolerance >> 20);
    }
    let table = match system.mountinfo() {
        Ok(table) => table,
        Err(error) => return Verdict::new(false, expected, format!("/proc/self/mountinfo: {error}")),
    };
    // The last one lies on top.
    let Some(mount) = table.lines().filter_map(Entry::parse).rfind(|mount| mount.path == *path) else {
        return Verdict::new(false, expected, format!("nothing mounted on {path}"));
    };
    let mut found = format!("{} ({})", mount.fstype, mount.options.join(","));
    let mut holds = fstype.as_ref().is_none_or(|fstype| *fstype == mount.fstype);
    holds &= options.iter().all(|option| mount.options.contains(option));
    if let Some((bytes, tolerance)) = wanted_size {
        match system.size(path) {
            Ok(size) => {
                holds &= size.abs_diff(bytes) <= tolerance;
                found = format!("{found} of {} MiB", size >> 20);
            }
            Err(error) => {
                holds = false;
                found = format!("{found} of unknown size: {error}");
            }
        }
    }
    Verdict::new(holds, expected, found)
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) fstype: String,
    /// Of the mount and of the file system.
    pub(crate) options: Vec<String>,
}

impl Entry {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(4);
        let (path, options) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let fstype = after.next()?;
        let of_super = after.nth(1).unwrap_or_default();
        let options = options.split(',').chain(of_super.split(',')).filter(|o| !o.is_empty());
        Some(Self { path: unescape(path), fstype: fstype.to_owned(), options: options.map(str::to_owned).collect() })
    }
}

/// The kernel writes blanks and the like as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::attempt;
    use super::*;
    use crate::system::{Memory, fake::Fake};

    fn mount(rest: &str) -> Verdict {
        let memory = Memory { total: 1 << 30, available: 0 };
        let mut system = Fake { memory, ..Fake::default() };
        system.mountinfo = "22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/run/netboot/lower\n\
            30 22 0:28 / /var/lib/kubelet rw,nosuid,nodev shared:9 - ext4 /dev/sda rw\n\
            31 22 0:29 / /var/lib/kubelet rw,nosuid,nodev shared:10 - tmpfs tmpfs rw,size=209712k,mode=700\n\
            32 22 0:30 / /a\\040b rw - tmpfs tmpfs rw\n"
            .into();
        system.sizes.insert("/var/lib/kubelet".into(), 209_712 * 1024);
        attempt(&format!(r#"{{"mount": {rest}}}"#), &system)
    }

    #[test]
    fn the_mount_on_top_counts_with_type_options_and_size() {
        assert!(mount(r#""/", "fstype": "overlay""#).holds);
        assert!(mount(r#""/a b""#).holds);
        let kubelet = |rest: &str| mount(&format!(r#""/var/lib/kubelet"{rest}"#));
        assert!(kubelet(r#", "fstype": "tmpfs", "options": ["nosuid", "mode=700"], "size": "20%""#).holds);
        assert!(kubelet(&format!(r#", "size": {}"#, 209_712 * 1024)).holds);
        let verdict = kubelet(r#", "fstype": "tmpfs", "options": ["noexec"], "size": "40%""#);
        assert!(!verdict.holds);
        assert_eq!(verdict.expected, "tmpfs with noexec of 409 MiB, give or take 20");
        assert_eq!(verdict.found, "tmpfs (rw,nosuid,nodev,rw,size=209712k,mode=700) of 204 MiB");
        assert!(!kubelet(r#", "fstype": "tmpfs", "options": ["noexec"]"#).holds);
        assert!(!kubelet(r#", "size": "40%""#).holds);
        assert!(!kubelet(r#", "fstype": "ext4""#).holds);
        assert_eq!(mount(r#""/srv""#).found, "nothing mounted on /srv");
        assert!(!mount(r#""/", "size": 1"#).holds, "no size is not any size");
    }
}
