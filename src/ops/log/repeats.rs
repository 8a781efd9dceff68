//! What is said again and again is said a few times, and then counted. Pure: the time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::record::{Record, Severity};

/// So often the same is said within one window.
pub const SAID_MAX: u64 = 5;

/// How long a window is. It begins with the first of them.
pub const WINDOW: Duration = Duration::from_secs(60);

/// So many different lines are remembered. On a node that lives for years names come without end.
const REMEMBERED_MAX: usize = 1000;

/// What was said in the windows that are open.
#[derive(Default)]
pub struct Repeats {
    windows: HashMap<String, Window>,
}

struct Window {
    since: Instant,
    said: u64,
    record: Record,
}

impl Repeats {
    /// Whether this one is said; if not, it is counted.
    pub fn is_said(&mut self, record: &Record, now: Instant) -> bool {
        // Whoever asks for those wants all of them.
        let asked_for = matches!(record.severity, Severity::Debug | Severity::Trace)
            || (record.event.is_none() && record.severity == Severity::Info);
        if asked_for || record.event.is_some_and(|event| event.each_counts) {
            return true;
        }
        let key = format!("{}{}", record.severity.prefix(), record.message);
        if self.windows.len() >= REMEMBERED_MAX && !self.windows.contains_key(&key) {
            // Those of which nothing was left out are no loss; otherwise this one is said, and not remembered.
            self.windows.retain(|_, window| window.left_out() > 0);
            if self.windows.len() >= REMEMBERED_MAX {
                return true;
            }
        }
        let window = self.windows.entry(key).or_insert_with(|| Window { since: now, said: 0, record: record.clone() });
        window.said += 1;
        window.said <= SAID_MAX
    }

    /// Closes the windows whose time is over. Returns what was left out in them, one record each, oldest first.
    pub fn over(&mut self, now: Instant) -> Vec<Record> {
        self.close(|window| now.saturating_duration_since(window.since) >= WINDOW)
    }

    /// Closes all.
    pub fn end(&mut self) -> Vec<Record> {
        self.close(|_| true)
    }

    fn close(&mut self, is_over: impl Fn(&Window) -> bool) -> Vec<Record> {
        let mut over: Vec<Window> =
            self.windows.extract_if(|_, window| is_over(window)).map(|(_, window)| window).collect();
        over.retain(|window| window.left_out() > 0);
        over.sort_by_key(|window| window.since);
        over.into_iter().map(|window| Record { repeated: window.left_out(), ..window.record }).collect()
    }
}

impl Window {
    fn left_out(&self) -> u64 {
        self.said.saturating_sub(SAID_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::events::{CHECKPOINT_STATE, MESSAGE, find};
    use super::*;

    fn record(message: &str) -> Record {
        let message = message.to_owned();
        let event = find(MESSAGE);
        Record { severity: Severity::Warning, event, target: "ckpt_db", message, fields: Vec::new(), repeated: 0 }
    }

    #[test]
    fn a_few_and_then_a_count() {
        let start = Instant::now();
        let mut repeats = Repeats::default();
        #[rustfmt::skip]
        let table = [
            // second, what, said, left out in what is over
            (0,   "a", true,  vec![]),
            (1,   "a", true,  vec![]),
            (2,   "a", true,  vec![]),
            (3,   "a", true,  vec![]),
            (4,   "a", true,  vec![]),
            (5,   "a", false, vec![]),
            (6,   "b", true,  vec![]),
            (7,   "a", false, vec![]),
            (59,  "a", false, vec![]),
            (60,  "a", true,  vec![("a", 3)]),
            (120, "a", true,  vec![]),
            (300, "b", true,  vec![]),
        ];
        for (second, what, is_said, left_out) in table {
            let now = start + Duration::from_secs(second);
            let over = repeats.over(now);
            let over: Vec<(&str, u64)> = over.iter().map(|record| (&record.message[..], record.repeated)).collect();
            assert_eq!(over, left_out, "at {second}");
            assert_eq!(repeats.is_said(&record(what), now), is_said, "at {second}");
        }
        assert_eq!((0..7).filter(|_| repeats.is_said(&record("c"), start)).count(), 5);
        let end = repeats.end();
        assert_eq!(end.iter().map(|record| (&record.message[..], record.repeated)).collect::<Vec<_>>(), [("c", 2)]);
        assert!(repeats.end().is_empty());
    }

    #[test]
    fn what_happens_to_a_pod_is_never_left_out() {
        let now = Instant::now();
        let mut repeats = Repeats::default();
        let state = Record { severity: Severity::Info, event: find(CHECKPOINT_STATE), ..record("web: copy started") };
        let asked_for = Record { severity: Severity::Info, event: None, ..record("committed") };
        let debug = Record { severity: Severity::Debug, event: None, ..record("a look") };
        for record in [state, asked_for, debug] {
            assert!((0..100).all(|_| repeats.is_said(&record, now)));
        }
        assert!(repeats.end().is_empty());
    }

    #[test]
    fn the_memory_is_bounded() {
        let now = Instant::now();
        let mut repeats = Repeats::default();
        for number in 0..REMEMBERED_MAX {
            assert_eq!((0..6).filter(|_| repeats.is_said(&record(&number.to_string()), now)).count(), 5);
        }
        assert!((0..10).all(|_| repeats.is_said(&record("one more"), now)), "it is rather said than lost");
        assert_eq!(repeats.end().len(), REMEMBERED_MAX);
    }
}
