//! Kernel, root and initrds.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, bail, ensure};
use imgbuild_initramfs::{Compression, Initrd, Kernel, Layout, ModuleClosure, ModuleIndex, segment};
use imgbuild_tree::{Content, RootTree};
use netboot_init::config::{Config, Hook, OnFailure, Root, SCHEMA, Size, Stage, Tmpfs};
use netboot_init::fetch::file_digest;

use crate::system;

/// A year after the version's birth: the emulated machines' clock is before it on purpose in one test.
const BUILD_TIME: i64 = 1_750_000_000;

/// The new root's init: prints what it finds, and switches the machine off.
const INIT: &str = r#"#!/bin/sh
exec >/dev/console 2>&1
fact() { echo "FACT $1=$2"; }
fact pid $$
fact arguments "$*"
fact hostname "$(hostname)"
fact hostname-file "$(cat /etc/hostname)"
fact hosts "$(tr '\n' ';' < /etc/hosts)"
fact machine-id "$(cat /etc/machine-id)"
fact clock "$(date +%s)"
fact links "$(ip -o link | tr '\n' ';')"
fact addresses "$(ip -o -4 addr | tr '\n' ';')"
fact addresses6 "$(ip -o -6 addr | tr '\n' ';')"
fact bonding "$(cd /sys/class/net; cat */bonding/mode */bonding/ad_num_ports */bonding/ad_partner_mac 2>&1 | tr '\n' ' ')"
fact routes "$(ip route | tr '\n' ';')"
fact networkd "$(cat /run/systemd/network/* 2>/dev/null | tr '\n' ';')"
fact extra "$(cat /usr/lib/extra 2>&1)"
fact run-extra "$(cat /run/extra 2>&1)"
fact run "$(ls /run/netboot | tr '\n' ' ')"
fact network "$(tr -d '\n ' < /run/netboot/network.json)"
fact log "$(grep -c netboot: /run/netboot/log)"
fact from-hook "$(cat /etc/from-hook 2>&1)"
fact hook-log "$(cat /run/netboot/hooks/pre-init/first.log 2>&1 | tr '\n' ';')"
fact hook-bytes "$(wc -c < /run/netboot/hooks/pre-init/first.log)"
fact configured "$(cat /etc/configured/file 2>&1)"
fact kept "$(ls -l /etc/configured/file /run/netboot/config.json 2>&1 | cut -c 1-10 | tr '\n' ' ')"
fact memory "$(tr '\n' ';' < /proc/meminfo)"
touch /written && fact writable yes
while read -r _ _ _ _ path options rest; do echo "MOUNT $path ${rest#*- } $options"; done < /proc/self/mountinfo
while read -r line; do echo "ENV $line"; done < /run/netboot/env
echo "FACT end=end"
poweroff -f
"#;

/// What all boots share; made once.
#[derive(Debug)]
pub struct Materials {
    folder: tempfile::TempDir,
    kernel_tree: RootTree,
    kernel: Kernel,
    index: ModuleIndex,
    /// The kernel's image.
    pub vmlinuz: PathBuf,
    /// The root.
    pub squashfs: PathBuf,
    sha256: String,
    size: u64,
    system: OnceLock<PathBuf>,
    /// Held by the test that makes it: they run side by side.
    making: Mutex<()>,
}

/// What an initrd is to say.
#[derive(Debug, Default)]
pub struct Image<'a> {
    /// Hooks: name, stage, seconds, policy, script.
    pub hooks: &'a [(&'a str, Stage, u64, OnFailure, &'a str)],
    /// Whether the root is in the initrd.
    pub embedded: bool,
    /// Another hash than the root's.
    pub sha256: Option<String>,
    /// Whether drivers for network cards are left out.
    pub no_network_drivers: bool,
    /// Whether the root is that of [`Materials::system`].
    pub system: bool,
    /// Certificates in PEM, for the program that speaks TLS.
    pub ca: Option<&'a [u8]>,
    /// RAM of the nodes that it is made for, in bytes; 0 is not known.
    pub ram_budget: u64,
    /// Files of the further segment: path, mode, contents.
    pub extra: &'a [(&'a str, u16, &'a [u8])],
}

