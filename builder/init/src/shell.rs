//! A shell on the console for whoever debugs a boot: at the points that `netboot.debug=` names, or after a failure. An
//! initrd has none of its own; a further segment or the new root may.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{console, environment, root, rootfs, say, sys};

/// Where a shell is looked for, in the initrd and in the root.
const SHELLS: [&str; 2] = ["/bin/sh", "/bin/bash"];

/// A point of the boot at which it can be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakPoint {
    /// Before the `pre-network` hooks.
    PreNetwork,
    /// With an address, before the node's configuration is fetched.
    PostNetwork,
    /// With the root in memory and verified, before it is mounted.
    PostFetch,
    /// With everything mounted and written, before the `pre-init` hooks.
    PostMount,
    /// Right before the system takes over.
    PreSwitch,
}

impl BreakPoint {
    const ALL: [(&'static str, Self); 5] = [
        ("pre-network", Self::PreNetwork),
        ("post-network", Self::PostNetwork),
        ("post-fetch", Self::PostFetch),
        ("post-mount", Self::PostMount),
        ("pre-switch", Self::PreSwitch),
    ];

    /// Reads a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, point)| *point)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, point)| *point == self).map_or("", |(name, _)| name)
    }

    /// All names, in the order of a boot.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|(name, _)| *name).collect()
    }

    /// Stops here for a shell if that was asked for. Where there is none, says so and goes on.
    pub fn reach(self, asked: &[Self], values: &[(&str, String)]) {
        if !asked.contains(&self) {
            return;
        }
        if let Err(why) = run(self.name(), values) {
            say!("netboot.debug={}: {why}; going on", self.name());
        }
    }
}

/// Which shell there is: that of the initrd before that of the root, which is run with the root as its own.
fn find(old: &Path, new: &Path) -> Option<(PathBuf, Option<PathBuf>)> {
    let of_initrd = SHELLS.iter().find(|shell| rootfs::resolve(old, Path::new(shell)).is_ok());
    if let Some(shell) = of_initrd {
        return Some((PathBuf::from(shell), None));
    }
    let of_root = SHELLS.iter().find(|shell| rootfs::resolve(new, Path::new(shell)).is_ok());
    of_root.map(|shell| (PathBuf::from(shell), Some(new.to_path_buf())))
}

/// Runs a shell on the console until it is left.
///
/// # Errors
///
/// Why there is none, in words.
pub fn run(place: &str, values: &[(&str, String)]) -> Result<(), String> {
    let (program, root) = find(Path::new("/"), Path::new(root::NEW_ROOT)).ok_or(
        "no shell: the initrd has no /bin/sh, and no root with one is mounted yet; add an initrd segment with one \
         (busybox will do; netboot-initrd in iPXE)",
    )?;
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    // The kernel's list ends with what /dev/console is, which cannot be a controlling terminal itself.
    let tty = Path::new("/dev").join(active.split_whitespace().last().unwrap_or("console"));
    let open = || OpenOptions::new().read(true).write(true).open(&tty).map_err(|e| format!("{}: {e}", tty.display()));
    let mut command = Command::new(&program);
    command
        .env_clear()
        .envs(values.iter().map(|(name, value)| (*name, value)))
        .envs([("PATH", environment::PATH), ("HOME", "/root"), ("TERM", "linux"), ("LC_ALL", "C")])
        .env("PS1", format!("({place}) \\w# "))
        .current_dir("/")
        .stdin(open()?)
        .stdout(open()?)
        .stderr(open()?);
    sys::session_child(&mut command, root.as_deref());
    let of = root.map_or("the initrd's", |_| "the root's");
    say!("{place}: {of} {} on {}; the boot goes on when it is left", program.display(), tty.display());
    let status = command.status().map_err(|e| format!("{}: {e}", program.display()))?;
    // The end of its session hung up the terminal for everybody who had it open.
    console::open();
    say!("{place}: the shell was left, {status}");
    sys::reap_orphans();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_read_as_they_are_written() {
        for name in BreakPoint::names() {
            assert_eq!(BreakPoint::parse(name).map(BreakPoint::name), Some(name));
            let (_, meaning) = crate::cmdline::PARAMETERS.iter().find(|(name, _)| *name == "netboot.debug").unwrap();
            assert!(meaning.contains(&format!("`{name}`")), "{name}: {meaning}");
        }
        assert_eq!(BreakPoint::parse(""), None);
    }

    #[test]
    fn the_initrds_shell_comes_before_the_roots() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::create_dir_all(old.join("bin")).unwrap();
        assert_eq!(find(&old, &new), None);
        fs::create_dir_all(new.join("usr/bin")).unwrap();
        std::os::unix::fs::symlink("/usr/bin", new.join("bin")).unwrap();
        fs::write(new.join("usr/bin/bash"), "").unwrap();
        assert_eq!(find(&old, &new), Some(("/bin/bash".into(), Some(new.clone()))));
        fs::write(old.join("bin/sh"), "").unwrap();
        assert_eq!(find(&old, &new), Some(("/bin/sh".into(), None)));
    }
}
