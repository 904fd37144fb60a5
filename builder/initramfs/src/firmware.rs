//! Firmware files that modules ask for, and microcode for the processor.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use globset::GlobBuilder;
use imgbuild_tree::{Content, Kind, NodeId, RootTree};

use crate::closure::Module;
use crate::compressed::Format;
use crate::error::Result;
use crate::kernel;

/// Where distributions keep firmware, the older place first; in a merged `/usr` they are one.
const ROOTS: [&str; 2] = ["/lib/firmware", "/usr/lib/firmware"];
/// Deeper than any firmware directory.
const MAX_DEPTH: u32 = 16;

/// Modules whose devices do nothing until they have got firmware. All others that name some run without it, with less
/// speed or what the device has in its flash: `tg3`, `r8169`, `ice`, `cxgb4`, `e100`, `qla2xxx`.
pub const CANNOT_WITHOUT: &[&str] =
    &["aic94xx", "bfa", "bna", "bnx2", "bnx2x", "liquidio", "mlxsw_spectrum", "nfp", "qed", "xhci_pci_renesas"];

/// A firmware file for the initrd.
#[derive(Debug, Clone)]
pub struct FirmwareFile {
    /// Path below the firmware directory, as a driver asks for it.
    pub name: String,
    /// The decompressed file.
    pub content: Content,
    /// The file of the root that it is; several names of one file share it.
    source: NodeId,
}

/// A firmware file that a module may ask for and the root does not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingFirmware {
    /// The module.
    pub module: String,
    /// Path below the firmware directory, or a glob.
    pub name: String,
    /// Whether the module's devices do not work for it: it is one of those that cannot do without ([`CANNOT_WITHOUT`]),
    /// and the root has none of the files that it names.
    pub essential: bool,
}

/// The firmware of a list of modules.
#[derive(Debug, Clone, Default)]
pub struct Firmware {
    /// What the root has, by name.
    pub files: Vec<FirmwareFile>,
    /// What it does not have, sorted. Modules name every file that any of their devices might want, older versions
    /// included, so whether that matters is for the lint to say.
    pub missing: Vec<MissingFirmware>,
}

impl FirmwareFile {
    /// An id that files with the same one as their source share: further names of one file.
    #[must_use]
    pub fn source(&self) -> NodeId {
        self.source
    }
}

impl Firmware {
    /// Looks up what modules name (`firmware=`), in the kernel's order: `updates/RELEASE`, `updates`, `RELEASE`, then
    /// the firmware directory itself; plain or compressed.
    ///
    /// # Errors
    /// When a file cannot be read or decompressed.
    pub fn find(tree: &RootTree, release: &str, modules: &[Module]) -> Result<Self> {
        let directories: Vec<String> = ROOTS
            .iter()
            .flat_map(|root| {
                [
                    format!("{root}/updates/{release}"),
                    format!("{root}/updates"),
                    format!("{root}/{release}"),
                    (*root).to_owned(),
                ]
            })
            .filter(|path| tree.resolve(path).is_ok_and(|id| tree.node(id).kind.is_directory()))
            .collect();
        let mut files = BTreeMap::new();
        let mut missing = Vec::new();
        for module in modules {
            let (first, mut has_one) = (missing.len(), false);
            for wanted in &module.info.firmware {
                let names = if is_glob(wanted) { expand(tree, &directories, wanted) } else { vec![wanted.clone()] };
                let mut any = false;
                for name in names {
                    any |= match files.entry(name) {
                        Entry::Occupied(_) => true,
                        Entry::Vacant(vacant) => match look_up(tree, &directories, vacant.key())? {
                            Some(file) => {
                                vacant.insert(file);
                                true
                            }
                            None => false,
                        },
                    };
                }
                has_one |= any;
                if !any {
                    missing.push(MissingFirmware {
                        module: module.name.clone(),
                        name: wanted.clone(),
                        essential: false,
                    });
                }
            }
            if !has_one && CANNOT_WITHOUT.contains(&module.name.as_str()) {
                missing.iter_mut().skip(first).for_each(|missing| missing.essential = true);
            }
        }
        missing.sort();
        missing.dedup();
        Ok(Self { files: files.into_values().collect(), missing })
    }
}

