//! The scripted source: what it says at each step, and so what a store must hold that has acknowledged the step.
//!
//! Each step is a function of its number alone and changes objects of every kind: a pod, a Secret, two ConfigMaps; a second
//! pod with its ConfigMap comes and goes. No two steps look the same in any of the objects that the first pod names.

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub(crate) const NODE: &str = "edge-1";

/// The slots: ConfigMaps of which each step changes one.
const SLOTS: u64 = 4;

/// A source to be given to `run --manifests`.
pub(crate) fn source(step: u64) -> String {
    let items: Vec<Value> = objects(step).into_values().collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Every object at a step, by kind and name; all but the Node are in one namespace.
pub(crate) fn objects(step: u64) -> BTreeMap<(&'static str, String), Value> {
    let mut all = BTreeMap::new();
    let mut put = |kind: &'static str, name: &str, mut object: Value| {
        object["apiVersion"] = "v1".into();
        object["kind"] = kind.into();
        object["metadata"]["name"] = name.into();
        if kind != "Node" {
            object["metadata"]["namespace"] = "default".into();
        }
        all.insert((kind, name.to_owned()), object);
    };
    put("Node", NODE, json!({"metadata": {"uid": "node"}}));
    put("Pod", "writer", writer(step));
    put("ConfigMap", "sequence", json!({"data": sequence(step)}));
    put("Secret", "token", json!({"type": "Opaque", "data": {"token": token(step)}}));
    for slot in 0..SLOTS {
        put("ConfigMap", &format!("slot-{slot}"), json!({"data": {format!("slot-{slot}"): in_slot(step, slot)}}));
    }
    if has_guest(step) {
        put("Pod", "guest", guest(step));
        put("ConfigMap", "guest", json!({"data": {"guest": format!("{step}\n")}}));
    }
    all
}

/// The files of ConfigMap `sequence`: small ones, and one of more than a page. All of them name the step.
pub(crate) fn sequence(step: u64) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = ["step", "again"].map(|name| (name.to_owned(), step.to_string())).into();
    files.insert("long".to_owned(), format!("{step} ").repeat(1200));
    files
}

/// What slot `slot` holds: the last step that changed it.
pub(crate) fn in_slot(step: u64, slot: u64) -> String {
    let back = (step + SLOTS - slot) % SLOTS;
    step.saturating_sub(back).to_string()
}

/// The Secret's value as the API has it: base64 that is told from anything else on the disk when decoded or not.
pub(crate) fn token(step: u64) -> String {
    format!("{TOKEN_ENCODED}{step:08}")
}

/// What the token's value begins with, and how that looks in base64.
pub(crate) const TOKEN: &[u8] = b"NOT-A-REAL-TOKEN-CANARY/";
pub(crate) const TOKEN_ENCODED: &str = "Tk9ULUEtUkVBTC1UT0tFTi1DQU5BUlkv";

/// Whether the second pod is there.
pub(crate) fn has_guest(step: u64) -> bool {
    step / 2 % 2 == 1
}

fn writer(step: u64) -> Value {
    let slots: Vec<Value> = (0..SLOTS).map(|slot| json!({"configMap": {"name": format!("slot-{slot}")}})).collect();
    json!({
        "metadata": {
            "uid": "writer",
            "annotations": {"checkpointer.alpha.coreos.com/checkpoint": "true"},
        },
        "spec": {
            "nodeName": NODE,
            "containers": [{
                "name": "writer",
                "image": "registry.example/writer:1",
                "args": [step.to_string()],
                "env": [{
                    "name": "STEP",
                    "valueFrom": {"configMapKeyRef": {"name": "sequence", "key": "step"}},
                }],
                "volumeMounts": [
                    {"name": "sequence", "mountPath": "/sequence"},
                    {"name": "slots", "mountPath": "/slots"},
                    {"name": "token", "mountPath": "/token"},
                ],
            }],
            "volumes": [
                {"name": "sequence", "configMap": {"name": "sequence"}},
                {"name": "slots", "projected": {"sources": slots}},
                {"name": "token", "secret": {"secretName": "token"}},
            ],
        },
        "status": {"phase": "Running"},
    })
}

fn guest(step: u64) -> Value {
    json!({
        "metadata": {
            "uid": format!("guest-{}", step / 4),
            "annotations": {"checkpointer.alpha.coreos.com/checkpoint": "true"},
        },
        "spec": {
            "nodeName": NODE,
            "containers": [{
                "name": "guest",
                "image": "registry.example/guest:1",
                "args": [step.to_string()],
                "volumeMounts": [{"name": "guest", "mountPath": "/guest"}],
            }],
            "volumes": [{"name": "guest", "configMap": {"name": "guest"}}],
        },
        "status": {"phase": "Running"},
    })
}

#[test]
fn the_slots_keep_what_was_written_last() {
    let row = |step| (0..SLOTS).map(|slot| in_slot(step, slot)).collect::<Vec<_>>().join(" ");
    #[rustfmt::skip]
    let rows = [
        (4, "4 1 2 3"),
        (5, "4 5 2 3"),
        (6, "4 5 6 3"),
        (7, "4 5 6 7"),
        (8, "8 5 6 7"),
    ];
    for (step, want) in rows {
        assert_eq!(row(step), want, "{step}");
    }
}

#[test]
fn the_token_begins_with_what_is_looked_for() {
    let value = data_encoding::BASE64.decode(token(12).as_bytes()).unwrap();
    assert!(value.starts_with(TOKEN));
}
