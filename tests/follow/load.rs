//! Much at once is little work.

use ckpt_db::checkpoint::object::Kind;

use crate::harness::Named::Secret;
use crate::harness::{Agent, Cluster, Gated, memory};

#[tokio::test]
async fn a_burst_becomes_few_commits() {
    const PODS: usize = 300;
    let cluster = Cluster::new();
    cluster.secret("s", "v");
    let names: Vec<String> = (0..PODS).map(|n| format!("pod-{n}")).collect();
    for name in &names {
        cluster.pod(name, &[Secret("s")]);
    }
    let (store, gate) = Gated::new(memory());
    let mut agent = Agent::start(Box::new(store), cluster.following());
    agent.in_step(&cluster).await;
    let before = agent.revision().await;
    gate.close();
    for name in &names {
        cluster.touch(Kind::Pod, name, "1");
    }
    gate.open();
    agent.in_step(&cluster).await;
    let commits = agent.revision().await - before;
    assert!(commits <= 20, "{commits} commits for {PODS} changes");
    // The Secret that all of them name was asked for once.
    assert_eq!(cluster.server.requests(&crate::fake::Match::list(Kind::Secret)).len(), 1);
}
