//! The terminal that a guest's console is on.

use std::{io, os::fd::AsFd};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};

/// How standard input was, and will be again when this is dropped. QEMU puts a terminal into raw mode and takes that back when
/// it ends by itself; not when it is killed, and the mode is then the shell's.
pub(crate) struct Terminal {
    mode: Option<Termios>,
    flags: Option<OFlags>,
}

impl Terminal {
    /// Notes how it is.
    pub(crate) fn keep() -> Self {
        let stdin = io::stdin();
        Self { mode: tcgetattr(stdin.as_fd()).ok(), flags: fcntl_getfl(stdin.as_fd()).ok() }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let stdin = io::stdin();
        // A terminal that is gone needs nothing.
        if let Some(flags) = self.flags {
            let _ = fcntl_setfl(stdin.as_fd(), flags);
        }
        if let Some(mode) = &self.mode {
            let _ = tcsetattr(stdin.as_fd(), OptionalActions::Now, mode);
        }
    }
}
