//! From "API server dead, nothing rendered" to manifests, against a checkpointer that looks every five seconds.
//!
//! The peer is a stand-in for the pod-checkpointer, without anything that could take it time: its checkpoints lie ready as
//! files, and when it sees that the API server refuses connections it copies them to the kubelet's directory, without any
//! sync. It looks five seconds after its start, and every five seconds then, as theirs does (`defaultPollingFrequency`); the
//! power comes back at any moment between two looks.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Bench;
use crate::agent::Watch;
use crate::cold_start::cold_start;
use crate::measure::{Times, millis, ratio};
use crate::node::Node;
use crate::report::{Report, Target};

const POLLS_EACH: Duration = Duration::from_secs(5);
const PODS: usize = 10;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let directory = bench.directory();
    let node = Node::with_pods(bench, directory.path(), PODS);
    let ready = directory.path().join("ready");
    fs::create_dir(&ready).unwrap();
    for entry in fs::read_dir(node.manifests()).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), ready.join(entry.file_name())).unwrap();
    }
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    let rounds = bench.rounds(7);
    for _ in 0..rounds {
        own.push(cold_start(bench, &node, directory.path()).published);
        peer.push(polled(&node, &ready, bench.short));
    }
    let (own, peer) = (Times::new(own), Times::new(peer));
    let basis = format!("{:.1} ms against {:.0} ms", millis(own.median()), millis(peer.median()));
    let what = format!("{PODS} annotated pods, API server dead, nothing rendered: faster than polling");
    report.row("poller", what, (ratio(peer.median(), own.median()), "x"), Target::AtLeast(50.0), basis);
    report.details("poller", json!({"pods": PODS, "ckpt-db": own.json(), "poller": peer.json()}));
}

/// The first look comes a whole period after the start.
fn polled(node: &Node, ready: &Path, short: bool) -> Duration {
    node.unrender();
    let mut manifests = Watch::new(&node.manifests());
    let began = Instant::now();
    std::thread::sleep(if short { Duration::from_millis(5) } else { POLLS_EACH });
    let dead = SocketAddr::from(([127, 0, 0, 1], 1));
    assert!(TcpStream::connect_timeout(&dead, Duration::from_secs(1)).is_err());
    for entry in fs::read_dir(ready).unwrap().map(Result::unwrap) {
        let temporary = node.manifests().join(".new");
        fs::copy(entry.path(), &temporary).unwrap();
        fs::rename(temporary, node.manifests().join(entry.file_name())).unwrap();
    }
    manifests.until(PODS) - began
}
