//! `ckpt-db export`, `import` and `--bootstrap-checkpoint-path`, as an operator meets them.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::fs;

use crate::operator::credentials;
use crate::scene::{SEED, STORE, Scene};

const KEY: &str = "--root node --node-key key.pem";

#[test]
fn export() {
    let mut scene = Scene::seeded();
    scene.run(&format!("export {KEY} out"));
    scene.run(&format!("export {KEY} out"));
    scene.run(&format!("export {KEY} out --reveal --overwrite shop/web"));
    scene.run(&format!("export {KEY} out/json -o json -n kube-system"));
    scene.run(&format!("export {KEY} out -n shop nothing"));
    scene.run(&format!("export {KEY} out -n nowhere"));
    scene.run(&format!("export {KEY} pods.yaml"));
    scene.run("export --root node out/more --reveal");
    scene.run("export --root elsewhere out/more");
    let found = fs::read_to_string(scene.path("out/shop_pod_web.yaml")).unwrap();
    assert!(found.starts_with("apiVersion: v1\nkind: Pod\n") && !found.contains("resourceVersion"), "{found}");
    scene.expect("export");
}

/// Of another node, under another UID, of no use, and one that is right.
const MORE: &str = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: cart, namespace: shop, uid: u-cart}
  spec:
    nodeName: edge-1
    containers: [{name: c, image: 'registry.example/cart:1'}]
    volumes: [{name: config, configMap: {name: cart-config}}]
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: cart-config, namespace: shop}
  data: {k: v}
- apiVersion: v1
  kind: Pod
  metadata: {name: elsewhere, namespace: shop, uid: u-elsewhere}
  spec: {nodeName: edge-9, containers: [{name: c, image: i}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: dns, namespace: kube-system, uid: u-another}
  spec: {nodeName: edge-1, containers: [{name: c, image: i}]}
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: web-config, namespace: shop}
  data: {web.conf: listen 9443}
- apiVersion: v1
  kind: Secret
  metadata: {name: stray, namespace: shop}
- apiVersion: v1
  kind: Secret
  metadata: {name: bad, namespace: shop}
  data: {k: correct horse}
";

#[test]
fn import() {
    let mut scene = Scene::seeded();
    scene.write("more.yaml", MORE);
    scene.run(&format!("import {KEY} -f more.yaml --dry-run"));
    scene.run(&format!("import {KEY} -f more.yaml"));
    scene.run(&format!("import {KEY} -f more.yaml"));
    let own =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web-config, namespace: shop}\ndata: {web.conf: listen 1}\n";
    scene.run_with(&format!("import {KEY} -f -"), own);
    scene.write("pods-of-others.yaml", include_str!("pods.yaml").replace("edge-1", "edge-9"));
    scene.run(&format!("import {KEY} -f pods-of-others.yaml"));
    scene.write("deployment.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n");
    scene.run(&format!("import {KEY} -f deployment.yaml"));
    scene.run(&format!("import {KEY} -f nothing.yaml"));
    scene.run(&format!("import {KEY} --node-name edge-2 -f more.yaml"));
    scene.run("import --root node -f more.yaml");
    // Somebody has the store open who can't be asked.
    let held = fs::File::open(scene.path(STORE)).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    scene.run(&format!("import {KEY} -f more.yaml"));
    scene.run(&format!("import {KEY} -f more.yaml --dry-run"));
    scene.expect("import");
}

/// What one node exports another one, with nothing yet, takes.
#[test]
fn import_to_a_new_store() {
    let mut scene = Scene::seeded();
    assert_eq!(scene.answer(&format!("export {KEY} out --reveal")).code, 0);
    scene.write("both.yaml", MORE);
    scene.run("import --root node/new -f out");
    scene.run("import --root node/new --node-key key.pem -f both.yaml");
    scene.run("import --root node/new --node-key key.pem -f out --dry-run");
    scene.run("import --root node/new --node-key key.pem -f out");
    scene.run("import --root node/new --node-key key.pem -f out");
    scene.run("dump --root node/new --node-key key.pem -o name");
    scene.run("verify --root node/new --node-key key.pem");
    scene.expect("import_to_a_new_store");
}

