//! A node with an honest pod on it, hostile documents beside it, and what must hold whatever they are.

use std::fs;

use serde_json::{Value, json};

use crate::common::program::{Node, Ran, SECRETS, What, listing};
use crate::common::terminal::assert_harmless;

pub(crate) fn pod(name: &str, spec: &Value) -> Value {
    let mut whole = json!({"nodeName": "edge-1", "containers": [{"name": "c", "image": "registry.example/app:1"}]});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
        "spec": whole,
        "status": {"phase": "Running"},
    })
}

pub(crate) fn map(kind: &str, name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "data": data})
}

/// A node that was given these documents, and an honest pod with its Secret.
pub(crate) fn node_with(documents: Vec<Value>) -> (Node, Ran) {
    let node = Node::new();
    fs::create_dir_all(node.source()).unwrap();
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-1"}}),
        pod("honest", &json!({"volumes": [{"name": "s", "secret": {"secretName": "honest"}}]})),
        map("Secret", "honest", &json!({"token": "aG9uZXN0"})),
    ];
    all.extend(documents);
    // A document each, so that one that is refused costs itself only.
    let text: Vec<String> = all.iter().map(ToString::to_string).collect();
    fs::write(node.source().join("pods.json"), text.join("\n")).unwrap();
    let ran = node.run_source();
    (node, ran)
}

/// The honest pod is served, and nothing lies anywhere but where a pod of this name has its files.
pub(crate) fn assert_in_place(node: &Node) {
    let token = node.at(&format!("{SECRETS}/shop/honest/honest/token"));
    assert_eq!(fs::read_to_string(token).unwrap(), "honest");
    for (path, entry) in listing(&node.root()) {
        let shown = path.to_str().unwrap_or_else(|| panic!("{path:?} is no name of ours"));
        let known = ["etc", "etc/kubernetes", "var", "var/lib", "var/lib/ckpt-db"].contains(&shown)
            || shown.starts_with("var/lib/ckpt-db/")
            || shown.strip_prefix("etc/kubernetes/").is_some_and(is_rendered);
        assert!(known, "{shown:?} is in no place of ours");
        if let What::Link(target) = entry.what {
            let inside = !target.is_absolute() && !target.components().any(|part| part.as_os_str() == "..");
            assert!(inside || target.starts_with(node.at(SECRETS)), "{shown:?} leads to {target:?}");
        }
    }
}

fn is_rendered(path: &str) -> bool {
    let plain = |part: &str| {
        part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~'))
    };
    let (root, rest) = path.split_once('/').unwrap_or((path, ""));
    let trees = ["checkpoint-secrets", "checkpoint-configmaps"].contains(&root);
    let manifests = ["manifests", "inactive-manifests"].contains(&root);
    path.split('/').all(plain)
        && (trees && (rest.is_empty() || rest == "shop" || rest.starts_with("shop/") || rest.starts_with(".manifests"))
            || manifests && (rest.is_empty() || rest.starts_with("shop_") && rest.ends_with(".json")))
}

/// What a command said leaves whoever reads it alone.
#[track_caller]
pub(crate) fn assert_clean(ran: &Ran) {
    assert_harmless(&ran.what, ran.stdout.lines().chain(ran.stderr.lines()));
}

/// Every command that shows what is stored, in every format: clean, and JSON where it says so.
pub(crate) fn assert_all_clean(node: &Node) {
    let rows: [(&str, &[&str]); 15] = [
        ("run", &["--once"]),
        ("dump", &[]),
        ("dump", &["-o", "wide"]),
        ("dump", &["-o", "name"]),
        ("dump", &["-o", "json"]),
        ("dump", &["-o", "yaml"]),
        ("dump", &["-o", "json", "--reveal"]),
        ("plan", &[]),
        ("plan", &["-o", "wide"]),
        ("plan", &["-o", "json"]),
        ("plan", &["-o", "yaml"]),
        ("log", &[]),
        ("log", &["-o", "json"]),
        ("verify", &[]),
        ("status", &[]),
    ];
    for (command, args) in rows {
        let ran = node.ran(command, args);
        assert_ne!(ran.code, Some(64), "{}: {}", ran.what, ran.stderr);
        if command == "dump" {
            // Objects are shown whole: their lines may be long, and hold nothing but what is escaped.
            let acts = |c: char| c.is_control() && c != '\n' || ('\u{2028}'..='\u{202e}').contains(&c);
            assert!(!ran.stdout.contains(acts), "{}", ran.what);
        } else {
            assert_clean(&ran);
        }
        // The log is a JSON document a line.
        if args.contains(&"json") && command != "log" {
            let _: Value = serde_json::from_str(&ran.stdout).unwrap();
        }
    }
}
