//! The tables in redb: what one write transaction does to them, and how they are read as a whole.
//!
//! A transaction opens a table when it first asks for it and keeps it open: opening one costs as much as reading a row.

use std::cell::OnceCell;

use redb::{
    Database, Durability, Key, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition,
    WriteTransaction,
};
use store_format::Table;

use super::StoreError;
use super::guard::{Closing, guard};
use super::tables::{Row, RowKey, TABLES, Tables};

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const SLOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("slots");
pub(super) const OBJECTS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("objects");
pub(super) const PODS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("pods");
pub(super) const LOG: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("log");

pub(super) enum Outcome {
    Commit,
    Abort,
}

/// Runs `change` in one write transaction and commits it durably.
///
/// If `change` fails its writes are dropped with the transaction. A panic inside leaves the outcome unknown.
pub(super) fn write<T>(
    db: &Database,
    change: impl FnOnce(&mut RedbTables<'_>) -> Result<(T, Outcome), StoreError>,
) -> Result<T, StoreError> {
    let attempt = guard(|| {
        let mut txn = db.begin_write().map_err(|error| StoreError::refused("begin a transaction")(error.into()))?;
        // Stated, not inherited: the answer is only as good as these lines. Two phases, because pod contents are foreign
        // input and redb's one-phase commit relies on a checksum that is not cryptographic. Quick repair, because a file
        // that was not closed cleanly then opens without trusting every page, so that one bad page costs its records only.
        txn.set_durability(Durability::Immediate)
            .map_err(|error| StoreError::refused("set durability")(error.into()))?;
        txn.set_two_phase_commit(true);
        txn.set_quick_repair(true);
        // The tables are closed before the transaction ends.
        let (value, outcome) = change(&mut RedbTables::new(&txn))?;
        match outcome {
            Outcome::Abort => txn.abort().map_err(|error| StoreError::refused("end a transaction")(error.into()))?,
            Outcome::Commit => {
                txn.commit().map_err(|error| StoreError::OutcomeUnknown { source: Box::new(error.into()) })?;
            }
        }
        Ok(value)
    });
    attempt.unwrap_or_else(|_| {
        let source = redb::StorageError::Corrupted("the database code panicked".to_owned());
        Err(StoreError::OutcomeUnknown { source: Box::new(source.into()) })
    })
}

/// The tables of one write transaction.
pub(super) struct RedbTables<'txn> {
    meta: Opened<'txn, &'static str>,
    slots: Opened<'txn, &'static str>,
    objects: Opened<'txn, (&'static str, &'static str, &'static str)>,
    pods: Opened<'txn, (&'static str, &'static str)>,
    log: Opened<'txn, &'static str>,
    wrote: bool,
}

impl<'txn> RedbTables<'txn> {
    fn new(txn: &'txn WriteTransaction) -> Self {
        Self {
            meta: Opened::new(txn, META),
            slots: Opened::new(txn, SLOTS),
            objects: Opened::new(txn, OBJECTS),
            pods: Opened::new(txn, PODS),
            log: Opened::new(txn, LOG),
            wrote: false,
        }
    }

    /// Whether anything was written or removed.
    pub(super) fn wrote(&self) -> bool {
        self.wrote
    }
}

type Bytes = &'static [u8];

/// A table that is opened when it is first asked for, and closed with its transaction.
struct Opened<'txn, K: Key + 'static> {
    txn: &'txn WriteTransaction,
    definition: TableDefinition<'static, K, Bytes>,
    // A panic of redb leaves locks behind at which the closing of a further table would panic again.
    table: OnceCell<Closing<redb::Table<'txn, K, Bytes>>>,
}

impl<'txn, K: Key + 'static> Opened<'txn, K> {
    fn new(txn: &'txn WriteTransaction, definition: TableDefinition<'static, K, Bytes>) -> Self {
        Self { txn, definition, table: OnceCell::new() }
    }

    fn get(&self) -> Result<&redb::Table<'txn, K, Bytes>, redb::Error> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let table = Closing::new(self.txn.open_table(self.definition)?);
        Ok(self.table.get_or_init(|| table))
    }

    fn get_mut(&mut self) -> Result<&mut redb::Table<'txn, K, Bytes>, redb::Error> {
        self.get()?;
        Ok(self.table.get_mut().expect("it was opened a line above"))
    }

    fn look<'k>(&self, key: K::SelfType<'k>, see: &mut dyn FnMut(&[u8])) -> Result<bool, redb::Error> {
        let found = self.get()?.get(key)?;
        if let Some(value) = &found {
            see(value.value());
        }
        Ok(found.is_some())
    }

    fn put<'k>(&mut self, key: K::SelfType<'k>, bytes: &[u8]) -> Result<(), redb::Error> {
        self.get_mut()?.insert(key, bytes)?;
        Ok(())
    }

    fn remove<'k>(&mut self, key: K::SelfType<'k>) -> Result<(), redb::Error> {
        self.get_mut()?.remove(key)?;
        Ok(())
    }
}

