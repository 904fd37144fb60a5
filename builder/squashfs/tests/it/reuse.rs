//! Blocks from an earlier image: the bytes are the same with and without them.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Cursor};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use imgbuild_squashfs::{
    BlockKey, BlockStore, Compression, Digest, Form, Fragments, Known, Options, Outline, Packed, Sketch, Sketcher,
    Straight, Summary, fingerprint, write, write_known,
};
use imgbuild_tree::{FileContent, Kind, Metadata, Node, NodeId, Origin, Tree};
use sha2::Digest as _;

use crate::trees::{noise, options};

/// Content that counts what is read of it.
struct Watched<'a>(Vec<u8>, &'a AtomicU64);

impl FileContent for Watched<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
}

#[derive(Default)]
struct Memory {
    blocks: Mutex<HashMap<BlockKey, (Form, Vec<u8>)>>,
    saved: Mutex<Vec<(BlockKey, Origin)>>,
    /// Whether it tells of blocks what they are without handing them out.
    tells: bool,
    /// Blocks that it speaks of, but has not: what a damaged file is.
    lost: Vec<BlockKey>,
}

impl Memory {
    fn telling(tells: bool) -> Self {
        Self { tells, ..Self::default() }
    }
}

impl BlockStore for Memory {
    fn outline(&self, key: &BlockKey) -> Option<Outline> {
        let blocks = self.blocks.lock().unwrap();
        let (form, bytes) = blocks.get(key).filter(|_| self.tells)?;
        Some(Outline { form: *form, len: bytes.len() as u32, fingerprint: fingerprint(bytes) })
    }

    fn load(&self, key: &BlockKey, buffer: &mut Vec<u8>) -> Option<Form> {
        let blocks = self.blocks.lock().unwrap();
        let (form, bytes) = blocks.get(key).filter(|_| !self.lost.contains(key))?;
        buffer.clone_from(bytes);
        Some(*form)
    }

    fn save(&self, key: &BlockKey, origin: Origin, block: Packed<'_>) {
        let block = match block {
            Packed::Hole => (Form::Hole, Vec::new()),
            Packed::Compressed(bytes) => (Form::Compressed, bytes.to_vec()),
            Packed::Raw(bytes) => (Form::Raw, bytes.to_vec()),
        };
        let before = self.blocks.lock().unwrap().insert(*key, block);
        assert!(before.is_none() || self.lost.contains(key), "it was there");
        self.saved.lock().unwrap().push((*key, origin));
    }
}

/// Two layers: many small files of one, some large ones and small ones of the other.
fn tree<'a>(changed: Option<&str>, read: &'a AtomicU64) -> Tree<Watched<'a>> {
    let mut tree = Tree::new();
    let mut add = |name: String, mut bytes: Vec<u8>, origin| {
        if changed == Some(name.as_str()) {
            bytes.extend_from_slice(b"changed");
        }
        let meta = Metadata { origin: Origin(origin), ..Metadata::root_owned(0o644) };
        let id = tree.add(Node { meta, kind: Kind::Regular(Watched(bytes, read)) });
        tree.link(NodeId::ROOT, name.as_bytes(), id);
    };
    for number in 0..900 {
        add(format!("base-{number}"), text(number, 50 + (number as usize * 37) % 3000), 0);
    }
    for number in 0..40 {
        add(format!("site-{number}"), text(1000 + number, 400), 1);
    }
    add("large".into(), text(7, 300_000), 1);
    add("noise".into(), noise(8, 100_000), 1);
    add("zeros".into(), vec![0; 200_000], 0);
    add("copy-of-large".into(), text(7, 300_000), 0);
    tree
}

/// Compressible, and like no other seed's: where everything is alike, a change may move much.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let line = |number: u64| format!("{:x} of {seed}\n", (number + 1) * (seed + 7919) * 104_729).into_bytes();
    (0..).flat_map(line).take(len).collect()
}

fn digests(tree: &Tree<Watched<'_>>) -> Vec<Option<Digest>> {
    let mut digests = vec![None; tree.len()];
    for item in tree.walk() {
        if let Kind::Regular(content) = &tree.node(item.id).kind {
            digests[item.id.index()] = Some(sha2::Sha256::digest(&content.0).into());
        }
    }
    digests
}

fn sketches(tree: &Tree<Watched<'_>>) -> Vec<Option<Sketch>> {
    let mut sketches = vec![None; tree.len()];
    for item in tree.walk() {
        if let Kind::Regular(content) = &tree.node(item.id).kind {
            let mut sketcher = Sketcher::default();
            sketcher.update(&content.0);
            sketches[item.id.index()] = Some(sketcher.finish());
        }
    }
    sketches
}

