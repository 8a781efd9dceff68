//! What this control plane does, as far as the agent relies on it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{Api, Next, collection, listed, one, pods_of};
use crate::control_plane::{Cluster, Options};

#[test]
fn start_it() {
    let start = Instant::now();
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    eprintln!("start: {:?}", start.elapsed());
    let start = Instant::now();
    cluster.kill_apiserver();
    cluster.start_apiserver();
    eprintln!("restart: {:?}", start.elapsed());
    let start = Instant::now();
    let snapshot = cluster.snapshot_etcd();
    eprintln!("snapshot: {:?}", start.elapsed());
    let start = Instant::now();
    cluster.restore_etcd(&snapshot);
    eprintln!("restore: {:?}", start.elapsed());
}
