//! What is gone goes, and only that: each deletion of a pod is proven by a second, consistent read.

use ckpt_db::agent::{Departed, Status, changes, open_or_create};
use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, Object};
use ckpt_db::source::api::collect::{Gathered, Step};
use ckpt_db::source::api::feed::Note;
use ckpt_db::store::Backend;
use serde_json::json;
use std::time::Duration;

use crate::fake::{Fault, Match, Options, Times};
use crate::harness::Named::Secret;
use crate::harness::{Agent, Cluster, NODE, key, memory, node_secret, pod, pods_listing, steps};

/// The second read of a pod.
fn proof(name: &str) -> Match {
    Match::list(Kind::Pod).named(name).within("shop")
}

#[tokio::test]
async fn a_deleted_pod_goes_with_its_objects_after_a_second_read() {
    let cluster = Cluster::new();
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
    cluster.pod("q", &[]);
    let mut agent = cluster.followed().await;
    let mark = cluster.server.mark();
    cluster.server.delete(Kind::Pod, "shop", "p");
    let batch = agent.batch("its end", |step| matches!(step, Step::PodGone { .. })).await;
    assert_eq!(batch.update.removed, [key(Kind::Pod, "p"), key(Kind::Secret, "s")]);
    agent.in_step(&cluster).await;
    let proofs = cluster.server.requests(&proof("p").after(mark));
    let [proof] = &proofs[..] else { panic!("{proofs:?}") };
    assert_eq!(proof.node.as_deref(), Some(NODE));
    assert_eq!(proof.parameter("resourceVersion"), "", "the cache is no proof");
    assert_eq!(cluster.server.requests(&Match::get(Kind::Pod)).len(), 0);
}

#[tokio::test]
async fn a_pod_that_was_deleted_while_the_agent_was_down_goes() {
    for durable in [false, true] {
        let cluster = Cluster::new();
        cluster.secret("s", "v");
        cluster.pod("p", &[Secret("s")]);
        cluster.pod("q", &[]);
        let (path, secret) = (cluster.path("checkpoint-store.db"), node_secret());
        let open = || -> Box<dyn Backend> { Box::new(open_or_create(&path, &[&secret], NODE, 0).unwrap()) };
        let mut agent = Agent::start(if durable { open() } else { memory() }, cluster.following());
        agent.in_step(&cluster).await;
        let store = agent.stop().await;
        cluster.server.delete(Kind::Pod, "shop", "p");
        cluster.pod("r", &[]);
        let store = if durable {
            drop(store);
            open()
        } else {
            store
        };
        let mut agent = Agent::start(store, cluster.following());
        agent.in_step(&cluster).await;
        assert_eq!(cluster.server.requests(&proof("p")).len(), 1);
    }
}

#[tokio::test]
async fn a_proof_that_fails_is_tried_again_and_holds_up_no_other() {
    #[rustfmt::skip]
    let faults = [
        Fault::status(401), Fault::status(403), Fault::status(404), Fault::too_many_requests(0), Fault::status(500),
        Fault::status(503), Fault::html(), Fault::wrong_kind(), Fault::without_resource_version(), Fault::truncated(),
        Fault::ResetStream,
    ];
    let cluster = Cluster::new();
    let mut agent = cluster.followed().await;
    for fault in faults {
        cluster.pod("p", &[]);
        cluster.pod("q", &[]);
        agent.in_step(&cluster).await;
        let mark = cluster.server.mark();
        cluster.server.fault(proof("p"), fault, Times::Forever);
        cluster.server.delete(Kind::Pod, "shop", "p");
        cluster.server.wait_for_requests(proof("p").after(mark), 2).await;
        cluster.server.delete(Kind::Pod, "shop", "q");
        let gone = agent.batch("the end of q", |step| matches!(step, Step::PodGone { .. })).await;
        assert_eq!(gone.update.removed, [key(Kind::Pod, "q")]);
        assert!(matches!(agent.lookup(Kind::Pod, "p").await, Lookup::Found(_)));
        cluster.server.wait_for_requests(proof("p").after(mark), 4).await;
        assert!(matches!(agent.lookup(Kind::Pod, "p").await, Lookup::Found(_)));

        cluster.server.clear_faults();
        agent.in_step(&cluster).await;
    }
}

