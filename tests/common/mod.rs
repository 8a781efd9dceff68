//! What several test programs share: a node key, an identity and a small store.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

pub(crate) mod gate;
pub(crate) mod namespaces;
pub(crate) mod program;
pub(crate) mod random;
pub(crate) mod search;
pub(crate) mod strace;
pub(crate) mod terminal;

use std::path::Path;

use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::crypto::{SystemEntropy, generate_p256_pkcs8};
use ckpt_db::store::{Backend, Change, Missing, NewStore, RedbStore};
use store_format::{Identity, NodeSecret, StoreId, Unlocker};

pub(crate) const NOW: u64 = 1_700_000_000_000;

pub(crate) fn identity() -> Identity {
    Identity::new(StoreId([7; 16]), NOW, "edge-1")
}

pub(crate) fn secret() -> Unlocker {
    NodeSecret::from_pkcs8(generate_p256_pkcs8().unwrap().expose()).unwrap().into()
}

pub(crate) fn object(kind: Kind, namespace: &str, name: &str, body: serde_json::Value) -> Object {
    let key = ObjectKey::new(kind, namespace, name).unwrap();
    let uid = body["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    Object { key, uid, resource_version: String::new(), body: body.to_string().into() }
}

/// Pods `p0`..., each with a Secret and a ConfigMap of its own, in two namespaces, and this node's Node.
pub(crate) fn objects(pods: usize) -> Vec<Object> {
    let mut all =
        vec![object(Kind::Node, "", "edge-1", serde_json::json!({"metadata": {"name": "edge-1", "uid": "node"}}))];
    for n in 0..pods {
        let namespace = if n % 2 == 0 { "default" } else { "shop" };
        all.push(object(Kind::Pod, namespace, &format!("p{n}"), serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{n}"), "namespace": namespace, "uid": format!("uid-{n}")},
            "spec": {
                "containers": [{"name": "c", "image": "registry.example/app:1", "volumeMounts": [{"name": "s", "mountPath": "/s"}]}],
                "volumes": [
                    {"name": "s", "secret": {"secretName": format!("s{n}")}},
                    {"name": "c", "configMap": {"name": format!("c{n}")}},
                ],
            },
            "status": {"phase": "Running"},
        })));
        let value = data_encoding::BASE64.encode(format!("secret value {n}").repeat(n + 1).as_bytes());
        all.push(object(
            Kind::Secret,
            namespace,
            &format!("s{n}"),
            serde_json::json!({
                "metadata": {"name": format!("s{n}"), "namespace": namespace}, "data": {"token": value},
            }),
        ));
        all.push(object(Kind::ConfigMap, namespace, &format!("c{n}"), serde_json::json!({
            "metadata": {"name": format!("c{n}"), "namespace": namespace}, "data": {"config": format!("config {n}")},
        })));
    }
    all
}

/// Creates a store that holds `objects`, and records a decision for each pod, as a pass of the agent does.
pub(crate) fn store_with(path: &Path, objects: Vec<Object>, secret: &Unlocker) -> RedbStore {
    store_of(identity(), path, objects, secret)
}

/// The same of a store of this identity.
pub(crate) fn store_of(identity: Identity, path: &Path, objects: Vec<Object>, secret: &Unlocker) -> RedbStore {
    let new = NewStore { identity, secret: Some(secret) };
    let mut store = RedbStore::create(path, new, Box::new(SystemEntropy)).unwrap();
    let pods: Vec<Object> = objects.iter().filter(|object| object.key.kind() == Kind::Pod).cloned().collect();
    let listing = Change::Reset { objects, kinds: Kind::ALL.to_vec(), missing: Missing::Delete };
    let _ = store.update(vec![listing], NOW).unwrap();
    let decided = pods.iter().map(|pod| Change::Decided {
        pod: ckpt_db::checkpoint::rendering::PodName {
            namespace: pod.key.namespace().to_owned(),
            name: pod.key.name().to_owned(),
        },
        uid: pod.uid.clone(),
        lifecycle: store_format::Lifecycle::Active,
        republished: 0,
        why: String::new(),
    });
    let _ = store.update(decided.collect(), NOW).unwrap();
    store
}
