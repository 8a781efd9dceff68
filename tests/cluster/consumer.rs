//! The agent as another program would embed it: a process of its own, which can be killed at any moment, and whose consumer
//! reads the store back at every step.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use ckpt_db::agent::{Batch, Departed, Following, KeySlots, Look, Observer, Resident, Status, open_or_create};
use ckpt_db::checkpoint::closure::references;
use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::ops::notify::Notifier;
use ckpt_db::source::api::collect::{Gathered, Step};
use ckpt_db::source::api::credentials::Place;
use ckpt_db::source::api::feed::Told;
use ckpt_db::source::api::pace::Pace;
use ckpt_db::source::api::reach::Reach;
use ckpt_db::source::api::tracker::ObjectRefresh;
use ckpt_db::store::{Backend, Committed, Snapshot};

use crate::process::{Agent, Process};

/// Where a consumer keeps its files.
pub(crate) struct Home(pub(crate) PathBuf);

/// What differs from one campaign to the next.
#[derive(Clone, Copy, Default)]
pub(crate) struct Way {
    /// `objectRefresh: poll`.
    pub(crate) poll: bool,
    /// How often an object that can't be watched is read; the default is a minute.
    pub(crate) every_ms: Option<u64>,
}

impl Home {
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("checkpoint-store.db")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    fn violations(&self) -> PathBuf {
        self.0.join("violations")
    }

    fn summary(&self) -> PathBuf {
        self.0.join("summary.json")
    }

