//! What somebody without the data key can do to the file, and what is noticed of it: by a reader with the key, and so by
//! `ckpt-db verify`. And what is not, said as plainly.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::crypto::{SystemEntropy, generate_p256_pkcs8, sha256};
use ckpt_db::store::{
    Backend as _, Change, LockState, Missing, NewStore, RedbStore, SlotsWanted, Snapshot, fingerprint, open_offline,
    rotate,
};
use common::program::{KEY, MANIFESTS, Node, STORE};
use redb::{ReadableDatabase as _, TableDefinition};
use store_format::{
    Frame, Identity, KeySlot, NodeSecret, SlotKind, StoreId, SymmetricSecret, Table, Unlocker, digest_input, meta_key,
    slot_key,
};

type Place = (&'static str, Vec<String>);

fn place(table: &'static str, key: &[&str]) -> Place {
    (table, key.iter().map(|part| (*part).to_owned()).collect())
}

fn get(path: &Path, (table, key): &Place) -> Vec<u8> {
    let db = redb::Database::open(path).unwrap();
    let txn = db.begin_read().unwrap();
    match key.as_slice() {
        [key] => one(&txn.open_table(TableDefinition::<&str, &[u8]>::new(table)).unwrap(), key.as_str()),
        [a, b] => {
            one(&txn.open_table(TableDefinition::<(&str, &str), &[u8]>::new(table)).unwrap(), (a.as_str(), b.as_str()))
        }
        [a, b, c] => {
            let table = txn.open_table(TableDefinition::<(&str, &str, &str), &[u8]>::new(table)).unwrap();
            one(&table, (a.as_str(), b.as_str(), c.as_str()))
        }
        _ => panic!("a key has one to three parts"),
    }
}

fn one<'a, K: redb::Key + 'static>(
    table: &impl redb::ReadableTable<K, &'static [u8]>,
    key: impl std::borrow::Borrow<K::SelfType<'a>>,
) -> Vec<u8> {
    table.get(key).unwrap().expect("the record is there").value().to_vec()
}

/// Changes the file behind the store's back; `None` removes.
fn put(path: &Path, (table, key): &Place, octets: Option<&[u8]>) {
    let db = redb::Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    macro_rules! change {
        ($kind:ty, $key:expr) => {{
            let mut table = txn.open_table(TableDefinition::<$kind, &[u8]>::new(table)).unwrap();
            match octets {
                Some(octets) => drop(table.insert($key, octets).unwrap()),
                None => drop(table.remove($key).unwrap().expect("there is something to remove")),
            }
        }};
    }
    match key.as_slice() {
        [key] => change!(&str, key.as_str()),
        [a, b] => change!((&str, &str), (a.as_str(), b.as_str())),
        [a, b, c] => change!((&str, &str, &str), (a.as_str(), b.as_str(), c.as_str())),
        _ => panic!("a key has one to three parts"),
    }
    txn.commit().unwrap();
}

/// The record as somebody without a key writes it: another payload, or another place, the digest right, the tag as it was.
fn made_right((table, key): &Place, frame: &[u8], payload: Option<&[u8]>, keep_tag: bool) -> Vec<u8> {
    let frame = Frame::decode(frame).unwrap();
    let table = Table::ALL.into_iter().find(|known| known.name() == *table).unwrap();
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    let payload = payload.unwrap_or(frame.payload);
    let digest = sha256(&digest_input(table, &key, payload));
    Frame { digest, tag: frame.tag.filter(|_| keep_tag), payload }.encode()
}

/// A store with a history: as it was, as it is, and others that its records may have been taken from.
struct Scene {
    directory: tempfile::TempDir,
    key: Unlocker,
    code: Unlocker,
    pem: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// One test at a time: a program that another one is about to start holds the locks of all open files for a moment.
static ALONE: Mutex<()> = Mutex::new(());

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let der = generate_p256_pkcs8().unwrap();
        let key = Unlocker::from(NodeSecret::from_pkcs8(der.expose()).unwrap());
        let pem = directory.path().join("key.pem");
        let body = data_encoding::BASE64.encode(der.expose());
        fs::write(&pem, format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")).unwrap();
        let code = Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&[7; 20]));
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let scene = Self { directory, key, code, pem, _alone };
        // Another store of the same node, with the same objects and the same keys.
        for (name, id) in [("other.db", [2; 16]), ("store.db", [1; 16])] {
            let identity = Identity { store_id: StoreId(id), ..common::identity() };
            let mut store = common::store_of(identity, &scene.at(name), common::objects(2), &scene.key);
            let _ = store.keep_slots(&SlotsWanted { add: &[&scene.code], ..SlotsWanted::default() }, 1).unwrap();
        }
        fs::copy(scene.at("store.db"), scene.at("older.db")).unwrap();
        let mut store = scene.open();
        let pod = PodName { namespace: "default".to_owned(), name: "p0".to_owned() };
        let _ = store.update(vec![Change::Hold { pod, held: true }], 2).unwrap();
        let mut later = common::objects(2);
        for object in &mut later {
            object.resource_version = "later".to_owned();
        }
        let changes = later.into_iter().map(|object| Change::Apply { object, with: Vec::new() });
        let _ = store.update(changes.collect(), 3).unwrap();
        drop(store);
        fs::copy(scene.at("store.db"), scene.at("rotated.db")).unwrap();
        let _ = rotate(&scene.at("rotated.db"), &[&scene.key], 4, &SystemEntropy).unwrap();
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn open(&self) -> RedbStore {
        RedbStore::open(&self.at("store.db"), &[&self.key], Box::new(SystemEntropy)).unwrap()
    }

    /// A copy of a store that can be tampered with.
    fn victim(&self, of: &str) -> PathBuf {
        fs::copy(self.at(of), self.at("victim.db")).unwrap();
        self.at("victim.db")
    }

    fn slot(&self, path: &Path, unlocker: &Unlocker) -> [Place; 2] {
        let store = open_offline(path, &[]).unwrap().into_inner();
        let key = slot_key(&store.identity().unwrap().store_id, &fingerprint(unlocker).unwrap());
        [place("slots", &[&key]), place("meta", &[&meta_key::slot_mirror(&key)])]
    }
}

