//! Made-up modules and roots for the tests.

use imgbuild_tree::RootTree;

use crate::{Kernel, Layout, ModuleIndex};

pub(crate) const RELEASE: &str = "6.1.0-7-test";

/// An ELF64 file with a `.modinfo` section of these fields and nothing else.
pub(crate) fn module(fields: &[(&str, &str)]) -> Vec<u8> {
    let modinfo: Vec<u8> = fields.iter().flat_map(|(key, value)| format!("{key}={value}\0").into_bytes()).collect();
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let modinfo_at = elf.len() as u64;
    elf.extend_from_slice(&modinfo);
    let names_at = elf.len() as u64;
    elf.extend_from_slice(names);
    let headers_at = elf.len() as u64;
    let headers: [(u32, u32, u64, u64); 3] =
        [(0, 0, 0, 0), (1, 1, modinfo_at, modinfo.len() as u64), (10, 3, names_at, names.len() as u64)];
    for (name, kind, offset, size) in headers {
        let mut header = [0u8; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&offset.to_le_bytes());
        header[32..40].copy_from_slice(&size.to_le_bytes());
        elf.extend_from_slice(&header);
    }
    elf[40..48].copy_from_slice(&headers_at.to_le_bytes());
    elf[58..60].copy_from_slice(&64u16.to_le_bytes());
    elf[60..62].copy_from_slice(&3u16.to_le_bytes());
    elf[62..64].copy_from_slice(&2u16.to_le_bytes());
    elf
}

/// A root that is being filled.
pub(crate) struct Root(Layout);

impl Root {
    /// With a kernel image.
    pub(crate) fn new() -> Self {
        let mut root = Self(Layout::new(0));
        root.put(&format!("/boot/vmlinuz-{RELEASE}"), b"an image of no known kind");
        root.0.directory(&format!("/lib/modules/{RELEASE}"), 0o755).unwrap();
        root
    }

    pub(crate) fn put(&mut self, path: &str, bytes: &[u8]) {
        self.0.file(path, 0o644, bytes.into()).unwrap();
    }

    /// A file of the modules directory.
    pub(crate) fn put_modules(&mut self, path: &str, bytes: &[u8]) {
        self.put(&format!("/lib/modules/{RELEASE}/{path}"), bytes);
    }

    /// A module by its path.
    pub(crate) fn put_module(&mut self, path: &str, fields: &[(&str, &str)]) {
        self.put_modules(path, &module(fields));
    }

    /// What mounts a root, as modules.
    pub(crate) fn put_basics(&mut self) {
        self.put_module("kernel/drivers/block/loop.ko", &[]);
        self.put_module("kernel/fs/overlayfs/overlay.ko", &[]);
        self.put_module("kernel/fs/squashfs/squashfs.ko", &[]);
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.0.symlink(path, target).unwrap();
    }

    pub(crate) fn tree(self) -> RootTree {
        self.0.into_tree()
    }

    pub(crate) fn index(self) -> ModuleIndex {
        let tree = self.tree();
        ModuleIndex::load(&tree, &Kernel::find(&tree, None).unwrap()).unwrap()
    }
}

pub(crate) fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}
