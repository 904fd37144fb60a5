//! The ways a guest gets at its kernel, and everything that has to stand ready for each.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use imgbuild_bundle::{Bundle, INITRD, KERNEL, ROOT};
use imgbuild_progress::Progress;
use imgbuild_serve::{Access, Server, Tree};
use serde::Serialize;
use tempfile::TempDir;

use crate::{
    Error, Machine,
    arch::Arch,
    error::failed,
    fault::{Fault, boot_server},
    firmware::Uefi,
    nvram,
    qemu::{option, value},
    segment,
};

/// How the guest gets at its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootPath {
    /// QEMU loads kernel and initrd; the root comes over HTTP.
    Direct,
    /// SeaBIOS runs the network card's iPXE, which finds a script by DHCP and TFTP, and everything else over HTTP in a
    /// published folder.
    PxeBios,
    /// OVMF gets iPXE, an EFI program, by DHCP and TFTP; that finds its script in the same way, and everything else over
    /// HTTP in a published folder.
    PxeUefi,
    /// OVMF gets iPXE over HTTP, by UEFI HTTP boot, and iPXE its script; there is no TFTP.
    HttpUefi,
}

impl BootPath {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Direct, Self::PxeBios, Self::PxeUefi, Self::HttpUefi];

    /// Those that machines of an architecture (`amd64`, `arm64`) have.
    #[must_use]
    pub fn all(arch: &str) -> Vec<Self> {
        Self::ALL.into_iter().filter(|path| *path != Self::PxeBios || arch == "amd64").collect()
    }
}

impl fmt::Display for BootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::PxeBios => "pxe-bios",
            Self::PxeUefi => "pxe-uefi",
            Self::HttpUefi => "http-uefi",
        })
    }
}

/// What is booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A bundle's folder. For PXE it is published into a temporary folder.
    Bundle(PathBuf),
    /// Where a channel of a boot server's folder points. That very folder is booted from, and nothing in it is changed.
    Published {
        /// The boot server's folder.
        dir: PathBuf,
        /// The image's name; may be left out when the folder has channels of one image only.
        name: Option<String>,
        /// The channel.
        channel: String,
    },
}

/// Where QEMU's user network shows the host's loopback to the guest.
const HOST: &str = "10.0.2.2";
/// The channel of a temporary boot server.
const CHANNEL: &str = "test";
/// Where a test's extra segment is served.
const EXTRA: &str = "imgbuild-test/extra.img";
/// Where iPXE and its first script are served for UEFI's HTTP boot.
const IPXE_EFI: &str = "imgbuild-test/ipxe.efi";
const SCRIPT: &str = "imgbuild-test/boot.ipxe";
/// That script beside what is served.
const SCRIPT_FILE: &str = "first.ipxe";
/// What Linux keeps of a command line, end included, on x86 and on arm64 (`COMMAND_LINE_SIZE` in `arch/x86/include/asm/setup.h`
/// and `arch/arm64/include/uapi/asm/setup.h`).
const COMMAND_LINE: usize = 2048;

/// What DHCP hands out.
const BOOT_FILE: &str = "boot.ipxe";

/// Everything a guest boots from, for as long as it runs.
pub(crate) struct Stage {
    /// The bundle that boots.
    pub(crate) bundle: Bundle,
    /// QEMU's options for kernel and network.
    pub(crate) arguments: Vec<OsString>,
    /// What the guest asked the boot server for.
    pub(crate) requests: Arc<Mutex<Vec<Access>>>,
    /// What is handed out once iPXE runs, in place of iPXE itself.
    for_ipxe: Option<Replacement>,
    // In this order: the server stops before its files go.
    server: Mutex<Option<Server>>,
    folder: TempDir,
}

impl Stage {
    /// Prepares a way for a machine. `extra` is one more initrd segment, `append` more kernel parameters.
    pub(crate) fn new(
        source: &Source,
        path: BootPath,
        machine: &Machine,
        extra: Option<&[u8]>,
        append: &[String],
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        Self::with_fault(source, path, machine, extra, append, None, progress)
    }

