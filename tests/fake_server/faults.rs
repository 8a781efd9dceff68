//! Each fault as the client sees it, and how often.

use std::time::Duration;

use ckpt_db::checkpoint::object::Kind;
use serde_json::json;

use crate::client::{Client, Next, in_time};
use crate::fake::{Broken, CANARY, End, Fault, Match, Times};
use crate::{BASE, configmap, filled_server, open_server, pod, secret};

const PODS: &str = "/api/v1/pods";
const SECRET: &str = "/api/v1/namespaces/a/secrets/s";

fn watch_since(version: u64) -> String {
    format!("{PODS}?watch=1&resourceVersion={}", BASE + version)
}

#[tokio::test]
async fn statuses() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    #[rustfmt::skip]
    let rows = [
        (Fault::status(401),                     401, "Unauthorized",       None),
        (Fault::status(403),                     403, "Forbidden",          None),
        (Fault::status(404),                     404, "NotFound",           None),
        (Fault::status(410),                     410, "Expired",            None),
        (Fault::too_many_requests(7),            429, "TooManyRequests",    Some("7")),
        (Fault::status(500),                     500, "InternalError",      None),
        (Fault::status(503),                     503, "ServiceUnavailable", None),
        (Fault::too_large_resource_version(),    504, "Timeout",            Some("1")),
    ];
    for (fault, code, reason, retry_after) in rows {
        for path in [PODS, &watch_since(4), "/api/v1/namespaces/a/pods/p1"] {
            server.fault(Match::any(), fault.clone(), Times::Once);
            let reply = client.get(path).await;
            let body = reply.json();
            assert_eq!((reply.status, &body["code"], &body["reason"]), (code, &json!(code), &json!(reason)), "{path}");
            assert_eq!(reply.headers.get("retry-after").map(|value| value.to_str().unwrap()), retry_after);
            assert_eq!(body["kind"], "Status");
        }
    }
    assert_eq!(client.get(PODS).await.status, 200, "each struck once");
}

#[tokio::test]
async fn a_fault_strikes_what_it_is_set_for_as_often_as_it_is_set() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    let c1 = "/api/v1/configmaps?fieldSelector=metadata.name=c1";
    let secrets = "/api/v1/secrets";
    server.fault(Match::list(Kind::Pod), Fault::status(500), Times::Count(2));
    server.fault(Match::list(Kind::Pod), Fault::status(503), Times::Once);
    server.fault(Match::list(Kind::ConfigMap).named("c1"), Fault::status(403), Times::Forever);
    server.fault(Match::any().and(|request| request.kind == Some(Kind::Secret)), Fault::html(), Times::Once);
    let mut seen = Vec::new();
    for path in [PODS, PODS, PODS, PODS, c1, c1, c1, "/api/v1/configmaps", "/api/v1/namespaces/a/configmaps/c1"] {
        seen.push(client.get(path).await.status);
    }
    assert_eq!(seen, [500, 500, 503, 200, 403, 403, 403, 200, 200]);
    let page = client.get(secrets).await;
    assert_eq!((page.status, &page.headers["content-type"]), (200, &"text/html".parse().unwrap()));
    assert!(page.body.starts_with(b"<!DOCTYPE html>"));
    assert_eq!(client.get(secrets).await.names(), [""; 0]);
    server.clear_faults();
    assert_eq!(client.get(c1).await.status, 200);
    assert_eq!(server.requests(&Match::any().answered(403)).len(), 3);
}

#[tokio::test]
async fn hanging_harms_nobody_else() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    server.fault(Match::list(Kind::Pod), Fault::Hang, Times::Once);
    {
        let hanging = client.start("GET", PODS);
        let mut hanging = std::pin::pin!(hanging);
        let hung = tokio::select! {
            biased;
            _ = &mut hanging => panic!("an answer"),
            hung = server.wait_for_request(Match::list(Kind::Pod)) => hung,
        };
        assert_eq!((hung.status, hung.open), (None, true));
    } // the client gives up
    server.wait_until_none_is_open(Match::any()).await;
    assert_eq!(client.get(PODS).await.status, 200);
    assert_eq!(server.log()[0].status, None);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn connections_that_end() {
    let server = filled_server();
    for (fault, connection_stays) in [(Fault::Close, false), (Fault::Reset, false), (Fault::ResetStream, true)] {
        let mut client = Client::new(&server).await;
        let reset = matches!(fault, Fault::Reset);
        server.fault(Match::list(Kind::Pod), fault, Times::Once);
        let error = in_time(client.try_get(PODS)).await.unwrap_err();
        if connection_stays {
            assert_eq!(client.get(PODS).await.status, 200, "{error:?}");
            continue;
        }
        let ended = format!("{:?}", in_time(client.ended).await.unwrap());
        // Whichever meets a reset first, a read or a write.
        let broken = ["ConnectionReset", "BrokenPipe"].iter().any(|kind| ended.contains(kind));
        assert_eq!(broken, reset, "{ended}");
    }
    let statuses: Vec<_> = server.log().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [None, None, None, Some(200)]);
}

