//! `imgbuild inspect`: what is in a bundle and where it came from, without unpacking it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::manifest::{FileEntry, Kernel, LayerEntry, Ram};
use crate::sbom::{Document, SpdxFile};
use crate::{Bundle, Error};

/// What is in a bundle.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The image's name.
    pub name: String,
    /// The image's version.
    pub version: String,
    /// Machine type.
    pub arch: String,
    /// SHA-256 of the manifest.
    pub manifest_sha256: String,
    /// When it was built, RFC 3339 (the build's clock, not the wall's).
    pub built: String,
    /// The bundle's files.
    pub files: BTreeMap<String, FileEntry>,
    /// The root by layer, in the recipe's order.
    pub layers: Vec<LayerEntry>,
    /// The root by top folder, largest first.
    pub folders: Vec<Folder>,
    /// `name version` of each package, sorted.
    pub packages: Vec<String>,
    /// Kernel, command line, modules and firmware of the initrd.
    pub kernel: Option<Kernel>,
    /// RAM by boot phase.
    pub ram: Ram,
}

/// A folder of the root with all below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Folder {
    /// `/usr/bin`: two levels below `/usr` and `/var`, one elsewhere.
    pub path: String,
    /// Regular files.
    pub files: u64,
    /// Their bytes, uncompressed; each hard link counts.
    pub bytes: u64,
}

/// Where one file of the root came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// Absolute path in the root.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
    /// The layer's name; `imgbuild` for what the build itself makes.
    pub layer: String,
    /// Where that layer stands: `recipes/worker.toml:12`.
    pub recipe: Option<String>,
    /// Where that layer's content came from, pinned.
    pub source: Option<String>,
    /// The layer's digest.
    pub digest: Option<String>,
}

/// Why a file cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] Error),
    /// The root has no such file.
    #[error("{path} is no regular file of this image{}", near(nearest))]
    NotFound {
        /// What was asked for.
        path: String,
        /// Files whose name is the same or close.
        nearest: Vec<String>,
    },
}

fn near(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        some => format!("; it has {}", some.join(", ")),
    }
}

/// Reads what is in a bundle.
///
/// # Errors
/// When its manifest or SBOM cannot be read.
pub fn inspect(bundle: &Bundle) -> Result<Inspection, Error> {
    let manifest = bundle.manifest().clone();
    let sbom = bundle.sbom()?;
    Ok(Inspection {
        manifest_sha256: bundle.manifest_sha256()?,
        built: crate::time::rfc3339(manifest.build_time),
        folders: folders(&sbom),
        packages: packages(&sbom),
        name: manifest.name,
        version: manifest.version,
        arch: manifest.arch,
        files: manifest.files,
        layers: manifest.layers,
        kernel: manifest.kernel,
        ram: manifest.ram,
    })
}

/// Finds out where a file of the root came from.
///
/// # Errors
/// When the bundle cannot be read or has no such file.
pub fn file(bundle: &Bundle, path: &str) -> Result<Provenance, FileError> {
    let sbom = bundle.sbom()?;
    let wanted = format!("/{}", path.trim_start_matches('/'));
    let Some(found) = sbom.files.iter().find(|f| f.path() == wanted) else {
        return Err(FileError::NotFound { nearest: nearest(&sbom.files, &wanted), path: wanted });
    };
    let layer = bundle.manifest().layers.iter().find(|l| l.name == found.layer());
    let sha256 = found.checksums.iter().find(|c| c.algorithm == "SHA256");
    Ok(Provenance {
        path: wanted,
        size: found.size(),
        sha256: sha256.map(|c| c.checksum_value.clone()).unwrap_or_default(),
        layer: found.layer().to_owned(),
        recipe: layer.map(|l| l.recipe.clone()),
        source: layer.map(|l| l.source.clone()),
        digest: layer.map(|l| l.digest.clone()),
    })
}

/// Up to three files with the same base name, so that `/bin/kubelet` finds `/usr/bin/kubelet`.
fn nearest(files: &[SpdxFile], wanted: &str) -> Vec<String> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let name = base(wanted);
    files.iter().map(SpdxFile::path).filter(|path| base(path) == name).take(3).map(str::to_owned).collect()
}

fn folders(sbom: &Document) -> Vec<Folder> {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for file in &sbom.files {
        let sum = sums.entry(top_folder(file.path())).or_default();
        sum.0 += 1;
        sum.1 += file.size();
    }
    let mut all: Vec<_> = sums.into_iter().map(|(path, (files, bytes))| Folder { path, files, bytes }).collect();
    all.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    all
}

/// Where a file is counted: two levels below `/usr` and `/var`, one elsewhere.
pub(crate) fn top_folder(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|p| !p.is_empty()).collect();
    let depth = if matches!(parts.first(), Some(&"usr" | &"var")) { 2 } else { 1 };
    let depth = depth.min(parts.len().saturating_sub(1));
    format!("/{}", parts[..depth].join("/"))
}

fn packages(sbom: &Document) -> Vec<String> {
    let mut all: Vec<_> = sbom
        .packages
        .iter()
        .filter(|p| !p.external_refs.is_empty())
        .map(|p| format!("{} {}", p.name, p.version_info))
        .collect();
    all.sort();
    all
}

