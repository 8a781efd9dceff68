//! Opening: what is not a store, or not ours to touch, is told apart by name and left as it is.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use ckpt_db::checkpoint::lookup::{Absence, Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::crypto::{SystemEntropy, sha256};
use ckpt_db::store::{
    Backend as _, Change, Finding, LockState, NewStore, RecordProblem, RedbStore, Revision, Snapshot, StoreError,
    install_panic_hook, open_offline,
};
use redb::{ReadableDatabase as _, TableDefinition};
use store_format::{FORMAT_VERSION, Frame, Lifecycle, NodeSecret, Table, Unlocker, digest_input, meta_key};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("objects");
const PODS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("pods");
const LOG: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("log");

/// The error of opening for reading and of opening for writing, which must agree, and proof that nothing was changed.
fn refused(path: &Path) -> StoreError {
    let look = || {
        let found = fs::symlink_metadata(path).ok();
        // A FIFO would block a reader.
        let contents = found.as_ref().filter(|found| found.is_file()).and_then(|_| fs::read(path).ok());
        (contents, found.map(|found| (found.mode(), found.mtime(), found.mtime_nsec())))
    };
    let before = look();
    let offline = open_offline(path, &[]).err().expect("reading is refused");
    let writing = RedbStore::open(path, &[], Box::new(SystemEntropy)).err().expect("writing is refused");
    assert_eq!(offline.to_string(), writing.to_string());
    assert!(look() == before, "the file was touched");
    offline
}

#[test]
fn what_is_no_store_is_named() {
    install_panic_hook();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);

    assert!(matches!(refused(&at("absent")), StoreError::NotFound(_)));

    fs::write(at("empty"), "").unwrap();
    let error = refused(&at("empty"));
    assert!(error.is_damage() && error.to_string().contains("is empty (0 bytes)"), "{error}");

    fs::create_dir(at("directory")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
    for (name, what) in [("directory", "a directory"), ("fifo", "a FIFO"), ("link", "a symbolic link")] {
        let error = refused(&at(name)).to_string();
        assert!(error.contains(what), "{error}");
    }

    for (name, contents) in [("short", &b"x"[..]), ("text", &[b'x'; 100_000]), ("zeros", &[0; 8192])] {
        fs::write(at(name), contents).unwrap();
        assert!(refused(&at(name)).is_damage(), "{name}");
    }
}

#[test]
fn a_truncated_store_is_damaged_or_read_in_part_but_never_empty() {
    install_panic_hook();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let secret = common::secret();
    drop(common::store_with(&path, common::objects(4), &secret));
    let whole = fs::read(&path).unwrap();
    for len in (0..whole.len()).step_by(16 * 1024 + 77) {
        fs::write(&path, &whole[..len]).unwrap();
        match open_offline(&path, &[&secret]) {
            Err(error) => assert!(error.is_damage(), "{len}: {error}"),
            Ok(snapshot) => assert!(!snapshot.get().findings().is_empty(), "{len}: nobody noticed"),
        }
        let writing = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).err().expect("no writing to damage");
        assert!(writing.is_damage(), "{len}: {writing}");
        assert_eq!(fs::read(&path).unwrap(), &whole[..len], "the evidence was touched");
    }
}

#[test]
fn a_store_in_use_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let secret = common::secret();
    let held = common::store_with(&path, common::objects(1), &secret);
    assert!(matches!(refused(&path), StoreError::InUse(_)));
    drop(held);
    assert!(open_offline(&path, &[&secret]).is_ok());
}

