//! What the node needs of its programs: they must run where there is no loader and no library, and be small.

use super::{NETBOOT_INIT, NETBOOT_INIT_TLS, OWN, PROBE, architectures, for_architecture};

const ALL: [(&str, &[u8]); 3] =
    [("netboot-init", NETBOOT_INIT), ("netboot-init-tls", NETBOOT_INIT_TLS), ("netboot-probe", PROBE)];

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;

/// Types of the program headers of an ELF64 executable of this machine's byte order.
fn segments(elf: &[u8]) -> Vec<u32> {
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "a little-endian ELF64 file");
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    let (offset, size, count) = (word(32), half(54), half(56));
    (0..count).map(|i| u32::from_le_bytes(elf[offset + i * size..offset + i * size + 4].try_into().unwrap())).collect()
}

#[test]
fn programs_need_no_interpreter() {
    for (name, elf) in ALL {
        let segments = segments(elf);
        assert!(segments.contains(&PT_LOAD), "{name} has nothing to load");
        assert!(!segments.contains(&PT_INTERP), "{name} asks for a dynamic loader, which the initrd does not have");
    }
}

#[test]
fn programs_are_for_one_architecture() {
    assert!(OWN.architecture().is_some());
    for (name, elf) in ALL {
        assert_eq!(elf[18..20], NETBOOT_INIT[18..20], "{name}");
    }
}

#[test]
fn programs_are_found_by_their_nodes() {
    for name in architectures() {
        assert_eq!(for_architecture(name).unwrap().architecture(), Some(name));
    }
    let own = for_architecture(OWN.architecture().unwrap()).unwrap();
    assert_eq!(own.init, NETBOOT_INIT, "what was built comes before what was given");
    assert!(for_architecture("s390x").is_none());
}

#[test]
fn programs_are_small() {
    for (name, elf) in ALL {
        let most = if name.ends_with("-tls") { 4_000_000 } else { 2_000_000 };
        assert!(elf.len() < most, "{name}: {} bytes, {most} at most: every node downloads and unpacks it", elf.len());
    }
}

#[test]
fn each_program_is_what_its_name_says() {
    // Of the init's module that speaks TLS, and its name as it says it to servers.
    let of_tls = b"no https:// server will be believed".as_slice();
    let of_init = b"netboot-init/".as_slice();
    for (name, elf) in ALL {
        let has = |words: &[u8]| elf.windows(words.len()).any(|window| window == words);
        assert_eq!(has(of_tls), name == "netboot-init-tls", "{name}");
        assert_eq!(has(of_init), name.starts_with("netboot-init"), "{name}");
    }
}

#[test]
fn programs_know_nothing_of_where_they_were_built() {
    let home = std::env::var("HOME").unwrap();
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let workspace = std::fs::canonicalize(workspace).unwrap();
    for (name, elf) in ALL {
        for place in [format!("{home}/"), format!("{}/", workspace.display())] {
            let found = elf.windows(place.len()).position(|window| window == place.as_bytes());
            assert_eq!(found, None, "{name} holds the path {place}");
        }
    }
}
