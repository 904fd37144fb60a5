//! The pack: what was compressed once with the same parameters is never compressed again.
//!
//! [`Pack`] keeps packed blocks in the cache's bucket `packs-v1`, by the key that [`imgbuild_squashfs::Known`] speaks of: the content of a
//! block and its compression. Blocks of one layer that were packed in one build make one file,
//! `packs-v1/PARAMETERS/LAYER-CONTENT`; its name says which layer it was made for, and every build with the same
//! parameters looks into all of them. A file appears whole, by rename, and never changes; so any number of builds share
//! the bucket without locks, and a kill leaves nothing that is half there. Every block is checked when it is read: one
//! that is damaged is packed again, and its file deleted.
//!
//! [`Scans`] keeps what is known of the files in the cached layers, so that a block's key can be told without reading them. [`Segments`] keeps
//! the compressed segments of initrds.

mod file;
mod scans;
mod segments;
mod store;
mod verify;

pub use scans::{BUCKET as SCANS, Scans};
pub use segments::{BUCKET as SEGMENTS, Segments};
pub use store::{BUCKET, Pack, Summary};
pub use verify::verify;
