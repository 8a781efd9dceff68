//! Images of stores to play with: a sound one, always the same, and ones that hold given rows.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::crypto::{CryptoError, Entropy, sha256};
use ckpt_db::store::{Backend as _, Change, Missing, NewStore, RedbStore};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use store_format::{Frame, Identity, StoreId, SymmetricSecret, Table, Unlocker, digest_input};

const NOW_UNIX_MS: u64 = 1_700_000_000_000;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SLOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("slots");
const OBJECTS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("objects");
const PODS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("pods");
const LOG: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("log");

/// A row as it lies in the file.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where.
    pub table: Table,
    /// One part, two for pods, three for objects.
    pub key: Vec<String>,
    /// The value with its frame.
    pub bytes: Vec<u8>,
}

impl Row {
    /// With a frame whose digest is right, and no tag.
    pub fn framed(table: Table, key: Vec<String>, payload: &[u8]) -> Self {
        let parts: Vec<&str> = key.iter().map(String::as_str).collect();
        let digest = sha256(&digest_input(table, &parts, payload));
        let bytes = Frame { digest, tag: None, payload }.encode();
        Self { table, key, bytes }
    }
}

/// A sound store.
pub struct Sound {
    /// The file.
    pub image: Vec<u8>,
    /// What is in it.
    pub objects: Vec<Object>,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// The only unlocker that ever opened the sound store. A test key.
pub fn unlocker() -> Unlocker {
    Unlocker::KeyFile(SymmetricSecret::of_file(&[b'T'; 32]).unwrap())
}

/// A store with three pods and what they name, and a slot; with a data key, so that its Secrets are sealed.
pub fn sound() -> &'static Sound {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| make(Some(&unlocker())))
}

/// The same without a data key: no Secret is in it, and no record has a tag.
pub fn keyless() -> &'static Sound {
    static KEYLESS: OnceLock<Sound> = OnceLock::new();
    KEYLESS.get_or_init(|| make(None))
}

/// An image that holds exactly these rows; the later of two with one key wins.
pub fn of(rows: &[Row]) -> Vec<u8> {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let db = redb::Database::builder().create_with_backend(Memory(Arc::clone(&bytes))).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let mut meta = txn.open_table(META).unwrap();
        let mut slots = txn.open_table(SLOTS).unwrap();
        let mut objects = txn.open_table(OBJECTS).unwrap();
        let mut pods = txn.open_table(PODS).unwrap();
        let mut log = txn.open_table(LOG).unwrap();
        for row in rows {
            let (key, value) = (row.key.as_slice(), row.bytes.as_slice());
            match (row.table, key) {
                (Table::Meta, [key]) => drop(meta.insert(key.as_str(), value).unwrap()),
                (Table::Slots, [key]) => drop(slots.insert(key.as_str(), value).unwrap()),
                (Table::Log, [key]) => drop(log.insert(key.as_str(), value).unwrap()),
                (Table::Pods, [a, b]) => drop(pods.insert((a.as_str(), b.as_str()), value).unwrap()),
                (Table::Objects, [a, b, c]) => {
                    drop(objects.insert((a.as_str(), b.as_str(), c.as_str()), value).unwrap());
                }
                (table, key) => panic!("no key of table {}: {key:?}", table.name()),
            }
        }
    }
    txn.commit().unwrap();
    drop(db);
    std::mem::take(&mut bytes.lock().unwrap())
}

fn make(unlocker: Option<&Unlocker>) -> Sound {
    let directory = scratch();
    let path = directory.path().join("checkpoint-store.db");
    let identity = Identity {
        store_id: StoreId([7; 16]),
        created_at_unix_ms: NOW_UNIX_MS,
        node_name: "edge-1".to_owned(),
        node_uid: "node".to_owned(),
        cluster_ca_sha256: vec![[9; 32]],
        kubelet_version: "v1.37.0".to_owned(),
    };
    let new = NewStore { identity, secret: unlocker };
    let mut store = RedbStore::create(&path, new, Box::new(Counting::default())).unwrap();
    let objects = objects(unlocker.is_some());
    let pods = objects.iter().filter(|object| object.key.kind() == Kind::Pod);
    let decided: Vec<Change> = pods
        .map(|pod| Change::Decided {
            pod: PodName { namespace: pod.key.namespace().to_owned(), name: pod.key.name().to_owned() },
            uid: pod.uid.clone(),
            lifecycle: store_format::Lifecycle::Active,
            republished: 1,
            why: "the API server is silent".to_owned(),
        })
        .collect();
    let kinds = Kind::ALL.to_vec();
    let listing = Change::Reset { objects: objects.clone(), kinds, missing: Missing::Delete };
    let _ = store.update(vec![listing], NOW_UNIX_MS).unwrap();
    let _ = store.update(decided, NOW_UNIX_MS + 1).unwrap();
    let image = store.image().unwrap();
    drop(store);
    let rows = rows(&image);
    Sound { image, objects, rows }
}