impl Materials {
    /// The materials, made at the first call.
    ///
    /// # Panics
    ///
    /// When they cannot be made: nothing can be tested without.
    #[must_use]
    #[allow(clippy::panic)] // only tests call it
    pub fn get() -> &'static Self {
        static MATERIALS: OnceLock<Materials> = OnceLock::new();
        MATERIALS.get_or_init(|| Self::make().unwrap_or_else(|error| panic!("{error:#}")))
    }

    fn make() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("netboot-init-").tempdir()?;
        let unpacked = kernel_folder(folder.path())?;
        let mut layout = Layout::new(BUILD_TIME);
        for folder in ["boot", "lib/modules"] {
            lay_out(&unpacked, &unpacked.join(folder), &mut layout)?;
        }
        let kernel_tree = layout.into_tree();
        let kernel = Kernel::find(&kernel_tree, None)?;
        let index = ModuleIndex::load(&kernel_tree, &kernel)?;
        let vmlinuz = unpacked.join("boot").join(format!("vmlinuz-{}", kernel.release));
        let squashfs = make_root(folder.path())?;
        let (size, sha256) = file_digest(&squashfs)?;
        Ok(Self {
            folder,
            kernel_tree,
            kernel,
            index,
            vmlinuz,
            squashfs,
            sha256,
            size,
            system: OnceLock::new(),
            making: Mutex::default(),
        })
    }

    /// Length of the root in bytes.
    #[must_use]
    pub fn root_size(&self) -> u64 {
        self.size
    }

    /// A root with systemd as its init, made at the first call.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn system(&self) -> Result<&Path> {
        let _alone = self.making.lock();
        if self.system.get().is_none() {
            let _ = self.system.set(system::make(self.folder.path())?);
        }
        self.system.get().map(PathBuf::as_path).context("there is no root with systemd")
    }

    /// Writes an initrd, a segment with files for the root behind it, and returns its path.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn initrd(&self, name: &str, image: &Image<'_>) -> Result<PathBuf> {
        let (root, size, sha256) = if image.system {
            let root = self.system()?;
            let (size, sha256) = file_digest(root)?;
            (root, size, sha256)
        } else {
            (self.squashfs.as_path(), self.size, self.sha256.clone())
        };
        let hooks = image.hooks.iter().map(|(name, stage, timeout, on_failure, _)| Hook {
            name: (*name).to_owned(),
            stage: *stage,
            timeout: *timeout,
            on_failure: *on_failure,
        });
        let config = Config {
            schema: SCHEMA,
            name: "tiny".into(),
            version: "7".into(),
            build_time: BUILD_TIME,
            root: Root { size, sha256: image.sha256.clone().unwrap_or(sha256), embedded: image.embedded },
            overlay_size: Size::Percent(25),
            tmpfs: vec![Tmpfs { path: "/var/lib/kubelet".into(), size: Size::Percent(20), mode: 0o750 }],
            hooks: hooks.collect(),
            modules: vec![],
            ram_budget: image.ram_budget,
        };
        let scripts: Vec<(String, Content)> = image
            .hooks
            .iter()
            .map(|(name, stage, _, _, script)| {
                let stage = netboot_init::hooks::stage_name(*stage);
                (format!("{stage}/{name}"), script.as_bytes().into())
            })
            .collect();
        let wanted = if image.no_network_drivers { "virtio_blk" } else { "net/virtio" };
        let modules = ModuleClosure::resolve(&self.index, &[wanted.to_owned()])?;
        let mut files = Vec::new();
        if image.embedded {
            let root = fs::read(root)?;
            files.push((netboot_init::config::EMBEDDED_ROOT.to_owned(), 0o444, root.as_slice().into()));
        }
        if let Some(ca) = image.ca {
            files.push((netboot_init::config::CA.to_owned(), 0o444, ca.into()));
        }
        let mut bytes = Vec::new();
        Initrd {
            tree: &self.kernel_tree,
            kernel: &self.kernel,
            index: &self.index,
            modules: &modules,
            init: match image.ca {
                Some(_) => netboot_programs::NETBOOT_INIT_TLS,
                None => netboot_programs::NETBOOT_INIT,
            },
            config: &serde_json::to_vec(&config)?,
            hooks: &scripts,
            files: &files,
            mtime: BUILD_TIME,
            firmware: false,
            compression: Compression::Zstd(3),
            microcode: false,
            store: None,
        }
        .build(&mut bytes, &imgbuild_progress::Silent)?;
        let mut extra = Layout::new(BUILD_TIME);
        extra.file("/overlay.d/lib/extra", 0o644, b"from the extra segment".as_slice().into())?;
        extra.file("/overlay.d/run/extra", 0o600, b"for this boot only".as_slice().into())?;
        for (path, mode, contents) in image.extra {
            extra.file(path, *mode, (*contents).into())?;
        }
        bytes.extend(segment::to_bytes(&extra.into_tree(), Compression::None)?);
        // By a rename: another test's machine may be about to read an initrd of this name.
        let path = self.folder.path().join(format!("{name}.img"));
        let mut file = tempfile::NamedTempFile::new_in(self.folder.path())?;
        file.write_all(&bytes)?;
        file.persist(&path)?;
        Ok(path)
    }
}

