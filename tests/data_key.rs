//! Exchanging the data key: all is carried over, nothing opens with the old one, and whenever it is cut short the store is
//! the old one or the new one, whole.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use common::strace::{self, Victim};

use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::Object;
use ckpt_db::crypto::{CryptoError, Entropy, SystemEntropy};
use ckpt_db::store::{
    Backend as _, Change, LockState, NewStore, RedbStore, Revision, SlotsWanted, Snapshot, StoreError, fingerprint,
    open_offline, rotate,
};
use store_format::{Event, NodeSecret, SlotKind, SymmetricSecret, Unlocker};

const LATER: u64 = common::NOW + 1000;

/// A test key: Ed25519, with the seed that it is made of.
fn node_key(seed: u8) -> Unlocker {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend([seed; 32]);
    NodeSecret::from_pkcs8(&der).unwrap().with_public_spki(&[seed]).into()
}

fn code(octet: u8) -> Unlocker {
    Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&[octet; 20]))
}

fn file(octet: u8) -> Unlocker {
    Unlocker::KeyFile(SymmetricSecret::of_file(&[octet; 32]).unwrap())
}

/// A store with four slots: of a key that is at hand, of one that is not, of a recovery code and of a key file.
fn make(path: &Path) -> Vec<Object> {
    let objects = common::objects(3);
    let mut store = common::store_with(path, objects.clone(), &node_key(1));
    let wanted = [&node_key(2), &code(1), &file(1)];
    let _ = store.keep_slots(&SlotsWanted { add: &wanted, ..SlotsWanted::default() }, common::NOW).unwrap();
    objects
}

fn open(path: &Path, keys: &[&Unlocker]) -> Snapshot {
    open_offline(path, keys).unwrap().into_inner()
}

fn assert_holds(snapshot: &Snapshot, objects: &[Object]) {
    assert!(snapshot.findings().is_empty(), "{:?}", snapshot.findings());
    assert_eq!(snapshot.objects().count(), objects.len());
    for object in objects {
        assert!(matches!(snapshot.get(&object.key), Lookup::Found(found) if found == *object), "{}", object.key);
    }
}

fn leftover(path: &Path) -> PathBuf {
    path.with_file_name(".checkpoint-store.db.rotate")
}

#[test]
fn everything_is_carried_over_and_the_old_data_key_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let objects = make(&path);
    let before = open(&path, &[&node_key(1)]);
    let old = fs::read(&path).unwrap();
    // What a rotation left that was killed is no store, and is replaced.
    fs::write(leftover(&path), "part of a file").unwrap();

    let never_had_one = file(9);
    let at_hand = [&node_key(1), &code(1), &never_had_one];
    let rotated = rotate(&path, &at_hand, LATER, &SystemEntropy).unwrap().into_inner();
    assert_eq!(rotated.revision, Revision(before.revision().0 + 1));
    let names = |slots: &[ckpt_db::store::SlotInfo]| slots.iter().map(|slot| slot.fingerprint).collect::<Vec<_>>();
    let of = |unlockers: &[&Unlocker]| unlockers.iter().map(|key| fingerprint(key).unwrap()).collect::<Vec<_>>();
    assert_eq!(names(&rotated.slots), of(&[&node_key(1), &code(1)]));
    assert_eq!(names(&rotated.lost), of(&[&node_key(2), &file(1)]));
    assert_eq!(rotated.lost_unknown, 0);
    assert!(!leftover(&path).exists());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    for key in [node_key(1), code(1)] {
        let after = open(&path, &[&key]);
        assert_holds(&after, &objects);
        assert_eq!(after.identity(), before.identity());
        assert_eq!((after.populated(), after.revision()), (true, rotated.revision));
        let mut log: Vec<_> = after.log().collect();
        let (revision, last) = log.pop().unwrap();
        assert_eq!((revision, last.items[0].event), (rotated.revision, Event::Rotated));
        assert!(before.log().eq(log), "the log goes on");
        for object in &objects {
            assert_eq!(after.lifecycle(&object.key), before.lifecycle(&object.key));
        }
    }
    for key in [node_key(2), file(1), never_had_one] {
        assert_eq!(open(&path, &[&key]).lock_state(), LockState::Locked, "its slot is lost, or was never there");
    }
    // Nothing sealed is there in its old form: no 32 octets of a sealed body are in both files.
    let new = fs::read(&path).unwrap();
    for object in before.objects().filter(|object| object.sealed) {
        let sealed = sealed_body(&old, object.key.name());
        assert!(!new.windows(32).any(|octets| octets == &sealed[..32]), "{}", object.key);
    }
    // And it is a store to go on with.
    let mut store = RedbStore::open(&path, &[&code(1)], Box::new(SystemEntropy)).unwrap();
    let wanted = SlotsWanted { add: &[&file(1)], ..SlotsWanted::default() };
    assert_eq!(store.keep_slots(&wanted, LATER).unwrap().into_inner().added, of(&[&file(1)]));
    drop(store);
    assert_holds(&open(&path, &[&file(1)]), &objects);
}