#[tokio::test]
async fn listings_that_are_wrong() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    let right = client.get(PODS).await.json();
    let mut strike = async |fault: Fault| {
        server.fault(Match::list(Kind::Pod), fault, Times::Once);
        let reply = client.get(PODS).await;
        assert_eq!((reply.status, reply.complete), (200, true));
        reply
    };
    let version = &right["metadata"]["resourceVersion"];

    let list = strike(Fault::without_items()).await.json();
    assert_eq!((list.get("items"), &list["metadata"]["resourceVersion"]), (None, version));
    let list = strike(Fault::without_resource_version()).await.json();
    assert_eq!((list["metadata"].get("resourceVersion"), &list["items"]), (None, &right["items"]));
    let list = strike(Fault::empty_listing()).await.json();
    assert_eq!((&list["items"], &list["metadata"]["resourceVersion"]), (&json!([]), version));
    let list = strike(Fault::wrong_kind()).await.json();
    assert_eq!((&list["kind"], &list["items"]), (&json!("NamespaceList"), &right["items"]));
    assert_eq!(strike(Fault::lacking(&["p1"])).await.names(), ["a/p2"]);
    assert_eq!(strike(Fault::lacking(&["p1", "p2"])).await.names(), [""; 0]);
    let whole = right.to_string().into_bytes();
    let reply = strike(Fault::truncated()).await;
    assert_eq!(reply.body, whole[..whole.len() / 2], "half of it, and an end as if that were all");
    assert!(!reply.headers.contains_key("content-length"));

    for end in [End::Stream, End::Connection] {
        let mut client = Client::new(&server).await;
        server.fault(Match::list(Kind::Pod), Fault::Cut(end), Times::Once);
        let reply = client.get(PODS).await;
        assert_eq!((reply.status, reply.complete), (200, false), "{end:?}");
        assert_eq!(reply.body, whole[..whole.len() / 2], "{end:?}");
        if end == End::Connection {
            let _ = in_time(client.ended).await;
        } else {
            assert_eq!(client.get(PODS).await.status, 200);
        }
    }
}

#[tokio::test]
async fn broken_secrets() {
    let server = open_server();
    server.create(Kind::Secret, "a", "s", secret("fine"));
    let mut client = Client::new(&server).await;
    let paths = [SECRET.to_owned(), "/api/v1/secrets".into(), "/api/v1/secrets?watch=1&resourceVersion=0".into()];
    for broken in [Broken::DataType, Broken::ValueType, Broken::Utf8, Broken::Base64, Broken::Syntax] {
        for path in &paths {
            server.fault(Match::any(), Fault::broken_secret(broken), Times::Once);
            let body = if path.contains("watch") {
                let Next::Line(line) = client.watch(path).await.next().await else { panic!("no line") };
                line
            } else {
                client.get(path).await.body
            };
            let lossy = String::from_utf8_lossy(&body);
            assert!(lossy.contains(CANARY), "{broken:?} {path}");
            assert_eq!(std::str::from_utf8(&body).is_err(), broken == Broken::Utf8, "{broken:?} {path}");
            let json: Result<serde_json::Value, _> = serde_json::from_slice(&body);
            let object =
                json.map(|json| [&json["items"][0]["data"], &json["object"]["data"], &json["data"]].map(Clone::clone));
            let Ok(places) = object else {
                assert!(matches!(broken, Broken::Utf8 | Broken::Syntax), "{broken:?} {path}");
                continue;
            };
            let data = places.into_iter().find(|data| !data.is_null()).unwrap();
            match broken {
                Broken::DataType => assert_eq!(data, CANARY),
                Broken::ValueType => assert_eq!(data["password"], json!([CANARY])),
                Broken::Base64 => {
                    assert!(data_encoding::BASE64.decode(data["password"].as_str().unwrap().as_bytes()).is_err());
                }
                Broken::Utf8 | Broken::Syntax => panic!("{broken:?} {path} is JSON"),
            }
        }
    }
    assert_eq!(client.get(SECRET).await.json(), server.object(Kind::Secret, "a", "s").unwrap());
}

