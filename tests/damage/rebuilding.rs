//! What is carried over by a rebuild, what is no damage, and what a kill leaves.

use std::fs;
use std::path::Path;

use ckpt_db::agent::open_or_rebuild;
use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{
    Backend as _, Carry, Change, Finding, LockState, Missing, RedbStore, SlotsWanted, StoreError, install_panic_hook,
    kept_beside, open_offline, rebuild,
};
use store_format::{Event, SymmetricSecret, Unlocker};

use crate::common::{self, NOW};
use crate::{Files, is_structure, scratch, write};

const LATER: u64 = NOW + 60_000;
const PAGE: usize = 4096;

fn key_file() -> Unlocker {
    Unlocker::KeyFile(SymmetricSecret::of_file(&[7; 32]).unwrap())
}

fn pod(n: usize) -> ObjectKey {
    ObjectKey::new(Kind::Pod, if n.is_multiple_of(2) { "default" } else { "shop" }, &format!("p{n}")).unwrap()
}

/// Damages a store of twelve pods so that its structure is, and the pod of the number that is returned is lost, and little else.
fn damage(path: &Path, secret: &Unlocker) -> usize {
    let sound = fs::read(path).unwrap();
    for page in 1..sound.len() / PAGE {
        if sound[page * PAGE..(page + 1) * PAGE].iter().all(|octet| *octet == 0) {
            continue;
        }
        let mut damaged = sound.clone();
        damaged[page * PAGE..(page + 1) * PAGE].fill(0);
        write(path, &damaged);
        let Ok(snapshot) = open_offline(path, &[secret]) else { continue };
        let snapshot = snapshot.into_inner();
        let lost: Vec<usize> = (0..12).filter(|n| !matches!(snapshot.get(&pod(*n)), Lookup::Found(_))).collect();
        let rows = snapshot.findings().iter().any(
            |finding| matches!(finding, Finding::Missing { named_by, .. } if named_by.starts_with("record pods/")),
        );
        let meta = snapshot.identity().is_some() && snapshot.populated() && snapshot.lock_state() == LockState::Open;
        if let ([lost, ..], true, true) = (lost.as_slice(), rows, meta && lost.len() < 8) {
            return *lost;
        }
    }
    panic!("no page of this store holds a few pods");
}

/// A store of twelve pods with a second key; the pods of odd numbers are held, the one of number 4 has ended.
fn store(path: &Path, secret: &Unlocker) {
    let mut store = common::store_with(path, common::objects(12), secret);
    let key_file = key_file();
    let _ = store.keep_slots(&SlotsWanted { add: &[&key_file], ..SlotsWanted::default() }, NOW).unwrap();
    let held = (0..12).filter(|n| n % 2 == 1).map(|n| Change::Hold {
        pod: PodName { namespace: pod(n).namespace().to_owned(), name: pod(n).name().to_owned() },
        held: true,
    });
    let _ = store.update(held.collect(), NOW).unwrap();
}

