//! What a running agent takes: memory with its watches, the processor while nothing happens, and everything while ten
//! thousand objects change each second.

mod allocations;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_db::checkpoint::object::Kind;
use serde_json::{Value, json};

use crate::Bench;
use crate::agent::Agent;
use crate::fake::{Match, Options, Server};
use crate::node::{self, NODE};
use crate::report::{Report, Target};

const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let directory = bench.directory();
    let sizes: &[(usize, f64)] = if bench.short { &[(5, 1e9)] } else { &[(110, 18.0), (500, 30.0)] };
    let idle = Duration::from_secs(if bench.short { 1 } else { 60 });
    // Both at the same time: they do nothing.
    let scenes: Vec<Scene> = sizes.iter().map(|(pods, _)| Scene::new(bench, directory.path(), *pods)).collect();
    std::thread::sleep(Duration::from_secs(if bench.short { 1 } else { 10 }));
    let before: Vec<Usage> = scenes.iter().map(Scene::usage).collect();
    std::thread::sleep(idle);
    let mut details = serde_json::Map::new();
    for ((scene, before), (pods, most)) in scenes.iter().zip(before).zip(sizes) {
        let after = scene.usage();
        let busy = after.processor.saturating_sub(before.processor);
        let percent = 100.0 * busy.as_secs_f64() / idle.as_secs_f64();
        let mib = after.resident_bytes as f64 / f64::from(1 << 20);
        let watches = scene.watches();
        let what = format!("RSS, {pods} pods, {watches} watches");
        report.row("steady", what, (mib, "MiB"), Target::AtMost(*most), "");
        let basis = format!("{:.1} ms in {} s", busy.as_secs_f64() * 1e3, idle.as_secs());
        let what = format!("idle processor, {pods} pods");
        report.row("steady", what, (percent, "% of a core"), Target::AtMost(0.1), basis);
        details.insert(
            format!("{pods} pods"),
            json!({"rss_bytes": after.resident_bytes, "watches": watches, "idle_percent": percent,
                "written_bytes": after.written_bytes - before.written_bytes}),
        );
    }
    let seconds = if bench.short { 1 } else { 10 };
    details.insert("churn".to_owned(), churn(bench, report, &scenes[0], Duration::from_secs(seconds)));
    scenes.into_iter().for_each(|scene| scene.agent.stop());
    details.insert("allocations".to_owned(), allocations::measure(bench, report, directory.path()));
    report.details("steady", details.into());
}

/// Ten thousand changes of objects in each second, as far as the fake API server gets.
fn churn(bench: &Bench, report: &mut Report, scene: &Scene, period: Duration) -> Value {
    const EACH_SECOND: u32 = 10_000;
    let (before, revision) = (scene.usage(), scene.revision(bench));
    let began = Instant::now();
    let events = scene.send(EACH_SECOND, period);
    let last = scene.change(events);
    scene.until_stored(bench, last);
    let took = began.elapsed();
    let (after, commits) = (scene.usage(), scene.revision(bench) - revision);
    let busy = after.processor.saturating_sub(before.processor);
    let rate = f64::from(events) / period.as_secs_f64();
    let of_events = format!("{events} events, {rate:.0} a second, durable after {:.1} s", took.as_secs_f64());
    report.row("churn", "events for each commit", (f64::from(events) / commits as f64, ""), Target::None, of_events);
    let micros = busy.as_secs_f64() * 1e6 / f64::from(events);
    let basis = format!("{:.0} % of a core", 100.0 * busy.as_secs_f64() / took.as_secs_f64());
    report.row("churn", "processor for each event", (micros, "us"), Target::None, basis);
    let written = after.written_bytes - before.written_bytes;
    let bytes = written as f64 / f64::from(events);
    report.row("churn", "written for each event", (bytes, "bytes"), Target::None, format!("{commits} commits"));
    let mib = after.resident_bytes as f64 / f64::from(1 << 20);
    report.row("churn", "RSS afterwards", (mib, "MiB"), Target::None, "");
    json!({"events": events, "seconds": took.as_secs_f64(), "commits": commits, "processor_us_per_event": micros,
        "written_bytes": written, "rss_bytes": after.resident_bytes})
}

/// An agent that follows a server with so many pods, each with a Secret and a ConfigMap.
struct Scene {
    server: Server,
    agent: Agent,
    root: std::path::PathBuf,
    pods: usize,
}

impl Scene {
    fn new(bench: &Bench, directory: &Path, pods: usize) -> Self {
        Self::with(&bench.program, &directory.join(format!("steady-{pods}")), pods)
    }

    /// With this program.
    fn with(program: &Path, directory: &Path, pods: usize) -> Self {
        let server = Server::start(Options { node_name: NODE.to_owned(), ..Options::default() });
        server.create(Kind::Node, "", NODE, json!({"spec": {}, "status": {}}));
        for pod in 0..pods {
            let (namespace, name) = (namespace(pod), name(pod));
            server.create(Kind::Secret, &namespace, &name, json!({"type": "Opaque", "data": {"password": "YXBw"}}));
            server.create(Kind::ConfigMap, &namespace, &name, config(0));
            server.create(Kind::Pod, &namespace, &name, node::pod_body(&name, &name, 0));
        }
        let root = directory.join("root");
        fs::create_dir_all(&root).unwrap();
        let kubeconfig = server.kubeconfig(directory);
        let agent = start(program, &kubeconfig, directory, &[]);
        let scene = Self { server, agent, root, pods };
        scene.until_watched(directory);
        scene
    }

