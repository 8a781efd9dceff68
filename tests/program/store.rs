//! The store under a running agent: made at once, closed cleanly, never lost, and nobody else's.

use std::process::Command;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::agent::at_once;
use crate::common::program::{Ran, SECRETS, STORE, clean};
use crate::fake::Match;
use crate::scene::{OFF, Scene, secret, shown};

#[test]
fn it_is_there_before_there_are_credentials() {
    let scene = Scene::joining();
    let mut agent = scene.start(&OFF);
    agent.until("note: waiting for credentials");
    assert!(scene.node.at(STORE).is_file());
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    let verified = scene.node.ran("verify", &[]).expect(0);
    assert!(verified.stdout.starts_with("sound: 0 findings"), "{}", verified.stdout);
    let said = scene.start(&OFF).until("store ");
    assert_eq!(said.last().unwrap(), "store ROOT/var/lib/ckpt-db/checkpoint-store.db: revision N");
}

#[test]
fn it_is_there_before_anybody_answers() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    scene.server.stop();
    let mut agent = scene.start(&OFF);
    let said = agent.until("warning: API server");
    assert!(scene.node.at(STORE).is_file());
    assert_eq!(
        said.last().unwrap(),
        "warning: API server: silent (GET /api/v1/pods at https://SERVER: Connection refused (os error 111))"
    );
    scene.server.listen();
    let said = agent.in_step(5);
    assert_eq!(said[0], "API server: answering", "nothing more is said of a server that stays away");
    let ended = agent.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    scene.assert_store_is_the_servers();
}

#[test]
fn another_instance_is_told_so() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    agent.in_step(5);
    for options in [&OFF[..], &[], &["--once"]] {
        let second = Ran::of(scene.command(options)).expect(2);
        let said = second.stderr.replace(&shown(&scene.node.root()), "ROOT");
        assert_eq!(
            said.lines().last().unwrap(),
            "error: ROOT/var/lib/ckpt-db/checkpoint-store.db is in use by another process (a running ckpt-db agent?); stop \
             it first, which leaves what it rendered in place",
            "{options:?}"
        );
    }
    scene.server.replace(Kind::Secret, "shop", "web", secret("another"));
    agent.stored(1, 0);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0), "the first one does not mind");
    scene.assert_store_is_the_servers();
}

#[test]
fn a_hangup_lists_again() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    agent.until("in step");
    for _ in 0..3 {
        let mark = scene.server.mark();
        agent.signal(Signal::HUP);
        agent.until("API server: answering");
        for kind in [Kind::Pod, Kind::Secret, Kind::ConfigMap, Kind::Node, Kind::Service] {
            scene.request(Match::list(kind).after(mark).answered(200));
        }
    }
    assert_eq!(agent.stop(Signal::INT).code, Some(0));
}

/// As under a supervisor that gives it nothing: what it does can be seen on disk only.
#[test]
fn without_any_stream() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let program = scene.command::<&str>(&[]);
    let mut shell = clean(Command::new("sh"));
    shell.args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"]).arg(program.get_program()).args(program.get_args());
    shell.env("RUST_LOG", "trace");
    let agent = scene.watch(shell);
    rendered(&scene, "secret of web");
    scene.server.replace(Kind::Secret, "shop", "web", secret("another"));
    rendered(&scene, "another");
    let ended = agent.stop(Signal::TERM);
    assert_eq!((ended.code, ended.octets.len()), (Some(0), 0));
    scene.assert_store_is_the_servers();
}

/// The reader of its messages goes away.
#[test]
fn after_the_end_of_its_reader() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = scene.command::<&str>(&[]);
    command.env("RUST_LOG", "trace").stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    drop(reader);
    rendered(&scene, "secret of web");
    scene.server.replace(Kind::Secret, "shop", "web", secret("another"));
    rendered(&scene, "another");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    scene.assert_store_is_the_servers();
}

/// Waits for a value where a container would find it.
fn rendered(scene: &Scene, value: &str) {
    let path = scene.node.at(SECRETS).join("shop/web/web/password");
    at_once("the value", || std::fs::read_to_string(&path).is_ok_and(|found| found == value));
}

/// The moments are those at which the server has had so many requests, or has sent so many changes, and a little later or
/// not: a different number of rounds of waiting for the disk.
#[test]
fn killed_again_and_again() {
    let scene = Scene::new();
    (0..4).for_each(|n| scene.pod("shop", &format!("p{n}")));
    for round in 0..12 {
        let mark = scene.server.mark();
        let agent = scene.start(&OFF);
        let requests = 1 + (round * 5) % 21;
        scene.requests(Match::any().after(mark), requests);
        for n in 0..round {
            let name = format!("p{}", n % 4);
            let value = format!("{round}/{n}");
            scene.server.replace(Kind::Secret, "shop", &name, secret(&value));
            scene.server.modify(Kind::Pod, "shop", &name, |pod| pod["metadata"]["labels"] = json!({"at": value}));
        }
        agent.kill();
        let verified = scene.node.ran("verify", &[]);
        assert!(verified.stdout.contains("sound: 0 findings"), "{round}: {}{}", verified.stdout, verified.stderr);
    }
    let mut agent = scene.start(&OFF);
    agent.until("in step");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}
