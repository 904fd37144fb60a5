//! Kernel modules: what this machine's devices ask for, with dependencies, in order.

mod index;
mod load;

pub use index::{Index, glob};
pub use load::Loader;
