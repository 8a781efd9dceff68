//! Hostile objects: names, keys, paths and texts of whoever can make pods and what they name.

use serde_json::{Value, json};

use crate::common::terminal::NASTY;
use crate::scene::{assert_all_clean, assert_clean, assert_in_place, map, node_with, pod};

/// What becomes of a document.
enum Fate {
    /// The source does not take it, and says so.
    Skipped(&'static str),
    /// It is stored, and does not come back: why.
    Refused(&'static str),
    /// It comes back, and is harmless.
    Served,
}
use Fate::{Refused, Served, Skipped};

fn named(name: &str, namespace: &str) -> Value {
    let mut pod = pod("x", &json!({}));
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["namespace"] = namespace.into();
    pod
}

fn secret_volume(name: &str, path: &str) -> Value {
    let items = json!([{"key": "token", "path": path}]);
    pod(name, &json!({"volumes": [{"name": "v", "secret": {"secretName": "honest", "items": items}}]}))
}

fn with(name: &str, path: &str, value: &Value) -> Value {
    let mut pod = pod(name, &json!({}));
    *pod.pointer_mut(path.rsplit_once('/').unwrap().0).unwrap() = {
        let (parent, field) = path.rsplit_once('/').unwrap();
        let mut changed = pod.pointer(parent).unwrap().clone();
        changed[field] = value.clone();
        changed
    };
    pod
}

fn container(name: &str, container: &Value) -> Value {
    let mut whole = json!({"name": "c", "image": "i"});
    for (field, value) in container.as_object().unwrap() {
        whole[field] = value.clone();
    }
    pod(name, &json!({"containers": [whole]}))
}

#[rustfmt::skip]
fn rows() -> Vec<(Value, Fate)> {
    let long = "n".repeat(300);
    vec![
        // Names that become file names.
        (named("../../etc/passwd", "shop"), Skipped("is not a lower-case RFC 1123 subdomain")),
        (named("..", "shop"),               Skipped("is not a lower-case RFC 1123 subdomain")),
        (named(".", "shop"),                Skipped("is not a lower-case RFC 1123 subdomain")),
        (named("a/b", "shop"),              Skipped("is not a lower-case RFC 1123 subdomain")),
        (named("a_b", "shop"),              Skipped("is not a lower-case RFC 1123 subdomain")),
        (named("A", "shop"),                Skipped("is not a lower-case RFC 1123 subdomain")),
        (named("a\u{0}b", "shop"),          Skipped("is not a lower-case RFC 1123 subdomain")),
        (named("\u{430}", "shop"),          Skipped("is not a lower-case RFC 1123 subdomain")),
        (named(&long, "shop"),              Skipped("is not a lower-case RFC 1123 subdomain")),
        (named(NASTY, "shop"),              Skipped("is not a lower-case RFC 1123 subdomain")),
        (named("x", ".."),                  Skipped("is not a lower-case RFC 1123 label")),
        (named("x", "a.b"),                 Skipped("is not a lower-case RFC 1123 label")),
        (named("x", ".manifests"),          Skipped("is not a lower-case RFC 1123 label")),
        (named("x", NASTY),                 Skipped("is not a lower-case RFC 1123 label")),
        (named("json.json", "shop"),        Served),
        (named(&format!("l{}", "o".repeat(240)), "shop"), Refused("its name is too long for a copy")),

        // Keys of data, which become file names and variables.
        (map("Secret", "s1", &json!({"../../../etc/shadow": "eA=="})), Skipped("a data key is not allowed")),
        (map("Secret", "s2", &json!({"..data": "eA=="})),              Skipped("a data key is not allowed")),
        (map("Secret", "s3", &json!({NASTY: "eA=="})),                 Skipped("a data key is not allowed")),
        (map("Secret", "s4", &json!({"k": NASTY})),                    Skipped("is not valid base64")),
        (map("ConfigMap", "c1", &json!({"..": "x"})),                  Skipped("\"..\" is not allowed")),
        (map("ConfigMap", "c2", &json!({"..data": "x"})),              Skipped("\"..data\" is not allowed")),
        (map("ConfigMap", "c3", &json!({"a/b": "x"})),                 Skipped("\"a/b\" is not allowed")),
        (map("ConfigMap", "c4", &json!({"": "x"})),                    Skipped("\"\" is not allowed")),
        (map("ConfigMap", "c5", &json!({NASTY: "x"})),                 Skipped("is not allowed")),
        (map("ConfigMap", "c6", &json!({"k": NASTY, "..x": NASTY})),   Skipped("\"..x\" is not allowed")),
        (map("ConfigMap", "big", &json!({"k": "x".repeat(1024 * 1024 + 1)})), Skipped("the API server allows")),

        // Paths within volumes.
        (secret_volume("p1", "../../../../etc/cron.d/x"), Refused("has a part that starts with '..'")),
        (secret_volume("p2", "/etc/cron.d/x"),            Refused("is absolute")),
        (secret_volume("p3", "a/../../x"),                Refused("has a part that starts with '..'")),
        (secret_volume("p4", "..data"),                   Refused("has a part that starts with '..'")),
        (secret_volume("p5", ""),                         Refused("names no file")),
        (secret_volume("p6", "a\u{0}b"),                  Refused("is no file path")),
        (secret_volume("p7", &["d"; 100].join("/")),      Refused("has more than 32 parts")),
        (secret_volume("p8", &long),                      Refused("has a part of more than 255 bytes")),
        (secret_volume("p9", &format!("..{NASTY}")),      Refused("has a part that starts with '..'")),
        (pod("p10", &json!({"volumes": [{"name": "../../x", "secret": {"secretName": "honest"}}]})), Refused("is no RFC 1123 label")),
        (pod("p11", &json!({"volumes": [{"name": NASTY, "configMap": {"name": "x"}}]})),             Refused("is no RFC 1123 label")),
        (pod("p12", &json!({"volumes": [{"name": "v", "secret": {"secretName": "../honest"}}]})),    Skipped("is not a lower-case RFC 1123 subdomain")),
        (pod("p13", &json!({"volumes": [{"name": "v", "projected": {"sources": [
            {"secret": {"name": "honest", "items": [{"key": "token", "path": "a"}]}},
            {"secret": {"name": "honest", "items": [{"key": "token", "path": "a/b"}]}}]}}]})),        Refused("is a file and a directory")),
        (pod("p14", &json!({"volumes": [{"name": "v", "secret": {"secretName": "honest", "defaultMode": 4095}}]})), Refused("is not within 0 and 511")),
        (pod("p15", &json!({"volumes": [{"name": "v", NASTY: {}}]})),                                Refused("which a static pod can't have")),

        // Texts that are quoted in verdicts.
        (container("t1", &json!({"name": NASTY})),                                                   Refused("is no RFC 1123 label")),
        (container("t2", &json!({"env": [{"name": "A\nB=C", "value": "x"}]})),                       Refused("a name that Kubernetes does not allow")),
        (container("t3", &json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "no", "key": NASTY}}}]})), Refused("ConfigMap shop/no is not stored")),
        (container("t4", &json!({"env": [{"name": "A", "valueFrom": {NASTY: {}}}]})),                Refused("is not known to this version")),
        (container("t5", &json!({"env": [{"name": "A", "value": NASTY}]})),                          Served),
        (container("t6", &json!({"image": NASTY})),                                                  Served),
        (container("t7", &json!({"resources": {"limits": {format!("x.example/{NASTY}"): "1"}}})),    Refused("is assigned to the parent only")),
        (container("t8", &json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": format!("metadata.annotations['{NASTY}']")}}}]})), Served),
        (pod("t9", &json!({"runtimeClassName": NASTY})),                                             Refused("is read through the API server")),
        (pod("t10", &json!({NASTY: 1, "\u{202e}": {"a": 1}})),                                       Served),
        (pod("t11", &json!({"hostname": NASTY, "priorityClassName": NASTY})),                        Served),
        (with("t12", "/metadata/uid", &NASTY.into()),                                                Skipped("metadata.uid is not 1 to 128 printable")),
        (with("t13", "/metadata/annotations", &json!({NASTY: NASTY, "checkpointer.alpha.coreos.com/checkpoint": NASTY})), Served),
        (with("t14", "/metadata/labels", &json!({"app": NASTY})),                                    Served),
        (with("t15", "/metadata/resourceVersion", &NASTY.into()),                                    Skipped("metadata.resourceVersion is not 1 to 128 printable")),
        (with("t16", "/status/phase", &NASTY.into()),                                                Refused("it never ran on this node")),
        (with("t17", "/kind", &NASTY.into()),                                                        Skipped("is not stored")),
        (with("t18", "/apiVersion", &NASTY.into()),                                                  Skipped("apiVersion")),
    ]
}

