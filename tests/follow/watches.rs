//! Watches end, break, repeat themselves and lose their place; nothing of what they told or left out stays wrong.

use std::time::Duration;

use ckpt_db::agent::Status;
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::source::api::collect::Step;
use ckpt_db::source::api::pace::Pace;
use ckpt_db::source::api::reach::Reach;
use serde_json::json;

use crate::fake::{End, Fault, Gone, Match, Options, Times, Verb, error_event};
use crate::harness::Named::Secret;
use crate::harness::{Agent, Cluster, NEVER, pace, pods_listing, steps};

/// A pod with a Secret, followed. A watch may end at any time, as one that was asked for a second: the server's clock, by
/// which it would, stands still.
async fn followed_by_short_watches(cluster: &Cluster) -> Agent {
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
    let mut agent = cluster.followed_at(Pace { watch: Duration::from_secs(1), ..pace() }).await;
    watched(cluster).await;
    agent.in_step(cluster).await;
    agent
}

/// The same with watches that last for ever, if nobody ends them.
async fn followed_by_long_watches(cluster: &Cluster) -> Agent {
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
    let agent = cluster.followed().await;
    watched(cluster).await;
    agent
}

async fn watched(cluster: &Cluster) {
    for kind in [Kind::Pod, Kind::Secret, Kind::Node] {
        cluster.server.wait_for_request(Match::watch(kind).answered(200)).await;
    }
}

fn lists() -> Match {
    Match::when(|request| request.verb == Verb::List && matches!(request.kind, Some(Kind::Pod | Kind::Secret)))
}

fn only_answering(agent: &mut Agent) -> bool {
    let reaches = agent.statuses().iter().filter(|status| matches!(status, Status::Reach(_)));
    reaches.eq([&Status::Reach(Reach::Answering)])
}

async fn touch_both_and_be_in_step(cluster: &Cluster, agent: &mut Agent, value: &str) {
    cluster.touch(Kind::Pod, "p", value);
    cluster.touch(Kind::Secret, "s", value);
    agent.in_step(cluster).await;
}

#[tokio::test]
async fn a_watch_that_begins_too_far_back_lists_again() {
    for gone in [Gone::Status, Gone::Event] {
        for kind in [Kind::Pod, Kind::Secret] {
            let cluster = Cluster::with(Options { gone, ..Options::default() });
            let mut agent = followed_by_short_watches(&cluster).await;
            cluster.happen_elsewhere(3);
            cluster.server.compact();
            let mark = cluster.server.mark();
            assert_eq!(cluster.server.end_watches(&Match::watch(kind)), 1);
            cluster.server.wait_for_request(Match::list(kind).after(mark)).await;
            touch_both_and_be_in_step(&cluster, &mut agent, "1").await;
            assert!(only_answering(&mut agent), "{gone:?}: it is no refusal: {:?}", agent.statuses());
        }
    }
}

#[tokio::test]
async fn a_watch_that_loses_its_place_lists_again() {
    for kind in [Kind::Pod, Kind::Secret] {
        let cluster = Cluster::new();
        let mut agent = followed_by_long_watches(&cluster).await;
        let mark = cluster.server.mark();
        // What happens after it in the old stream is told to nobody.
        cluster.server.fault(Match::watch(kind), Fault::Lost, Times::Once);
        match kind {
            Kind::Pod => cluster.touch(Kind::Pod, "p", "0"),
            _ => cluster.touch(Kind::Secret, "s", "0"),
        }
        assert_eq!(cluster.server.send(&Match::watch(kind), error_event(410, "too old resource version")), 1);
        cluster.server.wait_for_request(Match::list(kind).after(mark)).await;
        agent.in_step(&cluster).await;
        touch_both_and_be_in_step(&cluster, &mut agent, "1").await;
        assert!(only_answering(&mut agent));
    }
}

#[tokio::test]
async fn a_bookmark_spares_a_listing() {
    let cluster = Cluster::new();
    let mut agent = followed_by_short_watches(&cluster).await;
    cluster.happen_elsewhere(3);
    cluster.server.bookmark();
    cluster.server.compact();
    let (mark, version) = (cluster.server.mark(), cluster.server.resource_version().to_string());
    assert_eq!(cluster.server.end_watches(&Match::any()), 3); // the Node has one, too
    for kind in [Kind::Pod, Kind::Secret, Kind::Node] {
        let watch = cluster.server.wait_for_request(Match::watch(kind).after(mark)).await;
        assert_eq!(watch.parameter("resourceVersion"), version, "{kind}");
    }
    touch_both_and_be_in_step(&cluster, &mut agent, "1").await;
    assert_eq!(cluster.server.requests(&lists().after(mark)).len(), 0);
}