fn image(tree: &Tree<Watched<'_>>, options: &Options, store: &Memory) -> (Vec<u8>, Summary) {
    let (bytes, summary, _) = image_as_written(tree, options, store);
    (bytes, summary)
}

/// The image, and whether it was written in one go.
fn image_as_written(tree: &Tree<Watched<'_>>, options: &Options, store: &Memory) -> (Vec<u8>, Summary, bool) {
    let (mut out, finished, begun) = (Cursor::new(Vec::new()), Mutex::new(None), AtomicU64::new(0));
    let straight = || {
        begun.fetch_add(1, Ordering::Relaxed);
        Some(Box::new(Gathered { bytes: Vec::new(), finished: &finished }) as Box<dyn Straight>)
    };
    let known =
        Known { digests: &digests(tree), sketches: &sketches(tree), blocks: Some(store), straight: Some(&straight) };
    let last = AtomicU64::new(0);
    let progress = |done| assert!(last.swap(done, Ordering::Relaxed) <= done, "progress goes back");
    let summary = write_known(tree, &mut out, options, &known, &progress).unwrap();
    assert_eq!(last.into_inner(), summary.data_bytes_in);
    let gathered = finished.lock().unwrap().take();
    let in_one_go = gathered.is_some();
    assert!(begun.load(Ordering::Relaxed) <= 1 && (!in_one_go || out.get_ref().is_empty()));
    let mut bytes = gathered.unwrap_or_else(|| out.into_inner());
    let behind = bytes.split_off(summary.bytes_used as usize);
    assert!(behind.iter().all(|byte| *byte == 0));
    assert_eq!(summary.sha256, in_one_go.then(|| sha2::Sha256::digest(&bytes).into()));
    (bytes, summary, in_one_go)
}

/// An image that is written in one go, and left where it is found when it is finished.
struct Gathered<'a> {
    bytes: Vec<u8>,
    finished: &'a Mutex<Option<Vec<u8>>>,
}

impl Straight for Gathered<'_> {
    fn put(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8]) -> bool) -> io::Result<bool> {
        assert!(len <= 1 << 20);
        let at = self.bytes.len();
        self.bytes.resize(at + len, 0xaa);
        let is_put = fill(&mut self.bytes[at..]);
        if !is_put {
            self.bytes.truncate(at);
        }
        Ok(is_put)
    }

    fn finish(self: Box<Self>) -> io::Result<Digest> {
        let hash = sha2::Sha256::digest(&self.bytes).into();
        *self.finished.lock().unwrap() = Some(self.bytes);
        Ok(hash)
    }
}

#[test]
fn a_second_image_reads_nothing_and_is_the_same() {
    for (compression, fragments) in [
        (Compression::Zstd { level: 5 }, Fragments::SmallFiles),
        (Compression::Zstd { level: 5 }, Fragments::SmallFilesAndTails),
        (Compression::Gzip { level: 6 }, Fragments::Never),
        (Compression::None, Fragments::SmallFiles),
    ] {
        let options = Options { compression, fragments, block_size: 65_536, ..options() };
        for tells in [false, true] {
            let (read, store) = (AtomicU64::new(0), Memory::telling(tells));
            let tree = tree(None, &read);
            let mut plain = Cursor::new(Vec::new());
            write(&tree, &mut plain, &options, &|_| {}).unwrap();
            let (cold, first) = image(&tree, &options, &store);
            assert_eq!(first.data_bytes_reused, 0);
            assert!(cold == *plain.get_ref(), "{compression:?}: it differs from the one without a store");
            read.store(0, Ordering::Relaxed);
            let (warm, second, in_one_go) = image_as_written(&tree, &options, &store);
            assert!(warm == cold, "{compression:?}");
            assert_eq!(read.load(Ordering::Relaxed), 0);
            assert_eq!(
                second,
                Summary { data_bytes_reused: first.data_bytes_in - 300_000, sha256: second.sha256, ..first },
                "all but the duplicate"
            );
            assert_eq!(in_one_go, tells);
        }
    }
}