/// `CODE place` of each finding, as `verify` prints them, and whether the store opened. Reader and program must agree.
fn findings(path: &Path, scene: &Scene) -> (LockState, Vec<String>) {
    let snapshot = open_offline(path, &[&scene.key]).unwrap().into_inner();
    let mut found: Vec<String> =
        snapshot.findings().iter().map(|finding| format!("{}: {finding}", finding.code())).collect();
    let mut verify = Command::new(env!("CARGO_BIN_EXE_ckpt-db"));
    verify.args(["verify", "--store"]).arg(path).arg("--node-key").arg(&scene.pem);
    let ran = verify.output().unwrap();
    let out = String::from_utf8(ran.stdout).unwrap();
    let said: Vec<&str> = out.lines().take(found.len()).collect();
    assert_eq!(said, found, "{out}");
    assert_eq!(ran.status.code(), Some(i32::from(!found.is_empty())), "{out}");
    found.sort();
    (snapshot.lock_state(), found.iter().map(|line| line.split(':').next().unwrap().to_owned()).collect())
}

fn readable(snapshot: &Snapshot, kind: Kind, namespace: &str, name: &str) -> bool {
    matches!(snapshot.get(&ObjectKey::new(kind, namespace, name).unwrap()), Lookup::Found(_))
}

