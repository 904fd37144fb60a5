//! `imgbuild hook run`: a hook on this machine, in seconds, as a node would run it.
//!
//! The hook gets a root of its own: this machine's programs, read-only, and otherwise what netboot-init leaves before
//! `pre-init` hooks run. Namespaces keep it from everything else, so no privilege is needed, and what it wrote lies in a
//! temporary folder afterwards. unshare(1), mount(8) and chroot(8) do it: `unsafe` code of ours would not do it
//! any better.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use netboot_init::{
    cmdline::Parameters,
    environment::{self, Facts},
    identity::Identity,
    net::{Layer, Mac, Network, networkd},
};
use serde::Serialize;

use crate::{Error, error::failed, sys};

/// The node's card. Its address, and all others here, are of those for documentation (RFC 5737, RFC 7042).
const MAC: Mac = Mac([0x00, 0x00, 0x5e, 0x00, 0x53, 0x07]);
/// A kernel that renames a link that is up, so that there is one file less to look past.
const KERNEL: &str = "6.12.0";
/// Folders of the root that are this machine's: what programs need to run.
const PROGRAMS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Bytes of a file that are shown, and of what the hook says.
const SHOWN: u64 = 64 * 1024;
const SAID: u64 = 1 << 20;
const LOOK: Duration = Duration::from_millis(20);

/// Runs in new namespaces as their root: arguments are the root, the command line's file, a file to make when all is ready,
/// the hook. What is mounted goes with the namespace.
const SET_UP: &str = r#"set -eu
root=$1 cmdline=$2 ready=$3 hook=$4
# A user who may not write there needs no protection from it, and may not remount what the host has locked.
readonly_() { mount -o remount,bind,ro "$1" || [ -z "${NETBOOT_BY_ROOT:-}" ]; }
for name in usr bin sbin lib lib32 lib64 libx32 etc/alternatives; do
    if [ -d "$root/$name" ] && [ ! -L "$root/$name" ]; then
        mount --rbind "/$name" "$root/$name"
        readonly_ "$root/$name"
    fi
done
for name in null zero full random urandom; do mount --bind "/dev/$name" "$root/dev/$name"; done
mount -t proc -o ro proc "$root/proc" 2>/dev/null || { mount --rbind /proc "$root/proc" && readonly_ "$root/proc"; }
mount --bind "$cmdline" "$root/proc/cmdline"
: >"$ready"
unset NETBOOT_BY_ROOT
cd /
exec chroot "$root" "$hook"
"#;

/// A hook to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookTrial {
    /// The script or program.
    pub script: PathBuf,
    /// The node's own variables, which win over netboot-init's.
    pub variables: BTreeMap<String, String>,
    /// The kernel's command line.
    pub cmdline: String,
    /// When it is killed.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HookReport {
    /// Its name.
    pub hook: String,
    /// Its exit status; none when it was killed.
    pub exit: Option<i32>,
    /// Whether its time was over.
    pub timed_out: bool,
    /// How long it took.
    pub seconds: f64,
    /// What it said, on both streams, up to 1 MiB.
    pub output: String,
    /// What it left in the root, by path.
    pub wrote: Vec<Written>,
    /// What it took away.
    pub removed: Vec<String>,
}

/// Something that a hook wrote or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Where, as the hook sees it.
    pub path: String,
    /// Permission bits, in octal.
    pub mode: String,
    /// A file's text, if it is one, up to 64 KiB; a folder's or device's is none.
    pub text: Option<String>,
    /// Where a symbolic link leads.
    pub target: Option<String>,
}

