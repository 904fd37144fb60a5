use super::*;
use crate::testing::module;

#[test]
fn fields_of_a_module() {
    let elf = module(&[
        ("version", "1.0"),
        ("firmware", "tigon/tg3.bin"),
        ("firmware", "tigon/tg3_tso.bin"),
        ("softdep", "pre: realtek i2c-dev post: other"),
        ("softdep", "ignored pre: more"),
        ("alias", "pci:v000014E4d00001644sv*sd*bc*sc*i*"),
        ("depends", "libphy,i2c-algo-bit"),
        ("vermagic", "6.1.0 SMP"),
        ("parm", "x:a=b"),
    ]);
    let info = ModInfo::parse(&elf).unwrap();
    assert_eq!(info.depends, ["libphy", "i2c_algo_bit"]);
    assert_eq!(info.pre, ["realtek", "i2c-dev", "more"]);
    assert_eq!(info.post, ["other"]);
    assert_eq!(info.firmware, ["tigon/tg3.bin", "tigon/tg3_tso.bin"]);
    assert_eq!(info.aliases, ["pci:v000014E4d00001644sv*sd*bc*sc*i*"]);
    assert_eq!(info.vermagic.as_deref(), Some("6.1.0 SMP"));
    assert_eq!(ModInfo::parse(&module(&[("depends", "")])).unwrap(), ModInfo::default());
}

#[test]
fn what_is_no_module_says_why() {
    let mut elf32 = module(&[]);
    elf32[4] = 1;
    let mut big_endian = module(&[]);
    big_endian[5] = 2;
    let mut no_section = module(&[]);
    let at = no_section.windows(8).position(|window| window == b".modinfo").unwrap();
    no_section[at + 1] = b'M';
    for (elf, reason) in [
        (b"".to_vec(), "no ELF file"),
        (b"#!/bin/sh".to_vec(), "no ELF file"),
        (elf32, "no little-endian ELF64 file"),
        (big_endian, "no little-endian ELF64 file"),
        (no_section, "no .modinfo section"),
        (module(&[])[..200].to_vec(), "cut off"),
    ] {
        let error = ModInfo::parse(&elf).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

/// The reader sees bytes from anywhere: whatever they are, it answers.
#[test]
fn broken_files_break_nothing() {
    let elf = module(&[("depends", "a,b"), ("alias", "x")]);
    for length in 0..elf.len() {
        let _ = ModInfo::parse(&elf[..length]);
    }
    for at in 0..elf.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut broken = elf.clone();
            broken[at] = value;
            let _ = ModInfo::parse(&broken);
        }
    }
    let mut absurd = elf.clone();
    absurd[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(ModInfo::parse(&absurd).is_err());
}

/// With 65 280 sections and more the numbers stand in the first section header.
#[test]
fn many_sections() {
    let mut elf = module(&[("depends", "a")]);
    let headers = u64::from_le_bytes(elf[40..48].try_into().unwrap()) as usize;
    elf[headers + 32..headers + 40].copy_from_slice(&3u64.to_le_bytes());
    elf[headers + 40..headers + 44].copy_from_slice(&2u32.to_le_bytes());
    elf[60..62].copy_from_slice(&0u16.to_le_bytes());
    elf[62..64].copy_from_slice(&0xffffu16.to_le_bytes());
    assert_eq!(ModInfo::parse(&elf).unwrap().depends, ["a"]);
}

#[test]
fn names_and_aliases() {
    assert_eq!(normalise("i2c-algo_bit"), "i2c_algo_bit");
    assert_eq!(normalise_alias("platform:gpio-keys"), "platform:gpio_keys");
    assert_eq!(normalise_alias("a-b[c-d]e-f"), "a_b[c-d]e_f");
}
