//! How long a change waits for durability: one object, a burst of 300, a pod with its closure.
//!
//! The library is asked as the agent asks it, with a store of 150 pods and their 300 objects, so that a cost that grows with
//! the store would show. What is compared writes the same bytes of JSON.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ckpt_db::agent::StoreThread;
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::crypto::{SystemEntropy, generate_p256_pkcs8};
use ckpt_db::embed::Durable;
use ckpt_db::store::{Backend as _, Change, Missing, NewStore, RedbStore, Revision};
use data_encoding::BASE64;
use serde_json::{Value, json};
use store_format::{Identity, NodeSecret, StoreId, Unlocker};

use crate::Bench;
use crate::disk::{Files, Log};
use crate::measure::{Contender, interleaved, millis, ratio};
use crate::replay::Replay;
use crate::report::{Report, Target};

const PODS: usize = 150;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let directory = bench.directory();
    let mut store = store(directory.path());
    let objects = |round: usize| (0..PODS).flat_map(move |pod| [secret(pod, round), configmap(pod, round)]);
    let mut details = serde_json::Map::new();
    let mut case =
        |report: &mut Report, what: &str, rounds, targets: [Target; 2], make: &dyn Fn(usize) -> Vec<Object>| {
            let file = directory.path().join("store.db");
            details.insert(what.to_owned(), one_case(bench, report, (&mut store, &file), what, rounds, targets, make));
        };
    let single = [Target::AtMost(2.6), Target::AtMost(4.0)];
    case(report, "one changed object", bench.rounds(60), single, &|round| vec![configmap(7, round)]);
    case(report, "a pod with its closure", bench.rounds(40), [Target::None, Target::None], &|round| {
        vec![pod(9, round), secret(9, round), configmap(9, round)]
    });
    let burst = [Target::AtMost(2.2), Target::None];
    case(report, "a burst of 300", bench.rounds(12), burst, &|round| objects(round).collect());
    drop(store);
    let commits = commits_of_a_burst(directory.path(), objects(1_000_000).collect());
    report.row("commit", "commits of a burst of 300", (commits as f64, ""), Target::AtMost(1.0), "");
    details.insert("commits of a burst of 300".to_owned(), commits.into());
    report.details("commit", details.into());
}

fn one_case(
    bench: &Bench,
    report: &mut Report,
    (store, path): (&mut RedbStore, &std::path::Path),
    what: &str,
    rounds: usize,
    [median, p90]: [Target; 2],
    make: &dyn Fn(usize) -> Vec<Object>,
) -> Value {
    let directory = bench.directory();
    let mut log = Log::new(directory.path());
    let mut replay = Replay::of(path, &key(), now_ms(), &|round| changes(make(round)), directory.path());
    let (pages, places) = replay.shape();
    let files = Files::new(directory.path());
    let rows = |round| -> Vec<(String, Vec<u8>)> {
        let objects = make(round).into_iter();
        objects.map(|object| (file_name(&object), object.body.expose().to_vec())).collect()
    };
    #[cfg(feature = "peers")]
    let (mut sqlite, mut lmdb) =
        (crate::peers::Sqlite::new(directory.path()), crate::peers::Lmdb::new(directory.path()));
    #[cfg_attr(not(feature = "peers"), allow(unused_mut, clippy::useless_vec, reason = "peers are added"))]
    let mut names = vec!["ckpt-db", "floor", "its writes and syncs alone", "atomic files"];
    let mut contenders: Vec<Contender<'_>> = vec![
        Box::new(|round| {
            // As it was stored it is round 0.
            let objects = make(round + 1);
            let count = objects.len();
            let changes = changes(objects);
            let before = revision(store);
            let began = Instant::now();
            let update = store.update(changes, now_ms()).unwrap().into_inner();
            let time = began.elapsed();
            assert_eq!((update.stored.len(), update.revision.0), (count, before.0 + 1), "round {round}");
            time
        }),
        Box::new(|round| log.append(&rows(round).into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>())),
        Box::new(|round| replay.commit(round)),
        Box::new(|round| files.put(&rows(round))),
    ];
    #[cfg(feature = "peers")]
    {
        names.extend(["SQLite", "LMDB"]);
        contenders.push(Box::new(|round| sqlite.put(&rows(round))));
        contenders.push(Box::new(|round| lmdb.put(&rows(round))));
    }
    let times = interleaved(rounds, &mut contenders);
    drop(contenders);
    let (own, floor) = (&times[0], &times[1]);
    let shown = |time: Duration| format!("{:.2} ms", millis(time));
    let basis = format!("{} against {}", shown(own.median()), shown(floor.median()));
    report.row("commit", what, (ratio(own.median(), floor.median()), "x"), median, basis);
    let basis = format!("{} against the floor's median", shown(own.p90()));
    report.row("commit", format!("{what}, p90"), (ratio(own.p90(), floor.median()), "x"), p90, basis);
    for (name, peer) in names.iter().zip(&times).skip(2) {
        let value = (ratio(peer.median(), floor.median()), "x");
        let place = if *name == "its writes and syncs alone" {
            format!(", {pages} writes in {places} places")
        } else {
            String::new()
        };
        report.row("commit", format!("{what}: {name}"), value, Target::None, shown(peer.median()) + &place);
    }
    let bytes: usize = make(1).iter().map(|object| object.body.len()).sum();
    let times: serde_json::Map<String, Value> =
        names.iter().zip(&times).map(|(name, times)| ((*name).to_owned(), times.json())).collect();
    json!({"objects": make(1).len(), "bytes": bytes, "pages": pages, "places": places, "times": times})
}

