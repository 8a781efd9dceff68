//! A file backend that can be cut off from its file before redb closes.
//!
//! Every commit here is durable and carries its allocator state, so that a close has nothing to add. What it would do is
//! write one more commit over the older of the two that the file holds, with the same root page as the newest one: a single
//! bad byte in that page would then cost the whole store. Cut off, the file keeps its last two commits with roots of their
//! own, and a close writes and syncs nothing.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

#[derive(Debug)]
pub(super) struct DetachableBackend {
    inner: FileBackend,
    detached: Arc<AtomicBool>,
}

/// Cuts the backend off. Reads and unlocking go on working, so that redb can close in order.
#[derive(Debug)]
pub(super) struct Detach(Arc<AtomicBool>);

impl Detach {
    pub(super) fn now(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl DetachableBackend {
    pub(super) fn new(inner: FileBackend) -> (Self, Detach) {
        let detached = Arc::new(AtomicBool::new(false));
        (Self { inner, detached: Arc::clone(&detached) }, Detach(detached))
    }

    fn attached(&self) -> io::Result<()> {
        if self.detached.load(Ordering::Acquire) { Err(io::Error::other("the store is closing")) } else { Ok(()) }
    }
}

impl StorageBackend for DetachableBackend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.attached()?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.attached()?;
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.attached()?;
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
