//! The main job through the program: what a first run leaves, what a cold start brings back from the store alone, and
//! what never makes a pod go.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;
mod manifest_checker;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::program::{
    CONFIGMAPS, Entry, Listing, MANIFESTS, MARKER, Node, PREPARED, Ran, SECRETS, STORE, What, assert_same, differences,
    listing, manifests, stamp, stamps,
};

const ORDERS: &str = "shop_orders-api-6b5f4d7c98-tn2vw.json";
const API_SERVER: &str = "kube-system_kube-apiserver-m4xzt.json";

#[test]
fn a_first_run_leaves_a_store_manifests_and_trees() {
    let node = Node::new();
    node.copy_example();
    let ran = node.run_source().expect(0);
    assert!(ran.stderr.contains("made a node key"), "{}", ran.stderr);
    assert!(ran.stdout.contains("4 of 6 pods would come back"), "{}", ran.stdout);
    assert!(node.at(STORE).is_file());
    let active: Vec<_> = manifests(&node.at(MANIFESTS)).into_keys().collect();
    let want = [
        "ingress-nginx_ingress-nginx-controller-5hjlb.json",
        API_SERVER,
        ORDERS,
        "shop_storefront-7d9c8b6f5d-q8xkz.json",
    ];
    assert_eq!(active, want);
    let prepared: Vec<_> = manifests(&node.at(PREPARED)).into_keys().collect();
    assert_eq!(prepared, ["shop_sessions-0.json"]);
    for root in [SECRETS, CONFIGMAPS] {
        let all = listing(&node.at(root));
        let trees = trees(&all);
        assert!(trees.len() >= 3, "{root}: {trees:?}");
    }
}