/// A pod comes with what it newly needs; all else by itself.
fn changes(objects: Vec<Object>) -> Vec<Change> {
    let mut objects = objects.into_iter();
    match objects.next() {
        Some(pod) if pod.key.kind() == Kind::Pod => vec![Change::Apply { object: pod, with: objects.collect() }],
        first => first.into_iter().chain(objects).map(|object| Change::Apply { object, with: Vec::new() }).collect(),
    }
}

/// How many commits a burst takes that comes as a stream, each object an item of its own.
fn commits_of_a_burst(directory: &std::path::Path, objects: Vec<Object>) -> u64 {
    let store = RedbStore::open(&directory.join("store.db"), &[&key()], Box::new(SystemEntropy)).unwrap();
    let before = revision(&store);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let after = runtime.block_on(async {
        let thread = StoreThread::start(Box::new(store), now_ms).unwrap();
        let source = futures_util::stream::iter(objects);
        let one = |object: &Object| vec![Change::Apply { object: object.clone(), with: Vec::new() }];
        let mut durable = std::pin::pin!(Durable::new(source, thread.handle(), one));
        let mut items = 0;
        while let Some(batch) = futures_util::StreamExt::next(&mut durable).await {
            items += batch.unwrap().into_inner().items.len();
        }
        assert_eq!(items, 2 * PODS);
        thread.handle().last_revision().unwrap()
    });
    after.0 - before.0
}

fn revision(store: &RedbStore) -> Revision {
    store.snapshot().unwrap().get().revision()
}

fn store(directory: &std::path::Path) -> RedbStore {
    let identity = Identity {
        store_id: StoreId([7; 16]),
        created_at_unix_ms: now_ms(),
        node_name: "edge-1".to_owned(),
        node_uid: String::new(),
        cluster_ca_sha256: Vec::new(),
        kubelet_version: String::new(),
    };
    let new = NewStore { identity, secret: Some(&key()) };
    let mut store = RedbStore::create(&directory.join("store.db"), new, Box::new(SystemEntropy)).unwrap();
    let objects = (0..PODS).flat_map(|n| [pod(n, 0), secret(n, 0), configmap(n, 0)]).collect();
    let kinds = vec![Kind::Pod, Kind::Secret, Kind::ConfigMap];
    let listing = vec![Change::Reset { objects, kinds, missing: Missing::Report }, Change::Complete];
    let stored = store.update(listing, now_ms()).unwrap().into_inner().stored.len();
    assert_eq!(stored, 3 * PODS);
    store
}

/// The same each time: a store is opened again.
fn key() -> Unlocker {
    static KEY: std::sync::OnceLock<Unlocker> = std::sync::OnceLock::new();
    let make = || NodeSecret::from_pkcs8(generate_p256_pkcs8().unwrap().expose()).unwrap().into();
    KEY.get_or_init(make).clone()
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn file_name(object: &Object) -> String {
    format!("{}_{}_{}", object.key.kind().row().name, object.key.namespace(), object.key.name())
}

/// Which namespace a pod of this number lives in: some share one.
fn namespace(pod: usize) -> String {
    format!("team-{}", pod % 10)
}

fn object(kind: Kind, pod: usize, round: usize, mut body: Value) -> Object {
    let (namespace, name) = (namespace(pod), format!("app-{pod}"));
    let (uid, version) = (format!("6b3f0d3e-{pod:04}-4c1c-9d0c-{:012}", kind as usize), format!("{}", 100_000 + round));
    let row = kind.row();
    body["apiVersion"] = json!(row.api_version);
    body["kind"] = json!(row.name);
    body["metadata"] = json!({"name": name, "namespace": namespace, "uid": uid, "resourceVersion": version});
    let key = ObjectKey::new(kind, &namespace, &name).unwrap();
    Object { key, uid, resource_version: version, body: body.to_string().into() }
}

fn configmap(pod: usize, round: usize) -> Object {
    object(Kind::ConfigMap, pod, round, json!({"data": {"app.conf": format!("round = {round}\n").repeat(60)}}))
}

fn secret(pod: usize, round: usize) -> Object {
    let value = BASE64.encode(format!("{pod}-{round};").repeat(60).as_bytes());
    object(Kind::Secret, pod, round, json!({"type": "Opaque", "data": {"password": value}}))
}

fn pod(pod: usize, round: usize) -> Object {
    let name = format!("app-{pod}");
    object(Kind::Pod, pod, round, crate::node::pod_body(&name, &name, round))
}