    /// The agent ends and begins again, with this in its environment: it finds its store.
    fn again(self, program: &Path, directory: &Path, environment: &[(&str, &str)]) -> Self {
        let Self { server, agent, root, pods } = self;
        agent.stop();
        let deadline = Instant::now() + PATIENCE;
        while server.open_connections() > 0 {
            assert!(Instant::now() < deadline, "the connections of an agent that has ended stay");
            std::thread::sleep(Duration::from_millis(10));
        }
        let agent = start(program, &server.kubeconfig(directory), directory, environment);
        let scene = Self { server, agent, root, pods };
        scene.until_watched(directory);
        scene
    }

    fn until_watched(&self, directory: &Path) {
        let deadline = Instant::now() + PATIENCE;
        while self.watches() < 2 * self.pods {
            let said = || fs::read_to_string(directory.join("agent.log"));
            assert!(Instant::now() < deadline, "{} watches: {:?}", self.watches(), said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// How many Secrets and ConfigMaps are watched.
    fn watches(&self) -> usize {
        [Kind::Secret, Kind::ConfigMap].map(|kind| self.server.open_watches(&Match::watch(kind)).len()).iter().sum()
    }

    /// Changes objects in turns, so many a second for so long, as far as the server gets. How many that were.
    fn send(&self, each_second: u32, period: Duration) -> u32 {
        let began = Instant::now();
        let mut events = 0;
        while began.elapsed() < period {
            let due = (began.elapsed().as_secs_f64() * f64::from(each_second)) as u32;
            while events < due {
                self.change(events);
                events += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        events
    }

    /// Changes one object; which, and its version.
    fn change(&self, number: u32) -> (usize, String) {
        let pod = number as usize % self.pods;
        let object = self.server.replace(Kind::ConfigMap, &namespace(pod), &name(pod), config(number));
        (pod, object["metadata"]["resourceVersion"].as_str().unwrap().to_owned())
    }

    /// Waits until a version is in the store.
    fn until_stored(&self, bench: &Bench, last: (usize, String)) {
        let deadline = Instant::now() + PATIENCE;
        while !Self::is_stored(bench, &self.root, &last) {
            assert!(Instant::now() < deadline, "{} {} was never stored", name(last.0), last.1);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether the store has this version of what [`Scene::change`] changed.
    fn is_stored(bench: &Bench, root: &Path, (pod, version): &(usize, String)) -> bool {
        let is_it = |object: &Value| {
            let metadata = &object["metadata"];
            object["kind"] == "ConfigMap" && metadata["name"] == name(*pod) && metadata["resourceVersion"] == **version
        };
        ask(bench, root, &["dump", "-o", "json"])["items"].as_array().unwrap().iter().any(is_it)
    }

    /// How many commits led to what the agent has.
    fn revision(&self, bench: &Bench) -> u64 {
        let status = ask(bench, &self.root, &["status", "-o", "json"]);
        status["store"]["revision"].as_u64().unwrap_or_else(|| panic!("{status:#}"))
    }

    fn usage(&self) -> Usage {
        Usage::of(self.agent.child.id())
    }
}

/// Starts an agent with its root below `directory`.
fn start(program: &Path, kubeconfig: &Path, directory: &Path, environment: &[(&str, &str)]) -> Agent {
    let mut command = std::process::Command::new(program);
    command.args(["run", "--feature-gates=Checkpointing=true", "--generate-node-key", "--kubeconfig"]);
    command.arg(kubeconfig).arg("--root").arg(directory.join("root"));
    command.env_clear().envs(environment.iter().copied()).stdin(std::process::Stdio::null());
    Agent::start(command, &directory.join("agent.log"))
}

/// What a command says of the store.
fn ask(bench: &Bench, root: &Path, command: &[&str]) -> Value {
    let mut ask = std::process::Command::new(&bench.program);
    let output = ask.args(command).arg("--root").arg(root).env_clear().output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn namespace(pod: usize) -> String {
    format!("team-{}", pod % 10)
}

fn name(pod: usize) -> String {
    format!("app-{pod}")
}

fn config(number: u32) -> Value {
    json!({"data": {"app.conf": "key = value\n".repeat(80), "round": number.to_string()}})
}

/// What a process has taken so far.
struct Usage {
    resident_bytes: u64,
    processor: Duration,
    written_bytes: u64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let number = |text: &str, key: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        // Of the process as a whole: threads that have ended took time too. The kernel rounds an exact sum down to a tick.
        let stat = read("stat");
        let mut fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11);
        let mut ticks = || fields.next().unwrap().parse::<u64>().unwrap();
        let millis = (ticks() + ticks()) * 1000 / rustix::param::clock_ticks_per_second();
        Self {
            resident_bytes: number(&read("status"), "VmRSS:") * 1024,
            processor: Duration::from_millis(millis),
            written_bytes: number(&read("io"), "write_bytes:"),
        }
    }
}