#[test]
fn a_cold_start_brings_back_every_byte_from_the_store_alone() {
    let node = Node::with_example();
    let before = node.rendered();
    let directory = node.at("var/lib/ckpt-db");
    // Whoever runs this as root can write all the same; the stamps tell that nobody did.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o500)).unwrap();
    let kept = (fs::read(node.at(STORE)).unwrap(), stamp(&node.at(STORE)), stamp(&directory), listing(&directory));
    fs::remove_dir_all(node.source()).unwrap();
    for round in ["first", "second"] {
        node.remove_rendered();
        let ran = node.run_store().expect(0);
        assert!(ran.stdout.contains("cold start from"), "{}", ran.stdout);
        assert_same(&node.rendered(), &before, &format!("{round} cold start"));
    }
    let now = (fs::read(node.at(STORE)).unwrap(), stamp(&node.at(STORE)), stamp(&directory), listing(&directory));
    assert!(now == kept, "a cold start writes nothing where the store lies");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn what_is_unchanged_is_not_written_again() {
    let node = Node::with_example();
    let before = stamps(&node.at("etc"));
    let store = fs::read(node.at(STORE)).unwrap();
    let ran = node.run_source().expect(0);
    assert!(ran.stdout.contains("stored 0 objects, removed 0"), "{}", ran.stdout);
    node.run_store().expect(0);
    let after = stamps(&node.at("etc"));
    let touched: Vec<_> = after.iter().filter(|(path, stamp)| before.get(*path) != Some(stamp)).collect();
    assert!(touched.is_empty() && after.len() == before.len(), "{touched:?}");
    assert!(fs::read(node.at(STORE)).unwrap() == store, "nothing was committed, as nothing was new");
}

#[test]
fn a_kubelet_would_take_every_manifest() {
    manifest_checker::assert_it_refuses_what_it_should();
    let node = Node::with_example();
    let all: Vec<_> =
        [MANIFESTS, PREPARED].iter().flat_map(|directory| manifests(&node.at(directory)).into_iter()).collect();
    assert_eq!(all.len(), 5);
    for (name, json) in all {
        assert_eq!(manifest_checker::refusals(&json), [""; 0], "{name}");
    }
}

#[test]
fn what_does_not_come_back_is_not_rendered_and_plan_says_why() {
    let node = Node::with_example();
    // One pod would be lost.
    let plan = node.ran("plan", &["-o", "json"]).expect(1).json();
    #[rustfmt::skip]
    let rows = [
        ("catalog-import-29540160-zk7d4",    "NotMeant",       "Finished", "finished"),
        ("ledger-858c9f7bdb-w6rft",          "NotRecoverable", "Volume",   "volume data is of type persistentVolumeClaim"),
        ("nightly-report-5f6c7d8b9-2mlgp",   "NotMeant",       "OptedOut", "annotation ckpt-db.io/checkpoint"),
    ];
    let rendered = node.rendered();
    for (name, verdict, code, message) in rows {
        let pod = pod(&plan, name);
        assert_eq!((&pod["verdict"], &pod["manifest"]), (&verdict.into(), &serde_json::Value::Null), "{name}");
        assert_eq!(pod["reasons"][0]["code"], code, "{name}");
        let said = pod["reasons"][0]["message"].as_str().unwrap();
        assert!(said.contains(message), "{name}: {said}");
        let left: Vec<_> = rendered.keys().filter(|path| path.to_string_lossy().contains(name)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(pod(&plan, "sessions-0")["manifest"], "prepared");
    assert_eq!(pod(&plan, "orders-api-6b5f4d7c98-tn2vw")["manifest"], "active");
    assert_eq!(plan["pods"].as_array().unwrap().len(), 8, "a pod of another node is not listed");
}

fn pod<'a>(plan: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    plan["pods"].as_array().unwrap().iter().find(|pod| pod["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn a_pod_that_leaves_the_source_loses_its_manifest_at_once_and_its_trees_later() {
    let node = Node::with_example();
    let before = node.rendered();
    fs::remove_file(node.source().join("control-plane.yaml")).unwrap();
    let ran = node.run_source().expect(0);
    assert!(ran.stdout.contains("removed 3,"), "its pod, ConfigMap and Secret: {}", ran.stdout);
    assert!(ran.stdout.contains("trees wait to be removed"), "{}", ran.stdout);

    let waiting = node.rendered();
    assert!(!node.at(MANIFESTS).join(API_SERVER).exists());
    let markers: Vec<_> = waiting.keys().filter(|path| path.ends_with(MARKER)).cloned().collect();
    assert_eq!(markers.len(), 2, "one below each root: {markers:?}");
    let without = |all: &Listing, gone: &dyn Fn(&Path) -> bool| -> Listing {
        all.iter().filter(|(path, _)| !gone(path)).map(|(path, entry)| (path.clone(), entry.clone())).collect()
    };
    let want = without(&before, &|path| path.ends_with(API_SERVER));
    assert_same(&without(&waiting, &|path| path.ends_with(MARKER)), &want, "nothing else goes while it waits");

    // Its time has come: no waiting, the marker is set back.
    for marker in &markers {
        fs::write(node.at("etc").join(marker), "1\n").unwrap();
    }
    node.run_store().expect(0);
    let of_pod = |path: &Path| path.to_string_lossy().contains("kube-apiserver-m4xzt") || path.ends_with("kube-system");
    assert_same(&node.rendered(), &without(&before, &of_pod), "only the other pods are left");
    assert!(!node.dump().to_string().contains("kube-apiserver-config"), "nor is anything of it stored");
}

#[test]
fn a_bad_document_removes_nothing() {
    let node = Node::with_example();
    let (before, stored) = (node.rendered(), node.dump());
    // One pod's document is broken, and another pod's file is missing altogether.
    fs::write(node.source().join("deployment.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: [\n").unwrap();
    fs::remove_file(node.source().join("control-plane.yaml")).unwrap();
    let ran = node.run_source().expect(1);
    assert!(ran.stderr.contains("deployment.yaml:"), "{}", ran.stderr);
    assert!(ran.stderr.contains("nothing was removed for not being in the source"), "{}", ran.stderr);
    assert_same(&node.rendered(), &before, "what was rendered stays");
    assert_eq!(node.dump(), stored, "what was stored stays");

    let strict = Ran::of({
        let mut command = node.command("run", &["--once", "--strict", "--manifests"]);
        command.arg(node.source());
        command
    });
    let strict = strict.expect(2);
    assert!(strict.stderr.contains("--strict refuses"), "{}", strict.stderr);
    assert_eq!(node.dump(), stored);
}

#[test]
fn a_source_without_pods_removes_nothing() {
    let node = Node::with_example();
    let (before, stored) = (node.rendered(), node.dump());
    let refused = |why: &str, message: &str| {
        let ran = node.run_source().expect(2);
        assert!(ran.stderr.contains(message), "{why}: {}", ran.stderr);
        assert_same(&node.rendered(), &before, why);
        assert_eq!(node.dump(), stored, "{why}");
    };
    for entry in fs::read_dir(node.source()).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("services.yaml") {
            fs::remove_file(path).unwrap();
        }
    }
    refused("Services only", "the source lists no pod, but the store holds 8; nothing was removed");
    fs::remove_file(node.source().join("services.yaml")).unwrap();
    refused("an empty directory", "there is no manifest in");
    fs::remove_dir(node.source()).unwrap();
    refused("no directory at all", "cannot read manifests from");
}

#[test]
fn the_store_of_another_node_is_refused() {
    let node = Node::with_example();
    let store = fs::read(node.at(STORE)).unwrap();
    node.remove_rendered();
    let source = node.source();
    let source = source.to_str().unwrap();
    let runs: [(&str, &[&str]); 4] = [
        ("run", &["--once", "--node-name", "other"]),
        ("run", &["--once", "--node-name", "other", "--manifests", source]),
        ("plan", &["--node-name", "other"]),
        ("render", &["--node-name", "other", "--out", source]),
    ];
    for (subcommand, args) in runs {
        let ran = node.ran(subcommand, args).expect(2);
        assert!(
            ran.stderr.contains("belongs to node edge-1, but this node goes by other"),
            "{}: {}",
            ran.what,
            ran.stderr
        );
        assert_same(&node.rendered(), &Listing::new(), subcommand);
    }
    assert!(fs::read(node.at(STORE)).unwrap() == store);
    node.ran("run", &["--once", "--node-name", "edge-1"]).expect(0);
}

#[test]
fn render_gives_the_files_of_a_run_for_copying_over_the_node() {
    let node = Node::with_example();
    let out = tempfile::tempdir().unwrap();
    let there = out.path().join("sub/out");
    node.ran("render", &["--out", there.to_str().unwrap()]).expect(0);
    assert_same(&listing(&there.join("etc")), &node.rendered(), "the same names, links included");
    assert_eq!(fs::read_dir(&there).unwrap().count(), 1, "and nothing beside them");
}

#[test]
fn a_running_kubelet_finds_all_that_a_manifest_mounts() {
    let node = Node::with_example();
    let own = node.root().to_str().unwrap().to_owned();
    let mut seen = 0;
    for (name, json) in [MANIFESTS, PREPARED].iter().flat_map(|directory| manifests(&node.at(directory))) {
        let manifest: serde_json::Value = serde_json::from_slice(&json).unwrap();
        for volume in manifest["spec"]["volumes"].as_array().unwrap() {
            let Some(path) = volume["hostPath"]["path"].as_str().filter(|path| path.starts_with(&own)) else {
                continue;
            };
            assert!(Path::new(path).join("..data").is_dir(), "{name} mounts {path}");
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
fn listings_see_what_differs() {
    let file = |mode, text: &str| Entry { mode, what: What::File(text.into()) };
    let one = |entry| BTreeMap::from([("a".into(), entry)]);
    let base = one(file(0o600, "x"));
    let others = [
        Listing::new(),
        one(file(0o644, "x")),
        one(file(0o600, "y")),
        one(Entry { mode: 0o600, what: What::Directory }),
        one(Entry { mode: 0o600, what: What::Link("x".into()) }),
    ];
    assert!(differences(&base, &base).is_empty());
    for other in others {
        assert_eq!(differences(&other, &base).len(), 1);
    }
}

/// The directories that containers mount: those with a `..data` link.
fn trees(all: &Listing) -> BTreeSet<&Path> {
    all.keys().filter(|path| path.ends_with("..data")).filter_map(|path| path.parent()).collect()
}

/// A store that never held a complete listing does not know which pods there are: what runs from an earlier one stays.
#[test]
fn a_store_that_was_never_complete_removes_nothing() {
    let node = Node::with_example();
    let before = node.rendered();
    fs::remove_file(node.at(STORE)).unwrap();
    fs::write(node.source().join("control-plane.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: [\n").unwrap();
    node.run_source().expect(1);
    assert_same(&node.rendered(), &before, "a bad document in the first listing");

    // After the power cut everything that was stored comes back, and the exit code says so.
    node.remove_rendered();
    let ran = node.run_store().expect(0);
    assert!(ran.stdout.contains("ready: 4 pods rendered"), "{}", ran.stdout);
}

#[test]
fn a_new_store_and_a_source_without_pods_remove_nothing() {
    let node = Node::with_example();
    let before = node.rendered();
    fs::remove_file(node.at(STORE)).unwrap();
    for entry in fs::read_dir(node.source()).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("services.yaml") && !path.ends_with("node.yaml") {
            fs::remove_file(path).unwrap();
        }
    }
    node.run_source().expect(0);
    assert_same(&node.rendered(), &before, "a source that lists no pod says nothing about pods");
}
