//! WATCH: replay and live, starts of all kinds, 410, bookmarks, ends, restores.

use std::time::Duration;

use ckpt_db::checkpoint::object::Kind;
use serde_json::{Value, json};

use crate::client::{Client, Next};
use crate::fake::{Gone, Match, error_event};
use crate::{BASE, configmap, filled_server, open_server, pod};

/// A watch of pods of this node.
fn pods_from(version: &str) -> String {
    format!(
        "/api/v1/pods?watch=1&allowWatchBookmarks=true&fieldSelector=spec.nodeName=node-1&resourceVersion={version}"
    )
}

fn pods_since(version: u64) -> String {
    pods_from(&(BASE + version).to_string())
}

/// `filled_server` has a/p1@1 and b/p1@3 on this node, a/p2@2 on another one and a ConfigMap@4.
#[tokio::test]
async fn starts() {
    let server = filled_server();
    server.delete(Kind::Pod, "b", "p1"); // 5
    let mut client = Client::new(&server).await;
    let (base, future) = (BASE.to_string(), (BASE + 7).to_string());
    let (one, five) = ((BASE + 1).to_string(), (BASE + 5).to_string());
    #[rustfmt::skip]
    let rows: [(&str, &[&str]); 6] = [
        // from      what comes before the changes 6 to 8
        ("",         &["ADDED a/p1@1"]),
        ("0",        &["ADDED a/p1@1"]),
        (&base,      &["ADDED a/p1@1", "ADDED b/p1@3", "DELETED b/p1@5"]),
        (&one,       &["ADDED b/p1@3", "DELETED b/p1@5"]),
        (&five,      &[]),
        (&future,    &[]), // and without 6 and 7
    ];
    let mut open = Vec::new();
    for (from, before) in rows {
        open.push((from, client.watch(&pods_from(from)).await, before));
    }
    server.modify(Kind::Pod, "a", "p1", |pod| pod["status"] = json!({"phase": "Running"})); // 6
    server.create(Kind::Pod, "c", "p3", pod("node-1")); // 7
    server.delete(Kind::Pod, "a", "p1"); // 8
    let live = ["MODIFIED a/p1@6", "ADDED c/p3@7", "DELETED a/p1@8"];
    for (from, mut events, before) in open {
        let live = if from == future { &live[2..] } else { &live[..] };
        for expected in before.iter().chain(live) {
            assert_eq!(events.seen().await, *expected, "from {from:?}");
        }
    }
}

#[tokio::test]
async fn events_show_the_selected_world() {
    let server = open_server();
    let mut client = Client::new(&server).await;
    let mut events = client.watch(&pods_since(0)).await;
    server.create(Kind::Pod, "a", "p", pod("")); // 1: not bound yet
    server.replace(Kind::Pod, "a", "p", pod("node-1")); // 2
    server.replace(Kind::Pod, "a", "p", pod("node-2")); // 3
    server.replace(Kind::Pod, "a", "p", pod("node-1")); // 4
    let last = server.modify(Kind::Pod, "a", "p", |pod| pod["status"] = json!({"phase": "Failed"})); // 5
    server.delete(Kind::Pod, "a", "p"); // 6
    for expected in ["ADDED a/p@2", "DELETED a/p@3", "ADDED a/p@4"] {
        assert_eq!(events.seen().await, expected);
    }
    let modified = events.event().await;
    assert_eq!((&modified["type"], &modified["object"]), (&json!("MODIFIED"), &last), "the object as a GET shows it");
    let deleted = events.event().await;
    let mut gone = last.clone();
    gone["metadata"]["resourceVersion"] = json!((BASE + 6).to_string());
    assert_eq!(
        (&deleted["type"], &deleted["object"]),
        (&json!("DELETED"), &gone),
        "its last state, the deletion's version"
    );
}

#[tokio::test]
async fn one_object_and_one_namespace() {
    let server = open_server();
    let mut client = Client::new(&server).await;
    let from = format!("watch=true&resourceVersion={BASE}");
    let mut one =
        client.watch(&format!("/api/v1/namespaces/a/configmaps?fieldSelector=metadata.name%3Dc1&{from}")).await;
    let mut all = client.watch(&format!("/api/v1/namespaces/a/configmaps?{from}")).await;
    for (namespace, name) in [("b", "c1"), ("a", "c2"), ("a", "c1")] {
        server.create(Kind::ConfigMap, namespace, name, configmap("v"));
    }
    assert_eq!(one.seen().await, "ADDED a/c1@3");
    assert_eq!(all.seen().await, "ADDED a/c2@2");
    assert_eq!(all.seen().await, "ADDED a/c1@3");
}

