//! What every follower shares: the connections of the moment, whether the API server answers, and how fast to ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, watch};

use super::body::{self, Listing};
use super::connect::Connections;
use super::events::LINE_MAX_BYTES;
use super::pace::{Jitter, Pace};
use super::paths;
use super::reach::{Cause, Failure};
use super::watching::WatchEnds;
use crate::checkpoint::object::{Kind, ObjectKey};
use crate::clear::Clear;

/// The largest listing that is read: a thousand pods of the largest size that etcd takes would not fit, and no node has them.
const LISTING_MAX_BYTES: usize = 256 * 1024 * 1024;

/// The longest answer about one object: as in a watch. Many of these are read at the same time.
const ONE_MAX_BYTES: usize = LINE_MAX_BYTES;

/// No listing has more pages. We ask for none, and API servers make none of themselves.
const PAGES_MAX: usize = 1000;

/// How many requests of one node wait for an answer at the same time, watches aside.
const UNARY_IN_FLIGHT: usize = 16;

/// Whether there is somebody to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whether the pods of the node are being followed.
    pub(super) answering: bool,
    /// Raised whenever everything has to be listed again: what was heard before may be of another past.
    pub(super) epoch: u64,
    /// How many listings of the pods there were: what was proven before one says nothing after it.
    pub(super) listings: u64,
}

/// One follower's view of what all share.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) node: Arc<str>,
    pub(super) pace: Arc<Pace>,
    connections: watch::Receiver<Connections>,
    standing: watch::Receiver<Standing>,
    in_flight: Arc<Semaphore>,
    jitter: Arc<StdMutex<Jitter>>,
    /// Epochs count from one.
    get_only_in: Arc<AtomicU64>,
    listing_tried_in: Arc<Mutex<u64>>,
    /// How watches end.
    pub(super) ends: Arc<WatchEnds>,
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
            pace: Arc::new(pace),
            connections,
            standing,
            in_flight: Arc::new(Semaphore::new(UNARY_IN_FLIGHT)),
            jitter: Arc::new(StdMutex::new(jitter)),
            get_only_in: Arc::default(),
            listing_tried_in: Arc::default(),
            ends: Arc::default(),
        }
    }

    /// With how watches end counted in `ends`.
    pub(super) fn counting(self, ends: Arc<WatchEnds>) -> Self {
        Self { ends, ..self }
    }

    /// The connections to ask over now.
    pub(super) fn connections(&mut self) -> Connections {
        self.connections.borrow_and_update().clone()
    }

    /// The signs of life of those that are used now.
    pub(super) fn signs(&self) -> watch::Receiver<u64> {
        self.connections.borrow().signs()
    }

    /// Whether the last attempt to connect was turned away.
    pub(super) fn turned_away(&self) -> bool {
        self.connections.borrow().turned_away()
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

    /// Waits until the API server answers; the listing of the pods that holds then.
    pub(super) async fn listed(&mut self) -> u64 {
        self.answering().await;
        self.standing.borrow().listings
    }

    /// For [`epoch_after`].
    pub(super) fn standings(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
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

    /// Whether objects may be listed one tracker finds out for all, so that a node without that right is not refused once
    /// for each of them. `Some` for that one, while the others wait here; when it knows, it writes the epoch in there.
    pub(super) async fn tries_listing(&self, epoch: u64) -> Option<OwnedMutexGuard<u64>> {
        let tried_in = Arc::clone(&self.listing_tried_in).lock_owned().await;
        (*tried_in < epoch).then_some(tried_in)
    }

    /// The same with a way of its own past the requests that wait: whoever finds out that nobody answers must not queue
    /// behind all who don't know it yet.
    pub(super) fn ahead(self) -> Self {
        Self { in_flight: Arc::new(Semaphore::new(1)), ..self }
    }

    /// One object, its whole answer.
    pub(super) async fn get(&mut self, path: &str) -> Result<Clear, Failure> {
        self.ask(path, ONE_MAX_BYTES).await
    }

    /// A listing with all its pages.
    pub(super) async fn list(&mut self, path: &str, kind: Kind) -> Result<Listing, Failure> {
        self.pages(path, kind, LISTING_MAX_BYTES).await
    }

    /// One object as a consistent listing.
    pub(super) async fn list_one(&mut self, key: &ObjectKey) -> Result<Listing, Failure> {
        self.pages(&paths::listing_of(key), key.kind(), ONE_MAX_BYTES).await
    }

    /// One pod of this node as a consistent listing.
    pub(super) async fn list_pod(&mut self, pod: &ObjectKey) -> Result<Listing, Failure> {
        self.pages(&paths::pod_of(pod, &self.node), Kind::Pod, ONE_MAX_BYTES).await
    }

    /// Whether the API server knows this node. An etcd that was emptied, or a control plane that was made anew, does not, and
    /// what it lacks says nothing of us.
    pub(super) async fn knows_node(&mut self) -> Result<bool, Failure> {
        let node = ObjectKey::new(Kind::Node, "", &self.node).map_err(|error| Failure::garbage("own Node", &error))?;
        match self.list_one(&node).await {
            Ok(found) => Ok(!found.objects.is_empty()),
            // Credentials that may not read Nodes do without.
            Err(failure) if failure.status() == Some(403) => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    /// All pages, of `max_bytes` together.
    async fn pages(&mut self, path: &str, kind: Kind, max_bytes: usize) -> Result<Listing, Failure> {
        let (mut whole, mut left) = self.page(path, kind, max_bytes).await?;
        let mut pages = 1;
        while let Some(token) = whole.next.take() {
            if pages == PAGES_MAX {
                let of = path.split('?').next().unwrap_or(path);
                return Err(Failure::TooLong(Cause(format!("GET {of}: the listing has more than {PAGES_MAX} pages"))));
            }
            pages += 1;
            let (page, still_left) = self.page(&paths::next_page(path, &token), kind, left).await?;
            left = still_left;
            whole.objects.extend(page.objects);
            whole.bad.extend(page.bad);
            whole.next = page.next;
        }
        Ok(whole)
    }

    /// One page, and how many bytes it leaves for the others.
    async fn page(&mut self, path: &str, kind: Kind, max_bytes: usize) -> Result<(Listing, usize), Failure> {
        let answer = self.ask(path, max_bytes).await?;
        let page =
            body::listing(answer.expose(), kind).map_err(|error| Failure::garbage(&format!("GET {path}"), &error))?;
        Ok((page, max_bytes - answer.len()))
    }

    async fn ask(&mut self, path: &str, max_bytes: usize) -> Result<Clear, Failure> {
        let connections = self.connections();
        let _one_of_few = self.in_flight.acquire().await;
        // Hundreds of tasks wait for their turn, or hold a watch open, and few ask: only these have room for an answer.
        Box::pin(connections.get(path, max_bytes)).await
    }
}

/// Returns in an epoch after `epoch`.
pub(super) async fn epoch_after(standings: &mut watch::Receiver<Standing>, epoch: u64) {
    let ended = standings.wait_for(|standing| standing.epoch > epoch).await.is_err();
    if ended {
        // The feed is ending, and this task with it.
        std::future::pending::<()>().await;
    }
}
