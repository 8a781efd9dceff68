//! Hostile objects, and a hostile API server: neither costs the other pods anything, leaves its place, or breaks the log and the
//! terminal of whoever reads it.
//!
//! `tests/hostile/` has the whole table, by way of manifests; here are the texts that come over the network.

use std::fs;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::json;

use crate::common::program::{SECRETS, listing};
use crate::common::terminal::{NASTY, assert_harmless};
use crate::fake::{Fault, Match, Times};
use crate::scene::{Scene, pod, secret};

#[test]
fn what_they_say_is_harmless_and_the_others_are_served() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    // Each with something of its own: a text, a path, a key, an environment.
    let mut texts = pod(&["texts"], &[]);
    texts["metadata"] = json!({"annotations": {NASTY: NASTY}, "labels": {"app": NASTY}});
    texts["spec"]["containers"][0]["image"] = NASTY.into();
    texts["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": NASTY}]);
    texts["spec"][NASTY] = json!({NASTY: NASTY});
    let mut named = pod(&[], &[]);
    named["spec"]["containers"][0]["name"] = NASTY.into();
    let mut path = pod(&["texts"], &[]);
    path["spec"]["volumes"][0]["secret"]["items"] =
        json!([{"key": "password", "path": format!("../../../../{NASTY}")}]);
    let mut volume = pod(&["texts"], &[]);
    volume["spec"]["volumes"][0]["name"] = format!("../../{NASTY}").into();
    let pods =
        [("texts", texts), ("named", named), ("path", path), ("volume", volume), ("keys", pod(&["keys"], &["keys"]))];
    for (name, pod) in pods {
        scene.server.create(Kind::Pod, "shop", name, pod);
    }
    scene.server.create(Kind::Secret, "shop", "texts", secret("of hostile pods"));
    scene.server.create(Kind::Secret, "shop", "keys", json!({"data": {"../../../etc/shadow": "eA==", NASTY: "eA=="}}));
    scene.server.create(Kind::ConfigMap, "shop", "keys", json!({"data": {"..data": "x", NASTY: NASTY}}));
    // And an answer of the server itself.
    let forbidden = Fault::Status { code: 403, message: NASTY.repeat(100), retry_after_s: None };
    scene.server.fault(Match::list(Kind::Service), forbidden, Times::Count(2));

    let mut agent = scene.start(&["--activation-policy", "all", "--secret-root-medium", "disk"]);
    agent.until("in step");
    let token = scene.node.at(SECRETS).join("shop/web/web/password");
    crate::agent::at_once("the honest pod to be rendered", || token.exists());
    assert_eq!(fs::read_to_string(&token).unwrap(), "secret of web");
    let status = scene.node.ran("status", &["-o", "wide"]);
    assert_harmless("status", status.stdout.lines().chain(status.stderr.lines()));
    // The object is stored, since a listing is stored as a whole; nothing is rendered of it, and the pod says why.
    let status = scene.node.ran("status", &["-o", "json"]).json();
    let keys = status["pods"].as_array().unwrap().iter().find(|pod| pod["name"] == "keys").unwrap().clone();
    assert_eq!(keys["verdict"][0], "BadData", "{keys}");
    let todo = keys["todo"].as_str().unwrap();
    assert!(
        todo.contains("shop/keys: data key ") && todo.contains("is not allowed: 1 to 253 of [-._a-zA-Z0-9]"),
        "{todo}"
    );
    let ended = agent.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    let said = String::from_utf8(ended.octets).expect("what is said is UTF-8");
    assert_harmless("the agent", said.lines());
    let plan = scene.node.ran("plan", &["-o", "json"]).json();
    for name in ["named", "path", "volume", "keys"] {
        let found = plan["pods"].as_array().unwrap().iter().find(|pod| pod["name"] == name);
        assert!(found.is_some_and(|pod| pod["manifest"] == serde_json::Value::Null), "{name}: {found:?}");
    }

    for command in ["plan", "verify", "log", "dump"] {
        let ran = scene.node.ran(command, &[]);
        assert_harmless(command, ran.stdout.lines().chain(ran.stderr.lines()));
    }
    for path in listing(&scene.node.root()).into_keys() {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
        assert!(path.as_os_str().as_encoded_bytes().iter().copied().all(plain), "{path:?} is no name of ours");
    }
    assert!(!scene.node.root().with_file_name("etc").exists());
}
