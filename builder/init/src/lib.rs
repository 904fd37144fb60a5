//! What `netboot-init` does, as a library, so that it can be tested on a host.
//!
//! One module a step; parsers take text or bytes, and what changes the machine goes through [`sys`], std and rustix.
//! [`boot`] puts the steps in order.

pub mod boot;
pub mod cmdline;
pub mod config;
pub mod console;
pub mod entropy;
pub mod environment;
pub mod error;
pub mod failure;
pub mod fetch;
pub mod handover;
pub mod hooks;
pub mod identity;
pub mod modules;
pub mod net;
pub mod nodeconfig;
pub mod overlay;
pub mod report;
pub mod root;
pub mod rootfs;
pub mod shell;
pub mod sys;
pub mod template;
#[cfg(test)]
mod testing;

pub use error::{Error, Result};
