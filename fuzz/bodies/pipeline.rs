//! The way of stored objects to what would be rendered, and what must hold of it whatever the objects are.

use ckpt_db::agent::assess;
use ckpt_db::checkpoint::decide::PodNetwork;
use ckpt_db::checkpoint::images::NodeImages;
use ckpt_db::checkpoint::lookup::Objects as _;
use ckpt_db::checkpoint::object::{Kind, Object};
use ckpt_db::checkpoint::rendering::Rendering;
use ckpt_db::checkpoint::settings::{SecretEnv, Settings};
use ckpt_db::checkpoint::verdict::Verdict;
use ckpt_db::store::Snapshot;

use super::assert_shown;

#[path = "../../tests/manifest_checker/mod.rs"]
mod manifest_checker;

/// Reads everything that the snapshot has, judges every pod, and looks at each rendering.
pub fn walk(snapshot: &Snapshot) {
    for finding in snapshot.findings() {
        assert_shown(&finding.to_string());
    }
    for (_, record) in snapshot.log() {
        drop(record);
    }
    for kind in Kind::ALL {
        drop(snapshot.all(kind));
    }
    for stored in snapshot.objects() {
        drop(snapshot.get(stored.key));
        for (key, _) in snapshot.absent(stored.key) {
            assert_shown(&key.to_string());
        }
        let _ = (snapshot.lifecycle(stored.key), snapshot.ended(stored.key), snapshot.held(stored.key));
    }
    let settings = Settings { secret_env: SecretEnv::Literal, ..Settings::default() };
    let own_name = snapshot.node_name().is_none().then_some("edge-1");
    let Ok(outcome) = assess(snapshot, &settings, own_name, PodNetwork::Yes, &NodeImages::unknown()) else { return };
    for (pod, _, verdict) in &outcome.decision.verdicts {
        assert_shown(&pod.to_string());
        // These may quote the pod; whoever shows them escapes them (`tests/hostile/`).
        match verdict {
            Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes } => {
                notes.iter().for_each(|note| drop(note.to_string()));
            }
            Verdict::NotRecoverable { reasons } => {
                assert!((1..=64).contains(&reasons.len()), "{}", reasons.len());
                reasons.iter().for_each(|reason| drop(reason.to_string()));
            }
            Verdict::NotMeant(why) => drop(why.to_string()),
        }
    }
    for planned in &outcome.decision.plan.pods {
        stays_in_place(&planned.rendering);
    }
}

/// What the parent may have had wrong already.
const COPIED: [&str; 7] =
    ["names no volume", ".mountPath", ".hostPath.type", "contradicts itself", "fileKeyRef", "two sources", "has a NUL"];

/// A rendering is a static pod, and names nothing outside of its own directory.
fn stays_in_place(rendering: &Rendering) {
    let plain = |part: &String| !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\0']);
    let part = |part: &String| plain(part) && part.len() <= 255;
    assert!(part(&rendering.pod.namespace) && part(&rendering.pod.name), "{}", rendering.pod);
    for tree in &rendering.trees {
        assert!((1..=2).contains(&tree.path.len()) && tree.path.iter().all(part), "{:?}", tree.path);
        for file in &tree.files {
            assert!(!file.path.is_empty() && file.path.iter().all(plain), "{:?}", file.path);
            assert!(!file.path[0].starts_with(".."), "{:?}", file.path);
        }
    }
    let mut refusals = manifest_checker::refusals(rendering.manifest.json.expose());
    // An API server takes no such parent. Its copy is what it was, and the kubelet says what is wrong with it.
    refusals.retain(|refusal| !COPIED.iter().any(|copied| refusal.contains(copied)));
    assert_eq!(refusals, Vec::<String>::new());
}

/// The objects as a node would have stored them, judged.
pub fn judge(objects: Vec<Object>) {
    use ckpt_db::store::{Backend as _, Change, MemoryStore, Missing};
    use store_format::{Identity, StoreId};
    let identity = Identity::new(StoreId([7; 16]), 1, "edge-1");
    let mut store = MemoryStore::new(identity, Box::new(ckpt_db::crypto::SystemEntropy)).unwrap();
    let kinds = Kind::ALL.to_vec();
    // A refusal is an answer; it costs the change.
    let _ = store.update(vec![Change::Reset { objects, kinds, missing: Missing::Delete }], 1);
    walk(store.snapshot().unwrap().get());
}