#[test]
fn a_new_store_replaces_nothing_and_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sub/checkpoint-store.db");
    let make =
        || RedbStore::create(&path, NewStore { identity: common::identity(), secret: None }, Box::new(SystemEntropy));
    drop(make().unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    let before = fs::read(&path).unwrap();
    assert!(matches!(make().err(), Some(StoreError::Exists(_))));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_a_start_left_is_replaced_unless_it_is_still_at_work() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let leftover = directory.path().join(".checkpoint-store.db.new");
    let make =
        || RedbStore::create(&path, NewStore { identity: common::identity(), secret: None }, Box::new(SystemEntropy));
    fs::write(&leftover, "half a store").unwrap();
    let other = fs::File::open(&leftover).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(matches!(make().err(), Some(StoreError::InUse(_))));
    assert_eq!(fs::read(&leftover).unwrap(), b"half a store");
    drop(other);
    drop(make().unwrap());
    assert!(!leftover.exists());
    assert!(open_offline(&path, &[]).unwrap().get().findings().is_empty());
}

/// Changes the file behind the store's back, as an attacker with root, or a later version, would.
fn tamper(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = redb::Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

fn row(path: &Path, key: (&str, &str)) -> Vec<u8> {
    let db = redb::Database::open(path).unwrap();
    let table = db.begin_read().unwrap().open_table(PODS).unwrap();
    table.get(key).unwrap().unwrap().value().to_vec()
}

fn record(path: &Path, key: (&str, &str, &str)) -> Vec<u8> {
    let db = redb::Database::open(path).unwrap();
    let table = db.begin_read().unwrap().open_table(OBJECTS).unwrap();
    table.get(key).unwrap().unwrap().value().to_vec()
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    drop(common::store_with(&path, common::objects(1), &common::secret()));
    let payload = (FORMAT_VERSION + 1).to_le_bytes();
    let digest = sha256(&digest_input(Table::Meta, &[meta_key::FORMAT], &payload));
    let frame = Frame { digest, tag: None, payload: &payload }.encode();
    tamper(&path, |txn| drop(txn.open_table(META).unwrap().insert(meta_key::FORMAT, frame.as_slice()).unwrap()));
    let error = refused(&path);
    assert!(matches!(error, StoreError::Newer { found: 4, known: 3, .. }), "{error}");
}

#[test]
fn a_record_that_was_moved_replayed_or_stripped_is_quarantined_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let other = directory.path().join("other.db");
    let (secret, stranger) = (common::secret(), common::secret());
    drop(common::store_with(&path, common::objects(2), &secret));
    drop(common::store_with(&other, common::objects(2), &stranger));
    let s0 = ("Secret", "default", "s0");
    let genuine = record(&path, s0);
    let frame = Frame::decode(&genuine).unwrap();
    let stripped = Frame { tag: None, ..frame }.encode();
    let moved = record(&path, ("Secret", "shop", "s1"));
    let replayed = record(&other, s0);
    let rows = [
        ("moved from another key", moved, RecordProblem::OtherKey(ObjectKey::new(Kind::Secret, "shop", "s1").unwrap())),
        ("replayed from another store", replayed, RecordProblem::Tag),
        ("its tag stripped", stripped, RecordProblem::NoTag),
    ];
    for (what, bytes, want) in rows {
        tamper(&path, |txn| drop(txn.open_table(OBJECTS).unwrap().insert(s0, bytes.as_slice()).unwrap()));
        let snapshot = open_offline(&path, &[&secret]).unwrap().into_inner();
        let problems: Vec<_> = snapshot
            .findings()
            .iter()
            .map(|finding| match finding {
                Finding::Record { problem, .. } => problem.clone(),
                other => panic!("{what}: {other}"),
            })
            .collect();
        assert_eq!(problems, [want], "{what}");
        for object in common::objects(2) {
            let found = snapshot.get(&object.key);
            let is_s0 = object.key.kind() == Kind::Secret && object.key.name() == "s0";
            assert_eq!(matches!(found, Lookup::Damaged), is_s0, "{what}: {}", object.key);
        }
        tamper(&path, |txn| drop(txn.open_table(OBJECTS).unwrap().insert(s0, genuine.as_slice()).unwrap()));
    }
    assert!(open_offline(&path, &[&secret]).unwrap().get().findings().is_empty(), "put back, it is sound again");
}

