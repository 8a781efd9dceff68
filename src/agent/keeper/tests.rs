//! Passes over small stores, without a runtime or an API server.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::checkpoint::lifecycle::State;
use crate::crypto::SystemEntropy;
use crate::materialize::{Owners, Roots, SecretRootPolicy};
use crate::node::boot::Source;
use crate::store::{Backend as _, MemoryStore};

/// A store of one pod that has run.
fn store() -> MemoryStore {
    let identity = store_format::Identity::new(store_format::StoreId([7; 16]), 0, "edge-1");
    let mut store = MemoryStore::new(identity, Box::new(SystemEntropy)).unwrap();
    let body = serde_json::json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
        "spec": {"nodeName": "edge-1", "restartPolicy": "Always", "containers": [{"name": "c", "image": "i:1"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {}}}]},
    });
    let key = ObjectKey::new(Kind::Pod, "shop", "web").unwrap();
    let (uid, body) = ("u1".to_owned(), body.to_string().into());
    let object = Object { key, uid, resource_version: String::new(), body };
    let _ = store.update(vec![Change::Apply { object, with: Vec::new() }, Change::Complete], 0).unwrap();
    store
}

fn keeper(root: &Path, activation: ActivationPolicy) -> Keeper {
    let manifests = root.join("manifests");
    let roots = Roots {
        manifests: manifests.clone(),
        prepared: root.join("prepared"),
        secrets: root.join("secrets"),
        configmaps: root.join("configmaps"),
    };
    let boot = Source::File(root.join("no-boot-id"));
    let keeping = Keeping {
        acts: true,
        settings: Settings { activation, ..Settings::default() },
        own_name: None,
        target: Target { roots, secret_root: SecretRootPolicy::AllowDisk, owners: Owners::Unchanged },
        rules: Rules { break_glass: activation != ActivationPolicy::Off, ..Rules::default() },
        network: Box::new(|| PodNetwork::Yes),
        sights: Sights { root: root.to_owned(), manifests, cri_socket: None, boot },
    };
    Keeper::new(keeping, None)
}

/// As on a node whose disk is read-only: pass after pass over the same snapshot.
#[test]
fn what_could_not_be_recorded_is_told_and_done_once_and_offered_again() {
    let root = tempfile::tempdir().unwrap();
    let mut store = store();
    let snapshot = store.snapshot().unwrap();
    let mut keeper = keeper(root.path(), ActivationPolicy::All);
    let mut passes = Vec::new();
    for _ in 0..4 {
        let kept = keeper.pass_now(&snapshot, 0).unwrap();
        passes.push((kept.news.len(), kept.report.is_some(), kept.changes.len()));
    }
    assert_eq!(passes[0], (1, true, 1));
    // By hand each pass is a whole one.
    assert_eq!(passes[1..], [(0, true, 1); 3]);
    assert!(root.path().join("manifests/shop_web.json").exists());

    // The disk is back: it is on record, and nothing is left to be said.
    let decided = keeper.pass_now(&snapshot, 0).unwrap().changes;
    let _ = store.update(decided, 0).unwrap();
    let kept = keeper.pass_now(&store.snapshot().unwrap(), 0).unwrap();
    assert_eq!((kept.news.len(), kept.changes.len()), (0, 0));
}

#[test]
fn a_period_that_runs_on_is_no_news() {
    let pod = PodName { namespace: "shop".to_owned(), name: "web".to_owned() };
    let record = |state, why: &str| Record {
        pod: pod.clone(),
        uid: "uid".to_owned(),
        state,
        republished: 0,
        why: why.to_owned(),
    };
    let over = |left_ms| record(State::HandedOver { left_ms }, "the parent has taken over");
    let active = record(State::Active, "the API server is silent");
    let mut said = Said::default();
    // What a pass records, whether the pod is there, and how much of it is news.
    let passes = [
        (vec![active.clone()], true, 1),
        (vec![over(60_000)], true, 1),
        (Vec::new(), true, 0),
        (vec![over(50_000)], true, 0),
        (vec![record(State::HandedOver { left_ms: 40_000 }, "its parent is gone")], true, 1),
        (vec![active.clone()], true, 1),
        (Vec::new(), false, 0),
        (vec![active], true, 1),
    ];
    for (number, (records, there, want)) in passes.into_iter().enumerate() {
        let news = said.news(&records, there.then_some(&pod).into_iter());
        assert_eq!(news.len(), want, "pass {number}");
    }
}

