//! An emulated machine, and what its console says.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::wire::Exchange;
use crate::{Materials, Wire, lan};

/// Emulation on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(200);
/// Lines of the console that an error shows.
const TAIL: usize = 60;
/// Where a VGA card has its text, in bytes: of every two, the first is a character.
const VGA_TEXT: (u32, usize) = (0xb8000, 0x8000);

/// A machine to boot.
#[derive(Debug)]
pub struct Machine {
    initrd: PathBuf,
    memory: u32,
    cmdline: String,
    devices: Vec<String>,
    /// What is said to QEMU's monitor before the machine starts.
    commands: Vec<String>,
    /// Kept until the boot is over.
    exchange: Option<Exchange>,
    typing: Vec<(String, String)>,
    until: Option<String>,
    has_screen: bool,
    /// dnsmasq's options, if it is on a [`lan`].
    dnsmasq: Option<Vec<String>>,
}

/// A boot that is over.
#[derive(Debug)]
pub struct Boot {
    /// The console's lines.
    pub console: Vec<String>,
    /// What is in the memory of a [`Machine::screen`]: rows one after the other without a break, so that what was longer
    /// than a row is in one piece. The kernel moves the visible part along as long as there is room, and else to the top.
    pub screen: String,
}

impl Machine {
    /// The root, as a machine beside dnsmasq gets it.
    pub const LAN_URL: &'static str = "http://[2001:db8::1]/root.squashfs";

    /// A machine with 512 MiB and a network card whose network has DHCP.
    #[must_use]
    pub fn new(initrd: &Path) -> Self {
        Self {
            initrd: initrd.to_path_buf(),
            memory: 512,
            cmdline: String::new(),
            devices: Vec::new(),
            commands: Vec::new(),
            exchange: None,
            typing: Vec::new(),
            until: None,
            has_screen: false,
            dnsmasq: None,
        }
    }

    /// With so many MiB.
    #[must_use]
    pub fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// With these parameters.
    #[must_use]
    pub fn cmdline(mut self, parameters: &str) -> Self {
        self.cmdline = format!("{} {parameters}", self.cmdline);
        self
    }

    /// With a card on a network that has DHCP and the boot server.
    #[must_use]
    pub fn card(self, model: &str, mac: &str) -> Self {
        let id = self.devices.len();
        self.device(&format!("-netdev user,id=n{id} -device {model},netdev=n{id},mac={mac}"))
    }

    /// With a card whose cable ends in a switch with nobody on it.
    #[must_use]
    pub fn lonely_card(self, mac: &str) -> Self {
        let id = self.devices.len();
        self.device(&format!("-netdev hubport,hubid=9,id=n{id} -device virtio-net-pci,netdev=n{id},mac={mac}"))
    }

    /// With a card on such a network that has no cable in it.
    #[must_use]
    pub fn card_without_cable(mut self, mac: &str) -> Self {
        self.commands.push(format!("set_link n{} off", self.devices.len()));
        self.card("virtio-net-pci", mac)
    }

    /// With cards on such a network behind changed cables.
    ///
    /// # Errors
    ///
    /// Those of making sockets.
    pub fn wired(mut self, wire: Wire, macs: &[&str]) -> Result<Self> {
        let exchange = Exchange::start(wire, macs.len())?;
        for (card, mac) in macs.iter().enumerate() {
            let netdev = exchange.netdev(Some(card), &format!("w{card}"));
            // Without speed and duplex a bonding driver takes no part in LACP.
            let device = format!("virtio-net-pci,netdev=w{card},mac={mac},speed=1000,duplex=full");
            self = self.device(&format!("{netdev} -device {device}"));
        }
        self.devices.push(exchange.network());
        self.exchange = Some(exchange);
        Ok(self)
    }

    /// With a card on a network of its own, where dnsmasq runs with these options; the root is at [`Machine::LAN_URL`].
    #[must_use]
    pub fn beside_dnsmasq(mut self, mac: &str, options: &[&str]) -> Self {
        self.dnsmasq = Some(options.iter().copied().map(str::to_owned).collect());
        self.device(&format!("{} -device virtio-net-pci,netdev=lan,mac={mac}", lan::NETDEV))
    }

    /// With these arguments of QEMU.
    #[must_use]
    pub fn device(mut self, arguments: &str) -> Self {
        self.devices.push(arguments.to_owned());
        self
    }

    /// With somebody who types `text` on the console once it has shown `shown`, after what was typed before.
    #[must_use]
    pub fn typing(mut self, shown: &str, text: &str) -> Self {
        self.typing.push((shown.to_owned(), text.to_owned()));
        self
    }

    /// Switched off from outside once its console shows this: for machines that stay on.
    #[must_use]
    pub fn until(mut self, shown: &str) -> Self {
        self.until = Some(shown.to_owned());
        self
    }

    /// With a screen that is a console as well; what it shows is read when the machine is switched off from outside.
    #[must_use]
    pub fn screen(mut self) -> Self {
        self.has_screen = true;
        self.device("-vga std")
    }