/// Runs a hook as a node would: in a root of its own, with the environment of [`environment::VARIABLES`], an address by
/// DHCP, and nothing on its standard input. The network is this machine's.
///
/// # Errors
/// When it cannot be run at all. A hook that fails is a [`HookReport`].
pub fn run_hook(trial: &HookTrial, interrupted: &AtomicBool) -> Result<HookReport, Error> {
    let name = trial.script.file_name().unwrap_or(trial.script.as_os_str()).to_string_lossy().into_owned();
    let folder = tempfile::Builder::new()
        .prefix("imgbuild-hook-")
        .tempdir()
        .map_err(failed("make a folder in", std::env::temp_dir()))?;
    let facts = facts(trial);
    let root = folder.path().join("root");
    let hook = make_root(&root, trial, &name, &facts)?;
    let [cmdline, ready] = ["cmdline", "ready"].map(|name| folder.path().join(name));
    fs::write(&cmdline, format!("{}\n", trial.cmdline)).map_err(failed("write", &cmdline))?;
    let before = snapshot(&root)?;

    let began = Instant::now();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]);
    command.args(["/bin/sh", "-c", SET_UP, "set-up"]).args([&root, &cmdline, &ready]).arg(&hook);
    command.env_clear().envs(environment::values(&facts)).envs(&facts.variables);
    command.envs([("PATH", environment::PATH), ("HOME", "/root"), ("LC_ALL", "C")]);
    command.env("NETBOOT_STAGE", "pre-init").env("NETBOOT_HOOK", &name);
    if rustix::process::geteuid().is_root() {
        command.env("NETBOOT_BY_ROOT", "1");
    }
    let (status, output) = attend(command, trial.timeout, interrupted)?;
    if !ready.exists() {
        return Err(Error::Namespace { said: output.trim().to_owned() });
    }
    let seconds = began.elapsed().as_secs_f64();
    let (wrote, removed) = changes(&root, &before)?;
    let exit = status.and_then(|status| status.code());
    Ok(HookReport { hook: name, exit, timed_out: status.is_none(), seconds, output, wrote, removed })
}

/// A node that has booted over its one card.
fn facts(trial: &HookTrial) -> Facts {
    let of_node = |last: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let mut network = Network::new("eth0", MAC, "dhcp", of_node(7), 24);
    network.gateway = Some(of_node(1));
    network.dns = vec![of_node(53)];
    network.domain = Some("example.com".to_owned());
    network.links = vec![Layer::Ethernet { name: "eth0".to_owned(), mac: MAC }];
    Facts {
        image: "image".to_owned(),
        version: "1".to_owned(),
        kernel: KERNEL.to_owned(),
        source: "http://192.0.2.1/images/image/1/root.squashfs".to_owned(),
        mac: Some(MAC),
        network: Some(network),
        identity: Some(Identity {
            hostname: "node-00005e005307".to_owned(),
            domain: Some("example.com".to_owned()),
            machine_id: "00005e0053070000000000000000007f".to_owned(),
        }),
        config: String::new(),
        variables: trial.variables.clone(),
        debug: false,
    }
}

/// What a `pre-init` hook finds; returns the hook's path in there.
fn make_root(root: &Path, trial: &HookTrial, name: &str, facts: &Facts) -> Result<PathBuf, Error> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let folder = |path: &str| fs::create_dir_all(at(path)).map_err(failed("make the folder", at(path)));
    let file = |path: &str, text: &str| fs::write(at(path), text).map_err(failed("write", at(path)));
    for path in ["dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var/lib", "var/log"] {
        folder(path)?;
    }
    for path in PROGRAMS {
        let here = Path::new("/").join(path);
        match fs::read_link(&here) {
            Ok(target) => symlink(target, at(path)).map_err(failed("link", at(path)))?,
            Err(_) if here.is_dir() => folder(path)?,
            Err(_) => {}
        }
    }
    // Debian's awk and others lead there.
    if Path::new("/etc/alternatives").is_dir() {
        folder("etc/alternatives")?;
    }
    for device in ["null", "zero", "full", "random", "urandom"] {
        file(&format!("dev/{device}"), "")?;
    }
    file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
    file("etc/group", "root:x:0:\n")?;
    if let Some(identity) = &facts.identity {
        file("etc/hostname", &format!("{}\n", identity.hostname))?;
        file("etc/machine-id", &format!("{}\n", identity.machine_id))?;
    }
    folder(networkd::FOLDER)?;
    if let Some(network) = &facts.network {
        for (name, text) in networkd::files(network, &Parameters::default(), KERNEL) {
            file(&format!("{}/{name}", networkd::FOLDER), &text)?;
        }
    }
    folder("run/netboot/hooks/scripts")?;
    file("run/netboot/env", &environment::file(facts))?;
    let hook = format!("/run/netboot/hooks/scripts/{name}");
    install(&trial.script, &at(&hook))?;
    Ok(hook.into())
}

