//! No secret in a log: a server that answers with Secrets in every broken form, an agent that says whatever it is asked to
//! say, and a search of every octet that it prints.

use std::thread;

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::keys::{KeySearch, find};
use data_encoding::BASE64;
use rustix::process::Signal;
use serde_json::json;

use crate::agent::{Agent, at_once};
use crate::common::program::KEY;
use crate::common::search::{Canary, Search, below};
use crate::fake::{Broken, CANARY, End, Fault, Match, Times, error_event};
use crate::scene::{KUBELET_CONF, PEM, Scene, pod, secret};

/// A value of Secrets that are as they should be, before they are broken.
pub(crate) const VALUE: &str = "mB8canaryOfAGoodSecretY4tZ6";
pub(crate) const TOKEN: &str = "xK3canaryBearerTokenN7qW1p";

/// What `RUST_LOG` asks for.
const LEVELS: [Option<&str>; 7] = [
    None,
    Some("info"),
    Some("debug"),
    Some("trace"),
    Some("kube_client=trace,hyper=trace,h2=trace"),
    Some("trace,kube=trace,kube_client=trace,hyper=trace,hyper_util=trace,h2=trace,rustls=trace,tower=trace"),
    Some("off,ckpt_db=trace,h2=trace"),
];

/// What is wrong with the answers about a Secret of this name. Each quotes it.
fn faults() -> Vec<(String, Fault)> {
    let base64 = BASE64.encode(VALUE.as_bytes());
    let quote = format!("Secret in version \"v1\" cannot be handled: {CANARY} {VALUE} {base64}");
    let status = |code| Fault::Status { code, message: quote.clone(), retry_after_s: None };
    let page = |code, content_type, body: String| Fault::Page { code, content_type, body: body.into_bytes() };
    let json = "application/json";
    let mut faults = vec![
        ("status-403".to_owned(), status(403)),
        ("status-404".to_owned(), status(404)),
        ("status-409".to_owned(), status(409)),
        ("status-500".to_owned(), status(500)),
        // In places where there are single words.
        ("reason".to_owned(), page(500, json, json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": quote, "code": 500,
        }).to_string())),
        ("kind".to_owned(), page(200, json, json!({
            "kind": CANARY, "apiVersion": VALUE, "metadata": {"resourceVersion": base64}, "items": [CANARY],
        }).to_string())),
        ("names".to_owned(), page(200, json, json!({
            "kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": CANARY, "continue": VALUE},
            "items": [{"metadata": {"name": format!("{CANARY}!"), "namespace": VALUE, "uid": CANARY}, "data": CANARY}],
        }).to_string())),
        ("html-200".to_owned(), page(200, "text/html", format!("<html>{quote}</html>"))),
        ("html-502".to_owned(), page(502, "text/html", format!("<html>{quote}</html>"))),
        ("text-401".to_owned(), page(418, "text/plain", quote.clone())),
        ("truncated".to_owned(), Fault::truncated()),
        ("cut-stream".to_owned(), Fault::Cut(End::Stream)),
        ("wrong-kind".to_owned(), Fault::wrong_kind()),
    ];
    for broken in [Broken::DataType, Broken::ValueType, Broken::Utf8, Broken::Base64, Broken::Syntax] {
        faults.push((format!("{broken:?}").to_lowercase(), Fault::broken_secret(broken)));
    }
    faults
}

/// One agent and one server at each level of logging.
fn at_every_level(before: impl Fn(&Scene) + Sync, scenario: impl Fn(&Scene, &mut Agent) + Sync) {
    thread::scope(|scope| {
        for level in LEVELS {
            let (before, scenario) = (&before, &scenario);
            scope.spawn(move || at_level(level, before, scenario));
        }
    });
}

fn at_level(level: Option<&str>, before: &impl Fn(&Scene), scenario: &impl Fn(&Scene, &mut Agent)) {
    let scene = Scene::new();
    before(&scene);
    // A token besides the certificate: as good as any, since one of both is enough.
    let text = scene.kubeconfig_text();
    let kubelet = tempfile::tempdir().unwrap();
    scene.server.token_kubeconfig(kubelet.path(), TOKEN);
    scene.write("token", TOKEN);
    scene.write(KUBELET_CONF, &format!("{text}    tokenFile: /token\n"));
    let key = |path| {
        let found = find(&KeySearch { explicit: vec![scene.node.at(path)], defaults: Vec::new() });
        let canonical = found.keys[0].secret.canonical().to_vec();
        canonical[canonical.len() - 32..].to_vec()
    };

    let mut command = scene.command(&["--activation-policy", "off", "--generate-node-key"]);
    if let Some(level) = level {
        command.env("RUST_LOG", level);
    }
    let mut agent = scene.watch(command);
    scenario(&scene, &mut agent);
    let ended = agent.stop(Signal::TERM);
    let level = level.unwrap_or("the default");
    assert_eq!(ended.code, Some(0), "{level}");

    let text = |name, text: &str| Canary { name, bytes: text.as_bytes().to_vec() };
    let search = Search::new(&[
        text("broken", CANARY),
        text("value", VALUE),
        text("token", TOKEN),
        Canary { name: "key of the kubelet", bytes: key(PEM) },
        Canary { name: "key of our own", bytes: key(KEY) },
    ]);
    assert!(ended.octets.len() > 500, "{level}: it said next to nothing");
    search.assert_none(&ended.octets, &format!("the messages at {level}"));
    // Whatever is asked for: what the libraries have to say is not ours to judge.
    let library = |line: &&String| line.starts_with("trace: ") || line.starts_with("debug: ");
    let foreign: Vec<_> = ended.lines.iter().filter(library).filter(|line| !line[7..].starts_with("ckpt_db")).collect();
    assert!(foreign.is_empty(), "{level}: {foreign:#?}");
    for (path, contents) in below(&scene.node.root()) {
        let secret = [KEY, PEM, "token"].contains(&path.as_str()) || path.starts_with("var/lib/kubelet/pki/");
        if !secret {
            search.assert_none(&contents, &format!("{path} at {level}"));
        }
    }
}