/// One that has to go before its parent goes by what was seen of the node a moment ago, and only then.
#[tokio::test]
async fn a_glance_is_for_an_api_server_that_begins() {
    let silent = ApiServer { routed_since_ms: None, ..ApiServer::silent() };
    let signs = |sign_ms| ApiServer { sign_ms, ..silent.clone() };
    let answers = ApiServer { reach: Answers::Answering, ..silent.clone() };
    let refuses = ApiServer { reach: Answers::Refusing, ..silent.clone() };
    #[rustfmt::skip]
    let rows = [
        // before          now               ms later  a glance
        (silent.clone(),   answers.clone(),  0,        true),
        (silent.clone(),   answers.clone(),  2_500,    true),
        (silent.clone(),   answers.clone(),  2_501,    false),
        (refuses.clone(),  answers.clone(),  0,        true),
        (silent.clone(),   signs(Some(7)),   0,        true),
        (signs(Some(7)),   signs(Some(7)),   0,        false),
        (signs(Some(7)),   answers.clone(),  0,        true),
        (answers.clone(),  answers.clone(),  0,        false),
        (answers.clone(),  silent.clone(),   0,        false),
        (silent.clone(),   silent.clone(),   0,        false),
        (silent.clone(),   refuses.clone(),  0,        false),
    ];
    let root = tempfile::tempdir().unwrap();
    for (before, now, later_ms, want) in rows {
        let mut keeper = keeper(root.path(), ActivationPolicy::All);
        assert!(keeper.glance(&now, 0).is_none(), "nobody has looked yet");
        let (look, _) = keeper.look(before.clone()).await;
        let now_ms = look.now_ms + later_ms;
        let glance = keeper.glance(&now, now_ms);
        assert_eq!(glance.is_some(), want, "{before:?}, then {now:?}");
        if let Some((glance, _)) = glance {
            assert_eq!((glance.now_ms, glance.api), (now_ms, now.clone()));
            assert!(keeper.glance(&now, now_ms).is_none(), "the next look is one");
        }
    }
}

#[test]
fn shadow_mode_records_nothing_however_often_it_looks() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = store().snapshot().unwrap();
    let mut keeper = keeper(root.path(), ActivationPolicy::Off);
    for _ in 0..3 {
        let kept = keeper.pass_now(&snapshot, 0).unwrap();
        assert_eq!((kept.report, kept.changes.len()), (None, 0));
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "something was touched");
}

/// A pod that is prepared and never started, one whose copy has to go before its parent comes, and one whose parent is gone.
fn copies() -> MemoryStore {
    let mut store = store();
    let mut add = |name: &str, metadata: serde_json::Value, ports: serde_json::Value| {
        let mut body = serde_json::json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"nodeName": "edge-1", "restartPolicy": "Always", "containers": [{"name": "c", "image": "i:1", "ports": ports}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {}}}]},
        });
        let more = metadata.as_object().unwrap().clone();
        body["metadata"].as_object_mut().unwrap().extend(more);
        let key = ObjectKey::new(Kind::Pod, "shop", name).unwrap();
        let object =
            Object { key, uid: name.to_owned(), resource_version: String::new(), body: body.to_string().into() };
        let _ = store.update(vec![Change::Apply { object, with: Vec::new() }], 0).unwrap();
    };
    let owner = serde_json::json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "s", "controller": true}]);
    add("db", serde_json::json!({"ownerReferences": owner}), serde_json::json!([]));
    add("edge", serde_json::json!({}), serde_json::json!([{"containerPort": 80, "hostPort": 80}]));
    add("gone", serde_json::json!({}), serde_json::json!([]));
    store
}