#[test]
fn what_is_done_to_a_record_is_found() {
    let scene = Scene::new();
    let original = scene.at("store.db");
    assert_eq!(findings(&scene.victim("store.db"), &scene), (LockState::Open, vec![]));
    assert_eq!(findings(&scene.victim("rotated.db"), &scene), (LockState::Open, vec![]));
    let [slot, mirror] = scene.slot(&original, &scene.code);
    let log = open_offline(&original, &[&scene.key]).unwrap().get().log().next().unwrap().0;
    let log = |n: u64| place("log", &[&store_format::log_key(log.0 + n)]);
    let secret = |name: &str| place("objects", &["Secret", if name == "s0" { "default" } else { "shop" }, name]);
    let config = |name: &str| place("objects", &["ConfigMap", if name == "c0" { "default" } else { "shop" }, name]);
    let (state, identity, format) =
        (place("meta", &["state"]), place("meta", &["identity"]), place("meta", &["format"]));
    let row = |n: u8| if n == 0 { place("pods", &["default", "p0"]) } else { place("pods", &["shop", "p1"]) };

    // Each record, and one to take its place; then what is found. Where a second record is damaged as well, or one that
    // names this one speaks up, there are two.
    #[rustfmt::skip]
    let table: [(&Place, &Place, [&[&str]; 8]); 9] = [
        //                            a bit flipped,          cut to        another payload,       no tag                   another one here,       the same with a       of another store        of before the exchange
        //                            the digest not          ten octets    the digest right                                as it is                right digest                                  of the data key
        (&secret("s0"), &secret("s1"), [&["Digest"],          &["Malformed"], &["Tag"],            &["NoTag"],              &["OtherKey"],          &["Tag"],             &["Tag"],               &["Tag"]]),
        (&config("c0"), &config("c1"), [&["Digest"],          &["Malformed"], &["Tag"],            &["NoTag"],              &["OtherKey"],          &["Tag"],             &["Tag"],               &["Tag"]]),
        (&row(0),       &row(1),       [&["Digest"],          &["Malformed"], &["Tag"],            &["NoTag"],              &["Digest"],            &["Tag"],             &["Tag"],               &["Tag"]]),
        (&log(0),       &log(1),       [&["Digest"],          &["Malformed"], &["Tag"],            &["NoTag"],              &["Digest"],            &["Tag"],             &["Tag"],               &["Tag"]]),
        (&state,        &identity,     [&["Digest"],          &["Malformed"], &["Tag"],            &["NoTag"],              &["Digest"],            &["Tag"],             &["Tag"],               &["Tag"]]),
        (&identity,     &state,        [&["Digest"],          &["Malformed"], &["Tag"],            &["NoTag"],              &["Digest"],            &["Tag"],             &["Tag"],               &["Tag"]]),
        (&format,       &state,        [&["Digest"],          &["Malformed"], &["Tag"], &["NoTag"],            &["Digest"],            &["Malformed", "Tag"], &["Tag"],              &["Tag"]]),
        (&mirror,       &identity,        [&["Digest"],          &["Malformed"], &["Tag"],            &["NoTag"],              &["Digest"],            &["Malformed", "Tag"], &[],                   &[]]),
        (&slot,         &identity,        [&["Digest"],          &["Malformed"], &["Mirror"],         &[],                     &["Digest"],            &["Malformed", "Mirror"], &[],                    &[]]),
    ];
    for (target, donor, expected) in table {
        let genuine = get(&original, target);
        let payload = Frame::decode(&genuine).unwrap().payload.to_vec();
        let mut flipped = genuine.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut edited = payload.clone();
        // Another version of the format, but none that is newer: that one is refused by name.
        *(if target.1 == ["format"] { edited.first_mut() } else { edited.last_mut() }).unwrap() ^= 1;
        let other = get(&original, donor);
        let from = |name: &str| {
            // A slot's key names its store, and the exchange left the code's slot out: these have no such record.
            let there = !target.1[0].contains('.');
            there.then(|| get(&scene.at(name), target))
        };
        let versions = [
            Some(flipped),
            Some(genuine[..10].to_vec()),
            Some(made_right(target, &genuine, Some(&edited), true)),
            Some(made_right(target, &genuine, None, false)),
            Some(other.clone()),
            Some(made_right(target, &other, None, true)),
            from("other.db"),
            from("rotated.db"),
        ];
        for (number, (version, expected)) in versions.into_iter().zip(expected).enumerate() {
            let Some(version) = version else { continue };
            let path = scene.victim("store.db");
            put(&path, target, Some(&version));
            let what = format!("{}/{}, column {number}", target.0, target.1.join("/"));
            assert_eq!(
                findings(&path, &scene),
                (LockState::Open, expected.iter().map(|code| (*code).to_owned()).collect()),
                "{what}"
            );
            let snapshot = open_offline(&path, &[&scene.key]).unwrap().into_inner();
            for (kind, namespace, name) in [
                (Kind::Secret, "default", "s0"),
                (Kind::Secret, "shop", "s1"),
                (Kind::ConfigMap, "default", "c0"),
                (Kind::ConfigMap, "shop", "c1"),
            ] {
                let hit = target.0 == "objects" && target.1 == [kind.row().name, namespace, name];
                assert_eq!(readable(&snapshot, kind, namespace, name), !hit, "{what}: {kind:?} {name}");
            }
        }
    }
}

