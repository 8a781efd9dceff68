//! Round after round: the agent's task that keeps the pods, for as long as the process lives.
//!
//! It goes on with what was loaded while the store can't be written to, and while nobody asks the API server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, sleep_until};

use super::keeper::{Keeper, Kept};
use super::last_answer::LastAnswer;
use super::latest::Latest;
use super::pass::PassError;
use super::shared::Shared;
use super::view::{Episode, View};
use crate::checkpoint::lifecycle::{Alarm, Record, State};
use crate::checkpoint::look::Answers;
use crate::node::boot;
use crate::ops::metrics::{Counters, Failed};
use crate::ops::notify::Notifier;
use crate::source::api::sighting::Sighting;
use crate::store::{Committed, Snapshot, StoreError, Update};

/// Between two rounds while a copy is active, or something is due.
const BUSY: Duration = Duration::from_secs(1);

/// While the API server does not answer.
const WATCHFUL: Duration = Duration::from_secs(5);

/// While all is well: as often as the kubelet reads its directory, rendered files that someone else changed are put right.
const QUIET: Duration = Duration::from_secs(20);

/// A burst of news makes one round.
const SETTLE: Duration = Duration::from_millis(100);

/// Learns what rounds come to.
pub trait Watcher: Send {
    /// A round is over.
    fn kept(&mut self, kept: &Kept, snapshot: &Snapshot);

    /// A round could not be made; nothing was changed.
    fn failed(&mut self, error: &PassError);

    /// What was decided is durable.
    fn recorded(&mut self, update: &Update);

    /// What was decided could not be recorded; it is decided anew after a restart.
    fn not_recorded(&mut self, error: &StoreError);
}

/// Everything that rounds need.
pub struct Rounds {
    keeper: Keeper,
    shared: Arc<Shared>,
    latest: Arc<Latest>,
    /// What is durable, as far as it is known here.
    loaded: Option<Committed<Snapshot>>,
    clock_ms: fn() -> u64,
    watcher: Box<dyn Watcher>,
    view: View,
    last_answer: LastAnswer,
    /// The feed of the moment, as far as it was heard of.
    line: Option<(u64, watch::Receiver<Sighting>)>,
    /// Whether a copy must go before its parent comes.
    yielding: bool,
    /// Parents that the kubelet had rejected at the last round, by UID.
    rejected: BTreeSet<String>,
}

impl Rounds {
    /// Begins with what was found; `loaded` is the store, if there is one.
    #[must_use]
    pub fn new(
        keeper: Keeper,
        shared: Arc<Shared>,
        latest: Arc<Latest>,
        loaded: Option<Committed<Snapshot>>,
        clock_ms: fn() -> u64,
        watcher: Box<dyn Watcher>,
        last_answer: LastAnswer,
    ) -> Self {
        let now_ms = boot::now_ms();
        let answered_ms = last_answer.read(keeper.boot_id(), now_ms);
        // One that ended while it was answered has left no time: the next process would take its own start for it.
        if answered_ms.is_some() {
            last_answer.write(keeper.boot_id(), answered_ms);
        }
        let view = View::new(now_ms, answered_ms);
        let rejected = BTreeSet::new();
        let (line, yielding) = (None, false);
        Self { keeper, shared, latest, loaded, clock_ms, watcher, view, last_answer, line, yielding, rejected }
    }

    /// The identity of this boot, if it is known.
    #[must_use]
    pub fn boot_id(&self) -> Option<String> {
        self.keeper.boot_id().map(str::to_owned)
    }

    /// Goes on for ever.
    pub async fn run(mut self, notifier: Arc<Notifier>) {
        loop {
            let pause = self.round().await;
            notifier.alive();
            self.shared.counters().goes_on(boot::now_ms());
            let until = Instant::now() + pause;
            let alive = notifier.watchdog_interval();
            let bell = self.shared.bell();
            loop {
                let next = alive.map_or(until, |alive| until.min(Instant::now() + alive));
                tokio::select! {
                    () = bell.notified() => break,
                    () = news(&mut self.line) => break,
                    () = sleep_until(next) => notifier.alive(),
                }
                if Instant::now() >= until {
                    break;
                }
            }
            // A kubelet takes 40 to 70 ms from the API server's answer to refusing a parent for good.
            if !self.yielding {
                sleep(SETTLE).await;
            }
        }
    }

