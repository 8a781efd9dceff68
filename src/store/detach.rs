//! Cutting redb off from its file before it closes.
//!
//! On a damaged file redb's closing may panic, even while an earlier panic unwinds, which would abort the process. Cut off,
//! it fails at its first access and gives up.
//!
//! On a sound file every commit is durable and carries its allocator state, so that a close has nothing to add. What it would do is
//! write one more commit over the older of the two that the file holds, with the same root page as the newest one: a single
//! bad byte in that page would then cost the whole store. Cut off, the file keeps its last two commits with roots of their
//! own, and a close writes and syncs nothing.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{BackendError, StorageBackend};

/// Cuts its backend off when it is dropped, which must happen before redb's handle is: also while a panic unwinds.
#[derive(Debug)]
pub(super) struct Detach(Arc<AtomicBool>);

impl Drop for Detach {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The backend's side of [`Detach`].
#[derive(Debug)]
pub(super) struct Attached(Arc<AtomicBool>);

impl Attached {
    /// # Errors
    /// The backend is cut off.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Acquire) { Err(io::Error::other("the store is closing")) } else { Ok(()) }
    }
}

/// Both sides.
pub(super) fn pair() -> (Attached, Detach) {
    let detached = Arc::new(AtomicBool::new(false));
    (Attached(Arc::clone(&detached)), Detach(detached))
}

#[derive(Debug)]
pub(super) struct DetachableBackend {
    inner: Box<dyn StorageBackend>,
    attached: Attached,
}

impl DetachableBackend {
    pub(super) fn new(inner: impl StorageBackend) -> (Self, Detach) {
        let (attached, detach) = pair();
        (Self { inner: Box::new(inner), attached }, detach)
    }
}

impl StorageBackend for DetachableBackend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.attached.check()?;
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.attached.check()?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.attached.check()?;
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.attached.check()?;
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
