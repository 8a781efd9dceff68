//! ConfigMaps and Secrets: when they go, and how they are followed where they need not or may not be watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ckpt_db::agent::{AtHand, Following, KeySlots, SlotNews, Status, key_news};
use ckpt_db::checkpoint::lookup::Lookup;
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::source::api::collect::{Absence, Step};
use ckpt_db::source::api::feed::Note;
use ckpt_db::source::api::tracker::ObjectRefresh;
use serde_json::json;

use crate::fake::{Fault, Match, Options, Times, Verb};
use crate::harness::Named::{ConfigMap, Secret};
use crate::harness::{Agent, Cluster, key, keyless, memory, node_secret, pace, secret};

fn fill(cluster: &Cluster) {
    cluster.secret("s", "v");
    cluster.config_map("c", "v");
    cluster.pod("p", &[Secret("s"), ConfigMap("c")]);
}

/// Reads of ConfigMaps and Secrets in one way.
fn reads(verb: Verb) -> Match {
    Match::when(move |request| request.verb == verb && matches!(request.kind, Some(Kind::ConfigMap | Kind::Secret)))
}

#[tokio::test]
async fn an_object_that_a_pod_names_goes_when_a_listing_says_so_and_not_before() {
    #[rustfmt::skip]
    let faults = [
        Fault::status(401), Fault::status(403), Fault::status(404), Fault::status(500), Fault::status(503), Fault::html(),
        Fault::wrong_kind(), Fault::without_resource_version(), Fault::truncated(), Fault::ResetStream,
    ];
    let cluster = Cluster::new();
    fill(&cluster);
    let mut agent = cluster.followed().await;
    for (n, fault) in faults.into_iter().enumerate() {
        let mark = cluster.server.mark();
        cluster.server.wait_for_request(Match::watch(Kind::Secret).answered(200).and(|request| request.open)).await;
        let forbidden = matches!(fault, Fault::Status { code: 403, .. });
        let read = || Match::when(|request| request.kind == Some(Kind::Secret) && request.verb != Verb::Watch);
        cluster.server.fault(read(), fault, Times::Forever);
        cluster.server.delete(Kind::Secret, "shop", "s");
        cluster.server.wait_for_requests(read().after(mark), 4).await;
        if forbidden {
            let refused = |step: &Step| matches!(step, Step::ObjectAbsent { why: Absence::Forbidden, .. });
            agent.batch("it to be forbidden", refused).await;
        }
        assert!(matches!(agent.lookup(Kind::Secret, "s").await, Lookup::Found(_)), "fault {n}");

        cluster.server.clear_faults();
        agent.in_step(&cluster).await;
        assert!(matches!(agent.lookup(Kind::Secret, "s").await, Lookup::Missing));
        cluster.secret("s", "again");
        agent.in_step(&cluster).await;
    }
    // The cache is no proof.
    let cached = Match::list(Kind::Secret).and(|request| !request.parameter("resourceVersion").is_empty());
    assert_eq!(cluster.server.requests(&cached).len(), 0);
}

#[tokio::test]
async fn immutable_objects_are_read_once_and_not_watched() {
    let cluster = Cluster::new();
    let mut fixed = secret("v");
    fixed["immutable"] = json!(true);
    cluster.server.create(Kind::Secret, "shop", "fixed", fixed);
    cluster.config_map("later", "v");
    cluster.pod("p", &[Secret("fixed"), ConfigMap("later")]);
    let mut agent = cluster.followed().await;
    let watch = cluster.server.wait_for_request(Match::watch(Kind::ConfigMap).answered(200)).await;

    // From now on the other one is, too; its watch is given up.
    cluster.server.modify(Kind::ConfigMap, "shop", "later", |object| object["immutable"] = json!(true));
    agent.in_step(&cluster).await;
    cluster.server.wait_until_none_is_open(Match::watch(Kind::ConfigMap)).await;
    let mark = cluster.server.mark();
    for n in 0..3 {
        cluster.touch(Kind::Pod, "p", &n.to_string());
        agent.in_step(&cluster).await;
    }
    assert_eq!(cluster.server.requests(&reads(Verb::List).after(mark)).len(), 0);
    assert_eq!(cluster.server.requests(&Match::list(Kind::Secret)).len(), 1);

    // After an interruption they are looked at once more.
    cluster.is_away();
    for kind in [Kind::Secret, Kind::ConfigMap] {
        cluster.server.wait_for_request(Match::list(kind).after(mark)).await;
    }
    cluster.touch(Kind::Pod, "p", "again");
    agent.in_step(&cluster).await;
    assert_eq!(cluster.server.requests(&reads(Verb::List).after(mark)).len(), 2);
    let watches = cluster.server.requests(&reads(Verb::Watch));
    assert_eq!(watches.len(), 1, "{watches:?}");
    assert_eq!(watches[0].number, watch.number);
    assert_eq!(cluster.server.requests(&reads(Verb::Get)).len(), 0);
}

#[tokio::test]
async fn polled_objects_are_neither_listed_nor_watched() {
    let cluster = Cluster::new();
    fill(&cluster);
    let mut agent = Agent::start(memory(), Following { refresh: ObjectRefresh::Poll, ..cluster.following() });
    agent.in_step(&cluster).await;
    cluster.touch(Kind::Secret, "s", "1");
    cluster.touch(Kind::ConfigMap, "c", "1");
    agent.in_step(&cluster).await;
    cluster.server.wait_for_requests(reads(Verb::Get), 10).await;
    assert_eq!(cluster.server.requests(&reads(Verb::List)).len(), 0);
    assert_eq!(cluster.server.requests(&reads(Verb::Watch)).len(), 0);
    assert_eq!(agent.notes(), []);

    // That a GET does not find it is no proof; this is asked for once, and then it goes.
    cluster.server.delete(Kind::Secret, "shop", "s");
    agent.in_step(&cluster).await;
    assert!(!cluster.server.requests(&Match::list(Kind::Secret).named("s")).is_empty());
    cluster.secret("s", "again");
    agent.in_step(&cluster).await;
    assert_eq!(cluster.server.requests(&reads(Verb::Watch)).len(), 0);
}

