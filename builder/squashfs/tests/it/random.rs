//! Random trees, read back by unsquashfs and by the kernel.

use imgbuild_squashfs::{Compression, Fragments, Options};
use imgbuild_tree::{Content, Kind, Metadata, Node, NodeId, Origin, Tree};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::readers::{assert_folder_is, assert_unsquashfs_reads, assert_we_read};
use crate::trees::{TIME, noise, text};

/// Where a node is put and what it is; `parent` picks one of the directories made so far.
#[derive(Debug, Clone)]
struct Step {
    parent: prop::sample::Index,
    name: Vec<u8>,
    meta: Metadata,
    kind: What,
}

#[derive(Debug, Clone)]
enum What {
    Directory,
    Text(u64, usize),
    Noise(u64, usize),
    Zeros(usize),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
    /// Another name for one of the files made so far.
    Link(prop::sample::Index),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no separator", |b| *b != b'/' && *b != 0);
    vec(byte, 1..40).prop_filter("a name", |name| name != b"." && name != b"..")
}

fn meta() -> impl Strategy<Value = Metadata> {
    let prefix = prop::sample::select(vec!["user.", "trusted.", "security."]);
    let xattr = (prefix, "[a-z]{1,12}", vec(any::<u8>(), 0..100));
    (0..0o10000_u16, any::<u32>(), 0..5_u32, -10..i64::from(TIME) + 10, vec(xattr, 0..3)).prop_map(
        |(mode, uid, gid, mtime, xattrs)| {
            let xattrs = xattrs
                .into_iter()
                .map(|(prefix, name, value)| ((prefix.to_owned() + &name).into_bytes().into(), value.into()));
            // -1 is "do not change" to chown.
            Metadata { mode, uid: uid.min(u32::MAX - 1), gid, mtime, xattrs: xattrs.collect(), origin: Origin(0) }
        },
    )
}

fn what() -> impl Strategy<Value = What> {
    // Few seeds and lengths that meet blocks, so that duplicates, tails and holes turn up.
    let len = prop_oneof![0..200_usize, Just(4096), Just(8192), Just(40_000), 4000..20_000_usize];
    prop_oneof![
        4 => Just(What::Directory),
        4 => (0..4_u64, len.clone()).prop_map(|(seed, len)| What::Text(seed, len)),
        3 => (0..4_u64, len.clone()).prop_map(|(seed, len)| What::Noise(seed, len)),
        1 => len.prop_map(What::Zeros),
        2 => vec(1..=255_u8, 1..200).prop_map(What::Symlink),
        1 => (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| What::Char(major, minor)),
        1 => (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| What::Block(major, minor)),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        3 => any::<prop::sample::Index>().prop_map(What::Link),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    (any::<prop::sample::Index>(), name(), meta(), what()).prop_map(|(parent, name, meta, kind)| Step {
        parent,
        name,
        meta,
        kind,
    })
}

fn grow(steps: Vec<Step>) -> Tree<Content> {
    let mut tree = Tree::new();
    let mut folders = vec![NodeId::ROOT];
    let mut files = Vec::new();
    for Step { parent, name, mut meta, kind } in steps {
        let parent = *parent.get(&folders);
        // Linux has user attributes on files and directories only.
        if !matches!(kind, What::Directory | What::Text(..) | What::Noise(..) | What::Zeros(_)) {
            meta.xattrs.retain(|name, _| !name.starts_with(b"user."));
        }
        if tree.children(parent).unwrap().contains_key(name.as_slice()) {
            continue;
        }
        let kind = match kind {
            What::Directory => Kind::Directory(Default::default()),
            What::Text(seed, len) => Kind::Regular(text(seed, len).into()),
            What::Noise(seed, len) => Kind::Regular(noise(seed, len).into()),
            What::Zeros(len) => Kind::Regular(vec![0; len].into()),
            What::Symlink(target) => Kind::Symlink(target.into()),
            What::Char(major, minor) => Kind::CharDevice { major, minor },
            What::Block(major, minor) => Kind::BlockDevice { major, minor },
            What::Fifo => Kind::Fifo,
            What::Socket => Kind::Socket,
            What::Link(to) => {
                if !files.is_empty() {
                    tree.link(parent, &name, *to.get(&files));
                }
                continue;
            }
        };
        let is_folder = kind.is_directory();
        let id = tree.add(Node { meta, kind });
        tree.link(parent, &name, id);
        if is_folder { folders.push(id) } else { files.push(id) }
    }
    tree
}

fn any_options() -> impl Strategy<Value = Options> {
    let compression = prop_oneof![
        (1..=6_u32).prop_map(|level| Compression::Zstd { level }),
        (1..=9_u32).prop_map(|level| Compression::Gzip { level }),
        (1..=9_u32).prop_map(|level| Compression::Xz { level }),
        any::<bool>().prop_map(|high| Compression::Lz4 { high }),
        Just(Compression::Lzo),
        Just(Compression::None),
    ];
    let fragments = prop::sample::select(vec![Fragments::Never, Fragments::SmallFiles, Fragments::SmallFilesAndTails]);
    (compression, 12..=20_u32, fragments, 1..4_usize).prop_map(|(compression, log, fragments, threads)| Options {
        compression,
        block_size: 1 << log,
        fragments,
        threads,
        time: TIME,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_come_back(steps in vec(step(), 0..120), options in any_options()) {
        let tree = grow(steps);
        let image = assert_unsquashfs_reads(&tree, &options);
        assert_folder_is(&image.mount().at, &tree, &options, "kernel");
    }

    #[test]
    fn random_trees_are_read_back_by_ourselves(steps in vec(step(), 0..120), options in any_options()) {
        assert_we_read(&grow(steps), &options);
    }
}