fn look_up(tree: &RootTree, directories: &[String], name: &str) -> Result<Option<FirmwareFile>> {
    // A name with `..` would lead out of the firmware directory; the kernel refuses it as well.
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Ok(None);
    }
    for directory in directories {
        for format in Format::ALL {
            let path = format!("{directory}/{name}{}", format.suffix());
            let Ok(source) = tree.resolve(&path) else { continue };
            if let Kind::Regular(content) = &tree.node(source).kind {
                let content = format.decode(&path, content)?;
                return Ok(Some(FirmwareFile { name: name.to_owned(), content, source }));
            }
        }
    }
    Ok(None)
}

fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// The names that a glob matches, sorted, without suffixes of compression.
fn expand(tree: &RootTree, directories: &[String], glob: &str) -> Vec<String> {
    // The pattern comes from a module: one that is no glob matches nothing, and is reported as missing.
    let Ok(matcher) = GlobBuilder::new(glob).literal_separator(true).build().map(|glob| glob.compile_matcher()) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for directory in directories {
        if let Ok(id) = tree.resolve(directory) {
            collect(tree, id, "", MAX_DEPTH, &mut |name| {
                if matcher.is_match(name) {
                    names.push(name.to_owned());
                }
            });
        }
    }
    names.sort();
    names.dedup();
    names
}

fn collect(tree: &RootTree, directory: NodeId, below: &str, depth: u32, found: &mut impl FnMut(&str)) {
    for (name, id) in tree.children(directory).into_iter().flatten() {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        match tree.node(*id).kind {
            Kind::Directory(_) if depth > 0 => collect(tree, *id, &path, depth - 1, found),
            Kind::Regular(_) | Kind::Symlink(_) => found(Format::of(&path).0),
            _ => {}
        }
    }
}

/// Microcode updates as the kernel wants them before it does anything else: files of the initrd's first, uncompressed
/// segment, by path (`Documentation/arch/x86/microcode.rst`). Empty where the root has none.
///
/// # Errors
/// When a file cannot be read or decompressed.
pub fn microcode(tree: &RootTree) -> Result<Vec<(&'static str, Content)>> {
    let mut blobs = Vec::new();
    let vendors = [
        ("amd-ucode", "kernel/x86/microcode/AuthenticAMD.bin", is_amd as fn(&str) -> bool),
        ("intel-ucode", "kernel/x86/microcode/GenuineIntel.bin", is_intel),
    ];
    for (folder, path, belongs) in vendors {
        let mut blob = Vec::new();
        for root in ROOTS {
            let directory = format!("{root}/{folder}");
            for name in kernel::names(tree, &directory) {
                let Ok(name) = std::str::from_utf8(name) else { continue };
                let (plain, format) = Format::of(name);
                let shown = format!("{directory}/{name}");
                if let Some(content) = kernel::regular(tree, &shown).filter(|_| belongs(plain)) {
                    let content = format.decode(&shown, &content)?;
                    blob.extend(kernel::read(&shown, &content, crate::compressed::LIMIT)?);
                }
            }
            // In a merged /usr both places are one.
            if !blob.is_empty() {
                break;
            }
        }
        if !blob.is_empty() {
            blobs.push((path, Content::from(blob)));
        }
    }
    Ok(blobs)
}

/// `microcode_amd.bin`, `microcode_amd_fam19h.bin`.
fn is_amd(name: &str) -> bool {
    name.starts_with("microcode_amd") && name.ends_with(".bin")
}

/// `FAMILY-MODEL-STEPPING` in hex, Debian's `.initramfs` for those that only an initrd may load.
fn is_intel(name: &str) -> bool {
    let name = name.strip_suffix(".initramfs").unwrap_or(name);
    let parts: Vec<&str> = name.split('-').collect();
    parts.len() == 3 && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests;
