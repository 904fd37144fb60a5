//! Boots a bundle in QEMU and checks what its recipe promises.
//!
//! [`boot`] gives a guest with its console on the terminal. [`test`] runs one unattended: the shipped files boot as they
//! are, a probe that comes in an extra initrd segment checks the manifest's tests in the running system, and its
//! report over virtio-serial is the only thing that counts.
//!
//! ```no_run
//! # fn main() -> Result<(), imgbuild_boot::Error> {
//! use imgbuild_boot::{BootPath, Machine, Source, TestOptions, test};
//! let options = TestOptions {
//!     path: BootPath::Direct,
//!     machine: Machine { cpus: 2, cache: "/var/cache/imgbuild".into(), ..Machine::default() },
//!     timeout: std::time::Duration::from_secs(600),
//!     patience: None,
//!     results: None,
//!     tests: vec![],
//!     fault: None,
//!     interrupted: Default::default(),
//! };
//! let report = test(&Source::Bundle("out/worker-1.4.2".into()), &options, &imgbuild_progress::Silent)?;
//! assert!(report.passed(), "{report}");
//! # Ok(())
//! # }
//! ```

mod accelerator;
mod advice;
mod arch;
mod console;
mod error;
mod events;
mod fault;
mod firmware;
mod hook_run;
mod interactive;
mod junit;
mod machine;
mod min_ram;
mod network;
mod nvram;
mod observed;
mod qemu;
mod report;
mod results;
mod segment;
mod svg;
mod sys;
mod terminal;
mod test_run;
mod timeline;
mod unattended;
mod way;

pub use accelerator::Accelerator;
pub use console::{Mark, Phase};
pub use error::Error;
pub use events::TestResult;
pub use fault::{Fault, FaultReport, fitting_faults};
pub use firmware::{Missing, can_boot};
pub use hook_run::{HookReport, HookTrial, Written, run_hook};
pub use interactive::{boot, boot_until};
pub use junit::junit;
pub use machine::Machine;
pub use min_ram::{MinRam, Tried, find_min_ram};
pub use netboot_init::net::Mac;
pub use network::Forward;
pub use report::{Cause, Failure, Report};
pub use svg::timeline_svg;
pub use test_run::{TestOptions, test};
pub use timeline::Span;
pub use way::{BootPath, Source, architecture};