#[test]
fn a_change_costs_the_blocks_around_it_whatever_layer_it_is_in() {
    let options = Options { block_size: 65_536, ..options() };
    for (changed, tells) in ["site-7", "base-0", "base-5", "large"].into_iter().flat_map(|it| [(it, false), (it, true)])
    {
        let (read, store) = (AtomicU64::new(0), Memory::telling(tells));
        image(&tree(None, &read), &options, &store);
        store.saved.lock().unwrap().clear();
        read.store(0, Ordering::Relaxed);
        let edited = tree(Some(changed), &read);
        let (warm, _, in_one_go) = image_as_written(&edited, &options, &store);
        assert_eq!(in_one_go, tells, "{changed}");
        let cost = read.load(Ordering::Relaxed);
        let mut plain = Cursor::new(Vec::new());
        write(&edited, &mut plain, &options, &|_| {}).unwrap();
        assert!(warm == plain.into_inner(), "{changed}");
        let limit = if changed == "large" { 310_000 } else { 6 * 65_536 };
        assert!((1..limit).contains(&cost), "{changed}: {cost} bytes read");
        let origin = Origin(u16::from(changed != "base-0" && changed != "base-5"));
        let saved = store.saved.lock().unwrap();
        assert!(saved.iter().all(|(_, from)| *from == origin), "{changed}: {saved:?}");
    }
}

/// A file of which nothing is known is read; its neighbours' blocks need not be.
#[test]
fn what_is_not_known_is_read() {
    let options = Options { block_size: 65_536, ..options() };
    let (read, store) = (AtomicU64::new(0), Memory::default());
    let tree = tree(None, &read);
    let (cold, _) = image(&tree, &options, &store);
    let mut known = digests(&tree);
    known[tree.resolve("/noise").unwrap().index()] = None;
    let mut out = Cursor::new(Vec::new());
    let known = Known { digests: &known, sketches: &sketches(&tree), blocks: Some(&store), straight: None };
    let summary = write_known(&tree, &mut out, &options, &known, &|_| {}).unwrap();
    assert!(out.into_inner() == cold);
    assert_eq!(summary.data_bytes_in - summary.data_bytes_reused, 400_000, "noise, and the duplicate");
}

/// What a store loses between telling of it and handing it out is made anew.
#[test]
fn a_block_that_is_lost_costs_time_and_nothing_else() {
    let options = Options { block_size: 65_536, ..options() };
    let (read, mut store) = (AtomicU64::new(0), Memory::telling(true));
    image(&tree(None, &read), &options, &store);
    let before: Vec<BlockKey> = store.saved.lock().unwrap().drain(..).map(|(key, _)| key).collect();
    store.lost = vec![before[before.len() / 2]];
    let edited = tree(Some("site-7"), &read);
    let (warm, _, in_one_go) = image_as_written(&edited, &options, &store);
    assert!(!in_one_go);
    let mut plain = Cursor::new(Vec::new());
    write(&edited, &mut plain, &options, &|_| {}).unwrap();
    assert!(warm == plain.into_inner());
    let saved: Vec<BlockKey> = store.saved.lock().unwrap().iter().map(|(key, _)| *key).collect();
    assert_eq!(saved.iter().filter(|key| store.lost.contains(key)).count(), 1);
    let new = saved.iter().filter(|key| !before.contains(key)).count();
    assert_eq!((saved.len(), saved.iter().collect::<BTreeSet<_>>().len()), (new + 1, new + 1), "each once");
}

/// Blocks that turn out to be in the image already are left out of it, however it is written.
#[test]
fn runs_of_blocks_that_two_files_share_are_stored_once() {
    let options = Options { block_size: 65_536, ..options() };
    let (read, store) = (AtomicU64::new(0), Memory::telling(true));
    let mut tree = Tree::new();
    let whole = [text(1, 4 * 65_536), vec![0; 65_536], text(2, 65_536)].concat();
    for (name, bytes) in [
        ("a", whole.clone()),
        ("b", whole[65_536..4 * 65_536].to_vec()),
        ("c", whole[5 * 65_536..].to_vec()),
        ("d", text(3, 2 * 65_536)),
        ("e", whole[..2 * 65_536].to_vec()),
        ("f", text(4, 100)),
    ] {
        let id = tree.add(Node { meta: Metadata::root_owned(0o644), kind: Kind::Regular(Watched(bytes, &read)) });
        tree.link(NodeId::ROOT, name.as_bytes(), id);
    }
    let (cold, first) = image(&tree, &options, &store);
    assert_eq!(first.duplicate_blocks, 6);
    let (warm, second, in_one_go) = image_as_written(&tree, &options, &store);
    assert!(warm == cold && in_one_go);
    assert_eq!(second, Summary { data_bytes_reused: first.data_bytes_in, sha256: second.sha256, ..first });
}
