//! Node keys: absent, wrong, unusable. Pods and ConfigMaps never depend on one.

use std::process::Command;

use rustix::fs::{Mode, chmod};

use crate::scene::{SEED, STORE, Scene};

#[test]
fn no_key_for_a_new_store() {
    let mut scene = Scene::with_source();
    scene.run("run --once --root node --manifests pods.yaml");
    assert!(!scene.path("node").exists());
    scene.expect("key_none_for_a_new_store");
}

/// Without a Secret nothing has to be sealed.
#[test]
fn no_key_and_no_secret() {
    let mut scene = Scene::with_source();
    scene.run_with(
        "run --once --root node --manifests -",
        "{apiVersion: v1, kind: Pod, metadata: {name: dns, uid: u}, \
         spec: {nodeName: edge-1, containers: [{name: c, image: i}]}, status: {phase: Running}}",
    );
    scene.run("verify --root node");
    scene.run("dump --root node --reveal");
    scene.expect("key_none_and_no_secret");
}

/// Another key than the store's, and none at all: everything but Secrets is still there.
#[test]
fn the_wrong_key() {
    let mut scene = Scene::seeded();
    scene.key("other.pem");
    for key in ["--node-key other.pem", ""] {
        let with = |command: &str| format!("{command} --root node {key}").trim_end().to_owned();
        for command in ["dump", "dump -o yaml --kind secret", "dump --reveal", "plan", "verify", "run --once"] {
            scene.run(&with(command));
        }
        scene.run(&with("run --once --manifests pods.yaml"));
    }
    scene.expect("key_wrong");
}

#[test]
fn key_files_that_hold_no_key() {
    let mut scene = Scene::with_source();
    scene.write("garbage.pem", "\u{1b}]0;not a key\u{7}\n");
    scene.write("empty.pem", "");
    scene.write("broken.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    scene.write(
        "encrypted.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIHsMFcGCSqGSIb3DQEFDTBK\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    scene
        .write("certificate.pem", "-----BEGIN CERTIFICATE-----\nMIHsMFcGCSqGSIb3DQEFDTBK\n-----END CERTIFICATE-----\n");
    std::fs::create_dir(scene.path("directory.pem")).unwrap();
    for name in ["absent", "garbage", "empty", "broken", "encrypted", "certificate", "directory"] {
        scene.run(&format!("run --once --root node --node-key {name}.pem --manifests pods.yaml"));
        assert!(!scene.path("node").exists());
    }
    scene.expect("key_files_without_a_key");
}

#[test]
fn a_key_of_a_kind_that_opens_nothing() {
    let mut scene = Scene::with_source();
    let made = Command::new("openssl")
        .args(["ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out"])
        .arg(scene.path("p521.pem"))
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        eprintln!("SKIPPED: there is no openssl to make a P-521 key with");
        return;
    }
    scene.run("run --once --root node --node-key p521.pem --manifests pods.yaml");
    scene.expect("key_of_another_kind");
}

/// One bad file among good ones costs nothing but a line.
#[test]
fn one_good_key_among_bad_ones() {
    let mut scene = Scene::with_source();
    scene.write("garbage.pem", "not a key\n");
    chmod(scene.path("key.pem"), Mode::from_raw_mode(0o644)).unwrap();
    scene.run(
        "run --once --root node --node-key absent.pem --node-key garbage.pem --node-key key.pem --manifests pods.yaml",
    );
    scene.run("verify --root node --node-key garbage.pem --node-key key.pem");
    scene.expect("key_good_among_bad_ones");
}

/// A key that comes later takes over a store that was made without one; Secrets are stored from then on.
#[test]
fn a_key_that_comes_later() {
    let mut scene = Scene::with_source();
    scene.run_with(
        "run --once --root node --manifests -",
        "{apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: kube-system, uid: u}, \
         spec: {nodeName: edge-1, containers: [{name: c, image: i}]}, status: {phase: Running}}",
    );
    scene.run("run --once --root node --manifests pods.yaml");
    scene.run("plan --root node");
    scene.run(SEED);
    scene.run("verify --root node --node-key key.pem");
    assert!(scene.path(STORE).exists());
    scene.expect("key_that_comes_later");
}

#[test]
fn a_generated_key() {
    let mut scene = Scene::with_source();
    scene.run("run --once --root node --generate-node-key --manifests pods.yaml");
    scene.run("run --once --root node --generate-node-key");
    scene.run("verify --root node");
    scene.run("run --once --generate-node-key");
    scene.expect("key_generated");
}
