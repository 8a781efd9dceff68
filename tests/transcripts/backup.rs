//! `ckpt-db backup` and `restore`, as an operator meets them.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use serde_json::json;

use crate::fake_agent::FakeAgent;
use crate::scene::{SEED, STORE, Scene};

const KEY: &str = "--root node --node-key key.pem";

#[test]
fn backup() {
    let mut scene = Scene::seeded();
    scene.run(&format!("backup {KEY} backup.db"));
    scene.run(&format!("backup {KEY} backup.db"));
    scene.run("backup --root node --force backup.db");
    scene.run(&format!("backup {KEY} --force -o json backup.db"));
    scene.run(&format!("backup {KEY} --force {STORE}"));
    scene.run(&format!("backup {KEY} mnt/usb/backup.db"));
    scene.run("backup --root elsewhere backup2.db");
    // It is a store for whatever reads one.
    scene.run("verify --store backup.db --node-key key.pem");
    // Somebody has the store open who can't be asked.
    let held = std::fs::File::open(scene.path(STORE)).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    scene.run(&format!("backup {KEY} backup2.db"));
    scene.expect("backup");
}

/// Between the backup and its return one pod was created and one deleted.
#[test]
fn restore() {
    let mut scene = Scene::seeded();
    assert_eq!(scene.answer(&format!("backup {KEY} backup.db")).code, 0);
    let changed = include_str!("pods.yaml").replace("{name: ledger, ", "{name: cart, ");
    scene.write("pods.yaml", changed);
    assert_eq!(scene.answer(SEED).code, 0);
    scene.run(&format!("restore {KEY} backup.db --dry-run"));
    scene.run(&format!("restore {KEY} backup.db"));
    scene.run(&format!("restore {KEY} backup.db --yes"));
    scene.run(&format!("verify {KEY}"));
    scene.run(&format!("restore --root node {STORE} --yes"));
    scene.run(&format!("restore {KEY} nothing.db --yes"));
    scene.run(&format!("restore {KEY} pods.yaml --yes"));
    // Without a key it can be put back all the same.
    scene.run("restore --root node backup.db --dry-run");
    // On a new disk.
    scene.run("restore --root elsewhere --node-key key.pem backup.db --dry-run");
    FakeAgent::says(&scene, &json!({"ok": {}}));
    scene.run(&format!("restore {KEY} backup.db --yes"));
    scene.expect("restore");
}

#[test]
fn restore_of_another_node() {
    let mut scene = Scene::seeded();
    let elsewhere = SEED.replace("--root node", "--root node/other").replace("--once", "--once --node-name edge-9");
    scene.write("pods.yaml", include_str!("pods.yaml").replace("edge-1", "edge-9"));
    let answer = scene.answer(&elsewhere);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert_eq!(scene.answer("backup --root node/other --node-key key.pem backup.db").code, 0);
    scene.run(&format!("restore {KEY} backup.db --yes"));
    scene.run(&format!("restore {KEY} backup.db --dry-run --other-node"));
    scene.expect("restore_of_another_node");
}
