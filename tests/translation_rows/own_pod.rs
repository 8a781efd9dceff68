//! Rows about the pod that the agent itself runs in: its copy is told what it is.

use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::checkpoint::settings::{SecretEnv, Settings};
use serde_json::{Value, json};

use super::support::*;

fn of(namespace: &str, name: &str) -> Settings {
    let own_pod = Some(PodName { namespace: namespace.to_owned(), name: name.to_owned() });
    Settings { own_pod, secret_env: SecretEnv::Auto, ..settings() }
}

#[test]
fn the_variable_that_says_whose_copy_it_is() {
    let says = |value: &str| json!({"name": "CKPT_DB_COPY_OF", "value": value});
    let a = || json!({"name": "A", "value": "1"});
    let b = || json!({"name": "B", "value": "$(CKPT_DB_COPY_OF)"});
    let secret = || json!({"name": "CKPT_DB_COPY_OF", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a"}}});
    #[rustfmt::skip]
    let rows = [
        // the parent's env                              the copy's
        (json!([]),                                      json!([says("uid-1")])),
        (json!([a()]),                                   json!([a(), says("uid-1")])),
        (json!([says("mine")]),                          json!([says("uid-1")])),
        (json!([says("mine"), a()]),                     json!([says("uid-1"), a()])),
        (json!([says("mine"), b(), says("again")]),      json!([says("uid-1"), b(), says("uid-1")])),
        // No value of a Secret is asked for, or refused, that the copy would not have.
        (json!([secret(), a()]),                         json!([says("uid-1"), a()])),
        (json!([{"name": "CKPT_DB_COPY_OF"}]),           json!([says("uid-1")])),
    ];
    for (parent, copy) in rows {
        container_becomes_with(&of("shop", "web"), json!({ "env": parent }), json!({ "env": copy }));
    }
    container_becomes_with(&of("shop", "web"), json!({}), json!({"env": [says("uid-1")]}));
    // Not even from a whole ConfigMap.
    let from = json!({"envFrom": [{"configMapRef": {"name": "own"}}]});
    container_becomes_with(
        &of("shop", "web"),
        from.clone(),
        json!({"env": [{"name": "A", "value": "1"}, says("uid-1")]}),
    );

    // Nobody else is told anything.
    for other in [of("shop", "web-1"), of("default", "web"), settings()] {
        container_becomes_with(&other, json!({"env": [says("mine")]}), json!({"env": [says("mine")]}));
        container_becomes_with(&other, json!({}), json!({}));
    }
}

#[test]
fn every_container_is_told() {
    let container = |name: &str, env: Value| json!({"name": name, "image": "i:1", "env": env});
    let plain = |name: &str| json!({"name": name, "image": "i:1"});
    let says = || json!([{"name": "CKPT_DB_COPY_OF", "value": "uid-1"}]);
    becomes_with(
        &of("shop", "web"),
        json!({"containers": [plain("a"), plain("b")], "initContainers": [plain("c"), plain("d")]}),
        json!({"containers": [container("a", says()), container("b", says())],
            "initContainers": [container("c", says()), container("d", says())]}),
    );
}

#[test]
fn its_uid_is_no_reference() {
    let metadata = json!({"name": "web", "namespace": "shop", "uid": "$(HOME)"});
    let translation = run(&metadata, &json!({}), &of("shop", "web")).unwrap();
    let env = &manifest(&translation)["spec"]["containers"][0]["env"];
    assert_eq!(*env, json!([{"name": "CKPT_DB_COPY_OF", "value": "$$(HOME)"}]));
}
