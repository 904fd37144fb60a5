//! What the fuzzer does with an image, and what a test does with every image of the corpus: opens it, reads the tree and as
//! much of the contents as is read in a moment.

use imgbuild_squashfs::read::{Image, Limits};
use imgbuild_tree::{Content, DumpOptions, FileContent, Kind};

/// Far less than by default, so that a run is over in milliseconds.
const LIMITS: Limits = Limits { work: 4 << 20 };
/// Bytes read of all contents together: files of terabytes are not wrong, but long.
const MAX_READ: u64 = 4 << 20;

/// Returns whether the bytes are an image whose tree can be read; contents need not be readable.
pub(crate) fn run(data: &[u8]) -> bool {
    let Ok(image) = Image::new(Content::from(data), LIMITS) else { return false };
    let _ = format!("{:?} {:?}", image.superblock(), image.superblock().flags.names());
    let tree = match image.tree() {
        Ok(tree) => tree,
        Err(error) => {
            let _ = error.to_string();
            return false;
        }
    };
    let mut left = MAX_READ;
    for item in tree.walk() {
        if let Kind::Regular(file) = &tree.node(item.id).kind {
            // The beginning, the end, and odd pieces in between.
            let len = file.len();
            let mut buf = vec![0; len.min(left).min(300_000) as usize];
            let _ = file.read_exact_at(&mut buf, 0);
            let last = len - buf.len() as u64;
            let _ = file.read_exact_at(&mut buf, last);
            let piece = buf.len().min(5000);
            let _ = file.read_exact_at(&mut buf[..piece], (len - piece as u64) / 3);
            assert!(file.read_exact_at(&mut [0; 2], len.saturating_sub(1)).is_err());
            left -= buf.len() as u64;
        }
    }
    let shown = DumpOptions { mtime: true, content: false, origin: true };
    assert!(tree.dump(shown).is_ok_and(|dump| dump.starts_with("/ d ")));
    true
}
