//! What is adopted: parents put together again, objects from their files; and when nothing is.

use std::fs;

use ckpt_db::agent::{Target, clear_away, import, unneeded};
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::materialize::{Owners, Roots, SecretRootPolicy};
use ckpt_db::source::pod_checkpointer::{Places, look};
use ckpt_db::store::RedbStore;
use serde_json::json;

use crate::common::program::{CONFIGMAPS, MANIFESTS, PREPARED, STORE, listing, stamps};
use crate::predecessor::{NODE, Predecessor, SYSTEM, plain};

const ANNOTATIONS: &str = "annotations";

#[test]
fn parents_and_their_objects_are_put_together_again() {
    let left = Predecessor::usual();
    let ran = left.import(&[]).expect(0);
    assert_eq!(
        ran.stdout,
        "kube-system/kube-apiserver adopted; its copy goes on under the manifest that it has\n\
         kube-system/kube-scheduler adopted\n\
         stored 2 pods and 3 of their Secrets and ConfigMaps; 1 active manifest taken over\n"
    );
    let pod = left.stored("Pod", "kube-apiserver");
    assert_eq!(pod["metadata"]["uid"], "11111111-0000-4000-8000-000000000001");
    assert_eq!(pod["metadata"]["labels"], json!({"k8s-app": "kube-apiserver", "tier": "control-plane"}));
    assert_eq!(
        pod["metadata"][ANNOTATIONS],
        json!({"checkpointer.alpha.coreos.com/checkpoint": "true", "ckpt-db.io/imported-from": "pod-checkpointer"})
    );
    assert!(pod["metadata"].get("ownerReferences").is_none() && pod.get("status").is_none(), "{pod}");
    assert_eq!(
        pod["spec"]["volumes"],
        json!([
            {"name": "secrets", "secret": {"secretName": "kube-apiserver"}},
            {"name": "config", "configMap": {"name": "kube-apiserver-config"}},
            {"name": "var-lock", "hostPath": {"path": "/var/lock", "type": ""}},
        ])
    );
    assert_eq!(pod["spec"]["nodeName"], NODE);
    let secret = left.stored("Secret", "kube-apiserver");
    assert_eq!(secret["data"], json!({"apiserver.crt": "dGhlIGNlcnRpZmljYXRl", "apiserver.key": "dGhlIGtleQ=="}));
    let config = left.stored("ConfigMap", "kube-apiserver-config");
    assert_eq!(config["data"], json!({"audit.yaml": "rules: []\n"}));
    assert_eq!(config["metadata"][ANNOTATIONS], json!({"ckpt-db.io/imported-from": "pod-checkpointer"}));
    left.node.ran("verify", &[]).expect(0);
    assert!(!ran.stderr.contains("the key"), "a value was shown");
}

#[test]
fn a_second_import_changes_nothing() {
    let left = Predecessor::usual();
    left.import(&[]).expect(0);
    let before = (listing(&left.node.at("etc")), left.node.dump());
    let ran = left.import(&[]).expect(0);
    assert!(ran.stdout.contains("stored 0 pods and 0 of"), "{}", ran.stdout);
    assert!((listing(&left.node.at("etc")), left.node.dump()) == before, "something changed");
}

#[test]
fn a_dry_run_touches_nothing() {
    let left = Predecessor::usual();
    let before = stamps(&left.node.root());
    let ran = left.import(&["--dry-run", "--remove-leftovers"]).expect(0);
    assert!(ran.stdout.starts_with(
        "kube-system/kube-apiserver would be adopted; its active manifest would be taken over as it is\n\
         kube-system/kube-scheduler would be adopted\n"
    ));
    assert!(ran.stdout.ends_with("nothing was changed (--dry-run)\n"), "{}", ran.stdout);
    assert!(stamps(&left.node.root()) == before, "something was touched");
    assert!(!left.node.at(STORE).exists());
}

/// Whoever has no owner reference is of an older version; a UID that stands for the name is as good until the API server
/// says another.
#[test]
fn a_parent_whose_uid_nobody_knows_is_adopted_by_its_name() {
    let left = Predecessor::new();
    let mut copy = plain("old");
    copy["metadata"].as_object_mut().unwrap().remove("ownerReferences");
    left.active(&copy);
    left.import(&[]).expect(0);
    let yes = left.node.ran("plan", &["-o", "json"]);
    assert!(yes.stdout.contains("pod-checkpointer:kube-system/old"), "{}", yes.stdout);
}

#[test]
fn a_node_without_a_pod_checkpointer_has_nothing_to_adopt() {
    let left = Predecessor::new();
    left.manifest(
        MANIFESTS,
        "etcd.yaml",
        b"apiVersion: v1\nkind: Pod\nmetadata: {name: etcd}\nspec: {containers: [{name: c}]}\n",
    );
    let ran = left.import(&[]).expect(0);
    assert_eq!(ran.stdout, "there is nothing of a pod-checkpointer on this node\n");
    assert!(!left.node.at(STORE).exists());
}

