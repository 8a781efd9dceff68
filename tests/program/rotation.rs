//! Client certificates: rotated as a kubelet does it, half-written, expired and renewed.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;

use crate::agent::Agent;
use crate::fake::{Match, Validity, Verb};
use crate::scene::{FOLLOWING, KUBELET, OFF, PEM, Scene, secret, wait};

/// Its pods, its Node and the two objects of its pod are watched.
const WATCHES: usize = 4;

fn followed() -> (Scene, Agent) {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    agent.in_step(5);
    scene.requests(watches(1), WATCHES);
    (scene, agent)
}

/// The key of a certificate gets its slot in the store before or after the certificate is used.
fn without_keys(mut said: Vec<String>) -> Vec<String> {
    said.retain(|line| !line.starts_with("note: a new key opens the store from now on"));
    said
}

/// Watches with this certificate.
fn watches(serial: u64) -> Match {
    Match::when(move |request| request.verb == Verb::Watch && request.certificate == Some(serial)).answered(200)
}

#[test]
fn rotated_again_and_again_while_objects_change() {
    let (scene, mut agent) = followed();
    let mark = scene.server.mark();
    for serial in 2..=4 {
        let change = |when: &str| {
            scene.server.replace(Kind::Secret, "shop", "web", secret(&format!("{serial} {when}")));
        };
        change("before");
        scene.server.issue_client_certificate(Validity::now());
        agent.stored(1, 0);
        scene.server.swap_current_pem(&scene.node.at(KUBELET));
        scene.server.require_newest_certificate(true);
        change("meanwhile");
        let began = Instant::now();
        scene.requests(watches(serial), WATCHES);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        agent.stored(1, 0);
        change("after");
        agent.stored(1, 0);
        assert_eq!(without_keys(agent.until("following")), [FOLLOWING]);
        // What was made with the old one is closed, when nothing needs it any more.
        wait(scene.server.wait_until_none_is_open(watches(serial - 1)));
    }
    let lists = Match::when(|request| request.verb == Verb::List).after(mark);
    assert_eq!(scene.server.requests(&lists).len(), 0, "watches go on from where they were");
    assert_eq!(scene.server.requests(&Match::any().after(mark)).len(), 3 * WATCHES, "and once for each rotation");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

/// Someone copies files about by hand. Until they are whole again the old connections do.
#[test]
fn half_a_certificate_changes_nothing() {
    let (scene, mut agent) = followed();
    let mark = scene.server.mark();
    scene.server.issue_client_certificate(Validity::now());
    let pki = scene.node.at(PEM).parent().unwrap().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let whole = fs::read(scene.server.swap_current_pem(elsewhere.path())).unwrap();

    fs::remove_file(scene.node.at(PEM)).unwrap();
    symlink(pki.join("not-there.pem"), scene.node.at(PEM)).unwrap();
    let kept = "warning: going on with the credentials that were read before: cannot use \
                ROOT/var/lib/kubelet/pki/kubelet-client-current.pem:";
    let it_goes_on = |agent: &mut Agent, why: &str| {
        assert_eq!(agent.until("warning"), [format!("{kept} {why}")]);
        scene.server.replace(Kind::Secret, "shop", "web", secret(why));
        agent.stored(1, 0);
    };
    it_goes_on(&mut agent, "it can't be opened (it is named in ROOT/etc/kubernetes/kubelet.conf)");
    for (half, why) in [
        (0, "there is no certificate in it"),
        (whole.len() / 4, "a PEM section of it is damaged or unfinished"),
        (whole.len() - 60, "a PEM section of it is damaged or unfinished"),
    ] {
        fs::write(pki.join("not-there.pem"), &whole[..half]).unwrap();
        if half < whole.len() / 2 {
            it_goes_on(&mut agent, why);
        }
    }
    assert_eq!(scene.server.mark(), mark, "nobody was asked for anything");
    fs::write(pki.join("not-there.pem"), &whole).unwrap();
    scene.requests(watches(2), WATCHES);
    assert_eq!(without_keys(agent.until("following")), [FOLLOWING], "what is right again needs no more words");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}

#[test]
fn an_expired_certificate_that_is_renewed() {
    let scene = Scene::joining();
    scene.pod("shop", "web");
    scene.server.issue_client_certificate(Validity::expired());
    scene.write_kubeconfig("etc/kubernetes/kubelet.conf");
    let mut agent = scene.start(&OFF);
    let said = agent.until("warning: API server");
    let expired = "the client certificate O=system:nodes,CN=system:node:node-1 in \
                   ROOT/var/lib/kubelet/pki/kubelet-client-current.pem expired on DATE";
    let refusing =
        format!("warning: API server: refusing (GET /api/v1/pods at https://SERVER: 401 Unauthorized; {expired})");
    assert_eq!(said[said.len() - 3..], [FOLLOWING, &format!("warning: {expired}"), &refusing]);
    // It may be the API server's clock that is right: it is asked again and again, at ever greater intervals.
    scene.requests(Match::list(Kind::Pod).answered(401), 6);
    scene.server.issue_client_certificate(Validity::now());
    scene.server.swap_current_pem(&scene.node.at(KUBELET));
    let renewed = Instant::now();
    let said = without_keys(agent.until("in step"));
    assert_eq!(said[..2], [FOLLOWING, "API server: answering"], "the same refusal is told once");
    assert!(renewed.elapsed() < Duration::from_secs(8), "not only when its turn comes: {:?}", renewed.elapsed());
    agent.stored(5, 0);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    scene.assert_store_is_the_servers();
}
