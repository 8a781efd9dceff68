//! A damaged store under an agent: rebuilt when it is opened for writing, filled by the API server, and nothing that was
//! rendered goes while nobody can say what is lost.

use std::fs;

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::store::{Finding, install_panic_hook, kept_beside, open_offline};
use rustix::process::Signal;

use crate::agent::at_once;
use crate::common::program::{Listing, STORE};
use crate::scene::{OFF, Scene};

const PAGE: usize = 4096;
const PODS: usize = 8;

/// Each time: what is damaged, and what is said of it.
type Damage = fn(&[u8]) -> Vec<u8>;
const DAMAGES: [(Damage, &str); 2] = [
    (partly, "it is kept at ROOT/var/lib/ckpt-db/checkpoint-store.db.damaged-"),
    (wholly, "and nothing of it can be read: it is kept at ROOT/var/lib/ckpt-db/checkpoint-store.db.damaged-"),
];

/// A page that costs some pods, and not all.
fn partly(sound: &[u8]) -> Vec<u8> {
    install_panic_hook();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.db");
    for page in 1..sound.len() / PAGE {
        let mut damaged = sound.to_vec();
        damaged[page * PAGE..(page + 1) * PAGE].fill(0);
        fs::write(&path, &damaged).unwrap();
        let Ok(found) = open_offline(&path, &[]) else { continue };
        let found = found.into_inner();
        let pods = found.objects().filter(|object| object.key.kind() == Kind::Pod).count();
        if (1..PODS).contains(&pods) && found.findings().iter().any(|finding| matches!(finding, Finding::Structure(_)))
        {
            return damaged;
        }
    }
    panic!("no page holds a few pods");
}

fn wholly(sound: &[u8]) -> Vec<u8> {
    let mut damaged = sound.to_vec();
    damaged[..PAGE].fill(0xf3);
    damaged
}

fn scene() -> Scene {
    let scene = Scene::new();
    (0..PODS).for_each(|n| scene.pod("shop", &format!("p{n}")));
    scene
}

#[test]
fn it_is_rebuilt_and_filled_again() {
    for (damage, kept) in DAMAGES {
        let scene = scene();
        let mut agent = scene.start(&OFF);
        agent.in_step(3 * PODS);
        assert_eq!(agent.stop(Signal::TERM).code, Some(0));
        let damaged = damage(&fs::read(scene.node.at(STORE)).unwrap());
        fs::write(scene.node.at(STORE), &damaged).unwrap();

        let mut agent = scene.start(&OFF);
        let said = agent.until("warning: the store ROOT/var/lib/ckpt-db/checkpoint-store.db was damaged (");
        assert!(said.last().unwrap().contains(kept), "{said:#?}");
        agent.until("in step");
        let status = scene.node.ran("status", &[]);
        assert!(status.stdout.contains("WAS DAMAGED and rebuilt"), "{}{}", status.stdout, status.stderr);
        assert_eq!(agent.stop(Signal::TERM).code, Some(0));

        let beside = kept_beside(&scene.node.at(STORE));
        assert_eq!(beside.len(), 1);
        assert!(fs::read(&beside[0]).unwrap() == damaged, "the evidence was touched");
        let verified = scene.node.ran("verify", &[]).expect(0);
        assert!(verified.stdout.starts_with("sound: 0 findings"), "{}", verified.stdout);
        assert!(verified.stderr.contains("this store was rebuilt"), "{}", verified.stderr);
        let log = scene.node.ran("log", &[]).expect(0).stdout;
        assert!(log.contains("stored: the file was damaged and is kept as checkpoint-store.db.damaged-"), "{log}");
        scene.assert_store_is_the_servers();
        // And it stays so.
        let mut agent = scene.start(&OFF);
        let said = agent.until("in step");
        assert!(!said.iter().any(|line| line.starts_with("warning")), "{said:#?}");
        assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    }
}

#[test]
fn with_a_silent_api_server_nothing_that_is_rendered_goes() {
    for (damage, _) in DAMAGES {
        let scene = scene();
        let mut agent = scene.start(&[] as &[&str]);
        agent.in_step(3 * PODS);
        assert_eq!(agent.stop(Signal::TERM).code, Some(0));
        scene.server.stop();
        assert!(scene.node.run_store().stdout.contains("8 pods rendered"));
        let before = scene.node.rendered();
        let sound = fs::read(scene.node.at(STORE)).unwrap();
        fs::write(scene.node.at(STORE), damage(&sound)).unwrap();

        let mut agent = scene.start(&[] as &[&str]);
        agent.until("warning: the store ");
        agent.until("warning: API server: silent");
        // A round was made over what was opened.
        let revision = || {
            let status = scene.node.ran("status", &["-o", "json"]);
            let status: serde_json::Value = serde_json::from_str(&status.stdout).ok()?;
            status["store"]["damagedFiles"].as_array().filter(|files| files.len() == 1)?;
            status["store"]["revision"].as_u64()
        };
        at_once("a round over the new store", || revision().is_some_and(|revision| revision > 0));
        assert_stays(&scene.node.rendered(), &before);
        assert_eq!(agent.stop(Signal::TERM).code, Some(0));
        assert_stays(&scene.node.rendered(), &before);

        // What is lost comes back with the API server.
        scene.server.listen();
        let mut agent = scene.start(&[] as &[&str]);
        agent.until("in step");
        assert_eq!(agent.stop(Signal::TERM).code, Some(0));
        scene.node.ran("verify", &[]).expect(0);
        scene.assert_store_is_the_servers();
    }
}

#[track_caller]
fn assert_stays(found: &Listing, before: &Listing) {
    let gone: Vec<_> =
        before.iter().filter(|(path, entry)| found.get(*path) != Some(entry)).map(|(path, _)| path).collect();
    assert!(gone.is_empty(), "{gone:#?}");
}

/// What somebody else's program needs is not moved away, and what can't be read is not taken for lost.
#[test]
fn a_file_that_was_never_a_store_is_left_alone() {
    let scene = scene();
    let text = "apiVersion: v1\nkind: List\n";
    scene.write(STORE, text);
    let ran = crate::common::program::Ran::of(scene.command(&OFF)).expect(2);
    assert!(ran.stderr.contains("is no checkpoint store, and nothing says that it ever was one"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(scene.node.at(STORE)).unwrap(), text);
    assert_eq!(fs::read_dir(scene.node.at(STORE).parent().unwrap()).unwrap().count(), 1);
}
