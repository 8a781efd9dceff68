//! Files that are no store, or not ours to use: every command says the same of them, and none touches them.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::fs;

use ckpt_db::crypto::{SystemEntropy, sha256};
use ckpt_db::keys::load;
use ckpt_db::store::RedbStore;
use redb::TableDefinition;
use rustix::fs::{CWD, FileType, Mode, chmod, mknodat};
use store_format::{Frame, Table, digest_input, meta_key};

use crate::scene::{SEED, STORE, Scene};

/// Every command on what lies where the store should be: each refuses it with the same words, `run` with a source too.
///
/// [`Scene::run`] proves that the file, its directory and everything else stayed as it was.
fn refused(scene: Scene, name: &str) {
    all_refuse(scene, &["plan", "verify", "render --out out", "run --once", WITH_SOURCE]).expect(name);
}

/// The same of a file that is no store and never was one: whoever would write says why it is not rebuilt.
fn left_alone(scene: Scene, name: &str) {
    let mut scene = all_refuse(scene, &["plan", "verify", "render --out out", "run --once"]);
    let answer = scene.run(&format!("{WITH_SOURCE} --root node --node-key key.pem"));
    assert_eq!((answer.code, answer.stdout.as_str()), (2, ""));
    scene.expect(name);
}

/// The same of a file that was a store: it is left as it is by whoever reads, and rebuilt where there is a source.
fn rebuilt(scene: Scene, name: &str) {
    let damaged = fs::read(scene.path(STORE)).unwrap();
    let mut scene = all_refuse(scene, &["plan", "verify", "render --out out", "run --once"]);
    let answer = scene.run(&format!("{WITH_SOURCE} --root node --node-key key.pem"));
    assert_eq!(answer.code, 0);
    let kept = ckpt_db::store::kept_beside(&scene.path(STORE));
    assert!(kept.len() == 1 && fs::read(&kept[0]).unwrap() == damaged, "the evidence is gone");
    scene.run("verify --root node --node-key key.pem");
    scene.expect(name);
}

const WITH_SOURCE: &str = "run --once --manifests pods.yaml";

fn all_refuse(mut scene: Scene, commands: &[&str]) -> Scene {
    let answer = scene.run("dump --root node --node-key key.pem");
    assert_eq!((answer.code, answer.stdout.as_str()), (2, ""));
    let want = answer.stderr.lines().last().unwrap().to_owned();
    for command in commands {
        let other = scene.answer(&format!("{command} --root node --node-key key.pem"));
        assert_eq!((other.code, other.stdout.as_str()), (2, ""), "{command}: {}", other.stderr);
        assert_eq!(other.stderr.lines().last(), Some(want.as_str()), "{command}");
    }
    scene
}

/// A scene with something else in the store's place.
fn instead_of_the_store(make: impl FnOnce(&std::path::Path)) -> Scene {
    let scene = Scene::with_source();
    let path = scene.path(STORE);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    make(&path);
    scene
}

#[test]
fn no_store() {
    let mut scene = Scene::with_source();
    for command in ["dump", "plan", "verify", "render --out out", "run --once"] {
        scene.run(&format!("{command} --root node --node-key key.pem"));
    }
    scene.expect("store_missing");
}

#[test]
fn an_empty_file() {
    rebuilt(instead_of_the_store(|path| fs::write(path, "").unwrap()), "store_of_zero_length");
}

#[test]
fn a_text_file() {
    left_alone(
        instead_of_the_store(|path| fs::write(path, "apiVersion: v1\nkind: Pod\n").unwrap()),
        "store_a_text_file",
    );
}

#[test]
fn a_long_text_file() {
    left_alone(
        instead_of_the_store(|path| fs::write(path, "store ".repeat(50_000)).unwrap()),
        "store_a_long_text_file",
    );
}

#[test]
fn a_directory() {
    refused(instead_of_the_store(|path| fs::create_dir(path).unwrap()), "store_a_directory");
}