/// What an emptied etcd, or a control plane that was made anew, looks like.
#[tokio::test]
async fn everything_stays_while_the_api_server_does_not_know_the_node() {
    // With other credentials than a node's it even says that there is no such Secret.
    for node_authorizer in [true, false] {
        let cluster = Cluster::with(Options { node_authorizer, ..Options::default() });
        let empty = cluster.server.resource_version() - 2;
        cluster.secret("s", "v");
        cluster.pod("p", &[Secret("s")]);
        cluster.pod("q", &[]);
        let mut agent = cluster.followed().await;
        let before = agent.contents().await;
        cluster.server.wait_for_request(Match::watch(Kind::Pod).answered(200)).await;

        let mark = cluster.server.mark();
        cluster.server.rewind(empty);
        let node_unknown = |status: &Status| matches!(status, Status::Note(Note::NodeUnknown)).then_some(());
        agent.status("the Node to be missed", node_unknown).await;
        // It is asked for again and again, and everything has had its turn.
        cluster.server.wait_for_requests(Match::list(Kind::Secret).after(mark), 3).await;
        cluster.server.wait_for_requests(Match::list(Kind::Node).after(mark), 20).await;
        assert_eq!(agent.contents().await, before);
        let told = agent.notes().iter().filter(|note| **note == Note::NodeUnknown).count();
        assert_eq!(told, 1);

        // The kubelet registers with the new control plane, and one of the pods is given to it again.
        cluster.secret("s", "new");
        cluster.pod("p", &[Secret("s")]);
        cluster.server.create(Kind::Node, "", NODE, json!({"status": {}}));
        agent.in_step(&cluster).await;
    }
}

#[tokio::test]
async fn a_deletion_that_is_a_lie() {
    let cluster = Cluster::new();
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
    let mut agent = cluster.followed().await;
    cluster.server.wait_for_request(Match::watch(Kind::Secret).answered(200)).await;
    let before = agent.revision().await;
    for (kind, name) in [(Kind::Pod, "p"), (Kind::Secret, "s")] {
        let mark = cluster.server.mark();
        let lie = cluster.server.event("DELETED", kind, "shop", name);
        assert_eq!(cluster.server.send(&Match::watch(kind), lie), 1);
        cluster.server.wait_for_request(Match::list(kind).named(name).after(mark)).await;
    }
    assert_eq!((agent.contents().await, agent.revision().await), (cluster.truth(), before));
    agent.doubts_are_settled(&cluster).await;
    assert_eq!(agent.removed(), []);
    // Both are still followed.
    cluster.touch(Kind::Pod, "p", "1");
    cluster.touch(Kind::Secret, "s", "1");
    agent.in_step(&cluster).await;
}

/// The store of a node that was seeded from manifests knows no UIDs: a pod of that name may be the one.
#[tokio::test]
async fn a_pod_without_a_uid_goes_only_if_there_is_none_of_its_name() {
    let cluster = Cluster::new();
    let mut store = memory();
    for name in ["there", "gone"] {
        let pod = Object {
            key: key(Kind::Pod, name),
            uid: String::new(),
            resource_version: String::new(),
            body: pod(&[]).to_string().into(),
        };
        let step = Step::Pod(Gathered { pod, with: Vec::new(), absent: Vec::new() });
        let _durable = store.update(changes(&step, Departed::Remove), 0).unwrap();
    }
    cluster.pod("there", &[]);
    cluster.server.fault(pods_listing(), Fault::empty_listing(), Times::Once);
    let mut agent = Agent::start(store, cluster.following());
    agent.until("one to go", |snapshot| matches!(snapshot.get(&key(Kind::Pod, "gone")), Lookup::Missing)).await;
    agent.doubts_are_settled(&cluster).await;
    assert_eq!(cluster.server.requests(&proof("there")).len(), 1);
    assert_eq!(agent.removed(), [key(Kind::Pod, "gone")]);
    cluster.server.close_connections();
    agent.in_step(&cluster).await;
}