/// The JSON of these can be read; what it means is for whoever mounts it.
const READABLE: [&str; 3] = ["datatype", "valuetype", "base64"];

/// Those that are asked for again and again.
fn unreadable() -> Vec<String> {
    faults().into_iter().map(|(name, _)| name).filter(|name| !READABLE.contains(&&name[..])).collect()
}

/// A pod for each Secret, and faults on requests for them.
pub(crate) fn fill(scene: &Scene, on: impl Fn(Kind) -> Match) {
    for (name, fault) in faults() {
        scene.server.create(Kind::Secret, "shop", &name, secret(VALUE));
        scene.server.create(Kind::Pod, "shop", &name, pod(&[&name], &[]));
        // Who may not list but get is one who gets everything.
        let on = if name == "status-403" { Match::any() } else { on(Kind::Secret) };
        scene.server.fault(on.named(&name), fault, Times::Forever);
    }
}

/// Nothing of pods and Services is secret, but what a server says of them may be.
fn and_elsewhere(scene: &Scene) {
    for (_, fault) in faults().into_iter().filter(|(name, _)| ["reason", "html-200"].contains(&&name[..])) {
        scene.server.fault(Match::list(Kind::Pod).unnamed(), fault.clone(), Times::Once);
        scene.server.fault(Match::list(Kind::Service), fault, Times::Once);
    }
}

#[test]
fn broken_answers_to_lists() {
    at_every_level(
        |scene| {
            fill(scene, Match::list);
            and_elsewhere(scene);
        },
        |scene, agent| {
            unreadable().iter().for_each(|name| drop(scene.requests(Match::list(Kind::Secret).named(name), 4)));
            // In step without them, if they are not answered in time.
            agent.says("warning: cannot read Secret shop/");
            agent.says("in step");
        },
    );
}

#[test]
fn broken_answers_to_gets() {
    at_every_level(
        |scene| {
            scene.server.set_options(|options| options.get_only = true);
            fill(scene, Match::get);
        },
        |scene, agent| {
            for name in unreadable() {
                // What is not there is looked at once a minute.
                let count = if name == "status-404" { 1 } else { 4 };
                scene.requests(Match::get(Kind::Secret).named(&name), count);
            }
            // In step without them, if they are not answered in time.
            agent.says("warning: cannot read Secret shop/");
            agent.says("in step");
        },
    );
}

#[test]
fn broken_watches() {
    at_every_level(
        |scene| {
            fill(scene, Match::watch);
            // In place of an event, of a Secret that is all right.
            scene.server.create(Kind::Secret, "shop", "fine", secret(VALUE));
            scene.server.create(Kind::Pod, "shop", "fine", pod(&["fine"], &[]));
        },
        |scene, agent| {
            agent.until("in step");
            for name in unreadable().into_iter().filter(|name| name != "status-403") {
                // Whether or not there is a watch by now: each one ends, and another one is asked for.
                scene.requests(Match::list(Kind::Secret).named(&name), 1);
                scene.server.replace(Kind::Secret, "shop", &name, secret(&format!("{VALUE}{VALUE}")));
                scene.requests(Match::watch(Kind::Secret).named(&name), 2);
            }
            for name in READABLE {
                scene.request(Match::watch(Kind::Secret).named(name).answered(200));
                scene.server.replace(Kind::Secret, "shop", name, secret(&format!("{VALUE}{VALUE}")));
            }
            let fine = || Match::watch(Kind::Secret).named("fine");
            for line in [
                error_event(500, &format!("{CANARY} {VALUE}")),
                error_event(410, &format!("{CANARY} {VALUE}")),
                format!("{CANARY} {VALUE}\n").into_bytes(),
                format!("{{\"type\": \"{CANARY}\", \"object\": \"{VALUE}\"}}\n").into_bytes(),
                format!(
                    "{{\"type\": \"ERROR\", \"object\": {{\"kind\": \"Status\", \"apiVersion\": \"v1\", \"reason\": \"{VALUE} \
                     {CANARY}\", \"code\": 500}}}}\n"
                )
                .into_bytes(),
            ] {
                let mark = scene.server.mark();
                at_once("the watch", || scene.server.send(&fine(), line.clone()) == 1);
                scene.request(fine().after(mark).answered(200));
            }
        },
    );
}