    /// A process that follows with `kubeconfig`; not started yet.
    pub(crate) fn agent(&self, kubeconfig: &Path, node: &str, way: Way) -> Agent {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "consumer::as_a_process", "--ignored", "--nocapture"])
            .env("CONSUMER_DIR", &self.0)
            .env("CONSUMER_KUBECONFIG", kubeconfig)
            .env("CONSUMER_NODE", node);
        if way.poll {
            command.env("CONSUMER_POLL", "1");
        }
        if let Some(every_ms) = way.every_ms {
            command.env("CONSUMER_EVERY_MS", every_ms.to_string());
        }
        Process::new(command, &self.0.join("agent.log"))
    }

    /// Steps that the store did not hold when the consumer saw them.
    pub(crate) fn seen_too_early(&self) -> Vec<String> {
        fs::read_to_string(self.violations()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// What the agent's store holds, as `Kind ns/name` to UID and resourceVersion, if it is in step with an API server that
    /// answers.
    pub(crate) fn stored(&self) -> Option<BTreeMap<String, (String, String)>> {
        let summary: Value = serde_json::from_slice(&fs::read(self.summary()).ok()?).ok()?;
        if summary["answering"] != true {
            return None;
        }
        serde_json::from_value(summary["objects"].clone()).ok()
    }

    /// How many commits changed something, over all starts.
    pub(crate) fn commits(&self) -> u64 {
        let summary: Option<Value> = fs::read(self.summary()).ok().and_then(|text| serde_json::from_slice(&text).ok());
        summary.and_then(|summary| summary["revision"].as_u64()).unwrap_or_default()
    }

    /// A start after a kill has everything to say anew.
    pub(crate) fn forget_summary(&self) {
        let _ = fs::remove_file(self.summary());
    }
}

/// Not a test: what [`Home::agent`] starts.
#[test]
#[ignore = "a process of the campaigns, which start it"]
fn as_a_process() {
    let Ok(directory) = std::env::var("CONSUMER_DIR") else { return };
    let place = Home(directory.into());
    let variable = |name: &str| std::env::var(name).unwrap();
    let node = variable("CONSUMER_NODE");
    let key = ckpt_db::keys::load(&place.key()).unwrap();
    let mut pace = Pace::default();
    if let Ok(every) = std::env::var("CONSUMER_EVERY_MS") {
        pace.poll = Duration::from_millis(every.parse().unwrap());
    }
    let following = Following {
        place: Place::Explicit(variable("CONSUMER_KUBECONFIG").into()),
        node_name: Some(node.clone()),
        host_name: String::new(),
        refresh: if std::env::var("CONSUMER_POLL").is_ok() { ObjectRefresh::Poll } else { ObjectRefresh::Watch },
        pace,
        clock: || now_ms() / 1000,
        newest_stored_at_unix_s: 0,
        departed: Departed::Remove,
        shared: Arc::default(),
        keys: KeySlots::none(),
    };
    let mut consumer = Consumer { place: Home(place.0.clone()), answering: false, listed: false };
    let open = || -> Result<Box<dyn Backend>, anyhow::Error> {
        Ok(Box::new(open_or_create(&place.store(), &[&key.secret.clone().into()], &node, now_ms())?))
    };
    let resident = Resident {
        is_in_use: |_: &anyhow::Error| false,
        open: Box::new(open),
        clock_ms: now_ms,
        following,
        observer: &mut consumer,
        failed: Box::new(|failed| match failed {
            Ok(error) => eprintln!("following ended: {error}"),
            Err(error) => eprintln!("cannot open the store: {error:#}"),
        }),
        keeps: None,
        reload: Box::new(|_| {}),
        notifier: Arc::new(Notifier::silent()),
        key_files: None,
        desk: None,
        metrics: None,
        found_node: None,
        in_memory: false,
    };
    resident.run().unwrap();
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

struct Consumer {
    place: Home,
    answering: bool,
    listed: bool,
}

impl Observer for Consumer {
    fn status(&mut self, status: &Status) {
        eprintln!("{status}");
        if let Status::Reach(reach) = status {
            self.answering = *reach == Reach::Answering;
            self.listed &= self.answering;
        }
    }

    fn committed(&mut self, batch: &Committed<Batch<Told>>, look: Look<'_>) {
        let snapshot = look().unwrap();
        for problem in held(batch.get(), snapshot.get()) {
            let violations = self.place.violations();
            let mut file = fs::OpenOptions::new().create(true).append(true).open(violations).unwrap();
            writeln!(file, "{problem}").unwrap();
        }
        for rejected in &batch.get().update.rejected {
            eprintln!("rejected: {} {}", rejected.object, rejected.problem);
        }
        self.listed |= batch.get().items.iter().any(|told| matches!(told, Told::Step(Step::Listing { .. })));
        self.summarise(snapshot.get());
    }

    fn tick(&mut self, look: Look<'_>) {
        self.summarise(look().unwrap().get());
    }
}

impl Consumer {
    fn summarise(&self, snapshot: &Snapshot) {
        let kept = |kind: Kind| matches!(kind, Kind::Pod | Kind::ConfigMap | Kind::Secret);
        let objects: BTreeMap<String, (&str, &str)> = snapshot
            .objects()
            .filter(|object| kept(object.key.kind()))
            .map(|object| (object.key.to_string(), (object.uid, object.resource_version)))
            .collect();
        let answering = self.answering && self.listed;
        let text = json!({"answering": answering, "revision": snapshot.revision().0, "objects": objects}).to_string();
        let temporary = self.place.0.join("summary.new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.place.summary()).unwrap();
    }
}

/// What of a batch the store does not hold. The last word of the batch on each object counts.
fn held(batch: &Batch<Told>, snapshot: &Snapshot) -> Vec<String> {
    let mut last: BTreeMap<ObjectKey, Word<'_>> = BTreeMap::new();
    for told in &batch.items {
        let Told::Step(step) = told else { continue };
        match step {
            Step::Listing { pods, .. } => pods.iter().for_each(|pod| gathered(pod, &mut last)),
            Step::Pod(pod) => gathered(pod, &mut last),
            Step::PodGone { key, uid } => {
                // Another pod of the name stays.
                let another = matches!(last.get(key), Some(Word::Is(pod)) if pod.uid != *uid);
                if !another {
                    last.insert(key.clone(), Word::Gone(uid));
                }
            }
            Step::Object(object) | Step::Node(object) => {
                last.insert(object.key.clone(), Word::Is(object));
            }
            Step::Services { services, .. } => {
                last.extend(services.iter().map(|service| (service.key.clone(), Word::Is(service))));
            }
            Step::ObjectAbsent { .. } => {}
        }
    }
    let mut problems = Vec::new();
    for (key, want) in last {
        match (want, snapshot.get(&key)) {
            (Word::Is(want), Lookup::Found(found)) if found == *want => {}
            // Nothing keeps an object that no stored pod names.
            (Word::Is(_), Lookup::Missing) if key.kind() != Kind::Pod && !is_named(&key, snapshot) => {}
            (Word::Is(want), _) => problems.push(format!("{key} of version {} is not stored", want.resource_version)),
            (Word::Gone(_), Lookup::Missing) => {}
            (Word::Gone(uid), Lookup::Found(other)) if other.uid != uid => {}
            (Word::Gone(uid), _) => problems.push(format!("{key} ({uid}) is still stored")),
        }
    }
    problems
}

/// What a batch says of an object last.
enum Word<'a> {
    Is(&'a Object),
    Gone(&'a str),
}

fn gathered<'a>(pod: &'a Gathered, last: &mut BTreeMap<ObjectKey, Word<'a>>) {
    last.insert(pod.pod.key.clone(), Word::Is(&pod.pod));
    last.extend(pod.with.iter().map(|object| (object.key.clone(), Word::Is(object))));
}

fn is_named(key: &ObjectKey, snapshot: &Snapshot) -> bool {
    let pods = snapshot.all(Kind::Pod);
    pods.iter().any(|pod| references(pod).is_ok_and(|all| all.iter().any(|reference| reference.key == *key)))
}
