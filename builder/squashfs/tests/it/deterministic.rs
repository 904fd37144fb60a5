//! The same tree and options give the same bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use imgbuild_squashfs::{Compression, Fragments, Options, write};
use imgbuild_tree::{Content, FileContent, Kind, Metadata, Node, NodeId, Tree};
use sha2::{Digest, Sha256};

use crate::readers::bytes;
use crate::trees::{everything, file, noise, options, text};

fn large() -> Tree<Content> {
    let mut tree = everything();
    for number in 0..60 {
        file(&mut tree, &format!("small/{number}"), text(number, 1000 + 97 * number as usize));
        file(&mut tree, &format!("twice/{}", number % 30), text(number % 20, 9000));
    }
    file(&mut tree, "text", text(1, 700_000));
    file(&mut tree, "noise", noise(2, 300_000));
    file(&mut tree, "zeros", vec![0; 300_000]);
    tree
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let tree = large();
    for compression in [
        Compression::Zstd { level: 1 },
        Compression::Zstd { level: 9 },
        Compression::Zstd { level: 19 },
        Compression::Gzip { level: 6 },
        Compression::Xz { level: 6 },
        Compression::Lz4 { high: true },
        Compression::Lzo,
        Compression::None,
    ] {
        let image = |threads| bytes(&tree, &Options { compression, block_size: 16_384, threads, ..options() });
        let one = image(1);
        for threads in [2, 8, 0] {
            assert!(image(threads) == one, "{compression:?}, {threads} threads");
        }
    }
}

/// Content that comes late, and the later the earlier it is asked for.
struct Slow {
    bytes: Vec<u8>,
    asked: AtomicU64,
}

impl FileContent for Slow {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(3000_u64.saturating_sub(turn * 100)));
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        Ok(())
    }
}

#[test]
fn blocks_that_finish_out_of_order_are_written_in_order() {
    let image = |threads| {
        let mut tree = Tree::new();
        for seed in 0..4 {
            let kind = Kind::Regular(Slow { bytes: text(seed, 30_000), asked: AtomicU64::new(0) });
            let id = tree.add(Node { meta: Metadata::root_owned(0o644), kind });
            tree.link(NodeId::ROOT, format!("f{seed}").as_bytes(), id);
        }
        let mut out = std::io::Cursor::new(Vec::new());
        write(&tree, &mut out, &Options { threads, ..options() }, &|_| {}).unwrap();
        out.into_inner()
    };
    assert!(image(1) == image(8));
}

#[test]
fn the_order_in_which_a_tree_was_made_does_not_matter() {
    let names: Vec<String> = (0..200).map(|n| format!("d{}/f{n}", n % 7)).collect();
    let make = |names: &mut dyn Iterator<Item = &String>| {
        let mut tree = Tree::new();
        for name in names {
            file(&mut tree, name, name.as_bytes().to_vec());
        }
        bytes(&tree, &options())
    };
    assert!(make(&mut names.iter()) == make(&mut names.iter().rev()));
}

/// These bytes are what nodes boot from and what locks pin: another zstd, zlib or layout changes them, which is then to be
/// a decision and not an accident.
#[test]
fn the_bytes_are_those_of_last_time() {
    let image = |compression, fragments| {
        let hash =
            Sha256::digest(bytes(&large(), &Options { compression, fragments, block_size: 16_384, ..options() }));
        hash.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let found = [
        image(Compression::None, Fragments::SmallFiles),
        image(Compression::Zstd { level: 9 }, Fragments::SmallFiles),
        image(Compression::Zstd { level: 15 }, Fragments::SmallFilesAndTails),
        image(Compression::Gzip { level: 9 }, Fragments::Never),
    ];
    assert_eq!(
        found,
        [
            "36a2b25148684057b181489e3aa1d9c9895fdb8149f1db832e253670ff121090",
            "b077e71bc1fe6e1eba4dfa3471cf20d10a270fee120057fad7e5fb360b42a42c",
            "bb13f27570d28b2a2b9ce82deaecefee3a42d053262579349e53a6297879d176",
            "02ad150c98ec0d3d4e5b24a0512ca6e1a029ceef9f1d29bc62e5d30fb97ea0fe",
        ]
    );
}
