//! How often things are said: once, and not once for each of hundreds of objects.

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::json;

use crate::agent::{Agent, at_once};
use crate::fake::{Fault, Match, Times};
use crate::scene::{KUBELET_CONF, OFF, Scene, shown};

/// 40 pods with a Secret and a ConfigMap each.
fn many(scene: &Scene) {
    (0..40).for_each(|n| scene.pod("shop", &format!("p{n:02}")));
}

/// The lines after `API server: answering`, up to the end.
fn rest(agent: Agent) -> Vec<String> {
    let ended = agent.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    let answering = ended.lines.iter().position(|line| line == "API server: answering").unwrap();
    ended.lines[answering + 1..].to_vec()
}

#[test]
fn objects_that_cannot_be_read() {
    let scene = Scene::new();
    many(&scene);
    scene.server.fault(Match::list(Kind::Secret), Fault::html(), Times::Forever);
    let mut agent = scene.start(&OFF);
    agent.until("in step");
    for n in 0..40 {
        scene.requests(Match::list(Kind::Secret).named(&format!("p{n:02}")), 3);
    }
    let lines = rest(agent);
    let (named, others): (Vec<String>, _) =
        lines.into_iter().partition(|line| line.starts_with("warning: cannot read"));
    let one = |line: &String| {
        let name = &line["warning: cannot read Secret shop/".len()..][..3];
        let why = "GET /api/v1/namespaces/shop/secrets: cannot read a list of secrets that the API server sent: it is not JSON \
                   (line 1, column 1)";
        assert_eq!(line, &format!("warning: cannot read Secret shop/{name} (it is tried again): {why}"));
    };
    named.iter().for_each(one);
    assert_eq!(named.len(), 5);
    let in_step = "in step with the API server: ROOT/var/lib/ckpt-db/checkpoint-store.db: revision N, node node-1, 40 Pods, \
                   40 ConfigMaps";
    let more = "warning: more objects can't be read (each is tried again; with --v=2 they are named)";
    assert_eq!(others, [more, in_step]);
}

/// Each page says that there is another one.
#[test]
fn a_list_without_an_end() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let page = json!({
        "kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "1001", "continue": "again"}, "items": [],
    });
    let endless = Fault::Page { code: 200, content_type: "application/json", body: page.to_string().into_bytes() };
    scene.server.fault(Match::list(Kind::Secret), endless, Times::Forever);
    let mut agent = scene.start(&OFF);
    agent.until(
        "warning: cannot read Secret shop/web (it is tried again): GET /api/v1/namespaces/shop/secrets: the listing has more \
         than 1000 pages",
    );
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

/// Nobody can seal a Secret: neither the kubelet nor anybody else has a key.
#[test]
fn secrets_without_a_key() {
    let scene = Scene::joining();
    many(&scene);
    let kubelet = tempfile::tempdir().unwrap();
    let path = shown(&scene.server.token_kubeconfig(kubelet.path(), "token"));
    let mut agent = scene.start(&["--activation-policy", "off", "--node-name", "node-1", "--kubeconfig", &path]);
    agent.until("in step");
    agent.signal(Signal::HUP);
    agent.until("API server: answering");
    scene.requests(Match::list(Kind::Secret).answered(200), 80);
    let lines = rest(agent);
    let without: Vec<_> = lines.iter().filter(|line| line.contains("not stored")).map(String::as_str).collect();
    let no_key =
        "note: no node key yet: Secrets are not stored until the kubelet has one (or name another with --node-key)";
    let warning = "warning: 40 Secrets are not stored, Secret shop/p00 among them: there is no node key yet";
    assert_eq!(without, [warning, no_key], "the second of them after the signal");
}

#[test]
fn credentials_that_may_only_get() {
    let scene = Scene::new();
    many(&scene);
    scene.server.set_options(|options| options.get_only = true);
    let mut agent = scene.start(&OFF);
    agent.in_step(122);
    scene.requests(Match::get(Kind::Secret).answered(200), 40);
    let lines = rest(agent);
    let note = "note: these credentials may not watch ConfigMaps and Secrets: each is read every 60 s instead";
    assert_eq!(lines.iter().filter(|line| !line.starts_with("in step")).collect::<Vec<_>>(), [note]);
    scene.assert_store_is_the_servers();
}

#[test]
fn services_that_may_not_be_listed() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    scene.server.fault(Match::list(Kind::Service), Fault::status(403), Times::Forever);
    let mut agent = scene.start(&OFF);
    agent.in_step(4);
    let note = "note: cannot list Services (what is stored of them stays): GET /api/v1/namespaces/default/services at \
                https://SERVER: 403 Forbidden";
    at_once("the note", || agent.lines().iter().any(|line| line == note));
    assert_eq!(rest(agent).len(), 2, "that, and that it is in step");
}

#[test]
fn a_server_that_nobody_checks() {
    let scene = Scene::new();
    let text = scene.kubeconfig_text();
    let from = text.find("    certificate-authority-data").unwrap();
    let to = from + text[from..].find('\n').unwrap();
    scene.write(KUBELET_CONF, &text.replace(&text[from..to], "    insecure-skip-tls-verify: true"));
    let mut agent = scene.start(&OFF);
    let said = agent.until("in step");
    assert_eq!(
        said[4],
        "warning: insecure-skip-tls-verify in ROOT/etc/kubernetes/kubelet.conf: whoever answers at https://SERVER/ gets this \
         node's credentials and can feed it any pod and Secret; name the cluster's CA instead"
    );
}