#[tokio::test]
async fn a_watch_that_ends_in_time_goes_on_where_it_was() {
    let cluster = Cluster::new();
    let mut agent = followed_by_short_watches(&cluster).await;
    for n in 0..3 {
        touch_both_and_be_in_step(&cluster, &mut agent, &format!("before {n}")).await;
        let mark = cluster.server.mark();
        let version = |kind, name| {
            let object = cluster.server.object(kind, "shop", name).unwrap();
            object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
        };
        let positions = [(Kind::Pod, version(Kind::Pod, "p")), (Kind::Secret, version(Kind::Secret, "s"))];
        assert_eq!(cluster.server.end_watches(&Match::any()), 3);
        for (kind, position) in positions {
            let watch = cluster.server.wait_for_request(Match::watch(kind).after(mark)).await;
            assert_eq!(watch.parameter("resourceVersion"), position, "{kind}");
        }
        touch_both_and_be_in_step(&cluster, &mut agent, &format!("after {n}")).await;
        assert_eq!(cluster.server.requests(&lists().after(mark)).len(), 0);
    }
}

/// A server that restarts, or sheds load, may come back with another past, in which the old position says nothing.
#[tokio::test]
async fn a_watch_that_ends_early_lists_again() {
    for kind in [Kind::Pod, Kind::Secret] {
        let cluster = Cluster::new();
        let mut agent = followed_by_long_watches(&cluster).await;
        let mark = cluster.server.mark();
        assert_eq!(cluster.server.end_watches(&Match::watch(kind)), 1);
        cluster.server.wait_for_request(Match::list(kind).after(mark)).await;
        touch_both_and_be_in_step(&cluster, &mut agent, "1").await;
        assert!(only_answering(&mut agent));
    }
}

/// Those who noticed nothing may know another past by now.
#[tokio::test]
async fn after_an_absence_or_a_step_back_everything_is_listed_again() {
    let back = Fault::edit(|list| list["metadata"]["resourceVersion"] = json!("1000"));
    for fault in [Fault::status(503), back] {
        let cluster = Cluster::new();
        let mut agent = followed_by_long_watches(&cluster).await;
        let mark = cluster.server.mark();
        cluster.server.fault(pods_listing(), fault, Times::Once);
        assert_eq!(cluster.server.end_watches(&Match::watch(Kind::Pod)), 1);
        for kind in [Kind::Pod, Kind::Secret, Kind::Node] {
            cluster.server.wait_for_request(Match::list(kind).after(mark)).await;
            cluster.server.wait_for_request(Match::watch(kind).after(mark)).await;
        }
        touch_both_and_be_in_step(&cluster, &mut agent, "1").await;
    }
}

/// An API server, or something before it, that cuts long streams would have every node read everything each time.
#[tokio::test]
async fn a_watch_of_the_pods_that_is_cut_is_no_reason_to_list_the_others() {
    let cluster = Cluster::new();
    let mut agent = followed_by_long_watches(&cluster).await;
    let mark = cluster.server.mark();
    for n in 0..3 {
        let mark = cluster.server.mark();
        assert_eq!(cluster.server.end_watches(&Match::watch(Kind::Pod)), 1);
        cluster.server.wait_for_request(Match::watch(Kind::Pod).after(mark).answered(200)).await;
        touch_both_and_be_in_step(&cluster, &mut agent, &n.to_string()).await;
    }
    assert_eq!(cluster.server.requests(&Match::list(Kind::Secret).after(mark)).len(), 0);
}

#[tokio::test]
async fn what_is_told_twice_is_one_step() {
    let cluster = Cluster::new();
    let mut agent = followed_by_long_watches(&cluster).await;
    for (kind, name) in [(Kind::Pod, "p"), (Kind::Secret, "s")] {
        let before = agent.revision().await;
        cluster.server.fault(Match::watch(kind), Fault::Twice, Times::Once);
        // The repetition lies between the two in the stream.
        cluster.touch(kind, name, "1");
        cluster.touch(kind, name, "2");
        let last = cluster.server.resource_version().to_string();
        let mut told = Vec::new();
        while told.last() != Some(&last) {
            let batch = agent.batch("a change", |step| matches!(step, Step::Pod(_) | Step::Object(_))).await;
            told.extend(steps(&batch).filter_map(|step| match step {
                Step::Pod(pod) => Some(pod.pod.resource_version.clone()),
                Step::Object(object) => Some(object.resource_version.clone()),
                _ => None,
            }));
        }
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(agent.revision().await <= before + 2);
    }
}