#[test]
fn while_somebody_works_nothing_is_imported() {
    let left = Predecessor::usual();
    // The pod-checkpointer holds its lock as long as it works.
    let lock = left.node.at("var/run/lock/pod-checkpointer.lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let held = fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let before = listing(&left.node.root());
    let ran = left.import(&[]).expect(2);
    assert!(ran.stderr.contains("a pod-checkpointer runs on this node"), "{}", ran.stderr);
    let ran = left.import(&["--dry-run"]).expect(0);
    assert!(ran.stderr.contains("note: a pod-checkpointer runs"), "{}", ran.stderr);
    assert!(listing(&left.node.root()) == before, "something changed");
    drop(held);

    // An agent has the store open.
    left.import(&[]).expect(0);
    let open = RedbStore::open(&left.node.at(STORE), &[], Box::new(SystemEntropy)).unwrap();
    let ran = left.import(&[]).expect(2);
    assert!(ran.stderr.contains("stop it first ('systemctl stop ckpt-db', which stops no pod)"), "{}", ran.stderr);
    drop(open);
}

#[test]
fn the_store_of_another_node_takes_nothing() {
    let left = Predecessor::usual();
    left.import(&[]).expect(0);
    let ran = left.import(&["--node-name", "edge-2"]).expect(2);
    assert!(ran.stderr.contains("the store belongs to node edge-1, but --node-name says edge-2"), "{}", ran.stderr);
}

/// What the API server said is newer than any file.
#[test]
fn what_the_api_server_said_stays() {
    let left = Predecessor::new();
    let mut truth = plain("kube-scheduler");
    truth["metadata"] =
        json!({"name": "kube-scheduler", "namespace": SYSTEM, "uid": "u-truth", "resourceVersion": "7"});
    fs::create_dir_all(left.node.source()).unwrap();
    fs::write(left.node.source().join("node.json"), truth.to_string()).unwrap();
    let mut command =
        left.node.command("run", &["--once", "--activation-policy", "off", "--node-name", NODE, "--manifests"]);
    command.arg(left.node.source());
    crate::common::program::Ran::of(command).expect(0);
    let left = left.with_usual();
    let ran = left.import(&[]).expect(0);
    assert!(ran.stdout.contains("kube-system/kube-scheduler was stored already\n"), "{}", ran.stdout);
    assert_eq!(left.stored("Pod", "kube-scheduler")["metadata"]["uid"], "u-truth");
    assert!(left.stored("Pod", "kube-apiserver")["metadata"]["uid"] != "u-truth");
}

#[test]
fn without_a_key_secrets_stay_where_they_are() {
    let left = Predecessor::usual();
    fs::remove_file(left.node.at(crate::common::program::KEY)).unwrap();
    let before = listing(&left.node.at("etc/kubernetes/checkpoint-secrets"));
    let ran = left.import(&["--remove-leftovers"]).expect(1);
    assert!(
        ran.stderr.contains("Secret kube-system/kube-apiserver was not stored: there is no node key yet"),
        "{}",
        ran.stderr
    );
    assert!(listing(&left.node.at("etc/kubernetes/checkpoint-secrets")) == before, "something changed");
    assert!(!left.node.at(PREPARED).join("kube-system-kube-scheduler.json").exists());
    assert!(left.node.at(CONFIGMAPS).join("kube-system/kube-apiserver/kube-apiserver-config/..data").exists());
}

/// On a node that keeps Secrets in memory only, which is the default, theirs stay the files on the disk that they are, and are
/// leftovers unless an active checkpoint mounts them.
#[test]
fn without_memory_secrets_are_left_where_they_are() {
    // A store, and another node's files beside it.
    let left = Predecessor::usual();
    left.import(&[]).expect(0);
    let elsewhere = Predecessor::usual();
    let at = |path: &str| elsewhere.node.at(path);
    let roots = Roots {
        manifests: at(MANIFESTS),
        prepared: at(PREPARED),
        secrets: at("etc/kubernetes/checkpoint-secrets"),
        configmaps: at(CONFIGMAPS),
    };
    let places = Places {
        active: roots.manifests.clone(),
        inactive: roots.prepared.clone(),
        secrets: roots.secrets.clone(),
        configmaps: roots.configmaps.clone(),
    };
    if ckpt_db::materialize::probe_secret_root(&roots.secrets, SecretRootPolicy::RequireMemory).is_ok() {
        // Temporary files lie in memory here.
        return;
    }
    let target = Target { roots, secret_root: SecretRootPolicy::RequireMemory, owners: Owners::Unchanged };
    let key = crate::taking_over::unlocker(&left.node.at(crate::common::program::KEY));
    let mut store = RedbStore::open(&left.node.at(STORE), &[&key], Box::new(SystemEntropy)).unwrap();
    let inventory = look(&places, Some(NODE), &|_| false);
    let imported = import(&mut store, &inventory, &places, &target, 0).unwrap();
    assert!(imported.problems.is_empty(), "{:?}", imported.problems);
    assert_eq!(imported.taken_over.len(), 1);
    let secrets = |pod: &str, path: &str| at("etc/kubernetes/checkpoint-secrets/kube-system").join(pod).join(path);
    let (active, inactive) = (
        secrets("kube-apiserver", "kube-apiserver/apiserver.key"),
        secrets("kube-scheduler", "kubeconfig-in-cluster/kubeconfig"),
    );
    assert!(fs::symlink_metadata(&active).unwrap().is_file() && inactive.exists());
    // Two inactive manifests, and the values of the inactive pod.
    assert_eq!(unneeded(&imported, &inventory).count(), 3);
    assert!(clear_away(&imported, &inventory, &places).iter().all(|cleared| matches!(cleared.result, Ok(true))));
    assert!(active.exists() && !inactive.exists());
}
