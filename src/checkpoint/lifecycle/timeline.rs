//! What looks in a row have in common: for how long something has been so. Lost with the process, which only makes it wait
//! anew.

use std::collections::{BTreeMap, BTreeSet};

use super::life::Life;
use super::parent::Sandboxes;
use super::state::{Running, State};
use crate::checkpoint::look::{Answers, Look};
use crate::checkpoint::rendering::PodName;

/// A kubelet sees its pods within 28 seconds of an API server that is back, and starts them within 15 more.
const PATIENCE_MS: u64 = 60_000;

/// The longest that a copy waits before it goes for its parent's name once more.
const PATIENCE_LONGEST_MS: u64 = 10 * 60_000;

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
    /// The containers of pods of the parent's name in whatever state, and since when they are these.
    pub(super) containers: Option<(BTreeSet<String>, u64)>,
    /// Those that were there before the API server answered, or before this process looked: no sign of a kubelet that knows
    /// the parent.
    pub(super) stale: Option<BTreeSet<String>>,
    /// When the copy went last for nothing but its parent's name.
    pub(super) yielded_ms: Option<u64>,
    /// Whether the copy has made way since the API server gave a sign of life, which has not answered since.
    pub(super) made_way: bool,
    /// For how long the API server has to answer before the copy goes for its parent's name again.
    pub(super) patience_ms: u64,
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
    /// Takes in what the runtime has of the parent; nothing if it does not say.
    pub(super) fn parent(&mut self, look: &Look, sandboxes: Option<&Sandboxes<'_>>) {
        let Some(sandboxes) = sandboxes else {
            self.running = (BTreeSet::new(), look.now_ms);
            return;
        };
        let containers = sandboxes.containers();
        if self.stale.is_none() || look.api.reach != Answers::Answering {
            self.stale = Some(containers.clone());
        }
        if self.containers.as_ref().is_none_or(|(known, _)| *known != containers) {
            self.containers = Some((containers, look.now_ms));
        }
        let running = sandboxes.running();
        if self.running.0 != running {
            self.running = (running, look.now_ms);
        }
    }

    /// For how long no container of the parent's name has come or gone.
    pub(super) fn idle_ms(&self, now_ms: u64) -> u64 {
        self.containers.as_ref().map_or(0, |(_, since_ms)| now_ms.saturating_sub(*since_ms))
    }

    /// Takes in what follows for the copy.
    ///
    /// Where the copy's going takes the API server away, the parent never comes, and the copy would come and go for ever. So
    /// it is more patient after each such round, if it is on the node's network, as whatever serves the API offline has to be.
    pub(super) fn step(&mut self, look: &Look, life: &Life<'_>) {
        self.state = Some(life.next);
        let answers = look.api.reach == Answers::Answering;
        if answers || life.running == Running::Yes || life.next.is_active() {
            self.made_way = false;
        } else if life.has_made_way() {
            self.made_way = true;
        }
        let examined = &life.checkpoint.examined;
        match (life.before.is_active(), life.next) {
            _ if life.running == Running::Yes => (self.yielded_ms, self.patience_ms) = (None, 0),
            (true, State::HandedOver { .. }) if examined.yield_first => self.yielded_ms = Some(look.now_ms),
            (false, State::Active | State::SelfActive) => {
                (self.published_ms, self.dead_since_ms) = (Some(look.now_ms), Some(look.now_ms));
                let yielded_ms = self.yielded_ms.take().filter(|_| examined.host_network);
                if yielded_ms.is_some_and(|at_ms| look.api.since_ms.saturating_sub(at_ms) <= PATIENCE_MS / 2) {
                    self.patience_ms = self.patience_ms.saturating_mul(2).clamp(PATIENCE_MS, PATIENCE_LONGEST_MS);
                }
            }
            (true | false, _) => {}
        }
    }

    /// Takes in whether the parent runs, and for how long it has not.
    pub(super) fn answer(&mut self, now_ms: u64, answer: Running) {
        self.no_since_ms = match answer {
            Running::No => Some(self.no_since_ms.unwrap_or(now_ms)),
            Running::Yes | Running::Held | Running::Unknown => None,
        };
    }
}