/// The salt and ciphertext of a Secret in the octets of a file: what follows its name and the fields of known lengths.
fn sealed_body(file: &[u8], name: &str) -> Vec<u8> {
    use redb::{ReadableDatabase as _, TableDefinition};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy.db");
    fs::write(&path, file).unwrap();
    let db = redb::Database::open(&path).unwrap();
    let txn = db.begin_read().unwrap();
    let table = txn.open_table(TableDefinition::<(&str, &str, &str), &[u8]>::new("objects")).unwrap();
    let namespaces = ["default", "shop"];
    let found = namespaces.iter().find_map(|namespace| table.get(("Secret", *namespace, name)).unwrap()).unwrap();
    let frame = store_format::Frame::decode(found.value()).unwrap();
    store_format::Envelope::decode(frame.payload).unwrap().body
}

/// Gives out fresh octets some times, then none.
struct Runs(std::sync::atomic::AtomicUsize);

impl Entropy for Runs {
    fn fill(&self, octets: &mut [u8]) -> Result<(), CryptoError> {
        use std::sync::atomic::Ordering::SeqCst;
        if self.0.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            // Its only maker is the operating system's generator; a panic inside of a transaction is caught there.
            panic!("no more randomness, as the test wants it");
        }
        SystemEntropy.fill(octets)
    }
}

#[test]
fn what_can_not_be_exchanged_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    make(&path);
    let original = fs::read(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let refused = |keys: &[&Unlocker], entropy: &dyn Entropy| {
        let error = rotate(&path, keys, LATER, entropy).unwrap_err();
        assert!(fs::metadata(&path).unwrap().ino() == inode, "{error}: it was replaced");
        assert!(!leftover(&path).exists(), "{error}: something was left");
        error
    };
    let untouched = || assert!(fs::read(&path).unwrap() == original, "it was changed");

    assert!(matches!(refused(&[&node_key(7)], &SystemEntropy), StoreError::NoKeyOpens));
    assert!(matches!(refused(&[], &SystemEntropy), StoreError::NoKeyOpens));
    // One draw for the data key, one for each sealed body and each slot: it fails at each of them but the first.
    ckpt_db::store::install_panic_hook();
    for draws in 1..5 {
        let error = refused(&[&node_key(1)], &Runs(draws.into()));
        assert!(matches!(error, StoreError::NotWritten { .. }), "{error}");
        untouched();
    }
    assert!(rotate(&directory.path().join("absent"), &[], 0, &SystemEntropy).is_err());
    untouched();

    // A link or a directory in the place of the new file is nobody's leftover.
    fs::create_dir(leftover(&path)).unwrap();
    assert!(matches!(rotate(&path, &[&node_key(1)], LATER, &SystemEntropy), Err(StoreError::NotAFile { .. })));
    fs::remove_dir(leftover(&path)).unwrap();
    untouched();

    let held = RedbStore::open(&path, &[&node_key(1)], Box::new(SystemEntropy)).unwrap();
    assert!(matches!(refused(&[&node_key(1)], &SystemEntropy), StoreError::InUse(_)));
    drop(held);

    // Findings: a pod whose Secret was taken out.
    let db = redb::Database::open(&path).unwrap();
    let txn = db.begin_write().unwrap();
    let objects = redb::TableDefinition::<(&str, &str, &str), &[u8]>::new("objects");
    drop(txn.open_table(objects).unwrap().remove(("Secret", "default", "s0")).unwrap());
    txn.commit().unwrap();
    drop(db);
    let error = refused(&[&node_key(1)], &SystemEntropy);
    assert!(matches!(error, StoreError::NotSound { findings: 2, .. }), "{error}");

    let keyless = directory.path().join("keyless.db");
    let new = NewStore { identity: common::identity(), secret: None };
    drop(RedbStore::create(&keyless, new, Box::new(SystemEntropy)).unwrap());
    assert!(matches!(rotate(&keyless, &[&node_key(1)], 0, &SystemEntropy), Err(StoreError::NoDataKey)));
}

