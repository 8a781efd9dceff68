//! Pods come, with what they name, change, and are replaced by others of their name.

use ckpt_db::checkpoint::lookup::Lookup;
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::source::api::collect::{Absence, Step};
use serde_json::{Value, json};

use crate::fake::{Fault, Match, Times};
use crate::harness::Named::{ConfigMap, Secret};
use crate::harness::{Cluster, key, of_object, pod, steps};

#[tokio::test]
async fn a_pod_and_what_it_names_are_one_commit() {
    let cluster = Cluster::new();
    let mut agent = cluster.followed().await;
    let before = agent.revision().await;
    let mark = cluster.server.mark();
    cluster.secret("s", "v");
    cluster.config_map("c", "v");
    cluster.pod("p", &[Secret("s"), ConfigMap("c")]);

    // It is never stored without them: the patience of these tests is without end.
    let batch = agent.batch("the pod", |step| matches!(step, Step::Pod(_))).await;
    // The Services of its namespace may come with it.
    let own: Vec<_> = steps(&batch).filter(|step| !matches!(step, Step::Services { .. })).collect();
    let [Step::Pod(gathered)] = own[..] else { panic!("{} steps", own.len()) };
    let with: Vec<_> = gathered.with.iter().map(|object| &object.key).collect();
    assert_eq!(with, [&key(Kind::ConfigMap, "c"), &key(Kind::Secret, "s")]);
    assert_eq!(batch.update.stored.len(), 3);
    assert_eq!(batch.update.revision.0, before + 1);
    // They were asked for by name, each once.
    for (kind, name) in [(Kind::Secret, "s"), (Kind::ConfigMap, "c")] {
        assert_eq!(cluster.server.requests(&Match::list(kind).named(name).within("shop").after(mark)).len(), 1);
        assert_eq!(cluster.server.requests(&Match::list(kind).unnamed().after(mark)).len(), 0);
    }
    agent.in_step(&cluster).await;
}

#[tokio::test]
async fn an_object_that_does_not_exist_is_recorded_and_stored_when_it_does() {
    let cluster = Cluster::new();
    let mut agent = cluster.followed().await;
    cluster.pod("p", &[Secret("late")]);
    agent.in_step(&cluster).await;
    assert!(matches!(agent.lookup(Kind::Secret, "late").await, Lookup::Missing));
    let absent: Vec<_> = agent.snapshot().await.absent(&key(Kind::Pod, "p")).collect();
    assert_eq!(absent, [(key(Kind::Secret, "late"), Absence::NotFound)]);

    cluster.secret("late", "v");
    agent.in_step(&cluster).await;
    assert!(matches!(agent.lookup(Kind::Secret, "late").await, Lookup::Found(_)));
    assert_eq!(agent.snapshot().await.absent(&key(Kind::Pod, "p")).count(), 0);
}

#[tokio::test]
async fn an_object_that_is_forbidden_is_recorded_and_asked_for_until_it_is_not() {
    let cluster = Cluster::new();
    let mut agent = cluster.followed().await;
    cluster.secret("locked", "v");
    cluster.server.fault(of_object(Kind::Secret, "locked"), Fault::status(403), Times::Forever);
    cluster.pod("p", &[Secret("locked")]);
    agent.batch("the pod", |step| matches!(step, Step::Pod(_))).await;
    assert!(matches!(agent.lookup(Kind::Secret, "locked").await, Lookup::Forbidden));
    let absent: Vec<_> = agent.snapshot().await.absent(&key(Kind::Pod, "p")).collect();
    assert_eq!(absent, [(key(Kind::Secret, "locked"), Absence::Forbidden)]);

    cluster.server.clear_faults();
    agent.in_step(&cluster).await;
    assert!(matches!(agent.lookup(Kind::Secret, "locked").await, Lookup::Found(_)));
}

#[tokio::test]
async fn rights_that_come_a_moment_later_are_waited_for() {
    let cluster = Cluster::new();
    let mut agent = cluster.followed().await;
    cluster.secret("s", "v");
    // One look is a listing and, since listing alone may be forbidden, a GET.
    cluster.server.fault(of_object(Kind::Secret, "s"), Fault::status(403), Times::Count(4));
    cluster.pod("p", &[Secret("s")]);
    let batch = agent.batch("the pod", |step| matches!(step, Step::Pod(_))).await;
    let gathered = steps(&batch).find_map(|step| if let Step::Pod(gathered) = step { Some(gathered) } else { None });
    assert_eq!((gathered.unwrap().with.len(), gathered.unwrap().absent.len()), (1, 0), "it comes with its Secret");
    agent.in_step(&cluster).await;
}

#[tokio::test]
async fn a_pod_that_is_deleted_while_its_objects_are_asked_for_is_never_stored() {
    let cluster = Cluster::new();
    let mut agent = cluster.followed().await;
    let asked = || of_object(Kind::Secret, "s");
    cluster.server.fault(asked(), Fault::Hang, Times::Forever);
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
    cluster.server.wait_for_request(asked()).await;
    cluster.server.delete(Kind::Pod, "shop", "p");

    agent.batch("its end", |step| matches!(step, Step::PodGone { .. })).await;
    agent.in_step(&cluster).await;
    // Nobody needs the Secret any more.
    cluster.server.wait_until_none_is_open(asked()).await;
}

