//! Memory over twenty thousand rounds, each of which decides about every pod and renders what has changed: no more at the end
//! than after a tenth of them.
//!
//! The clock of the rounds is moved, so that what is to be removed after some time goes as well.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ckpt_db::agent::{
    About, Keeper, Keeping, Kept, LastAnswer, Latest, PassError, Rounds, Shared, Sights, StoreThread, Target, Watcher,
};
use ckpt_db::checkpoint::decide::PodNetwork;
use ckpt_db::checkpoint::lifecycle::Rules;
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::settings::{ActivationPolicy, Settings};
use ckpt_db::materialize::{Owners, Roots, SecretRootPolicy};
use ckpt_db::node::boot;
use ckpt_db::store::{Change, Missing, Snapshot, StoreError, Update};
use serde_json::json;
use stats_alloc::INSTRUMENTED_SYSTEM;

use crate::common::random::Random;
use crate::common::{NOW, object, secret, store_with};
use crate::memory::{SLACK_BYTES, SLACK_RESIDENT_KIB, live, resident_kib};
use crate::{alone, amount};

/// Pods, each with a Secret and a ConfigMap of its own.
const PODS: usize = 20;

/// The wall clock of the rounds; each is a minute after the one before.
static CLOCK_MS: AtomicU64 = AtomicU64::new(NOW);

fn clock_ms() -> u64 {
    CLOCK_MS.load(Ordering::Relaxed)
}

struct Strict;

impl Watcher for Strict {
    fn kept(&mut self, kept: &Kept, _: &Snapshot) {
        let report = kept.report.as_ref().expect("something is rendered in each round");
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let failed = report.outcomes.iter().find(|(_, outcome)| outcome.is_failure());
        assert!(failed.is_none(), "{failed:?}");
    }

    fn failed(&mut self, error: &PassError) {
        panic!("{error}");
    }

    fn recorded(&mut self, _: &Update) {}

    fn not_recorded(&mut self, error: &StoreError) {
        panic!("{error}");
    }
}