#[test]
fn what_is_removed_swapped_or_put_back_is_found_as_far_as_it_can_be() {
    let scene = Scene::new();
    let [slot, mirror] = scene.slot(&scene.at("store.db"), &scene.code);
    let older = |target: &Place| get(&scene.at("older.db"), target);
    let (s0, c0, p0) = (["Secret", "default", "s0"], ["ConfigMap", "default", "c0"], ["Pod", "default", "p0"]);
    let [s0, c0, p0] = [s0, c0, p0].map(|key| place("objects", &key));
    let (c1, row) = (place("objects", &["ConfigMap", "shop", "c1"]), place("pods", &["default", "p0"]));
    let node = place("objects", &["Node", "", "edge-1"]);
    let meta = |key: &str| place("meta", &[key]);
    #[rustfmt::skip]
    let removed: [(&Place, &[&str]); 9] = [
        (&s0,               &["Hidden", "Missing"]),
        (&c0,               &["Hidden", "Missing"]),
        (&p0,               &["Hidden", "Missing"]),
        (&node,             &["Hidden"]),
        (&row,              &["Missing"]),
        (&meta("state"),    &["Missing"]),
        (&meta("identity"), &["Missing"]),
        (&slot,             &["Missing"]),
        (&mirror,           &["Missing"]),
    ];
    for (target, expected) in removed {
        let path = scene.victim("store.db");
        put(&path, target, None);
        assert_eq!(findings(&path, &scene).1, expected, "{target:?} removed");
    }
    // An older version of a record in its own place, of the same data key, has a right tag: that is not found, but for the
    // state, which the log has overtaken. SPEC.md, section 15, says so.
    let put_back: [(&Place, &[&str]); 5] =
        [(&s0, &[]), (&c0, &[]), (&p0, &[]), (&row, &[]), (&meta("state"), &["Revision"])];
    for (target, expected) in put_back {
        let (path, version) = (scene.victim("store.db"), older(target));
        assert_ne!(version, get(&path, target), "{target:?} has changed since");
        put(&path, target, Some(&version));
        assert_eq!(findings(&path, &scene).1, expected, "{target:?} put back");
    }
    // Nor is a whole older file.
    assert_eq!(findings(&scene.victim("older.db"), &scene), (LockState::Open, vec![]));

    let path = scene.victim("store.db");
    let (one, other) = (get(&path, &c0), get(&path, &c1));
    put(&path, &c0, Some(&other));
    put(&path, &c1, Some(&one));
    assert_eq!(findings(&path, &scene).1, ["OtherKey", "OtherKey"], "two that were swapped");
    put(&path, &c0, Some(&made_right(&c0, &other, None, true)));
    put(&path, &c1, Some(&made_right(&c1, &one, None, true)));
    assert_eq!(findings(&path, &scene).1, ["Tag", "Tag"], "two that were swapped, with right digests");
}

