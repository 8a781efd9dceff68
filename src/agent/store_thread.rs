//! The store on a thread of its own: commits wait for the disk there, and no async task waits with them.
//!
//! It needs no particular async runtime.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Instant;

use store_format::{Identity, Unlocker};
use tokio::sync::oneshot;

use super::compaction::Compaction;
use crate::ops::metrics::{Counters, Failed};
use crate::store::{
    Backend, Change, Committed, LockState, Revision, SlotPolicy, SlotsKept, SlotsWanted, Snapshot, StoreError, Update,
};

/// Owns the store. The thread ends with [`StoreThread::close`], or when this and the last [`StoreHandle`] are dropped.
pub struct StoreThread {
    handle: StoreHandle,
    given_back: oneshot::Receiver<Box<dyn Backend>>,
}

impl StoreThread {
    /// Moves `store` to a new thread. `clock` tells the time that is recorded, in milliseconds since 1970.
    ///
    /// # Errors
    /// The system starts no further thread; `store` is closed then.
    pub fn start(store: Box<dyn Backend>, clock: impl Fn() -> u64 + Send + 'static) -> io::Result<Self> {
        Self::begin(store, clock, None)
    }

    /// The same, and the file is made shorter when nothing was written for a while, where that gives much back.
    ///
    /// # Errors
    /// As [`StoreThread::start`].
    pub fn start_compacting(
        store: Box<dyn Backend>,
        clock: impl Fn() -> u64 + Send + 'static,
        idle: Idle,
    ) -> io::Result<Self> {
        Self::begin(store, clock, Some(idle))
    }

    fn begin(
        store: Box<dyn Backend>,
        clock: impl Fn() -> u64 + Send + 'static,
        idle: Option<Idle>,
    ) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (give_back, given_back) = oneshot::channel();
        let look_at = idle.as_ref().map(|idle| Instant::now() + idle.compaction.look_after());
        let owner = Owner {
            store,
            clock: Box::new(clock),
            failed: false,
            closing: false,
            idle,
            written: Instant::now(),
            look_at,
        };
        thread::Builder::new().name("store".to_owned()).spawn(move || serve(owner, queue, give_back))?;
        let handle = StoreHandle { jobs, revision: Arc::new(AtomicU64::new(NO_COMMIT)), counters: Arc::default() };
        Ok(Self { handle, given_back })
    }

    /// The same with commits counted in `counters`.
    #[must_use]
    pub fn counting(mut self, counters: Arc<Counters>) -> Self {
        self.handle.counters = counters;
        self
    }

    /// A way to ask the store, for as long as the thread runs.
    #[must_use]
    pub fn handle(&self) -> StoreHandle {
        self.handle.clone()
    }

    /// Ends the thread and gives the store back, after everything that was asked before. What handles ask from then on
    /// is refused with [`StoreError::Closed`].
    ///
    /// To reopen a store that failed, drop what this returns first: it holds the lock on the file.
    ///
    /// # Errors
    /// [`StoreError::Panicked`] if the thread has ended before its time; the store is closed then.
    pub async fn close(self) -> Result<Box<dyn Backend>, StoreError> {
        // A thread that is gone already has said what there is to say.
        let _ = self.handle.jobs.send(Box::new(|owner| owner.closing = true));
        self.given_back.await.map_err(|_| StoreError::Panicked)
    }
}

/// Asks the store. Questions are answered in the order in which they are asked, each seeing what those before it did.
///
/// Each method asks at once, when it is called, and returns the [`Answer`] to wait for.
///
/// After an error that [`StoreError::needs_reopening`] all further questions are refused with [`StoreError::Unusable`].
#[derive(Clone)]
pub struct StoreHandle {
    jobs: mpsc::Sender<Job>,
    /// The revision after the last commit of this thread; [`NO_COMMIT`] before the first.
    revision: Arc<AtomicU64>,
    counters: Arc<Counters>,
}

/// No commit has been made; no store gets so far.
const NO_COMMIT: u64 = u64::MAX;