/// What a pod needs is not known while its record can't be read, so nothing in its namespace is unneeded.
#[test]
fn a_damaged_pod_does_not_cost_what_it_needs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let secret = common::secret();
    let objects = common::objects(3);
    drop(common::store_with(&path, objects.clone(), &secret));
    let mut damaged = record(&path, ("Pod", "default", "p0"));
    *damaged.last_mut().unwrap() ^= 1;
    let p0 = ("Pod", "default", "p0");
    tamper(&path, |txn| drop(txn.open_table(OBJECTS).unwrap().insert(p0, damaged.as_slice()).unwrap()));

    let mut store = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap();
    // Another pod of the namespace goes, with what only it needed as far as anybody knows.
    let p2 = ObjectKey::new(Kind::Pod, "default", "p2").unwrap();
    let _durable = store.update(vec![Change::Delete { key: p2, uid: String::new() }], common::NOW).unwrap();
    let snapshot = store.snapshot().unwrap().into_inner();
    for (kind, name) in [(Kind::Secret, "s0"), (Kind::ConfigMap, "c0")] {
        let key = ObjectKey::new(kind, "default", name).unwrap();
        assert!(matches!(snapshot.get(&key), Lookup::Found(_)), "{key} is gone");
    }
}

/// A pod whose row was lost has run here as far as anybody knows, whatever its status says now.
#[test]
fn a_damaged_row_does_not_make_a_pod_one_that_never_ran() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let secret = common::secret();
    drop(common::store_with(&path, common::objects(1), &secret));
    tamper(&path, |txn| drop(txn.open_table(PODS).unwrap().insert(("default", "p0"), &b"\x01\x00"[..]).unwrap()));
    let mut store = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap();
    let mut pending = common::objects(1).remove(1);
    let body = String::from_utf8(pending.body.expose().to_vec()).unwrap();
    pending.body = body.replace("Running", "Pending").into();
    let key = pending.key.clone();
    let _durable = store.update(vec![Change::Apply { object: pending, with: vec![] }], common::NOW).unwrap();
    let snapshot = store.snapshot().unwrap().into_inner();
    assert!(snapshot.ran(&key));
    assert!(snapshot.findings().is_empty(), "{:?}", snapshot.findings());
}

/// The row that said how a pod ended was lost: what is stored of its status still counts when a newer one denies it.
#[test]
fn a_damaged_row_does_not_bring_back_a_pod_that_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let secret = common::secret();
    let running = common::objects(1).remove(1);
    let mut failed = running.clone();
    let body = String::from_utf8(failed.body.expose().to_vec()).unwrap();
    failed.body = body.replace("Running", "Failed").into();
    let mut store = common::store_with(&path, common::objects(1), &secret);
    let take = |store: &mut RedbStore, object: &Object| {
        let change = Change::Apply { object: object.clone(), with: vec![] };
        let _durable = store.update(vec![change], common::NOW).unwrap();
        let snapshot = store.snapshot().unwrap().into_inner();
        assert!(snapshot.findings().is_empty(), "{:?}", snapshot.findings());
        snapshot.ended(&running.key).map(str::to_owned)
    };
    assert_eq!(take(&mut store, &failed).as_deref(), Some("Failed"));
    drop(store);
    tamper(&path, |txn| drop(txn.open_table(PODS).unwrap().insert(("default", "p0"), &b"\x01\x00"[..]).unwrap()));
    let mut store = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap();
    assert_eq!(store.snapshot().unwrap().get().ended(&running.key), None, "the row is quarantined");
    assert_eq!(take(&mut store, &running).as_deref(), Some("Failed"));
}

