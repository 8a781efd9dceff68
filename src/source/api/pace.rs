//! How fast: back-off and jitter, so that ten thousand nodes do not ask at the same moment.

use std::time::Duration;

use super::connect::Limits;
use crate::crypto::Entropy;

/// The times that the source keeps. The defaults are those of a node; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a pod waits for the objects that it names before it is stored without them.
    pub patience: Duration,
    /// The shortest watch asked for; the longest is twice that.
    pub watch: Duration,
    /// How often an object that can't be watched is read.
    pub poll: Duration,
    /// How often the Services are listed again.
    pub services: Duration,
    /// Over how long the objects are read again after the API server was away, or its connections were cut.
    pub spread: Duration,
    /// The first wait after a failure; each further one is twice as long.
    pub retry_first: Duration,
    /// The longest wait after a failure.
    pub retry_longest: Duration,
    /// The longest wait for an object that this node may not read, or that does not exist and can't be watched.
    pub forbidden_longest: Duration,
    /// How often credentials are looked at, to notice a rotation.
    pub credentials: Duration,
    /// What requests and connections are given.
    pub requests: Limits,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(5),
            watch: Duration::from_secs(30 * 60),
            poll: Duration::from_secs(60),
            services: Duration::from_secs(60 * 60),
            spread: Duration::from_secs(5),
            retry_first: Duration::from_millis(500),
            retry_longest: Duration::from_secs(30),
            forbidden_longest: Duration::from_secs(5 * 60),
            credentials: Duration::from_secs(5),
            requests: Limits::default(),
        }
    }
}

/// Small random numbers for jitter; nothing secret depends on them.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    /// Seeded from the system. Without entropy the seed is fixed, which only makes nodes meet more often.
    pub(super) fn new(entropy: &dyn Entropy) -> Self {
        let seed = crate::crypto::fresh::<8>(entropy).map_or(1, u64::from_le_bytes);
        Self(seed | 1)
    }

    /// xorshift64 (Marsaglia 2003).
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A duration in `[from, to)`; `from` if there is nothing between.
    pub(super) fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_millis() as u64;
        if span == 0 { from } else { from + Duration::from_millis(self.next() % span) }
    }

    /// Somewhere within a quarter of `about`.
    pub(super) fn around(&mut self, about: Duration) -> Duration {
        self.between(about * 3 / 4, about * 5 / 4)
    }
}

/// Waits that double, with jitter.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait now: at least as long as the server asked for, at most [`Pace::retry_longest`] or what it asked.
    pub(super) fn wait(&mut self, jitter: &mut Jitter, asked_s: Option<u64>) -> Duration {
        let wait = jitter.between(self.next / 2, self.next);
        self.next = (self.next * 2).min(self.longest);
        // A server that asks for an hour does not get it: the node would miss its return.
        let asked = Duration::from_secs(asked_s.unwrap_or(0).min(120));
        if asked > wait { jitter.between(asked, asked + self.first) } else { wait }
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let mut jitter = Jitter(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));
        for limit in [1, 2, 4, 8, 8, 8] {
            let wait = backoff.wait(&mut jitter, None).as_millis();
            assert!((limit * 500..limit * 1000).contains(&wait), "{wait} ms of {limit} s");
        }
        backoff.reset();
        assert!(backoff.wait(&mut jitter, None) < Duration::from_secs(1));
    }

    #[test]
    fn the_server_is_obeyed_within_reason() {
        let mut jitter = Jitter(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));
        assert!(backoff.wait(&mut jitter, Some(20)) >= Duration::from_secs(20));
        assert!(backoff.wait(&mut jitter, Some(7200)) < Duration::from_secs(122));
    }

    #[test]
    fn jitter_spreads() {
        let mut jitter = Jitter(7);
        let (low, high) = (Duration::from_secs(45), Duration::from_secs(75));
        let seen: Vec<_> = (0..1000).map(|_| jitter.around(Duration::from_secs(60))).collect();
        assert!(seen.iter().all(|wait| (low..high).contains(wait)));
        let early = seen.iter().filter(|wait| **wait < Duration::from_secs(60)).count();
        assert!((400..600).contains(&early), "{early} of 1000 are early");
    }
}