fn objects(with_secrets: bool) -> Vec<Object> {
    let mut all = vec![object(Kind::Node, "", "edge-1", serde_json::json!({"metadata": {"name": "edge-1"}}))];
    for n in 0..3 {
        all.push(object(Kind::Pod, "shop", &format!("p{n}"), serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{n}"), "namespace": "shop", "uid": format!("uid-{n}")},
            "spec": {
                "nodeName": "edge-1",
                "containers": [{"name": "c", "image": "registry.example/app:1", "volumeMounts": [{"name": "s", "mountPath": "/s"}]}],
                "volumes": [
                    {"name": "s", "secret": {"secretName": format!("s{n}"), "optional": true}},
                    {"name": "c", "configMap": {"name": format!("c{n}")}},
                ],
            },
            "status": {"phase": "Running"},
        })));
        if with_secrets {
            let value = data_encoding::BASE64.encode(format!("secret value {n}").repeat(20 * n + 1).as_bytes());
            all.push(object(
                Kind::Secret,
                "shop",
                &format!("s{n}"),
                serde_json::json!({
                    "metadata": {"name": format!("s{n}"), "namespace": "shop"}, "data": {"token": value},
                }),
            ));
        }
        all.push(object(
            Kind::ConfigMap,
            "shop",
            &format!("c{n}"),
            serde_json::json!({
                "metadata": {"name": format!("c{n}"), "namespace": "shop"}, "data": {"config": format!("config {n}")},
            }),
        ));
    }
    all
}

fn object(kind: Kind, namespace: &str, name: &str, body: serde_json::Value) -> Object {
    let key = ObjectKey::new(kind, namespace, name).unwrap();
    let uid = body["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    Object { key, uid, resource_version: "1".to_owned(), body: body.to_string().into() }
}

/// Every row of a sound image.
fn rows(image: &[u8]) -> Vec<Row> {
    let bytes = Arc::new(Mutex::new(image.to_vec()));
    let db = redb::Database::builder().create_with_backend(Memory(bytes)).unwrap();
    let txn = db.begin_read().unwrap();
    let mut rows = Vec::new();
    for (table, definition) in [(Table::Meta, META), (Table::Slots, SLOTS), (Table::Log, LOG)] {
        // A store without a key has no table of slots.
        let Ok(opened) = txn.open_table(definition) else { continue };
        for entry in opened.iter().unwrap() {
            let (key, value) = entry.unwrap();
            rows.push(Row { table, key: vec![key.value().to_owned()], bytes: value.value().to_vec() });
        }
    }
    for entry in txn.open_table(PODS).unwrap().iter().unwrap() {
        let (key, value) = entry.unwrap();
        let (a, b) = key.value();
        rows.push(Row { table: Table::Pods, key: vec![a.to_owned(), b.to_owned()], bytes: value.value().to_vec() });
    }
    for entry in txn.open_table(OBJECTS).unwrap().iter().unwrap() {
        let (key, value) = entry.unwrap();
        let (a, b, c) = key.value();
        let key = vec![a.to_owned(), b.to_owned(), c.to_owned()];
        rows.push(Row { table: Table::Objects, key, bytes: value.value().to_vec() });
    }
    rows
}

/// A directory for a moment, in memory where there is a tmpfs at hand.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Octets that are never the same twice and yet the same in every run. For tests only.
#[derive(Default)]
struct Counting(Mutex<u64>);

impl Entropy for Counting {
    fn fill(&self, octets: &mut [u8]) -> Result<(), CryptoError> {
        let mut count = self.0.lock().unwrap();
        for piece in octets.chunks_mut(32) {
            *count += 1;
            piece.copy_from_slice(&sha256(&count.to_le_bytes())[..piece.len()]);
        }
        Ok(())
    }
}

/// A file that is a vector.
#[derive(Debug)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl redb::StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().unwrap()[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}
