//! What the fake server keeps: objects, one growing resourceVersion, and the journal that watches read.
//!
//! The journal is never shortened except by a rewind, or where a test says so: compaction only moves the floor below which
//! nobody may start. It is the one order of everything: changes, bookmarks and whatever a test puts into streams lie in it one
//! after the other.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ckpt_db::checkpoint::object::Kind;
use serde_json::{Map, Value, json};

/// Kind, namespace (empty for cluster-wide kinds) and name: the order in which etcd lists them.
pub(crate) type Key = (Kind, String, String);

/// Objects as they are at one resourceVersion, without `kind` and `apiVersion`.
pub(super) type Objects = BTreeMap<Key, Arc<Value>>;

/// One write.
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    /// After a deletion: none.
    pub(super) after: Option<Arc<Value>>,
}

/// One thing that watches come across.
pub(super) enum Entry {
    Change(Change),
    /// For every watch that allows bookmarks.
    Bookmark {
        version: u64,
    },
    /// A line that a test puts into the streams of these requests.
    Line {
        to: Vec<u64>,
        line: Vec<u8>,
    },
    /// These requests' streams end as when their time is up.
    End {
        of: Vec<u64>,
    },
}

/// Everything that watches come across, by its place since the start.
#[derive(Default)]
pub(super) struct Journal {
    forgotten: usize,
    entries: VecDeque<Entry>,
}

impl Journal {
    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    pub(super) fn get(&self, at: usize) -> Option<&Entry> {
        assert!(at >= self.forgotten, "a watch had not seen what the test says everybody has");
        self.entries.get(at - self.forgotten)
    }

    /// The place of the next entry.
    pub(super) fn len(&self) -> usize {
        self.forgotten + self.entries.len()
    }

    /// The place of the first that is so; the end if none is.
    fn position(&self, so: impl Fn(&Entry) -> bool) -> usize {
        self.entries.iter().position(so).map_or(self.len(), |at| self.forgotten + at)
    }

    pub(super) fn forget(&mut self) {
        self.forgotten = self.len();
        self.entries.clear();
    }
}

pub(super) struct Store {
    pub(super) objects: Objects,
    pub(super) journal: Journal,
    /// The resourceVersion of the latest write.
    pub(super) version: u64,
    /// The oldest resourceVersion from which a watch may start, and that a listing may ask for.
    pub(super) floor: u64,
    /// Counts restores; a stream of an earlier epoch carries nothing of this one.
    pub(super) epoch: u64,
    /// Objects ever made; restores don't take it back, so that no UID comes twice.
    born: u64,
}

impl Store {
    pub(super) fn new() -> Self {
        // Not 1: a test of lower versions needs some room below.
        Self { objects: Objects::new(), journal: Journal::default(), version: 1_000, floor: 1_000, epoch: 0, born: 0 }
    }

    /// Makes an object; a UID and a creationTimestamp that it has are kept, what is missing is added.
    pub(super) fn create(&mut self, key: Key, object: Value, now: &str) -> Arc<Value> {
        assert!(!self.objects.contains_key(&key), "{key:?} exists");
        self.born += 1;
        let uid = format!("00000000-0000-4000-8000-{:012x}", self.born);
        let object = completed(&key, object, &uid, now, now);
        self.write(key, Some(object)).expect("it was just written")
    }

