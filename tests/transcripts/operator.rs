//! What an operator does while no agent runs: hold, release, log, adopt, uninstall.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

use crate::fake_agent::FakeAgent;
use crate::scene::{SEED, STORE, Scene};

const MANIFESTS: &str = "node/etc/kubernetes/manifests";
const KEY: &str = "--root node --node-key key.pem";

fn manifests(scene: &Scene) -> Vec<String> {
    let entries = fs::read_dir(scene.path(MANIFESTS)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn hold_with_no_agent() {
    let mut scene = Scene::seeded();
    assert_eq!(manifests(&scene), ["kube-system_dns.json", "shop_web.json"]);
    scene.run(&format!("hold shop/web {KEY}"));
    assert_eq!(manifests(&scene), ["kube-system_dns.json"]);
    assert!(scene.path("node/etc/kubernetes/inactive-manifests/shop_web.json").exists());
    scene.run(&format!("hold shop/web {KEY}"));
    scene.run(&format!("hold shop/ledger {KEY}"));
    scene.run("log --root node shop --since 1h");
    scene.run(&format!("log {KEY} -n shop web"));
    scene.run(&format!("release shop/web {KEY}"));
    scene.run(&format!("log {KEY} web -o json"));
    // What can't be done changes nothing.
    scene.run(&format!("hold shop/nobody {KEY}"));
    scene.run("hold shop/web --root node");
    scene.run("release shop/web --root elsewhere");
    scene.expect("hold_with_no_agent");
}

#[test]
fn log_formats() {
    let mut scene = Scene::seeded();
    for options in ["", " -n shop", " -o yaml web", " nobody", " --since 1x"] {
        scene.run(&format!("log {KEY}{options}"));
    }
    scene.expect("log_formats");
}

/// A kubeconfig of node `name` in a cluster of its own, whose CA (PEM) it returns.
pub(crate) fn credentials(scene: &Scene, file: &str, name: &str) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
    let client_key = KeyPair::generate().unwrap();
    let client = params.signed_by(&client_key, &issuer).unwrap();
    let base64 = |text: String| data_encoding::BASE64.encode(text.as_bytes());
    scene.write(
        file,
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": "https://10.0.0.1:6443", "certificate-authority-data": base64(ca.pem())}}],
            "users": [{"name": "u", "user": {"client-certificate-data": base64(client.pem()),
                "client-key-data": base64(client_key.serialize_pem())}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string(),
    );
    ca.pem()
}

#[test]
fn adopt() {
    let mut scene = Scene::seeded();
    scene.run(&format!("adopt {KEY}"));
    credentials(&scene, "node/etc/kubernetes/kubelet.conf", "edge-1");
    scene.run(&format!("adopt --dry-run {KEY}"));
    scene.run(&format!("adopt {KEY}"));
    scene.run(&format!("adopt {KEY}"));
    credentials(&scene, "other.conf", "edge-2");
    scene.run(&format!("adopt --dry-run --kubeconfig other.conf {KEY}"));
    scene.run(&format!("adopt --node-name edge-1 --kubeconfig other.conf {KEY}"));
    scene.run("adopt --kubeconfig other.conf --root node");
    scene.run(&format!("adopt --kubeconfig other.conf {KEY}"));
    scene.run(&format!("plan --node-name edge-1 {KEY}"));
    scene.run(&format!("log {KEY}"));
    scene.expect("adopt");
}

/// What an operator meets before anybody can be asked; `tests/program/diff.rs` has a server.
#[test]
fn diff() {
    let mut scene = Scene::seeded();
    scene.run("diff --root elsewhere");
    scene.run(&format!("diff {KEY}"));
    credentials(&scene, "other.conf", "edge-2");
    scene.run(&format!("diff --kubeconfig other.conf {KEY}"));
    credentials(&scene, "node/etc/kubernetes/kubelet.conf", "edge-1");
    scene.run(&format!("diff --node-name edge-9 {KEY}"));
    scene.expect("diff");
}

/// Markers that say when trees may go: set back, as if their time were over.
fn time_passes(scene: &Scene) {
    for root in ["checkpoint-secrets", "checkpoint-configmaps"] {
        let mut todo: Vec<PathBuf> = vec![scene.path("node/etc/kubernetes").join(root)];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
                if entry.file_name() == ".ckpt-db.remove-after" {
                    fs::write(entry.path(), "1 90\n").unwrap();
                } else if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                }
            }
        }
    }
}

#[test]
fn uninstall() {
    let mut scene = Scene::seeded();
    // What others have there stays.
    scene.write(&format!("{MANIFESTS}/kube-apiserver.yaml"), "apiVersion: v1\nkind: Pod\n");
    scene.write("node/etc/kubernetes/inactive-manifests/readme", "theirs\n");
    scene.run("uninstall --dry-run --root node");
    let agent = FakeAgent::start(&scene, vec![b"{\"ok\":{}}\n".to_vec()]);
    scene.run("uninstall --root node");
    agent.asked();
    scene.run("uninstall --no-wait --root node");
    assert_eq!(manifests(&scene), ["kube-apiserver.yaml"]);
    time_passes(&scene);
    scene.run("uninstall --root node");
    let kubernetes = scene.path("node/etc/kubernetes");
    let mut left: Vec<_> = fs::read_dir(&kubernetes).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["inactive-manifests", "manifests"]);
    assert!(scene.path(STORE).exists());
    fs::remove_file(scene.path("node/etc/kubernetes/inactive-manifests/readme")).unwrap();
    scene.run("uninstall --delete-store --root node");
    assert!(!scene.path("node/var").join("lib/ckpt-db").exists());
    scene.run("uninstall --delete-store --root node");
    // And it can be installed again.
    assert_eq!(scene.answer(SEED).code, 0);
    scene.expect("uninstall");
}

/// A file that nobody can tell to be ours is not deleted.
#[test]
fn uninstall_keeps_what_may_not_be_ours() {
    let mut scene = Scene::empty();
    scene.write(STORE, "my notes\n");
    scene.run("uninstall --dry-run --delete-store --root node");
    scene.run("uninstall --root node");
    scene.run("uninstall --delete-store --root node");
    assert_eq!(fs::read_to_string(scene.path(STORE)).unwrap(), "my notes\n");
    scene.expect("uninstall_no_store");
}

/// Files that were kept beside the store go with it, and nothing that is only nearly named so.
#[test]
fn uninstall_and_what_was_kept_beside_the_store() {
    let mut scene = Scene::empty();
    for name in ["damaged-1795235686", "locked-1795235687", "replaced-1795235688", "replaced-1795235688-1"] {
        scene.write(&format!("{STORE}.{name}"), "a store once\n");
    }
    let notes =
        ["damaged-notes", "damaged-", "replaced-1-x", "copied-1795235686"].map(|name| format!("{STORE}.{name}"));
    for name in &notes {
        scene.write(name, "my notes\n");
    }
    scene.run("uninstall --dry-run --root node");
    scene.run("uninstall --dry-run --delete-store --root node");
    scene.run("uninstall --root node");
    scene.run("uninstall --delete-store --root node");
    let mut left: Vec<_> =
        fs::read_dir(scene.path("node/var/lib/ckpt-db")).unwrap().map(|entry| entry.unwrap().path()).collect();
    left.sort();
    let mut wanted = notes.map(|name| scene.path(&name));
    wanted.sort();
    assert_eq!(left, wanted);
    scene.expect("uninstall_earlier_stores");
}