/// Copies the hook and makes it executable, as a build does. By another process: one that a thread of ours starts meanwhile would
/// hold the copy open for writing, and what is open for writing cannot be run.
fn install(script: &Path, to: &Path) -> Result<(), Error> {
    // What cannot be read is our own to say.
    fs::File::open(script).map_err(failed("copy the hook", script))?;
    let run = |source| Error::Run { program: "install".into(), source };
    let output = Command::new("install").args(["-m", "755", "--"]).args([script, to]).output().map_err(run)?;
    if !output.status.success() {
        return Err(run(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())));
    }
    Ok(())
}

/// Runs the command until it ends or its time is over; how it ended, unless it was killed for that, and what it said.
fn attend(
    mut command: Command,
    timeout: Duration,
    interrupted: &AtomicBool,
) -> Result<(Option<ExitStatus>, String), Error> {
    let run = |source| Error::Run { program: "unshare".into(), source };
    let (reader, writer) = io::pipe().map_err(run)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(run)?).stderr(writer);
    sys::die_with_parent(&mut command);
    let mut child = command.spawn().map_err(run)?;
    // It holds the pipe's other end: that has to go for the reader to see the end.
    drop(command);
    let reader = thread::spawn(move || {
        let mut said = Vec::new();
        let mut reader = reader.take(SAID);
        let _ = reader.read_to_end(&mut said);
        // The rest is thrown away, so that the hook can end.
        let _ = io::copy(&mut reader.into_inner(), &mut io::sink());
        String::from_utf8_lossy(&said).into_owned()
    });
    let deadline = Instant::now() + timeout;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(run)? {
            break Some(status);
        }
        if interrupted.load(Ordering::Relaxed) {
            end(&mut child);
            return Err(Error::Interrupted);
        }
        if Instant::now() >= deadline {
            end(&mut child);
            break None;
        }
        thread::sleep(LOOK);
    };
    Ok((status, reader.join().unwrap_or_default()))
}

/// Ends unshare, and with it the first process of the new namespace, and so all others there.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// All that is in the root, by path.
type Snapshot = BTreeMap<String, Entry>;

/// Kind, mode, and contents or target.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    bytes: Option<Vec<u8>>,
    target: Option<PathBuf>,
}

