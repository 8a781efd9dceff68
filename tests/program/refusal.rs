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
use crate::scene::{FOLLOWING, KUBELET, KUBELET_CONF, OFF, PEM, Scene};

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
    let renewed = said.iter().position(|line| line == FOLLOWING).unwrap();
    // An attempt that was on its way with the earlier CA may end after that.
    let mut after = said[renewed + 1..].iter().filter(|line| !line.contains("the name of ours and another key"));
    assert_eq!(after.next().unwrap(), "API server: answering");
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
        "the server's certificate is of a CA with the name of ours and another key (is it another cluster?)",
    );
}

#[test]
fn a_server_of_another_name() {
    refused(
        |scene| {
            let named = "    tls-server-name: api.example\n    server:";
            scene.write(KUBELET_CONF, &scene.kubeconfig_text().replace("    server:", named));
        },
        "the server's certificate is not for api.example but for 127.0.0.1, localhost",
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
    let key =
        find(&KeySearch { explicit: vec![scene.node.at(PEM)], defaults: Vec::new() }).keys.remove(0).secret.into();
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
    // Told again when it happens again.
    let other = Scene::new();
    for _ in 0..2 {
        let mark = scene.server.mark();
        scene.write(KUBELET_CONF, &other.kubeconfig_text());
        let said = agent.until("error:");
        let start = "error: the source belongs to another cluster: its API server is trusted by CA ";
        let end =
            ". The store is kept as it is; to begin anew with this cluster, move it away (tried again until it works)";
        let error = said.last().unwrap();
        assert!(error.starts_with(start) && error.ends_with(end), "{said:#?}");
        scene.write(KUBELET_CONF, &scene.kubeconfig_text());
        assert_eq!(agent.until("API server: answering"), [FOLLOWING, "API server: answering"]);
        scene.request(Match::list(Kind::Pod).after(mark).answered(200));
    }
    assert_eq!(other.server.connections(), 0, "nothing was asked of the other one");

    // The same cluster knows this machine by another name.
    scene.server.set_options(|options| options.node_name = "node-2".to_owned());
    scene.server.issue_client_certificate(Validity::now());
    scene.server.set_options(|options| options.node_name = "node-1".to_owned());
    scene.server.swap_current_pem(&scene.node.at(KUBELET));
    let said = agent.until("error:");
    let error = "error: the store belongs to node node-1, but this is node node-2. The store is kept as it is; to begin anew \
                 with this node, move it away (tried again until it works)";
    assert_eq!(said.last().unwrap(), error);
    assert!(
        scene.server.log().iter().all(|request| request.certificate == Some(1)),
        "nothing was asked as another node"
    );
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

/// With credentials that never worked a store becomes nobody's: the right ones, which come later, are not refused.
#[test]
fn credentials_that_never_worked_leave_no_trace() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let other = Scene::new();
    other.server.stop();
    scene.write(KUBELET_CONF, &other.kubeconfig_text());
    let mut agent = scene.start(&["--activation-policy", "off", "--node-name", "node-1"]);
    agent.until("warning: API server: silent");
    scene.write(KUBELET_CONF, &scene.kubeconfig_text());
    agent.in_step(5);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

/// One cause follows the other; each is told once until the API server answers.
#[test]
fn a_server_that_stumbles() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let pods = || Match::list(Kind::Pod);
    for (fault, times) in [(Fault::Close, 2), (Fault::status(503), 2), (Fault::Close, 2)] {
        scene.server.fault(pods(), fault, Times::Count(times));
    }
    let mut agent = scene.start(&OFF);
    let said = agent.in_step(5);
    let silent = "warning: API server: silent (GET /api/v1/pods at https://SERVER: the server closed the connection)";
    let unavailable = refusing("503 ServiceUnavailable");
    assert_eq!(said[4..8], [silent, &unavailable, silent, "API server: answering"], "the last of them is as it stands");

    // What was told is told again, after it has answered.
    let said = |text: &str| format!("warning: API server: refusing (GET /api/v1/pods{text})");
    let no_list = ": cannot read a list of pods that the API server sent: it is not JSON (line 1, column";
    for (fault, start) in [
        (Fault::status(503), said(" at https://SERVER: 503 ServiceUnavailable")),
        (Fault::status(403), said(" at https://SERVER: 403 Forbidden")),
        (Fault::html(), said(&format!("{no_list} 1)"))),
        (Fault::truncated(), said(no_list).trim_end_matches(')').to_owned()),
    ] {
        scene.server.fault(pods(), fault, Times::Once);
        agent.signal(Signal::HUP);
        agent.until(&start);
        assert_eq!(agent.until("API server: answering"), ["API server: answering"]);
    }
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}