/// A row that was put back is that of another pod: it says nothing of the one that is stored.
#[test]
fn a_row_of_another_uid_is_void() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let secret = common::secret();
    let mut pod = common::objects(1).remove(1);
    let tls = ObjectKey::new(Kind::Secret, "default", "s0").unwrap();
    let mut store = common::store_with(&path, common::objects(1), &secret);
    let body = String::from_utf8(pod.body.expose().to_vec()).unwrap();
    pod.body = body.replace("Running", "Failed").into();
    let absent = |why| Change::Absent { key: tls.clone(), why };
    let gone = || Change::Delete { key: tls.clone(), uid: String::new() };
    let changes = vec![Change::Apply { object: pod.clone(), with: vec![] }, gone(), absent(Absence::Forbidden)];
    let _durable = store.update(changes, common::NOW).unwrap();
    let snapshot = store.snapshot().unwrap().into_inner();
    assert!(matches!(snapshot.get(&tls), Lookup::Forbidden));
    assert_eq!(snapshot.ended(&pod.key), Some("Failed"));
    drop((store, snapshot));
    let row = row(&path, ("default", "p0"));

    let mut store = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap();
    pod.uid = "uid-of-another".to_owned();
    pod.body = body.into();
    let changes = vec![Change::Apply { object: pod.clone(), with: vec![] }, absent(Absence::NotFound)];
    let _durable = store.update(changes, common::NOW).unwrap();
    drop(store);
    tamper(&path, |txn| drop(txn.open_table(PODS).unwrap().insert(("default", "p0"), row.as_slice()).unwrap()));
    let snapshot = open_offline(&path, &[&secret]).unwrap().into_inner();
    assert!(matches!(snapshot.get(&tls), Lookup::Missing), "not forbidden");
    assert_eq!((snapshot.ended(&pod.key), snapshot.absent(&pod.key).count()), (None, 0));
}

#[test]
fn without_its_key_a_store_shows_all_but_secrets_and_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    drop(common::store_with(&path, common::objects(2), &common::secret()));
    let stranger = common::secret();
    for keys in [&[][..], &[&stranger][..]] {
        let snapshot = open_offline(&path, keys).unwrap().into_inner();
        assert_eq!(snapshot.lock_state(), LockState::Locked);
        assert!(snapshot.findings().is_empty(), "a missing key is no damage");
        for object in common::objects(2) {
            match (object.key.kind(), snapshot.get(&object.key)) {
                (Kind::Secret, Lookup::Sealed) => {}
                (Kind::Secret, _) => panic!("{} opened", object.key),
                (_, Lookup::Found(found)) => assert!(found == object),
                (_, other) => panic!("{}: {other:?}", object.key),
            }
        }
    }
    let mut store = RedbStore::open(&path, &[&stranger], Box::new(SystemEntropy)).unwrap();
    let change = Change::Delete { key: ObjectKey::new(Kind::Pod, "default", "p0").unwrap(), uid: String::new() };
    assert!(matches!(store.update(vec![change], common::NOW), Err(StoreError::NoKeyOpens)));
}

#[test]
fn reading_works_where_nothing_can_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let secret = common::secret();
    drop(common::store_with(&path, common::objects(2), &secret));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let before = fs::read(&path).unwrap();
    assert!(open_offline(&path, &[&secret]).unwrap().get().findings().is_empty());
    assert_eq!(fs::read(&path).unwrap(), before);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_store_made_before_its_node_had_a_name_takes_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let mut store = ckpt_db::agent::open_or_create(&path, &[], "", 1).unwrap();
    let _ = store.update(vec![Change::NodeName("edge-1".to_owned())], 2).unwrap();
    assert_eq!(store.identity().node_name, "edge-1");
    drop(store);
    let mut store = ckpt_db::agent::open_or_create(&path, &[], "", 3).unwrap();
    assert_eq!(store.identity().node_name, "edge-1");
    let refused = store.update(vec![Change::NodeName("edge-2".to_owned())], 4);
    assert!(matches!(refused, Err(ckpt_db::store::StoreError::OtherNode { .. })));
}

