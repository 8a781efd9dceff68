//! The predecessor's known defects: each is named, and takes nothing else down with it.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::common::program::{CONFIGMAPS, MANIFESTS, PREPARED, SECRETS};
use crate::predecessor::{Predecessor, SYSTEM, copy, file_name, plain, volume, written_before};

type Arrange = fn(&Predecessor);

/// A node with the usual checkpoints and one defect: what is said of it, and whether its pod is adopted.
#[test]
fn every_known_defect_is_named() {
    #[rustfmt::skip]
    let rows: [(&str, Arrange, &str, &[&str]); 23] = [
        // defect, arranged, said, adopted besides
        ("a power cut before the contents", |l| drop(l.manifest(PREPARED, "kube-system-a.json", b"")),
            "inactive-manifests/kube-system-a.json is empty, as after a power cut", &[]),
        ("half a manifest", |l| drop(l.manifest(PREPARED, "kube-system-a.json", &plain("a").to_string().as_bytes()[..99])),
            "inactive-manifests/kube-system-a.json can't be decoded (line 1, column 99)", &[]),
        ("a manifest that is no pod", |l| { let mut bad = plain("a"); bad["spec"]["containers"] = json!([]); l.inactive(&bad); },
            "holds a pod that is not adopted: spec.containers is empty", &[]),
        ("a name that nobody has", |l| { let mut bad = plain("a"); bad["metadata"]["annotations"] = json!({"checkpointer.alpha.coreos.com/checkpoint-of": "../a"}); l.inactive(&bad); },
            "its name or namespace is none that the API server takes", &[]),
        // kube-system/a-b and kube-system-a/b have one file.
        ("two pods of one file name", |l| { l.inactive(&plain("a-b")); l.value_in("secrets", "kube-system-a", "b", "tls", "key", b"k"); },
            "kube-system-a/b has no manifest: that of kube-system/a-b has its file name, kube-system-a-b.json", &["a-b"]),
        ("values without a manifest", |l| drop(l.value("secrets", "a", "tls", "key", b"k")),
            "kube-system/a has values of Secrets or ConfigMaps, but no manifest", &[]),
        ("an active manifest under another name", |l| drop(l.manifest(MANIFESTS, "a.json", plain("a").to_string().as_bytes())),
            "manifests/a.json is not named as the pod-checkpointer names the manifest of kube-system/a", &["a"]),
        ("a second manifest", |l| { l.inactive(&plain("a")); l.manifest(PREPARED, "z.json", plain("a").to_string().as_bytes()); },
            "z.json is a second manifest of kube-system/a", &["a"]),
        ("an object that was never fetched", |l| drop(l.inactive(&copy(SYSTEM, "a", "u", &json!({"volumes": [volume("v", "secrets", "a", "tls")]})))),
            "kube-system/a mounts Secret kube-system/tls, of which there is no directory", &["a"]),
        ("an object without values", |l| { l.object(CONFIGMAPS, SYSTEM, "a", "conf"); l.inactive(&mounting("configmaps", "conf")); },
            "ConfigMap kube-system/conf of kube-system/a has no value at all", &["a"]),
        ("a value that was cut short", |l| { l.value("secrets", "a", "tls", "key", b""); l.value("secrets", "a", "tls", "crt", b"c"); l.inactive(&mounting("secrets", "tls")); },
            "Secret kube-system/tls of kube-system/a: the file of key \"key\" is empty", &["a"]),
        ("a key that was removed", |l| { written_before(&l.value("secrets", "a", "tls", "old", b"o"), 4000); l.value("secrets", "a", "tls", "new", b"n"); l.inactive(&mounting("secrets", "tls")); },
            "Secret kube-system/tls of kube-system/a: key \"old\" was written", &["a"]),
        ("a temporary file among values", |l| { l.value("secrets", "a", "tls", ".123456789", b"n"); l.value("secrets", "a", "tls", "new", b"n"); l.inactive(&mounting("secrets", "tls")); },
            "tls/.123456789 was left over by a write that was cut short", &["a"]),
        ("a temporary file among manifests", |l| drop(l.manifest(PREPARED, ".123456789", b"{")),
            "inactive-manifests/.123456789 was left over by a write that was cut short", &[]),
        ("a link among values", |l| { symlink("/etc/shadow", l.object(SECRETS, SYSTEM, "a", "tls").join("shadow")).unwrap(); l.inactive(&mounting("secrets", "tls")); },
            "tls/shadow is no value of an object (it is no regular file)", &["a"]),
        ("a file that is no key", |l| { l.value("secrets", "a", "tls", "a b", b"n"); l.inactive(&mounting("secrets", "tls")); },
            "tls/a b is no value of an object (no key of an object is called so)", &["a"]),
        ("an object that is no longer mounted", |l| { l.value("secrets", "a", "old", "key", b"k"); l.inactive(&plain("a")); },
            "checkpoint-secrets/kube-system/a/old is not mounted by kube-system/a", &["a"]),
        ("one object, two versions", |l| {
            written_before(&l.value("secrets", "a", "tls", "key", b"older"), 4000);
            l.value("secrets", "b", "tls", "key", b"newer");
            l.inactive(&mounting("secrets", "tls"));
            l.inactive(&copy(SYSTEM, "b", "u", &json!({"volumes": [volume("v", "secrets", "b", "tls")]})));
        },  "Secret kube-system/tls differs between kube-system/b and kube-system/a; that of kube-system/b is newer", &["a", "b"]),
        ("env of a Secret", |l| drop(l.inactive(&with_container(json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}]})))),
            "kube-system/a names Secret kube-system/env (spec.containers[0].env[0].valueFrom.secretKeyRef", &["a"]),
        ("the token volume of today", |l| { l.active(&copy(SYSTEM, "a", "u", &json!({"volumes": [projected()]}))); },
            "manifests/kube-system-a.json is refused by kubelets since 1.34 (spec.volumes[0].projected.sources[0].serviceAccountToken)", &["a"]),
        ("another pod's directory", |l| drop(l.inactive(&copy(SYSTEM, "a", "u", &json!({"volumes": [volume("v", "secrets", "b", "tls")]})))),
            "kube-system/a: volume \"v\" is a directory of the host that belongs to another pod", &["a"]),
        ("another node's checkpoint", |l| drop(l.inactive(&copy(SYSTEM, "a", "u", &json!({"nodeName": "edge-2"})))),
            "kube-system/a is bound to node edge-2", &[]),
        ("its own manifest", |l| drop(l.active(&copy(SYSTEM, "pod-checkpointer-x7", "u", &json!({"containers": [{"name": "c", "image": "quay.io/coreos/pod-checkpointer:1"}]})))),
            "manifests/kube-system-pod-checkpointer-x7.json is the pod-checkpointer itself", &[]),
    ];
    for (about, arrange, said, adopted) in rows {
        let left = Predecessor::usual();
        arrange(&left);
        // A dry run says the same.
        let dry = left.import(&["--node-name", "edge-1", "--dry-run"]).expect(1);
        assert!(dry.stderr.contains(said), "{about}: {}", dry.stderr);
        let ran = left.import(&["--node-name", "edge-1"]).expect(1);
        let warnings: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
        assert!(warnings.iter().any(|line| line.contains(said)), "{about}: {warnings:#?}");
        let mut pods: Vec<&str> =
            ran.stdout.lines().filter_map(|line| line.strip_prefix("kube-system/")?.split(' ').next()).collect();
        pods.sort_unstable();
        let mut want: Vec<&str> = ["kube-apiserver", "kube-scheduler"].iter().chain(adopted).copied().collect();
        want.sort_unstable();
        assert_eq!(pods, want, "{about}");
        left.node.ran("verify", &[]).expect(0);
    }
}

