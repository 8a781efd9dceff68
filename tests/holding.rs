//! A pass that holds: everything is kept ready, nothing is started, stopped or recorded as decided.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ckpt_db::agent::{Rendered, Target, render};
use ckpt_db::checkpoint::decide::PodNetwork;
use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::checkpoint::settings::{Activation, ActivationPolicy, Settings};
use ckpt_db::materialize::{Owners, Roots, SecretRootPolicy};
use ckpt_db::store::{Backend, Change, Missing, RedbStore};
use common::{NOW, objects, secret, store_with};

struct Node {
    directory: tempfile::TempDir,
    store: RedbStore,
}

impl Node {
    /// Three pods, each with a Secret and a ConfigMap.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = store_with(&directory.path().join("store.db"), objects(3), &secret());
        Self { directory, store }
    }

    fn pass(&self, acting: Activation, activation: ActivationPolicy) -> Rendered {
        let at = |name: &str| self.directory.path().join(name);
        let roots = Roots {
            manifests: at("manifests"),
            prepared: at("prepared"),
            secrets: at("secrets"),
            configmaps: at("configmaps"),
        };
        let target = Target { roots, secret_root: SecretRootPolicy::AllowDisk, owners: Owners::Unchanged };
        let settings = Settings { acting, activation, ..Settings::default() };
        let snapshot = self.store.snapshot().unwrap();
        let rendered = render(&snapshot, &settings, None, PodNetwork::Yes, &target, NOW / 1000).unwrap();
        assert!(rendered.report.problems.is_empty(), "{:?}", rendered.report);
        assert!(rendered.report.outcomes.iter().all(|(_, outcome)| !outcome.is_failure()), "{:?}", rendered.report);
        rendered
    }

    fn files(&self, below: &str) -> BTreeMap<String, String> {
        files(&self.directory.path().join(below))
    }
}

fn files(directory: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())).collect()
}

const NAMES: [&str; 3] = ["default_p0.json", "default_p2.json", "shop_p1.json"];

#[test]
fn on_a_new_node_everything_is_prepared_and_nothing_started() {
    let node = Node::new();
    let rendered = node.pass(Activation::Hold, ActivationPolicy::All);
    assert_eq!(node.files("manifests"), BTreeMap::new());
    assert!(node.files("prepared").into_keys().eq(NAMES));
    assert!(rendered.decided.is_empty(), "nothing was decided, and nothing is recorded");
    // What would be decided is said all the same, and done by the pass that may.
    let decided = node.pass(Activation::Decide, ActivationPolicy::All);
    assert_eq!(rendered.decision.verdicts, decided.decision.verdicts);
    assert!(node.files("manifests").into_keys().eq(NAMES));
    assert_eq!(decided.decided.len(), 3);
}

#[test]
fn copies_that_run_go_on_as_they_are_whatever_becomes_of_their_parents() {
    for policy in [ActivationPolicy::All, ActivationPolicy::Annotated, ActivationPolicy::Off] {
        let mut node = Node::new();
        node.pass(Activation::Decide, ActivationPolicy::All);
        let before = node.files("manifests");
        // One pod is gone, one is another, one is new.
        let mut all = objects(4);
        all.retain(|object| object.key != ObjectKey::new(Kind::Pod, "default", "p0").unwrap());
        let changed = all.iter_mut().find(|object| object.key.name() == "p1").unwrap();
        let body = String::from_utf8(changed.body.expose().to_vec()).unwrap().replace("app:1", "app:2");
        assert!(body.contains("app:2"));
        changed.body = body.into();
        let _ = node
            .store
            .update(vec![Change::Reset { objects: all, kinds: Kind::ALL.to_vec(), missing: Missing::Delete }], NOW)
            .unwrap();

        let rendered = node.pass(Activation::Hold, policy);
        assert_eq!(node.files("manifests"), before, "{policy:?}");
        assert!(rendered.decided.is_empty() && rendered.report.removed.is_empty(), "{policy:?}: {:?}", rendered.report);
        let trees = node.directory.path().join("secrets/default/p0");
        assert!(fs::read_dir(trees).unwrap().count() > 0, "{policy:?}: a copy that runs keeps its trees");
        let prepared: Vec<String> = node.files("prepared").into_keys().collect();
        let want: &[&str] = if policy == ActivationPolicy::Off { &[] } else { &["shop_p3.json"] };
        assert_eq!(prepared, want, "{policy:?}");

        node.pass(Activation::Decide, ActivationPolicy::All);
        let after = node.files("manifests");
        assert!(after.keys().eq(["default_p2.json", "shop_p1.json", "shop_p3.json"]), "{:?}", after.keys());
        assert!(after["shop_p1.json"].contains("app:2") && after["default_p2.json"] == before["default_p2.json"]);
    }
}