#[test]
fn what_still_reads_is_carried_over_and_what_is_lost_can_come_back_or_go() {
    install_panic_hook();
    let (directory, secret) = (scratch(), common::secret());
    let path = directory.path().join("checkpoint-store.db");
    store(&path, &secret);
    let lost = damage(&path, &secret);
    let damaged = fs::read(&path).unwrap();
    let before = open_offline(&path, &[&secret]).unwrap().into_inner();

    let (mut store, rebuilt) = open_or_rebuild(&path, &[&secret], Carry::Sound, "", LATER).unwrap();
    let rebuilt = rebuilt.expect("it was damaged");
    assert_eq!(rebuilt.kept_at, directory.path().join(format!("checkpoint-store.db.damaged-{}", LATER / 1000)));
    assert!(fs::read(&rebuilt.kept_at).unwrap() == damaged);
    assert!(!rebuilt.began_anew && rebuilt.lost > 0 && rebuilt.carried == before.objects().count(), "{rebuilt:?}");
    let after = store.snapshot().unwrap().into_inner();
    assert_eq!(after.identity(), before.identity());
    assert_eq!((after.revision(), after.lock_state()), (rebuilt.revision, LockState::Open));
    assert!(!after.findings().iter().any(is_structure), "{:?}", after.findings());
    assert!(after.damaged().any(|key| *key == pod(lost)), "its row still names it");
    assert!(!after.populated(), "a pod is lost: what else is, nobody knows");
    let (_, last) = after.log().next_back().unwrap();
    assert_eq!((last.items[0].event, last.items[0].kind.as_str()), (Event::Stored, ""));
    assert!(last.items[0].why.contains(&format!("checkpoint-store.db.damaged-{}", LATER / 1000)), "{last:?}");
    assert_eq!(after.log().count(), before.log().count() + 1, "the log goes on");
    for n in (0..12).filter(|n| matches!(before.get(&pod(*n)), Lookup::Found(_))) {
        assert_eq!(
            (after.held(&pod(n)), after.lifecycle(&pod(n))),
            (before.held(&pod(n)), before.lifecycle(&pod(n))),
            "{n}"
        );
    }
    drop(store);
    assert_eq!(open_offline(&path, &[&key_file()]).unwrap().get().lock_state(), LockState::Open, "the other key");

    // The source lists all pods but the lost one: that it is gone needs a proof, as of any other.
    store = RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap();
    let objects: Vec<_> = common::objects(12).into_iter().filter(|object| object.key != pod(lost)).collect();
    let listing = |objects| Change::Reset { objects, kinds: vec![Kind::Pod], missing: Missing::Report };
    let update = store.update(vec![listing(objects.clone())], LATER).unwrap().into_inner();
    assert_eq!(update.missing, [(pod(lost), format!("uid-{lost}"))]);
    let named = |store: &RedbStore| store.snapshot().unwrap().get().damaged().any(|key| *key == pod(lost));
    assert!(named(&store), "a listing is no proof");
    let _ = store.update(vec![Change::Gone { key: pod(lost), uid: format!("uid-{lost}") }], LATER).unwrap();
    assert!(!named(&store));
    drop(store);
    let after = open_offline(&path, &[&secret]).unwrap().into_inner();
    assert_eq!((after.findings(), after.populated()), (&[][..], true));
    assert!((0..12).filter(|n| *n != lost && n % 2 == 1).any(|n| after.held(&pod(n))), "what an operator said");
}

/// A pod that was lost and is told again is the same pod: what was on record of it counts.
#[test]
fn what_is_on_record_of_a_lost_pod_counts_when_it_is_told_again() {
    install_panic_hook();
    let (directory, secret) = (scratch(), common::secret());
    let path = directory.path().join("checkpoint-store.db");
    store(&path, &secret);
    let lost = damage(&path, &secret);
    let (mut store, _) = open_or_rebuild(&path, &[&secret], Carry::Sound, "", LATER).unwrap();
    let listing = Change::Reset { objects: common::objects(12), kinds: Kind::ALL.to_vec(), missing: Missing::Delete };
    let _ = store.update(vec![listing], LATER).unwrap();
    let after = store.snapshot().unwrap().into_inner();
    assert_eq!((after.findings(), after.objects().count()), (&[][..], 37));
    assert_eq!(after.held(&pod(lost)), lost % 2 == 1);
    assert!(after.lifecycle(&pod(lost)).is_some());
}

/// Without a key nothing can be vouched for: records are carried over as they are, and a key that comes opens them.
#[test]
fn a_store_that_no_key_opens_is_carried_over_to_the_byte() {
    install_panic_hook();
    let (directory, secret) = (scratch(), common::secret());
    let path = directory.path().join("checkpoint-store.db");
    store(&path, &secret);
    damage(&path, &secret);
    let damaged = fs::read(&path).unwrap();
    let with_key = open_offline(&path, &[&secret]).unwrap().into_inner();

    let refused = open_or_rebuild(&path, &[], Carry::Authentic, "", LATER).err();
    assert!(matches!(refused, Some(StoreError::NoKeyOpens)), "{refused:?}");
    assert!(fs::read(&path).unwrap() == damaged && kept_beside(&path).is_empty());

    let (store, rebuilt) = open_or_rebuild(&path, &[], Carry::Sound, "", LATER).unwrap();
    assert_eq!((store.lock_state(), rebuilt.is_some()), (LockState::Locked, true));
    drop(store);
    let after = open_offline(&path, &[&secret]).unwrap().into_inner();
    assert_eq!(after.lock_state(), LockState::Open);
    assert!(after.objects().map(|object| object.key).eq(with_key.objects().map(|object| object.key)));
    assert!(after.objects().all(|object| object.authenticated));
    assert!(!after.findings().is_empty() && !after.findings().iter().any(is_structure), "{:?}", after.findings());
    drop(RedbStore::open(&path, &[&secret], Box::new(SystemEntropy)).unwrap());
}