/// The newest version of an object counts; a stale key stays with it until the API server says what there is.
#[test]
fn what_is_taken_where_files_disagree() {
    let left = Predecessor::usual();
    written_before(&left.value("secrets", "a", "tls", "key", b"older"), 4000);
    written_before(&left.value("secrets", "b", "tls", "stale", b"stale"), 4000);
    left.value("secrets", "b", "tls", "key", b"newer");
    left.inactive(&mounting("secrets", "tls"));
    left.inactive(&copy(SYSTEM, "b", "u", &json!({"volumes": [volume("v", "secrets", "b", "tls")]})));
    left.import(&[]).expect(1);
    assert_eq!(left.stored("Secret", "tls")["data"], json!({"key": "bmV3ZXI=", "stale": "c3RhbGU="}));
}

/// What others put into the kubelet's directory is none of our business.
#[test]
fn files_of_others_are_neither_named_nor_touched() {
    let left = Predecessor::usual();
    left.manifest(
        MANIFESTS,
        "etcd.yaml",
        b"apiVersion: v1\nkind: Pod\nmetadata: {name: etcd}\nspec: {containers: [{name: c}]}\n",
    );
    left.manifest(MANIFESTS, ".keep", b"");
    left.manifest(MANIFESTS, "broken.yaml", b": : :");
    fs::create_dir(left.node.at(MANIFESTS).join("aside")).unwrap();
    let before = crate::common::program::stamps(&left.node.at(MANIFESTS));
    let ran = left.import(&["--remove-leftovers"]).expect(0);
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
    assert!(crate::common::program::stamps(&left.node.at(MANIFESTS)) == before);
}

/// A copy of pod `a` that mounts one object.
fn mounting(root: &str, object: &str) -> Value {
    let copy = copy(SYSTEM, "a", "u", &json!({"volumes": [volume("v", root, "a", object)]}));
    assert_eq!(file_name(&copy), "kube-system-a.json");
    copy
}

fn with_container(fields: Value) -> Value {
    let mut copy = plain("a");
    for (field, value) in fields.as_object().unwrap() {
        copy["spec"]["containers"][0][field] = value.clone();
    }
    copy
}

fn projected() -> Value {
    json!({"name": "kube-api-access-x", "projected": {"sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]}})
}
