//! GET and LIST: shapes, selectors, versions, pages, and who may read what.

use std::time::Duration;

use ckpt_db::checkpoint::object::Kind;
use serde_json::{Value, json};

use crate::client::{Client, shown};
use crate::fake::{Match, Options, Server, Verb};
use crate::{BASE, configmap, filled_server, open_server, pod, secret};

#[tokio::test]
async fn an_object_has_what_the_server_adds_and_what_nobody_knows() {
    let server = open_server();
    server.advance(Duration::from_secs(24 * 60 * 60 + 61));
    let mut body = pod("node-1");
    body["spec"]["aFieldOfTheFuture"] = json!({"n": 1.0});
    let made = server.create(Kind::Pod, "a", "p", body);
    let mut client = Client::new(&server).await;
    let reply = client.get("/api/v1/namespaces/a/pods/p").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(reply.headers["content-length"], reply.body.len().to_string().as_str());
    let text = String::from_utf8(reply.body.clone()).unwrap();
    assert!(
        text.starts_with(r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"a","uid":"#),
        "{text}"
    );
    let read = reply.json();
    assert_eq!(read, made);
    assert_eq!(read["metadata"]["resourceVersion"], (BASE + 1).to_string());
    assert_eq!(read["metadata"]["creationTimestamp"], "2026-01-02T00:01:01Z");
    assert_eq!(read["metadata"]["managedFields"][0]["manager"], "fake");
    assert_eq!(read["spec"]["aFieldOfTheFuture"], json!({"n": 1.0}));

    server.advance(Duration::from_secs(1));
    let replaced = server.replace(Kind::Pod, "a", "p", json!({"metadata": {"uid": "mine"}, "spec": {}}));
    let fields = |object: &Value| ["uid", "creationTimestamp"].map(|field| object["metadata"][field].clone());
    assert_eq!(fields(&replaced), fields(&made), "an update keeps them");
    assert_eq!(replaced["metadata"]["resourceVersion"], (BASE + 2).to_string());
    assert_eq!(client.get("/api/v1/namespaces/a/pods/p").await.json(), replaced);

    server.delete(Kind::Pod, "a", "p");
    let reply = client.get("/api/v1/namespaces/a/pods/p").await;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "pods \"p\" not found",
        "reason": "NotFound", "details": {"name": "p", "kind": "pods"}, "code": 404,
    });
    assert_eq!((reply.status, reply.json()), (404, status));
    assert_ne!(fields(&server.create(Kind::Pod, "a", "p", pod("node-1"))), fields(&made), "another pod of that name");
}

#[tokio::test]
async fn a_listing_has_items_without_kind_and_the_latest_version() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    let list = client.get("/api/v1/namespaces/a/configmaps").await.json();
    let mut item = server.object(Kind::ConfigMap, "a", "c1").unwrap();
    item.as_object_mut().unwrap().retain(|field, _| field != "kind" && field != "apiVersion");
    let version = (BASE + 4).to_string();
    let metadata = json!({"resourceVersion": version});
    assert_eq!(list, json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": [item]}));
    let none = client.get("/api/v1/secrets").await.json();
    assert_eq!(none, json!({"kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": []}));
}

