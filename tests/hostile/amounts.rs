//! Much made of little: what is named a thousand times is not rendered a thousand times, and costs neither memory, disk nor
//! lines of the log.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::gate::GATE;
use crate::common::program::{Node, Ran, listing, program};
use crate::scene::{assert_clean, assert_in_place, map, node_with, pod};

/// Far above what any of these take, and far below what they ask for.
const SLOWEST: Duration = Duration::from_secs(300);

fn containers(count: usize, container: impl Fn(usize) -> Value) -> Value {
    json!({"containers": (0..count).map(container).collect::<Vec<_>>()})
}

#[test]
fn a_pod_that_asks_for_too_much_is_refused_alone() {
    let many: serde_json::Map<String, Value> = (0..20_000).map(|n| (format!("k{n}"), "".into())).collect();
    let laughs: Vec<Value> = std::iter::once(json!({"name": "V0", "value": "x".repeat(64)}))
        .chain((1..40).map(|n| json!({"name": format!("V{n}"), "value": format!("$(V{0})$(V{0})", n - 1)})))
        .collect();
    let volumes = |count: usize, name: &str, source: Value| {
        let volumes: Vec<_> = (0..count).map(|n| json!({"name": format!("v{n}"), "configMap": source})).collect();
        pod(name, &json!({"volumes": volumes}))
    };
    let items = json!({"name": "large", "items": (0..40).map(|n| json!({"key": "K", "path": format!("p{n}")})).collect::<Vec<_>>()});
    let from = |_| json!({"configMapRef": {"name": "large"}});
    let missing: Vec<_> = (0..5_000)
        .map(|n| json!({"name": format!("V{n}"), "valueFrom": {"configMapKeyRef": {"name": format!("m{}", n % 1000), "key": "k"}}}))
        .collect();
    let rows = [
        (volumes(1, "keys", json!({"name": "many"})), "more than 16384 files in its volumes"),
        (volumes(60, "copies", json!({"name": "large", "defaultMode": 0o600})), "more than 32 MiB in the files"),
        (volumes(1, "items", items), "more than 32 MiB in the files"),
        (
            pod(
                "containers",
                &containers(400, |n| json!({"name": format!("c{n}"), "image": "i", "envFrom": [from(n)]})),
            ),
            "a manifest of more than 10 MiB",
        ),
        (pod("reasons", &json!({"containers": [{"name": "c", "image": "i", "env": missing}]})), "is not stored"),
        (annotated("annotations", "shop.example/note"), ""),
        (annotated("kept", "io.kubernetes.cri-o.note"), ""),
        (pod("laughs", &json!({"containers": [{"name": "c", "image": "i", "env": laughs}]})), ""),
    ];
    let node = refused_alone(vec![large(), map("ConfigMap", "many", &many.into())], &rows);
    assert_clean(&node.ran("plan", &[]));
}

/// By itself, since reading so much takes its time.
#[test]
fn a_pod_that_would_read_too_much_is_refused_alone() {
    let env = |n| json!({"name": format!("V{n}"), "valueFrom": {"configMapKeyRef": {"name": "large", "key": "no", "optional": true}}});
    let env: Vec<_> = (0..2000).map(env).collect();
    let variables = pod("variables", &json!({"containers": [{"name": "c", "image": "i", "env": env}]}));
    refused_alone(vec![large()], &[(variables, "more than 256 MiB of ConfigMaps and Secrets to read")]);
}

fn large() -> Value {
    map("ConfigMap", "large", &json!({"K": "x".repeat(1_000_000)}))
}

/// An annotation larger than any API server takes, of a name that copies don't keep, or do.
fn annotated(name: &str, annotation: &str) -> Value {
    let mut pod = pod(name, &json!({}));
    pod["metadata"]["annotations"] = json!({annotation: "x".repeat(2_000_000)});
    pod
}

/// A node that was given these pods: each is refused for its reason, or, where that is empty, served.
fn refused_alone(mut documents: Vec<Value>, rows: &[(Value, &str)]) -> Node {
    documents.extend(rows.iter().map(|(pod, _)| pod.clone()));
    let started = Instant::now();
    let (node, ran) = node_with(documents);
    assert_clean(&ran);
    assert!(started.elapsed() < SLOWEST, "{:?}", started.elapsed());
    let plan = node.ran("plan", &["-o", "json"]).json();
    for (pod, want) in rows {
        let name = &pod["metadata"]["name"];
        let found = plan["pods"].as_array().unwrap().iter().find(|pod| pod["name"] == *name).unwrap();
        let reasons = found["reasons"].as_array().unwrap();
        if want.is_empty() {
            // The kubelet expands values; nobody does before it.
            assert_eq!(found["verdict"], "Recoverable", "{name}: {reasons:?}");
        } else {
            assert!(found["reasons"].to_string().contains(want), "{name}: {reasons:?}");
            assert!(reasons.len() <= 33, "{name}: {} reasons", reasons.len());
        }
    }
    assert_in_place(&node);
    assert!(listing(&node.at("etc")).len() < 50, "something of what was refused is rendered");
    assert_clean(&node.ran("log", &[]));
    node
}

/// The whole of it, so that memory is bounded by the limit that this process is given: 1 GiB.
#[test]
fn deep_and_self_repeating_documents_end_early() {
    let mut laughs =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: l, namespace: shop}\na: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, before) in ('b'..='l').zip('a'..) {
        let nine = vec![format!("*{before}"); 9].join(",");
        laughs.push_str(&format!("{name}: &{name} [{nine}]\n"));
    }
    let rows = [
        ("laughs.yaml", laughs, "aliases that expand to too many"),
        ("deep.yaml", "[".repeat(200_000), "levels of nesting"),
        ("deep.json", "{\"a\":".repeat(200_000), "levels of nesting"),
        ("keys.yaml", "? ".repeat(200_000), ""),
        ("anchors.yaml", "&a ".repeat(200_000), ""),
        ("dashes.yaml", "- ".repeat(200_000), ""),
        ("quotes.json", "\"".repeat(200_001), ""),
        ("documents.yaml", "---\n".repeat(200_000), ""),
    ];
    for (name, text, want) in rows {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join(name);
        std::fs::write(&source, text).unwrap();
        // The limit is set by the shell, which then becomes the program.
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg("ulimit -v 1048576; exec \"$@\"").arg("sh").arg(program().get_program());
        command.args(["run", GATE, "--once", "--generate-node-key", "--node-name", "edge-1", "--root"]);
        command.arg(directory.path().join("root")).arg("--manifests").arg(&source);
        let started = Instant::now();
        let ran = Ran::of(crate::common::program::clean(command));
        assert!(ran.code.is_some_and(|code| code <= 2), "{name}: {:?} {}", ran.code, ran.stderr);
        assert!(ran.stderr.contains(want), "{name}: {}", ran.stderr);
        assert!(started.elapsed() < SLOWEST, "{name}: {:?}", started.elapsed());
        assert_clean(&ran);
    }
}