/// The store can't miss it in the listing, since it never had it.
#[tokio::test]
async fn a_pod_that_waits_and_is_deleted_while_nobody_listens_is_never_stored() {
    let cluster = Cluster::new();
    let mut agent = cluster.followed().await;
    let asked = || of_object(Kind::Secret, "s");
    cluster.server.fault(asked(), Fault::Hang, Times::Forever);
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
    cluster.server.wait_for_request(asked()).await;
    cluster.server.stop();
    cluster.server.delete(Kind::Pod, "shop", "p");
    cluster.server.clear_faults();
    cluster.server.listen();

    agent.batch("its end", |step| matches!(step, Step::PodGone { .. })).await;
    cluster.server.wait_until_none_is_open(asked()).await;
    agent.in_step(&cluster).await;
}

#[tokio::test]
async fn an_object_that_two_pods_name_outlives_one_of_them() {
    let cluster = Cluster::new();
    cluster.secret("shared", "v");
    cluster.secret("own", "v");
    cluster.pod("a", &[Secret("shared"), Secret("own")]);
    cluster.pod("b", &[Secret("shared")]);
    let mut agent = cluster.followed().await;
    assert_eq!(agent.contents().await.keys().filter(|key| key.starts_with("Secret")).count(), 2);

    cluster.server.delete(Kind::Pod, "shop", "a");
    agent.in_step(&cluster).await;
    assert!(matches!(agent.lookup(Kind::Secret, "shared").await, Lookup::Found(_)));
    assert!(matches!(agent.lookup(Kind::Secret, "own").await, Lookup::Missing));
    // And it is still followed.
    cluster.touch(Kind::Secret, "shared", "1");
    agent.in_step(&cluster).await;
}

#[tokio::test]
async fn a_pod_takes_the_place_of_another_one_of_its_name() {
    let cluster = Cluster::new();
    cluster.secret("old", "v");
    cluster.secret("new", "v");
    cluster.pod("p", &[Secret("old")]);
    let mut agent = cluster.followed().await;
    let before = cluster.server.object(Kind::Pod, "shop", "p").unwrap();

    let late = cluster.server.event("DELETED", Kind::Pod, "shop", "p");
    cluster.server.delete(Kind::Pod, "shop", "p");
    cluster.pod("p", &[Secret("new")]);
    agent.in_step(&cluster).await;
    assert!(matches!(agent.lookup(Kind::Secret, "old").await, Lookup::Missing));

    // The end of the former one is told once more. It is proven, and is none of the other's business.
    let uid = before["metadata"]["uid"].as_str().unwrap();
    assert_eq!(cluster.server.send(&Match::watch(Kind::Pod), late), 1);
    agent.batch("the former's end", |step| matches!(step, Step::PodGone { uid: gone, .. } if gone == uid)).await;
    assert_eq!(agent.contents().await, cluster.truth());
}

#[tokio::test]
async fn a_change_of_the_uid_is_another_pod() {
    let cluster = Cluster::new();
    cluster.pod("p", &[]);
    cluster.server.modify(Kind::Pod, "shop", "p", |pod| pod["status"]["phase"] = json!("Succeeded"));
    let mut agent = cluster.followed().await;
    let snapshot = agent.snapshot().await;
    assert_eq!((snapshot.ran(&key(Kind::Pod, "p")), snapshot.ended(&key(Kind::Pod, "p"))), (true, Some("Succeeded")));

    cluster.server.fault(Match::watch(Kind::Pod), Fault::Lost, Times::Count(2));
    cluster.server.delete(Kind::Pod, "shop", "p");
    let mut again = pod(&[]);
    again["status"] = json!({"phase": "Pending"});
    cluster.server.create(Kind::Pod, "shop", "p", again);
    cluster.touch(Kind::Pod, "p", "1");
    agent.in_step(&cluster).await;
    let snapshot = agent.snapshot().await;
    assert_eq!((snapshot.ran(&key(Kind::Pod, "p")), snapshot.ended(&key(Kind::Pod, "p"))), (false, None));
}

#[tokio::test]
async fn whether_a_pod_has_run_and_how_it_ended() {
    let ready = json!([{"name": "c", "state": {"running": {}}}]);
    #[rustfmt::skip]
    let rows: [(&str, Value, bool, Option<&str>); 6] = [
        ("pending",   json!({"phase": "Pending"}),                                                  false, None),
        ("running",   json!({"phase": "Running", "containerStatuses": ready}),                      true,  None),
        ("succeeded", json!({"phase": "Succeeded"}),                                                true,  Some("Succeeded")),
        ("failed",    json!({"phase": "Failed"}),                                                   true,  Some("Failed")),
        ("evicted",   json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}),  true,  Some("Failed: Evicted")),
        // A graceful shutdown of the node marks each of its pods so; they are to come back.
        ("shut-down", json!({"phase": "Failed", "reason": "NodeShutdown"}),                         true,  None),
    ];
    let cluster = Cluster::new();
    for (name, ..) in &rows {
        cluster.pod(name, &[]);
        cluster.server.modify(Kind::Pod, "shop", name, |pod| pod["status"] = json!({"phase": "Pending"}));
    }
    let mut agent = cluster.followed().await;
    let check = async |agent: &crate::harness::Agent, when: &str| {
        let snapshot = agent.snapshot().await;
        for (name, _, ran, ended) in &rows {
            let pod = key(Kind::Pod, name);
            assert_eq!((snapshot.ran(&pod), snapshot.ended(&pod)), (*ran, *ended), "{name} {when}");
        }
    };
    let before = cluster.server.resource_version();
    for (name, status, ..) in &rows {
        cluster.server.modify(Kind::Pod, "shop", name, |pod| pod["status"] = status.clone());
    }
    agent.in_step(&cluster).await;
    check(&agent, "as it happens").await;

    // What has ended does not begin again because an older state of etcd says so.
    cluster.server.rewind(before);
    agent.in_step(&cluster).await;
    check(&agent, "after etcd was restored").await;
}
