//! Times of several contenders, taken in turns.

use std::time::Duration;

/// Times of one contender, shortest first.
#[derive(Clone, Debug)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty());
        times.sort();
        Self(times)
    }

    pub(crate) fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    /// Nine of ten are at most so long.
    pub(crate) fn p90(&self) -> Duration {
        self.0[self.0.len() * 9 / 10]
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "rounds": self.0.len(), "median_ms": millis(self.median()), "p90_ms": millis(self.p90()),
            "least_ms": millis(self.0[0]), "most_ms": millis(self.0[self.0.len() - 1]),
        })
    }
}

/// Something that is done again and again; it says how long that took, so that preparing is not counted.
pub(crate) type Contender<'a> = Box<dyn FnMut(usize) -> Duration + 'a>;

/// Lets each contender do its work in every round, so that whatever else the machine does meets all of them. The first
/// round, which fills caches, does not count.
pub(crate) fn interleaved(rounds: usize, contenders: &mut [Contender<'_>]) -> Vec<Times> {
    let mut times = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        // The other way round each time: none always follows the same one.
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for one in order {
            let time = contenders[one](round);
            if round > 0 {
                times[one].push(time);
            }
        }
    }
    times.into_iter().map(Times::new).collect()
}

/// How many times `floor` it is.
pub(crate) fn ratio(time: Duration, floor: Duration) -> f64 {
    time.as_secs_f64() / floor.as_secs_f64()
}

pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
