//! etcd is restored to an earlier state, or made anew: the store follows into the past.

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::source::api::collect::Step;
use serde_json::json;

use crate::harness::Named::{ConfigMap, Secret};
use crate::harness::{Agent, Cluster};

/// Everything that can happen to a pod or an object happens after the version that is returned.
async fn lived(cluster: &Cluster) -> (Agent, u64) {
    cluster.secret("changed", "v");
    cluster.secret("deleted", "v");
    cluster.config_map("c", "v");
    cluster.pod("changed", &[Secret("changed"), ConfigMap("c")]);
    cluster.pod("deleted", &[Secret("deleted"), Secret("created")]);
    cluster.pod("renewed", &[]);
    let mut agent = cluster.followed().await;
    let before = cluster.server.resource_version();
    for n in 0..3 {
        cluster.touch(Kind::Pod, "changed", &n.to_string());
        cluster.touch(Kind::Secret, "changed", &n.to_string());
        cluster.touch(Kind::ConfigMap, "c", &n.to_string());
    }
    cluster.secret("created", "v");
    cluster.server.delete(Kind::Secret, "shop", "deleted");
    cluster.server.delete(Kind::Pod, "shop", "deleted");
    cluster.pod("created", &[Secret("created")]);
    cluster.server.delete(Kind::Pod, "shop", "renewed");
    cluster.pod("renewed", &[ConfigMap("c")]);
    agent.in_step(cluster).await;
    (agent, before)
}

async fn goes_on(cluster: &Cluster, agent: &mut Agent) {
    cluster.touch(Kind::Pod, "changed", "later");
    cluster.touch(Kind::Secret, "changed", "later");
    cluster.touch(Kind::ConfigMap, "c", "later");
    cluster.pod("later", &[Secret("changed")]);
    agent.in_step(cluster).await;
}

#[tokio::test]
async fn an_etcd_of_an_earlier_state() {
    let cluster = Cluster::new();
    let (mut agent, before) = lived(&cluster).await;
    cluster.server.rewind(before);
    agent.in_step(&cluster).await;
    // The versions are below those of the old watches; a server says nothing to a watch from the future.
    goes_on(&cluster, &mut agent).await;
}

#[tokio::test]
async fn an_etcd_that_was_made_anew() {
    for to in [100, 100_000] {
        let cluster = Cluster::new();
        let (mut agent, _) = lived(&cluster).await;
        cluster.server.set_resource_version(to);
        agent.in_step(&cluster).await;
        goes_on(&cluster, &mut agent).await;
    }
}

/// Nothing but the contents shows the difference.
#[tokio::test]
async fn the_same_version_with_other_contents() {
    let cluster = Cluster::new();
    cluster.secret("s", "v");
    cluster.pod("p", &[Secret("s")]);
    let mut agent = cluster.followed().await;
    let before = cluster.server.resource_version();
    cluster.touch(Kind::Pod, "p", "one past");
    cluster.touch(Kind::Secret, "s", "one past");
    agent.in_step(&cluster).await;
    let version = cluster.server.resource_version();
    cluster.server.stop();
    cluster.server.rewind(before);
    cluster.touch(Kind::Pod, "p", "another past");
    cluster.touch(Kind::Secret, "s", "another past");
    assert_eq!(cluster.server.resource_version(), version);
    cluster.server.listen();
    agent.in_step(&cluster).await;
}

/// The listing may come from a cache that lags behind; what it lacks is not gone, and what it has too much goes again.
#[tokio::test]
async fn a_cache_that_lags_behind() {
    let cluster = Cluster::new();
    cluster.pod("old", &[]);
    let mut agent = cluster.followed().await;
    let before = cluster.server.resource_version();
    cluster.pod("new", &[]);
    agent.in_step(&cluster).await;
    cluster.server.delete(Kind::Pod, "shop", "old");
    agent.in_step(&cluster).await;
    cluster.server.modify(Kind::Pod, "shop", "new", |pod| pod["status"]["phase"] = json!("Failed"));
    agent.in_step(&cluster).await;

    cluster.server.lag_cache(Some(before));
    cluster.server.close_connections();
    let listed = agent.listed().await;
    assert_eq!(listed.update.missing.len(), 1, "the cache does not know the new one");
    agent.batch("the end of the old one", |step| matches!(step, Step::PodGone { .. })).await;
    agent.in_step(&cluster).await;
}
