//! A store whose commits are in the files of bootstrap checkpointing before anybody learns of them.

use std::sync::Arc;

use store_format::Identity;

use super::Bootstrap;
use crate::store::{Backend, Change, Committed, LockState, Size, SlotsKept, SlotsWanted, Snapshot, StoreError, Update};

/// Stands in front of a store.
pub struct Mirrored {
    store: Box<dyn Backend>,
    files: Arc<Bootstrap>,
}

impl Mirrored {
    /// Stands in front of `store`. What it holds already is brought to the files now.
    ///
    /// # Errors
    /// It can't be read.
    pub fn new(store: Box<dyn Backend>, files: Arc<Bootstrap>) -> Result<Self, StoreError> {
        files.sync(&store.snapshot()?);
        Ok(Self { store, files })
    }
}

impl Backend for Mirrored {
    fn identity(&self) -> &Identity {
        self.store.identity()
    }

    fn lock_state(&self) -> LockState {
        self.store.lock_state()
    }

    fn update(&mut self, changes: Vec<Change>, now_unix_ms: u64) -> Result<Committed<Update>, StoreError> {
        let said = Bootstrap::said(&changes);
        let update = self.store.update(changes, now_unix_ms)?;
        self.files.follow(&update, said);
        Ok(update)
    }

    fn keep_slots(&mut self, wanted: &SlotsWanted<'_>, now_unix_ms: u64) -> Result<Committed<SlotsKept>, StoreError> {
        self.store.keep_slots(wanted, now_unix_ms)
    }

    fn image(&self) -> Result<Vec<u8>, StoreError> {
        self.store.image()
    }

    fn file_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.store.file_bytes()
    }

    fn size(&self) -> Result<Option<Size>, StoreError> {
        self.store.size()
    }

    fn compact(&mut self) -> Result<(), StoreError> {
        self.store.compact()
    }

    fn snapshot(&self) -> Result<Committed<Snapshot>, StoreError> {
        self.store.snapshot()
    }
}
