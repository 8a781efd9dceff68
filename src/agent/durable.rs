//! A stream made durable: an item is handed on when what it changes is on disk, and not before.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::store_thread::{Answer, StoreHandle};
use crate::store::{Change, Committed, StoreError, Update};

/// How much one transaction takes. What comes beyond waits in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Items; at least one is taken.
    pub items_max: usize,
    /// Bytes of JSON in their changes. The last item of a batch may go beyond, so that an item of any size gets through.
    pub bytes_max: usize,
}

impl Default for Limits {
    /// A burst of a node's size in one transaction. Two batches are in memory at most: one on its way, and the next.
    fn default() -> Self {
        Self { items_max: 1024, bytes_max: 8 << 20 }
    }
}

/// Items whose changes were committed together.
///
/// A later item may have overtaken an earlier one: the store holds what they come to together.
#[derive(Clone, Debug)]
pub struct Batch<T> {
    /// The items, in the order of the source.
    pub items: Vec<T>,
    /// What their changes did to the store. It names objects that were not stored, and why.
    pub update: Update,
}

/// The store failed, and the stream ends. None of `items` was handed on.
#[derive(thiserror::Error)]
#[error("the store failed; items of the source not known to be durable: {}", .items.len())]
pub struct NotDurable<T> {
    /// What the store says: whether it must be reopened, and whether the transaction may be durable all the same.
    #[source]
    pub error: StoreError,
    /// Everything taken from the source and not handed on, in its order. Storing it again does no harm.
    pub items: Vec<T>,
}

/// Never shows an item.
impl<T> fmt::Debug for NotDurable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotDurable").field("error", &self.error).field("items", &self.items.len()).finish()
    }
}

/// Wraps a stream, and yields its items in batches, each when it is durable.
///
/// Items that arrive while a commit is in flight form the next one, so that a burst takes one commit and not hundreds. An
/// item that changes nothing passes in its place.
///
/// The next commit begins when the next batch is asked for. What a consumer reads back from the store while it works on a
/// batch is therefore just what the batch made of it, unless somebody else writes to the store.
///
/// Nothing is lost by dropping the future of `next()`. Dropped itself, it forgets items that were not handed on: their
/// commit may go through, and a source that tells everything anew when it is asked again tells them again.
///
/// After an error the stream ends. To go on, close the store's thread, reopen the store, and wrap what is left:
/// `stream::iter(error.items).chain(source)`, where `source` was lent to this as `&mut source`.
pub struct Durable<S: Stream, F> {
    /// `None` when it has ended.
    source: Option<Pin<Box<S>>>,
    store: StoreHandle,
    changes: F,
    limits: Limits,
    next: Gathered<S::Item>,
    flight: Option<Flight<S::Item>>,
}

/// What the next commit will be.
struct Gathered<T> {
    items: Vec<T>,
    changes: Vec<Change>,
    bytes: usize,
}

/// A commit that the store was asked for.
struct Flight<T> {
    items: Vec<T>,
    answer: Answer<Committed<Update>>,
}

impl<S, F> Durable<S, F>
where
    S: Stream,
    F: FnMut(&S::Item) -> Vec<Change>,
{
    /// Wraps `source`; `changes` says what an item changes in the store.
    pub fn new(source: S, store: StoreHandle, changes: F) -> Self {
        let next = Gathered::default();
        Self { source: Some(Box::pin(source)), store, changes, limits: Limits::default(), next, flight: None }
    }

    /// Sets how much one transaction takes.
    #[must_use]
    pub fn limited_to(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Takes from the source what it has and the next batch has room for. Otherwise the source's waker is set.
    fn gather(&mut self, context: &mut Context<'_>) {
        while !self.next.is_full(self.limits)
            && let Some(source) = &mut self.source
            && let Poll::Ready(item) = source.as_mut().poll_next(context)
        {
            match item {
                Some(item) => self.next.add((self.changes)(&item), item),
                None => self.source = None,
            }
        }
    }
}

impl<S, F> Stream for Durable<S, F>
where
    S: Stream,
    F: FnMut(&S::Item) -> Vec<Change>,
{
    type Item = Result<Committed<Batch<S::Item>>, NotDurable<S::Item>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.gather(context);
        let mut flight = match this.flight.take() {
            Some(flight) => flight,
            None if this.next.items.is_empty() && this.source.is_none() => return Poll::Ready(None),
            None if this.next.items.is_empty() => return Poll::Pending,
            None => {
                let Gathered { items, changes, .. } = std::mem::take(&mut this.next);
                Flight { items, answer: this.store.update(changes) }
            }
        };
        let Poll::Ready(answer) = Pin::new(&mut flight.answer).poll(context) else {
            this.flight = Some(flight);
            return Poll::Pending;
        };
        let mut items = flight.items;
        Poll::Ready(Some(match answer {
            // What this moves in follows from the evidence: the transaction that `update` is the account of is made of the
            // changes of these items, all of theirs and no others.
            Ok(update) => Ok(update.map(|update| Batch { items, update })),
            Err(error) => {
                this.source = None;
                items.append(&mut std::mem::take(&mut this.next).items);
                Err(NotDurable { error, items })
            }
        }))
    }
}

/// Nothing in it is ever pinned in place: the source has its own box.
impl<S: Stream, F> Unpin for Durable<S, F> {}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self { items: Vec::new(), changes: Vec::new(), bytes: 0 }
    }
}

impl<T> Gathered<T> {
    fn add(&mut self, changes: Vec<Change>, item: T) {
        self.bytes = changes.iter().map(bytes).fold(self.bytes, usize::saturating_add);
        self.changes.extend(changes);
        self.items.push(item);
    }

    fn is_full(&self, limits: Limits) -> bool {
        self.items.len() >= limits.items_max.max(1) || self.bytes >= limits.bytes_max.max(1)
    }
}

/// Bytes of JSON in a change.
fn bytes(change: &Change) -> usize {
    match change {
        Change::Apply { object, with } => {
            with.iter().map(|needed| needed.body.len()).sum::<usize>() + object.body.len()
        }
        Change::Reset { objects, .. } => objects.iter().map(|object| object.body.len()).sum(),
        Change::Delete { .. }
        | Change::Gone { .. }
        | Change::Absent { .. }
        | Change::Complete
        | Change::NodeName(_)
        | Change::Cluster { .. }
        | Change::Position(_)
        | Change::Decided { .. }
        | Change::Hold { .. }
        | Change::Adopt { .. }
        | Change::Boot(_) => 0,
    }
}
