//! Who is asked next, and after which pause. A boot server that a whole fleet asks at once is spared: pauses grow, are
//! random over their whole length, and are at least what the server asks for.

use std::time::{Duration, Instant};

use super::{Failures, SourceError};
use crate::{net, say};

/// The longest `Retry-After` that is believed: a node must not sleep for a day because of a typing error.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// How long to wait between rounds of attempts.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// At most so long after the first round that brought nothing; then doubled.
    pub first: Duration,
    /// At most so long after any round.
    pub longest: Duration,
    /// How many rounds without a single byte are too many.
    pub rounds: u32,
    /// Over how long the speed of a source is measured.
    pub speed_window: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(2),
            longest: Duration::from_secs(30),
            rounds: 10,
            speed_window: Duration::from_secs(20),
        }
    }
}

impl Patience {
    /// The pause after so many rounds without a byte: anything up to twice the bound before it.
    fn pause(&self, idle_rounds: u32, random: u32) -> Duration {
        let bound = self.first.saturating_mul(2_u32.saturating_pow(idle_rounds.saturating_sub(1))).min(self.longest);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// The sources in order, with what each one's last attempt came to.
pub(super) struct Queue {
    sources: Vec<Source>,
    patience: Patience,
    idle_rounds: u32,
}

struct Source {
    url: String,
    trouble: Option<SourceError>,
    not_before: Option<Instant>,
}

impl Source {
    fn is_hopeless(&self) -> bool {
        self.trouble.as_ref().is_some_and(|error| !error.is_passing())
    }

    fn is_slow(&self) -> bool {
        matches!(self.trouble, Some(SourceError::Slow { .. }))
    }

    fn rate(&self) -> u64 {
        match self.trouble {
            Some(SourceError::Slow { rate, .. }) => rate,
            _ => 0,
        }
    }
}

impl Queue {
    pub(super) fn new(urls: &[String], patience: Patience) -> Self {
        let sources = urls.iter().map(|url| Source { url: url.clone(), trouble: None, not_before: None }).collect();
        Self { sources, patience, idle_rounds: 0 }
    }

    /// The sources to be asked in this round, in order; where all that answer are slow, the fastest goes first.
    pub(super) fn turns(&self) -> Vec<usize> {
        let now = Instant::now();
        let due = |source: &Source| !source.is_hopeless() && source.not_before.is_none_or(|time| time <= now);
        let mut turns: Vec<usize> = self.sources.iter().enumerate().filter(|(_, s)| due(s)).map(|(i, _)| i).collect();
        turns.sort_by_key(|turn| std::cmp::Reverse(self.sources.get(*turn).map_or(0, Source::rate)));
        turns
    }

    /// The URL of a source, and whether it is the only one that is worth asking.
    pub(super) fn begin(&self, turn: usize) -> (String, bool) {
        let others = || self.sources.iter().enumerate().filter(|(index, _)| *index != turn).map(|(_, source)| source);
        let alone = others().all(|source| source.is_hopeless() || source.is_slow());
        (self.sources.get(turn).map(|source| source.url.clone()).unwrap_or_default(), alone)
    }

    pub(super) fn failed(&mut self, turn: usize, error: SourceError) {
        if let Some(source) = self.sources.get_mut(turn) {
            source.not_before = error.retry_after().map(|wait| Instant::now() + wait.min(LONGEST_ASKED));
            source.trouble = Some(error);
        }
    }

    /// The pause before the next round; none when there is no point in one.
    pub(super) fn next_round(&mut self, progress: bool) -> Option<Duration> {
        self.idle_rounds = if progress { 0 } else { self.idle_rounds + 1 };
        if self.idle_rounds >= self.patience.rounds || self.sources.iter().all(Source::is_hopeless) {
            return None;
        }
        let now = Instant::now();
        let worth = self.sources.iter().filter(|source| !source.is_hopeless());
        let asked = worth.map(|source| source.not_before.map_or(Duration::ZERO, |time| time - now)).min();
        let wait = self.patience.pause(self.idle_rounds, net::random()).saturating_add(asked.unwrap_or_default());
        say!("next attempt in {:.1} s", wait.as_secs_f32());
        Some(wait)
    }

    /// What is wrong with each source.
    pub(super) fn errors(self) -> Failures {
        self.sources.into_iter().filter_map(|source| Some((source.url, source.trouble?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(number: usize) -> Queue {
        let urls: Vec<String> = (0..number).map(|n| n.to_string()).collect();
        Queue::new(&urls, Patience::default())
    }

    fn busy(seconds: Option<u64>) -> SourceError {
        SourceError::Status { code: 503, retry_after: seconds.map(Duration::from_secs) }
    }

    fn slow(rate: u64) -> SourceError {
        SourceError::Slow { rate, window: Duration::from_secs(20), least: 65536 }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_are_random_over_their_length() {
        let patience = Patience::default();
        let longest: Vec<u64> = (0..8).map(|round| patience.pause(round, u32::MAX).as_secs()).collect();
        assert_eq!(longest, [2, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(patience.pause(5, 0), Duration::ZERO);
        assert_eq!(patience.pause(5, u32::MAX / 2).as_secs(), 14);
        assert_eq!(patience.pause(u32::MAX, u32::MAX).as_secs(), 30);
    }

    #[test]
    fn nodes_that_failed_together_do_not_come_back_together() {
        // So many that chance moves the peak, 0.37 of them, by less than a hundredth.
        const NODES: usize = 10_000;
        let window = Patience::default().first / 4;
        // What servers do to a herd: they are away, or tell all of it the same.
        for told in [None, Some(5)] {
            let mut visits = Vec::new();
            for _ in 0..NODES {
                let mut queue = queue(1);
                let mut at = Duration::ZERO;
                for _ in 0..5 {
                    queue.failed(0, busy(told));
                    at += queue.next_round(false).unwrap();
                    visits.push(at);
                }
            }
            visits.sort();
            let within = |(first, from): (usize, &Duration)| visits.partition_point(|at| *at < *from + window) - first;
            let most = visits.iter().enumerate().map(within).max().unwrap();
            // A quarter of them, and those of the next rounds that are early.
            assert!(most < NODES * 42 / 100, "{most} of {NODES} nodes within {window:?} (Retry-After: {told:?})");
        }
    }

    #[test]
    fn a_server_that_asks_for_a_pause_gets_it_while_others_are_asked() {
        let mut queue = queue(2);
        queue.failed(0, busy(Some(100)));
        queue.failed(1, busy(None));
        assert!(queue.next_round(false).unwrap() <= Duration::from_secs(2));
        assert_eq!(queue.turns(), [1]);
        queue.failed(1, busy(Some(1_000_000)));
        let wait = queue.next_round(false).unwrap();
        assert!(wait > Duration::from_secs(99) && wait < Duration::from_secs(105), "{wait:?}");
        assert_eq!(queue.turns(), [0; 0]);
    }

    #[test]
    fn rounds_end_when_there_is_no_hope_left() {
        let mut queue = queue(2);
        queue.failed(0, SourceError::NoLength);
        assert!(queue.next_round(false).is_some());
        for _ in 0..20 {
            assert!(queue.next_round(true).is_some(), "bytes arrive");
        }
        let idle = (0..).take_while(|_| queue.next_round(false).is_some()).count();
        assert_eq!(idle, 9);
        queue.failed(1, SourceError::NoLength);
        assert!(queue.next_round(true).is_none());
        assert_eq!(queue.errors().len(), 2);
    }

    #[test]
    fn a_slow_source_is_left_only_for_another_one() {
        let mut queue = queue(3);
        assert!(!queue.begin(0).1);
        queue.failed(0, slow(9_000));
        queue.failed(1, SourceError::NoLength);
        assert!(queue.begin(2).1, "the last of those that are not slow");
        assert!(!queue.begin(0).1, "2 has not been tried");
        queue.failed(2, slow(10_000));
        assert_eq!(queue.turns(), [2, 0]);
        assert!(queue.begin(2).1);
    }
}