/// A store of an older version, as `store-format/stores` holds it, and the key that opens it.
fn older_store(text: &str) -> (Vec<u8>, Unlocker) {
    let (header, body) = text.split_once("\n\n").unwrap();
    let key = header.lines().find_map(|line| line.strip_prefix("key-pkcs8: ")).unwrap();
    let hex = |digits: &str| data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap();
    let octets = body.lines().flat_map(|line| {
        let (digits, count) = line.split_once(" * ").unwrap_or((line, "1"));
        hex(digits).repeat(count.parse().unwrap())
    });
    (octets.collect(), NodeSecret::from_pkcs8(&hex(key)).unwrap().into())
}

fn in_shop(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "shop", name).unwrap()
}

/// What the stores of older versions hold, whoever reads it.
fn check_older(snapshot: &Snapshot, open: bool) {
    let (web, job) = (in_shop(Kind::Pod, "web"), in_shop(Kind::Pod, "job"));
    assert!(snapshot.findings().is_empty(), "{:?}", snapshot.findings());
    assert_eq!(snapshot.objects().count(), 5);
    assert!(snapshot.populated());
    assert_eq!(snapshot.lifecycle(&web), Some(Lifecycle::Active));
    assert_eq!(snapshot.lifecycle(&job), Some(Lifecycle::Inactive));
    for pod in [&web, &job] {
        assert!(!snapshot.gone(pod) && !snapshot.held(pod) && snapshot.republished(pod) == 0, "{pod}");
    }
    assert_eq!((snapshot.ended(&web), snapshot.ended(&job)), (None, Some("Failed: Evicted")));
    assert!(snapshot.ran(&web));
    assert_eq!(snapshot.node_name(), Some("edge-1"));
    match snapshot.get(&in_shop(Kind::Secret, "web-tls")) {
        Lookup::Found(secret) if open => {
            assert!(String::from_utf8_lossy(secret.body.expose()).contains("dGVzdCBkYXRh"));
        }
        Lookup::Sealed if !open => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_store_of_an_older_version_is_read_as_it_is_and_raised_by_the_first_commit() {
    for (version, text, logged) in [
        (1, include_str!("../store-format/stores/format-1.txt"), 0),
        (2, include_str!("../store-format/stores/format-2.txt"), 3),
    ] {
        check_older_store(version, text, logged);
    }
    assert_eq!(FORMAT_VERSION, 3, "a store of version 3 belongs here as well");
}

fn check_older_store(version: u32, text: &str, logged: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let (octets, secret) = older_store(text);
    fs::write(&path, &octets).unwrap();
    let format = |path: &Path| {
        let db = redb::Database::open(path).unwrap();
        let table = db.begin_read().unwrap().open_table(META).unwrap();
        let frame = table.get(meta_key::FORMAT).unwrap().unwrap().value().to_vec();
        store_format::decode_format(Frame::decode(&frame).unwrap().payload).unwrap()
    };
    check_older(open_offline(&path, &[&secret]).unwrap().get(), true);
    check_older(open_offline(&path, &[]).unwrap().get(), false);
    assert!(fs::read(&path).unwrap() == octets, "reading changed it");

    let mut store = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap();
    check_older(store.snapshot().unwrap().get(), true);
    assert_eq!(store.snapshot().unwrap().get().log().count(), logged);
    let same = store.update(vec![Change::NodeName("edge-1".to_owned())], 1).unwrap().into_inner();
    drop(store);
    let copy = directory.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(format(&copy), version, "what changes nothing raises no version");

    let mut store = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap();
    let update = store.update(vec![Change::Boot("b2".to_owned())], 1).unwrap().into_inner();
    assert_eq!(update.revision, Revision(same.revision.0 + 1));
    let snapshot = store.snapshot().unwrap().into_inner();
    check_older(&snapshot, true);
    assert_eq!((snapshot.boot_id(), snapshot.log().count()), (Some("b2"), logged + 1));
    let web = ckpt_db::checkpoint::rendering::PodName { namespace: "shop".to_owned(), name: "web".to_owned() };
    let _ = store.update(vec![Change::Hold { pod: web, held: true }], 2).unwrap();
    drop(store);
    assert_eq!(format(&path), FORMAT_VERSION, "the first commit raises it");
    let reopened = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap();
    assert!(reopened.snapshot().unwrap().get().held(&in_shop(Kind::Pod, "web")), "and a row of the new layout is read");

    // Its data key can be exchanged without anything being written to it before.
    fs::write(&path, &octets).unwrap();
    drop(reopened);
    let rotated = ckpt_db::store::rotate(&path, &[&secret], 1, &SystemEntropy).unwrap().into_inner();
    assert_eq!((rotated.slots.len(), format(&path)), (1, FORMAT_VERSION));
    check_older(open_offline(&path, &[&secret]).unwrap().get(), true);
}

#[test]
fn a_damaged_record_of_the_log_costs_itself_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let secret = common::secret();
    drop(common::store_with(&path, common::objects(2), &secret));
    let before = open_offline(&path, &[&secret]).unwrap().into_inner();
    let records: Vec<_> = before.log().map(|(revision, record)| (revision, record.clone())).collect();
    assert!(records.len() >= 2, "{records:?}");
    let key = store_format::log_key(records[0].0.0);
    let genuine = {
        let db = redb::Database::open(&path).unwrap();
        let table = db.begin_read().unwrap().open_table(LOG).unwrap();
        table.get(key.as_str()).unwrap().unwrap().value().to_vec()
    };
    let stripped = Frame { tag: None, ..Frame::decode(&genuine).unwrap() }.encode();
    let mut flipped = genuine.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let elsewhere = store_format::log_key(u64::MAX);
    for (place, octets, code) in [
        (key.as_str(), &flipped, "Digest"),
        (key.as_str(), &stripped, "NoTag"),
        (key.as_str(), &genuine[..20].to_vec(), "Malformed"),
        (elsewhere.as_str(), &genuine, "Digest"),
        ("last", &genuine, "Name"),
    ] {
        tamper(&path, |txn| {
            let mut table = txn.open_table(LOG).unwrap();
            table.insert(key.as_str(), genuine.as_slice()).unwrap();
            table.insert(place, octets.as_slice()).unwrap();
        });
        let snapshot = open_offline(&path, &[&secret]).unwrap().into_inner();
        let codes: Vec<&str> = snapshot.findings().iter().map(Finding::code).collect();
        assert_eq!(codes, [code], "{place}");
        let finding = snapshot.findings()[0].to_string();
        assert!(finding.starts_with(&format!("record log/{place} ")), "{finding}");
        let left: Vec<_> = snapshot.log().map(|(revision, record)| (revision, record.clone())).collect();
        let from = usize::from(place == key);
        assert_eq!(left, records[from..], "{place}: the others stay");
        assert_eq!(snapshot.objects().count(), before.objects().count());
        tamper(&path, |txn| drop(txn.open_table(LOG).unwrap().remove(place).unwrap()));
    }
    tamper(&path, |txn| assert!(txn.delete_table(LOG).unwrap()));
    let snapshot = open_offline(&path, &[&secret]).unwrap().into_inner();
    assert!(snapshot.findings().is_empty() && snapshot.log().count() == 0, "a log that is not there is empty");
}

#[test]
fn a_lost_state_record_does_not_make_the_log_begin_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let secret = common::secret();
    drop(common::store_with(&path, common::objects(2), &secret));
    let last = |path: &Path| open_offline(path, &[&secret]).unwrap().get().log().next_back().unwrap().0;
    let before = last(&path);
    tamper(&path, |txn| drop(txn.open_table(META).unwrap().remove(meta_key::STATE).unwrap()));
    let mut store = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap();
    let update = store.update(vec![Change::Boot("b1".to_owned())], 9).unwrap().into_inner();
    drop(store);
    assert_eq!(update.revision, Revision(before.0 + 1));
    // What is known anew of a lost state is no event: nobody knows what it was before.
    assert_eq!(last(&path), before);
}
