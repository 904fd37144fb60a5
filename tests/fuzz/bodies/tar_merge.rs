//! What the fuzzer does with an archive, and what a test does with every archive of the corpus: lays it over an empty tree
//! as a layer, twice, and reads a little of the contents.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use imgbuild_layers::read_tar;
use imgbuild_tree::{DumpOptions, FileContent, Kind, Origin, RootTree};

/// Returns whether the bytes are an archive that both layers can be made of.
pub(crate) fn run(data: &[u8]) -> bool {
    let Some(file) = in_memory(data) else { return false };
    let archive: Arc<Path> = Path::new("fuzzed.tar").into();
    let mut tree = RootTree::new();
    for layer in 0..2 {
        let entries = match read_tar(Arc::clone(&file), Arc::clone(&archive)) {
            Ok(entries) => entries,
            Err(error) => {
                let _ = error.to_string();
                return false;
            }
        };
        if let Err(error) = tree.apply(Origin(layer), entries) {
            let _ = error.to_string();
            return false;
        }
    }
    for item in tree.walk() {
        if let Kind::Regular(content) = &tree.node(item.id).kind {
            let mut buf = vec![0; content.len().min(10_000) as usize];
            // The archive was found to be long enough.
            assert!(content.read_exact_at(&mut buf, 0).is_ok());
            let last = content.len() - buf.len() as u64;
            assert!(content.read_exact_at(&mut buf, last).is_ok());
        }
    }
    let shown = DumpOptions { mtime: true, content: false, origin: true };
    assert!(tree.dump(shown).is_ok_and(|dump| dump.starts_with("/ d ")));
    true
}

fn in_memory(data: &[u8]) -> Option<Arc<File>> {
    let mut file = File::from(rustix::fs::memfd_create("fuzzed", rustix::fs::MemfdFlags::CLOEXEC).ok()?);
    file.write_all(data).ok()?;
    Some(Arc::new(file))
}
