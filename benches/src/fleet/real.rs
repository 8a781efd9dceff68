//! Agents as processes, at a real API server: fleets of several sizes, each behind a relay of its own that counts bytes and
//! can cut all of its connections at once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Asked, OBJECTS, PODS, Phase, Verb, WATCHES};
use crate::Bench;
use crate::agent::Agent;
use crate::cluster::api::{Api, collection};
use crate::cluster::audit::{AuditLog, Request};
use crate::cluster::control_plane::{Cluster, Options, node_user};
use crate::cluster::relay::{Relay, Traffic};
use crate::node;

/// Far longer than anything here takes, an API server that starts included.
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) struct Real {
    cluster: Cluster,
    fleets: Vec<Fleet>,
}

/// Agents that started together.
struct Fleet {
    size: usize,
    relay: Relay,
    agents: Vec<Agent>,
    logs: Vec<PathBuf>,
}

/// How far everything was at some moment.
pub(super) struct Mark {
    requests: usize,
    traffic: Traffic,
}

impl Real {
    /// Starts fleets of these sizes, one after the other. `None` where the machine has no API server, which is said.
    pub(super) fn start(bench: &Bench, directory: &Path, sizes: &[usize], phases: &mut Vec<Phase>) -> Option<Self> {
        let cluster = Cluster::start(Options::default())?;
        eprintln!("  kube-apiserver {}", cluster.version());
        let mut real = Self { cluster, fleets: Vec::new() };
        for &size in sizes {
            populate(real.cluster.admin(), size);
            let relay = Relay::to(real.cluster.port());
            let roots: Vec<PathBuf> = (0..size).map(|agent| directory.join(name(size, agent))).collect();
            for (agent, root) in roots.iter().enumerate() {
                real.cluster.join(&name(size, agent), root, relay.port());
            }
            let logs = roots.iter().map(|root| root.join("agent.log")).collect();
            let mut fleet = Fleet { size, relay, agents: Vec::new(), logs };
            let mark = real.mark(&fleet);
            fleet.agents =
                roots.iter().map(|root| Agent::start(command(bench, root), &root.join("agent.log"))).collect();
            real.until_followed(&fleet, &mark);
            phases.push(real.phase(&fleet, "start", &mark));
            real.fleets.push(fleet);
        }
        Some(real)
    }

    pub(super) fn marks(&self) -> Vec<Mark> {
        self.fleets.iter().map(|fleet| self.mark(fleet)).collect()
    }

    pub(super) fn steady(&self, marks: Vec<Mark>, window: Duration, phases: &mut Vec<Phase>) {
        for (fleet, mark) in self.fleets.iter().zip(marks) {
            phases.push(Phase { window: Some(window), ..self.phase(fleet, "steady state", &mark) });
        }
    }

    /// Each fleet loses its connections at once while the API server goes on; and then the API server is killed, and
    /// started again, for all of them. Ends the agents.
    pub(super) fn reconnect(mut self, phases: &mut Vec<Phase>) {
        for fleet in &self.fleets {
            let mark = self.mark(fleet);
            fleet.relay.cut();
            self.until_followed(fleet, &mark);
            phases.push(Phase { herd: true, ..self.phase(fleet, "connections cut", &mark) });
        }
        let marks = self.marks();
        self.cluster.kill_apiserver();
        self.cluster.start_apiserver();
        for (fleet, mark) in self.fleets.iter().zip(&marks) {
            self.until_followed(fleet, mark);
            phases.push(Phase { herd: true, ..self.phase(fleet, "API server restarted", mark) });
        }
        let log = self.cluster.audit();
        for fleet in &mut self.fleets {
            for agent in 0..fleet.size {
                let name = name(fleet.size, agent);
                assert_eq!(log.of(&node_user(&name)).bad_manners(&name), Vec::<String>::new());
            }
            fleet.agents.drain(..).for_each(Agent::stop);
        }
    }

    fn log(&self, fleet: &Fleet) -> AuditLog {
        let prefix = node_user(&format!("{}-", site(fleet.size)));
        let all = self.cluster.audit().requests;
        AuditLog { requests: all.into_iter().filter(|request| request.user.starts_with(&prefix)).collect() }
    }

