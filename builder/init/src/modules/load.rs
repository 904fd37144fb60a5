//! Loading modules for the devices that sysfs shows.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Index;
use crate::cmdline::{Parameters, underscored};
use crate::{debug, sys, warning};

/// Devices appear while others are initialised: a virtio device behind its PCI function. So many times the search is
/// repeated as long as it finds something new.
const ROUNDS: usize = 8;
/// sysfs nests devices; symbolic links are not followed, so this only stops a surprise.
const DEEPEST: usize = 24;

/// `ENODEV`: there is no such hardware; the module looked for itself.
const NO_DEVICE: i32 = 19;

/// Loads modules, each once.
#[derive(Debug)]
pub struct Loader {
    index: Index,
    folder: PathBuf,
    parameters: Vec<(String, String)>,
    blacklist: Vec<String>,
    /// Modules that were tried: loaded, refused or missing.
    tried: BTreeSet<String>,
    /// How many of them are in the kernel now.
    loaded: usize,
    /// What hands a module with its parameters to the kernel.
    insert: fn(&Path, &str) -> io::Result<()>,
    /// Devices that were looked up.
    seen: BTreeSet<String>,
}

impl Loader {
    /// Reads the lists in the modules' folder. An initrd for a kernel with everything built in has none.
    #[must_use]
    pub fn new(folder: &Path, parameters: &Parameters) -> Self {
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        Self {
            index: Index::parse(&read("modules.dep"), &read("modules.alias"), &read("modules.softdep")),
            folder: folder.to_path_buf(),
            parameters: parameters.module_parameters.clone(),
            blacklist: parameters.blacklist.clone(),
            tried: BTreeSet::new(),
            loaded: 0,
            insert: sys::load_module,
            seen: BTreeSet::new(),
        }
    }

    /// How many modules the initrd has.
    #[must_use]
    pub fn available(&self) -> usize {
        self.index.len()
    }

    /// How many of the initrd's modules are in the kernel: those that it refused, for want of hardware or otherwise, are
    /// not.
    #[must_use]
    pub fn loaded(&self) -> usize {
        self.loaded
    }

    /// Loads a module by name, with what it depends on. One that the initrd does not have is built into the kernel, or
    /// will be missed by whoever needs it.
    pub fn load(&mut self, name: &str) {
        let order: Vec<String> = self.index.load_order(name).into_iter().map(str::to_owned).collect();
        if order.is_empty() {
            debug!("module {name}: not in the initrd, taken as built in");
        }
        for module in order {
            self.load_one(&module);
        }
    }

    fn load_one(&mut self, module: &str) {
        let Some(path) = self.index.path(module).map(|path| self.folder.join(path)) else { return };
        if !self.tried.insert(module.to_owned()) {
            return;
        }
        let parameters: Vec<&str> =
            self.parameters.iter().filter(|(of, _)| of == module).map(|(_, parameter)| parameter.as_str()).collect();
        match (self.insert)(&path, &parameters.join(" ")) {
            Ok(()) => {
                self.loaded += 1;
                debug!("module {module}");
            }
            Err(e) if e.raw_os_error() == Some(NO_DEVICE) => debug!("module {module}: no such device here"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                warning!("module {module}: {} is in modules.dep, but not in the initrd", path.display());
            }
            Err(e) => warning!("module {module}: {e}"),
        }
    }

    /// Loads what the devices below `devices` (`/sys/devices`) ask for, and what theirs do. Returns whether anything was
    /// loaded.
    pub fn load_for_devices(&mut self, devices: &Path) -> bool {
        let before = self.loaded;
        for _ in 0..ROUNDS {
            let mut found = Vec::new();
            collect_modaliases(devices, 0, &mut found);
            let new: Vec<String> = found.into_iter().filter(|modalias| self.seen.insert(modalias.clone())).collect();
            if new.is_empty() {
                break;
            }
            let mut wanted: BTreeSet<String> = BTreeSet::new();
            for modalias in &new {
                wanted.extend(self.index.matching(modalias).into_iter().map(str::to_owned));
            }
            for module in wanted {
                if self.blacklist.contains(&underscored(&module)) {
                    debug!("module {module}: on modprobe.blacklist");
                } else {
                    self.load(&module);
                }
            }
        }
        self.loaded > before
    }
}

fn collect_modaliases(folder: &Path, depth: usize, found: &mut Vec<String>) {
    if depth > DEEPEST {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            collect_modaliases(&entry.path(), depth + 1, found);
        } else if entry.file_name() == "modalias"
            && let Ok(text) = fs::read_to_string(entry.path())
            && !text.trim().is_empty()
        {
            found.push(text.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modaliases_are_found_at_any_depth_and_links_are_not_followed() {
        let sys = tempfile::tempdir().unwrap();
        let device = sys.path().join("pci0000:00/0000:00:03.0/virtio0");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("modalias"), "virtio:d00000001v00001AF4\n").unwrap();
        fs::write(sys.path().join("pci0000:00/modalias"), "\n").unwrap();
        std::os::unix::fs::symlink(sys.path(), device.join("subsystem")).unwrap();
        let mut found = Vec::new();
        collect_modaliases(sys.path(), 0, &mut found);
        assert_eq!(found, ["virtio:d00000001v00001AF4"]);
    }

    #[test]
    fn a_module_that_is_missing_or_refused_does_not_stop_the_boot() {
        let folder = tempfile::tempdir().unwrap();
        let dep = "kernel/absent.ko:\nkernel/refused.ko:\nkernel/x.ko:\nkernel/y.ko: kernel/x.ko\n";
        fs::write(folder.path().join("modules.dep"), dep).unwrap();
        let alias = "alias of:N* y\nalias of:N* refused\nalias of:N* absent\n";
        fs::write(folder.path().join("modules.alias"), alias).unwrap();
        let sys = tempfile::tempdir().unwrap();
        fs::write(sys.path().join("modalias"), "of:Nfoo").unwrap();
        let mut loader = Loader::new(folder.path(), &Parameters::default());
        loader.insert = |path, _| match path.file_name().and_then(std::ffi::OsStr::to_str) {
            Some("refused.ko") => Err(io::Error::from_raw_os_error(NO_DEVICE)),
            Some("absent.ko") => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(()),
        };
        assert_eq!((loader.available(), loader.loaded()), (4, 0));
        assert!(loader.load_for_devices(sys.path()));
        assert!(!loader.load_for_devices(sys.path()), "every device is looked up once");
        loader.load("refused");
        loader.load("x");
        assert_eq!(loader.loaded(), 2, "x and y, each once");
    }

    #[test]
    fn a_blacklisted_module_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("modules.dep"), "kernel/y.ko:\n").unwrap();
        fs::write(folder.path().join("modules.alias"), "alias of:N* y\n").unwrap();
        let sys = tempfile::tempdir().unwrap();
        fs::write(sys.path().join("modalias"), "of:Nfoo").unwrap();
        let parameters = Parameters { blacklist: vec!["y".into()], ..Parameters::default() };
        assert!(!Loader::new(folder.path(), &parameters).load_for_devices(sys.path()));
    }
}
