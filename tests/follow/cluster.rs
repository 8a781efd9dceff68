//! Whose store it is: the credentials of another cluster or node write nothing into it.

use std::fs;

use ckpt_db::agent::{FollowError, Following};
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::store::StoreError;
use data_encoding::BASE64;

use crate::fake::{Options, Rotation, Validity};
use crate::harness::Named::Secret;
use crate::harness::{Agent, Cluster, NODE, contents};

fn fill(cluster: &Cluster) {
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    fill(&cluster);
    let agent = cluster.followed().await;
    let (before, revision) = (agent.contents().await, agent.revision().await);
    let store = agent.stop().await;
    other.pod("theirs", &[]);
    let (error, store) = Agent::start(store, other.following()).ended().await;
    assert!(matches!(error, FollowError::Store(StoreError::OtherCluster { .. })), "{error:?}");
    assert!(error.to_string().starts_with("the source belongs to another cluster"), "{error}");
    let snapshot = store.snapshot().unwrap();
    assert_eq!((contents(snapshot.get()), snapshot.get().revision().0), (before, revision));
    assert_eq!(other.server.log().len(), 0, "and nothing was asked");

    // Its own goes on.
    cluster.touch(Kind::Pod, "p", "1");
    Agent::start(store, cluster.following()).in_step(&cluster).await;
}

#[tokio::test]
async fn another_node_is_refused() {
    let cluster = Cluster::new();
    fill(&cluster);
    let agent = cluster.followed().await;
    let (before, revision) = (agent.contents().await, agent.revision().await);
    let mut store = agent.stop().await;
    let other = Cluster::with(Options { node_name: "node-2".to_owned(), ..Options::default() });
    let other_store = "the store belongs to node node-1, but this is node node-2. The store is kept as it is; ";
    let other_option = "--node-name says node-1, but the credentials are those of node node-2; nothing was stored. ";
    let named = |name: &str| Following { node_name: Some(name.to_owned()), ..other.following() };
    for (following, wanted) in
        [(other.following(), other_store), (named("node-2"), other_store), (named(NODE), other_option)]
    {
        let (error, left) = Agent::start(store, following).ended().await;
        assert!(error.to_string().starts_with(wanted), "{error}");
        store = left;
        let snapshot = store.snapshot().unwrap();
        assert_eq!((contents(snapshot.get()), snapshot.get().revision().0), (before.clone(), revision));
    }
    assert_eq!(other.server.log().len(), 0);
}

#[tokio::test]
async fn a_bundle_that_overlaps_is_taken_over() {
    let cluster = Cluster::new();
    fill(&cluster);
    let agent = cluster.followed().await;
    let first = agent.store.identity().await.unwrap().cluster_ca_sha256;
    assert_eq!(first.len(), 1);
    let store = agent.stop().await;

    let old = cluster.server.authority_pem();
    cluster.server.rotate_server_certificate(Rotation::Authority(Validity::now()));
    let new = cluster.server.authority_pem();
    let kubeconfig = fs::read_to_string(cluster.kubeconfig()).unwrap();
    let trust = |bundle: &str| {
        let text = kubeconfig.replace(&BASE64.encode(old.as_bytes()), &BASE64.encode(bundle.as_bytes()));
        fs::write(cluster.kubeconfig(), text).unwrap();
    };
    // Without the step between, it is another cluster.
    trust(&new);
    let (error, store) = Agent::start(store, cluster.following()).ended().await;
    assert!(matches!(error, FollowError::Store(StoreError::OtherCluster { .. })), "{error:?}");

    trust(&format!("{old}{new}"));
    cluster.touch(Kind::Pod, "p", "1");
    let mut agent = Agent::start(store, cluster.following());
    agent.in_step(&cluster).await;
    let both = agent.store.identity().await.unwrap().cluster_ca_sha256;
    assert_eq!((both.len(), both.contains(&first[0])), (2, true));
    let store = agent.stop().await;

    trust(&new);
    cluster.touch(Kind::Pod, "p", "2");
    let mut agent = Agent::start(store, cluster.following());
    agent.in_step(&cluster).await;
    let last = agent.store.identity().await.unwrap().cluster_ca_sha256;
    assert_eq!((last.len(), last.contains(&first[0])), (1, false));
}