#[tokio::test]
async fn too_old_a_start_is_410_in_either_way() {
    let server = filled_server();
    server.compact(); // at 4
    server.create(Kind::Pod, "a", "p4", pod("node-1"));
    let mut client = Client::new(&server).await;
    let mut events = client.watch(&pods_since(3)).await;
    let error = events.event().await;
    assert_eq!(error["type"], "ERROR");
    let status = &error["object"];
    assert_eq!(
        (&status["kind"], &status["code"], &status["reason"]),
        (&json!("Status"), &json!(410), &json!("Expired"))
    );
    assert_eq!(status["message"], "too old resource version: 1003 (1004)");
    assert_eq!(events.next().await, Next::End(Vec::new()));

    server.set_options(|options| options.gone = Gone::Status);
    let reply = client.get(&pods_since(3)).await;
    assert_eq!((reply.status, &reply.json()["code"]), (410, &json!(410)));
    // Exactly at the floor is early enough.
    assert_eq!(client.watch(&pods_since(4)).await.seen().await, "ADDED a/p4@5");
    // A watch that is open doesn't mind.
    let mut events = client.watch(&pods_since(5)).await;
    server.delete(Kind::Pod, "a", "p4");
    server.compact();
    assert_eq!(events.seen().await, "DELETED a/p4@6");
    assert_eq!(client.get("/api/v1/pods?watch=1&resourceVersion=x").await.status, 400);
    assert_eq!(client.get("/api/v1/pods?watch=1&sendInitialEvents=true").await.status, 422);
}

#[tokio::test]
async fn bookmarks_are_for_those_that_are_open_and_allow_them() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    server.bookmark(); // for nobody
    let mut allowed = client.watch(&pods_since(2)).await;
    let mut plain =
        client.watch(&format!("/api/v1/pods?watch=1&allowWatchBookmarks=0&resourceVersion={}", BASE + 4)).await;
    let mut later = client.watch(&pods_since(5)).await;
    server.bookmark();
    server.create(Kind::Pod, "a", "p4", pod("node-1"));
    server.create(Kind::Pod, "a", "p5", pod("node-1"));
    assert_eq!(allowed.seen().await, "ADDED b/p1@3");
    assert_eq!(
        allowed.event().await,
        json!({"type": "BOOKMARK", "object": {
            "kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "1004", "creationTimestamp": null},
            "spec": {"containers": null}, "status": {},
        }})
    );
    assert_eq!(allowed.seen().await, "ADDED a/p4@5");
    assert_eq!(plain.seen().await, "ADDED a/p4@5");
    assert_eq!(later.seen().await, "ADDED a/p5@6", "one that starts in the future gets no bookmark of the present");
    server.bookmark();
    assert_eq!(later.seen().await, "BOOKMARK@6");
}

#[tokio::test]
async fn watches_end_by_the_servers_clock_and_by_hand() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    let mut short = client.watch(&format!("{}&timeoutSeconds=60", pods_since(4))).await;
    let mut long = client.watch(&format!("{}&timeoutSeconds=300", pods_since(4))).await;
    let mut endless = client.watch(&pods_since(4)).await;
    server.create(Kind::Pod, "a", "p4", pod("node-1"));
    server.advance(Duration::from_millis(59_999));
    server.create(Kind::Pod, "a", "p5", pod("node-1"));
    for events in [&mut short, &mut long, &mut endless] {
        assert_eq!(events.seen().await, "ADDED a/p4@5");
        assert_eq!(events.seen().await, "ADDED a/p5@6");
    }
    server.advance(Duration::from_millis(1));
    assert_eq!(short.next().await, Next::End(Vec::new()));
    server.create(Kind::Pod, "a", "p6", pod("node-1"));
    assert_eq!(long.seen().await, "ADDED a/p6@7");
    server.advance(Duration::from_secs(1_000));
    assert_eq!(long.next().await, Next::End(Vec::new()));
    assert_eq!(endless.seen().await, "ADDED a/p6@7");
    let ended = server.end_watches(&Match::watch(Kind::Pod).with("timeoutSeconds", ""));
    assert_eq!(ended, 1);
    assert_eq!(endless.next().await, Next::End(Vec::new()));
}

