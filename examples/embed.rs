//! Embedding ckpt-db as the persistence of a node agent that has a feature gate of its own.
//!
//! ```text
//! cargo run --example embed
//! ```
//!
//! Needs no cluster and no privileges, and leaves nothing behind. The agent below is started four times, as if its node had
//! lost power in between: twice with the gate on, then without, then with it again.

#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use std::error::Error;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ckpt_db::embed::{
    Backend, Change, Committed, Feature, FeatureGates, Kind, NameError, Object, ObjectKey, Snapshot, StoreError,
    in_memory, open_or_create, parse_gates,
};

fn main() -> Result<(), Box<dyn Error>> {
    story()?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// What happens, line by line.
pub(crate) fn story() -> Result<Vec<String>, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("checkpoint-store.db");
    let pod = |name| pod(name, &format!("uid-of-{name}"));
    let mut told = Vec::new();
    let starts = [
        ("Checkpointing=true", vec![pod("web")?, pod("db")?]),
        // The source is silent: what was acted upon before is there all the same.
        ("Checkpointing=true", vec![]),
        // As if there were no store. Neither is one made, nor the one that lies there read.
        ("Checkpointing=false", vec![pod("batch")?]),
        ("Checkpointing=true", vec![]),
    ];
    for (flags, source) in starts {
        told.push(format!("started with --feature-gates={flags}"));
        let gates = FeatureGates::from_map(parse_gates(flags)?)?;
        let mut agent = Agent::start(gates, &path, &mut told)?;
        for pod in source {
            agent.take(pod, &mut told)?;
        }
    }
    Ok(told)
}

/// Your agent. Whether it forgets is the gate's business, and nothing in here but [`open`] knows.
struct Agent {
    store: Box<dyn Backend>,
}

/// One of two backends; one of your own would do, too.
fn open(gates: FeatureGates, path: &Path) -> Result<Box<dyn Backend>, StoreError> {
    if gates.is_on(Feature::Checkpointing) {
        // No key: pods and ConfigMaps are stored, Secrets are not. `load_node_key` reads one.
        Ok(Box::new(open_or_create(path, &[], "edge-1", now_unix_ms())?))
    } else {
        Ok(Box::new(in_memory("edge-1", now_unix_ms())?))
    }
}

impl Agent {
    /// Begins with what is durable, before any source is asked.
    fn start(gates: FeatureGates, path: &Path, told: &mut Vec<String>) -> Result<Self, StoreError> {
        let store = open(gates, path)?;
        run_pods(&store.snapshot()?, told);
        Ok(Self { store })
    }

    /// A pod comes from the source: stored first, then acted upon.
    fn take(&mut self, pod: Object, told: &mut Vec<String>) -> Result<(), StoreError> {
        let change = Change::Apply { object: pod, with: Vec::new() };
        // On an error nothing is to be done: see `StoreError` for what is known of the store then.
        let done = self.store.update(vec![change], now_unix_ms())?;
        run_pod(done.map(|update| update.stored), told);
        Ok(())
    }
}

/// Takes evidence, which only a store makes: the compiler sees to it that nothing is run before it is durable.
fn run_pod(stored: Committed<Vec<ObjectKey>>, told: &mut Vec<String>) {
    told.extend(stored.get().iter().map(|key| format!("  {key} is stored: running it")));
}

fn run_pods(snapshot: &Committed<Snapshot>, told: &mut Vec<String>) {
    told.extend(snapshot.get().objects().map(|object| format!("  {} was stored before: running it", object.key)));
}

/// A pod as the API server sends it.
fn pod(name: &str, uid: &str) -> Result<Object, NameError> {
    let body = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "uid": uid, "resourceVersion": "1"},
        "spec": {"nodeName": "edge-1", "containers": [{"name": name, "image": format!("registry.example/{name}:1")}]},
    });
    Ok(Object {
        key: ObjectKey::new(Kind::Pod, "default", name)?,
        uid: uid.to_owned(),
        resource_version: "1".to_owned(),
        body: body.to_string().into(),
    })
}

fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
