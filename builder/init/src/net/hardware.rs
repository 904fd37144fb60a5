//! Network cards that cannot be used, and why: no driver in this initrd, or no firmware for it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::config;
use crate::modules::Index;

/// Who makes network cards, by PCI vendor number (pci-ids.ucw.cz).
const VENDORS: &[(&str, &str)] = &[
    ("1011", "DEC"),
    ("1022", "AMD"),
    ("1077", "QLogic/Marvell"),
    ("10b7", "3Com"),
    ("10df", "Emulex"),
    ("10ec", "Realtek"),
    ("1106", "VIA"),
    ("1137", "Cisco"),
    ("11ab", "Marvell"),
    ("1414", "Microsoft"),
    ("1425", "Chelsio"),
    ("14e4", "Broadcom"),
    ("15ad", "VMware"),
    ("15b3", "NVIDIA/Mellanox"),
    ("168c", "Qualcomm Atheros"),
    ("177d", "Cavium/Marvell"),
    ("1924", "Solarflare/AMD"),
    ("1969", "Qualcomm Atheros"),
    ("19a2", "Emulex"),
    ("19e5", "Huawei"),
    ("1ae0", "Google"),
    ("1af4", "virtio"),
    ("1b4b", "Marvell"),
    ("1d0f", "Amazon"),
    ("1d6a", "Aquantia/Marvell"),
    ("1dd8", "AMD Pensando"),
    ("1fc9", "Tehuti"),
    ("8086", "Intel"),
    ("8088", "Wangxun"),
];

/// How the kernel says that a driver did not get its firmware; the second is Debian's.
const NO_FIRMWARE: [(&str, &str); 2] = [("Direct firmware load for ", " failed"), ("firmware: failed to load ", " (")];

/// Network devices that no driver claimed, and claimed ones that show no interface, in words.
#[must_use]
pub(super) fn unclaimed(sys: &Path) -> Vec<String> {
    let absent = fs::read_to_string(Path::new(config::MODULES).join(config::ABSENT)).unwrap_or_default();
    look(sys, &Index::parse("", &absent, ""), &missing_firmware(&kernel_log()))
}

/// Firmware that a driver did not get: the device's name on its bus, and the file.
type MissingFirmware = (String, String);

/// `absent` knows the drivers that this initrd leaves out.
fn look(sys: &Path, absent: &Index, firmware: &[MissingFirmware]) -> Vec<String> {
    let mut found = Vec::new();
    for (bus, is_network) in [("pci", is_pci_network as fn(&Path) -> bool), ("virtio", is_virtio_network)] {
        let mut devices: Vec<_> =
            fs::read_dir(sys.join("bus").join(bus).join("devices")).into_iter().flatten().flatten().collect();
        devices.sort_by_key(fs::DirEntry::file_name);
        for device in devices {
            let folder = device.path();
            if is_network(&folder) {
                found.extend(describe(bus, &device.file_name().to_string_lossy(), &folder, absent, firmware));
            }
        }
    }
    found
}

fn is_pci_network(folder: &Path) -> bool {
    fs::read_to_string(folder.join("class")).is_ok_and(|class| class.trim().starts_with("0x02"))
}

fn is_virtio_network(folder: &Path) -> bool {
    fs::read_to_string(folder.join("device")).is_ok_and(|device| device.trim() == "0x0001")
}

fn describe(bus: &str, slot: &str, folder: &Path, absent: &Index, firmware: &[MissingFirmware]) -> Option<String> {
    let text = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        text.trim().trim_start_matches("0x").to_owned()
    };
    let (vendor, device, label) = (text("vendor"), text("device"), text("label"));
    let maker = VENDORS.iter().find(|(id, _)| *id == vendor).map(|(_, name)| format!("{name} ")).unwrap_or_default();
    // What is written beside the port.
    let label = if label.is_empty() { label } else { format!(" ({label})") };
    let card = format!("{maker}{bus} {slot} [{vendor}:{device}]{label}");
    let missing: Vec<&str> = firmware.iter().filter(|(of, _)| of == slot).map(|(_, file)| file.as_str()).collect();
    let driver = fs::read_link(folder.join("driver")).ok();
    let driver = driver.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    // A virtio device's interface sits one level deeper.
    let has_interface = bus != "pci" || folder.join("net").exists() || has_virtio_child(folder);
    match driver {
        None if missing.is_empty() => {
            let modalias = text("modalias");
            let modules: Vec<&str> = absent.matching(&modalias).into_iter().collect();
            let hint = match modules.len() {
                0 => String::new(),
                _ => format!(", for which the kernel has {}, left out of this initrd", modules.join(" and ")),
            };
            Some(format!("{card} {modalias}{hint}"))
        }
        // Many drivers let go of a card without firmware.
        None => Some(format!("{card}: its driver found no firmware {}", missing.join(" and "))),
        Some(driver) if !has_interface && missing.is_empty() => {
            Some(format!("{card} has driver {driver} but shows no interface: firmware missing?"))
        }
        Some(driver) if !has_interface => {
            Some(format!("{card} has driver {driver} but shows no interface: no firmware {}", missing.join(" and ")))
        }
        Some(_) => None,
    }
}