#[tokio::test]
async fn selectors_and_paths() {
    let server = filled_server();
    server.create(Kind::Node, "", "node-1", json!({}));
    let mut client = Client::new(&server).await;
    #[rustfmt::skip]
    let rows: &[(&str, u16, &[&str])] = &[
        ("/api/v1/pods",                                                                200, &["a/p1", "a/p2", "b/p1"]),
        ("/api/v1/namespaces/a/pods",                                                   200, &["a/p1", "a/p2"]),
        ("/api/v1/namespaces/none/pods",                                                200, &[]),
        ("/api/v1/pods?fieldSelector=spec.nodeName=node-1",                             200, &["a/p1", "b/p1"]),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1",                           200, &["a/p1", "b/p1"]),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3D%3Dnode-2",                        200, &["a/p2"]),
        ("/api/v1/pods?fieldSelector=metadata.name%3Dp1",                               200, &["a/p1", "b/p1"]),
        ("/api/v1/namespaces/a/pods?fieldSelector=metadata.name=p2,spec.nodeName=node-1", 200, &[]),
        ("/api/v1/namespaces/a/pods?fieldSelector=metadata.name=p1%2Cspec.nodeName=node-1", 200, &["a/p1"]),
        ("/api/v1/nodes?fieldSelector=metadata.name=node-1",                            200, &["/node-1"]),
        ("/api/v1/configmaps?fieldSelector=spec.nodeName=node-1",                       400, &[]),
        ("/api/v1/pods?fieldSelector=status.phase=Running",                             400, &[]),
        ("/api/v1/pods?labelSelector=app=a",                                            400, &[]),
        ("/api/v1/pods?continue=none-of-ours",                                          400, &[]),
        ("/api/v1/namespaces/a/nodes",                                                  404, &[]),
        ("/api/v1/pods/p1",                                                             404, &[]),
        ("/api/v1/endpoints",                                                           404, &[]),
        ("/apis/apps/v1/deployments",                                                   404, &[]),
    ];
    for (path, status, names) in rows {
        let reply = client.get(path).await;
        assert_eq!(reply.status, *status, "{path}");
        match status {
            200 => assert_eq!(reply.names(), *names, "{path}"),
            _ => assert_eq!(reply.json()["kind"], "Status", "{path}"),
        }
    }
    assert_eq!(client.get("/api/v1/nodes/node-1").await.status, 200);
    assert_eq!(client.get("/version").await.json()["major"], "1");
    assert_eq!(client.get("/readyz").await.body, b"ok");
    assert_eq!(client.start("DELETE", "/api/v1/namespaces/a/pods/p1").await.unwrap().status(), 405);
    assert_eq!(server.object(Kind::Pod, "a", "p1").map(|pod| shown(&pod)), Some("a/p1".to_owned()));
}

