//! The one place with `unsafe`: what a child does between fork and exec.

use std::{os::unix::process::CommandExt, process::Command};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Has the kernel kill the child when the thread that starts it ends, in whatever way: a guest must not outlive us.
#[allow(unsafe_code)]
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent: Pid = getpid();
    // SAFETY: between fork and exec only async-signal-safe functions may be called; prctl and getppid are system calls
    // without memory of ours, and nothing here allocates, locks or panics.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have died before the line above.
            if getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::Interrupted.into()) }
        });
    }
}
