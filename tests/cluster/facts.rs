//! What the control plane does, as far as the agent relies on it, and that the pieces for the campaigns work: asserted
//! without the agent.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::api::{Api, Next, Watch, collection, listed, one, pods_of};
use crate::control_plane::{Cluster, Options, node_user};
use crate::until;

const NODE: &str = "edge-1";

/// Longer than an event takes, where one is due.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long nothing has to come before we say that nothing comes.
const QUIET: Duration = Duration::from_millis(700);

fn secret(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"a": value}})
}

fn pod(name: &str, secrets: &[&str]) -> Value {
    let from: Vec<Value> = secrets.iter().map(|name| json!({"secretRef": {"name": name}})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i", "envFrom": from}]},
    })
}

/// `403`, `200`, or `200 with 1` for a list.
fn outcome(api: &Api, path: &str) -> String {
    let answer = api.get(path);
    let items = answer.body["items"].as_array().map(|items| format!(" with {}", items.len()));
    format!("{}{}", answer.status, items.unwrap_or_default())
}

fn watched(api: &Api, path: &str) -> String {
    api.watch(path).map_or_else(|answer| answer.status.to_string(), |watch| watch.next(QUIET).shown())
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// The authorizer learns of pods by a watch of its own.
fn wait_for_rights(api: &Api, path: &str) {
    until("the Node authorizer", PATIENCE, || match api.get(path) {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.message().to_owned()),
    });
}

