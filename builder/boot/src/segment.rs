//! The initrd segment that brings the probe into an image that knows nothing of it.
//!
//! netboot-init copies what lies under `/overlay.d` of any initrd segment over the new root; so the shipped files boot as
//! they are, and the probe is there all the same. A site can bring files of its own in this way, too.

use imgbuild_initramfs::segment::{self, ALIGNMENT, Compression};
use imgbuild_tree::{Content, Entry, EntryKind, Metadata, Origin, RootTree};
use serde::Serialize;
use serde_json::Value;

use crate::Error;

/// The name of the virtio-serial port on which the probe reports.
pub(crate) const PORT: &str = "org.imgbuild.probe";
/// Where the probe finds what to check.
const SPEC: &str = "overlay.d/usr/lib/imgbuild/probe.json";
const PROBE: &str = "overlay.d/usr/lib/imgbuild/probe";
const UNIT: &str = "overlay.d/usr/lib/systemd/system/imgbuild-probe.service";
/// As early as can be: a boot that hangs before basic.target is to be reported as well.
const WANTED: &str = "overlay.d/usr/lib/systemd/system/sysinit.target.wants/imgbuild-probe.service";

const SERVICE: &str = "[Unit]
Description=imgbuild boot test
DefaultDependencies=no
After=systemd-remount-fs.service systemd-udev-trigger.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
ExecStart=/usr/lib/imgbuild/probe
StandardInput=null
StandardOutput=journal
StandardError=journal
OOMScoreAdjust=-1000
";

/// What the probe is told.
#[derive(Debug, Serialize)]
pub(crate) struct Spec<'a> {
    pub(crate) schema: u32,
    /// The manifest's tests, and ours.
    pub(crate) tests: &'a [Value],
    /// Seconds for which a test that does not hold yet is tried again.
    pub(crate) deadline: u64,
}

/// The segment, padded as the kernel wants it.
pub(crate) fn probe(program: &[u8], spec: &Spec<'_>) -> Result<Vec<u8>, Error> {
    let wrong = |error: Box<dyn std::error::Error + Send + Sync>| Error::Segment(error);
    let spec = serde_json::to_vec_pretty(spec).map_err(|error| wrong(error.into()))?;
    let file = |path: &str, mode: u16, content: &[u8]| Entry {
        path: path.as_bytes().into(),
        meta: Metadata::root_owned(mode),
        kind: EntryKind::Regular(Content::from(content)),
    };
    let mut tree = RootTree::new();
    let entries = vec![
        file(PROBE, 0o755, program),
        file(SPEC, 0o644, &spec),
        file(UNIT, 0o644, SERVICE.as_bytes()),
        Entry {
            path: WANTED.as_bytes().into(),
            meta: Metadata::root_owned(0o777),
            kind: EntryKind::Symlink(b"../imgbuild-probe.service".as_slice().into()),
        },
    ];
    tree.apply(Origin::BUILDER, entries).map_err(|error| wrong(error.into()))?;
    segment::to_bytes(&tree, Compression::Zstd(segment::MIN_LEVEL)).map_err(|error| wrong(error.into()))
}

/// An initrd and another segment as one: the second begins where the kernel looks for it.
pub(crate) fn append(initrd: &mut Vec<u8>, segment: &[u8]) {
    let step = ALIGNMENT as usize;
    initrd.resize(initrd.len().div_ceil(step) * step, 0);
    initrd.extend_from_slice(segment);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    /// Debian's cpio unpacks what we wrote.
    #[test]
    fn the_segment_holds_probe_unit_and_spec() {
        let tests = [serde_json::json!({"mount": "/", "fstype": "overlay"})];
        let bytes = probe(b"\x7fELF", &Spec { schema: 1, tests: &tests, deadline: 60 }).unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let plain = zstd_decoded(&bytes);
        let folder = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-id", "--quiet"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&plain).unwrap();
        assert!(cpio.wait().unwrap().success());
        let spec: Value = serde_json::from_slice(&std::fs::read(folder.path().join(SPEC)).unwrap()).unwrap();
        assert_eq!(spec, serde_json::json!({"schema": 1, "tests": tests, "deadline": 60}));
        // The wish leads to the unit, which runs the file that is there.
        let unit = std::fs::read_to_string(folder.path().join(WANTED)).unwrap();
        let run = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/")).unwrap();
        assert_eq!(std::fs::read(folder.path().join("overlay.d").join(run)).unwrap(), b"\x7fELF");
    }

    fn zstd_decoded(bytes: &[u8]) -> Vec<u8> {
        let mut child = Command::new("zstd")
            .arg("-dcq")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It complains of the padding, which the kernel skips.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let frame: Vec<u8> = bytes.to_vec();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&frame)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output.stdout
    }

    #[test]
    fn segments_begin_where_the_kernel_looks() {
        let mut initrd = vec![1; 1000];
        append(&mut initrd, &[2; 512]);
        assert_eq!((initrd.len(), initrd[999], initrd[1000], initrd[1023], initrd[1024]), (1536, 1, 0, 0, 2));
        append(&mut initrd, &[3]);
        assert_eq!(initrd[1536], 3);
    }
}
