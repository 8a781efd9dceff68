//! The judge itself: a node as it should be is found sound, and each way of spoiling it is noticed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use store_format::Unlocker;

use crate::gate::GATE;
use crate::judge::{Told, judge};
use crate::steps;

const TREES: &str = "etc/kubernetes/checkpoint-configmaps/default";
const MANIFESTS: &str = "etc/kubernetes/manifests";

/// A node that has stored and rendered step `step`, made by the program without any machine.
fn node(directory: &Path, steps: &[u64]) -> (PathBuf, Unlocker) {
    let root = directory.join("root");
    let source = directory.join("pods.json");
    for step in steps {
        fs::write(&source, steps::source(*step)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ckpt-db"));
        command
            .args(["run", GATE, "--once", "--generate-node-key", "--root"])
            .arg(&root)
            .arg("--manifests")
            .arg(&source);
        let output = command.env_remove("NODE_NAME").env_remove("RUST_LOG").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // On the machine they lie in memory.
    fs::remove_dir_all(root.join("etc/kubernetes/checkpoint-secrets")).unwrap();
    let key = ckpt_db::keys::load(&root.join("var/lib/ckpt-db/node-key.pem")).unwrap().secret.into();
    (root, key)
}

fn told(step: u64) -> Told {
    Told { acknowledged: step, begun: step + 1, stored: 0 }
}

#[test]
fn a_node_as_it_should_be() {
    for (steps, step) in [(&[1_u64][..], 1), (&[1, 2], 2), (&[1, 2, 3, 4], 4)] {
        let directory = tempfile::tempdir().unwrap();
        let (root, key) = node(directory.path(), steps);
        assert_eq!(judge(&root, told(step), &key), (step, Vec::new()));
        // Stored and rendered, and not yet acknowledged.
        assert_eq!(judge(&root, told(step - 1), &key), (step, Vec::new()));
    }
    let directory = tempfile::tempdir().unwrap();
    let (root, key) = node(directory.path(), &[1]);
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(judge(&root, told(0), &key), (0, Vec::new()));
}

#[test]
fn each_way_of_spoiling_it_is_noticed() {
    type Spoil = fn(&Path);
    #[rustfmt::skip]
    let rows: [(&str, Spoil, &str); 11] = [
        ("a file of another step", |root| fs::write(root.join(TREES).join("writer/sequence/..data/again"), "2").unwrap(),
            "tree writer/sequence is of no step"),
        ("half a file", |root| shorten(&root.join(TREES).join("writer/sequence/..data/long")),
            "tree writer/sequence is of no step"),
        ("a file without its link", |root| fs::remove_file(root.join(TREES).join("writer/sequence/step")).unwrap(),
            "tree writer/sequence: step"),
        ("a link to nowhere", |root| fs::remove_dir_all(fs::canonicalize(root.join(TREES).join("guest/guest/..data")).unwrap()).unwrap(),
            "tree guest/guest: ..data"),
        ("a slot of an earlier step", |root| fs::write(root.join(TREES).join("writer/kubernetes.io~projected/slots/..data/slot-2"), "2").unwrap(),
            "slots is of no step"),
        ("half a manifest", |root| shorten(&root.join(MANIFESTS).join("default_writer.json")),
            "default_writer.json is not whole"),
        ("an empty manifest", |root| fs::write(root.join(MANIFESTS).join("default_guest.json"), "").unwrap(),
            "default_guest.json is not whole"),
        ("no manifest", |root| fs::remove_file(root.join(MANIFESTS).join("default_writer.json")).unwrap(),
            "pod writer has no manifest"),
        ("no store", |root| fs::remove_dir_all(root.join("var")).unwrap(),
            "the store holds step 0"),
        ("half a store", |root| shorten(&root.join("var/lib/ckpt-db/checkpoint-store.db")),
            ""),
        ("a Secret on the disk", |root| {
            fs::create_dir_all(root.join("etc/kubernetes/checkpoint-secrets/default")).unwrap();
        }, "there are Secrets on the disk"),
    ];
    for (what, spoil, want) in rows {
        let directory = tempfile::tempdir().unwrap();
        let (root, key) = node(directory.path(), &[5, 6]);
        spoil(&root);
        let (_, wrong) = judge(&root, told(6), &key);
        assert!(wrong.iter().any(|problem| problem.contains(want)), "{what}: {wrong:?}");
    }
}

#[test]
fn steps_that_do_not_fit_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (root, key) = node(directory.path(), &[6]);
    let wrong = |acknowledged, begun, stored| judge(&root, Told { acknowledged, begun, stored }, &key).1.join("; ");
    assert!(wrong(7, 8, 0).contains("the store holds step 6"));
    assert!(wrong(0, 7, 7).contains("the store holds step 6"));
    assert!(wrong(0, 5, 0).contains("the store holds step 6"));
    assert_eq!(wrong(0, 6, 6), "");
}

/// What is rendered and not stored was acted on too early; what is stored and acknowledged and not rendered came too late.
#[test]
fn what_is_rendered_before_it_is_stored_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (root, key) = node(directory.path(), &[5]);
    let earlier = directory.path().join("earlier");
    fs::copy(root.join("var/lib/ckpt-db/checkpoint-store.db"), &earlier).unwrap();
    node(directory.path(), &[6]);
    assert_eq!(judge(&root, told(6), &key).1, Vec::<String>::new());
    fs::copy(&earlier, root.join("var/lib/ckpt-db/checkpoint-store.db")).unwrap();
    let (stored, wrong) = judge(&root, told(5), &key);
    let all = wrong.join("; ");
    assert_eq!(stored, 5, "{all}");
    assert!(all.contains("default_writer.json is of step 6") && all.contains("writer/sequence is of no step"), "{all}");
}

fn shorten(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}
