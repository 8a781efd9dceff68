//! A compaction that gives much back: a crash at each of its operations, and a refusal of each, leave what was stored.

use std::collections::BTreeMap;

use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{Backend as _, Change, RedbStore, install_panic_hook};
use serde_json::json;
use store_format::Unlocker;

use crate::disk::{Class, Disk, Fault, Lasts, Op};
use crate::images::Recorded;
use crate::{Run, common, keyless, slots_wanted, told};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn open(disk: &Disk, unlockers: &[&Unlocker]) -> RedbStore {
    RedbStore::open_on(disk.clone(), disk.live(), unlockers, Box::new(SystemEntropy)).unwrap()
}

/// A disk with a store of which much was deleted.
fn sparse(unlocker: &Unlocker) -> Vec<u8> {
    let disk = Disk::with(keyless());
    let mut store = open(&disk, &[]);
    let _ = store.keep_slots(&slots_wanted(&[unlocker], Some(2)), common::NOW).unwrap();
    let names: Vec<String> = (0..20).map(|n| format!("large-{n}")).collect();
    for name in &names {
        let body = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "annotations": {"much": "x".repeat(60_000)}},
            "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}]},
        });
        let object = common::object(Kind::Pod, "shop", name, body);
        let update = store.update(vec![Change::Apply { object, with: Vec::new() }], common::NOW).unwrap();
        assert_eq!(update.get().rejected, []);
    }
    for name in &names[..18] {
        let key = ObjectKey::new(Kind::Pod, "shop", name).unwrap();
        let _ = store.update(vec![Change::Delete { key, uid: String::new() }], common::NOW).unwrap();
    }
    drop(store);
    disk.live()
}

#[test]
fn a_compaction_survives_every_power_cut_and_every_refusal() {
    install_panic_hook();
    let campaign = std::env::var_os("CKPT_DB_IMAGES").is_some();
    let unlocker = common::secret();
    let unlockers = [&unlocker];
    let image = sparse(&unlocker);
    let disk = Disk::with(image.clone());
    let mut store = open(&disk, &unlockers);
    let begin = disk.ops();
    let first = store.snapshot().unwrap().into_inner();
    let before = store.size().unwrap().unwrap();
    store.compact().unwrap();
    let after = store.size().unwrap().unwrap();
    assert!(after.file_bytes < before.file_bytes / 2, "{before:?}, {after:?}");
    assert_eq!(told(store.snapshot().unwrap().get()), told(&first));
    drop(store);
    let ops = disk.done();
    let syncs = ops[begin..].iter().filter(|op| **op == Op::Sync).count();

    let run = Run {
        recorded: Recorded { before: image.clone(), ops: ops.clone(), lost: disk.lost() },
        acknowledged: vec![(0, first.revision())],
        states: BTreeMap::from([(first.revision(), told(&first))]),
        unlockers: vec![unlocker.clone()],
    };
    let mut tried = 0;
    for (at, moment) in run.recorded.moments() {
        // The extremes at each operation, and a few of the others.
        let fates =
            moment.fates(at, 4).into_iter().enumerate().filter(|(n, _)| campaign || *n < 2 || n % 40 == at % 40);
        for (_, fate) in fates {
            tried += 1;
            if let Some(problem) = run.problem(at, moment.image(fate)) {
                panic!("after {at} of {} operations, {fate:?}: {problem}", ops.len());
            }
        }
    }

    let (mut refused, step) = (0, if campaign { 1 } else { 7 });
    for (class, errno) in [(Class::Write, EIO), (Class::Write, ENOSPC), (Class::Sync, EIO), (Class::Read, EIO)] {
        for at in (0..ops.len() - begin).step_by(step) {
            let disk = Disk::with(image.clone());
            let mut store = open(&disk, &unlockers);
            disk.set(Some(Fault { at, class, errno, lasts: Lasts::ForEver }));
            let Err(error) = store.compact() else { continue };
            refused += 1;
            assert!(error.needs_reopening(), "{error}");
            drop(store);
            disk.set(None);
            let mut store = open(&disk, &unlockers);
            assert_eq!(told(store.snapshot().unwrap().get()), told(&first), "{class:?} {at}");
            store.compact().unwrap();
            assert_eq!(told(store.snapshot().unwrap().get()), told(&first), "{class:?} {at}, compacted again");
        }
    }
    assert!(refused > 10, "{refused}");
    println!(
        "a compaction of {} to {} bytes: {} operations, {syncs} syncs; {tried} images of the disk, {refused} refusals; lost: 0",
        before.file_bytes,
        after.file_bytes,
        ops.len() - begin
    );
}
