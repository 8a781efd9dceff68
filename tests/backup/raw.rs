//! What lies in a store's tables, read with redb and nothing else: neither checked nor opened.

use std::collections::BTreeMap;
use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(crate) const SLOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("slots");
pub(crate) const OBJECTS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("objects");
pub(crate) const PODS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("pods");
pub(crate) const LOG: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("log");

/// Each record by table and key.
pub(crate) type Raw = BTreeMap<String, Vec<u8>>;

/// Every record of a store that nobody has open. It is read from a copy, since redb writes to what it opens.
pub(crate) fn raw(path: &Path) -> Raw {
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    std::fs::copy(path, &copy).unwrap();
    let db = Database::open(&copy).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let txn = db.begin_read().unwrap();
    let mut all = Raw::new();
    for (name, definition) in [("meta", META), ("slots", SLOTS), ("log", LOG)] {
        let Ok(table) = txn.open_table(definition) else { continue };
        for entry in table.iter().unwrap() {
            let (key, value) = entry.unwrap();
            all.insert(format!("{name} {}", key.value()), value.value().to_vec());
        }
    }
    if let Ok(table) = txn.open_table(OBJECTS) {
        for entry in table.iter().unwrap() {
            let (key, value) = entry.unwrap();
            all.insert(format!("objects {:?}", key.value()), value.value().to_vec());
        }
    }
    if let Ok(table) = txn.open_table(PODS) {
        for entry in table.iter().unwrap() {
            let (key, value) = entry.unwrap();
            all.insert(format!("pods {:?}", key.value()), value.value().to_vec());
        }
    }
    all
}

/// Changes a store as somebody would who has its file.
pub(crate) fn tamper(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

/// Flips a bit of one object's record.
pub(crate) fn damage(path: &Path, object: (&str, &str, &str)) {
    tamper(path, |txn| {
        let mut table = txn.open_table(OBJECTS).unwrap();
        let mut record = table.get(object).unwrap().unwrap().value().to_vec();
        *record.last_mut().unwrap() ^= 1;
        table.insert(object, record.as_slice()).unwrap();
    });
}