#[test]
fn what_a_node_and_the_fallback_role_may() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let (admin, directory) = (cluster.admin(), tempfile::tempdir().unwrap());
    let node = Api::new(&cluster.kubeconfig(NODE, directory.path()));
    let role = Api::new(&cluster.role_kubeconfig("predecessor", &directory.path().join("role")));
    let secrets = collection("secrets", "default");
    for name in ["named", "unnamed"] {
        admin.create(&secrets, &secret(name, "1")).ok();
    }
    admin.create("/api/v1/nodes", &json!({"metadata": {"name": NODE}})).ok();
    admin.create(&collection("pods", "default"), &pod("web", &["named", "missing"])).ok();
    let (get, list) = (|name: &str| one("secrets", "default", name), |name: &str| listed("secrets", "default", name));
    wait_for_rights(&node, &get("named"));
    // The second, consistent read that tells whether a pod is gone.
    let proof = format!("{}?fieldSelector=metadata.name%3Dweb,spec.nodeName%3D{NODE}", collection("pods", "default"));

    #[rustfmt::skip]
    let rows = [
        // path                    node          fallback Role
        (get("named"),             "200",        "200"),
        (get("missing"),           "404",        "404"),
        (get("unnamed"),           "403",        "200"),
        (get("neither"),           "403",        "404"),
        (list("named"),            "200 with 1", "403"),
        (list("missing"),          "200 with 0", "403"),
        (list("unnamed"),          "403",        "403"),
        (secrets.clone(),          "403",        "403"),
        (pods_of(NODE),            "200 with 1", "200 with 1"),
        (proof.clone(),            "200 with 1", "200 with 1"),
        (format!("/api/v1/nodes/{NODE}"), "200",   "200"),
        ("/api/v1/services".to_owned(), "200 with 1", "200 with 1"),
    ];
    for (path, of_node, of_role) in rows {
        assert_eq!(outcome(&node, &path), of_node, "node: {path}");
        assert_eq!(outcome(&role, &path), of_role, "role: {path}");
    }
    #[rustfmt::skip]
    let rows = [
        (list("named"),   "ADDED named", "403"),
        (list("missing"), "quiet",       "403"),
        (list("unnamed"), "403",         "403"),
    ];
    for (path, of_node, of_role) in rows {
        assert_eq!(watched(&node, &path), of_node, "node: {path}");
        assert_eq!(watched(&role, &path), of_role, "role: {path}");
    }

    // An object that is missing can be watched before it exists.
    let missing = node.watch(&list("missing")).unwrap();
    admin.create(&secrets, &secret("missing", "1")).ok();
    assert_eq!(missing.next(PATIENCE).shown(), "ADDED missing");

    // Rights end with the pod; a watch that is open already goes on.
    let open = node.watch(&list("named")).unwrap();
    assert_eq!(open.next(PATIENCE).shown(), "ADDED named");
    admin.delete(&one("pods", "default", "web")).ok();
    until("the end of the rights", PATIENCE, || match outcome(&node, &get("named")).as_str() {
        "403" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!(outcome(&node, &list("named")), "403");
    assert_eq!(watched(&node, &list("named")), "403");
    assert_eq!(outcome(&node, &proof), "200 with 0");
    // Up to 1.31 a node may get any pod; later a pod that is gone is a 403.
    assert!(["403", "404"].contains(&outcome(&node, &one("pods", "default", "web")).as_str()));
    admin.replace(&get("named"), &secret("named", "2")).ok();
    assert_eq!(open.next(PATIENCE).shown(), "MODIFIED named");

    // Nothing of this may be done by a node, and the audit log shows whoever asks for too much.
    assert_eq!(node.send(Method::DELETE, &get("named"), None).unwrap().status, 403);
    until("the audit log", PATIENCE, || {
        let log = cluster.audit().of(&node_user(NODE));
        let bad: Vec<String> =
            log.bad_manners(NODE).iter().map(|line| line.split(" by ").next().unwrap().into()).collect();
        let want = [
            format!("names no object: list {secrets} 403"),
            format!(
                "not this node's pods: get {} {}",
                one("pods", "default", "web"),
                outcome(&node, &one("pods", "default", "web"))
            ),
            format!("not a read: delete {} 403", get("named")),
        ];
        // The comparison above has asked for the pod once more.
        let bad: Vec<String> = bad.into_iter().take(3).collect();
        (bad == want).then_some(()).ok_or_else(|| bad.join("; "))
    });
    let role_log = cluster.audit().of("system:serviceaccount:kube-system:predecessor");
    assert_eq!(role_log.counts()[&("watch".to_owned(), "secrets".to_owned())], 3);
}

#[test]
fn what_a_watch_sees_of_a_restart_and_of_a_restore() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let (admin, directory) = (cluster.admin(), tempfile::tempdir().unwrap());
    let node = Api::new(&cluster.kubeconfig(NODE, directory.path()));
    let path = one("secrets", "default", "named");
    let list = listed("secrets", "default", "named");
    let change = |value: &str| version(&admin.replace(&path, &secret("named", value)).ok());
    let watch = |at: u64| node.watch(&format!("{list}&resourceVersion={at}&allowWatchBookmarks=true")).unwrap();
    let first = version(&admin.create(&collection("secrets", "default"), &secret("named", "0")).ok());
    admin.create(&collection("pods", "default"), &pod("web", &["named"])).ok();
    wait_for_rights(&node, &path);
    let now = change("1");
    assert!(now > first);

    // Killed: the stream breaks. The new server's watch cache begins with its start: what is older is gone, even if
    // nothing has been compacted.
    let open = watch(now);
    cluster.kill_apiserver();
    assert_eq!(open.next(PATIENCE).shown(), "ended");
    assert!(node.send(Method::GET, &path, None).is_err());
    cluster.start_apiserver();
    wait_for_rights(&node, &path);
    assert_eq!(seen(&watch(first)), ["ERROR 410", "ended"]);
    let open = watch(now);
    let newer = change("2");
    assert_eq!(open.next(PATIENCE).shown(), "MODIFIED named");

    // Frozen: the stream stays open and tells nothing.
    let open = watch(newer);
    cluster.freeze_apiserver();
    assert_eq!(open.next(QUIET).shown(), "quiet");
    cluster.thaw_apiserver();
    let newer = change("3");
    assert_eq!(open.next(PATIENCE).shown(), "MODIFIED named");

    // Set back: revisions are given out a second time.
    let snapshot = cluster.snapshot_etcd();
    let late = (0..20).map(|n| change(&format!("late {n}"))).last().unwrap();
    let open = watch(late);
    cluster.restore_etcd(&snapshot);
    assert_eq!(open.next(PATIENCE).shown(), "ended");
    wait_for_rights(&node, &path);
    let back = node.get(&list).items();
    assert_eq!(version(&back[0]), newer);
    assert_eq!(back[0]["data"]["a"], data_encoding::BASE64.encode(b"3"));

    if cluster.version().starts_with("v1.20.") {
        // A watch from what is now the future is taken, and withholds every event and bookmark until the revisions have
        // caught up: who goes on from where it was hears nothing and is told nothing. Only a list shows it.
        let future = watch(late);
        let again = change("again");
        assert!(again < late);
        assert_eq!(seen(&future), ["quiet"]);
        while change("more") <= late {}
        let caught_up = future.next(PATIENCE);
        let Next::Event(event) = caught_up else { panic!("{}", caught_up.shown()) };
        assert!(version(&event["object"]) > late);
        let answer = node.get(&format!("{list}&resourceVersion={}", late + 1_000));
        assert_eq!(answer.status, 504);
        assert!(answer.message().contains("Too large resource version"), "{}", answer.message());
    }
}

/// What comes until nothing more does.
fn seen(watch: &Watch) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        all.push(watch.next(QUIET).shown());
        if matches!(all.last().unwrap().as_str(), "quiet" | "ended") {
            return all;
        }
    }
}
