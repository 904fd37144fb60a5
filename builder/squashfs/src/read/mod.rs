//! Reads squashfs 4.0 images back into a [`Tree`](imgbuild_tree::Tree), whoever wrote them.
//!
//! ```
//! use imgbuild_squashfs::read::Image;
//! use imgbuild_tree::{Content, FileContent, Kind, Metadata, Node, NodeId, Tree};
//!
//! # let mut tree = Tree::new();
//! # let hello = Kind::Regular(Content::from(&b"hello\n"[..]));
//! # let hello = tree.add(Node { meta: Metadata::root_owned(0o644), kind: hello });
//! # tree.link(NodeId::ROOT, b"hello", hello);
//! # let mut out = std::io::Cursor::new(Vec::new());
//! # imgbuild_squashfs::write(&tree, &mut out, &imgbuild_squashfs::Options::default(), &|_| {})?;
//! # let bytes = out.into_inner();
//! let image = Image::from_bytes(bytes)?;
//! assert_eq!(image.superblock().block_size, 1 << 20);
//! let tree = image.tree()?;
//! let Kind::Regular(file) = &tree.node(tree.resolve("/hello")?).kind else { panic!("no file") };
//! let mut start = [0; 4];
//! file.read_exact_at(&mut start, 0)?;
//! assert_eq!(&start, b"hell");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Image::tree`] reads all metadata at once; contents stay in the image until somebody reads them, block by block.
//! Names of one inode become one node with several names.
//!
//! # Hostile images
//!
//! Nothing in an image makes the reader panic, run away or take more memory than its [`Limits`] say. Every position is
//! checked to be inside the image, every block is decompressed into no more room than it may fill, and what has been
//! decompressed once stays in caches of fixed size. Directories that contain themselves, names that are no names, names out
//! of order or twice, inodes that disagree with the directory that names them, attributes that Linux would not take: all
//! of it is an error that says where in the image it stands.
//!
//! What the reader cannot judge is the length of a file: a hole costs an image next to nothing, so a small one can truly
//! hold a file of terabytes. Who reads whole contents of images from elsewhere should look at their lengths first.
//!
//! # What is not checked
//!
//! Link counts, the parents that directories name, directory indexes and the export table: nothing of it is needed to
//! read the tree.

mod cache;
mod decompress;
mod directory;
mod error;
mod file;
mod image;
mod inode;
mod metadata;
mod superblock;
mod tables;
mod tree;
mod xattr;

pub use error::{At, ReadError};
pub use file::ImageFile;
pub use image::{Image, Limits};
pub use superblock::{Compressor, Flags, Superblock};
