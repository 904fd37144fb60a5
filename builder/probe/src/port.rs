//! The way to the host: a virtio-serial port, else a second console or serial port.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The port's name, as QEMU's `-device virtserialport,name=` gives it.
const NAME: &str = "org.imgbuild.probe";
/// How long the port's driver gets: udev loads it.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);
/// Where to write when there is no such port.
const OTHERS: [&str; 2] = ["/dev/hvc0", "/dev/ttyS1"];

/// No port can be written to.
#[derive(Debug, thiserror::Error)]
#[error("no virtio port {NAME} after {} s, and neither {} nor {} can be opened", PATIENCE.as_secs(), OTHERS[0], OTHERS[1])]
pub(crate) struct NoPort;

/// An open port.
pub(crate) struct Port(File);

impl Port {
    /// Waits for the port.
    pub(crate) fn open() -> Result<Self, NoPort> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(file) =
                find(Path::new("/sys/class/virtio-ports"), Path::new("/dev")).and_then(|path| open(&path))
            {
                return Ok(Self(file));
            }
            thread::sleep(LOOK);
        }
        OTHERS.iter().find_map(|path| open(Path::new(path))).map(Self).ok_or(NoPort)
    }

    /// Writes one line.
    pub(crate) fn say(&mut self, value: &serde_json::Value) -> io::Result<()> {
        // In one write, so that a line is never mixed with another program's.
        let mut line = value.to_string();
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        self.0.flush()
    }
}

fn open(path: &Path) -> Option<File> {
    OpenOptions::new().write(true).open(path).ok()
}

/// The device of the port with our name. Not by udev's link, which comes later.
fn find(ports: &Path, devices: &Path) -> Option<PathBuf> {
    fs::read_dir(ports).ok()?.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim() == NAME).then(|| devices.join(port.file_name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for (device, name) in [("vport1p1", "com.redhat.spice.0\n"), ("vport2p1", "org.imgbuild.probe\n")] {
            fs::create_dir(folder.path().join(device)).unwrap();
            fs::write(folder.path().join(device).join("name"), name).unwrap();
        }
        assert_eq!(find(folder.path(), Path::new("/dev")), Some(PathBuf::from("/dev/vport2p1")));
        assert_eq!(find(&folder.path().join("none"), Path::new("/dev")), None);
    }

    #[test]
    fn a_line_is_one_object() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        let mut port = Port(File::create(&path).unwrap());
        port.say(&serde_json::json!({"event": "fact", "value": "two\nlines"})).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "{\"event\":\"fact\",\"value\":\"two\\nlines\"}\n");
    }
}
