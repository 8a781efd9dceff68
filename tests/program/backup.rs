//! A backup from an agent that is at work, and a store that is put back under one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ckpt_db::checkpoint::object::Kind;
use data_encoding::BASE64;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::agent::at_once;
use crate::common::program::{Ran, STORE};
use crate::scene::{OFF, Scene, secret};

fn with_file(scene: &Scene, command: &str, options: &[&str], file: &Path) -> Ran {
    let mut command = scene.node.command(command, options);
    command.arg(file);
    Ran::of(command)
}

/// Every object in a file, opened with the key of the node.
fn dump(scene: &Scene, file: &Path) -> Value {
    let mut command = scene.node.command("dump", &["-o", "json", "--reveal", "--store"]);
    command.arg(file);
    Ran::of(command).expect(0).json()
}

fn find<'a>(dump: &'a Value, kind: &str, name: &str) -> Option<&'a Value> {
    let items = dump["items"].as_array().unwrap();
    items.iter().find(|item| item["kind"] == kind && item["metadata"]["name"] == name)
}

/// While objects change as fast as the server takes them. Each copy is sound as it stands: the log ends with the revision that
/// the state names, there are as many objects as were counted then, and each pod has what it names.
#[test]
fn copies_of_a_store_under_churn() {
    const COPIES: usize = 8;
    let scene = Scene::new();
    let scratch = tempfile::tempdir().unwrap();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    agent.in_step(5);
    let done = AtomicBool::new(false);
    let copies: Vec<PathBuf> = (0..COPIES).map(|n| scratch.path().join(format!("{n}.db"))).collect();
    let revisions: Vec<u64> = std::thread::scope(|threads| {
        threads.spawn(|| {
            for n in 0_u64.. {
                if done.load(Ordering::Acquire) {
                    break;
                }
                scene.server.replace(Kind::Secret, "shop", "web", secret(&format!("secret {n}")));
                scene
                    .server
                    .modify(Kind::Pod, "shop", "web", |pod| pod["metadata"]["labels"] = json!({"n": n.to_string()}));
                let name = format!("p{}", n % 5);
                match scene.server.object(Kind::Pod, "shop", &name) {
                    Some(_) => scene.delete_pod("shop", &name),
                    None => scene.pod("shop", &name),
                }
            }
        });
        let revision = |file: &PathBuf| {
            let ran = with_file(&scene, "backup", &[], file).expect(0);
            let after = ran.stdout.split_once("revision ").unwrap().1;
            after.split(',').next().unwrap().parse().unwrap()
        };
        let revisions = copies.iter().map(revision).collect();
        done.store(true, Ordering::Release);
        revisions
    });
    assert!(revisions.is_sorted(), "{revisions:?}");
    assert!(revisions[0] < revisions[COPIES - 1], "nothing happened meanwhile");
    for (file, revision) in copies.iter().zip(&revisions) {
        let verified = with_file(&scene, "verify", &["--store"], file).expect(0);
        assert!(verified.stdout.starts_with("sound: 0 findings"), "{}", verified.stdout);
        assert!(verified.stdout.contains(&format!("revision {revision},")), "{}", verified.stdout);
        let dump = dump(&scene, file);
        let value = find(&dump, "Secret", "web").unwrap()["data"]["password"].as_str().unwrap();
        let clear = BASE64.decode(value.as_bytes()).unwrap();
        assert!(clear.starts_with(b"secret "));
        let octets = fs::read(file).unwrap();
        for text in [&clear[..], value.as_bytes()] {
            assert!(!octets.windows(text.len()).any(|found| found == text), "a Secret lies in a backup in clear text");
        }
    }
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

/// A pod was created and one deleted since the backup: the store becomes the server's again by itself.
#[test]
fn a_restored_store_is_brought_up_to_date() {
    let scene = Scene::new();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("backup.db");
    scene.pod("shop", "web");
    scene.pod("shop", "old");
    let mut agent = scene.start(&OFF);
    agent.in_step(8);
    let saved = with_file(&scene, "backup", &[], &file).expect(0);
    assert!(saved.stdout.contains("(2 pods) of node node-1"), "{}", saved.stdout);
    scene.pod("shop", "new");
    agent.stored(3, 0);
    scene.delete_pod("shop", "old");
    agent.stored(0, 3);
    scene.server.replace(Kind::Secret, "shop", "web", secret("another"));
    agent.stored(1, 0);

    let before = fs::read(scene.node.at(STORE)).unwrap();
    let refused = with_file(&scene, "restore", &["--yes"], &file).expect(2);
    assert!(refused.stderr.contains("an agent runs on this node; stop it first"), "{}", refused.stderr);
    let named = scene.node.at(STORE);
    let refused = with_file(&scene, "restore", &["--yes", "--store", named.to_str().unwrap()], &file).expect(2);
    assert!(refused.stderr.contains("is in use by an agent; stop it first"), "{}", refused.stderr);
    assert!(fs::read(scene.node.at(STORE)).unwrap() == before, "a store in use was changed");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    let restored = with_file(&scene, "restore", &["--yes"], &file).expect(0);
    assert!(restored.stdout.contains("come back until the API server answers: 1 pod: shop/old"), "{}", restored.stdout);
    assert!(restored.stdout.contains("missing until the API server answers: 1 pod: shop/new"), "{}", restored.stdout);
    let older = dump(&scene, &scene.node.at(STORE));
    assert!(find(&older, "Pod", "old").is_some() && find(&older, "Pod", "new").is_none());

    let mut agent = scene.start(&OFF);
    agent.until("in step");
    let gone = || {
        let dump = scene.node.dump();
        find(&dump, "Pod", "old").is_none() && find(&dump, "Secret", "old").is_none()
    };
    at_once("the deleted pod to go", gone);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

/// The store of another node is not taken for this one's, whatever lies in its place: the kubelet's credentials say whose it is.
#[test]
fn the_credentials_say_whose_store_belongs_here() {
    let scene = Scene::new();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("other.db");
    let other = crate::common::store_with(&file, crate::common::objects(1), &crate::common::secret());
    drop(other);
    let refused = with_file(&scene, "restore", &["--yes"], &file).expect(2);
    assert!(refused.stderr.contains("is of node edge-1, but this is node node-1"), "{}", refused.stderr);
    assert!(!scene.node.at(STORE).exists());
    let allowed = with_file(&scene, "restore", &["--yes", "--other-node"], &file).expect(0);
    assert!(allowed.stderr.contains("no copy starts before 'ckpt-db adopt'"), "{}", allowed.stderr);
    let adopted = scene.node.ran("adopt", &["--dry-run"]);
    assert!(adopted.code == Some(2) && adopted.stderr.contains("no key at hand opens"), "{}", adopted.stderr);
}
