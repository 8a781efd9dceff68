//! What the tasks of the agent have in common: the open store, what the API server shows, and a bell.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::store_thread::StoreHandle;
use super::view::Episode;
use crate::checkpoint::lifecycle::Rules;
use crate::checkpoint::settings::Settings;
use crate::ops::metrics::Counters;
use crate::source::api::feed::{Control, Feed};
use crate::source::api::sighting::Sighting;
use crate::source::api::watching::WatchEnds;
use crate::store::StoreError;

/// One for each agent, given to all of its tasks.
#[derive(Default)]
pub struct Shared {
    store: Mutex<Store>,
    line: Mutex<Option<Line>>,
    feeds: Mutex<u64>,
    durable: Mutex<Episode>,
    bell: Arc<Notify>,
    asked_to_yield: Notify,
    broken: Notify,
    /// Held by whoever acts on what was loaded.
    acting: tokio::sync::Mutex<()>,
    /// Whose the store is, where it is not this node's.
    foreign: Mutex<Option<String>>,
    /// The node whose pods were followed last.
    node: Mutex<Option<String>>,
    counters: Arc<Counters>,
    watch_ends: Arc<WatchEnds>,
    /// What the pods are kept by from the next round on.
    renewed: Mutex<Option<Renewed>>,
}

/// Settings that a reload has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// How pods are judged and translated.
    pub settings: Settings,
    /// When they are activated.
    pub rules: Rules,
}

#[derive(Default)]
struct Store {
    handle: Option<StoreHandle>,
    /// Another instance has it, or was promised it: that one acts, and this one does not.
    ceded: bool,
    /// Why it can't be written to.
    problem: Option<String>,
    /// What it answered last, where it is of no use any more.
    error: Option<StoreError>,
}

/// The feed of the moment.
struct Line {
    feed: u64,
    sighting: watch::Receiver<Sighting>,
    control: Control,
}

impl Shared {
    /// What all tasks count.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// How the watches of all feeds have ended.
    #[must_use]
    pub fn watch_ends(&self) -> &Arc<WatchEnds> {
        &self.watch_ends
    }

    /// Something has changed: look now.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// What [`Shared::ring`] rings.
    #[must_use]
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// The store can be written to from now on.
    pub fn opened(&self, handle: StoreHandle) {
        *lock(&self.store) = Store { handle: Some(handle), ..Store::default() };
        self.ring();
    }

    /// The store can't be written to from now on, and why. What was loaded of it goes on being kept.
    pub fn closed(&self, problem: Option<String>) {
        let mut store = lock(&self.store);
        store.handle = None;
        store.problem = problem.or(store.problem.take());
    }

    /// The open store is of no use any more: it has to be opened anew.
    pub fn fails(&self, error: StoreError) {
        lock(&self.store).error.get_or_insert(error);
        self.broken.notify_one();
    }

    /// Returns when somebody has found that out of the store that is open now.
    pub async fn failure(&self) -> StoreError {
        loop {
            if let Some(error) = lock(&self.store).error.take() {
                return error;
            }
            self.broken.notified().await;
        }
    }

    /// Another instance acts from now on: this returns when a round that was begun has ended, and there is none after it.
    pub async fn cede(&self) {
        *lock(&self.store) = Store { ceded: true, ..Store::default() };
        drop(self.acting.lock().await);
    }

    /// Waits for its turn to act on what was loaded; `None` if another instance acts. The turn lasts until what is returned
    /// is dropped.
    pub async fn acts(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let turn = self.acting.lock().await;
        (!self.is_ceded()).then_some(turn)
    }

    /// Whether another instance acts.
    #[must_use]
    pub fn is_ceded(&self) -> bool {
        lock(&self.store).ceded
    }

    /// The store, if it can be written to.
    #[must_use]
    pub fn store(&self) -> Option<StoreHandle> {
        lock(&self.store).handle.clone()
    }

    /// Why it can't.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        lock(&self.store).problem.clone()
    }

    /// Says whose the store is, where it is another node's or cluster's: nothing of it is brought back.
    pub fn belongs_to(&self, other: Option<String>) {
        *lock(&self.foreign) = other;
    }

    /// Whose the store is, where it is not this node's.
    #[must_use]
    pub fn foreign(&self) -> Option<String> {
        lock(&self.foreign).clone()
    }

    /// The pods of this node are followed.
    pub fn follows(&self, node: &str) {
        *lock(&self.node) = Some(node.to_owned());
    }

    /// The node whose pods were followed last.
    #[must_use]
    pub fn node(&self) -> Option<String> {
        lock(&self.node).clone()
    }

    /// From the next round on, which is now, pods are kept by these.
    pub fn renew(&self, renewed: Renewed) {
        *lock(&self.renewed) = Some(renewed);
        self.ring();
    }

    /// What was said so since this was asked last.
    #[must_use]
    pub fn renewed(&self) -> Option<Renewed> {
        lock(&self.renewed).take()
    }

    /// Asks this instance to give the store up.
    pub fn ask_to_yield(&self) {
        self.asked_to_yield.notify_one();
    }

    /// Returns when somebody has asked for that.
    pub async fn yield_asked(&self) {
        self.asked_to_yield.notified().await;
    }

    /// A feed has begun; its number.
    pub fn feeds(&self, feed: &Feed) -> u64 {
        let mut feeds = lock(&self.feeds);
        *feeds += 1;
        *lock(&self.line) = Some(Line { feed: *feeds, sighting: feed.sighting(), control: feed.control() });
        self.ring();
        *feeds
    }

    /// A complete listing is durable.
    pub fn is_durable(&self, episode: Episode) {
        *lock(&self.durable) = episode;
    }

    /// Of which time of answering the durable listing is.
    #[must_use]
    pub fn durable(&self) -> Episode {
        *lock(&self.durable)
    }

    /// The feed of the moment: its number, and what it sees.
    #[must_use]
    pub fn line(&self) -> Option<(u64, watch::Receiver<Sighting>)> {
        lock(&self.line).as_ref().map(|line| (line.feed, line.sighting.clone()))
    }

    /// Whether the API server is asked each second while it does not answer.
    pub fn hasten(&self, hasten: bool) {
        if let Some(line) = &*lock(&self.line) {
            line.control.hasten(hasten);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn nobody_acts_once_the_store_is_ceded() {
        let shared = Shared::default();
        let turn = shared.acts().await;
        assert!(turn.is_some());
        let mut ceding = Box::pin(shared.cede());
        assert!(ceding.as_mut().now_or_never().is_none(), "a round is under way");
        assert!(shared.is_ceded(), "and there is none after it");
        drop(turn);
        ceding.await;
        assert!(shared.acts().await.is_none());
    }

    #[tokio::test]
    async fn a_store_that_fails_under_a_round_is_told_once() {
        let shared = Shared::default();
        assert!(shared.failure().now_or_never().is_none());
        shared.fails(StoreError::Unusable);
        shared.fails(StoreError::Panicked);
        assert!(matches!(shared.failure().now_or_never(), Some(StoreError::Unusable)));
        assert!(shared.failure().now_or_never().is_none());
    }
}