#[tokio::test]
async fn a_role_that_may_only_get() {
    let cluster = Cluster::with(Options { get_only: true, node_authorizer: false, ..Options::default() });
    fill(&cluster);
    let mut agent = cluster.followed().await;
    cluster.touch(Kind::Secret, "s", "1");
    cluster.touch(Kind::ConfigMap, "c", "1");
    agent.in_step(&cluster).await;
    // Listed again, and asked for listings again: rights may have been given.
    let mark = cluster.server.mark();
    cluster.is_away();
    cluster.server.wait_for_request(reads(Verb::List).after(mark)).await;
    cluster.touch(Kind::Secret, "s", "2");
    agent.in_step(&cluster).await;

    // A GET proves nothing, and nothing else is allowed.
    let mark = cluster.server.mark();
    cluster.server.delete(Kind::Secret, "shop", "s");
    cluster.server.wait_for_requests(Match::get(Kind::Secret).after(mark).answered(404), 4).await;
    cluster.touch(Kind::ConfigMap, "c", "2");
    let changed = |step: &Step| matches!(step, Step::Object(object) if object.key.name() == "c");
    agent.batch("the change of the other one", changed).await;
    assert!(matches!(agent.lookup(Kind::Secret, "s").await, Lookup::Found(_)));
    assert_eq!(agent.notes(), [Note::GetOnly { every: pace().poll }]);
    cluster.secret("s", "again");
    agent.in_step(&cluster).await;
    assert_eq!(cluster.server.requests(&reads(Verb::Watch)).len(), 0);

    // With the rights comes the watch, when everything is listed again.
    cluster.server.set_options(|options| options.get_only = false);
    cluster.is_away();
    cluster.server.wait_for_requests(reads(Verb::Watch).answered(200), 2).await;
    cluster.touch(Kind::Secret, "s", "3");
    agent.in_step(&cluster).await;
}

#[tokio::test]
async fn a_role_that_may_list_and_not_watch() {
    let cluster = Cluster::new();
    fill(&cluster);
    cluster.server.fault(reads(Verb::Watch), Fault::status(403), Times::Forever);
    let mut agent = cluster.followed().await;
    agent.status("it to be told", |status| matches!(status, Status::Note(Note::GetOnly { .. })).then_some(())).await;
    let mark = cluster.server.mark();
    for n in 0..3 {
        cluster.touch(Kind::Secret, "s", &n.to_string());
        cluster.touch(Kind::ConfigMap, "c", &n.to_string());
        agent.in_step(&cluster).await;
    }
    cluster.server.wait_for_requests(reads(Verb::Get).after(mark), 4).await;
    let told = agent.notes();
    assert_eq!(told, [Note::GetOnly { every: pace().poll }]);
}

/// One refusal is no rule: an API server that has just started knows nobody's rights yet.
#[tokio::test]
async fn a_watch_that_is_refused_once_is_tried_again() {
    let cluster = Cluster::new();
    fill(&cluster);
    cluster.server.fault(reads(Verb::Watch), Fault::status(403), Times::Count(2));
    cluster.server.fault(reads(Verb::List), Fault::status(403), Times::Once);
    let mut agent = cluster.followed().await;
    cluster.server.wait_for_requests(reads(Verb::Watch).answered(200), 2).await;
    cluster.touch(Kind::Secret, "s", "1");
    agent.in_step(&cluster).await;
    assert_eq!(agent.notes(), []);
}

#[tokio::test]
async fn secrets_come_with_the_first_key() {
    let cluster = Cluster::new();
    fill(&cluster);
    let there = Arc::new(AtomicBool::new(false));
    let key_is_there = Arc::clone(&there);
    let (ringer, news) = key_news();
    let secret = node_secret();
    let look = Box::new(move || {
        let current = if key_is_there.load(Ordering::SeqCst) { vec![secret.clone()] } else { Vec::new() };
        AtHand { current, others: Vec::new() }
    });
    let following = Following { keys: KeySlots { look, news, ..KeySlots::none() }, ..cluster.following() };
    let mut agent = Agent::start(keyless(), following);
    let batch = agent.listed().await;
    assert_eq!(batch.update.unsealed, [key(Kind::Secret, "s")]);
    assert!(matches!(agent.lookup(Kind::Secret, "s").await, Lookup::NoKeyYet));
    assert!(matches!(agent.lookup(Kind::ConfigMap, "c").await, Lookup::Found(_)));
    assert!(matches!(agent.lookup(Kind::Pod, "p").await, Lookup::Found(_)));

    there.store(true, Ordering::SeqCst);
    ringer.ring();
    agent.status("the key", |status| (*status == Status::Slots(SlotNews::FirstKey)).then_some(())).await;
    agent.in_step(&cluster).await;
    cluster.touch(Kind::Secret, "s", "1");
    agent.in_step(&cluster).await;
    let keys = agent.statuses().iter().filter(|status| matches!(status, Status::Slots(_))).count();
    assert_eq!(keys, 1);
}