    /// The same with what a scenario does to the boot server.
    pub(crate) fn with_fault(
        source: &Source,
        path: BootPath,
        machine: &Machine,
        extra: Option<&[u8]>,
        append: &[String],
        fault: Option<Fault>,
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        machine.check_network()?;
        let folder = tempfile::Builder::new()
            .prefix("imgbuild-boot-")
            .tempdir()
            .map_err(failed("make a folder in", std::env::temp_dir()))?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let making = Making { folder, requests, machine, extra, append, fault };
        match path {
            BootPath::Direct => making.direct(bundle(source)?),
            BootPath::PxeBios => making.pxe(source, First::Script, progress),
            BootPath::PxeUefi | BootPath::HttpUefi => {
                let arch = Arch::parse(&bundle(source)?.manifest().arch)?;
                let uefi =
                    Uefi::find(arch, machine.ipxe.as_deref()).map_err(|missing| Error::Missing { path, missing })?;
                let first = if path == BootPath::PxeUefi { First::Tftp(uefi) } else { First::Http(uefi) };
                making.pxe(source, first, progress)
            }
        }
    }

    /// The boot server, for whoever wants to stop it; nothing is served after that.
    pub(crate) fn take_server(&self) -> Option<Server> {
        self.server.lock().ok()?.take()
    }

    /// A folder for what lasts as long as the guest.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// To be called when iPXE runs: from now on DHCP's file is its script. A site's DHCP server knows iPXE by its user class
    /// ("iPXE", RFC 3004); QEMU's hands the same name to everybody, so that iPXE would start iPXE for ever.
    pub(crate) fn ipxe_runs(&self) -> Result<(), Error> {
        match &self.for_ipxe {
            Some(Replacement { script, in_place_of }) => {
                fs::rename(script, in_place_of).or_else(|error| match error.kind() {
                    // Done before: iPXE says its name more than once.
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(failed("replace", in_place_of)(error)),
                })
            }
            None => Ok(()),
        }
    }
}

/// A file that takes the place of another.
struct Replacement {
    script: PathBuf,
    in_place_of: PathBuf,
}

/// What the firmware gets first, and how.
enum First {
    /// iPXE is in the card: DHCP names its script.
    Script,
    /// iPXE over TFTP, by PXE.
    Tftp(Uefi),
    /// iPXE over HTTP.
    Http(Uefi),
}

struct Making<'a> {
    folder: TempDir,
    requests: Arc<Mutex<Vec<Access>>>,
    machine: &'a Machine,
    extra: Option<&'a [u8]>,
    append: &'a [String],
    fault: Option<Fault>,
}