/// Bytes for people: `178.7 MB` (powers of 1000, as disks and downloads are counted).
#[must_use]
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.95 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// The inspection as text for a terminal.
#[must_use]
pub fn text(found: &Inspection) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}-{} ({}), built {}", found.name, found.version, found.arch, found.built);
    let _ = writeln!(out, "manifest sha256:{}", found.manifest_sha256);
    heading(&mut out, "Files");
    for (name, entry) in &found.files {
        let _ = writeln!(out, "  {:>10}  {name}", human(entry.size));
    }
    heading(&mut out, "Root by layer (uncompressed)");
    for layer in &found.layers {
        let _ =
            writeln!(out, "  {:>10}  {:>6} files  {}  {}", human(layer.bytes), layer.files, layer.name, layer.source);
    }
    heading(&mut out, "Root by folder (uncompressed)");
    for folder in found.folders.iter().take(12) {
        let _ = writeln!(out, "  {:>10}  {:>6} files  {}", human(folder.bytes), folder.files, folder.path);
    }
    if found.folders.len() > 12 {
        let _ = writeln!(out, "  and {} more (--json shows all)", found.folders.len() - 12);
    }
    kernel_text(&mut out, found.kernel.as_ref());
    heading(&mut out, "RAM");
    let ram = &found.ram;
    let phases = [("unpacking the initrd", ram.unpack), ("fetching the root", ram.fetch), ("at rest", ram.rest)];
    for (phase, need) in phases {
        let _ = writeln!(out, "  {:>10}  {phase}", human(need));
    }
    match ram.budget {
        0 => out.push_str("  no budget in the recipe ([budget] ram)\n"),
        budget => {
            let _ = writeln!(out, "  {:>10}  budget", human(budget));
        }
    }
    heading(&mut out, &format!("Packages ({})", found.packages.len()));
    for package in &found.packages {
        let _ = writeln!(out, "  {package}");
    }
    out
}

fn kernel_text(out: &mut String, kernel: Option<&Kernel>) {
    heading(out, "Kernel");
    let Some(kernel) = kernel else {
        out.push_str("  none: a root-only bundle\n");
        return;
    };
    let _ = writeln!(out, "  {}  {}", kernel.release, kernel.cmdline.join(" "));
    let _ = writeln!(out, "  {} modules in the initrd: {}", kernel.modules.len(), kernel.modules.join(" "));
    if !kernel.firmware.is_empty() {
        let _ = writeln!(out, "  {} firmware files: {}", kernel.firmware.len(), kernel.firmware.join(" "));
    }
}

fn heading(out: &mut String, text: &str) {
    let _ = writeln!(out, "\n{text}");
}

/// Where a file came from as text for a terminal.
#[must_use]
pub fn file_text(found: &Provenance) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", found.path);
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(out, "  {key:<7} {value}");
    };
    line("size", &format!("{} bytes", found.size));
    line("sha256", &found.sha256);
    line("layer", &found.layer);
    for (key, value) in [("recipe", &found.recipe), ("source", &found.source), ("digest", &found.digest)] {
        if let Some(value) = value {
            line(key, value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::{Origin, RootTree};

    use super::*;
    use crate::packages::Packages;
    use crate::sbom::Subject;
    use crate::testing::put;

    fn bundle(dir: &std::path::Path) -> Bundle {
        crate::testing::bundle(dir);
        let mut tree = RootTree::new();
        for (path, size) in [("/usr/bin/kubelet", 5000), ("/usr/lib/x/y", 10), ("/etc/fstab", 2), ("/init", 1)] {
            let id = put(&mut tree, path, &vec![b'x'; size]);
            tree.node_mut(id).meta.origin = Origin(0);
        }
        let scanned = crate::scan::scan(&tree, None).unwrap();
        let subject = Subject { name: "worker", version: "1.4.2", time: 0 };
        let layers = ["base".to_owned()];
        let files = crate::sbom::Files::new(&layers, &tree, &scanned);
        let out = std::fs::File::create(dir.join(crate::sbom::FILE_NAME)).unwrap();
        crate::sbom::begin(&files, out).unwrap().finish(&subject, &Packages::default()).unwrap();
        Bundle::open(dir).unwrap()
    }

    #[test]
    fn folders_are_summed_and_sorted() {
        let dir = tempfile::tempdir().unwrap();
        let found = inspect(&bundle(dir.path())).unwrap();
        let shown: Vec<_> = found.folders.iter().map(|f| format!("{} {} {}", f.path, f.files, f.bytes)).collect();
        assert_eq!(shown, ["/usr/bin 1 5000", "/usr/lib 1 10", "/etc 1 2", "/ 1 1"]);
        let text = text(&found);
        assert!(text.starts_with("worker-1.4.2 (amd64), built 2023-11-14T22:13:20Z\n"), "{text}");
        assert!(text.contains("5.0 kB       1 files  /usr/bin"), "{text}");
    }

    #[test]
    fn a_file_leads_to_its_layer_and_recipe_line() {
        let dir = tempfile::tempdir().unwrap();
        let found = file(&bundle(dir.path()), "/usr/bin/kubelet").unwrap();
        assert_eq!((found.layer.as_str(), found.size), ("base", 5000));
        assert_eq!(found.recipe.as_deref(), Some("recipes/worker.toml:3"));
        assert!(file_text(&found).contains("source  debian bookworm"), "{}", file_text(&found));
    }

    #[test]
    fn a_wrong_path_is_answered_with_the_right_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = file(&bundle(dir.path()), "/bin/kubelet").unwrap_err().to_string();
        assert_eq!(error, "/bin/kubelet is no regular file of this image; it has /usr/bin/kubelet");
    }

    #[test]
    fn sizes_for_people() {
        let shown = [0, 999, 1000, 178_700_000, 999_960_000, 5_000_000_000_000].map(human);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "178.7 MB", "1.0 GB", "5.0 TB"]);
    }
}