#[test]
fn an_old_slot_does_not_bring_an_old_data_key_back() {
    let scene = Scene::new();
    let [slot, mirror] = scene.slot(&scene.at("store.db"), &scene.key);
    let old = |target: &Place| get(&scene.at("store.db"), target);
    let sealed = |path: &Path, keys: &[&Unlocker]| {
        let snapshot = open_offline(path, keys).unwrap().into_inner();
        (snapshot.lock_state(), readable(&snapshot, Kind::Secret, "default", "s0"))
    };

    // In the slot's place: the mirror still opens, and the data key is that of the records.
    let path = scene.victim("rotated.db");
    put(&path, &slot, Some(&old(&slot)));
    assert_eq!(findings(&path, &scene), (LockState::Open, vec!["OtherDataKey".to_owned()]));
    assert_eq!(sealed(&path, &[&scene.key]), (LockState::Open, true));
    // In both places: nothing opens, and least of all with the old key.
    put(&path, &mirror, Some(&old(&mirror)));
    let twice = vec!["OtherDataKey".to_owned(), "OtherDataKey".to_owned()];
    assert_eq!(findings(&path, &scene), (LockState::Locked, twice.clone()));
    assert_eq!(sealed(&path, &[&scene.key]), (LockState::Locked, false));
    // Neither where some old records come with it, as long as most are of the new key.
    for target in [place("meta", &["state"]), place("objects", &["Secret", "default", "s0"])] {
        put(&path, &target, Some(&old(&target)));
    }
    let with_state = [twice, vec!["Revision".to_owned()]].concat();
    assert_eq!(findings(&path, &scene), (LockState::Locked, with_state));
    assert_eq!(sealed(&path, &[&scene.key]), (LockState::Locked, false));

    // The slot of an unlocker that was not at hand when the key was exchanged is gone; put back it opens nothing.
    let [slot, mirror] = scene.slot(&scene.at("store.db"), &scene.code);
    let path = scene.victim("rotated.db");
    put(&path, &slot, Some(&old(&slot)));
    assert_eq!(findings(&path, &scene), (LockState::Open, vec!["Missing".to_owned()]), "it has no mirror");
    assert_eq!(sealed(&path, &[&scene.code]), (LockState::Locked, false));
    assert_eq!(sealed(&path, &[&scene.code, &scene.key]), (LockState::Open, true));
    put(&path, &mirror, Some(&old(&mirror)));
    assert_eq!(findings(&path, &scene), (LockState::Open, vec!["Tag".to_owned()]), "its mirror is of the old key");
    assert_eq!(sealed(&path, &[&scene.code]), (LockState::Locked, false));
}

#[test]
fn a_slot_that_was_changed_or_moved_is_named_and_opens_nothing() {
    let scene = Scene::new();
    let [slot, mirror] = scene.slot(&scene.at("store.db"), &scene.code);
    let alone = |path: &Path| open_offline(path, &[&scene.code]).unwrap().get().lock_state();

    // Said to be of another kind: the mirror still opens. Both: nothing does.
    let path = scene.victim("store.db");
    let genuine = KeySlot::decode(Frame::decode(&get(&path, &slot)).unwrap().payload).unwrap();
    let payload = KeySlot { kind: SlotKind::KeyFile, ..genuine.clone() }.encode();
    put(&path, &slot, Some(&made_right(&slot, &get(&path, &slot), Some(&payload), true)));
    assert_eq!(findings(&path, &scene), (LockState::Open, vec!["Mirror".to_owned()]));
    assert_eq!(alone(&path), LockState::Open);
    put(&path, &mirror, Some(&made_right(&mirror, &get(&path, &mirror), Some(&payload), true)));
    assert_eq!(findings(&path, &scene), (LockState::Open, vec!["Tag".to_owned()]));
    assert_eq!(alone(&path), LockState::Locked);

    // Under the name of another key.
    let path = scene.victim("store.db");
    let [own, _] = scene.slot(&path, &scene.key);
    put(&path, &own, Some(&made_right(&own, &get(&path, &slot), None, true)));
    assert_eq!(findings(&path, &scene), (LockState::Open, vec!["Mirror".to_owned()]));

    // Of another store of the same node, for the same key: named, and what it opens is none of this store's.
    let path = scene.victim("store.db");
    let foreign = scene.slot(&scene.at("other.db"), &scene.key);
    for target in &foreign {
        put(&path, target, Some(&get(&scene.at("other.db"), target)));
    }
    let found = ["OtherStore", "OtherStore", "Tag"].map(str::to_owned).to_vec();
    assert_eq!(findings(&path, &scene), (LockState::Open, found));
    let snapshot = open_offline(&path, &[&scene.key]).unwrap().into_inner();
    assert!(readable(&snapshot, Kind::Secret, "default", "s0"));

    // One that was removed, put back with its mirror, under the same data key: that is not found, and it opens again. Only
    // the exchange of the data key takes it back (SPEC.md, section 8).
    let mut store = scene.open();
    let name = fingerprint(&scene.code).unwrap();
    let kept = store.keep_slots(&SlotsWanted { remove: &[name], ..SlotsWanted::default() }, 5).unwrap().into_inner();
    assert_eq!(kept.removed, [name]);
    drop(store);
    let path = scene.victim("store.db");
    assert_eq!(alone(&path), LockState::Locked);
    for target in [&slot, &mirror] {
        put(&path, target, Some(&get(&scene.at("older.db"), target)));
    }
    assert_eq!(findings(&path, &scene), (LockState::Open, vec![]));
    assert_eq!(alone(&path), LockState::Open);
}