#[test]
fn what_is_no_damage_is_left_as_it_is() {
    install_panic_hook();
    let files = Files::new(2);
    let directory = scratch();
    let default = directory.path().join("checkpoint-store.db");
    let other = directory.path().join("other.db");
    let mut sqlite = b"SQLite format 3\0".to_vec();
    sqlite.resize(8192, 0xff);
    let text = b"apiVersion: v1\nkind: Pod\n".to_vec();
    let mut newer = files.closed.clone();
    (newer[64], newer[192]) = (4, 4);
    let noise = vec![0xf3; 8192];
    for (name, path, bytes) in [
        ("a text", &default, &text),
        ("a text of another name", &other, &text),
        ("an SQLite file", &default, &sqlite),
        ("another program's file", &other, &noise),
        ("a newer redb", &default, &newer),
    ] {
        write(path, bytes);
        let error = open_or_rebuild(path, &[&files.secret], Carry::Sound, "", LATER).err().expect(name);
        assert!(matches!(error, StoreError::NotOurs(_) | StoreError::Newer { .. }), "{name}: {error}");
        assert!(fs::read(path).unwrap() == *bytes, "{name} was touched");
        fs::remove_file(path).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{name}: something was made");
    }
    fs::create_dir(&default).unwrap();
    let error = open_or_rebuild(&default, &[], Carry::Sound, "", LATER).err().unwrap();
    assert!(matches!(error, StoreError::NotAFile { .. }), "{error}");
    fs::remove_dir(&default).unwrap();

    // Its name, or a medium that has lost the contents, says what it was.
    for (path, bytes) in [(&default, noise), (&other, Vec::new()), (&other, vec![0; 10_000])] {
        write(path, &bytes);
        let (store, rebuilt) = open_or_rebuild(path, &[&files.secret], Carry::Sound, "edge-1", LATER).unwrap();
        let rebuilt = rebuilt.unwrap();
        assert!(rebuilt.began_anew && fs::read(&rebuilt.kept_at).unwrap() == bytes);
        assert_eq!((store.lock_state(), store.identity().node_name.as_str()), (LockState::Open, "edge-1"));
        assert_eq!(store.snapshot().unwrap().get().findings(), []);
        drop(store);
        fs::remove_file(path).unwrap();
        fs::remove_file(&rebuilt.kept_at).unwrap();
    }

    // Another process has it.
    write(&default, &files.closed[..PAGE]);
    let held = fs::File::open(&default).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = rebuild(&default, &[], Carry::Sound, "", LATER, &SystemEntropy).err().unwrap();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    assert!(fs::read(&default).unwrap() == files.closed[..PAGE]);
}

/// A medium that damages the store again and again is not filled with its copies.
#[test]
fn there_is_an_end_to_what_is_kept() {
    install_panic_hook();
    let files = Files::new(1);
    let directory = scratch();
    let path = directory.path().join("checkpoint-store.db");
    for n in 0..11 {
        write(&path, &files.closed[..files.closed.len() - PAGE]);
        // In the same second, and so under a name with a number.
        match open_or_rebuild(&path, &[&files.secret], Carry::Sound, "", LATER) {
            Ok((_, rebuilt)) => assert!(n < 10 && rebuilt.is_some_and(|rebuilt| rebuilt.lost == 0), "{n}"),
            Err(error) => assert!(n == 10 && matches!(error, StoreError::TooManyKept { .. }), "{n}: {error}"),
        }
    }
    assert_eq!(kept_beside(&path).len(), 10);
    assert!(fs::read(&path).unwrap() == files.closed[..files.closed.len() - PAGE]);
}
