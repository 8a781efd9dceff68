//! What is counted while it happens: a few numbers, each of which is raised in place.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::text::Samples;

/// Upper bounds of a commit's time, in microseconds: from a disk with a battery to one that is about to fail.
const COMMIT_US: [u64; 13] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000];

/// Upper bounds of the number of changes in a commit.
const COMMIT_CHANGES: [u64; 9] = [1, 2, 5, 10, 25, 50, 100, 250, 1_000];

/// Nothing was noted yet.
const NEVER: u64 = u64::MAX;

/// One for each agent, given to all of its tasks. Reading and writing wait for nobody.
#[derive(Debug)]
pub struct Counters {
    pub(super) commit_us: Histogram<{ COMMIT_US.len() }>,
    pub(super) commit_changes: Histogram<{ COMMIT_CHANGES.len() }>,
    pub(super) commit_bytes: Count,
    pub(super) commit_failures: Count,
    pub(super) rejected: Count,
    pub(super) listings: Count,
    pub(super) rounds: Count,
    pub(super) round_failures: Count,
    pub(super) activations: Count,
    pub(super) hand_overs: Count,
    pub(super) ended: Count,
    pub(super) rejected_parents: Count,
    cold_start_ms: AtomicU64,
    certificate_expires_unix_s: AtomicU64,
    round_ended_ms: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            commit_us: Histogram::new(COMMIT_US),
            commit_changes: Histogram::new(COMMIT_CHANGES),
            commit_bytes: Count::default(),
            commit_failures: Count::default(),
            rejected: Count::default(),
            listings: Count::default(),
            rounds: Count::default(),
            round_failures: Count::default(),
            activations: Count::default(),
            hand_overs: Count::default(),
            ended: Count::default(),
            rejected_parents: Count::default(),
            cold_start_ms: AtomicU64::new(NEVER),
            certificate_expires_unix_s: AtomicU64::new(NEVER),
            round_ended_ms: AtomicU64::new(NEVER),
        }
    }
}

/// What could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// A commit.
    Commit,
    /// A round.
    Round,
}

impl Counters {
    /// A commit is durable: how long it took, how many changes it is made of, and how many bytes it wrote.
    pub fn committed(&self, took: Duration, changes: usize, bytes: u64) {
        self.commit_us.observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.commit_changes.observe(changes as u64);
        self.commit_bytes.add(bytes);
    }

    /// Something failed.
    pub fn failed(&self, what: Failed) {
        match what {
            Failed::Commit => self.commit_failures.add(1),
            Failed::Round => self.round_failures.add(1),
        }
    }

    /// So many objects were left out of a commit.
    pub fn rejected(&self, objects: usize) {
        self.rejected.add(objects as u64);
    }

    /// A complete listing is durable.
    pub fn listed(&self) {
        self.listings.add(1);
    }

    /// A round was made.
    pub fn round(&self) {
        self.rounds.add(1);
    }

    /// So many copies were started, handed over, and ended in a round, and so many parents are newly rejected.
    pub fn kept(&self, activations: usize, hand_overs: usize, ended: usize, rejected_parents: usize) {
        self.activations.add(activations as u64);
        self.hand_overs.add(hand_overs as u64);
        self.ended.add(ended as u64);
        self.rejected_parents.add(rejected_parents as u64);
    }

    /// The task that keeps the pods goes on, at `now_ms` since boot.
    pub fn goes_on(&self, now_ms: u64) {
        self.round_ended_ms.store(now_ms, Relaxed);
    }

    /// When it last did; `None` before the first time.
    #[must_use]
    pub fn went_on_ms(&self) -> Option<u64> {
        noted(&self.round_ended_ms)
    }

    /// The cold start is over, and took so long.
    pub fn cold_start_took(&self, ms: u64) {
        self.cold_start_ms.store(ms, Relaxed);
    }

    /// How long the cold start took, in milliseconds; `None` while it goes on.
    #[must_use]
    pub fn cold_start_ms(&self) -> Option<u64> {
        noted(&self.cold_start_ms)
    }

    /// The client certificate that is used from now on expires then, in seconds since 1970; `None`: there is none.
    pub fn certificate_expires(&self, unix_s: Option<u64>) {
        self.certificate_expires_unix_s.store(unix_s.unwrap_or(NEVER), Relaxed);
    }

    pub(super) fn certificate_expires_unix_s(&self) -> Option<u64> {
        noted(&self.certificate_expires_unix_s)
    }
}

fn noted(value: &AtomicU64) -> Option<u64> {
    Some(value.load(Relaxed)).filter(|value| *value != NEVER)
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(super) fn get(&self) -> f64 {
        self.0.load(Relaxed) as f64
    }
}

/// Counts by size, in whole units.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    bounds: [u64; N],
    counts: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [u64; N]) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; N], above: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    fn observe(&self, value: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        bucket.map_or(&self.above, |at| &self.counts[at]).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// `per_unit`: how many of ours make one of the metric's unit.
    pub(super) fn put(&self, samples: &mut Samples<'_>, per_unit: f64) {
        let counts = self.bounds.iter().zip(&self.counts);
        let buckets = counts.map(|(bound, count)| (*bound as f64 / per_unit, count.load(Relaxed)));
        samples.histogram(buckets, self.above.load(Relaxed), self.sum.load(Relaxed) as f64 / per_unit);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{COMMIT_SECONDS, text::Text};
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_it_fits() {
        let histogram = Histogram::new([1_000, 5_000]);
        for value in [0, 1_000, 1_001, 5_000, 5_001, 100_000] {
            histogram.observe(value);
        }
        let mut text = Text::default();
        histogram.put(&mut text.metric(&COMMIT_SECONDS), 1e6);
        let text = text.finish();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let name = COMMIT_SECONDS.name;
        let want = [
            format!("{name}_bucket{{le=\"0.001\"}} 2"),
            format!("{name}_bucket{{le=\"0.005\"}} 4"),
            format!("{name}_bucket{{le=\"+Inf\"}} 6"),
            format!("{name}_sum 0.112002"),
            format!("{name}_count 6"),
        ];
        assert_eq!(lines, want);
        assert!(COMMIT_US.is_sorted() && super::COMMIT_CHANGES.is_sorted());
    }

    #[test]
    fn what_was_not_noted_is_not_zero() {
        let counters = Counters::default();
        let noted = || (counters.went_on_ms(), counters.cold_start_ms(), counters.certificate_expires_unix_s());
        assert_eq!(noted(), (None, None, None));
        counters.goes_on(0);
        counters.cold_start_took(0);
        counters.certificate_expires(Some(0));
        assert_eq!(noted(), (Some(0), Some(0), Some(0)));
        counters.certificate_expires(None);
        assert_eq!(noted().2, None);
    }
}