/// The names of the manifests that a cold start renders, from a node where nothing is rendered.
fn rendered(node: &Node, options: &[&str]) -> BTreeSet<String> {
    node.remove_rendered();
    let _ = node.ran("run", &[&["--once"], options].concat());
    common::program::manifests(&node.at(MANIFESTS)).into_keys().collect()
}

#[test]
fn what_no_key_authenticates_is_not_rendered_where_that_is_asked_for() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const REQUIRED: &[&str] = &["--require-authentication"];
    let node = Node::with_example();
    let store = node.at(STORE);
    let all = rendered(&node, &[]);
    assert!(all.len() > 1, "{all:?}");
    assert_eq!(rendered(&node, REQUIRED), all, "open: every record has a tag");

    // A pod rewritten by somebody without the key, with a right digest and no tag: never, asked for or not.
    let genuine = fs::read(&store).unwrap();
    let victim = {
        let key = ckpt_db::keys::load(&node.at(KEY)).unwrap().secret.into();
        let snapshot = open_offline(&store, &[&key]).unwrap().into_inner();
        let pods = snapshot.objects().filter(|object| object.key.kind() == Kind::Pod);
        let mut names = pods.map(|object| (object.key.namespace().to_owned(), object.key.name().to_owned()));
        names.find(|(_, name)| all.iter().any(|file| file.contains(name.as_str()))).unwrap()
    };
    let target = place("objects", &["Pod", &victim.0, &victim.1]);
    put(&store, &target, Some(&made_right(&target, &get(&store, &target), None, false)));
    for options in [&[][..], REQUIRED] {
        let left = rendered(&node, options);
        assert!(left.len() == all.len() - 1 && left.is_subset(&all), "tampered, {options:?}: {left:?}");
    }

    // Locked: with another key. Records cannot be told from such that somebody wrote.
    fs::write(&store, &genuine).unwrap();
    let own_key = node.at(KEY).with_extension("away");
    fs::rename(node.at(KEY), &own_key).unwrap();
    assert!(!rendered(&node, &[]).is_empty(), "locked: what is not sealed, with a note");
    assert!(rendered(&node, REQUIRED).is_empty(), "locked, and required");
    // Nor does what somebody adds to a locked store get in.
    let forged = place("objects", &["Pod", &victim.0, &victim.1]);
    put(&store, &forged, Some(&made_right(&forged, &get(&store, &forged), None, false)));
    assert!(rendered(&node, REQUIRED).is_empty(), "locked, forged, and required");

    // Keyless: there is nothing that could authenticate.
    fs::remove_file(&store).unwrap();
    let new = NewStore { identity: common::identity(), secret: None };
    let mut keyless = RedbStore::create(&store, new, Box::new(SystemEntropy)).unwrap();
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "namespace": "default", "uid": "uid-bare"},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}]}, "status": {"phase": "Running"},
    });
    let objects = vec![common::object(Kind::Pod, "default", "bare", pod)];
    let listing = Change::Reset { objects, kinds: Kind::ALL.to_vec(), missing: Missing::Delete };
    let _ = keyless.update(vec![listing], 1).unwrap();
    drop(keyless);
    assert_eq!(rendered(&node, &[]).len(), 1, "keyless, with a note");
    assert!(rendered(&node, REQUIRED).is_empty(), "keyless, and required");
    // A key appears. The first one that does would tag what is there: it vouches from then on, and not before.
    fs::rename(&own_key, node.at(KEY)).unwrap();
    assert!(rendered(&node, REQUIRED).is_empty(), "a cold start gives no key, and vouches for nothing");
}
