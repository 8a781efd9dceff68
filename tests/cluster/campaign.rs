//! The store equals the API server: over a random workload, kills of the API server and of the agent, and an etcd that is
//! restored to an earlier state.
//!
//! The short form runs with every test run; `CKPT_DB_CAMPAIGN=full` runs what the documentation claims.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use ckpt_db::crypto::generate_p256_pkcs8;
use ckpt_db::keys::write_generated;

use crate::consumer::{Home, Way};
use crate::control_plane::{Cluster, Options};
use crate::process::Agent;
use crate::random::Random;
use crate::truth::{self, Objects};
use crate::until;
use crate::workload::Workload;

const NODE: &str = "edge-1";

/// Far longer than anything takes but an API server that starts on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much is done.
struct Size {
    operations: usize,
    pods: usize,
    kills: usize,
    looks: usize,
    /// How many operations before the end etcd's snapshot is taken.
    rewound: usize,
}

fn size() -> Size {
    match std::env::var("CKPT_DB_CAMPAIGN").as_deref() {
        Ok("full") => Size { operations: 2000, pods: 30, kills: 20, looks: 20, rewound: 500 },
        _ => Size { operations: 160, pods: 12, kills: 2, looks: 2, rewound: 40 },
    }
}

#[test]
fn the_store_equals_the_api_server_as_the_node() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let directory = crate::directory("node");
    let kubeconfig = cluster.kubeconfig(NODE, directory.path());
    run(&cluster, directory.path(), &kubeconfig, Way::default(), 1);
}

#[test]
fn the_store_equals_the_api_server_with_the_fallback_role() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let directory = crate::directory("node");
    let kubeconfig = cluster.role_kubeconfig("checkpointer", directory.path());
    // A minute between two looks would only make the test longer.
    run(&cluster, directory.path(), &kubeconfig, Way { poll: false, every_ms: Some(1000) }, 2);
}

fn run(cluster: &Cluster, directory: &std::path::Path, kubeconfig: &std::path::Path, way: Way, seed: u64) {
    let size = size();
    eprintln!("seed {seed}, {} operations", size.operations);
    let place = Home(directory.to_owned());
    write_generated(&place.key(), &generate_p256_pkcs8().unwrap()).unwrap();
    let mut agent = place.agent(kubeconfig, NODE, way);
    let mut random = Random::new(seed);
    let mut draw = |count: usize| -> Vec<usize> { (0..count).map(|_| random.below(size.operations)).collect() };
    let (server_kills, agent_kills, looks) = (draw(size.kills), draw(size.kills), draw(size.looks));

    let admin = cluster.admin();
    let mut workload = Workload::new(seed, NODE, size.pods);
    workload.prepare(admin);
    agent.start();
    let mut snapshot = None;
    for n in 0..size.operations {
        if n == size.operations - size.rewound {
            snapshot = Some(cluster.snapshot_etcd());
        }
        std::thread::scope(|scope| {
            // In the middle of a step as often as not: it is carried out by another thread.
            let step = scope.spawn(|| workload.step(admin));
            for _ in agent_kills.iter().filter(|at| **at == n) {
                agent.kill();
                place.forget_summary();
                agent.start();
            }
            for _ in server_kills.iter().filter(|at| **at == n) {
                cluster.kill_apiserver();
                cluster.launch_apiserver();
            }
            step.join().unwrap();
        });
        if looks.contains(&n) {
            equal(cluster, &place, &mut agent, &format!("after operation {n}"));
        }
    }
    equal(cluster, &place, &mut agent, "at the end");

    cluster.restore_etcd(&snapshot.unwrap());
    equal(cluster, &place, &mut agent, "after etcd was restored to an earlier state");
    assert_eq!(place.seen_too_early(), Vec::<String>::new(), "steps that the store did not hold");
}

/// Waits until the agent is in step, kills it, and compares what `ckpt-db dump` says with what the API server has.
#[track_caller]
fn equal(cluster: &Cluster, place: &Home, agent: &mut Agent, when: &str) {
    let began = Instant::now();
    let wanted = truth::read(cluster.admin(), NODE);
    let versions = versions(&wanted);
    until(&format!("the store to be in step {when}"), PATIENCE, || match place.stored() {
        Some(stored) if stored == versions => Ok(()),
        Some(stored) => {
            let missing =
                versions.iter().filter(|(key, version)| stored.get(*key) != Some(version)).map(|(key, _)| key);
            let extra = stored.keys().filter(|key| !versions.contains_key(*key));
            Err(format!(
                "behind in {:?}, too much {:?}\n{}",
                missing.collect::<Vec<_>>(),
                extra.collect::<Vec<_>>(),
                tail(&agent.log())
            ))
        }
        None => Err(format!("no answer from the API server yet\n{}", tail(&agent.log()))),
    });
    eprintln!("{when}: in step after {} ms, {} commits so far", began.elapsed().as_millis(), place.commits());
    agent.kill();
    let differences = truth::compare(&wanted, &dump(place));
    assert_eq!(differences, Vec::<String>::new(), "{when}");
    place.forget_summary();
    agent.start();
}

fn versions(objects: &Objects) -> BTreeMap<String, (String, String)> {
    let text = |object: &Value, field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    objects.iter().map(|(key, object)| (key.clone(), (text(object, "uid"), text(object, "resourceVersion")))).collect()
}

fn dump(place: &Home) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_ckpt-db"))
        .args(["dump", "-o", "json", "--reveal", "--store"])
        .arg(place.store())
        .arg("--node-key")
        .arg(place.key())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