impl StoreHandle {
    /// Applies all `changes` in one durable transaction, or none; see [`Backend::update`].
    ///
    /// # Errors
    /// Those of [`Backend::update`]; [`StoreError::Panicked`], after which nobody knows whether it was committed;
    /// [`StoreError::Unusable`] and [`StoreError::Closed`], after which it was not.
    pub fn update(&self, changes: Vec<Change>) -> Answer<Committed<Update>> {
        let (revision, counters) = (Arc::clone(&self.revision), Arc::clone(&self.counters));
        self.ask_to_write(move |store, now_unix_ms| {
            let (began, count) = (Instant::now(), changes.len());
            let committed = store.update(changes, now_unix_ms).inspect_err(|_| counters.failed(Failed::Commit))?;
            let update = committed.get();
            counters.rejected(update.rejected.len());
            if update.written_bytes > 0 {
                counters.committed(began.elapsed(), count, update.written_bytes);
            }
            revision.store(update.revision.0, Ordering::Release);
            Ok(committed)
        })
    }

    /// The revision after the last commit that was made through this thread; `None` before the first. Asks nobody.
    #[must_use]
    pub fn last_revision(&self) -> Option<Revision> {
        Some(self.revision.load(Ordering::Acquire)).filter(|revision| *revision != NO_COMMIT).map(Revision)
    }

    /// A consistent view of everything that is durable; see [`Backend::snapshot`].
    ///
    /// # Errors
    /// Those of [`Backend::snapshot`]; the store panicked, failed before, or is closed.
    pub fn snapshot(&self) -> Answer<Committed<Snapshot>> {
        self.ask(|store, _| store.snapshot())
    }

    /// A copy of the store's file between two commits; see [`Backend::image`].
    ///
    /// # Errors
    /// Those of [`Backend::image`]; the store panicked, failed before, or is closed.
    pub fn image(&self) -> Answer<Vec<u8>> {
        self.ask(|store, _| store.image())
    }

    /// Whose store it is.
    ///
    /// # Errors
    /// The store panicked, failed before, or is closed.
    pub fn identity(&self) -> Answer<Identity> {
        self.ask(|store, _| Ok(store.identity().clone()))
    }

    /// Whether Secrets can be read and written.
    ///
    /// # Errors
    /// The store panicked, failed before, or is closed.
    pub fn lock_state(&self) -> Answer<LockState> {
        self.ask(|store, _| Ok(store.lock_state()))
    }

    /// Adds and removes key slots; see [`Backend::keep_slots`].
    ///
    /// # Errors
    /// Those of [`Backend::keep_slots`], and as for [`StoreHandle::update`].
    pub fn keep_slots(&self, wanted: KeepSlots) -> Answer<Committed<SlotsKept>> {
        let revision = Arc::clone(&self.revision);
        self.ask_to_write(move |store, now_unix_ms| {
            let KeepSlots { add, remove, node_keys_max, policy, fresh } = wanted;
            let add: Vec<&Unlocker> = add.iter().collect();
            let wanted = SlotsWanted { add: &add, remove: &remove, node_keys_max, policy, fresh };
            let committed = store.keep_slots(&wanted, now_unix_ms)?;
            let kept = committed.get();
            if !kept.added.is_empty() || !kept.removed.is_empty() {
                revision.store(kept.revision.0, Ordering::Release);
            }
            Ok(committed)
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Backend, u64) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<T> {
        self.send(question, |_| {})
    }

    fn ask_to_write<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Backend, u64) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<T> {
        self.send(question, Owner::has_written)
    }

    fn send<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Backend, u64) -> Result<T, StoreError> + Send + 'static,
        afterwards: fn(&mut Owner),
    ) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let job = move |owner: &mut Owner| {
            let answered = owner.answer(question);
            afterwards(owner);
            // Whoever asked may have stopped waiting; what was asked for is done all the same.
            let _ = reply.send(answered);
        };
        // If the thread is gone the job is dropped, and `reply` with it, which the answer shows.
        let _ = self.jobs.send(Box::new(job));
        Answer(answer)
    }
}

