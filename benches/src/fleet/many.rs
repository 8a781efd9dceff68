//! A thousand agents at the fake API server: of each the whole of its following (credentials, connections, feed) and a store
//! in memory, in this process.
//!
//! They are told apart by the Node that they ask for; their certificate is the same. Each has read it itself, so that none
//! resumes the TLS session of another.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ckpt_db::agent::{Departed, changes, in_memory};
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::embed::{Backend as _, MemoryStore};
use ckpt_db::source::api::connect::{Connections, Limits};
use ckpt_db::source::api::credentials::{Credentials, Place};
use ckpt_db::source::api::feed::{Feed, Options, Told};
use ckpt_db::source::api::pace::Pace;
use ckpt_db::source::api::tracker::ObjectRefresh;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Asked, OBJECTS, PODS, Phase, Verb, WATCHES};
use crate::Bench;
use crate::fake::{self, Match, Server};
use crate::node;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Longer than a machine takes on which the server and all agents share two processors. By their own limits agents would give
/// up, and ask again, what this machine has not come to: it is looked at when they ask, not at how long it takes.
const SHARED: Duration = Duration::from_secs(300);

pub(super) struct Many {
    count: usize,
    outage: Duration,
    server: Server,
    runtime: Runtime,
    stop: watch::Sender<bool>,
    agents: Vec<JoinHandle<MemoryStore>>,
}

/// How far everything was at some moment.
pub(super) struct Mark {
    at: Instant,
    request: u64,
    traffic: (u64, u64),
    opened: u64,
}

impl Many {
    pub(super) fn start(bench: &Bench, directory: &Path, phases: &mut Vec<Phase>) -> Self {
        let count = if bench.short { 3 } else { 1000 };
        let server = Server::start(fake::Options { node_authorizer: false, ..fake::Options::default() });
        (0..count).for_each(|agent| populate(&server, agent));
        server.forget_history();
        let place = Place::Explicit(server.kubeconfig(directory));
        let requests = Limits {
            connect: SHARED,
            dial: SHARED,
            watch_begins: SHARED,
            progress: SHARED,
            total: SHARED,
            ping_timeout: SHARED,
            ..Limits::default()
        };
        let spread = if bench.short { Duration::from_millis(200) } else { Pace::default().spread };
        let pace = Pace { spread, requests, ..Pace::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = watch::channel(false);
        let outage = Duration::from_secs(if bench.short { 1 } else { 10 });
        let mut many = Self { count, outage, server, runtime, stop, agents: Vec::new() };
        let mark = many.mark();
        for agent in 0..count {
            let agent = follow(name(agent), place.clone(), pace, stopped.clone());
            many.agents.push(many.runtime.spawn(agent));
        }
        many.until_followed(&mark);
        phases.push(many.phase("start", &mark));
        many
    }

    pub(super) fn mark(&self) -> Mark {
        let Self { server, .. } = self;
        let (request, opened) = (server.mark(), server.connections());
        Mark { at: Instant::now(), request, traffic: server.traffic(), opened }
    }

    pub(super) fn steady(&self, mark: Mark, window: Duration, phases: &mut Vec<Phase>) {
        phases.push(Phase { window: Some(window), ..self.phase("steady state", &mark) });
    }

    /// All connections end at once while the server goes on; and then nobody listens for a while. Ends the agents, and looks
    /// at what they have stored.
    pub(super) fn reconnect(self, phases: &mut Vec<Phase>) {
        let mark = self.mark();
        self.server.close_connections();
        self.until_followed(&mark);
        phases.push(Phase { herd: true, ..self.phase("connections cut", &mark) });
        self.server.stop();
        std::thread::sleep(self.outage);
        let mark = self.mark();
        self.server.listen();
        self.until_followed(&mark);
        phases.push(Phase { herd: true, ..self.phase("API server back", &mark) });
        self.stop.send_replace(true);
        for agent in self.agents {
            let store = self.runtime.block_on(agent).unwrap();
            let stored = store.snapshot().unwrap();
            let of = |kind| stored.get().objects().filter(|stored| stored.key.kind() == kind).count();
            assert_eq!(of(Kind::Pod), PODS);
            assert_eq!(of(Kind::Secret) + of(Kind::ConfigMap), OBJECTS);
        }
    }

    /// Waits until each agent has listed its pods since, and watches everything.
    fn until_followed(&self, mark: &Mark) {
        let began = Instant::now();
        loop {
            let watches = self.server.count_open_watches(&Match::any().after(mark.request));
            if watches == self.count * WATCHES {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{watches} watches of {} agents", self.count);
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    fn phase(&self, what: &'static str, mark: &Mark) -> Phase {
        let now = self.mark();
        let mut requests: Vec<Asked> = self
            .server
            .requests(&Match::any().after(mark.request))
            .iter()
            .map(|request| Asked {
                at_s: request.at.saturating_duration_since(mark.at).as_secs_f64(),
                verb: match request.verb {
                    fake::Verb::List => Verb::List,
                    fake::Verb::Watch => Verb::Watch,
                    fake::Verb::Get | fake::Verb::Other => Verb::Other,
                },
                pods: request.kind == Some(Kind::Pod),
            })
            .collect();
        requests.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        eprintln!("    {} agents, {what}: {} requests", self.count, requests.len());
        Phase {
            agents: self.count,
            what,
            requests,
            sent: now.traffic.0 - mark.traffic.0,
            received: now.traffic.1 - mark.traffic.1,
            opened: usize::try_from(now.opened - mark.opened).unwrap(),
            open: self.server.open_connections(),
            window: None,
            herd: false,
        }
    }
}

/// Follows as the agent does, until it is told to stop. What it has stored by then.
async fn follow(node: String, place: Place, pace: Pace, mut stop: watch::Receiver<bool>) -> MemoryStore {
    let credentials = Credentials::load(&place).unwrap_or_else(|error| panic!("{error}"));
    let mut store = in_memory(&node, now_ms()).unwrap();
    let options =
        Options { node, refresh: ObjectRefresh::Watch, pace, clock_is_set: Arc::new(|| true), ends: Arc::default() };
    let mut feed = Feed::start(options, Connections::new(&credentials, pace.requests));
    let control = feed.control();
    loop {
        let told = tokio::select! {
            _ = stop.changed() => return store,
            told = feed.next() => told.expect("a feed goes on"),
        };
        if let Told::Step(step) = told {
            let done = store.update(changes(&step, Departed::Remove), now_ms()).unwrap();
            control.prove(done.get().missing.clone());
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn name(agent: usize) -> String {
    format!("site-{agent}")
}

/// A Node and what it has, in a namespace of its own.
fn populate(server: &Server, agent: usize) {
    let node = name(agent);
    server.create(Kind::Node, "", &node, json!({"spec": {}, "status": {}}));
    for pod in 0..PODS {
        let name = format!("app-{pod}");
        server.create(Kind::Secret, &node, &name, node::secret());
        server.create(Kind::ConfigMap, &node, &name, node::configmap());
        let mut body = node::pod_body(&name, &name, 0);
        body["spec"]["nodeName"] = json!(node);
        server.create(Kind::Pod, &node, &name, body);
    }
}
