//! What every follower shares: the connections of the moment, whether the API server answers, and how fast to ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::body::{self, Listing};
use super::connect::Connections;
use super::pace::{Jitter, Pace};
use super::paths;
use super::reach::Failure;
use crate::checkpoint::object::{Kind, ObjectKey};
use crate::clear::Clear;

/// The largest listing that is read: a thousand pods of the largest size that etcd takes would not fit, and no node has them.
const LISTING_MAX_BYTES: usize = 256 * 1024 * 1024;

/// How many requests of one node wait for an answer at the same time, watches aside.
const UNARY_IN_FLIGHT: usize = 16;

/// Whether there is somebody to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whether the pods of the node are being followed.
    pub(super) answering: bool,
    /// Raised whenever everything has to be listed again: what was heard before may be of another past.
    pub(super) epoch: u64,
}

/// One follower's view of what all share.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) node: Arc<str>,
    pub(super) pace: Pace,
    connections: watch::Receiver<Connections>,
    standing: watch::Receiver<Standing>,
    in_flight: Arc<Semaphore>,
    jitter: Arc<Mutex<Jitter>>,
    /// Epochs count from one.
    get_only_in: Arc<AtomicU64>,
}

impl Line {
    pub(super) fn new(
        node: &str,
        pace: Pace,
        connections: watch::Receiver<Connections>,
        standing: watch::Receiver<Standing>,
        jitter: Jitter,
    ) -> Self {
        Self {
            node: node.into(),
            pace,
            connections,
            standing,
            in_flight: Arc::new(Semaphore::new(UNARY_IN_FLIGHT)),
            jitter: Arc::new(Mutex::new(jitter)),
            get_only_in: Arc::default(),
        }
    }

    /// The connections to ask over now.
    pub(super) fn connections(&mut self) -> Connections {
        self.connections.borrow_and_update().clone()
    }

    /// Returns when there are others than those that [`Line::connections`] gave last: the credentials have changed.
    pub(super) async fn new_connections(&mut self) {
        if self.connections.changed().await.is_err() {
            // The feed is ending, and this task with it.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the API server answers; the epoch in which it does.
    pub(super) async fn answering(&mut self) -> u64 {
        let epoch = self.standing.wait_for(|standing| standing.answering).await.map(|standing| standing.epoch);
        match epoch {
            Ok(epoch) => epoch,
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns in an epoch after `epoch`.
    pub(super) async fn epoch_after(&mut self, epoch: u64) {
        let ended = self.standing.wait_for(|standing| standing.epoch > epoch).await.is_err();
        if ended {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn jitter<T>(&self, draw: impl FnOnce(&mut Jitter) -> T) -> T {
        draw(&mut self.jitter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long the next watch shall last, in whole seconds.
    pub(super) fn watch_time(&self) -> Duration {
        let time = self.jitter(|jitter| jitter.between(self.pace.watch, self.pace.watch * 2));
        Duration::from_secs(time.as_secs().max(1))
    }

    /// Whether ConfigMaps and Secrets turned out, in this epoch, to be readable one by one only. In the next one it is
    /// tried anew: rights may have been given.
    pub(super) fn get_only(&self, epoch: u64) -> bool {
        self.get_only_in.load(Ordering::Relaxed) == epoch
    }

    /// Remembers that for all trackers.
    pub(super) fn set_get_only(&self, epoch: u64) {
        self.get_only_in.store(epoch, Ordering::Relaxed);
    }

    /// One request, its whole answer.
    pub(super) async fn get(&mut self, path: &str) -> Result<Clear, Failure> {
        let connections = self.connections();
        let _one_of_few = self.in_flight.acquire().await;
        connections.get(path, LISTING_MAX_BYTES).await
    }

    /// A listing with all its pages.
    pub(super) async fn list(&mut self, path: &str, kind: Kind) -> Result<Listing, Failure> {
        let mut whole = self.page(path, kind).await?;
        while let Some(token) = whole.next.take() {
            let page = self.page(&paths::next_page(path, &token), kind).await?;
            if page.next.as_ref() == Some(&token) {
                return Err(Failure::garbage(
                    &format!("GET {path}"),
                    &"the list has no end: its next page is the same one",
                ));
            }
            whole.objects.extend(page.objects);
            whole.bad.extend(page.bad);
            whole.next = page.next;
        }
        Ok(whole)
    }

    async fn page(&mut self, path: &str, kind: Kind) -> Result<Listing, Failure> {
        let answer = self.get(path).await?;
        body::listing(answer.expose(), kind).map_err(|error| Failure::garbage(&format!("GET {path}"), &error))
    }

    /// One object as a consistent listing.
    pub(super) async fn list_one(&mut self, key: &ObjectKey) -> Result<Listing, Failure> {
        self.list(&paths::listing_of(key), key.kind()).await
    }
}