/// From one policy to `off`: nobody else hands the copies over that run.
#[tokio::test]
async fn copies_of_before_the_policy_was_off_go_when_their_parents_take_over() {
    let root = tempfile::tempdir().unwrap();
    let mut store = copies();
    let named = |directory: &str| {
        let names = std::fs::read_dir(root.path().join(directory)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name.ends_with(".json"));
        names.sort();
        names
    };
    let rendered = {
        let snapshot = store.snapshot().unwrap();
        tokio::task::spawn_blocking({
            let mut keeper = keeper(root.path(), ActivationPolicy::All);
            move || keeper.pass_now(&snapshot, 0).unwrap().changes
        })
        .await
        .unwrap()
    };
    let _ = store.update(rendered, 0).unwrap();
    assert_eq!(named("manifests"), ["shop_edge.json", "shop_gone.json", "shop_web.json"]);
    assert_eq!(named("prepared"), ["shop_db.json"]);
    let gone = Change::Delete { key: ObjectKey::new(Kind::Pod, "shop", "gone").unwrap(), uid: "gone".to_owned() };
    let _ = store.update(vec![gone], 0).unwrap();

    let mut keeper = keeper(root.path(), ActivationPolicy::Off);
    let silent = ApiServer::silent();
    let mut pass = async |store: &mut MemoryStore, api: ApiServer| {
        let (look, images) = keeper.look(api).await;
        let kept = keeper.pass(&store.snapshot().unwrap(), look, &images, 0).unwrap();
        let _ = store.update(kept.changes.clone(), 0).unwrap();
        kept
    };
    for _ in 0..2 {
        let kept = pass(&mut store, silent.clone()).await;
        let left = kept.left_over.unwrap();
        assert!(left.contains("copies that were started before still run (shop/edge, shop/web): "), "{left}");
        assert_eq!(named("manifests"), ["shop_edge.json", "shop_web.json"], "that of a parent that is gone has gone");
    }
    let sighted =
        BTreeMap::from([(PodName { namespace: "shop".to_owned(), name: "edge".to_owned() }, "edge".to_owned())]);
    let answers = ApiServer { reach: Answers::Answering, in_step: true, sighted, ..silent.clone() };
    let kept = pass(&mut store, answers).await;
    assert_eq!(named("manifests"), ["shop_web.json"]);
    let states: Vec<_> = kept.news.iter().map(|record| (record.pod.name.as_str(), record.state.code())).collect();
    assert_eq!(states, [("edge", "HandedOver")]);
    assert_eq!(named("prepared"), ["shop_db.json"], "what no kubelet reads is left as it is");

    // With nothing left nothing is touched; what an earlier process had to leave, since containers had it mounted, goes.
    let tree = root.path().join("secrets/shop/late");
    std::fs::create_dir_all(&tree).unwrap();
    assert!(pass(&mut store, silent.clone()).await.report.is_some());
    assert!(!tree.exists(), "it has no mark, and so no container");
    std::fs::remove_file(root.path().join("manifests/shop_web.json")).unwrap();
    let _ = pass(&mut store, silent.clone()).await;
    let kept = pass(&mut store, silent).await;
    assert_eq!((kept.left_over, kept.report, kept.changes.len()), (None, None, 0));
    assert_eq!(named("manifests"), [""; 0], "no copy is started");
    assert_eq!(named("prepared"), ["shop_db.json"]);
}

#[tokio::test]
async fn files_are_looked_at_often_while_a_copy_runs_from_them_and_rarely_else() {
    let silent = ApiServer::silent();
    let web = PodName { namespace: "shop".to_owned(), name: "web".to_owned() };
    let sighted = BTreeMap::from([(web, "u1".to_owned())]);
    let answers = ApiServer { reach: Answers::Answering, in_step: true, sighted, ..silent.clone() };
    // Whether a copy was started before, what the API server does, and when a pass looks at all files.
    let rows = [(true, silent, [true, false, true, true, true]), (false, answers, [true, false, false, false, true])];
    for (active, api, want) in rows {
        let root = tempfile::tempdir().unwrap();
        let mut store = store();
        if active {
            let snapshot = store.snapshot().unwrap();
            let mut before = keeper(root.path(), ActivationPolicy::All);
            let pass = tokio::task::spawn_blocking(move || before.pass_now(&snapshot, 0).unwrap().changes);
            let _ = store.update(pass.await.unwrap(), 0).unwrap();
        }
        let mut keeper = keeper(root.path(), ActivationPolicy::All);
        keeper.keeping.rules.break_glass = false;
        let (look, images) = keeper.look(api).await;
        let mut looked = Vec::new();
        for later_ms in [0, 19_999, 20_000, 299_999, 320_000] {
            let look = Look { now_ms: look.now_ms + later_ms, ..look.clone() };
            let kept = keeper.pass(&store.snapshot().unwrap(), look, &images, 0).unwrap();
            assert_eq!(kept.active, active);
            looked.push(kept.report.is_some());
        }
        assert_eq!(looked, want, "active: {active}");
    }
}
