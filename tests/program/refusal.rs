//! What answers is not the API server, or is not this node's, or refuses: said with its reason, and nothing is believed.

use std::fs;

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::keys::{KeySearch, find};
use ckpt_db::store::{Backend as _, Change, RedbStore};
use rustix::process::Signal;
use serde_json::json;

use crate::agent::at_once;
use crate::common::object;
use crate::common::program::STORE;
use crate::fake::{Fault, Match, Rotation, Times, Validity};
use crate::scene::{KUBELET, KUBELET_CONF, OFF, PEM, Scene};

const FOLLOWING: &str = "following https://SERVER for node node-1 as O=system:nodes,CN=system:node:node-1 (client certificate), \
                         certificate valid until DATE";

/// The message about pods that can't be listed.
fn refusing(why: &str) -> String {
    format!("warning: API server: refusing (GET /api/v1/pods at https://SERVER: {why})")
}

/// Starts with a server that shows another certificate than it should. Then all is put right.
fn refused(spoil: impl FnOnce(&Scene), why: &str) {
    let scene = Scene::new();
    scene.pod("shop", "web");
    spoil(&scene);
    let mut agent = scene.start(&OFF);
    let said = agent.until("warning:");
    assert_eq!(said[said.len() - 2..], [FOLLOWING.to_owned(), refusing(why)]);
    // It is asked again, and not told again, although it is later by now.
    at_once("another attempt", || scene.server.connections() >= 5);
    scene.server.rotate_server_certificate(Rotation::Authority(Validity::now()));
    scene.write(KUBELET_CONF, &scene.kubeconfig_text());
    let said = agent.in_step(5);
    assert_eq!(said[..2], [FOLLOWING, "API server: answering"]);
    assert_eq!(scene.server.log()[0].status, Some(200), "nobody else was asked for anything");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

#[test]
fn an_expired_server() {
    refused(
        |scene| scene.server.rotate_server_certificate(Rotation::Certificate(Validity::expired())),
        "the server's certificate expired on DATE; by this node's clock it is DATE",
    );
}

#[test]
fn a_server_of_the_future() {
    refused(
        |scene| scene.server.rotate_server_certificate(Rotation::Certificate(Validity::not_yet())),
        "the server's certificate is not valid before DATE; by this node's clock it is DATE",
    );
}

#[test]
fn a_server_of_another_authority() {
    refused(
        |scene| scene.server.rotate_server_certificate(Rotation::Authority(Validity::now())),
        "the server's certificate is not of a CA that we trust",
    );
}

#[test]
fn a_server_of_another_name() {
    refused(
        |scene| {
            let named = "    tls-server-name: api.example\n    server:";
            scene.write(KUBELET_CONF, &scene.kubeconfig_text().replace("    server:", named));
        },
        "the server's certificate is not for api.example but for IpAddress(127.0.0.1), DnsName(\"localhost\")",
    );
}

/// The clock starts at some time in the past, as on a board without a battery: whatever the certificates say of time, it
/// is not known to be wrong. The store knows of a later time than the clock.
#[test]
fn an_unset_clock_judges_nobody() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    agent.in_step(5);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    let key = find(&KeySearch { explicit: vec![scene.node.at(PEM)], defaults: Vec::new() }).keys.remove(0).secret;
    let mut store = RedbStore::open(&scene.node.at(STORE), &[&key], Box::new(SystemEntropy)).unwrap();
    let stored = json!({"metadata": {"name": "node-1", "uid": "node"}});
    let node = Change::Apply { object: object(Kind::Node, "", "node-1", stored), with: Vec::new() };
    let a_year_ms = 365 * 24 * 60 * 60 * 1000;
    let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let _ = store.update(vec![node], now_ms + a_year_ms).unwrap();
    drop(store);

    scene.server.issue_client_certificate(Validity::not_yet());
    let pem = fs::read(scene.server.swap_current_pem(&scene.node.at(KUBELET))).unwrap();
    scene.server.rotate_server_certificate(Rotation::Certificate(Validity::not_yet()));
    let key = scene.node.at(KUBELET).join("pki/kubelet-client-2026-01-01-00-00-01.pem");
    let options = ["--activation-policy", "off", "--node-key", key.to_str().unwrap()];
    let mut agent = scene.start(&options);
    let said = agent.until("warning:");
    let silent = "warning: API server: silent (GET /api/v1/pods at https://SERVER: the server's certificate is not valid before \
                  DATE; by this node's clock it is DATE; that can't be judged: the clock of this node is not set (is it \
                  waiting for time synchronisation?))";
    assert_eq!(said[said.len() - 2..], [FOLLOWING, silent], "nor is our own certificate complained of");
    assert!(!pem.is_empty());

    // Once the server can be trusted it judges our certificate, by its own clock; ours still says nothing.
    scene.server.rotate_server_certificate(Rotation::Certificate(Validity::now()));
    assert_eq!(agent.until("warning:"), [refusing("401 Unauthorized")]);
    scene.server.issue_client_certificate(Validity::now());
    scene.server.swap_current_pem(&scene.node.at(KUBELET));
    let said = agent.until("API server: answering");
    assert_eq!(said, [FOLLOWING, "API server: answering"]);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

/// The credentials of another cluster, or of another node: the store keeps to its own.
#[test]
fn somebody_elses_store() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    agent.in_step(5);
    let other = Scene::new();
    let theirs = other.kubeconfig_text();
    scene.write(KUBELET_CONF, &theirs);
    let said = agent.until("error:");
    println!("{said:#?}");
    assert_eq!(other.server.connections(), 0);
    scene.write(KUBELET_CONF, &scene.kubeconfig_text());
    let said = agent.until("API server: answering");
    println!("{said:#?}");
    scene.server.set_options(|options| options.node_name = "node-2".to_owned());
    scene.server.issue_client_certificate(Validity::now());
    let mark = scene.server.mark();
    scene.server.swap_current_pem(&scene.node.at(KUBELET));
    let said = agent.until("error:");
    println!("{said:#?}");
    assert_eq!(scene.server.mark(), mark);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    panic!();
}

/// One cause follows the other; each is told once until the API server answers.
#[test]
fn a_server_that_stumbles() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let pods = || Match::list(Kind::Pod);
    for (fault, times) in [
        (Fault::Close, 6),
        (Fault::status(503), 2),
        (Fault::Close, 2),
        (Fault::status(403), 2),
        (Fault::html(), 2),
        (Fault::truncated(), 2),
    ] {
        scene.server.fault(pods(), fault, Times::Count(times));
    }
    let mut agent = scene.start(&OFF);
    let said = agent.until("in step");
    println!("{said:#?}");
    panic!();
}
