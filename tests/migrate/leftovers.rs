//! Clear text that nobody needs goes when it is told to, and never what an active checkpoint mounts.

use crate::common::program::{CONFIGMAPS, MANIFESTS, PREPARED, SECRETS, listing, stamps};
use crate::predecessor::{Predecessor, SYSTEM, copy, file_name, plain, volume};
use serde_json::json;

/// What is left of each kind, and what becomes of it without and with the option.
#[test]
fn leftovers_go_when_told() {
    let left = Predecessor::usual();
    let inactive = left.inactive(&plain("web"));
    let gone = left.value("secrets", "web", "no-longer-mounted", "key", b"k");
    let orphan = left.value_in("configmaps", "shop", "gone", "conf", "key", b"k");
    let temporary = left.value("secrets", "kube-scheduler", "kubeconfig-in-cluster", ".987654321", b"k");
    let half = left.manifest(PREPARED, ".123456789", b"{");
    let own =
        left.active(&copy(SYSTEM, "pc", "u", &json!({"containers": [{"name": "c", "image": "x/pod-checkpointer:1"}]})));
    // The same in a directory that an active checkpoint mounts.
    let mounted = left.value("secrets", "kube-apiserver", "kube-apiserver", ".111111111", b"k");
    let all = [&inactive, &gone, &orphan, &temporary, &half, &own];

    let ran = left.import(&[]).expect(1);
    assert!(ran.stderr.contains("leftovers of the pod-checkpointer may hold values in clear text"), "{}", ran.stderr);
    assert!(all.iter().all(|path| path.exists()), "something was removed unasked");

    let ran = left.import(&["--remove-leftovers"]).expect(1);
    for path in all {
        assert!(!path.exists(), "{} is there still", path.display());
    }
    assert!(ran.stdout.contains(&format!("removed {}\n", half.display())), "{}", ran.stdout);
    assert!(!left.node.at(CONFIGMAPS).join("shop").exists(), "an empty directory was left");
    assert!(mounted.exists() && left.node.at(MANIFESTS).join("kube-system-kube-apiserver.json").exists());
    for pod in ["kube-apiserver", "kube-scheduler"] {
        assert!(!left.node.at(PREPARED).join(format!("kube-system-{pod}.json")).exists());
    }
    // Once more: there is nothing left but what is mounted.
    let before = stamps(&left.node.at("etc"));
    left.import(&["--remove-leftovers"]).expect(1);
    assert!(stamps(&left.node.at("etc")) == before);
}

/// The only copy of a value that was not stored stays, and so does all that may be mounted by what can't be read.
#[test]
fn what_was_not_adopted_is_kept() {
    let left = Predecessor::usual();
    left.manifest(PREPARED, "kube-system-lost.json", b"{\"kind\":\"Po");
    left.value("secrets", "lost", "tls", "key", b"k");
    let other = copy(
        SYSTEM,
        "elsewhere",
        "u",
        &json!({"nodeName": "edge-2", "volumes": [volume("v", "secrets", "elsewhere", "tls")]}),
    );
    left.inactive(&other);
    left.value("secrets", "elsewhere", "tls", "key", b"k");
    left.import(&["--remove-leftovers", "--node-name", "edge-1"]).expect(1);
    for pod in ["lost", "elsewhere"] {
        assert!(left.node.at(SECRETS).join(SYSTEM).join(pod).join("tls/key").exists(), "{pod}");
    }
    assert!(left.node.at(PREPARED).join(file_name(&other)).exists());

    let left = Predecessor::usual();
    left.value_in("configmaps", "shop", "gone", "conf", "key", b"k");
    left.manifest(MANIFESTS, "shop-blind.json", b"{");
    let before = listing(&left.node.at(CONFIGMAPS).join("shop"));
    let ran = left.import(&["--remove-leftovers"]).expect(1);
    assert!(ran.stderr.contains("so no directory of values is removed"), "{}", ran.stderr);
    assert!(listing(&left.node.at(CONFIGMAPS).join("shop")) == before);
}

/// Any static pod may mount it, of whomever it is.
#[test]
fn what_a_static_pod_of_others_mounts_is_kept() {
    let left = Predecessor::usual();
    let path = left.value_in("secrets", "shop", "gone", "tls", "key", b"k");
    left.manifest(
        MANIFESTS,
        "other.yaml",
        b"apiVersion: v1\nkind: Pod\nmetadata: {name: other}\nspec:\n  containers: [{name: c, image: i}]\n  volumes:\n  \
          - name: v\n    hostPath: {path: /etc/kubernetes/checkpoint-secrets/shop}\n",
    );
    left.import(&["--remove-leftovers"]).expect(1);
    assert!(path.exists());
}
