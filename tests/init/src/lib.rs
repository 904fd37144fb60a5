//! What the boots of `netboot-init` are made of: a kernel from Debian, a tiny root, an initrd by the real writer, a boot
//! server that misbehaves as told, QEMU.
//!
//! Needs apt-get, dpkg-deb, depmod, mksquashfs, busybox (static), dnsmasq and qemu-system-x86_64; a missing one fails the test.

mod lan;
mod machine;
mod materials;
mod ntp;
mod server;
mod system;
mod tls;
mod wire;

pub use machine::{Boot, Machine};
pub use materials::{Image, Materials};
pub use ntp::TimeServer;
pub use server::{Manner, Server};
pub use tls::{Authority, Https};
pub use wire::{Exchange, Wire};