#[test]
fn each_hostile_object_is_refused_or_harmless_and_the_others_are_served() {
    let rows = rows();
    let (node, ran) = node_with(rows.iter().map(|(document, _)| document.clone()).collect());
    assert_clean(&ran);
    let plan = node.ran("plan", &["-o", "json"]).json();
    for (document, fate) in &rows {
        let name = document["metadata"]["name"].as_str().unwrap();
        let found = plan["pods"].as_array().unwrap().iter().find(|pod| pod["name"] == name);
        let reasons = || found.map(|pod| pod["reasons"].to_string()).unwrap_or_default();
        match fate {
            Skipped(why) => {
                assert!(found.is_none(), "{document:.300} is stored");
                assert!(ran.stderr.contains(why), "{document:.300}: {why:?} is not in\n{}", ran.stderr);
            }
            Refused(why) => assert!(reasons().contains(why), "{document:.300}: {why:?} is not in {}", reasons()),
            Served => {
                assert!(found.is_some_and(|pod| pod["manifest"] != Value::Null), "{document:.300}: {:?}", reasons());
            }
        }
    }
    let skipped = rows.iter().filter(|(_, fate)| matches!(fate, Skipped(_))).count();
    assert_eq!(ran.stderr.matches("; skipped").count() + ran.stderr.matches("; ignored").count(), skipped);
    println!("{} hostile objects: {skipped} not taken", rows.len());
    assert_in_place(&node);
    assert_all_clean(&node);
}
