//! What looks in a row have in common: for how long something has been so. Lost with the process, which only makes it wait
//! anew.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Running, State};
use crate::checkpoint::rendering::PodName;

/// What is remembered from look to look.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub(super) looked_ms: Option<u64>,
    pub(super) pods: BTreeMap<PodName, Past>,
}

/// What is remembered of one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// The parent that this is about.
    pub(super) uid: String,
    pub(super) state: Option<State>,
    /// Since when the parent has not been running.
    pub(super) no_since_ms: Option<u64>,
    /// The containers of the parent that run, and since when they are these.
    pub(super) running: (BTreeSet<(String, String)>, u64),
    /// Since when the copy's manifest has been active, or published anew.
    pub(super) published_ms: Option<u64>,
    /// Since when the copy has had no ready sandbox.
    pub(super) dead_since_ms: Option<u64>,
    /// How often it was published anew in this process, for the back-off.
    pub(super) attempts: u32,
}

impl Timeline {
    /// Milliseconds since the last look; none at the first.
    pub(super) fn elapsed_ms(&self, now_ms: u64) -> u64 {
        self.looked_ms.map_or(0, |looked_ms| now_ms.saturating_sub(looked_ms))
    }
}

impl Past {
    /// Takes in whether the parent runs, and for how long it has not.
    pub(super) fn parent(&mut self, now_ms: u64, answer: Running, containers: BTreeSet<(String, String)>) {
        self.no_since_ms = match answer {
            Running::No => Some(self.no_since_ms.unwrap_or(now_ms)),
            Running::Yes | Running::Held | Running::Unknown => None,
        };
        if self.running.0 != containers {
            self.running = (containers, now_ms);
        }
    }
}