fn has_virtio_child(folder: &Path) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|e| e.file_name().to_string_lossy().starts_with("virtio"))
}

/// What the kernel has said so far; nothing where it cannot be read.
fn kernel_log() -> String {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let Ok(mut file) = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg") else {
        return String::new();
    };
    let mut log = String::new();
    let mut record = [0; 8192];
    loop {
        match file.read(&mut record) {
            Ok(0) => return log,
            Ok(length) => log.push_str(&String::from_utf8_lossy(record.get(..length).unwrap_or_default())),
            // What was read last was overwritten meanwhile; the next is the oldest that is left.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            Err(_) => return log,
        }
    }
}

/// Finds in the kernel's log which firmware was missing for which device, each once.
fn missing_firmware(log: &str) -> Vec<MissingFirmware> {
    let mut found: Vec<MissingFirmware> = Vec::new();
    for line in log.lines() {
        let message = line.split_once(';').map_or(line, |(_, message)| message);
        for (begin, end) in NO_FIRMWARE {
            // `DRIVER DEVICE: ` stands before it.
            let Some((device, rest)) = message.split_once(begin) else { continue };
            let device = device.trim_end_matches([':', ' ']).rsplit(' ').next().unwrap_or_default().to_owned();
            let file = rest.split(end).next().unwrap_or(rest).trim().to_owned();
            if !found.contains(&(device.clone(), file.clone())) {
                found.push((device, file));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn card(sys: &Path, slot: &str, class: &str, vendor: &str, device: &str) {
        let folder = sys.join("bus/pci/devices").join(slot);
        for (file, text) in [("class", class), ("vendor", vendor), ("device", device)] {
            write(&folder.join(file), &format!("0x{text}\n"));
        }
        write(
            &folder.join("modalias"),
            &format!("pci:v0000{vendor}d0000{device}\n").to_uppercase().replace("PCI:V", "pci:v").replace('D', "d"),
        );
    }

    #[test]
    fn cards_without_a_driver_are_named() {
        let sys = tempfile::tempdir().unwrap();
        card(sys.path(), "0000:00:03.0", "020000", "8086", "100e");
        card(sys.path(), "0000:00:04.0", "020000", "14e4", "1657");
        card(sys.path(), "0000:00:05.0", "010000", "8086", "1234");
        card(sys.path(), "0000:00:06.0", "020000", "9999", "0001");
        let pci = sys.path().join("bus/pci/devices");
        symlink("../../drivers/tg3", pci.join("0000:00:04.0/driver")).unwrap();
        write(&pci.join("0000:00:06.0/label"), "Port 3\n");
        let found = look(sys.path(), &Index::default(), &[]);
        assert_eq!(
            found,
            [
                "Intel pci 0000:00:03.0 [8086:100e] pci:v00008086d0000100E",
                "Broadcom pci 0000:00:04.0 [14e4:1657] has driver tg3 but shows no interface: firmware missing?",
                "pci 0000:00:06.0 [9999:0001] (Port 3) pci:v00009999d00000001",
            ]
        );
        let absent = Index::parse("", "alias pci:v00008086d0000100E* e1000\n", "");
        assert_eq!(
            look(sys.path(), &absent, &[])[0],
            "Intel pci 0000:00:03.0 [8086:100e] pci:v00008086d0000100E, for which the kernel has e1000, left out of this \
             initrd"
        );
        let firmware =
            missing_firmware("6,1,2,-;tg3 0000:00:04.0: Direct firmware load for tigon/tg3.bin failed with error -2\n");
        assert_eq!(
            look(sys.path(), &absent, &firmware)[1],
            "Broadcom pci 0000:00:04.0 [14e4:1657] has driver tg3 but shows no interface: no firmware tigon/tg3.bin"
        );
        fs::remove_file(pci.join("0000:00:04.0/driver")).unwrap();
        assert_eq!(
            look(sys.path(), &absent, &firmware)[1],
            "Broadcom pci 0000:00:04.0 [14e4:1657]: its driver found no firmware tigon/tg3.bin"
        );
    }

    #[test]
    fn the_kernels_words_for_missing_firmware() {
        let log = "4,700,1,-;bnx2 0000:01:00.0: firmware: failed to load bnx2/bnx2-mips-09-6.2.1b.fw (-2)\n \
                   SUBSYSTEM=pci\n4,701,1,-;bnx2 0000:01:00.0: Direct firmware load for bnx2/bnx2-mips-09-6.2.1b.fw \
                   failed with error -2\n6,702,1,-;firmware_class: See https://wiki.debian.org/Firmware\n";
        assert_eq!(missing_firmware(log), [("0000:01:00.0".to_owned(), "bnx2/bnx2-mips-09-6.2.1b.fw".to_owned())]);
    }
}
