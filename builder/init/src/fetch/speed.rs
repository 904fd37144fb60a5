//! How fast a source is, measured over whole windows of time.

use std::time::{Duration, Instant};

use super::SourceError;

/// A measurement.
pub(super) struct Speed {
    least: u64,
    window: Duration,
    began: Instant,
    bytes: u64,
}

impl Speed {
    /// `least` in bytes a second; 0 is satisfied with anything.
    pub(super) fn new(least: u64, window: Duration) -> Self {
        Self { least, window, began: Instant::now(), bytes: 0 }
    }

    /// When the window ends: by then somebody should look.
    pub(super) fn end_of_window(&self) -> Instant {
        self.began + self.window
    }

    pub(super) fn take(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// At the end of a window, what is wrong with it; then the next one begins.
    pub(super) fn too_slow(&mut self) -> Option<SourceError> {
        let elapsed = self.began.elapsed();
        if elapsed < self.window {
            return None;
        }
        let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = self.bytes.saturating_mul(1000) / milliseconds;
        self.began = Instant::now();
        self.bytes = 0;
        (rate < self.least).then_some(SourceError::Slow { rate, window: elapsed, least: self.least })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_window_counts() {
        let mut speed = Speed::new(1000, Duration::from_secs(3600));
        assert!(speed.too_slow().is_none());
        let mut speed = Speed::new(1_000_000, Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        speed.take(2);
        assert!(matches!(speed.too_slow(), Some(SourceError::Slow { rate, .. }) if rate <= 1000));
        speed.take(1 << 40);
        std::thread::sleep(Duration::from_millis(2));
        assert!(speed.too_slow().is_none());
        assert!(Speed::new(0, Duration::ZERO).too_slow().is_none());
    }
}
