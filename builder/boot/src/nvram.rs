//! UEFI's variables: what the firmware boots next.
//!
//! A server is told the URL of UEFI HTTP boot by DHCP (the vendor class `HTTPClient`) or by whoever sets it up. QEMU's DHCP
//! knows no vendor classes, so it is set up: a boot option whose device path is a URL (UEFI specification 2.10, sections
//! 3.1.3 and 10.3.4.23), and the wish to boot that one next, written into an empty store of variables as EDK II keeps it
//! (`MdeModulePkg/Include/Guid/VariableFormat.h`).

/// Where the store of variables begins in OVMF's volume: behind a header of 72 bytes (`EFI_FIRMWARE_VOLUME_HEADER`).
const STORE: usize = 0x48;
/// Where the first variable goes: behind the store's header of 28 bytes.
const FIRST: usize = STORE + 28;
/// `gEfiAuthenticatedVariableGuid`, `aaf32c78-947b-439a-a180-2e144ec37792`, as it lies in memory.
const AUTHENTICATED: [u8; 16] =
    [0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92];
/// `EFI_GLOBAL_VARIABLE`, `8be4df61-93ca-11d2-aa0d-00e098032b8c`.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// `VARIABLE_DATA` and `VAR_ADDED`: a variable begins, and it is whole.
const BEGIN: [u8; 4] = [0xaa, 0x55, 0x3f, 0];
/// Non-volatile, for boot services and at run time.
const ATTRIBUTES: u32 = 7;
/// The boot option's number; the firmware's own count from 0.
const NUMBER: u16 = 0xf0;
/// A device path's node of a URL: messaging (3), URI (24).
const URI: [u8; 2] = [3, 24];
/// The end of a whole device path.
const END: [u8; 4] = [0x7f, 0xff, 4, 0];

/// Makes an empty store one with which the firmware boots a URL.
///
/// # Errors
/// Says what is odd about the store, or that the URL is too long.
pub(crate) fn boot_url(store: &mut [u8], url: &str) -> Result<(), String> {
    if store.get(STORE..STORE + AUTHENTICATED.len()) != Some(&AUTHENTICATED) {
        return Err("it has no store of authenticated variables where OVMF has it".to_owned());
    }
    let length = u16::try_from(url.len() + 4).map_err(|_| format!("a URL of {} bytes", url.len()))?;
    let path = [&URI[..], &length.to_le_bytes(), url.as_bytes(), &END].concat();
    let path_length = u16::try_from(path.len()).map_err(|_| format!("a URL of {} bytes", url.len()))?;
    // Active; then the path's length, a name, the path.
    let option = [&1_u32.to_le_bytes()[..], &path_length.to_le_bytes(), &utf16("imgbuild"), &path].concat();
    let mut variables = variable(&format!("Boot{NUMBER:04X}"), &option);
    variables.extend(variable("BootNext", &NUMBER.to_le_bytes()));
    let place = store.get_mut(FIRST..FIRST + variables.len()).ok_or("it is too small")?;
    // Flash memory that was erased is all ones.
    if place.iter().any(|byte| *byte != 0xff) {
        return Err("it has variables already".to_owned());
    }
    place.copy_from_slice(&variables);
    Ok(())
}

/// `AUTHENTICATED_VARIABLE_HEADER`, name and data, filled up to a multiple of four bytes.
fn variable(name: &str, data: &[u8]) -> Vec<u8> {
    let name = utf16(name);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = [&BEGIN[..], &ATTRIBUTES.to_le_bytes()].concat();
    // Counter, time and key of those that are signed.
    bytes.extend([0; 8 + 16 + 4]);
    bytes.extend([&length(&name)[..], &length(data), &GLOBAL, &name, data].concat());
    bytes.resize(bytes.len().next_multiple_of(4), 0xff);
    bytes
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arch::Arch, firmware::Uefi};

    fn empty() -> Vec<u8> {
        std::fs::read(Uefi::find(Arch::Amd64, None).unwrap().variables).unwrap()
    }

    /// The bytes with which OVMF of Debian 12 booted; that it does is tested with guests.
    #[test]
    fn a_url_is_what_the_firmware_boots_next() {
        let mut store = empty();
        let before = store.clone();
        boot_url(&mut store, "http://a/b").unwrap();
        let option = &store[FIRST..FIRST + 60 + 18 + 6 + 18 + 14 + 4];
        assert_eq!(option[..8], [0xaa, 0x55, 0x3f, 0, 7, 0, 0, 0]);
        assert_eq!(option[36..44], [18, 0, 0, 0, 42, 0, 0, 0], "lengths of name and data");
        assert_eq!(option[60..70], *b"B\0o\0o\0t\0\x30\0");
        assert_eq!(option[78..84], [1, 0, 0, 0, 18, 0]);
        assert_eq!(option[102..116], *b"\x03\x18\x0e\0http://a/b");
        assert_eq!(option[116..], END);
        let next = &store[FIRST + 120..];
        assert_eq!(next[60..78], utf16("BootNext"));
        assert_eq!((&next[78..80], next[80]), (&[0xf0, 0][..], 0xff));
        assert_eq!((&store[..FIRST], store.len()), (&before[..FIRST], before.len()));
    }

    #[test]
    fn what_is_no_empty_store_is_left_alone() {
        let mut store = empty();
        boot_url(&mut store, "http://a/b").unwrap();
        let before = store.clone();
        assert_eq!(boot_url(&mut store, "http://c/d").unwrap_err(), "it has variables already");
        assert_eq!(store, before);
        assert!(boot_url(&mut [0; 4096], "http://a/b").unwrap_err().contains("no store"));
        assert_eq!(boot_url(&mut empty()[..FIRST + 10], "http://a/b").unwrap_err(), "it is too small");
        assert!(boot_url(&mut empty(), &"x".repeat(70_000)).unwrap_err().contains("70000 bytes"));
    }
}
