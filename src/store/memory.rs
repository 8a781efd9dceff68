//! The in-memory backend: the same engine and the same records, forgotten with the process.
//!
//! It serves with the feature gate `Checkpointing` off, in tests, and as the model that redb is compared with.

use std::collections::BTreeMap;
use std::path::Path;

use store_format::{Identity, State, Table, encode_format, meta_key};

use super::backend::{Backend, Change, SlotsKept, SlotsWanted, Update};
use super::load::{self, Keys};
use super::record;
use super::tables::{Row, RowKey, Tables};
use super::{Committed, LockState, Revision, Snapshot, StoreError, engine};
use crate::crypto::Entropy;

/// A store that is gone when the process is.
pub struct MemoryStore {
    rows: Rows,
    identity: Identity,
    keys: Keys,
    entropy: Box<dyn Entropy>,
}

/// Rows in memory.
#[derive(Clone, Default)]
pub(super) struct Rows(BTreeMap<(&'static str, Vec<String>), Vec<u8>>);

impl MemoryStore {
    /// An empty, keyless store.
    ///
    /// # Errors
    /// A name in `identity` is longer than the format allows.
    pub fn new(identity: Identity, entropy: Box<dyn Entropy>) -> Result<Self, StoreError> {
        let mut rows = Rows::default();
        for (key, payload) in first_records(&identity)? {
            rows.insert(RowKey::Meta(key), record::frame(RowKey::Meta(key), &payload, None));
        }
        Ok(Self { rows, identity, keys: Keys::default(), entropy })
    }
}

/// The records that every store begins with.
pub(super) fn first_records(identity: &Identity) -> Result<[(&'static str, Vec<u8>); 3], StoreError> {
    let state = State::new(identity.created_at_unix_ms);
    Ok([
        (meta_key::FORMAT, encode_format().to_vec()),
        (meta_key::IDENTITY, identity.encode()?),
        (meta_key::STATE, state.encode()?),
    ])
}

impl Rows {
    fn insert(&mut self, key: RowKey<'_>, bytes: Vec<u8>) {
        self.0.insert(place(key), bytes);
    }

    fn log_keys(&self) -> impl DoubleEndedIterator<Item = &String> {
        let rows = self.0.iter().filter(|((name, _), _)| *name == Table::Log.name());
        rows.filter_map(|((_, key), _)| key.first())
    }

    fn list(&self, table: Table, wanted: impl Fn(&[String]) -> bool) -> Vec<Row> {
        let rows = self.0.iter().filter(|((name, key), _)| *name == table.name() && wanted(key));
        rows.map(|((_, key), bytes)| Row { table, key: key.clone(), bytes: bytes.clone() }).collect()
    }
}

fn place(key: RowKey<'_>) -> (&'static str, Vec<String>) {
    (key.table().name(), key.parts().into_iter().map(str::to_owned).collect())
}

impl Tables for Rows {
    fn look(&self, key: RowKey<'_>, see: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        let found = self.0.get(&place(key));
        if let Some(bytes) = found {
            see(bytes);
        }
        Ok(found.is_some())
    }

    fn put(&mut self, key: RowKey<'_>, bytes: &[u8]) -> Result<(), StoreError> {
        self.insert(key, bytes.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: RowKey<'_>) -> Result<(), StoreError> {
        self.0.remove(&place(key));
        Ok(())
    }

    fn objects(&self, kind: &str, namespace: Option<&str>) -> Result<Vec<Row>, StoreError> {
        Ok(self.list(Table::Objects, |key| key[0] == kind && namespace.is_none_or(|namespace| key[1] == namespace)))
    }

    fn rows(&self, table: Table) -> Result<Vec<Row>, StoreError> {
        Ok(self.list(table, |_| true))
    }

    fn log_len(&self) -> Result<u64, StoreError> {
        Ok(self.log_keys().count() as u64)
    }

    fn log_last(&self) -> Result<Option<String>, StoreError> {
        Ok(self.log_keys().next_back().cloned())
    }

    fn log_first(&self, count: usize) -> Result<Vec<String>, StoreError> {
        Ok(self.log_keys().take(count).cloned().collect())
    }
}

impl engine::Ground for Rows {
    fn rows(&self) -> Result<Vec<Row>, StoreError> {
        Ok([Table::Meta, Table::Slots].into_iter().flat_map(|table| self.list(table, |_| true)).collect())
    }

    fn commit(
        &mut self,
        change: &mut dyn FnMut(&mut dyn Tables) -> Result<Revision, StoreError>,
    ) -> Result<Revision, StoreError> {
        let mut rows = self.clone();
        let revision = change(&mut rows)?;
        *self = rows;
        Ok(revision)
    }
}

impl Backend for MemoryStore {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn lock_state(&self) -> LockState {
        if self.keys.vault.is_some() { LockState::Open } else { LockState::Keyless }
    }

    fn update(&mut self, changes: Vec<Change>, now_unix_ms: u64) -> Result<Committed<Update>, StoreError> {
        let mut rows = self.rows.clone();
        let context = engine::Context {
            vault: self.keys.vault.as_deref(),
            lock: self.lock_state(),
            entropy: &*self.entropy,
            now_unix_ms,
        };
        let (update, identity) = engine::apply(&mut rows, &context, changes)?;
        self.rows = rows;
        if let Some(identity) = identity {
            self.identity = identity;
        }
        Ok(Committed::new(update))
    }

    fn keep_slots(&mut self, wanted: &SlotsWanted<'_>, now_unix_ms: u64) -> Result<Committed<SlotsKept>, StoreError> {
        let store_id = self.identity.store_id;
        let kept = engine::keep_slots(&mut self.rows, &mut self.keys, store_id, wanted, now_unix_ms, &*self.entropy)?;
        Ok(Committed::new(kept))
    }

    fn image(&self) -> Result<Vec<u8>, StoreError> {
        Err(StoreError::NoFile)
    }

    fn snapshot(&self) -> Result<Committed<Snapshot>, StoreError> {
        let rows: Vec<Row> =
            super::tables::TABLES.into_iter().flat_map(|table| self.rows.list(table, |_| true)).collect();
        let unlocked = load::unlock(Path::new("memory"), &rows, &[])?.with(&self.keys);
        Ok(Committed::new(load::snapshot(rows, unlocked, Vec::new(), load::CheckLog::WhenRead)))
    }
}