#[test]
fn a_slot_that_was_removed_does_not_come_back_by_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let objects = make(&path);
    let mut store = RedbStore::open(&path, &[&node_key(1)], Box::new(SystemEntropy)).unwrap();
    let gone = [fingerprint(&file(1)).unwrap()];
    let _ = store.keep_slots(&SlotsWanted { remove: &gone, ..SlotsWanted::default() }, LATER).unwrap();
    drop(store);
    // Its unlocker is at hand all the same.
    let rotated = rotate(&path, &[&file(1), &node_key(1)], LATER, &SystemEntropy).unwrap().into_inner();
    assert_eq!(rotated.slots.iter().map(|slot| slot.kind).collect::<Vec<_>>(), [SlotKind::NodeKey]);
    assert_eq!(open(&path, &[&file(1)]).lock_state(), LockState::Locked);
    assert_holds(&open(&path, &[&node_key(1)]), &objects);
    // Again, and with changes between.
    let mut store = RedbStore::open(&path, &[&node_key(1)], Box::new(SystemEntropy)).unwrap();
    let _ = store.update(vec![Change::Boot("b".to_owned())], LATER).unwrap();
    drop(store);
    let again = rotate(&path, &[&node_key(1)], LATER, &SystemEntropy).unwrap().into_inner();
    assert_eq!(again.revision, Revision(rotated.revision.0 + 2));
    assert_holds(&open(&path, &[&node_key(1)]), &objects);
}

/// What is killed: this test alone, in a process of its own.
const VICTIM: &str = "CKPT_DB_TEST_ROTATE";

#[test]
#[ignore = "run by the test that kills it"]
fn rotate_what_the_environment_names() {
    let path = PathBuf::from(std::env::var_os(VICTIM).unwrap());
    let _ = rotate(&path, &[&node_key(1)], LATER, &SystemEntropy).unwrap();
}

#[test]
fn killed_at_any_call_it_leaves_the_old_store_or_the_new_one() {
    if !strace::works() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-store.db");
    let objects = make(&path);
    let (old, log) = (fs::read(&path).unwrap(), directory.path().join("log"));
    let victim = Victim { test: "rotate_what_the_environment_names", variable: VICTIM, path: &path };
    assert!(victim.run(&log, None).success(), "undisturbed");
    assert_holds(&open(&path, &[&node_key(1)]), &objects);

    let points = strace::points_from(&fs::read_to_string(&log).unwrap(), ".checkpoint-store.db.rotate");
    assert!(points.len() > 12, "{points:?}");
    // With the last ones: sync, rename, sync of the directory; some of the harness follow.
    let chosen = strace::choose_with_last(&points, 8);
    let (mut left, mut news) = (0, 0);
    for point in &chosen {
        fs::write(&path, &old).unwrap();
        let killed = victim.run(&log, Some(point));
        let what = format!("killed at {} {}", point.0, point.1);
        if killed.signal() != Some(9) {
            // Calls of the harness itself, after all is done.
            assert!(killed.success(), "{what}: {killed}");
        }
        left += usize::from(leftover(&path).exists());
        let now = fs::read(&path).unwrap();
        news += usize::from(now != old);
        assert_holds(&open(&path, &[&node_key(1)]), &objects);
        if now != old {
            assert_eq!(open(&path, &[&code(1)]).lock_state(), LockState::Locked, "{what}: half of each");
        }
        // The agent starts beside what was left, and the next exchange clears it away.
        drop(RedbStore::open(&path, &[&node_key(1)], Box::new(SystemEntropy)).unwrap());
        let _ = rotate(&path, &[&node_key(1)], LATER, &SystemEntropy).unwrap();
        assert!(!leftover(&path).exists(), "{what}");
        assert_holds(&open(&path, &[&node_key(1)]), &objects);
    }
    assert!(left > 5 && news > 0, "{left} left something, {news} were done: the kills came too early or too late");
    let judged = chosen.len();
    strace::say(&format!(
        "campaign: kills of an exchange of the data key: {judged} of {} system calls judged, 0 stores lost",
        points.len()
    ));
}