/// Versions: c1 is made at 1, changed at 2 and 3, c2 made at 4. History begins at 2, and the cache has seen 3.
#[tokio::test]
async fn versions_of_reads() {
    let server = open_server();
    server.create(Kind::ConfigMap, "a", "c1", configmap("1"));
    server.replace(Kind::ConfigMap, "a", "c1", configmap("2"));
    server.compact();
    server.replace(Kind::ConfigMap, "a", "c1", configmap("3"));
    server.create(Kind::ConfigMap, "a", "c2", configmap("4"));
    server.lag_cache(Some(BASE + 3));
    let mut client = Client::new(&server).await;
    let at = |version: u64| format!("resourceVersion={}", BASE + version);
    let exact = |version: u64| format!("{}&resourceVersionMatch=Exact", at(version));
    #[rustfmt::skip]
    let rows = [
        // query                      list      at  c1   c2
        (String::new(),               Ok(      (4, "3", true))),
        ("resourceVersion=".into(),   Ok(      (4, "3", true))),
        ("resourceVersion=0".into(),  Ok(      (3, "3", false))),
        (at(1),                       Ok(      (3, "3", false))),
        (at(3),                       Ok(      (3, "3", false))),
        (at(4),                       Ok(      (4, "3", true))),
        (at(5),                       Err(504)),
        (exact(4),                    Ok(      (4, "3", true))),
        (exact(2),                    Ok(      (2, "2", false))),
        (exact(1),                    Err(410)),
        ("resourceVersion=x".into(),  Err(400)),
    ];
    for (query, expected) in rows {
        let reply = client.get(&format!("/api/v1/namespaces/a/configmaps?{query}")).await;
        match expected {
            Err(status) => assert_eq!(reply.status, status, "{query}"),
            Ok((version, value, both)) => {
                let list = reply.json();
                assert_eq!(list["metadata"]["resourceVersion"], (BASE + version).to_string(), "{query}");
                assert_eq!(list["items"][0]["data"]["key"], value, "{query}");
                assert_eq!(reply.names().len(), if both { 2 } else { 1 }, "{query}");
            }
        }
    }
    let too_large = client.get(&format!("/api/v1/namespaces/a/configmaps?{}", at(5))).await;
    assert_eq!(too_large.headers["retry-after"], "1");
    let body = too_large.json();
    assert_eq!((&body["reason"], &body["details"]["retryAfterSeconds"]), (&json!("Timeout"), &json!(1)));
    assert_eq!(body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    // A get looks into the same cache.
    assert_eq!(client.get("/api/v1/namespaces/a/configmaps/c2?resourceVersion=0").await.status, 404);
    assert_eq!(client.get("/api/v1/namespaces/a/configmaps/c2").await.status, 200);
    server.lag_cache(None);
    assert_eq!(client.get("/api/v1/namespaces/a/configmaps/c2?resourceVersion=0").await.status, 200);
}

#[tokio::test]
async fn pages_are_of_one_version_and_only_on_demand() {
    let server = open_server();
    for name in ["c1", "c2", "c3", "c4", "c5"] {
        server.create(Kind::ConfigMap, "a", name, configmap("v"));
    }
    let mut client = Client::new(&server).await;
    assert_eq!(
        client.get("/api/v1/configmaps?limit=2&resourceVersion=0").await.names().len(),
        5,
        "the cache has no limit"
    );
    let first = client.get("/api/v1/configmaps?limit=2").await;
    assert_eq!(first.names(), ["a/c1", "a/c2"]);
    server.delete(Kind::ConfigMap, "a", "c3");
    let next = |page: &Value| {
        format!("/api/v1/configmaps?limit=2&continue={}", page["metadata"]["continue"].as_str().unwrap())
    };
    let second = client.get(&next(&first.json())).await;
    assert_eq!(second.names(), ["a/c3", "a/c4"], "as it was at the first page");
    assert_eq!(second.json()["metadata"]["resourceVersion"], (BASE + 5).to_string());
    let third = client.get(&next(&second.json())).await;
    assert_eq!(third.names(), ["a/c5"]);
    assert_eq!(third.json()["metadata"].get("continue"), None);
    server.compact();
    assert_eq!(client.get(&next(&second.json())).await.status, 410);
}

/// What a node may read. `mine` is named by a pod of this node, `theirs` by one of another node, `none` by nobody;
/// `missing` is named by a pod of this node and does not exist.
#[tokio::test]
async fn node_authorizer() {
    let server = Server::start(Options::default());
    let mut mine = pod("node-1");
    mine["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "mine"}}]);
    mine["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "missing"}}]);
    let mut theirs = pod("node-2");
    theirs["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "theirs"}}]);
    server.create(Kind::Pod, "a", "here", mine);
    server.create(Kind::Pod, "a", "there", theirs);
    for name in ["mine", "theirs", "none"] {
        server.create(Kind::Secret, "a", name, secret("v"));
    }
    server.create(Kind::ConfigMap, "a", "mine", configmap("v"));
    server.create(Kind::Node, "", "node-1", json!({}));
    server.create(Kind::Service, "a", "s", json!({}));
    let mut client = Client::new(&server).await;
    #[rustfmt::skip]
    let rows = [
        ("namespaces/a/secrets/mine",                                    200),
        ("namespaces/a/secrets?fieldSelector=metadata.name=mine",        200),
        ("namespaces/a/secrets/missing",                                 404),
        ("namespaces/a/secrets?fieldSelector=metadata.name=missing",     200), // and empty
        ("namespaces/a/secrets/theirs",                                  403),
        ("namespaces/a/secrets?fieldSelector=metadata.name=theirs",      403),
        ("namespaces/a/secrets/none",                                    403),
        ("namespaces/a/secrets/never-was",                               403),
        ("namespaces/b/secrets/mine",                                    403),
        ("namespaces/a/configmaps/mine",                                 403), // named as a Secret only
        ("namespaces/a/secrets",                                         403),
        ("secrets?fieldSelector=metadata.name=mine",                     403),
        ("pods",                                                         403),
        ("pods?fieldSelector=spec.nodeName=node-2",                      403),
        ("pods?fieldSelector=spec.nodeName=node-1",                      200),
        ("namespaces/a/pods?fieldSelector=metadata.name=here",           403),
        ("namespaces/a/pods?fieldSelector=metadata.name=here,spec.nodeName=node-1", 200),
        ("namespaces/a/pods/here",                                       200),
        ("namespaces/a/pods/there",                                      403),
        ("namespaces/a/pods/never-was",                                  403),
        ("nodes/node-1",                                                 200),
        ("nodes?fieldSelector=metadata.name=node-1",                     200),
        ("nodes/node-2",                                                 403),
        ("nodes",                                                        403),
        ("services",                                                     200),
        ("namespaces/a/services",                                        200),
    ];
    for (path, status) in rows {
        assert_eq!(client.get(&format!("/api/v1/{path}")).await.status, status, "{path}");
    }
    let refused = client.get("/api/v1/namespaces/a/secrets/none").await.json();
    assert_eq!(
        refused["message"],
        "secrets \"none\" is forbidden: User \"system:node:node-1\" cannot get resource \"secrets\" in API group \"\" in \
         the namespace \"a\": no relationship found between node 'node-1' and this object"
    );
    // The right to a Secret goes with the pod.
    server.delete(Kind::Pod, "a", "here");
    assert_eq!(client.get("/api/v1/namespaces/a/secrets/mine").await.status, 403);
    assert_eq!(client.get("/api/v1/namespaces/a/pods/here").await.status, 403);
    assert_eq!(client.get("/api/v1/namespaces/a/pods?fieldSelector=spec.nodeName=node-1").await.names(), [""; 0]);
}

/// Each place in which a pod may name an object.
#[tokio::test]
async fn references_that_the_authorizer_finds() {
    let server = Server::start(Options::default());
    server.create(Kind::Secret, "a", "x", secret("v"));
    server.create(Kind::ConfigMap, "a", "x", configmap("v"));
    let mut client = Client::new(&server).await;
    let container = |kind: &str, reference: Value| json!({"containers": [], kind: [{"name": "c", "env": [reference]}]});
    let volume = |source: Value| json!({"containers": [], "volumes": [source]});
    #[rustfmt::skip]
    let rows = [
        //                                                                                            secret configmap
        (volume(json!({"secret": {"secretName": "x"}})),                                               true,  false),
        (volume(json!({"configMap": {"name": "x"}})),                                                  false, true),
        (volume(json!({"projected": {"sources": [{"secret": {"name": "x"}}]}})),                       true,  false),
        (volume(json!({"projected": {"sources": [{"configMap": {"name": "x"}}]}})),                    false, true),
        (volume(json!({"csi": {"nodePublishSecretRef": {"name": "x"}}})),                              true,  false),
        (volume(json!({"iscsi": {"secretRef": {"name": "x"}}})),                                       true,  false),
        (volume(json!({"azureFile": {"secretName": "x"}})),                                            true,  false),
        (volume(json!({"secret": {"secretName": "y"}})),                                               false, false),
        (container("containers", json!({"valueFrom": {"secretKeyRef": {"name": "x"}}})),               true,  false),
        (container("initContainers", json!({"valueFrom": {"configMapKeyRef": {"name": "x"}}})),        false, true),
        (container("ephemeralContainers", json!({"valueFrom": {"secretKeyRef": {"name": "x"}}})),      true,  false),
        (json!({"containers": [{"envFrom": [{"configMapRef": {"name": "x"}}]}]}),                      false, true),
        (json!({"containers": [{"envFrom": [{"secretRef": {"name": "x"}}]}]}),                         true,  false),
        (json!({"containers": [], "imagePullSecrets": [{"name": "x"}]}),                               true,  false),
    ];
    for (mut spec, secret, configmap) in rows {
        spec["nodeName"] = json!("node-1");
        server.create(Kind::Pod, "a", "p", json!({"spec": spec}));
        for (plural, allowed) in [("secrets", secret), ("configmaps", configmap)] {
            let status = client.get(&format!("/api/v1/namespaces/a/{plural}/x")).await.status;
            assert_eq!(status, if allowed { 200 } else { 403 }, "{plural} of {spec}");
        }
        server.delete(Kind::Pod, "a", "p");
    }
}

#[tokio::test]
async fn a_role_with_get_only() {
    let server = filled_server();
    server.set_options(|options| options.get_only = true);
    let mut client = Client::new(&server).await;
    #[rustfmt::skip]
    let rows = [
        ("namespaces/a/configmaps/c1",                                              200),
        ("namespaces/a/configmaps/c2",                                              404),
        ("namespaces/a/configmaps?fieldSelector=metadata.name=c1",                  403),
        ("namespaces/a/configmaps?fieldSelector=metadata.name=c1&watch=true",       403),
        ("namespaces/a/secrets?fieldSelector=metadata.name=c1",                     403),
        ("pods",                                                                    200),
    ];
    for (path, status) in rows {
        assert_eq!(client.get(&format!("/api/v1/{path}")).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn the_log_shows_what_was_asked() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    client.get("/api/v1/namespaces/a/pods/p1").await;
    client.get("/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp1,spec.nodeName%3Dnode-1&limit=5").await;
    let watch = client.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName=node-1").await;
    client.get("/nowhere").await;
    let log = server.log();
    let verbs: Vec<_> = log.iter().map(|request| (request.verb, request.kind, request.status, request.open)).collect();
    // A unary answer ends in the log when the server has let go of it, which may be after the client has it.
    assert_eq!(verbs[0].0, Verb::Get);
    assert_eq!(verbs[2], (Verb::Watch, Some(Kind::Pod), Some(200), true));
    assert_eq!(verbs[3].0, Verb::Other);
    assert_eq!((verbs[3].1, verbs[3].2), (None, Some(404)));
    let list = &log[1];
    assert_eq!((list.number, list.connection, list.verb, list.status), (2, 1, Verb::List, Some(200)));
    assert_eq!(
        (list.namespace.as_deref(), list.name.as_deref(), list.node.as_deref()),
        (Some("a"), Some("p1"), Some("node-1"))
    );
    assert_eq!((list.parameter("limit"), list.parameter("absent")), ("5", ""));
    assert_eq!((list.user.as_deref(), list.certificate), (Some("system:node:node-1"), Some(1)));
    assert!(list.to_string().starts_with(
        "#2 c1 GET /api/v1/namespaces/a/pods?fieldSelector=metadata.name=p1,spec.nodeName=node-1&limit=5 -> 200"
    ));

    let mark = server.mark();
    assert_eq!(server.wait_for_request(Match::list(Kind::Pod)).await.number, 2, "the past counts");
    assert_eq!(server.requests(&Match::list(Kind::Pod).after(mark)).len(), 0);
    assert_eq!(server.open_watches(&Match::any()).len(), 1);
    drop(watch); // the client gives up
    server.wait_until_none_is_open(Match::any()).await;
    assert_eq!(server.open_watches(&Match::any()).len(), 0);
    let (waited, _) =
        tokio::join!(server.wait_for_requests(Match::list(Kind::Pod).within("b").after(mark), 2), async {
            client.get("/api/v1/namespaces/b/pods").await;
            client.get("/api/v1/namespaces/b/pods").await;
        });
    assert_eq!(waited.len(), 2);
}