#[tokio::test]
async fn what_is_told_out_of_order_is_listed_again() {
    for (kind, name) in [(Kind::Pod, "p"), (Kind::Secret, "s")] {
        let cluster = Cluster::new();
        let mut agent = followed_by_long_watches(&cluster).await;
        let mark = cluster.server.mark();
        cluster.server.fault(Match::watch(kind), Fault::Later, Times::Once);
        cluster.touch(kind, name, "first");
        cluster.touch(kind, name, "second");
        cluster.server.wait_for_request(Match::list(kind).after(mark)).await;
        agent.in_step(&cluster).await;
        // Nothing of the old stream comes after it.
        cluster.server.wait_for_request(Match::watch(kind).after(mark).answered(200)).await;
        assert_eq!(agent.contents().await, cluster.truth());
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_in_the_middle_of_an_event() {
    for end in [End::Clean, End::Stream, End::Connection] {
        for (kind, name) in [(Kind::Pod, "p"), (Kind::Secret, "s")] {
            let cluster = Cluster::new();
            let mut agent = followed_by_long_watches(&cluster).await;
            cluster.server.fault(Match::watch(kind), Fault::Cut(end), Times::Once);
            cluster.touch(kind, name, "1");
            agent.in_step(&cluster).await;
            touch_both_and_be_in_step(&cluster, &mut agent, "2").await;
        }
    }
}

#[tokio::test]
async fn connections_that_are_reset() {
    let cluster = Cluster::new();
    let mut agent = followed_by_long_watches(&cluster).await;
    cluster.server.fault(pods_listing(), Fault::Reset, Times::Count(4));
    cluster.server.fault(Match::list(Kind::Secret), Fault::Reset, Times::Count(4));
    cluster.server.close_connections();
    cluster.touch(Kind::Pod, "p", "1");
    cluster.touch(Kind::Secret, "s", "1");
    agent.in_step(&cluster).await;
    touch_both_and_be_in_step(&cluster, &mut agent, "2").await;
}

/// All nodes lose their connections at the same moment, and the server goes on: they must not all read everything then.
#[tokio::test]
async fn after_a_cut_the_pods_are_listed_at_once_and_the_objects_when_their_turn_comes() {
    const OBJECTS: [&str; 8] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"];
    let cluster = Cluster::new();
    OBJECTS.iter().for_each(|name| cluster.secret(name, "a"));
    cluster.pod("p", &OBJECTS.map(Secret));
    let mut agent = cluster.followed_at(Pace { spread: 1000 * NEVER, ..pace() }).await;
    cluster.server.wait_for_requests(Match::watch(Kind::Secret).answered(200), OBJECTS.len()).await;
    let mark = cluster.server.mark();
    cluster.server.close_connections();
    // The pods are followed, and what is new is read: nobody waits for those whose turn has not come.
    for name in ["new-0", "new-1", "new-2"] {
        cluster.secret(name, "a");
        cluster.pod(name, &[Secret(name)]);
        agent.in_step(&cluster).await;
    }
    let again = Match::when(|request| request.name.as_deref().is_some_and(|name| OBJECTS.contains(&name)));
    assert_eq!(cluster.server.requests(&again.after(mark)).len(), 0);
}

#[tokio::test]
async fn a_line_that_is_no_event_ends_the_watch() {
    let lines: [&[u8]; 4] = [
        b"not JSON\n",
        b"{\"type\":\"ADDED\"}\n",
        b"{\"type\":\"EXPLODED\",\"object\":{}}\n",
        b"{\"type\":\"ERROR\",\"object\":{}}\n",
    ];
    for kind in [Kind::Pod, Kind::Secret] {
        let cluster = Cluster::new();
        let mut agent = followed_by_long_watches(&cluster).await;
        for (n, line) in lines.into_iter().enumerate() {
            let mark = cluster.server.mark();
            assert_eq!(cluster.server.send(&Match::watch(kind), line.to_vec()), 1);
            cluster.server.wait_for_request(Match::list(kind).after(mark)).await;
            touch_both_and_be_in_step(&cluster, &mut agent, &n.to_string()).await;
            cluster.server.wait_for_request(Match::watch(kind).after(mark).answered(200)).await;
        }
    }
}
