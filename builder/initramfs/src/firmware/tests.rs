use super::*;
use crate::testing::{RELEASE, Root, module};
use crate::{ModInfo, normalise};

fn wants(name: &str, files: &[&str]) -> Module {
    let fields: Vec<(&str, &str)> = files.iter().map(|file| ("firmware", *file)).collect();
    let elf = module(&fields);
    let info = ModInfo::parse(&elf).unwrap();
    Module { name: normalise(name), path: format!("kernel/{name}.ko"), content: elf.into(), info }
}

fn text(content: &Content) -> String {
    String::from_utf8(kernel::read("", content, 1 << 20).unwrap()).unwrap()
}

#[test]
fn files_are_found_as_the_kernel_would() {
    let mut root = Root::new();
    root.put("/usr/lib/firmware/a.bin", b"plain");
    root.put("/usr/lib/firmware/dir/b.bin.zst", &zstd::encode_all(&b"zstd"[..], 3).unwrap());
    root.put("/usr/lib/firmware/c.bin", b"old");
    root.put(&format!("/usr/lib/firmware/updates/{RELEASE}/c.bin"), b"new");
    root.symlink("/usr/lib/firmware/d.bin", "a.bin");
    root.symlink("/lib/firmware", "/usr/lib/firmware");
    root.put("/etc/shadow", b"secret");
    let modules = [
        wants("one", &["a.bin", "dir/b.bin", "gone.bin"]),
        wants("two", &["c.bin", "d.bin", "../../../etc/shadow", "dir"]),
    ];
    let firmware = Firmware::find(&root.tree(), RELEASE, &modules).unwrap();
    let found: Vec<(&str, String)> =
        firmware.files.iter().map(|file| (file.name.as_str(), text(&file.content))).collect();
    let expected = [("a.bin", "plain"), ("c.bin", "new"), ("d.bin", "plain"), ("dir/b.bin", "zstd")];
    assert_eq!(found, expected.map(|(name, content)| (name, content.to_owned())));
    assert_eq!(firmware.files[0].source(), firmware.files[2].source());
    let missing: Vec<(&str, &str)> =
        firmware.missing.iter().map(|missing| (missing.module.as_str(), missing.name.as_str())).collect();
    assert_eq!(missing, [("one", "gone.bin"), ("two", "../../../etc/shadow"), ("two", "dir")]);
}

#[test]
fn globs_take_all_that_match() {
    let mut root = Root::new();
    root.put("/lib/firmware/brcm/x-sdio.bin", b"1");
    root.put("/lib/firmware/brcm/y-sdio.bin.zst", &zstd::encode_all(&b"2"[..], 3).unwrap());
    root.put("/lib/firmware/brcm/deep/z-sdio.bin", b"3");
    let modules = [wants("brcmfmac", &["brcm/*-sdio.bin", "brcm/*-pcie.bin"])];
    let firmware = Firmware::find(&root.tree(), RELEASE, &modules).unwrap();
    let names: Vec<&str> = firmware.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["brcm/x-sdio.bin", "brcm/y-sdio.bin"]);
    assert_eq!(firmware.missing.len(), 1);
}

#[test]
fn some_cannot_do_without() {
    let mut root = Root::new();
    root.put("/lib/firmware/bnx2x/e2-7.13.21.fw", b"1");
    let modules = [
        wants("tg3", &["tigon/tg3.bin"]),
        wants("bnx2", &["bnx2/mips.fw", "bnx2/rv2p.fw"]),
        wants("bnx2x", &["bnx2x/e2-7.13.15.fw", "bnx2x/e2-7.13.21.fw"]),
    ];
    let firmware = Firmware::find(&root.tree(), RELEASE, &modules).unwrap();
    let essential: Vec<(&str, bool)> =
        firmware.missing.iter().map(|missing| (missing.name.as_str(), missing.essential)).collect();
    assert_eq!(
        essential,
        [("bnx2/mips.fw", true), ("bnx2/rv2p.fw", true), ("bnx2x/e2-7.13.15.fw", false), ("tigon/tg3.bin", false)]
    );
}

#[test]
fn microcode_of_both_vendors() {
    let mut root = Root::new();
    assert!(microcode(&Root::new().tree()).unwrap().is_empty());
    root.symlink("/usr/lib", "../lib");
    root.put("/lib/firmware/intel-ucode/06-55-04", b"[55]");
    root.put("/lib/firmware/intel-ucode/06-4f-01.initramfs", b"[4f]");
    root.put("/lib/firmware/intel-ucode/README", b"no");
    root.put("/lib/firmware/amd-ucode/microcode_amd_fam19h.bin.zst", &zstd::encode_all(&b"[19]"[..], 3).unwrap());
    root.put("/lib/firmware/amd-ucode/microcode_amd.bin", b"[10]");
    root.put("/lib/firmware/amd-ucode/microcode_amd.bin.asc", b"no");
    let blobs: Vec<(&str, String)> =
        microcode(&root.tree()).unwrap().iter().map(|(path, blob)| (*path, text(blob))).collect();
    let expected = [
        ("kernel/x86/microcode/AuthenticAMD.bin", "[10][19]".to_owned()),
        ("kernel/x86/microcode/GenuineIntel.bin", "[4f][55]".to_owned()),
    ];
    assert_eq!(blobs, expected);
}