    /// One round; how long to wait for the next.
    pub async fn round(&mut self) -> Duration {
        let shared = Arc::clone(&self.shared);
        let Some(_turn) = shared.acts().await else {
            // Whoever acts writes to the store meanwhile.
            self.loaded = None;
            return WATCHFUL;
        };
        if let Some(renewed) = self.shared.renewed() {
            self.keeper.renew(renewed);
        }
        // In this order: what is said to be durable is in the snapshot. Without a store it may be in none.
        let mut durable = self.shared.durable();
        let store = self.shared.store();
        let known = self.loaded.as_ref().map(|loaded| loaded.get().revision());
        match &store {
            Some(store) if store.last_revision().is_none_or(|revision| Some(revision) != known) => {
                match store.snapshot().await {
                    Ok(snapshot) => self.loaded = Some(snapshot),
                    Err(error) => {
                        tracing::info!("cannot look into the store: {error}");
                        durable = Episode::default();
                        self.fails(error);
                    }
                }
            }
            Some(_) => {}
            None => durable = Episode::default(),
        }
        let (feed, sighting) = self.sighting();
        let was_answering = self.view.is_answering();
        let api_ms = boot::now_ms();
        let api = self.view.look(api_ms, feed, sighting.as_ref(), durable, self.yielding);
        if was_answering != self.view.is_answering() {
            self.last_answer.write(self.keeper.boot_id(), (!self.view.is_answering()).then(boot::now_ms));
        }
        let Some(snapshot) = &self.loaded else { return WATCHFUL };
        if let Some(other) = self.shared.foreign() {
            self.latest.fails(other);
            return WATCHFUL;
        }
        let glance = if self.yielding { self.keeper.glance(&api, api_ms) } else { None };
        let (look, images) = match glance {
            Some(seen) => {
                self.shared.ring();
                seen
            }
            None => self.keeper.look(api).await,
        };
        let now_unix_s = (self.clock_ms)() / 1000;
        let kept = match block_in_place(|| self.keeper.pass(snapshot, look, &images, now_unix_s)) {
            Ok(kept) => kept,
            Err(error) => {
                self.shared.counters().failed(Failed::Round);
                self.watcher.failed(&error);
                self.latest.fails(error.to_string());
                return WATCHFUL;
            }
        };
        self.yielding = kept.yielding;
        self.shared.hasten(kept.yielding);
        if !kept.changes.is_empty()
            && let Some(store) = store
        {
            match store.update(kept.changes.clone()).await {
                Ok(update) => self.watcher.recorded(update.get()),
                Err(error) => {
                    self.watcher.not_recorded(&error);
                    self.fails(error);
                }
            }
        }
        self.watcher.kept(&kept, snapshot.get());
        count(&mut self.rejected, &kept.news, kept.ended.len(), &kept.alarms, shared.counters());
        let pause = pause(&kept);
        self.latest.is(kept, snapshot.get(), sighting.and_then(|sighting| sighting.reach));
        pause
    }
}

impl Rounds {
    /// Has the store opened anew where that is what it takes: nobody else may use it for hours.
    fn fails(&self, error: StoreError) {
        // One that was closed under a round is being opened anew already.
        if error.needs_reopening() && !matches!(error, StoreError::Closed) {
            self.shared.fails(error);
        }
    }

    /// What the feed of the moment sees. From now on it is news if it sees something else.
    fn sighting(&mut self) -> (u64, Option<Sighting>) {
        if let Some((feed, receiver)) = self.shared.line()
            && self.line.as_ref().is_none_or(|(known, _)| *known != feed)
        {
            self.line = Some((feed, receiver));
        }
        match &mut self.line {
            Some((feed, receiver)) => (*feed, Some(receiver.borrow_and_update().clone())),
            None => (0, None),
        }
    }
}

/// Returns when the feed sees something else.
async fn news(line: &mut Option<(u64, watch::Receiver<Sighting>)>) {
    let ended = match line {
        Some((_, receiver)) => receiver.changed().await.is_err(),
        None => true,
    };
    if ended {
        // A feed that ends is followed by another one, which rings.
        std::future::pending::<()>().await;
    }
}

/// Counts what a round came to. `rejected`: the parents that were rejected before it.
fn count(rejected: &mut BTreeSet<String>, news: &[Record], ended: usize, alarms: &[Alarm], counters: &Counters) {
    let (mut activations, mut hand_overs) = (0, 0);
    for Record { state, .. } in news {
        match state {
            State::Active | State::SelfActive => activations += 1,
            State::HandedOver { .. } => hand_overs += 1,
            State::None
            | State::Inactive
            | State::InactiveGrace { .. }
            | State::ActiveGrace { .. }
            | State::Removed => {}
        }
    }
    let now: BTreeSet<String> = alarms.iter().map(|Alarm::ParentRejected { uid, .. }| uid.clone()).collect();
    counters.kept(activations, hand_overs, ended, now.difference(rejected).count());
    *rejected = now;
    counters.round();
}

fn pause(kept: &Kept) -> Duration {
    let usual = match kept.look.api.reach {
        _ if kept.active || !kept.ended.is_empty() => BUSY,
        Answers::Silent | Answers::Refusing => WATCHFUL,
        Answers::Answering => QUIET,
    };
    let due = kept.next_ms.map(|next_ms| Duration::from_millis(next_ms.saturating_sub(kept.look.now_ms)));
    due.map_or(usual, |due| due.clamp(BUSY, usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::rendering::PodName;

    #[test]
    fn a_rejected_parent_counts_once_and_a_copy_each_time() {
        let pod = || PodName { namespace: "shop".to_owned(), name: "web".to_owned() };
        let record = |state| Record { pod: pod(), uid: "u".to_owned(), state, republished: 0, why: String::new() };
        let alarm = |uid: &str| Alarm::ParentRejected { pod: pod(), uid: uid.to_owned(), ended: "OutOfcpu".to_owned() };
        let counters = Counters::default();
        let mut rejected = BTreeSet::new();
        let mut round = |news: &[State], ended, alarms: &[&str]| {
            let news: Vec<Record> = news.iter().map(|state| record(*state)).collect();
            let alarms: Vec<Alarm> = alarms.iter().map(|uid| alarm(uid)).collect();
            count(&mut rejected, &news, ended, &alarms, &counters);
        };
        round(&[State::Active, State::SelfActive, State::Inactive], 0, &["a"]);
        round(&[State::HandedOver { left_ms: 7 }, State::ActiveGrace { left_ms: 7 }], 1, &["a", "b"]);
        round(&[State::Active], 2, &[]);
        round(&[], 0, &["a"]);
        let shown = format!("{counters:?}");
        for want in [
            "rounds: Count(4)",
            "activations: Count(3)",
            "hand_overs: Count(1)",
            "ended: Count(3)",
            "rejected_parents: Count(3)",
        ] {
            assert!(shown.contains(want), "{want}: {shown}");
        }
    }
}
