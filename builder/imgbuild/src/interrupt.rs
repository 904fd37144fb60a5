//! Ctrl-C and its like: what is in the making goes away, then the process does.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Once, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static DOOMED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static START: Once = Once::new();

/// Removes a folder if a signal ends the process before this is dropped.
#[must_use]
pub(crate) struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        DOOMED.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.0);
    }
}

/// See [`Guard`].
pub(crate) fn remove_on_signal(folder: &Path) -> Guard {
    DOOMED.lock().unwrap_or_else(PoisonError::into_inner).push(folder.to_owned());
    START.call_once(|| {
        // Without the watcher a signal ends the process all the same, and the next build sweeps up.
        if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) {
            std::thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    for path in DOOMED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                        let _ = std::fs::remove_dir_all(path);
                    }
                    // As a shell reports a process that a signal ended.
                    std::process::exit(128 + signal);
                }
            });
        }
    });
    Guard(folder.to_owned())
}

/// A flag that the first signal sets; the second one ends the process.
///
/// # Errors
/// When the handlers cannot be set.
pub(crate) fn flag() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, flag.clone())?;
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}
