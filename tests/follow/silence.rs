//! Silence is not deletion: whatever comes instead of an answer, nothing that is stored goes, and how the API server stands
//! is told.

use std::time::Duration;

use ckpt_db::agent::Status;
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::source::api::connect::Limits;
use ckpt_db::source::api::pace::Pace;
use ckpt_db::source::api::reach::Reach;

use crate::fake::{End, Fault, Match, Times, Verb};
use crate::harness::Named::{ConfigMap, Secret};
use crate::harness::{Agent, Cluster, key, of_object, pace, pods_listing};

async fn followed(cluster: &Cluster, pace: Pace) -> Agent {
    cluster.secret("s", "v");
    cluster.config_map("c", "v");
    cluster.pod("p", &[Secret("s"), ConfigMap("c")]);
    cluster.pod("q", &[Secret("s")]);
    cluster.followed_at(pace).await
}

/// How the API server stands, as `answering`, or `silent` or `refusing` and the reason without what is different each time.
fn shown(cluster: &Cluster, reach: &Reach) -> String {
    let server = format!("https://{}", cluster.server.address());
    let read = "cannot read a list of pods that the API server sent: ";
    let cause = |cause: &dyn ToString| cause.to_string().replace(&server, "SERVER").replace(read, "");
    match reach {
        Reach::Answering => "answering".to_owned(),
        Reach::Silent(why) => format!("silent: {}", cause(why)),
        Reach::Refusing(why) => format!("refusing: {}", cause(why)),
    }
}

/// Waits until the API server stands so. `wanted` is how [`shown`] begins.
async fn stands(agent: &mut Agent, cluster: &Cluster, wanted: &str) {
    agent
        .status(&format!("the API server to be {wanted}"), |status| match status {
            Status::Reach(reach) => shown(cluster, reach).starts_with(wanted).then_some(()),
            _ => None,
        })
        .await;
}