#[tokio::test]
async fn a_line_goes_to_the_open_watches_that_fit() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    let mut pods = client.watch(&pods_since(4)).await;
    let mut configmaps = client.watch(&format!("/api/v1/configmaps?watch=1&resourceVersion={}", BASE + 4)).await;
    server.create(Kind::Pod, "a", "p4", pod("node-1"));
    let lie = server.event("DELETED", Kind::Pod, "a", "p1");
    assert_eq!(server.send(&Match::watch(Kind::Pod), lie), 1);
    assert_eq!(server.send(&Match::watch(Kind::Secret), b"?\n".to_vec()), 0);
    assert_eq!(server.send(&Match::any(), error_event(500, "etcdserver: leader changed")), 2);
    server.create(Kind::ConfigMap, "a", "c2", configmap("v"));
    assert_eq!(pods.seen().await, "ADDED a/p4@5");
    assert_eq!(pods.seen().await, "DELETED a/p1@1");
    let error = pods.event().await;
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(500)));
    assert_eq!(configmaps.event().await, error);
    assert_eq!(configmaps.seen().await, "ADDED a/c2@6");
    assert!(server.object(Kind::Pod, "a", "p1").is_some(), "it was a lie");
}

#[tokio::test]
async fn an_etcd_restored_from_a_snapshot() {
    let server = filled_server();
    let old = server.objects(Kind::Pod);
    let mut client = Client::new(&server).await;
    let mut unary = Client::new(&server).await;
    let mut events = client.watch(&pods_since(4)).await;
    unary.get("/api/v1/pods").await;
    server.modify(Kind::Pod, "a", "p1", |pod| pod["status"] = json!({"phase": "Running"}));
    server.delete(Kind::Pod, "b", "p1");
    let lost = server.create(Kind::Pod, "b", "p1", pod("node-1"));
    for expected in ["MODIFIED a/p1@5", "DELETED b/p1@6", "ADDED b/p1@7"] {
        assert_eq!(events.seen().await, expected);
    }
    server.compact(); // at 7, which is not yet so in the snapshot
    server.lag_cache(Some(BASE + 6)); // nor has its cache seen that
    server.rewind(BASE + 4);
    assert_eq!(server.objects(Kind::Pod), old);
    assert_eq!(server.resource_version(), BASE + 4);
    assert_eq!(events.next().await, Next::Broken(Vec::new()));
    assert_eq!(server.open_connections(), 1, "only connections with watches are cut");
    let list = unary.get("/api/v1/pods?resourceVersion=0").await;
    assert_eq!(list.json()["metadata"]["resourceVersion"], (BASE + 4).to_string());

    let mut client = Client::new(&server).await;
    // A client that goes on where it was: everything up to there is left out, and the first it sees is 8.
    let mut ahead = client.watch(&pods_since(7)).await;
    let mut again = client.watch(&pods_since(4)).await;
    let other = server.create(Kind::Pod, "c", "p5", pod("node-1"));
    assert_ne!(other["metadata"]["uid"], lost["metadata"]["uid"], "no UID comes twice");
    for name in ["p6", "p7", "p8"] {
        server.create(Kind::Pod, "c", name, pod("node-1"));
    }
    assert_eq!(ahead.seen().await, "ADDED c/p8@8");
    for expected in ["ADDED c/p5@5", "ADDED c/p6@6"] {
        assert_eq!(again.seen().await, expected);
    }
}

#[tokio::test]
async fn an_etcd_made_anew_from_the_same_objects() {
    let server = filled_server();
    server.replace(Kind::Pod, "a", "p1", pod("node-1")); // 5: the newest of four
    let before = server.objects(Kind::Pod);
    let mut client = Client::new(&server).await;
    let mut events = client.watch(&pods_since(5)).await;
    server.set_resource_version(50);
    assert_eq!(events.next().await, Next::Broken(Vec::new()));
    let mut client = Client::new(&server).await;
    let versions =
        |pods: &[Value]| -> Vec<Value> { pods.iter().map(|pod| pod["metadata"]["resourceVersion"].clone()).collect() };
    let after = server.objects(Kind::Pod);
    assert_eq!(versions(&after), ["50", "47", "48"]);
    assert_eq!(versions(&before), ["1005", "1002", "1003"]);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
        assert_eq!(before["spec"], after["spec"]);
    }
    assert_eq!(client.get("/api/v1/pods").await.json()["metadata"]["resourceVersion"], "50");
    assert_eq!(client.watch(&pods_from("49")).await.event().await["object"]["code"], 410, "there is no history");
    let mut events = client.watch(&pods_from("50")).await;
    server.delete(Kind::Pod, "a", "p1");
    assert_eq!(events.event().await["object"]["metadata"]["resourceVersion"], "51");
}