#[tokio::test]
async fn a_pod_that_is_not_of_this_node_is_left_out() {
    let cluster = Cluster::new();
    cluster.pod("mine", &[]);
    cluster.pod("other", &[]);
    let mut agent = cluster.followed().await;
    let before = agent.contents().await;
    // A listing that does not do what its selector asks for: one of another node, one of none, and one of ours as if it
    // were of another.
    let fault = Fault::edit(|list| {
        let items = list["items"].as_array_mut().unwrap();
        for (name, node) in [("theirs", json!("node-2")), ("nobody-s", json!(null))] {
            let mut pod = items[0].clone();
            pod["metadata"]["name"] = json!(name);
            pod["spec"]["nodeName"] = node;
            items.push(pod);
        }
        for pod in items {
            if pod["metadata"]["name"] == "other" {
                pod["spec"]["nodeName"] = json!("node-2");
            }
        }
    });
    let mark = cluster.server.mark();
    cluster.server.fault(pods_listing(), fault, Times::Once);
    cluster.server.close_connections();
    agent.listed().await;
    cluster.server.wait_for_request(proof("other").after(mark)).await;
    // An event as well.
    cluster.server.wait_for_request(Match::watch(Kind::Pod).after(mark).answered(200)).await;
    cluster.server.create(Kind::Pod, "shop", "elsewhere", json!({"spec": {"nodeName": "node-2", "containers": []}}));
    let event = cluster.server.event("ADDED", Kind::Pod, "shop", "elsewhere");
    assert_eq!(cluster.server.send(&Match::watch(Kind::Pod), event), 1);
    cluster.pod("next", &[]);
    agent.batch("the next pod", |step| matches!(step, Step::Pod(_))).await;
    agent.doubts_are_settled(&cluster).await;
    agent.in_step(&cluster).await;
    assert_eq!(agent.removed(), []);
    assert!(before.iter().all(|(key, body)| cluster.truth().get(key) == Some(body)));
    let notes = agent.notes();
    for name in ["theirs", "nobody-s", "other", "elsewhere"] {
        assert!(notes.contains(&Note::NotBound(key(Kind::Pod, name))), "{name}: {notes:?}");
    }
}

/// The proof is read, then etcd is restored, and only then the last piece of the proof arrives.
#[tokio::test]
async fn a_proof_of_another_past_is_none() {
    let cluster = Cluster::new();
    cluster.pod("p", &[]);
    let mut agent = cluster.followed().await;
    cluster.server.wait_for_request(Match::watch(Kind::Pod).answered(200)).await;
    let before = cluster.server.resource_version();
    cluster.server.fault(proof("p"), Fault::Drip { bytes: 32, every: Duration::from_secs(1) }, Times::Once);
    cluster.server.delete(Kind::Pod, "shop", "p");
    let asked = cluster.server.wait_for_request(proof("p").answered(200)).await;
    cluster.server.rewind(before);
    agent.listed().await;
    let mark = cluster.server.mark();
    let request = cluster.server.log()[asked.number as usize - 1].clone();
    assert!(request.open, "the proof is still under way: {request}");
    cluster.server.advance(Duration::from_secs(60));
    // The one that was read before says nothing; it is read again.
    cluster.server.wait_for_request(proof("p").after(mark)).await;
    cluster.touch(Kind::Pod, "p", "1");
    let mut gone = 0;
    while agent.contents().await != cluster.truth() {
        let batch = agent.batch("the pod", |step| matches!(step, Step::Pod(_) | Step::PodGone { .. })).await;
        gone += steps(&batch).filter(|step| matches!(step, Step::PodGone { .. })).count();
    }
    assert_eq!(gone, 0);
}

#[tokio::test]
async fn credentials_that_may_not_read_nodes_do_without() {
    let cluster = Cluster::new();
    cluster.pod("p", &[]);
    let mut agent = cluster.followed().await;
    cluster.server.fault(Match::list(Kind::Node), Fault::status(403), Times::Forever);
    cluster.server.delete(Kind::Pod, "shop", "p");
    agent.in_step(&cluster).await;
}
