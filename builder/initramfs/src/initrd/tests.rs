use std::sync::Mutex;

use imgbuild_progress::{Event, Silent};

use super::*;
use crate::testing::{RELEASE, Root, strings};

fn root() -> Root {
    let mut root = Root::new();
    root.put_basics();
    root.put_module("kernel/drivers/net/bnx2.ko", &[("firmware", "bnx2/a.fw"), ("firmware", "bnx2/b.fw")]);
    root.put("/lib/firmware/bnx2/real.fw", &[b'f'; 5000]);
    root.symlink("/lib/firmware/bnx2/a.fw", "real.fw");
    root.symlink("/lib/firmware/bnx2/b.fw", "real.fw");
    root.put("/lib/firmware/intel-ucode/06-55-04", b"microcode");
    root
}

/// An initrd in memory.
#[derive(Debug)]
struct InMemory {
    built: Option<Built>,
    bytes: Vec<u8>,
    /// Bytes of the largest piece that was written at once.
    largest: usize,
}

impl Write for InMemory {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(piece);
        self.largest = self.largest.max(piece.len());
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::ops::Deref for InMemory {
    type Target = Built;

    fn deref(&self) -> &Built {
        self.built.as_ref().unwrap()
    }
}

fn in_memory(initrd: &Initrd<'_>, progress: &dyn Progress) -> Result<InMemory> {
    let mut out = InMemory { built: None, bytes: Vec::new(), largest: 0 };
    let built = initrd.build(&mut out, progress)?;
    assert_eq!(built.size, out.bytes.len() as u64);
    out.built = Some(built);
    Ok(out)
}

/// Builds an initrd from `root`, after `change` had its say.
fn build(root: Root, change: impl FnOnce(&mut Initrd<'_>)) -> Result<InMemory> {
    build_with(root, &[], change)
}

fn build_with(root: Root, files: &[(String, u16, Content)], change: impl FnOnce(&mut Initrd<'_>)) -> Result<InMemory> {
    let tree = root.tree();
    let kernel = Kernel::find(&tree, None)?;
    let index = ModuleIndex::load(&tree, &kernel)?;
    let modules = ModuleClosure::resolve(&index, &strings(&["bnx2"]))?;
    let hooks = [("pre-init/10-net.sh".to_owned(), b"#!/bin/sh\n".as_slice().into())];
    let mut initrd = Initrd {
        tree: &tree,
        kernel: &kernel,
        index: &index,
        modules: &modules,
        init: b"init",
        config: b"{}",
        hooks: &hooks,
        files,
        mtime: 1_600_000_000,
        firmware: true,
        compression: Compression::None,
        microcode: true,
        store: None,
    };
    change(&mut initrd);
    in_memory(&initrd, &Silent)
}

/// Paths, modes and link counts of the archives in an uncompressed initrd.
fn listing(bytes: &[u8]) -> Vec<String> {
    let (mut at, mut lines) = (0, Vec::new());
    while at < bytes.len() {
        if bytes[at] == 0 {
            at += 4;
            continue;
        }
        let field = |n: usize| {
            let digits = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            u32::from_str_radix(digits, 16).unwrap()
        };
        let name_size = field(11) as usize;
        let name = std::str::from_utf8(&bytes[at + 110..at + 109 + name_size]).unwrap();
        lines.push(format!("{:o} {} {name}", field(1), field(4)));
        if name != "TRAILER!!!" {
            assert_eq!(field(5), 1_600_000_000, "{name}");
        }
        at = (at + 110 + name_size).next_multiple_of(4) + (field(6) as usize).next_multiple_of(4);
    }
    lines
}

#[test]
fn everything_lies_where_netboot_init_looks() {
    let built = build(root(), |_| {}).unwrap();
    let lines = listing(&built.bytes);
    let expected = [
        "40755 1 kernel",
        "40755 1 kernel/x86",
        "40755 1 kernel/x86/microcode",
        "100644 1 kernel/x86/microcode/GenuineIntel.bin",
        "0 1 TRAILER!!!",
        "40755 1 dev",
        "100755 1 init",
        "40755 1 lib",
        "40755 1 lib/firmware",
        "40755 1 lib/firmware/bnx2",
        "100644 2 lib/firmware/bnx2/a.fw",
        "100644 2 lib/firmware/bnx2/b.fw",
        "40755 1 netboot",
        "40755 1 netboot/modules",
        "40755 1 netboot/modules/kernel",
        "40755 1 netboot/modules/kernel/drivers",
        "40755 1 netboot/modules/kernel/drivers/block",
        "100644 1 netboot/modules/kernel/drivers/block/loop.ko",
        "40755 1 netboot/modules/kernel/drivers/net",
        "100644 1 netboot/modules/kernel/drivers/net/bnx2.ko",
        "40755 1 netboot/modules/kernel/fs",
        "40755 1 netboot/modules/kernel/fs/overlayfs",
        "100644 1 netboot/modules/kernel/fs/overlayfs/overlay.ko",
        "40755 1 netboot/modules/kernel/fs/squashfs",
        "100644 1 netboot/modules/kernel/fs/squashfs/squashfs.ko",
        "100644 1 netboot/modules/modules.absent",
        "100644 1 netboot/modules/modules.alias",
        "100644 1 netboot/modules/modules.dep",
        "100644 1 netboot/modules/modules.softdep",
        "40755 1 proc",
        "40755 1 run",
        "40755 1 sys",
        "41777 1 tmp",
        "0 1 TRAILER!!!",
        "40755 1 netboot",
        "100644 1 netboot/config.json",
        "40755 1 netboot/hooks",
        "40755 1 netboot/hooks/pre-init",
        "100755 1 netboot/hooks/pre-init/10-net.sh",
        "0 1 TRAILER!!!",
    ];
    assert_eq!(lines, expected);
    assert_eq!(built.modules, ["bnx2", "loop", "overlay", "squashfs"]);
    assert_eq!(built.firmware, ["bnx2/a.fw", "bnx2/b.fw"]);
    assert_eq!(built.microcode, ["kernel/x86/microcode/GenuineIntel.bin"]);
    assert!(built.missing_firmware.is_empty());
    // Whole pages: microcode, init, configuration, hook, 4 modules, modules.dep; the firmware's 5000 bytes once, in
    // two; the other indexes are empty.
    assert_eq!(built.unpacked_size, (9 + 2) * 4096);
}

#[test]
fn firmware_and_microcode_only_where_wanted() {
    let built = build(root(), |initrd| (initrd.firmware, initrd.microcode) = (false, false)).unwrap();
    assert!(built.firmware.is_empty() && built.microcode.is_empty() && built.missing_firmware.is_empty());
    assert!(listing(&built.bytes).iter().all(|line| !line.contains("firmware") && !line.contains("microcode")));
}

#[test]
fn microcode_stands_in_front_uncompressed() {
    let built = build(root(), |initrd| initrd.compression = Compression::Zstd(3)).unwrap();
    assert_eq!(&built.bytes[..6], b"070701");
    let main = built.bytes.chunks(512).position(|chunk| chunk.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    assert!(main.is_some_and(|at| at > 0), "{main:?}");
}

#[test]
fn an_embedded_root_is_stored_at_the_end() {
    let squashfs = vec![b's'; 3_000_000];
    let files = [
        ("/netboot/root.squashfs".to_owned(), 0o644, Content::from(squashfs.clone())),
        ("/etc/site".to_owned(), 0o600, b"text".as_slice().into()),
    ];
    let built = build_with(root(), &files, |initrd| initrd.compression = Compression::Zstd(3)).unwrap();
    let at = built.bytes.windows(squashfs.len()).position(|window| window == squashfs).unwrap();
    let last = built.bytes[..at].windows(6).rposition(|window| window == b"070701").unwrap();
    let lines = listing(&built.bytes[last / 512 * 512..]);
    assert_eq!(lines, ["40755 1 netboot", "100644 1 netboot/root.squashfs", "0 1 TRAILER!!!"]);
    assert_eq!(built.bytes.len() % 512, 0);
    assert!(built.largest < squashfs.len() / 2, "{} bytes at once", built.largest);
}

#[test]
fn a_kernel_that_could_not_read_it_is_refused() {
    let with = |config: &str, compression: Compression| {
        let mut root = root();
        root.put(&format!("/boot/config-{RELEASE}"), config.as_bytes());
        build(root, |initrd| initrd.compression = compression)
    };
    let all = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_ZSTD=y\n";
    assert!(with(all, Compression::Zstd(1)).is_ok());
    assert!(with("CONFIG_BLK_DEV_INITRD=y\n", Compression::None).is_ok());
    let error = with("CONFIG_BLK_DEV_INITRD=y\n", Compression::Zstd(1)).unwrap_err();
    assert!(error.to_string().contains("is built without CONFIG_RD_ZSTD, so it cannot read"), "{error}");
    let error = with("# CONFIG_BLK_DEV_INITRD is not set\n", Compression::None).unwrap_err();
    assert!(error.to_string().contains("CONFIG_BLK_DEV_INITRD"), "{error}");
}

#[test]
fn two_things_in_one_place_are_an_error() {
    for (path, message) in [
        ("/init", "/init: regular file stands there already in the initrd, so no regular file can be put there"),
        ("/init/x", "/init: regular file stands there already in the initrd, so no directory can be put there"),
        ("/netboot", "/netboot: directory stands there already"),
        ("/a/../b", "a/..: a path with an empty component, `.` or `..`"),
    ] {
        let files = [(path.to_owned(), 0o644, b"".as_slice().into())];
        let error = build_with(root(), &files, |_| {}).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn progress_is_reported() {
    #[derive(Default)]
    struct Log(Mutex<Vec<Event>>);
    impl Progress for Log {
        fn event(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }
    let log = Log::default();
    let tree = root().tree();
    let kernel = Kernel::find(&tree, None).unwrap();
    let index = ModuleIndex::load(&tree, &kernel).unwrap();
    let modules = ModuleClosure::resolve(&index, &[]).unwrap();
    let initrd = Initrd {
        tree: &tree,
        kernel: &kernel,
        index: &index,
        modules: &modules,
        init: b"init",
        config: b"{}",
        hooks: &[],
        files: &[],
        mtime: 0,
        firmware: false,
        compression: Compression::default(),
        microcode: false,
        store: None,
    };
    let built = in_memory(&initrd, &log).unwrap();
    let events = log.0.into_inner().unwrap();
    assert!(matches!(&events[0], Event::Started { task, .. } if task == "initrd"));
    let Some(Event::Finished { outcome, .. }) = events.last() else { panic!("{events:?}") };
    assert!(outcome.starts_with("3 modules, 0 firmware files, "), "{outcome}");
    assert!(outcome.contains(&built.bytes.len().to_string()), "{outcome}");
}

/// Drivers are compressed once, whatever becomes of the configuration.
#[test]
fn a_segment_that_is_kept_is_not_compressed_again() {
    #[derive(Default)]
    struct Memory {
        kept: Mutex<std::collections::BTreeMap<String, Vec<u8>>>,
        saved: Mutex<usize>,
    }
    impl SegmentStore for Memory {
        fn load(&self, key: &str) -> Option<Vec<u8>> {
            self.kept.lock().unwrap().get(key).cloned()
        }
        fn save(&self, key: &str, segment: &[u8]) {
            *self.saved.lock().unwrap() += 1;
            self.kept.lock().unwrap().insert(key.to_owned(), segment.to_owned());
        }
    }
    let memory = Memory::default();
    let tree = root().tree();
    let kernel = Kernel::find(&tree, None).unwrap();
    let index = ModuleIndex::load(&tree, &kernel).unwrap();
    let modules = ModuleClosure::resolve(&index, &strings(&["bnx2"])).unwrap();
    let mut counts = Vec::new();
    for (config, kept) in [("{}", true), ("{}", true), ("{\"x\":1}", true), ("{\"x\":1}", false)] {
        let initrd = Initrd {
            tree: &tree,
            kernel: &kernel,
            index: &index,
            modules: &modules,
            init: b"init",
            config: config.as_bytes(),
            hooks: &[],
            files: &[],
            mtime: 1_600_000_000,
            firmware: true,
            compression: Compression::Zstd(3),
            microcode: true,
            store: kept.then_some(&memory),
        };
        let built = in_memory(&initrd, &Silent).unwrap();
        let unpacked = built.unpacked_size;
        counts.push((*memory.saved.lock().unwrap(), built.bytes, unpacked));
    }
    let saved: Vec<_> = counts.iter().map(|(saved, ..)| *saved).collect();
    assert_eq!(saved, [2, 2, 3, 3]);
    assert!(counts[0].1 == counts[1].1, "it differs with a kept segment");
    assert!(counts[2].1 == counts[3].1, "it differs from one without a store");
}
