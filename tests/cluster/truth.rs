//! What the API server has for a node, and how a dump of the store differs from it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::api::{Api, one, pods_of};

/// Objects by `Kind namespace/name`.
pub(crate) type Objects = BTreeMap<String, Value>;

/// The node's pods and every ConfigMap and Secret that they name and that exists, as the API server shows them to the
/// administrator, without `managedFields`.
///
/// All of it is one state of the cluster only if nothing changes meanwhile.
pub(crate) fn read(admin: &Api, node: &str) -> Objects {
    let mut found = Objects::new();
    for mut pod in admin.get(&pods_of(node)).items() {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap().to_owned();
        for (plural, name) in named(&pod) {
            let answer = admin.get(&one(plural, &namespace, &name));
            if answer.status != 404 {
                add(&mut found, answer.ok());
            }
        }
        // The items of a list carry neither.
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        add(&mut found, pod);
    }
    found
}

/// Plural and name of everything that a pod names. This walks the text rather than the types, so that it shares no mistake
/// with the program under test.
pub(crate) fn named(pod: &Value) -> BTreeSet<(&'static str, String)> {
    let mut found = BTreeSet::new();
    walk(&pod["spec"], &mut found);
    found
}

fn walk(value: &Value, found: &mut BTreeSet<(&'static str, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        Value::Object(members) => {
            for (member, inner) in members {
                let text = |field: &str| inner[field].as_str().map(str::to_owned);
                match member.as_str() {
                    "secretKeyRef" | "secretRef" | "nodePublishSecretRef" => {
                        found.extend(text("name").map(|name| ("secrets", name)));
                    }
                    "configMapKeyRef" | "configMapRef" | "configMap" => {
                        found.extend(text("name").map(|name| ("configmaps", name)));
                    }
                    // Of a volume and of azureFile, or of a projected source.
                    "secret" => found.extend(text("name").map(|name| ("secrets", name))),
                    "imagePullSecrets" => {
                        let names = inner.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
                        found.extend(names.map(|name| ("secrets", name.to_owned())));
                    }
                    "secretName" => found.extend(inner.as_str().map(|name| ("secrets", name.to_owned()))),
                    _ => {}
                }
                walk(inner, found);
            }
        }
        _ => {}
    }
}

/// The pods, ConfigMaps and Secrets of `ckpt-db dump -o json --reveal`.
pub(crate) fn dumped(dump: &Value) -> Objects {
    let mut found = Objects::new();
    for item in dump["items"].as_array().expect("a dump is a List") {
        if ["Pod", "ConfigMap", "Secret"].contains(&item["kind"].as_str().unwrap()) {
            let key = key(item);
            let earlier = found.insert(key.clone(), item.clone());
            assert!(earlier.is_none(), "{key} is dumped twice");
        }
    }
    found
}

/// Every difference between the API server's answer and a dump: `missing: K`, `too much: K` or `differs: K at PATH`, with
/// `K` as in `Secret shop/web-tls`. Values are never shown. Services and Nodes are left out.
pub(crate) fn compare(truth: &Objects, dump: &Value) -> Vec<String> {
    let dumped = dumped(dump);
    let mut lines = Vec::new();
    for (key, want) in truth {
        match dumped.get(key) {
            None => lines.push(format!("missing: {key}")),
            Some(found) => {
                let mut paths = Vec::new();
                differences("", want, found, &mut paths);
                lines.extend(paths.into_iter().map(|path| format!("differs: {key} at {path}")));
            }
        }
    }
    lines.extend(dumped.keys().filter(|key| !truth.contains_key(*key)).map(|key| format!("too much: {key}")));
    lines
}

fn differences(path: &str, want: &Value, found: &Value, paths: &mut Vec<String>) {
    match (want, found) {
        (Value::Object(a), Value::Object(b)) => {
            let members: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for member in members {
                let path = format!("{path}.{member}");
                match (a.get(member), b.get(member)) {
                    (Some(a), Some(b)) => differences(&path, a, b, paths),
                    (Some(_), None) => paths.push(format!("{path} (not stored)")),
                    (None, _) => paths.push(format!("{path} (stored only)")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{n}]"), a, b, paths);
            }
        }
        _ if want == found => {}
        _ => paths.push(path.to_owned()),
    }
}

fn add(found: &mut Objects, mut object: Value) {
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    found.insert(key(&object), object);
}

fn key(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

#[test]
fn each_difference_is_a_line() {
    use serde_json::json;
    let object = |kind: &str, name: &str, data: Value| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "a"}, "data": data});
    let truth: Objects = [object("Secret", "s", json!({"k": "1", "l": [1, 2]})), object("Pod", "p", json!(null))]
        .into_iter()
        .map(|object| (key(&object), object))
        .collect();
    let same = json!({"items": [object("Pod", "p", json!(null)), object("Secret", "s", json!({"l": [1, 2], "k": "1"})),
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}]});
    assert_eq!(compare(&truth, &same), Vec::<String>::new());
    let other = json!({"items": [object("Secret", "s", json!({"k": "2", "l": [1, 3], "m": ""})), object("ConfigMap", "c", json!({}))]});
    assert_eq!(
        compare(&truth, &other),
        [
            "missing: Pod a/p",
            "differs: Secret a/s at .data.k",
            "differs: Secret a/s at .data.l[1]",
            "differs: Secret a/s at .data.m (stored only)",
            "too much: ConfigMap a/c",
        ]
    );
}