    /// Boots it until it switches itself off or restarts.
    ///
    /// # Errors
    ///
    /// When it does neither in time, with the end of its console.
    pub fn boot(self) -> Result<Boot> {
        let boot = self.boot_once()?;
        // QEMU's emulation has a rare race with a kernel that changes its own code (docs/boot-tests.md).
        if boot.says("int3: 0000 [#1]") {
            return self.boot_once();
        }
        Ok(boot)
    }

    fn boot_once(&self) -> Result<Boot> {
        let materials = Materials::get();
        let console = tempfile::NamedTempFile::new()?;
        let temporary = tempfile::tempdir()?;
        let socket = temporary.path().join("monitor");
        // A busy host starves the emulated timer, and the kernel would give up on it.
        let tty = if self.has_screen { "console=tty0 " } else { "" };
        let append = format!("{tty}console=ttyS0 panic=-1 no_timer_check netboot.on_failure=reboot:0 {}", self.cmdline);
        let program = "qemu-system-x86_64";
        let mut qemu = match &self.dnsmasq {
            Some(options) => lan::beside(options, &materials.squashfs, program),
            None => Command::new(program),
        };
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args(["-m", &self.memory.to_string()])
        .arg("-kernel")
        .arg(&materials.vmlinuz)
        .arg("-initrd")
        .arg(&self.initrd)
        .args(["-append", &append, "-serial", "chardev:console"])
        .args(["-chardev", &format!("stdio,id=console,signal=off,logfile={}", console.path().display())])
        .args(self.devices.iter().flat_map(|device| device.split(' ')))
        .args(["-monitor", &format!("unix:{},server=on,wait=off", socket.display()), "-S"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
        let mut child = qemu.spawn().context("qemu-system-x86_64")?;
        let mut keyboard = child.stdin.take().context("no console")?;
        let mut monitor = connect(&socket).context("QEMU's monitor")?;
        for command in self.commands.iter().map(String::as_str).chain(["cont"]) {
            writeln!(monitor, "{command}").context("QEMU's monitor")?;
        }
        let mut typing = self.typing.iter();
        let mut next = typing.next();
        let mut seen = 0;
        let mut screen = String::new();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                break None;
            }
            let shown = String::from_utf8_lossy(&fs::read(console.path())?).into_owned();
            if self.until.as_ref().is_some_and(|until| shown.contains(until.as_str())) {
                if self.has_screen {
                    screen = read_screen(&mut monitor, &temporary.path().join("screen"))?;
                }
                child.kill()?;
                child.wait()?;
                break Some(ExitStatus::default());
            }
            if let Some((expected, text)) = next
                && let Some(at) = shown.get(seen..).and_then(|rest| rest.find(expected.as_str()))
            {
                seen += at + expected.len();
                keyboard.write_all(text.as_bytes()).and_then(|()| keyboard.flush())?;
                next = typing.next();
            }
            thread::sleep(LOOK);
        };
        let text = String::from_utf8_lossy(&fs::read(console.path())?).replace('\r', "");
        let console: Vec<String> = text.lines().map(str::to_owned).collect();
        let boot = Boot { console, screen };
        match status {
            Some(status) if status.success() => Ok(boot),
            Some(status) => bail!("QEMU: {status}\n{}", boot.tail()),
            None => bail!("no end after {} s:\n{}", PATIENCE.as_secs(), boot.tail()),
        }
    }
}

/// Lets QEMU write what the screen has into this file, and reads that.
fn read_screen(monitor: &mut UnixStream, file: &Path) -> Result<String> {
    let (address, length) = VGA_TEXT;
    writeln!(monitor, "pmemsave {address} {length} \"{}\"", file.display()).context("QEMU's monitor")?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let bytes = fs::read(file).unwrap_or_default();
        if bytes.len() >= length {
            return Ok(bytes.iter().step_by(2).map(|byte| char::from(*byte)).collect());
        }
        ensure!(Instant::now() < deadline, "QEMU's monitor has not shown the screen");
        thread::sleep(LOOK);
    }
}

/// QEMU makes its socket some time after it has started.
fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match UnixStream::connect(socket) {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

impl Boot {
    /// The end of the console.
    #[must_use]
    pub fn tail(&self) -> String {
        let from = self.console.len().saturating_sub(TAIL);
        self.console.get(from..).unwrap_or_default().join("\n")
    }

    /// Whether a line contains a text.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        self.console.iter().any(|line| line.contains(text))
    }

    /// How many lines contain it.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.console.iter().filter(|line| line.contains(text)).count()
    }

    /// What the root's init found, by name; empty when it did not run.
    #[must_use]
    pub fn facts(&self) -> BTreeMap<&str, &str> {
        self.prefixed("FACT ").filter_map(|line| line.split_once('=')).collect()
    }

    /// Lines with a prefix, without it.
    pub fn prefixed<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.console.iter().filter_map(move |line| line.strip_prefix(prefix))
    }

    /// What a failed boot said had happened.
    #[must_use]
    pub fn failure(&self) -> Vec<&str> {
        let begin = self.console.iter().position(|line| line.contains("netboot: FAILED: "));
        let lines = begin.and_then(|begin| self.console.get(begin..)).unwrap_or_default();
        let lines = lines.iter().filter_map(|line| Some(line.split_once("netboot: ")?.1.trim()));
        lines.take_while(|line| !line.starts_with("netboot.on_failure")).collect()
    }
}