impl Making<'_> {
    fn direct(self, bundle: Bundle) -> Result<Stage, Error> {
        bundle.verify()?;
        let manifest = bundle.manifest();
        let kernel = manifest.kernel.as_ref().ok_or_else(|| no_kernel(&bundle))?;
        let server = self.serve(Tree::empty().with(ROOT, bundle.file(ROOT)), ROOT, &bundle)?;
        let mut words = kernel.cmdline.clone();
        if let Some(root) = manifest.files.get(ROOT)
            && manifest.delivery != "embed"
        {
            let first = self.fault.and_then(Fault::first_source).map(|url| format!("{url},")).unwrap_or_default();
            words.push(format!("netboot.root={first}http://{HOST}:{}/{ROOT}", server.address().port()));
            words.push(format!("netboot.sha256={}", root.sha256));
        }
        words.push(format!("BOOTIF=01-{}", self.dashed()));
        words.extend(self.append.iter().cloned());
        let cmdline = words.join(" ");
        if cmdline.len() >= COMMAND_LINE {
            return Err(Error::CommandLine { length: cmdline.len(), limit: COMMAND_LINE - 1 });
        }
        let initrd = self.initrd(&bundle)?;
        let mut arguments: Vec<OsString> = vec!["-kernel".into(), bundle.file(KERNEL).into()];
        arguments.extend(["-initrd".into(), initrd.into(), "-append".into(), cmdline.into()]);
        // Without its boot ROM the card does not hold up a boot that does not need it.
        arguments.extend(self.machine.boot_card(OsString::new(), ",romfile="));
        Ok(self.stage(bundle, arguments, server))
    }

    /// The shipped initrd, with the extra segment behind it if there is one.
    fn initrd(&self, bundle: &Bundle) -> Result<PathBuf, Error> {
        let shipped = bundle.file(INITRD);
        let Some(extra) = self.extra else { return Ok(shipped) };
        let mut bytes = fs::read(&shipped).map_err(failed("read", &shipped))?;
        segment::append(&mut bytes, extra);
        let joined = self.folder.path().join(INITRD);
        fs::write(&joined, bytes).map_err(failed("write", &joined))?;
        Ok(joined)
    }

    fn pxe(self, source: &Source, first: First, progress: &dyn Progress) -> Result<Stage, Error> {
        for word in self.append {
            let reserved = word.contains("${") || word.split(' ').any(|part| matches!(part, "&&" | "||"));
            if reserved || word.starts_with('#') || word.contains(char::is_control) {
                return Err(Error::Append { word: word.clone() });
            }
        }
        let (dir, name, channel) = self.published(source, progress)?;
        let pointer = imgbuild_publish::channel(&dir, &name, &channel)?;
        let bundle = Bundle::open(dir.join("images").join(&name).join(&pointer.current.version))?;
        bundle.verify()?;
        let mut tree = Tree::folder(&dir)?;
        // What a site does for a machine of its own: a script under its MAC, which may set more and then chains on.
        let mut script = String::from("#!ipxe\n");
        if !self.append.is_empty() {
            script.push_str(&format!("set netboot-append {}\n", self.append.join(" ")));
        }
        if let Some(extra) = self.extra {
            script.push_str(&format!("set netboot-initrd /{EXTRA}\n"));
            tree = tree.with(EXTRA, self.file("extra.img", extra)?);
        }
        script.push_str(&format!("chain --autofree /channels/{name}/{channel}.ipxe\n"));
        let node = format!("nodes/{}.ipxe", self.dashed());
        let mut tree = tree.with(&node, self.file("node.ipxe", script.as_bytes())?);
        if let First::Http(uefi) = &first {
            tree = tree.with(IPXE_EFI, &uefi.ipxe).with(SCRIPT, self.folder.path().join(SCRIPT_FILE));
        }
        let images = format!("images/{name}/{}", pointer.current.version);
        if let Some(source) = self.fault.and_then(Fault::first_source) {
            let script = boot_server::with_first_source(&bundle.file(BOOT_FILE), source)?;
            tree = tree.with(&format!("{images}/{BOOT_FILE}"), self.file("mirrors.ipxe", script.as_bytes())?);
        }
        let server = self.serve(tree, &format!("{images}/{ROOT}"), &bundle)?;
        // A site's DHCP server would name its boot server; this one has a port of the moment.
        let base = format!("http://{HOST}:{}/", server.address().port());
        let script = format!("#!ipxe\nset netboot-base {base}\nchain --autofree {base}boot.ipxe\n");
        let script = self.file(SCRIPT_FILE, script.as_bytes())?;
        let tftp = self.folder.path().join("tftp");
        fs::create_dir(&tftp).map_err(failed("make the folder", &tftp))?;
        let handed_out = tftp.join(BOOT_FILE);
        let over_tftp = option(&[format!(",bootfile={BOOT_FILE},tftp=").as_ref(), &value(&tftp)]);
        let mut for_ipxe = None;
        let (mut arguments, network, card): (Vec<OsString>, _, _) = match &first {
            First::Script => {
                fs::rename(&script, &handed_out).map_err(failed("write", &handed_out))?;
                (["-boot", "n"].map(OsString::from).to_vec(), over_tftp, ",bootindex=1")
            }
            // Without the card's own boot ROM, which is an iPXE too: the firmware drives the card, as it does a server's.
            First::Tftp(uefi) => {
                fs::copy(&uefi.ipxe, &handed_out).map_err(failed("copy", &uefi.ipxe))?;
                for_ipxe = Some(Replacement { script, in_place_of: handed_out });
                (self.firmware(uefi, None)?, over_tftp, ",bootindex=1,romfile=")
            }
            First::Http(uefi) => {
                let url = format!("{base}{IPXE_EFI}");
                let over_http = format!(",bootfile={base}{SCRIPT}").into();
                // Without an index: that would come before what the variables say.
                (self.firmware(uefi, Some(&url))?, over_http, ",romfile=")
            }
        };
        arguments.extend(self.machine.boot_card(network, card));
        Ok(Stage { for_ipxe, ..self.stage(bundle, arguments, server) })
    }

    /// QEMU's options for UEFI: flash memory with the firmware, and with variables of this guest's own, which may name a URL
    /// to boot.
    fn firmware(&self, uefi: &Uefi, url: Option<&str>) -> Result<Vec<OsString>, Error> {
        let variables = self.folder.path().join("variables.fd");
        // Not `fs::copy`: the original may be one that only reads.
        let mut bytes = fs::read(&uefi.variables).map_err(failed("read", &uefi.variables))?;
        if let Some(url) = url {
            let odd = |reason| failed("set a URL to boot in", &uefi.variables)(io::Error::other(reason));
            nvram::boot_url(&mut bytes, url).map_err(odd)?;
        }
        fs::write(&variables, bytes).map_err(failed("write", &variables))?;
        let flash = |rest: &str, file: &Path| option(&["if=pflash,format=raw,".as_ref(), rest.as_ref(), &value(file)]);
        let code = flash("unit=0,readonly=on,file=", &uefi.code);
        Ok(vec!["-drive".into(), code, "-drive".into(), flash("unit=1,file=", &variables)])
    }

    /// The published folder to boot from, made of the bundle if need be.
    fn published(&self, source: &Source, progress: &dyn Progress) -> Result<(PathBuf, String, String), Error> {
        match source {
            Source::Bundle(path) => {
                let dir = self.folder.path().join("boot-server");
                let published = imgbuild_publish::publish(path, &dir, Some(CHANNEL), progress)?;
                Ok((dir, published.name, CHANNEL.to_owned()))
            }
            Source::Published { dir, name, channel } => {
                Ok((dir.clone(), image_name(dir, name.as_deref())?, channel.clone()))
            }
        }
    }

    /// The address of the card that boots, as files and `BOOTIF=` spell it.
    fn dashed(&self) -> String {
        self.machine.boot_nic().to_string().replace(':', "-")
    }

    fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf, Error> {
        let path = self.folder.path().join(name);
        fs::write(&path, content).map_err(failed("write", &path))?;
        Ok(path)
    }

    /// Serves a tree that has the bundle's root under this name.
    fn serve(&self, tree: Tree, root: &str, bundle: &Bundle) -> Result<Server, Error> {
        const ADDRESS: &str = "127.0.0.1:0";
        let requests = Arc::clone(&self.requests);
        let log = move |access: &Access| {
            if let Ok(mut requests) = requests.lock() {
                requests.push(access.clone());
            }
        };
        let (tree, cut) = match self.fault {
            Some(fault) => {
                let root = boot_server::Served { name: root, file: &bundle.file(ROOT), folder: self.folder.path() };
                fault.spoil(tree, &root)?
            }
            None => (tree, None),
        };
        Ok(match cut {
            Some(cut) => Server::bind_cutting(ADDRESS, tree, cut, log)?,
            None => Server::bind_logged(ADDRESS, tree, log)?,
        })
    }

    fn stage(self, bundle: Bundle, arguments: Vec<OsString>, server: Server) -> Stage {
        let (requests, for_ipxe) = (self.requests, None);
        Stage { bundle, arguments, requests, for_ipxe, server: Mutex::new(Some(server)), folder: self.folder }
    }
}

