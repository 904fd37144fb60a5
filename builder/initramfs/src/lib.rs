//! The initrd: a kernel found in a root tree, the modules it needs to reach its root, their firmware, `netboot-init`
//! and its configuration, as cpio archives that the kernel reads.
//!
//! [`Kernel::find`] → [`ModuleIndex::load`] → [`ModuleClosure::resolve`] → [`Initrd::build`]. Everything is read from
//! the tree; nothing is unpacked or run.

mod absent;
mod closure;
mod compressed;
pub mod cpio;
mod error;
mod firmware;
mod index;
mod initrd;
mod kernel;
mod layout;
mod modinfo;
pub mod read;
mod reindex;
pub mod segment;
pub mod sets;
#[cfg(test)]
mod testing;

pub use closure::{Absent, Module, ModuleClosure};
pub use error::Error;
pub use firmware::{CANNOT_WITHOUT, Firmware, FirmwareFile, MissingFirmware, microcode};
pub use index::{DriverState, ModuleIndex};
pub use initrd::{Built, Initrd, ram_size};
pub use kernel::{Config, Kernel, Setting};
pub use layout::Layout;
pub use modinfo::{ModInfo, normalise};
pub use reindex::{Reindexed, reindex};
pub use segment::{Compression, SegmentStore};