/// [`SlotsWanted`] for a store on another thread.
#[derive(Clone, Default)]
pub struct KeepSlots {
    /// See [`SlotsWanted::add`].
    pub add: Vec<Unlocker>,
    /// See [`SlotsWanted::remove`].
    pub remove: Vec<[u8; 32]>,
    /// See [`SlotsWanted::node_keys_max`].
    pub node_keys_max: Option<usize>,
    /// See [`SlotsWanted::policy`].
    pub policy: SlotPolicy,
    /// See [`SlotsWanted::fresh`].
    pub fresh: bool,
}

/// What the store answers, some time. Dropping this does not take the question back.
#[must_use = "whether it worked is not known before the answer is there"]
pub struct Answer<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Future for Answer<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(answer.unwrap_or(Err(StoreError::Closed)))
    }
}

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// What is done while nobody asks for anything.
pub struct Idle {
    /// What is remembered from one opening of the store to the next.
    pub compaction: Compaction,
    /// Learns that the store is of no use any more, and has to be opened anew.
    pub failed: Box<dyn Fn(StoreError) + Send>,
}

/// What the thread has.
struct Owner {
    store: Box<dyn Backend>,
    clock: Box<dyn Fn() -> u64 + Send>,
    /// Set when the store failed in a way after which it is not to be trusted.
    failed: bool,
    closing: bool,
    idle: Option<Idle>,
    /// When something was written last, or nothing was and the thread has begun.
    written: Instant,
    /// When the size of the file is looked at next, unless something is written before.
    look_at: Option<Instant>,
}

impl Owner {
    fn answer<T>(
        &mut self,
        question: impl FnOnce(&mut dyn Backend, u64) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.failed {
            return Err(StoreError::Unusable);
        }
        // After a panic the store answers nothing any more, so that nobody sees what it left half done.
        let answer = catch_unwind(AssertUnwindSafe(|| question(&mut *self.store, (self.clock)())));
        let answer = answer.unwrap_or(Err(StoreError::Panicked));
        self.failed = answer.as_ref().is_err_and(StoreError::needs_reopening);
        answer
    }
}

impl Owner {
    fn has_written(&mut self) {
        self.written = Instant::now();
        self.look_at = self.idle.as_ref().map(|idle| self.written + idle.compaction.look_after());
    }

    /// The next job; `None` if there is none for now, or never again.
    fn next(&self, queue: &mpsc::Receiver<Job>) -> Result<Job, mpsc::RecvTimeoutError> {
        match self.look_at {
            Some(at) => queue.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => queue.recv().map_err(mpsc::RecvTimeoutError::from),
        }
    }

    /// Nobody asks for anything.
    fn rest(&mut self) {
        self.look_at = None;
        let Some(Idle { compaction, .. }) = &self.idle else { return };
        let (compaction, written) = (compaction.clone(), self.written);
        let quiet = self.answer(|store, _| compaction.quiet_before(store, Instant::now()));
        let done = match quiet {
            Ok(None) => return,
            Ok(Some(quiet)) if written.elapsed() < quiet => {
                self.look_at = Some(written + quiet);
                return;
            }
            Ok(Some(_)) => self.answer(|store, _| compaction.run(store, Instant::now())),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::info!("the store's file was not made shorter: {error}");
            if let (true, Some(idle)) = (error.needs_reopening(), &self.idle) {
                (idle.failed)(error);
            }
        }
    }
}

fn serve(mut owner: Owner, queue: mpsc::Receiver<Job>, give_back: oneshot::Sender<Box<dyn Backend>>) {
    while !owner.closing {
        match owner.next(&queue) {
            Ok(job) => job(&mut owner),
            Err(mpsc::RecvTimeoutError::Timeout) => owner.rest(),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    // Before the store is given back: from then on every handle knows that it is closed.
    drop(queue);
    // If nobody waits for it, it is closed here.
    drop(give_back.send(owner.store));
}