fn snapshot(root: &Path) -> Result<Snapshot, Error> {
    let mut found = Snapshot::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(failed("read", &folder))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let meta = entry.metadata().map_err(failed("read", &path))?;
            let kind = meta.file_type();
            let bytes = kind.is_file().then(|| contents(&path)).transpose().map_err(failed("read", &path))?;
            let target = fs::read_link(&path).ok().filter(|_| kind.is_symlink());
            if kind.is_dir() {
                folders.push(path.clone());
            }
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.insert(format!("/{name}"), Entry { mode: meta.permissions().mode(), bytes, target });
        }
    }
    Ok(found)
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(SHOWN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn changes(root: &Path, before: &Snapshot) -> Result<(Vec<Written>, Vec<String>), Error> {
    let after = snapshot(root)?;
    let removed = before.keys().filter(|path| !after.contains_key(*path)).cloned().collect();
    let wrote =
        after.into_iter().filter(|(path, entry)| before.get(path) != Some(entry)).map(|(path, entry)| Written {
            path,
            mode: format!("0{:03o}", entry.mode & 0o7777),
            text: entry.bytes.and_then(|bytes| String::from_utf8(bytes).ok()),
            target: entry.target.map(|target| target.to_string_lossy().into_owned()),
        });
    Ok((wrote.collect(), removed))
}

/// For people: what it said, how it ended, and what it left.
impl fmt::Display for HookReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.output.lines() {
            writeln!(f, "| {line}")?;
        }
        let Self { hook, seconds, .. } = self;
        match self.exit {
            Some(0) => writeln!(f, "{hook} is done, {seconds:.1} s")?,
            Some(status) => writeln!(f, "{hook} ended with status {status}, {seconds:.1} s")?,
            None if self.timed_out => writeln!(f, "{hook} was killed: its time was over after {seconds:.1} s")?,
            None => writeln!(f, "{hook} was killed by a signal")?,
        }
        for path in &self.removed {
            writeln!(f, "removed {path}")?;
        }
        for Written { path, mode, text, target } in &self.wrote {
            match target {
                Some(target) => writeln!(f, "wrote {path} -> {target}")?,
                None => writeln!(f, "wrote {path} ({mode})")?,
            }
            for line in text.iter().flat_map(|text| text.lines()) {
                writeln!(f, "    {line}")?;
            }
        }
        if self.wrote.is_empty() && self.removed.is_empty() {
            writeln!(f, "wrote nothing")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, timeout: u64) -> HookReport {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("try.sh");
        fs::write(&path, script).unwrap();
        let variables = BTreeMap::from([("RACK".to_owned(), "a 7".to_owned())]);
        let (cmdline, timeout) = ("quiet rack=7".to_owned(), Duration::from_secs(timeout));
        run_hook(&HookTrial { script: path, variables, cmdline, timeout }, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn a_hook_is_run_as_on_a_node_and_what_it_wrote_is_shown() {
        let report = run(
            "#!/bin/sh\nset -eu\nid -un\ncat /proc/cmdline\nmkdir /etc/rack\n\
             umask 077\necho \"$RACK $NETBOOT_MAC $NETBOOT_STAGE $NETBOOT_HOOK\" >/etc/rack/name\nln -s rack /etc/r\n\
             rm /run/systemd/network/90-netboot.network\nchmod 600 /etc/hostname\n",
            60,
        );
        assert_eq!((report.exit, report.output.as_str()), (Some(0), "root\nquiet rack=7\n"), "{report:#?}");
        let paths: Vec<(&str, &str)> = report.wrote.iter().map(|w| (w.path.as_str(), w.mode.as_str())).collect();
        let wanted = [("/etc/hostname", "0600"), ("/etc/r", "0777"), ("/etc/rack", "0755"), ("/etc/rack/name", "0600")];
        assert_eq!(paths, wanted);
        assert_eq!(report.wrote[3].text.as_deref(), Some("a 7 00:00:5e:00:53:07 pre-init try.sh\n"));
        assert_eq!(report.wrote[1].target.as_deref(), Some("rack"));
        assert_eq!(report.removed, ["/run/systemd/network/90-netboot.network"]);
        let shown = report.to_string();
        assert!(
            shown.contains("| quiet rack=7\ntry.sh is done, ") && shown.contains("wrote /etc/r -> rack\n"),
            "{shown}"
        );
    }

    #[test]
    fn this_machine_is_out_of_reach() {
        let mark = tempfile::NamedTempFile::new().unwrap();
        let report = run(
            &format!(
                "#!/bin/sh\ntest ! -e {} || echo seen\ntouch /usr/imgbuild-hook /bin/imgbuild-hook && echo written\n\
                 (echo 1 >/proc/sys/kernel/printk) && echo set\ntest -z \"$(ls /sys; ls /home)\" || echo visible\nexit 3\n",
                mark.path().display()
            ),
            60,
        );
        assert_eq!(report.exit, Some(3), "{report:#?}");
        for word in ["seen\n", "written\n", "set\n", "visible\n"] {
            assert!(!report.output.contains(word), "{}", report.output);
        }
        assert!(report.wrote.is_empty() && report.removed.is_empty(), "{report:#?}");
        assert!(!Path::new("/usr/imgbuild-hook").exists());
    }

    #[test]
    fn a_hook_that_hangs_is_killed_with_its_children() {
        let report = run("#!/bin/sh\nsleep 1000 & echo waiting; wait\n", 2);
        assert!(report.timed_out && report.exit.is_none() && report.seconds < 30.0, "{report:#?}");
        assert_eq!(report.output, "waiting\n");
        assert!(report.to_string().contains("its time was over"));
    }

    #[test]
    fn what_is_no_program_says_so() {
        let report = run("no first line\n\u{1}", 60);
        assert_ne!(report.exit, Some(0));
        let missing = run("#!/no/such/shell\n", 60);
        assert_eq!(missing.exit, Some(127), "{missing:#?}");
        assert!(missing.output.contains("No such file"), "{missing:#?}");
    }
}
