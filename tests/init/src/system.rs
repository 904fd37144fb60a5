//! A root with this host's systemd, as little of it as runs a unit and keeps its output.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::materials::run;

/// Programs, with the libraries that they ask for.
const PROGRAMS: [&str; 4] = [
    "/usr/lib/systemd/systemd",
    "/usr/lib/systemd/systemd-journald",
    "/usr/lib/systemd/systemd-shutdown",
    "/usr/bin/journalctl",
];
const UNITS: [&str; 15] = [
    "basic.target",
    "final.target",
    "multi-user.target",
    "network-online.target",
    "network.target",
    "poweroff.target",
    "reboot.target",
    "shutdown.target",
    "sockets.target",
    "sysinit.target",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-reboot.service",
    "umount.target",
];
/// Runs last, tells what happened, and switches the machine off.
const END: &str = "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nStandardOutput=tty\nTTYPath=/dev/console\n\
                   ExecStart=/bin/sh /usr/lib/end\n";
const END_SCRIPT: &str = r#"journalctl --sync
for unit in netboot-hook-a.service netboot-hook-b.service; do
    journalctl -o cat -u $unit _TRANSPORT=stdout | while read -r line; do echo "JOURNAL $unit $line"; done
done
echo "FACT hostname=$(hostname)"
echo "FACT end=end"
poweroff -f
"#;

/// Makes the root and returns its image.
pub(crate) fn make(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("system");
    for name in ["proc", "sys", "dev", "run", "tmp", "etc", "var/lib/kubelet", "var/log", "usr/bin", "usr/sbin"] {
        fs::create_dir_all(root.join(name))?;
    }
    let units = root.join("usr/lib/systemd/system");
    fs::create_dir_all(units.join("sysinit.target.wants"))?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    for path in libraries()?.iter().map(String::as_str).chain(PROGRAMS).chain(["/usr/bin/busybox"]) {
        let target = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().context("a path without a folder")?)?;
        fs::copy(path, target).with_context(|| path.to_owned())?;
    }
    for name in ["cat", "env", "hostname", "poweroff", "sh", "sleep", "sort"] {
        symlink("busybox", root.join("usr/bin").join(name))?;
    }
    symlink("../lib/systemd/systemd", root.join("usr/sbin/init"))?;
    for name in UNITS {
        fs::copy(Path::new("/usr/lib/systemd/system").join(name), units.join(name)).with_context(|| name.to_owned())?;
    }
    for name in ["systemd-journald.service", "systemd-journald.socket"] {
        symlink(format!("../{name}"), units.join("sysinit.target.wants").join(name))?;
    }
    symlink("multi-user.target", units.join("default.target"))?;
    fs::write(units.join("end.service"), END)?;
    // Wanted by the target and after it: the hooks, which it wants as well, are done by then.
    symlink("../end.service", units.join("multi-user.target.wants/end.service"))?;
    fs::write(root.join("usr/lib/end"), END_SCRIPT)?;
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nsystemd-journal:x:101:\nadm:x:4:\n")?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    let image = folder.join("system.squashfs");
    let arguments = ["-comp", "zstd", "-Xcompression-level", "3", "-no-progress", "-all-root"];
    run(Command::new("mksquashfs").arg(&root).arg(&image).args(arguments), folder)?;
    Ok(image)
}

/// The libraries and dynamic linkers of [`PROGRAMS`], by path.
fn libraries() -> Result<BTreeSet<String>> {
    let listed = run(Command::new("ldd").args(PROGRAMS), Path::new("/"))?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
    let path = |line: &str| {
        line.split_whitespace().find(|word| word.starts_with('/') && !word.ends_with(':')).map(str::to_owned)
    };
    Ok(listed.lines().filter(|line| line.starts_with(['\t', ' '])).filter_map(path).collect())
}