fn pod(name: &str, round: usize) -> Object {
    let spec = json!({
        "nodeName": "edge-1",
        "containers": [{"name": "c", "image": "registry.example/app:1", "args": [round.to_string()]}],
        "volumes": [{"name": "s", "secret": {"secretName": name}}, {"name": "c", "configMap": {"name": name}}],
    });
    let metadata = json!({"name": name, "namespace": "shop", "uid": format!("uid-{name}")});
    object(Kind::Pod, "shop", name, json!({"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}))
}

/// The Secret or ConfigMap of a pod, which says of which round it is.
fn data(kind: Kind, name: &str, round: usize) -> Object {
    let text = format!("{round} ").repeat(1 + round % 50);
    let text = if kind == Kind::Secret { data_encoding::BASE64.encode(text.as_bytes()) } else { text };
    object(kind, "shop", name, json!({"metadata": {"name": name, "namespace": "shop"}, "data": {"k": text}}))
}

fn with(name: &str, round: usize) -> [Object; 3] {
    [pod(name, round), data(Kind::Secret, name, round), data(Kind::ConfigMap, name, round)]
}

/// Changes for one round: another value, another pod, or one that never was before in the place of one that goes.
fn changes(round: usize, names: &mut [String], random: &mut Random) -> Vec<Change> {
    let name = &mut names[random.below(PODS)];
    let apply = |object| Change::Apply { object, with: Vec::new() };
    match random.below(20) {
        0 => {
            let key = ObjectKey::new(Kind::Pod, "shop", name).unwrap();
            *name = format!("p{round}");
            let [pod, secret, config] = with(name, round);
            vec![Change::Delete { key, uid: String::new() }, Change::Apply { object: pod, with: vec![secret, config] }]
        }
        1..=4 => vec![apply(pod(name, round))],
        5..=12 => vec![apply(data(Kind::Secret, name, round))],
        _ => vec![apply(data(Kind::ConfigMap, name, round))],
    }
}

fn rounds(root: &Path, shared: Arc<Shared>, store: &Path) -> Rounds {
    let manifests = root.join("manifests");
    let roots = Roots {
        manifests: manifests.clone(),
        prepared: root.join("inactive-manifests"),
        secrets: root.join("secrets"),
        configmaps: root.join("configmaps"),
    };
    let sights = Sights {
        root: root.to_owned(),
        manifests,
        cri_socket: None,
        boot: boot::Source::File(root.join("no-boot-id")),
    };
    let keeping = Keeping {
        acts: true,
        settings: Settings { activation: ActivationPolicy::All, ..Settings::default() },
        own_name: None,
        target: Target { roots, secret_root: SecretRootPolicy::AllowDisk, owners: Owners::Unchanged },
        // Nobody says what runs on this node: copies are started all the same, and each round is a whole one.
        rules: Rules { break_glass: true, ..Rules::default() },
        network: Box::new(|| PodNetwork::Yes),
        sights,
    };
    let about = About {
        path: store.to_owned(),
        checkpointing: true,
        left_over: None,
        policy: ActivationPolicy::All,
        started_ms: (NOW, 0),
    };
    let latest = Arc::new(Latest::new(about));
    Rounds::new(Keeper::new(keeping, None), shared, latest, None, clock_ms, Box::new(Strict), LastAnswer::at(None))
}

#[test]
fn twenty_thousand_rounds_leave_nothing_behind() {
    let _turn = alone();
    let all = amount(20_000, 200);
    // In memory: each round syncs what it renders, and no power is cut.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (root, path) = (directory.path().join("root"), directory.path().join("store.db"));
    fs::create_dir(&root).unwrap();
    let mut names: Vec<String> = (0..PODS).map(|n| format!("p-{n}")).collect();
    let objects: Vec<Object> = names.iter().flat_map(|name| with(name, 0)).collect();
    let mut store = store_with(&path, Vec::new(), &secret());
    let listing = Change::Reset { objects, kinds: Kind::ALL.to_vec(), missing: Missing::Delete };
    let _ = ckpt_db::store::Backend::update(&mut store, vec![listing], NOW).unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let shared = Arc::<Shared>::default();
    let mut rounds = rounds(&root, Arc::clone(&shared), &path);
    let mut random = Random::new(11);
    let measure = || (live(&INSTRUMENTED_SYSTEM.stats()), resident_kib());
    let (mut begin, mut born, began) = (None, 0, Instant::now());
    runtime.block_on(async {
        let thread = StoreThread::start(Box::new(store), clock_ms).unwrap();
        let handle = thread.handle();
        shared.opened(handle.clone());
        for round in 1..=all {
            let changes = changes(round, &mut names, &mut random);
            born += usize::from(changes.len() == 2);
            let _ = handle.update(changes).await.unwrap();
            CLOCK_MS.fetch_add(60_000, Ordering::Relaxed);
            rounds.round().await;
            if round == all / 10 {
                begin = Some(measure());
            }
        }
        // What the containers of pods that went may still have mounted goes a few minutes later.
        for _ in 0..20 {
            CLOCK_MS.fetch_add(60_000, Ordering::Relaxed);
            rounds.round().await;
        }
        shared.closed(None);
        drop(handle);
        drop(thread.close().await);
    });
    let (begin, end) = (begin.unwrap(), measure());

    // They rendered: what each pod has on the disk is what is stored of it, and nothing is there of those that went.
    let entries =
        |at: &str| fs::read_dir(root.join(at)).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(entries("manifests").iter().filter(|name| name.to_string_lossy().ends_with(".json")).count(), PODS);
    for tree in ["secrets/shop", "configmaps/shop"] {
        assert_eq!(entries(tree).len(), PODS, "{tree}");
        for name in &names {
            let value = fs::read_to_string(root.join(tree).join(name).join(name).join("k")).unwrap();
            assert!(value.ends_with(' '), "{tree} of {name}: {value:?}");
        }
    }
    eprintln!(
        "{all} rounds over {PODS} pods ({born} that came and went) in {:.1?}: live heap {} bytes after a tenth, {} at the end; \
         resident {} KiB after a tenth, {} at the end",
        began.elapsed(),
        begin.0,
        end.0,
        begin.1,
        end.1
    );
    assert!(end.0 - begin.0 <= SLACK_BYTES as isize, "live heap grows: {} bytes", end.0 - begin.0);
    assert!(end.1 <= begin.1 + SLACK_RESIDENT_KIB, "the process grows: {} KiB", end.1 - begin.1);
    eprintln!(
        "campaign: bounds, memory of rounds: {all} rounds, live heap {} bytes after a tenth of them, {} at the end",
        begin.0, end.0
    );
}