    /// Puts another object in the place of one that exists; UID and creationTimestamp stay, as with an update.
    pub(super) fn replace(&mut self, key: Key, mut object: Value, now: &str) -> Arc<Value> {
        let before = self.objects.get(&key).unwrap_or_else(|| panic!("{key:?} does not exist"));
        let (uid, created) = (text(before, "uid"), text(before, "creationTimestamp"));
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.shift_remove("uid");
            metadata.shift_remove("creationTimestamp");
        }
        let object = completed(&key, object, &uid, &created, now);
        self.write(key, Some(object)).expect("it was just written")
    }

    pub(super) fn delete(&mut self, key: Key) {
        assert!(self.objects.contains_key(&key), "{key:?} does not exist");
        self.write(key, None);
    }

    fn write(&mut self, key: Key, object: Option<Value>) -> Option<Arc<Value>> {
        self.version += 1;
        let after = object.map(|mut object| {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            Arc::new(object)
        });
        let before = match &after {
            Some(after) => self.objects.insert(key.clone(), Arc::clone(after)),
            None => self.objects.remove(&key),
        };
        self.journal.push(Entry::Change(Change { version: self.version, key, before, after: after.clone() }));
        after
    }

    /// The objects as they were at `version`.
    pub(super) fn at(&self, version: u64) -> Cow<'_, Objects> {
        if version >= self.version {
            return Cow::Borrowed(&self.objects);
        }
        let mut objects = self.objects.clone();
        for change in self.changes().rev().take_while(|change| change.version > version) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Cow::Owned(objects)
    }

    fn changes(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.journal.entries.iter().filter_map(|entry| match entry {
            Entry::Change(change) => Some(change),
            Entry::Bookmark { .. } | Entry::Line { .. } | Entry::End { .. } => None,
        })
    }

    /// Where in the journal a watch starts that has seen everything up to `version`. Bookmarks and lines of the past are
    /// for the watches of the past: those lie before the returned changes, or are left out by their number.
    pub(super) fn position_after(&self, version: u64) -> usize {
        let newer = |entry: &Entry| matches!(entry, Entry::Change(change) if change.version > version);
        self.journal.position(newer)
    }

    /// Nobody may start below the present version any more.
    pub(super) fn compact(&mut self) {
        self.floor = self.version;
    }

    /// An etcd restored from a snapshot: state, version and history are those of `to`.
    pub(super) fn rewind(&mut self, to: u64) {
        assert!((1..=self.version).contains(&to), "there is no version {to}, only up to {}", self.version);
        self.objects = self.at(to).into_owned();
        self.journal.entries.retain(|entry| matches!(entry, Entry::Change(change) if change.version <= to));
        self.version = to;
        self.floor = self.floor.min(to);
        self.epoch += 1;
    }

    /// An etcd made anew from the same objects: they keep their UIDs, and their resourceVersions, written in the old
    /// order, end at `to`. There is no history.
    pub(super) fn renumber(&mut self, to: u64) {
        let count = self.objects.len() as u64;
        assert!(to > count, "{count} objects don't fit below version {to}");
        let mut order: Vec<(u64, Key)> =
            self.objects.iter().map(|(key, object)| (version_of(object), key.clone())).collect();
        order.sort();
        for (version, (_, key)) in (to - count + 1..).zip(order) {
            let object = self.objects.get_mut(&key).expect("listed above");
            Arc::make_mut(object)["metadata"]["resourceVersion"] = json!(version.to_string());
        }
        self.journal.entries.clear();
        self.version = to;
        self.floor = to;
        self.epoch += 1;
    }
}

/// The object with everything that the server adds, and without what only the wire shows.
fn completed(key: &Key, mut object: Value, uid: &str, created: &str, now: &str) -> Value {
    let (kind, namespace, name) = key;
    let root = object.as_object_mut().unwrap_or_else(|| panic!("{key:?} is not a JSON object"));
    root.shift_remove("kind");
    root.shift_remove("apiVersion");
    let mut metadata = Map::new();
    metadata.insert("name".into(), json!(name));
    if kind.row().namespaced {
        metadata.insert("namespace".into(), json!(namespace));
    }
    metadata.insert("uid".into(), json!(uid));
    metadata.insert("resourceVersion".into(), Value::Null); // its place; `write` gives the value
    metadata.insert("creationTimestamp".into(), json!(created));
    if let Some(Value::Object(given)) = root.shift_remove("metadata") {
        metadata.extend(given.into_iter().filter(|(field, _)| field != "managedFields"));
    }
    metadata.insert(
        "managedFields".into(),
        json!([{
            "manager": "fake", "operation": "Update", "apiVersion": "v1", "time": now,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {}}},
        }]),
    );
    root.shift_insert(0, "metadata".into(), Value::Object(metadata));
    object
}

fn text(object: &Value, field: &str) -> String {
    object["metadata"][field].as_str().expect("every stored object has it").to_owned()
}

fn version_of(object: &Value) -> u64 {
    text(object, "resourceVersion").parse().expect("only `write` and `renumber` set it")
}