#[tokio::test]
async fn events_out_of_their_place() {
    let server = open_server();
    let mut client = Client::new(&server).await;
    let mut events = client.watch(&watch_since(0)).await;
    let mut n = 0;
    let mut make = |count: usize| {
        for _ in 0..count {
            n += 1;
            server.create(Kind::Pod, "a", &format!("p{n}"), pod("node-1"));
        }
    };
    let on = || Match::watch(Kind::Pod);
    server.fault(on(), Fault::Twice, Times::Once);
    make(2);
    for expected in ["ADDED a/p1@1", "ADDED a/p1@1", "ADDED a/p2@2"] {
        assert_eq!(events.seen().await, expected);
    }
    server.fault(on(), Fault::Later, Times::Once);
    make(3);
    for expected in ["ADDED a/p4@4", "ADDED a/p3@3", "ADDED a/p5@5"] {
        assert_eq!(events.seen().await, expected);
    }
    server.fault(on(), Fault::Lost, Times::Count(2));
    make(3);
    assert_eq!(events.seen().await, "ADDED a/p8@8");
    server.fault(on(), Fault::wrong_kind(), Times::Once);
    server.fault(on(), Fault::without_resource_version(), Times::Once);
    make(2);
    let wrong = events.event().await;
    assert_eq!((&wrong["type"], &wrong["object"]["kind"]), (&json!("ADDED"), &json!("Namespace")));
    let without = events.event().await;
    assert_eq!(
        (without["object"]["metadata"].get("resourceVersion"), &without["object"]["kind"]),
        (None, &json!("Pod"))
    );
    server.fault(on(), Fault::Later, Times::Once);
    make(1);
    server.end_watches(&on());
    assert_eq!(events.seen().await, "ADDED a/p11@11", "not lost at the end");
    assert_eq!(events.next().await, Next::End(Vec::new()));
}

#[tokio::test]
async fn a_stream_cut_in_the_middle_of_an_event() {
    let server = open_server();
    for end in [End::Clean, End::Stream, End::Connection] {
        let mut client = Client::new(&server).await;
        let mut events = client.watch(&format!("{PODS}?watch=1&resourceVersion={}", server.resource_version())).await;
        server.create(Kind::Pod, "a", "p1", pod("node-1"));
        events.event().await;
        server.fault(Match::watch(Kind::Pod), Fault::Cut(end), Times::Once);
        server.delete(Kind::Pod, "a", "p1");
        let half = match events.next().await {
            Next::End(half) if end == End::Clean => half,
            Next::Broken(half) if end != End::Clean => half,
            other => panic!("{end:?}: {other:?}"),
        };
        assert!(half.starts_with(b"{\"type\":\"DELETED\",\"object\":{") && half.len() > 100, "{end:?}");
        server.wait_until_none_is_open(Match::any()).await;
    }
    // Also among the events with which a watch begins: nothing comes after the cut.
    server.create(Kind::Pod, "a", "p1", pod("node-1"));
    server.create(Kind::Pod, "a", "p2", pod("node-1"));
    server.fault(Match::watch(Kind::Pod), Fault::Cut(End::Clean), Times::Once);
    let mut events = Client::new(&server).await.watch(&format!("{PODS}?watch=1")).await;
    assert!(matches!(events.next().await, Next::End(half) if !half.is_empty()));
}

#[tokio::test]
async fn large_ones() {
    let server = open_server();
    let mut client = Client::new(&server).await;
    let mut events = client.watch(&format!("/api/v1/configmaps?watch=1&resourceVersion={BASE}")).await;
    let large = server.create(Kind::ConfigMap, "a", "large", configmap(&"x".repeat(1_400 * 1024)));
    assert_eq!(events.event().await["object"], large);
    assert_eq!(client.get("/api/v1/namespaces/a/configmaps/large").await.json(), large);
    server.fault(Match::watch(Kind::ConfigMap), Fault::padded(17 << 20), Times::Once);
    server.create(Kind::ConfigMap, "a", "padded", configmap("v"));
    let Next::Line(line) = events.next().await else { panic!("no line") };
    assert!(line.len() > 17 << 20);
    server.create(Kind::ConfigMap, "a", "next", configmap("v"));
    assert_eq!(events.seen().await, "ADDED a/next@3");
}

#[tokio::test]
async fn a_slow_drip_keeps_to_the_servers_clock() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    let drip = Fault::Drip { bytes: 100, every: Duration::from_secs(10) };
    let listing = client.get(PODS).await.body;
    let event = server.event("ADDED", Kind::Pod, "a", "p1");
    for (path, whole) in [(PODS.to_owned(), listing), (watch_since(0), event)] {
        server.fault(Match::any(), drip.clone(), Times::Once);
        let mut stream = client.watch(&path).await;
        let mut read = Vec::new();
        for n in 1..=whole.len().div_ceil(100) {
            read.extend(stream.piece().await);
            assert_eq!(read.len(), whole.len().min(n * 100), "{path}");
            server.advance(Duration::from_millis(9_999));
            // What was sent before this answer is here by now.
            client.get("/readyz").await;
            assert!(read.len() == whole.len() || !stream.has_more(), "{path}: no more than is due");
            server.advance(Duration::from_millis(1));
        }
        assert_eq!(read, whole, "{path}");
    }
}
