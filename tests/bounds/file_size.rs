//! The store's file: at most three times what is stored, however much was changed, and the same contents after each attempt to
//! make it shorter.

use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_db::agent::{Compaction, Idle, StoreThread};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{Backend, Change, Missing, NewStore, RedbStore, open_offline};
use serde_json::json;

use crate::common::random::Random;
use crate::common::{NOW, identity, object, secret};
use crate::{alone, amount};

/// One pod for each two others: a Secret and a ConfigMap that it names.
const PODS: usize = 100;

/// 1 KiB, and now and then some hundred.
fn length(random: &mut Random) -> usize {
    match random.below(20) {
        0 => 100_000 + random.below(300_000),
        1..=4 => 10_000 + random.below(50_000),
        _ => 600 + random.below(2_000),
    }
}

fn data(kind: Kind, number: usize, round: usize, random: &mut Random) -> Object {
    let length = length(random);
    let letters: String = std::iter::repeat_with(|| char::from(b'a' + (random.next() % 26) as u8)).take(50).collect();
    let text = letters.repeat(length / letters.len());
    let text = if kind == Kind::Secret { data_encoding::BASE64.encode(text.as_bytes()) } else { text };
    let name = format!("d{number}");
    let metadata = json!({"name": name, "namespace": "shop", "uid": format!("{kind}-{number}"), "resourceVersion": format!("{round}")});
    object(kind, "shop", &name, json!({"metadata": metadata, "data": {"k": text}}))
}

fn pod(number: usize, round: usize, random: &mut Random) -> Object {
    let name = format!("d{number}");
    object(
        Kind::Pod,
        "shop",
        &format!("p{number}"),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{number}"), "namespace": "shop", "uid": format!("pod-{number}"),
                         "annotations": {"round": "x".repeat(random.below(3_000)), "number": format!("{round}")}},
            "spec": {
                "containers": [{"name": "c", "image": "registry.example/app:1"}],
                "volumes": [
                    {"name": "s", "secret": {"secretName": name}},
                    {"name": "c", "configMap": {"name": name}},
                ],
            },
        }),
    )
}

/// The `round`-th change: another value of a random object, or a pod that goes with what it names, or one that comes again.
fn change(round: usize, gone: &mut Option<usize>, random: &mut Random) -> Change {
    if let Some(number) = gone.take() {
        let with = vec![data(Kind::Secret, number, round, random), data(Kind::ConfigMap, number, round, random)];
        return Change::Apply { object: pod(number, round, random), with };
    }
    let number = random.below(PODS);
    match random.below(20) {
        0 => {
            *gone = Some(number);
            let key = ObjectKey::new(Kind::Pod, "shop", &format!("p{number}")).unwrap();
            Change::Delete { key, uid: String::new() }
        }
        1..=4 => Change::Apply { object: pod(number, round, random), with: Vec::new() },
        n => {
            let kind = if n % 2 == 0 { Kind::Secret } else { Kind::ConfigMap };
            Change::Apply { object: data(kind, number, round, random), with: Vec::new() }
        }
    }
}

/// 300 objects.
fn store_of_300(path: &Path, random: &mut Random) -> (RedbStore, store_format::Unlocker) {
    let key = secret();
    let new = NewStore { identity: identity(), secret: Some(&key) };
    let mut store = RedbStore::create(path, new, Box::new(SystemEntropy)).unwrap();
    let objects = (0..PODS).flat_map(|number| {
        [pod(number, 0, random), data(Kind::Secret, number, 0, random), data(Kind::ConfigMap, number, 0, random)]
    });
    let listing = Change::Reset { objects: objects.collect(), kinds: Kind::ALL.to_vec(), missing: Missing::Delete };
    let _ = store.update(vec![listing], NOW).unwrap();
    (store, key)
}

/// Where a file lies in memory: what counts here is its length, and syncs would take most of the time.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

#[test]
fn the_file_stays_within_three_times_what_is_stored() {
    let _turn = alone();
    let changes = amount(100_000, 60);
    let mut random = Random::new(7);
    let directory = directory();
    let path = directory.path().join("checkpoint-store.db");
    let (mut store, key) = store_of_300(&path, &mut random);
    let began = Instant::now();
    let (mut gone, mut longest, mut worst) = (None, 0, 0.0_f64);
    for round in 1..=changes {
        let _ = store.update(vec![change(round, &mut gone, &mut random)], NOW + round as u64).unwrap();
        if round % (changes / 20) == 0 {
            let size = store.size().unwrap().unwrap();
            longest = longest.max(size.file_bytes);
            worst = worst.max(size.file_bytes as f64 / size.live_bytes as f64);
        }
    }
    let took = began.elapsed();
    let before = store.size().unwrap().unwrap();
    let told = store.snapshot().unwrap().into_inner();
    let bodies = |snapshot: &ckpt_db::store::Snapshot| -> Vec<_> {
        let all = Kind::ALL.into_iter().flat_map(|kind| snapshot.all(kind));
        all.map(|object| (object.key.clone(), object.body.expose().to_vec())).collect()
    };
    assert!(told.log().count() <= store_format::LOG_RECORDS_MAX, "the log of changes is bounded");

    // As the agent does it when nothing is written for a while.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let idle = Idle { compaction: Compaction::in_a_hurry(), failed: Box::new(|error| panic!("{error}")) };
    let thread = StoreThread::start_compacting(Box::new(store), || NOW, idle).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let began = Instant::now();
    while std::fs::metadata(&path).unwrap().len() > 2 * before.live_bytes {
        assert!(Instant::now() < deadline, "it is never made shorter");
        std::thread::yield_now();
    }
    let compacted_in = began.elapsed();
    let store = runtime.block_on(thread.close()).unwrap();
    let after = store.size().unwrap().unwrap();
    assert_eq!(bodies(store.snapshot().unwrap().get()), bodies(&told));
    drop(store);
    let again = open_offline(&path, &[&key]).unwrap().into_inner();
    assert_eq!(again.findings(), []);
    assert_eq!(bodies(&again), bodies(&told));
    eprintln!(
        "{changes} changes of 300 objects in {took:.1?}: stored {} bytes; file {} bytes ({:.2} times; at worst {longest} bytes, \
         {worst:.2} times), {} bytes ({:.2} times) when idle for a while, which took {compacted_in:.1?}; log of {} records",
        before.live_bytes,
        before.file_bytes,
        before.file_bytes as f64 / before.live_bytes as f64,
        after.file_bytes,
        after.file_bytes as f64 / after.live_bytes as f64,
        again.log().count(),
    );
    assert!(after.file_bytes <= 3 * after.live_bytes);
    eprintln!(
        "campaign: bounds, file size: {changes} changes, {:.2} times what is stored when idle, 0 objects changed by compaction",
        after.file_bytes as f64 / after.live_bytes as f64
    );
}