/// The architecture of what a source means, in Debian's spelling.
///
/// # Errors
/// When it is no bundle, or not published.
pub fn architecture(source: &Source) -> Result<String, Error> {
    Ok(bundle(source)?.manifest().arch.clone())
}

/// The bundle that a source means.
pub(crate) fn bundle(source: &Source) -> Result<Bundle, Error> {
    match source {
        Source::Bundle(path) => Ok(Bundle::open(path)?),
        Source::Published { dir, name, channel } => {
            let name = image_name(dir, name.as_deref())?;
            let pointer = imgbuild_publish::channel(dir, &name, channel)?;
            Ok(Bundle::open(dir.join("images").join(name).join(pointer.current.version))?)
        }
    }
}

pub(crate) fn no_kernel(bundle: &Bundle) -> Error {
    let manifest = bundle.manifest();
    Error::NoKernel { name: manifest.name.clone(), version: manifest.version.clone() }
}

fn image_name(dir: &Path, name: Option<&str>) -> Result<String, Error> {
    if let Some(name) = name {
        return Ok(name.to_owned());
    }
    let names: BTreeSet<String> =
        imgbuild_publish::catalog(dir)?.channels.into_iter().map(|channel| channel.name).collect();
    let list: Vec<String> = names.into_iter().collect();
    match list.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(Error::WhichImage { dir: dir.to_owned(), found: "no image with a channel".to_owned() }),
        several => Err(Error::WhichImage { dir: dir.to_owned(), found: several.join(", ") }),
    }
}
