//! Random pods and objects: every way in which a pod can name a ConfigMap or Secret, and data of all shapes.

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use crate::random::Random;

/// An object: plural (`secrets` or `configmaps`), namespace, name.
pub(crate) type Name = (&'static str, String, String);

/// What a new pod names.
pub(crate) struct Naming {
    pub(crate) plural: &'static str,
    pub(crate) name: String,
    pub(crate) optional: bool,
}

/// A pod bound to `node` which names all of `namings`, each in a random field.
pub(crate) fn pod(random: &mut Random, namespace: &str, name: &str, node: &str, namings: &[Naming]) -> Value {
    let mut containers: Vec<Value> = (0..1 + random.below(3)).map(|n| container(random, &format!("c{n}"))).collect();
    let mut init: Vec<Value> = (0..random.below(2)).map(|n| container(random, &format!("i{n}"))).collect();
    let (mut volumes, mut pull) = (Vec::new(), Vec::new());
    for (n, naming) in namings.iter().enumerate() {
        let Naming { plural, name, optional } = naming;
        let secret = *plural == "secrets";
        let mut reference = json!({"name": name});
        if *optional || random.chance(20) {
            reference["optional"] = json!(*optional);
        }
        let list = if !init.is_empty() && random.chance(20) { &mut init } else { &mut containers };
        let at = random.below(list.len());
        match random.below(if secret { 7 } else { 4 }) {
            0 => {
                reference["key"] = json!("a");
                let field = if secret { "secretKeyRef" } else { "configMapKeyRef" };
                push(&mut list[at], "env", json!({"name": format!("V{n}"), "valueFrom": {field: reference}}));
            }
            1 => {
                let field = if secret { "secretRef" } else { "configMapRef" };
                push(&mut list[at], "envFrom", json!({"prefix": format!("P{n}_"), field: reference}));
            }
            2 => {
                let source = if secret {
                    reference["secretName"] = reference.as_object_mut().unwrap().remove("name").unwrap();
                    json!({"name": format!("v{n}"), "secret": reference})
                } else {
                    json!({"name": format!("v{n}"), "configMap": reference})
                };
                mount(&mut volumes, &mut list[at], source, n);
            }
            3 => {
                let field = if secret { "secret" } else { "configMap" };
                let sources = json!([{"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}, {field: reference}]);
                mount(
                    &mut volumes,
                    &mut list[at],
                    json!({"name": format!("v{n}"), "projected": {"sources": sources}}),
                    n,
                );
            }
            4 => pull.push(json!({"name": name})),
            5 => {
                let source = json!({"secretName": name, "shareName": "share"});
                mount(&mut volumes, &mut list[at], json!({"name": format!("v{n}"), "azureFile": source}), n);
            }
            _ => {
                let source = json!({"driver": "csi.example.com", "nodePublishSecretRef": {"name": name}});
                mount(&mut volumes, &mut list[at], json!({"name": format!("v{n}"), "csi": source}), n);
            }
        }
    }
    let mut spec = json!({
        "nodeName": node,
        "restartPolicy": *random.pick(&["Always", "Always", "Always", "OnFailure", "Never"]),
        "containers": containers,
        "tolerations": [{"operator": "Exists"}],
    });
    for (field, list) in [("initContainers", init), ("volumes", volumes), ("imagePullSecrets", pull)] {
        if !list.is_empty() {
            spec[field] = Value::Array(list);
        }
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": annotations(random)},
        "spec": spec,
    })
}

fn container(random: &mut Random, name: &str) -> Value {
    json!({
        "name": name,
        "image": format!("registry.example/app:{}", random.below(100)),
        "env": [{"name": "PLAIN", "value": text(random, 12)}],
        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}},
    })
}

fn push(container: &mut Value, list: &str, item: Value) {
    match &mut container[list] {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

fn mount(volumes: &mut Vec<Value>, container: &mut Value, source: Value, n: usize) {
    push(container, "volumeMounts", json!({"name": source["name"], "mountPath": format!("/m{n}")}));
    volumes.push(source);
}

/// A ConfigMap or Secret with random data.
pub(crate) fn object(random: &mut Random, (plural, namespace, name): &Name, immutable: bool) -> Value {
    let secret = *plural == "secrets";
    let mut body = json!({
        "apiVersion": "v1", "kind": if secret { "Secret" } else { "ConfigMap" },
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations(random)},
    });
    let (mut data, mut binary) = (Map::new(), Map::new());
    // Seldom none at all, and seldom close to what the API server takes.
    let keys = if random.chance(5) { 0 } else { 1 + random.below(4) };
    for key in ["a", "app.conf", "TLS_KEY", "ca-bundle.pem"].into_iter().take(keys) {
        let length = match random.below(100) {
            0 => 100_000 + random.below(120_000),
            1..=10 => 2_000 + random.below(20_000),
            11..=20 => 0,
            _ => random.below(300),
        };
        if secret {
            data.insert(key.to_owned(), BASE64.encode(&random.bytes(length)).into());
        } else if random.chance(30) {
            binary.insert(format!("{key}.bin"), BASE64.encode(&random.bytes(length)).into());
        } else {
            data.insert(key.to_owned(), text(random, length).into());
        }
    }
    for (field, map) in [("data", data), ("binaryData", binary)] {
        if !map.is_empty() {
            body[field] = Value::Object(map);
        }
    }
    if immutable {
        body["immutable"] = true.into();
    }
    body
}

/// Annotations as people write them, quotes and line breaks included.
pub(crate) fn annotations(random: &mut Random) -> Value {
    let mut all = Map::new();
    for key in ["example.com/note", "example.com/revision", "prometheus.io/scrape"] {
        if random.chance(50) {
            let length = random.below(60);
            all.insert(key.to_owned(), text(random, length).into());
        }
    }
    Value::Object(all)
}

/// Text of so many characters, some of which JSON has to escape.
pub(crate) fn text(random: &mut Random, characters: usize) -> String {
    let alphabet: Vec<char> = "abcdefghijklmnopqrstuvwxyz0123456789 .-_=:/\"\\\n\t<>&{}é漢🙂\u{2028}".chars().collect();
    (0..characters).map(|_| *random.pick(&alphabet)).collect()
}

/// What a kubelet writes to a pod's status, as a merge patch. `round` tells one from the next.
pub(crate) fn status(random: &mut Random, containers: &[String], phase: &str, round: usize) -> Value {
    let at = format!("2026-01-01T{:02}:{:02}:{:02}Z", round / 3600 % 24, round / 60 % 60, round % 60);
    let restarts = random.below(5);
    let state = match phase {
        "Running" => json!({"running": {"startedAt": at}}),
        "Succeeded" => json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": at, "finishedAt": at}}),
        _ => json!({"terminated": {"exitCode": 1, "reason": "Error", "startedAt": at, "finishedAt": at}}),
    };
    let one = |name: &String| {
        json!({
            "name": name, "image": "registry.example/app:1", "imageID": "registry.example/app@sha256:00", "ready": phase == "Running",
            "started": phase == "Running", "restartCount": restarts, "containerID": format!("containerd://{round}"),
            "state": state,
        })
    };
    let statuses: Vec<Value> = containers.iter().map(one).collect();
    json!({"status": {
        "phase": phase, "hostIP": "192.0.2.1", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "startTime": at,
        "conditions": [{"type": "Ready", "status": if phase == "Running" { "True" } else { "False" }, "lastTransitionTime": at}],
        "containerStatuses": statuses,
    }})
}
