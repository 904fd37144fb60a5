//! `/init` of every initrd.

use std::process::ExitCode;

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() {
        netboot_init::boot::run()
    }
    // On a host it would have nothing to do and much to break.
    ExitCode::from(2)
}