#[test]
fn a_fifo() {
    let make = |path: &std::path::Path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    refused(instead_of_the_store(make), "store_a_fifo");
}

#[test]
fn a_symbolic_link() {
    let scene = Scene::seeded();
    let path = scene.path(STORE);
    fs::rename(&path, scene.path("elsewhere.db")).unwrap();
    std::os::unix::fs::symlink(scene.path("elsewhere.db"), &path).unwrap();
    refused(scene, "store_a_symbolic_link");
}

#[test]
fn the_first_page_only() {
    let scene = Scene::seeded();
    let whole = fs::read(scene.path(STORE)).unwrap();
    fs::write(scene.path(STORE), &whole[..4096]).unwrap();
    rebuilt(scene, "store_truncated_to_a_page");
}

/// What is left of it is shown, and nothing is written to it; where there is a source it is rebuilt, and kept.
#[test]
fn a_truncated_store() {
    let mut scene = Scene::seeded();
    let whole = fs::read(scene.path(STORE)).unwrap();
    fs::write(scene.path(STORE), &whole[..whole.len() / 2]).unwrap();
    for command in ["verify", "run --once --manifests pods.yaml"] {
        scene.run(&format!("{command} --root node --node-key key.pem"));
    }
    let kept = ckpt_db::store::kept_beside(&scene.path(STORE));
    assert!(kept.len() == 1 && fs::read(&kept[0]).unwrap() == whole[..whole.len() / 2], "the evidence was touched");
    scene.expect("store_truncated");
}

#[test]
fn a_newer_format() {
    let scene = Scene::seeded();
    let payload = (store_format::FORMAT_VERSION + 1).to_le_bytes();
    let digest = sha256(&digest_input(Table::Meta, &[meta_key::FORMAT], &payload));
    let frame = Frame { digest, tag: None, payload: &payload }.encode();
    let db = redb::Database::open(scene.path(STORE)).unwrap();
    let txn = db.begin_write().unwrap();
    let meta: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    txn.open_table(meta).unwrap().insert(meta_key::FORMAT, frame.as_slice()).unwrap();
    txn.commit().unwrap();
    drop(db);
    refused(scene, "store_of_a_newer_format");
}

#[test]
fn a_store_in_use() {
    let scene = Scene::seeded();
    let key = load(&scene.path("key.pem")).unwrap();
    let held = RedbStore::open(&scene.path(STORE), &[&key.secret.into()], Box::new(SystemEntropy)).unwrap();
    refused(scene, "store_in_use");
    drop(held);
}

#[test]
fn a_store_of_another_node() {
    let mut scene = Scene::seeded();
    for command in ["plan", "render --out out", "run --once", "run --once --manifests pods.yaml"] {
        scene.run(&format!("{command} --root node --node-key key.pem --node-name edge-2"));
    }
    scene.expect("store_of_another_node");
}

#[test]
fn no_permission() {
    let mut scene = Scene::seeded();
    // Everything but the file itself may be entered and read.
    for path in ["node", "node/var", "node/var/lib", "node/var/lib/ckpt-db"] {
        chmod(scene.path(path), Mode::from_raw_mode(0o755)).unwrap();
    }
    chmod(scene.path("key.pem"), Mode::from_raw_mode(0o644)).unwrap();
    chmod(scene.path(STORE), Mode::empty()).unwrap();
    for command in ["dump", "run --once"] {
        let command = format!("{command} --root node --node-key key.pem");
        let Some(answer) = scene.answer_as_nobody(&command) else { return };
        assert_eq!(answer.code, 2);
        scene.record(&command, &answer);
    }
    scene.expect("store_without_permission");
}

/// The directory of a new store can't be made or written to.
#[test]
fn nowhere_to_put_a_store() {
    let mut scene = Scene::with_source();
    scene.write("node/var", "a file where a directory belongs\n");
    scene.run(SEED);
    scene.expect("store_nowhere_to_put");
}