impl Tables for RedbTables<'_> {
    fn look(&self, key: RowKey<'_>, see: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        match key {
            RowKey::Meta(key) => self.meta.look(key, see),
            RowKey::Slot(key) => self.slots.look(key, see),
            RowKey::Object(kind, namespace, name) => self.objects.look((kind, namespace, name), see),
            RowKey::Pod(namespace, name) => self.pods.look((namespace, name), see),
            RowKey::Log(key) => self.log.look(key, see),
        }
        .map_err(StoreError::refused("read"))
    }

    fn put(&mut self, key: RowKey<'_>, bytes: &[u8]) -> Result<(), StoreError> {
        self.wrote = true;
        match key {
            RowKey::Meta(key) => self.meta.put(key, bytes),
            RowKey::Slot(key) => self.slots.put(key, bytes),
            RowKey::Object(kind, namespace, name) => self.objects.put((kind, namespace, name), bytes),
            RowKey::Pod(namespace, name) => self.pods.put((namespace, name), bytes),
            RowKey::Log(key) => self.log.put(key, bytes),
        }
        .map_err(StoreError::refused("write"))
    }

    fn remove(&mut self, key: RowKey<'_>) -> Result<(), StoreError> {
        self.wrote = true;
        match key {
            RowKey::Meta(key) => self.meta.remove(key),
            RowKey::Slot(key) => self.slots.remove(key),
            RowKey::Object(kind, namespace, name) => self.objects.remove((kind, namespace, name)),
            RowKey::Pod(namespace, name) => self.pods.remove((namespace, name)),
            RowKey::Log(key) => self.log.remove(key),
        }
        .map_err(StoreError::refused("remove"))
    }

    fn objects(&self, kind: &str, namespace: Option<&str>) -> Result<Vec<Row>, StoreError> {
        let read = || -> Result<Vec<Row>, redb::Error> {
            let mut rows = Vec::new();
            for entry in self.objects.get()?.range((kind, namespace.unwrap_or(""), "")..)? {
                let (key, value) = entry?;
                let (found_kind, found_namespace, name) = key.value();
                if found_kind != kind || namespace.is_some_and(|namespace| namespace != found_namespace) {
                    break;
                }
                let key = vec![found_kind.to_owned(), found_namespace.to_owned(), name.to_owned()];
                rows.push(Row { table: Table::Objects, key, bytes: value.value().to_vec() });
            }
            Ok(rows)
        };
        read().map_err(StoreError::refused("list"))
    }

    fn rows(&self, table: Table) -> Result<Vec<Row>, StoreError> {
        let read = || -> Result<Vec<Row>, redb::Error> {
            let mut rows = Vec::new();
            let mut take = |key: Vec<String>, bytes: &[u8]| rows.push(Row { table, key, bytes: bytes.to_vec() });
            match table {
                Table::Meta => each(self.meta.get()?, part, &mut take)?,
                Table::Slots => each(self.slots.get()?, part, &mut take)?,
                Table::Objects => each(self.objects.get()?, object_parts, &mut take)?,
                Table::Pods => each(self.pods.get()?, pod_parts, &mut take)?,
                Table::Log => each(self.log.get()?, part, &mut take)?,
            }
            Ok(rows)
        };
        read().map_err(StoreError::refused("list"))
    }

    fn log_len(&self) -> Result<u64, StoreError> {
        let read = || -> Result<u64, redb::Error> { Ok(self.log.get()?.len()?) };
        read().map_err(StoreError::refused("list"))
    }

    fn log_last(&self) -> Result<Option<String>, StoreError> {
        let read = || -> Result<Option<String>, redb::Error> {
            Ok(self.log.get()?.last()?.map(|(key, _)| key.value().to_owned()))
        };
        read().map_err(StoreError::refused("list"))
    }

    fn log_first(&self, count: usize) -> Result<Vec<String>, StoreError> {
        let read = || -> Result<Vec<String>, redb::Error> {
            let first = self.log.get()?.iter()?.take(count);
            first.map(|entry| Ok(entry?.0.value().to_owned())).collect()
        };
        read().map_err(StoreError::refused("list"))
    }
}

fn part(key: &str) -> Vec<String> {
    vec![key.to_owned()]
}

pub(super) fn object_parts((kind, namespace, name): (&str, &str, &str)) -> Vec<String> {
    vec![kind.to_owned(), namespace.to_owned(), name.to_owned()]
}

pub(super) fn pod_parts((namespace, name): (&str, &str)) -> Vec<String> {
    vec![namespace.to_owned(), name.to_owned()]
}

fn each<K: Key + 'static>(
    table: &impl redb::ReadableTable<K, Bytes>,
    parts: impl for<'a> Fn(K::SelfType<'a>) -> Vec<String>,
    take: &mut dyn FnMut(Vec<String>, &[u8]),
) -> Result<(), redb::Error> {
    for entry in table.iter()? {
        let (key, value) = entry?;
        take(parts(key.value()), value.value());
    }
    Ok(())
}

/// Every row of a sound database.
pub(super) fn read_rows(db: &Database) -> Result<Vec<Row>, StoreError> {
    read_tables(db, &TABLES)
}

/// Every row of these tables.
pub(super) fn read_tables(db: &Database, tables: &[Table]) -> Result<Vec<Row>, StoreError> {
    let read = || -> Result<Vec<Row>, redb::Error> {
        // Held for this function only: a held read transaction makes the file grow.
        let txn = db.begin_read()?;
        let mut rows = Vec::new();
        for &table in tables {
            let mut take = |key: Vec<String>, bytes: &[u8]| rows.push(Row { table, key, bytes: bytes.to_vec() });
            let result = match table {
                Table::Meta => txn.open_table(META).map(|t| each(&t, part, &mut take)),
                Table::Slots => txn.open_table(SLOTS).map(|t| each(&t, part, &mut take)),
                Table::Objects => txn.open_table(OBJECTS).map(|t| each(&t, object_parts, &mut take)),
                Table::Pods => txn.open_table(PODS).map(|t| each(&t, pod_parts, &mut take)),
                Table::Log => txn.open_table(LOG).map(|t| each(&t, part, &mut take)),
            };
            match result {
                Ok(read) => read?,
                // A table exists from its first row on.
                Err(redb::TableError::TableDoesNotExist(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(rows)
    };
    read().map_err(StoreError::refused("read"))
}
