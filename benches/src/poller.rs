//! From "API server dead, nothing rendered" to manifests, against a checkpointer that looks every five seconds.
//!
//! The peer is a stand-in for the pod-checkpointer, without anything that could take it time: its checkpoints lie ready as
//! files, and when it sees that the API server refuses connections it copies them to the kubelet's directory, without any
//! sync. It looks five seconds after its start, and every five seconds then, as theirs does (`defaultPollingFrequency`); the
//! power comes back at any moment between two looks.
//!
//! Ours runs twice: `run --once`, and the resident agent as it starts before the kubelet does, with no container runtime yet.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::Bench;
use crate::agent::{Agent, Watch};
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
    let before = Boot::first(bench, &node, directory.path());
    let (mut own, mut resident, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = bench.rounds(7);
    for round in 0..rounds {
        own.push(cold_start(bench, &node, directory.path()).published);
        resident.push(before.next(bench, &node, round));
        peer.push(polled(&node, &ready, bench.short));
    }
    let (own, resident, peer) = (Times::new(own), Times::new(resident), Times::new(peer));
    let basis = format!("{:.1} ms against {:.0} ms", millis(own.median()), millis(peer.median()));
    let what = format!("{PODS} annotated pods, API server dead, nothing rendered: faster than polling");
    report.row("poller", what, (ratio(peer.median(), own.median()), "x"), Target::AtLeast(50.0), basis);
    let basis = format!("{:.1} ms against {:.0} ms", millis(resident.median()), millis(peer.median()));
    let what = "the same by the resident agent, before the kubelet starts: faster than polling";
    report.row("poller", what, (ratio(peer.median(), resident.median()), "x"), Target::AtLeast(50.0), basis);
    let details =
        json!({"pods": PODS, "ckpt-db": own.json(), "ckpt-db_resident": resident.json(), "poller": peer.json()});
    report.details("poller", details);
}

/// What tells the resident agent one boot of the node from another, without a machine to reboot.
struct Boot {
    id: PathBuf,
    log: PathBuf,
}

impl Boot {
    /// A first boot, which the store records, on a node with a kubelet that does not run.
    fn first(bench: &Bench, node: &Node, directory: &Path) -> Self {
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        // The kernel's second process: all processes of the host can be seen.
        write(node.root.join("proc/2/stat"), "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 3 0 0");
        write(node.root.join("var/lib/kubelet/device-plugins/kubelet.sock"), "");
        let boot = Self { id: directory.join("boot-id"), log: directory.join("resident.log") };
        fs::write(&boot.id, "first").unwrap();
        let agent = Agent::start(boot.command(bench, node), &boot.log);
        let deadline = Instant::now() + Duration::from_secs(60);
        // It is said after the boot was given to the store.
        while !fs::read_to_string(&boot.log).unwrap().contains("waiting for credentials") {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(&boot.log).unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
        agent.stop();
        boot
    }

    fn command(&self, bench: &Bench, node: &Node) -> std::process::Command {
        let mut command = node.command(bench, &["--boot-id-file"]);
        command.arg(&self.id);
        command
    }

    /// From the start of the agent in another boot to the last manifest.
    fn next(&self, bench: &Bench, node: &Node, round: usize) -> Duration {
        node.unrender();
        fs::write(&self.id, format!("boot-{round}")).unwrap();
        // Younger than all traces of the kubelet.
        File::options()
            .write(true)
            .open(&self.id)
            .unwrap()
            .set_modified(SystemTime::now() + Duration::from_secs(10))
            .unwrap();
        let mut manifests = Watch::new(&node.manifests());
        let agent = Agent::start(self.command(bench, node), &self.log);
        let took = manifests.until(node.pods) - agent.began;
        agent.stop();
        took
    }
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
