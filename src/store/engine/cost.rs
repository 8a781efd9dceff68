//! Tests: what a batch looks at grows with the batch, and not with what is stored.

use std::cell::Cell;

use serde_json::{Value, json};
use store_format::{Identity, StoreId, Table};

use super::{Context, apply};
use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::crypto::SystemEntropy;
use crate::store::backend::{Change, Update};
use crate::store::memory::{Rows, first_records};
use crate::store::record;
use crate::store::tables::{Row, RowKey, Tables};
use crate::store::{LockState, StoreError};

/// Counts the rows that are listed: with each, one more record is read than was asked for by name.
#[derive(Default)]
struct Counting {
    rows: Rows,
    listed: Cell<usize>,
}

impl Counting {
    fn counted(&self, rows: Vec<Row>) -> Vec<Row> {
        self.listed.set(self.listed.get() + rows.len());
        rows
    }
}

impl Tables for Counting {
    fn look(&self, key: RowKey<'_>, see: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        self.rows.look(key, see)
    }

    fn put(&mut self, key: RowKey<'_>, bytes: &[u8]) -> Result<(), StoreError> {
        self.rows.put(key, bytes)
    }

    fn remove(&mut self, key: RowKey<'_>) -> Result<(), StoreError> {
        self.rows.remove(key)
    }

    fn objects(&self, kind: &str, namespace: Option<&str>) -> Result<Vec<Row>, StoreError> {
        Ok(self.counted(self.rows.objects(kind, namespace)?))
    }

    fn rows(&self, table: Table) -> Result<Vec<Row>, StoreError> {
        Ok(self.counted(Tables::rows(&self.rows, table)?))
    }

    fn log_len(&self) -> Result<u64, StoreError> {
        self.rows.log_len()
    }

    fn log_last(&self) -> Result<Option<String>, StoreError> {
        self.rows.log_last()
    }

    fn log_first(&self, count: usize) -> Result<Vec<String>, StoreError> {
        self.rows.log_first(count)
    }
}

fn object(kind: Kind, name: &str, version: u32, body: Value) -> Object {
    let key = ObjectKey::new(kind, "default", name).unwrap();
    Object { key, uid: format!("uid-{name}"), resource_version: version.to_string(), body: body.to_string().into() }
}

fn map(name: &str, version: u32) -> Object {
    object(Kind::ConfigMap, name, version, json!({"data": {"version": version.to_string()}}))
}

/// A pod that names these ConfigMaps, with a status.
fn pod(name: &str, version: u32, maps: &[&str], phase: &str) -> Object {
    let sources: Vec<Value> = maps.iter().map(|map| json!({"configMapRef": {"name": map, "optional": true}})).collect();
    let spec = json!({"containers": [{"name": "c", "image": "i", "envFrom": sources}]});
    object(Kind::Pod, name, version, json!({"spec": spec, "status": {"phase": phase}}))
}

/// A namespace of twenty pods, each with a ConfigMap of its own.
fn twenty() -> Counting {
    let mut tables = Counting::default();
    let identity = Identity {
        store_id: StoreId([7; 16]),
        created_at_unix_ms: 1,
        node_name: "edge-1".to_owned(),
        node_uid: String::new(),
        cluster_ca_sha256: Vec::new(),
        kubelet_version: String::new(),
    };
    for (key, payload) in first_records(&identity).unwrap() {
        let key = RowKey::Meta(key);
        tables.put(key, &record::frame(key, &payload, None)).unwrap();
    }
    let names: Vec<String> = (0..20).map(|n| format!("app-{n}")).collect();
    let all = names.iter().flat_map(|name| [pod(name, 1, &[name], "Running"), map(name, 1)]);
    assert_eq!(update(&mut tables, all.collect()).0.stored.len(), 40);
    tables
}

/// What a batch of these objects did, and how many rows it had listed.
fn update(tables: &mut Counting, objects: Vec<Object>) -> (Update, usize) {
    let changes = objects.into_iter().map(|object| Change::Apply { object, with: Vec::new() });
    changed(tables, changes.collect())
}

fn changed(tables: &mut Counting, changes: Vec<Change>) -> (Update, usize) {
    let context = Context { vault: None, lock: LockState::Keyless, entropy: &SystemEntropy, now_unix_ms: 2 };
    tables.listed.set(0);
    let (update, _) = apply(tables, &context, changes).unwrap();
    (update, tables.listed.get())
}

#[test]
fn new_versions_of_stored_objects_look_at_nothing_else() {
    let mut tables = twenty();
    let (done, listed) = update(&mut tables, vec![map("app-3", 2)]);
    assert_eq!((done.stored.len(), listed), (1, 0));
    let (done, listed) = update(&mut tables, vec![pod("app-3", 2, &["app-3"], "Failed"), map("app-4", 2)]);
    assert_eq!((done.stored.len(), done.unchanged, listed), (2, 0, 0));
    let (done, listed) = update(&mut tables, vec![pod("app-3", 2, &["app-3"], "Failed")]);
    assert_eq!((done.stored.len(), done.unchanged, listed), (0, 1, 0));
    // What the status told is on record all the same.
    let mut ended = String::new();
    let found = tables.look(RowKey::Pod("default", "app-3"), &mut |row| {
        let checked = record::check(Table::Pods, &["default", "app-3"], row, None).map_err(drop).unwrap();
        ended = store_format::PodRow::decode(checked.payload).unwrap().ended;
    });
    assert_eq!((found.unwrap(), ended.as_str()), (true, "Failed"));
}

#[test]
fn whatever_may_change_a_closure_looks_at_the_namespace() {
    let mut tables = twenty();
    let (done, listed) = update(&mut tables, vec![pod("app-3", 2, &["app-4"], "Running")]);
    assert!(listed > 20, "{listed}");
    assert_eq!(done.removed, [map("app-3", 1).key], "no pod names it any more");
    let (done, listed) = update(&mut tables, vec![pod("another", 1, &["app-3"], "Running"), map("app-3", 1)]);
    assert!(listed > 20, "{listed}");
    assert_eq!(done.stored.len(), 2);
    let mut anew = pod("app-5", 3, &["app-5"], "Running");
    anew.uid = "another".to_owned();
    assert!(update(&mut tables, vec![anew]).1 > 20);
    let absent = Change::Absent { key: map("new", 1).key, why: Absence::NotFound };
    assert!(changed(&mut tables, vec![absent]).1 > 20);
}