    fn mark(&self, fleet: &Fleet) -> Mark {
        Mark { requests: self.log(fleet).requests.len(), traffic: fleet.relay.traffic() }
    }

    /// Waits until each agent of a fleet has listed its pods since, and watches everything again.
    fn until_followed(&self, fleet: &Fleet, mark: &Mark) {
        let began = Instant::now();
        loop {
            let log = self.log(fleet).after(mark.requests);
            let count = |verb: &str, of: &dyn Fn(&Request) -> bool| {
                let mut those: Vec<&Request> = log.requests.iter().filter(|r| r.verb == verb && of(r)).collect();
                // One that had to be asked for twice counts once.
                those.sort_by_key(|request| (&request.user, &request.resource, request.selectors()));
                those.dedup_by_key(|request| (&request.user, &request.resource, request.selectors()));
                those.len()
            };
            let watches = count("watch", &stands);
            let lists = count("list", &|request| request.resource == "pods" && request.status == 200);
            if watches >= fleet.size * WATCHES && lists >= fleet.size {
                return;
            }
            let said = || std::fs::read_to_string(&fleet.logs[0]).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "{} agents: {watches} watches, {lists} lists\n{}", fleet.size, said());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn phase(&self, fleet: &Fleet, what: &'static str, mark: &Mark) -> Phase {
        let traffic = fleet.relay.traffic().since(mark.traffic);
        let requests: Vec<Asked> = self.log(fleet).after(mark.requests).requests.iter().map(asked).collect();
        eprintln!(
            "    {} agents, {what}: {} requests, busiest {}, {:.1} s",
            fleet.size,
            requests.len(),
            super::busiest(&requests, 1.0),
            super::duration_s(&requests)
        );
        Phase {
            agents: fleet.size,
            what,
            requests,
            sent: traffic.sent,
            received: traffic.received,
            opened: traffic.opened,
            open: fleet.relay.open(),
            window: None,
            herd: false,
        }
    }
}

/// A watch that is answered; of one that stands the log has no answer yet.
fn stands(request: &Request) -> bool {
    request.status == 200 || request.stage == "RequestReceived"
}

fn asked(request: &Request) -> Asked {
    let verb = match request.verb.as_str() {
        "list" => Verb::List,
        "watch" => Verb::Watch,
        _ => Verb::Other,
    };
    Asked { at_s: second_of_the_day(&request.received), verb, pods: request.resource == "pods" }
}

/// Of a time such as `2026-01-01T00:00:01.000000Z`.
fn second_of_the_day(time: &str) -> f64 {
    let clock = time.split_once('T').map_or("", |(_, clock)| clock).trim_end_matches('Z');
    clock.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap_or(0.0))
}

fn site(size: usize) -> String {
    format!("site-{size}")
}

fn name(size: usize, agent: usize) -> String {
    format!("{}-{agent}", site(size))
}

/// The Nodes of a fleet, and what each has.
fn populate(admin: &Api, size: usize) {
    let namespace = site(size);
    admin.create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).ok();
    for agent in 0..size {
        let node = name(size, agent);
        admin.create("/api/v1/nodes", &json!({"metadata": {"name": node}})).ok();
        for pod in 0..PODS {
            let name = format!("{node}-{pod}");
            let named = |mut object: Value| {
                object["metadata"] = json!({"name": name});
                object
            };
            admin.create(&collection("secrets", &namespace), &named(node::secret())).ok();
            admin.create(&collection("configmaps", &namespace), &named(node::configmap())).ok();
            let mut pod = named(node::pod_body(&name, &name, 0));
            pod["spec"]["nodeName"] = json!(node);
            admin.create(&collection("pods", &namespace), &pod).ok();
        }
    }
    assert_eq!(admin.get(&collection("secrets", &namespace)).items().len() * 2, size * OBJECTS);
}

/// The agent as its service runs it, but that it renders nothing: only what it asks for is looked at.
fn command(bench: &Bench, root: &Path) -> Command {
    let mut command = Command::new(&bench.program);
    command.args(["run", "--feature-gates=Checkpointing=true", "--activation-policy", "off", "--root"]).arg(root);
    command.env_clear().stdin(Stdio::null());
    command
}