/// Debian's kernel for virtual machines, unpacked: that of `IMGBUILD_TEST_KERNEL`, a folder with boot/ and lib/modules/,
/// else the newest by apt.
fn kernel_folder(folder: &Path) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("IMGBUILD_TEST_KERNEL") {
        return Ok(given.into());
    }
    let depends = run(Command::new("apt-cache").args(["depends", "--important", "linux-image-cloud-amd64"]), folder)?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package = format!("linux-image-{}", package.context("linux-image-cloud-amd64 depends on no kernel")?);
    run(Command::new("apt-get").args(["-q", "-o", "APT::Sandbox::User=root", "download", &package]), folder)?;
    let archive = fs::read_dir(folder)?.flatten().find(|entry| entry.path().extension().is_some_and(|e| e == "deb"));
    let unpacked = folder.join("kernel");
    run(
        Command::new("dpkg-deb").arg("-x").arg(archive.context("apt-get brought no package")?.path()).arg(&unpacked),
        folder,
    )?;
    let release = package.trim_start_matches("linux-image-");
    run(Command::new("depmod").arg("-b").arg(&unpacked).arg(release), folder)?;
    Ok(unpacked)
}

/// Takes the files below `folder` into a tree, by their paths below `root`.
fn lay_out(root: &Path, folder: &Path, layout: &mut Layout) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            lay_out(root, &path, layout)?;
        } else {
            let name = format!("/{}", path.strip_prefix(root)?.display());
            layout.file(&name, 0o644, fs::read(&path)?.into())?;
        }
    }
    Ok(())
}

/// A root of busybox, with 24 MiB that do not compress.
fn make_root(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    for name in ["proc", "sys", "dev", "run", "tmp", "etc", "var/lib/kubelet", "usr/bin", "usr/sbin", "usr/lib"] {
        fs::create_dir_all(root.join(name))?;
    }
    // Merged /usr, as Debian has it.
    for name in ["bin", "sbin", "lib"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    fs::copy("/usr/bin/busybox", root.join("usr/bin/busybox")).context("busybox (package busybox-static)")?;
    for name in [
        "cat", "cut", "date", "env", "grep", "head", "hostname", "ip", "ls", "poweroff", "sh", "sleep", "touch", "tr",
        "wc", "yes",
    ] {
        symlink("busybox", root.join("usr/bin").join(name))?;
    }
    fs::write(root.join("usr/sbin/init"), INIT)?;
    fs::set_permissions(root.join("usr/sbin/init"), fs::Permissions::from_mode(0o755))?;
    // Xorshift: bytes without a pattern, the same every time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = (0..3_u32 << 20)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    fs::write(root.join("usr/lib/noise"), noise)?;
    let image = folder.join("root.squashfs");
    run(
        Command::new("mksquashfs").arg(&root).arg(&image).args(["-comp", "zstd", "-no-progress", "-all-root"]),
        folder,
    )?;
    Ok(image)
}

pub(crate) fn run(command: &mut Command, folder: &Path) -> Result<String> {
    let output = command.current_dir(folder).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    ensure!(output.stdout.len() < 1 << 24, "{command:?} prints too much");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
