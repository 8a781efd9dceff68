//! What is stored is what the server sent, and what can't be stored costs nothing else.

use ckpt_db::agent::{Following, Status};
use ckpt_db::checkpoint::lookup::Lookup;
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::source::api::feed::Note;
use ckpt_db::source::api::reach::Reach;
use ckpt_db::source::api::tracker::ObjectRefresh;
use serde_json::json;

use crate::fake::{CANARY, Fault, Match, Options, Times};
use crate::harness::Named::{ConfigMap, Secret};
use crate::harness::{Agent, Cluster, key, memory, pods_listing, secret};

/// The text of an object with everything that a program could lose: unknown members at each level, numbers that are no
/// `f64`, escapes, an order of its own, and `managedFields` in the middle.
fn odd(kind: &str, version: u64, value: &str, managed: &str) -> String {
    let (spec, names) = match kind {
        "Pod" => (
            r#","spec":{"zeta":-0.0,"volumes":[{"name":"v","secret":{"secretName":"s","later":null}}],"nodeName":"node-1","containers":[{"name":"c","image":"i","future":{"b":1,"a":[1.0e3,{}]}}]},"status":{"phase":"Running","x":1E2}"#,
            "p",
        ),
        _ => (r#","type":"Opaque","data":{"z":"Wg==","a":"QQ=="},"unknown":[12345678901234567890,1.10]"#, "s"),
    };
    format!(
        r#"{{"kind":"{kind}","apiVersion":"v1","metadata":{{"uid":"u-1","zz":{{"managedFields":1}},"name":"{names}",{managed}"namespace":"shop","resourceVersion":"{version}","annotations":{{"\u00e4\/":"{value}\u0041"}}}}{spec},"later":1.0e3}}"#
    )
}

const MANAGED: &str = r#""managedFields":[{"manager":"kubelet","fieldsV1":{"f:a":{}}}],"#;

/// A list of one: its items say neither kind nor apiVersion.
fn listing(kind: &str, version: u64, value: &str) -> Fault {
    let item = odd(kind, version, value, MANAGED).replacen(&format!(r#""kind":"{kind}","apiVersion":"v1","#), "", 1);
    let body = format!(
        r#"{{"kind":"{kind}List","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"}},"items":[{item}]}}"#
    );
    Fault::Page { code: 200, content_type: "application/json", body: body.into_bytes() }
}

fn event(kind: &str, version: u64, value: &str) -> Vec<u8> {
    format!("{{\"type\":\"MODIFIED\",\"object\":{}}}\n", odd(kind, version, value, MANAGED)).into_bytes()
}

async fn holds(agent: &mut Agent, kind: Kind, name: &str, wanted: &str) {
    agent
        .until(&format!("{kind} {name} to be {wanted}"), |snapshot| {
            crate::harness::contents(snapshot).get(&format!("{kind} shop/{name}")).is_some_and(|body| body == wanted)
        })
        .await;
}

#[tokio::test]
async fn every_byte_is_kept_but_managed_fields() {
    let cluster = Cluster::with(Options { node_authorizer: false, ..Options::default() });
    cluster.server.fault(pods_listing(), listing("Pod", 2000, "list"), Times::Forever);
    cluster.server.fault(Match::list(Kind::Secret), listing("Secret", 2000, "list"), Times::Forever);
    let get = odd("Secret", 3000, "get", MANAGED).into_bytes();
    let get = Fault::Page { code: 200, content_type: "application/json", body: get };
    cluster.server.fault(Match::get(Kind::Secret), get, Times::Forever);

    let mut agent = Agent::start(memory(), cluster.following());
    holds(&mut agent, Kind::Pod, "p", &odd("Pod", 2000, "list", "")).await;
    holds(&mut agent, Kind::Secret, "s", &odd("Secret", 2000, "list", "")).await;
    for kind in [Kind::Pod, Kind::Secret] {
        let watched = cluster.server.wait_for_request(Match::watch(kind).answered(200)).await;
        assert_eq!(watched.parameter("resourceVersion"), "2000");
        assert_eq!(cluster.server.send(&Match::watch(kind), event(kind.row().name, 2001, "watch")), 1);
    }
    holds(&mut agent, Kind::Pod, "p", &odd("Pod", 2001, "watch", "")).await;
    holds(&mut agent, Kind::Secret, "s", &odd("Secret", 2001, "watch", "")).await;

    let polling = Following { refresh: ObjectRefresh::Poll, ..cluster.following() };
    let mut agent = Agent::start(agent.stop().await, polling);
    holds(&mut agent, Kind::Secret, "s", &odd("Secret", 3000, "get", "")).await;
}

/// Otherwise every restart of the API server would have every node write everything again.
#[tokio::test]
async fn what_is_listed_after_it_was_watched_is_written_no_more() {
    let cluster = Cluster::new();
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
    let mut agent = cluster.followed().await;
    cluster.touch(Kind::Secret, "s", "1");
    cluster.touch(Kind::Pod, "p", "1");
    agent.in_step(&cluster).await;
    let (mark, before) = (cluster.server.mark(), agent.revision().await);
    cluster.server.close_connections();
    agent.listed().await;
    cluster.server.wait_for_request(Match::watch(Kind::Secret).after(mark).answered(200)).await;
    // What comes after the second listing of the Secret is stored after it.
    cluster.touch(Kind::Secret, "s", "2");
    agent.in_step(&cluster).await;
    assert_eq!(agent.revision().await, before + 1);
}

#[tokio::test]
async fn an_object_of_the_largest_size() {
    let cluster = Cluster::new();
    let mebibyte = "x".repeat(1024 * 1024);
    cluster.server.create(Kind::Secret, "shop", "large", secret(&mebibyte));
    cluster.config_map("large", &mebibyte);
    cluster.pod("p", &[Secret("large"), ConfigMap("large")]);
    let mut agent = cluster.followed().await;
    for kind in [Kind::Secret, Kind::ConfigMap] {
        cluster.touch(kind, "large", "1");
    }
    agent.in_step(&cluster).await;
    assert!(agent.contents().await["Secret shop/large"].len() > 1_398_000);
}

#[tokio::test]
async fn an_event_without_end_is_given_up_and_what_it_told_is_listed() {
    let cluster = Cluster::new();
    cluster.pod("p", &[]);
    cluster.pod("q", &[]);
    let mut agent = cluster.followed().await;
    cluster.server.fault(Match::watch(Kind::Pod), Fault::padded(17 << 20), Times::Once);
    cluster.touch(Kind::Pod, "p", "1");
    let refusing = agent.status("the end of the watch", |status| match status {
        Status::Reach(Reach::Refusing(cause)) => Some(cause.0.clone()),
        _ => None,
    });
    assert_eq!(refusing.await, "watch: cannot read a watch event: it is longer than 16777216 bytes");
    cluster.touch(Kind::Pod, "q", "1");
    agent.in_step(&cluster).await;
}

#[tokio::test]
async fn a_bad_pod_costs_the_others_nothing_and_itself_nothing_that_is_stored() {
    let cluster = Cluster::new();
    cluster.pod("bad", &[]);
    cluster.pod("good", &[]);
    let mut agent = cluster.followed().await;
    let before = agent.contents().await["Pod shop/bad"].clone();

    let spoil = || {
        Fault::edit_objects(|pod| {
            if pod["metadata"]["name"] == "bad" {
                pod["metadata"]["resourceVersion"] = json!({"canary": CANARY});
                pod["spec"]["nodeName"] = json!(CANARY);
            }
        })
    };
    // In an event, in the listing, and where its end would have to be proven.
    cluster.server.fault(Match::watch(Kind::Pod), spoil(), Times::Forever);
    cluster.touch(Kind::Pod, "bad", "1");
    cluster.touch(Kind::Pod, "good", "1");
    let good = |cluster: &Cluster| cluster.truth()["Pod shop/good"].clone();
    holds(&mut agent, Kind::Pod, "good", &good(&cluster)).await;
    let mark = cluster.server.mark();
    cluster.server.fault(Match::list(Kind::Pod), spoil(), Times::Forever);
    cluster.server.close_connections();
    cluster.server.wait_for_request(Match::list(Kind::Pod).named("bad").after(mark)).await;
    cluster.touch(Kind::Pod, "good", "2");
    holds(&mut agent, Kind::Pod, "good", &good(&cluster)).await;
    agent.doubts_are_settled(&cluster).await;
    assert_eq!(agent.contents().await["Pod shop/bad"], before);

    let notes = agent.notes();
    let told = "cannot read Pod shop/bad that the API server sent: metadata.resourceVersion is not 1 to 128 printable ASCII characters";
    assert!(notes.contains(&Note::Unreadable(told.to_owned())), "{notes:?}");
    assert!(!format!("{notes:?} {:?}", agent.statuses()).contains(CANARY));
    cluster.server.clear_faults();
    cluster.server.close_connections();
    agent.in_step(&cluster).await;
    assert_eq!(agent.removed(), []);
}

#[tokio::test]
async fn a_bad_secret_is_told_without_its_contents_and_what_is_stored_stays() {
    let cluster = Cluster::new();
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
    let mut agent = cluster.followed().await;
    let before = agent.contents().await["Secret shop/s"].clone();
    let spoil = Fault::edit_objects(|secret| {
        secret["metadata"]["uid"] = json!([CANARY]);
        secret["data"]["password"] = json!(CANARY);
    });
    cluster.server.fault(Match::watch(Kind::Secret), spoil.clone(), Times::Once);
    cluster.server.fault(Match::list(Kind::Secret), spoil, Times::Forever);
    cluster.touch(Kind::Secret, "s", "1");
    let told = agent.status("what is wrong", |status| match status {
        Status::Note(Note::NotRead { object, why }) if *object == key(Kind::Secret, "s") => Some(why.clone()),
        _ => None,
    });
    let problem =
        "cannot read Secret shop/s that the API server sent: metadata.uid is not 1 to 128 printable ASCII characters";
    assert_eq!(told.await, format!("list Secret shop/s: {problem}"));
    assert_eq!(agent.contents().await["Secret shop/s"], before);
    assert!(!format!("{:?}", agent.statuses()).contains(CANARY));
    assert!(matches!(agent.lookup(Kind::Secret, "s").await, Lookup::Found(_)));
    cluster.server.clear_faults();
    agent.in_step(&cluster).await;
}
