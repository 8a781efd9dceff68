//! Connections: few of them, watched for silence, and left without a loss when the server wants to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;

use crate::agent::Agent;
use crate::fake::{Match, Verb};
use crate::scene::{OFF, Scene, secret, wait};

/// 100 pods with a Secret and a ConfigMap each, followed: with the pods' own watch and the Node's, 202 watches.
fn crowd() -> (Scene, Agent) {
    let scene = Scene::new();
    for n in 0..100 {
        scene.pod(["default", "shop"][n % 2], &format!("p{n}"));
    }
    let mut agent = scene.start(&OFF);
    agent.in_step(302);
    scene.requests(watches().answered(200), 202);
    (scene, agent)
}

fn watches() -> Match {
    Match::when(|request| request.verb == Verb::Watch)
}

#[test]
fn few_of_them_with_room_for_single_requests() {
    let (scene, mut agent) = crowd();
    let open = scene.server.open_watches(&Match::any());
    assert_eq!(open.len(), 202);
    let mut on_each = BTreeMap::new();
    open.iter().for_each(|watch| *on_each.entry(watch.connection).or_insert(0) += 1);
    assert_eq!(on_each.values().copied().collect::<Vec<i32>>(), [80, 80, 42]);
    assert_eq!(scene.server.connections(), 4, "the fourth one is for single requests");
    // They are not in each other's way.
    let mark = scene.server.mark();
    scene.pod("shop", "newcomer");
    for kind in [Kind::Secret, Kind::ConfigMap] {
        let read = scene.request(Match::list(kind).named("newcomer").after(mark).answered(200));
        assert!(!on_each.contains_key(&read.connection), "on a connection of its own");
        scene.request(Match::watch(kind).named("newcomer").answered(200));
    }
    agent.stored(3, 0);
    assert_eq!(scene.server.connections(), 4);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

/// The kernel still takes what is sent to it, as with a process that is stopped; only pings tell.
#[test]
fn a_silent_server_is_noticed_within_30_seconds() {
    let (scene, mut agent) = crowd();
    let began = Instant::now();
    scene.server.pause();
    scene.server.replace(Kind::Secret, "shop", "p1", secret("of the silence"));
    let said = agent.until("warning: API server: silent");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // Which of the two is heard first is chance: that no ping was answered, or that the connection was given up for it.
    let reasons =
        ["no answer to keep-alive pings: the peer or the way to it is dead", "stream closed because of a broken pipe"];
    let silent = |why| format!("warning: API server: silent (watch /api/v1/pods at https://SERVER: {why})");
    assert!(said.len() == 1 && reasons.map(silent).contains(&said[0]), "{said:?}");
    scene.server.resume();
    assert_eq!(agent.until("API server: answering"), ["API server: answering"]);
    // What was on connections that lived on is told there, the rest over new ones.
    agent.stored(1, 0);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

/// A server that shuts down in peace, or a balancer that spreads its clients.
#[test]
fn a_server_that_sends_its_clients_away() {
    let (scene, mut agent) = crowd();
    let said = agent.lines();
    scene.server.go_away();
    // What is under way goes on over the old connections, ...
    scene.server.replace(Kind::Secret, "shop", "p1", secret("over the old ones"));
    agent.stored(1, 0);
    // ... and what is new, over others.
    let mark = scene.server.mark();
    scene.pod("shop", "newcomer");
    for kind in [Kind::Secret, Kind::ConfigMap] {
        let watch = scene.request(Match::watch(kind).named("newcomer").answered(200));
        assert!(watch.connection > 4, "{watch}");
    }
    agent.stored(3, 0);
    scene.server.end_watches(&watches());
    scene.server.replace(Kind::Secret, "shop", "p3", secret("meanwhile"));
    scene.requests(watches().after(mark).answered(200), 204);
    wait(scene.server.wait_until_none_is_open(Match::when(|request| request.connection <= 4)));
    agent.stored(1, 0);
    assert_eq!(agent.lines(), said, "there is nothing to be said of it");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

/// A server that is killed and is back at once: connections are refused for a moment.
#[test]
fn a_server_that_is_killed() {
    let (scene, mut agent) = crowd();
    scene.server.stop();
    scene.server.replace(Kind::Secret, "shop", "p1", secret("meanwhile"));
    agent.until("warning: API server: silent");
    let mark = scene.server.mark();
    scene.server.listen();
    assert_eq!(agent.until("API server: answering"), ["API server: answering"]);
    scene.requests(watches().after(mark).answered(200), 202);
    agent.stored(1, 0);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}