/// What an answer says of the pods, to those who believe it.
enum Says {
    /// Nothing: the API server is told to stand so.
    Nothing(&'static str),
    /// That some are gone.
    TheyAreGone,
    /// That there is nothing, not even the Node.
    ThereIsNothing,
}

#[tokio::test]
async fn no_answer_and_no_fact_removes_anything() {
    use Says::{Nothing, ThereIsNothing, TheyAreGone};
    let any = Match::any;
    let lists = || Match::when(|request| request.verb == Verb::List);
    #[rustfmt::skip]
    let rows: Vec<(&str, Match, Fault, Says)> = vec![
        ("401",                   any(),          Fault::status(401),                Nothing("refusing: GET /api/v1/pods at SERVER: 401 Unauthorized")),
        ("403",                   any(),          Fault::status(403),                Nothing("refusing: GET /api/v1/pods at SERVER: 403 Forbidden")),
        ("404",                   any(),          Fault::status(404),                Nothing("refusing: GET /api/v1/pods at SERVER: 404 NotFound")),
        ("410",                   any(),          Fault::status(410),                Nothing("refusing: GET /api/v1/pods at SERVER: 410 Expired")),
        ("429",                   any(),          Fault::too_many_requests(0),       Nothing("refusing: GET /api/v1/pods at SERVER: 429 TooManyRequests")),
        ("500",                   any(),          Fault::status(500),                Nothing("refusing: GET /api/v1/pods at SERVER: 500 InternalError")),
        ("503",                   any(),          Fault::status(503),                Nothing("refusing: GET /api/v1/pods at SERVER: 503 ServiceUnavailable")),
        ("504",                   any(),          Fault::status(504),                Nothing("refusing: GET /api/v1/pods at SERVER: 504 Timeout")),
        ("a page of a portal",    any(),          Fault::html(),                     Nothing("refusing: GET /api/v1/pods: it is not JSON")),
        ("another kind",          any(),          Fault::wrong_kind(),               Nothing("refusing: GET /api/v1/pods: it says that it is v1 NamespaceList")),
        ("no resourceVersion",    any(),          Fault::without_resource_version(), Nothing("refusing: GET /api/v1/pods: metadata.resourceVersion is not")),
        ("half a listing",        pods_listing(), Fault::truncated(),                Nothing("refusing: GET /api/v1/pods: it is not JSON")),
        ("half, then no more",    pods_listing(), Fault::Cut(End::Connection),       Nothing("silent: GET /api/v1/pods at SERVER: ")),
        ("half, then a reset",    pods_listing(), Fault::Cut(End::Stream),           Nothing("refusing: GET /api/v1/pods at SERVER: ")),
        ("connections close",     any(),          Fault::Close,                      Nothing("silent: GET /api/v1/pods at SERVER: ")),
        ("connections are reset", any(),          Fault::Reset,                      Nothing("silent: GET /api/v1/pods at SERVER: ")),
        ("streams are reset",     any(),          Fault::ResetStream,                Nothing("refusing: GET /api/v1/pods at SERVER: ")),
        // The second read says what these are worth.
        ("nothing listed",        pods_listing(), Fault::empty_listing(),            TheyAreGone),
        ("no items at all",       pods_listing(), Fault::without_items(),            TheyAreGone),
        ("a pod less",            pods_listing(), Fault::lacking(&["p"]),            TheyAreGone),
        // Not even that helps.
        ("nothing anywhere",      lists(),        Fault::empty_listing(),            ThereIsNothing),
    ];
    let cluster = Cluster::new();
    let mut agent = followed(&cluster, pace()).await;
    let before = agent.contents().await;
    for (what, on, fault, says) in rows {
        let mark = cluster.server.mark();
        if matches!(says, ThereIsNothing) {
            // Objects are listed again where their watch can't go on, and not because a connection was cut.
            cluster.server.fault(Match::watch(Kind::Secret), Fault::status(410), Times::Forever);
        }
        cluster.server.fault(on, fault, Times::Forever);
        cluster.server.close_connections();
        let answering = !matches!(says, Nothing(_));
        match says {
            Nothing(wanted) => {
                stands(&mut agent, &cluster, wanted).await;
                cluster.server.wait_for_requests(pods_listing().after(mark), 4).await;
            }
            TheyAreGone => {
                stands(&mut agent, &cluster, "answering").await;
                cluster.server.wait_for_request(Match::list(Kind::Pod).named("p").after(mark)).await;
                agent.doubts_are_settled(&cluster).await;
            }
            ThereIsNothing => {
                stands(&mut agent, &cluster, "answering").await;
                cluster.server.wait_for_requests(Match::list(Kind::Node).after(mark), 8).await;
                cluster.server.wait_for_requests(Match::list(Kind::Secret).after(mark), 2).await;
            }
        }
        assert_eq!(agent.contents().await, before, "{what}");
        let mark = cluster.server.mark();
        cluster.server.clear_faults();
        if answering {
            cluster.server.close_connections();
        }
        stands(&mut agent, &cluster, "answering").await;
        cluster.server.wait_for_request(Match::watch(Kind::Pod).after(mark).answered(200)).await;
        cluster.server.wait_for_request(Match::watch(Kind::Secret).after(mark).answered(200)).await;
        assert_eq!(agent.contents().await, before, "{what}, afterwards");
        assert_eq!(agent.removed(), [], "{what}");
    }
    // What is really gone goes.
    cluster.server.delete(Kind::Pod, "shop", "p");
    agent.in_step(&cluster).await;
    assert_eq!(agent.removed(), [key(Kind::Pod, "p"), key(Kind::ConfigMap, "c")]);
}

#[tokio::test]
async fn how_the_api_server_stands_is_told_when_it_changes() {
    let cluster = Cluster::new();
    let mut agent = followed(&cluster, pace()).await;
    let mark = cluster.server.mark();
    cluster.server.stop();
    stands(&mut agent, &cluster, "silent: GET /api/v1/pods at SERVER: Connection refused").await;
    assert_eq!(agent.contents().await, cluster.truth());
    cluster.server.fault(pods_listing(), Fault::status(503), Times::Count(5));
    cluster.server.fault(pods_listing(), Fault::status(500), Times::Count(5));
    cluster.server.listen();
    stands(&mut agent, &cluster, "answering").await;
    agent.in_step(&cluster).await;
    assert_eq!(cluster.server.requests(&pods_listing().after(mark)).len(), 11);
    assert_eq!(agent.removed(), []);

    let mut told: Vec<String> = agent
        .statuses()
        .iter()
        .filter_map(|status| match status {
            Status::Reach(reach) => Some(shown(&cluster, reach)),
            _ => None,
        })
        .collect();
    // How the watch ended.
    assert!(told[1].starts_with("silent: watch /api/v1/pods at SERVER: "), "{}", told[1]);
    told.remove(1);
    // Five failures of a kind are told once.
    assert_eq!(
        told,
        [
            "answering",
            "silent: GET /api/v1/pods at SERVER: Connection refused (os error 111)",
            "refusing: GET /api/v1/pods at SERVER: 503 ServiceUnavailable",
            "refusing: GET /api/v1/pods at SERVER: 500 InternalError",
            "answering",
        ]
    );
}

/// Dead peers are noticed at once.
fn impatient() -> Pace {
    let short = Duration::from_millis(300);
    let requests =
        Limits { progress: short, watch_begins: short, ping_interval: short, ping_timeout: short, ..Limits::default() };
    Pace { requests, ..pace() }
}

#[tokio::test]
async fn a_server_that_does_not_answer() {
    let cluster = Cluster::new();
    let mut agent = followed(&cluster, impatient()).await;
    let before = agent.contents().await;
    let mark = cluster.server.mark();
    cluster.server.fault(Match::any(), Fault::Hang, Times::Forever);
    cluster.server.close_connections();
    stands(&mut agent, &cluster, "silent: GET /api/v1/pods at SERVER: no answer within 0.3 s").await;
    cluster.server.wait_for_requests(pods_listing().after(mark), 3).await;
    assert_eq!(agent.contents().await, before);
    cluster.server.clear_faults();
    stands(&mut agent, &cluster, "answering").await;
    cluster.server.delete(Kind::Pod, "shop", "p");
    agent.in_step(&cluster).await;
}

#[tokio::test]
async fn a_server_that_is_frozen() {
    let cluster = Cluster::new();
    let mut agent = followed(&cluster, impatient()).await;
    let before = agent.contents().await;
    cluster.server.pause();
    // That no ping was answered; on a busy machine a request that was being written may tell first.
    stands(&mut agent, &cluster, "silent: watch /api/v1/pods at SERVER: ").await;
    stands(&mut agent, &cluster, "silent: GET /api/v1/pods at SERVER: ").await;
    assert_eq!(agent.contents().await, before);
    cluster.server.delete(Kind::Pod, "shop", "p");
    assert_eq!(agent.removed(), []);
    cluster.server.resume();
    agent.in_step(&cluster).await;
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let cluster = Cluster::new();
    let mut agent = followed(&cluster, pace()).await;
    let (pods, secrets) = (pods_listing(), Match::list(Kind::Secret));
    let mark = cluster.server.mark();
    for on in [&pods, &secrets] {
        cluster.server.fault(on.clone(), Fault::too_many_requests(1), Times::Once);
    }
    cluster.server.close_connections();
    for on in [pods, secrets] {
        let asked = cluster.server.wait_for_requests(on.after(mark), 2).await;
        assert_eq!(asked[0].status, Some(429));
        assert!(asked[1].at - asked[0].at >= Duration::from_secs(1), "{} and {}", asked[0], asked[1]);
    }
    agent.in_step(&cluster).await;
}

/// An object that stays forbidden, broken or slow is told once for each reason and holds up nothing else.
#[tokio::test]
async fn an_object_that_can_t_be_read_holds_up_nothing() {
    let cluster = Cluster::new();
    let mut agent = followed(&cluster, pace()).await;
    let mark = cluster.server.mark();
    cluster.server.fault(of_object(Kind::Secret, "s"), Fault::status(500), Times::Forever);
    cluster.server.close_connections();
    cluster.server.wait_for_requests(of_object(Kind::Secret, "s").after(mark), 5).await;
    cluster.touch(Kind::ConfigMap, "c", "1");
    cluster.touch(Kind::Pod, "p", "1");
    agent.in_step(&cluster).await;
    let notes = agent.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].to_string().starts_with("cannot read Secret shop/s (it is tried again): GET "), "{}", notes[0]);
}