/// The ConfigMap that each namespace has tells the cluster.
#[test]
fn import_of_another_cluster() {
    let mut scene = Scene::seeded();
    let ours = credentials(&scene, "node/etc/kubernetes/kubelet.conf", "edge-1");
    assert_eq!(scene.answer(&format!("adopt {KEY}")).code, 0);
    let theirs = credentials(&scene, "other.conf", "edge-1");
    let source = |ca: &str| {
        let ca = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "namespace": "shop"},
            "data": {"ca.crt": ca},
        });
        format!("{}---\n{ca}\n", include_str!("pods.yaml"))
    };
    scene.write("theirs.yaml", source(&theirs));
    scene.run(&format!("import {KEY} -f theirs.yaml"));
    scene.write("ours.yaml", source(&ours));
    scene.run(&format!("import {KEY} -f ours.yaml --dry-run"));
    // The node was given to another cluster.
    fs::copy(scene.path("other.conf"), scene.path("node/etc/kubernetes/kubelet.conf")).unwrap();
    scene.run(&format!("import {KEY} -f ours.yaml"));
    scene.expect("import_of_another_cluster");
}

/// By an old kubelet, for a pod that the API server was never asked for since.
const OF_KUBELET: &str = r#"{"Pod":{"metadata":{"name":"proxy","namespace":"kube-system","uid":"u-proxy","creationTimestamp":null,"annotations":{"node.kubernetes.io/bootstrap-checkpoint":"true"}},"spec":{"nodeName":"edge-1","hostNetwork":true,"containers":[{"name":"c","image":"registry.example/proxy:1","resources":{}}]},"status":{"phase":"Running"}},"Checksum":77}"#;

#[test]
fn bootstrap_checkpoints() {
    let mut scene = Scene::with_source();
    let source = include_str!("pods.yaml").replace(
        "{name: dns, namespace: kube-system,",
        "{name: dns, namespace: kube-system, annotations: {node.kubernetes.io/bootstrap-checkpoint: 'true'},",
    );
    scene.write("pods.yaml", source);
    let seed = format!("{SEED} --bootstrap-checkpoint-path node/boot");
    assert_eq!(scene.answer(&seed).code, 0);
    let file = "node/boot/Pod_0b0f3a52-4c0e-4f8a-9c3e-6f1d2a7b9c02.yaml";
    let text = fs::read_to_string(scene.path(file)).unwrap();
    assert!(text.contains("\nkind: Pod\n") && text.contains("name: dns"), "{text}");
    // Both are lost, the store and what was rendered.
    fs::remove_file(scene.path(STORE)).unwrap();
    fs::remove_dir_all(scene.path("node/etc")).unwrap();
    scene.private("node/boot/Pod_u-proxy.yaml", OF_KUBELET);
    scene.private("node/boot/Pod_u-torn.yaml", &OF_KUBELET[..200]);
    scene.private("node/boot/Pod_u-other.yaml", &OF_KUBELET.replace("u-proxy", "u-other").replace("edge-1", "edge-9"));
    let once = seed.replace(" --manifests pods.yaml", "");
    // Whose node it is, nobody can tell from pods of two.
    scene.run(&once);
    let once = once.replace("--once", "--once --node-name edge-1");
    scene.run(&once.replace("--once", "--once --require-authentication"));
    scene.run(&once);
    scene.run(&once);
    assert!(scene.path("node/etc/kubernetes/manifests/kube-system_proxy.json").exists());
    // The source is the whole truth, and does not know that of the kubelet.
    scene.run(&seed);
    assert!(!scene.path("node/boot/Pod_u-proxy.yaml").exists() && scene.path(file).exists());
    assert!(scene.path("node/boot/Pod_u-torn.yaml").exists());
    // With the feature gate off nothing is kept there either.
    let off = seed.replace("--once", "--once --feature-gates=Checkpointing=false").replace("node/boot", "node/off");
    assert_eq!(scene.answer(&off).code, 0);
    assert!(!scene.path("node/off").exists());
    scene.expect("bootstrap_checkpoints");
}
