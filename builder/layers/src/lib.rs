//! Where root trees come from: OCI images, Debian packages, archives, files, overlays.

mod ahead;
mod archive;
pub mod cache;
pub mod debian;
mod decompress;
mod glob;
pub mod oci;
mod overlay;
mod prune;
pub mod source;
mod stamp;
mod tar;
pub mod url;

pub use archive::{ArchiveError, ArchiveKind, Owners, archive_entries, file_entry};
pub use decompress::{Compression, Decompressor};
pub use glob::GlobError;
pub use overlay::{MANIFEST as OVERLAY_MANIFEST, OverlayError, entries_sha256, read_overlay};
pub use prune::{Pruned, PrunedPattern, Unmatched, prune};
pub use stamp::{FileStamp, Watch};
pub use tar::{TarError, read_tar};
