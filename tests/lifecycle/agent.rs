//! The agent around the code under test, as small as it can be: what it stores, what it looks at, how it acts and records.

use std::collections::{BTreeMap, BTreeSet};

use ckpt_db::checkpoint::judge;
use ckpt_db::checkpoint::lifecycle::{Checkpoint, Lives, Rules, State, Timeline, decide};
use ckpt_db::checkpoint::look::{Answers, ApiServer, Boot, Kubelet, Look, Runtime};
use ckpt_db::checkpoint::node::Fact;
use ckpt_db::checkpoint::object::Object;
use ckpt_db::checkpoint::rendering::Activity;
use serde_json::json;

use super::pods::{examined, first_stage, name, object};
use super::world::{ApiPod, Kind, Manifest, Mode, OTHERS, Phase, World};

/// What is kept across crashes.
#[derive(Clone, Default)]
pub(crate) struct Store {
    pub(crate) rows: BTreeMap<String, Row>,
    boot: u32,
    pub(crate) read_only: bool,
    /// Counts its changes.
    version: u64,
    /// In memory: in which boot the API server answered last, and when, if it does no more.
    last_answer: Option<(u32, Option<u64>)>,
}

/// One stored pod.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) uid: String,
    pub(crate) kind: Kind,
    ran: bool,
    pub(crate) ended: Option<String>,
    pub(crate) gone: bool,
    pub(crate) held: bool,
    republished: u32,
    /// To the second, rounded up.
    state: State,
    api: ApiPod,
    checkpoint: Checkpoint,
}

/// The running process.
pub(crate) struct Agent {
    pub(crate) since: u64,
    timeline: Timeline,
    boot: Boot,
    reach: Answers,
    reach_since: u64,
    routed_since: Option<u64>,
    sign: Option<u64>,
    /// Whether there was a copy that yields when it decided last.
    yielding: bool,
    last_answer: Option<u64>,
    in_step: bool,
    /// Versions of the world and of the store when it last took in a listing.
    followed: (u64, u64),
    /// Versions of the world and of the store, and how the API server stood, when it last looked.
    seen: Option<(u64, u64, Answers, bool)>,
    next_ms: Option<u64>,
}

/// Where the agent dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    BeforeActing,
    AfterFirstFile,
    BeforeRecording,
    AfterFirstRecord,
}

/// What one decision came to.
pub(crate) struct Decided {
    pub(crate) look: Look,
    pub(crate) lives: Lives,
    pub(crate) started: Vec<String>,
    pub(crate) stopped: Vec<String>,
}

impl Agent {
    pub(crate) fn start(world: &World, store: &Store) -> Self {
        let boot = match store.boot {
            0 => Boot::Same,
            boot if boot == world.boot => Boot::Same,
            _ => Boot::New { kubelet_ran: world.kubelet_ran },
        };
        Self {
            since: world.t,
            timeline: Timeline::default(),
            boot,
            reach: Answers::Silent,
            reach_since: world.t,
            routed_since: None,
            sign: None,
            yielding: false,
            last_answer: match store.last_answer {
                Some((boot, at)) if boot == world.boot => Some(at.unwrap_or(world.t)),
                Some(_) | None => None,
            },
            in_step: false,
            followed: (0, 0),
            seen: None,
            next_ms: None,
        }
    }

    /// One second: follows the API server, and decides if something has changed or is due.
    pub(crate) fn tick(
        &mut self,
        world: &mut World,
        store: &mut Store,
        rules: &Rules,
        death: Option<Death>,
    ) -> Option<Decided> {
        self.follow(world, store);
        let seen = (world.version, store.version, self.reach, self.in_step);
        let due = self.next_ms.is_some_and(|at_ms| world.now_ms() >= at_ms);
        if self.seen == Some(seen) && !due {
            return None;
        }
        self.seen = Some(seen);
        let look = self.look(world);
        let lives = self.decide(store, &look, rules);
        (self.next_ms, self.yielding) = (lives.next_ms, lives.yielding);
        if death == Some(Death::BeforeActing) {
            return Some(Decided { look, lives, started: Vec::new(), stopped: Vec::new() });
        }
        let before: BTreeSet<String> = world.directory.keys().cloned().collect();
        act(world, store, &lives, death == Some(Death::AfterFirstFile));
        let now: BTreeSet<String> = world.directory.keys().cloned().collect();
        match death {
            Some(Death::BeforeActing | Death::AfterFirstFile | Death::BeforeRecording) => {}
            Some(Death::AfterFirstRecord) => record(store, &lives, world.boot, 1),
            None => record(store, &lives, world.boot, usize::MAX),
        }
        let started = now.difference(&before).cloned().collect();
        let stopped = before.difference(&now).cloned().collect();
        Some(Decided { look, lives, started, stopped })
    }

    /// The same moment again, with what was just done: nothing may be left to do.
    pub(crate) fn decide_again(&mut self, world: &World, store: &Store, rules: &Rules) -> (Look, Lives) {
        let look = self.look(world);
        let before = self.timeline.clone();
        let lives = self.decide(store, &look, rules);
        // It did not happen.
        self.timeline = before;
        (look, lives)
    }

    fn decide(&mut self, store: &Store, look: &Look, rules: &Rules) -> Lives {
        let checkpoints = store.checkpoints();
        let again = self.timeline.clone();
        let lives = decide(first_stage(&checkpoints), &checkpoints, look, rules, &mut self.timeline);
        if !(look.now_ms / 1000).is_multiple_of(8) {
            return lives;
        }
        let mut again = again;
        let mut backwards = checkpoints.clone();
        backwards.reverse();
        let twice = decide(first_stage(&backwards), &backwards, look, rules, &mut again);
        assert_eq!(shown(&lives), shown(&twice), "the same arguments lead to something else");
        lives
    }

    fn follow(&mut self, world: &mut World, store: &mut Store) {
        let reach = match world.reach() {
            Mode::Up => Answers::Answering,
            Mode::Down => Answers::Silent,
            Mode::Refusing => Answers::Refusing,
        };
        if reach != self.reach {
            (self.reach, self.reach_since) = (reach, world.t);
            self.in_step = false;
        } else if reach == Answers::Answering && store.read_only {
            self.in_step = self.in_step && self.followed == (world.version, store.version);
        } else if reach == Answers::Answering {
            // The first second is for the listing.
            if self.followed != (world.version, store.version) {
                store.follow(&world.pods);
                self.followed = (world.version, store.version);
            }
            self.in_step = true;
        }
        let routed = reach == Answers::Silent && world.t >= world.route_at;
        self.routed_since = routed.then(|| self.routed_since.unwrap_or(world.t));
        match reach {
            Answers::Answering => (self.last_answer, self.sign) = (Some(world.t), None),
            // One that matters to nobody is passed over.
            Answers::Silent if self.yielding => self.sign = self.sign.or(world.sign_at),
            Answers::Silent if self.sign.is_none() => world.sign_at = None,
            Answers::Silent => {}
            Answers::Refusing => {}
        }
        if let Some(at) = self.last_answer {
            store.last_answer = Some((world.boot, Some(at).filter(|_| reach != Answers::Answering)));
        }
    }

    fn look(&mut self, world: &World) -> Look {
        let kubelet = match &world.kubelet {
            Some(process) => Kubelet::Running { since_ms: world.ms(process.since) },
            None => Kubelet::NotRunning,
        };
        if let (Boot::New { kubelet_ran }, Kubelet::Running { .. }) = (&mut self.boot, kubelet) {
            *kubelet_ran = true;
        }
        let answers = self.reach == Answers::Answering;
        let named = world.pods.iter().filter(|(_, api)| answers && !api.is_over());
        Look {
            now_ms: world.now_ms(),
            api: ApiServer {
                reach: self.reach,
                since_ms: world.ms(self.reach_since),
                routed_since_ms: self.routed_since.map(|t| world.ms(t)),
                sign_ms: self.sign.map(|t| world.ms(t)),
                last_answer_ms: self.last_answer.map(|t| world.ms(t)),
                sighted: named.map(|(pod, api)| (name(pod), api.uid.clone())).collect(),
                in_step: self.in_step,
            },
            runtime: match world.runtime_fails {
                true => Fact::Unknown("it does not answer".to_owned()),
                false => Fact::Known(Runtime { sandboxes: world.sandboxes.clone() }),
            },
            kubelet: Fact::Known(kubelet),
            boot: Fact::Known(self.boot),
            manifests: Fact::Known(world.directory.iter().map(|(pod, file)| (name(pod), file.uid.clone())).collect()),
        }
    }
}

impl Store {
    fn checkpoints(&self) -> Vec<Checkpoint> {
        self.rows.values().map(|row| row.checkpoint.clone()).collect()
    }

    /// Takes in a listing: a pod of another UID is another pod, which inherits what is true of its name; one that is not
    /// listed is asked for once more, and gone.
    fn follow(&mut self, pods: &BTreeMap<String, ApiPod>) {
        for (pod, api) in pods {
            let known = self.rows.get(pod).filter(|row| row.uid == api.uid);
            if known.is_some_and(|row| row.api == *api && !row.gone) {
                continue;
            }
            let object = object_of(pod, api);
            let outcome = judge::outcome(&object);
            let row = match known {
                Some(row) => Row {
                    ran: row.ran || judge::has_run(&object),
                    ended: row.ended.clone().or(outcome),
                    gone: false,
                    api: api.clone(),
                    ..row.clone()
                },
                None => {
                    let predecessor = self.rows.get(pod);
                    Row {
                        uid: api.uid.clone(),
                        kind: api.kind,
                        ran: judge::has_run(&object),
                        ended: outcome,
                        gone: false,
                        held: predecessor.is_some_and(|row| row.held),
                        republished: 0,
                        state: match predecessor.map(|row| row.state) {
                            Some(State::Active | State::ActiveGrace { .. }) => State::Active,
                            _ => State::Inactive,
                        },
                        api: api.clone(),
                        checkpoint: super::pods::checkpoint(&object, State::None),
                    }
                }
            };
            self.put(pod, row);
        }
        let gone: Vec<_> = self.rows.iter().filter(|(pod, row)| !pods.contains_key(*pod) && !row.gone).collect();
        for (pod, row) in gone.into_iter().map(|(pod, row)| (pod.clone(), row.clone())).collect::<Vec<_>>() {
            self.put(&pod, Row { gone: true, ..row });
        }
    }

    pub(crate) fn hold(&mut self, pod: &str, held: bool) {
        if let Some(row) = self.rows.get(pod).cloned() {
            self.put(pod, Row { held, ..row });
        }
    }

    fn put(&mut self, pod: &str, row: Row) {
        let object = object_of(pod, &row.api);
        let checkpoint = Checkpoint {
            examined: examined(&object, row.ran, row.ended.is_some()),
            state: row.state,
            gone: row.gone,
            held: row.held,
            republished: row.republished,
            ended: row.ended.clone(),
        };
        self.rows.insert(pod.to_owned(), Row { checkpoint, ..row });
        self.version += 1;
    }
}

fn object_of(pod: &str, api: &ApiPod) -> Object {
    let mut body = api.kind.body(usize::from(pod.as_bytes()[0]));
    body["status"] = match api.phase {
        Phase::Pending => json!({"phase": "Pending"}),
        Phase::Running => json!({"phase": "Running"}),
        Phase::Succeeded => json!({"phase": "Succeeded"}),
        Phase::Failed(reason) => json!({"phase": "Failed", "reason": reason}),
    };
    if !api.ready.is_empty() {
        body["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        let ids = api.ready.iter().map(|id| json!({"name": "c", "containerID": format!("containerd://{id}")}));
        body["status"]["containerStatuses"] = ids.collect();
    }
    if api.deleting {
        body["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    object(&name(pod), &api.uid, &body)
}

/// Brings the directory in line, as the materializer does; `half`: only what is first, then it dies.
fn act(world: &mut World, store: &Store, lives: &Lives, half: bool) {
    let planned: BTreeMap<&str, Activity> =
        lives.plan.pods.iter().map(|planned| (planned.rendering.pod.name.as_str(), planned.activity)).collect();
    let mut steps: Vec<(String, Option<Manifest>)> = Vec::new();
    for pod in world.directory.keys() {
        let stays = match planned.get(pod.as_str()) {
            Some(Activity::Active | Activity::AsItIs) => true,
            Some(Activity::Prepared) => false,
            None => lives.plan.untouched.covers(&name(pod)),
        };
        if !stays {
            steps.push((pod.clone(), None));
        }
    }
    for planned in lives.plan.pods.iter().filter(|planned| planned.activity == Activity::Active) {
        let pod = &planned.rendering.pod.name;
        let row = &store.rows[pod];
        let manifest = Manifest { uid: planned.rendering.uid.clone(), kind: row.kind, republished: row.republished };
        if world.directory.get(pod) != Some(&manifest) {
            steps.push((pod.clone(), Some(manifest)));
        }
    }
    let count = if half { 1 } else { steps.len() };
    world.version += u64::from(!steps.is_empty());
    for (pod, manifest) in steps.into_iter().take(count) {
        match manifest {
            Some(manifest) => world.directory.insert(pod, manifest),
            None => world.directory.remove(&pod),
        };
    }
}

/// Writes down what was decided: the first `count` of it, then it dies.
fn record(store: &mut Store, lives: &Lives, boot: u32, count: usize) {
    if store.read_only {
        return;
    }
    store.boot = boot;
    for record in lives.records.iter().take(count) {
        let Some(row) = store.rows.get(&record.pod.name).filter(|row| row.uid == record.uid).cloned() else { continue };
        let row = Row { state: kept(record.state), republished: record.republished, ..row };
        store.put(&record.pod.name, row);
    }
    for (pod, uid) in lives.removed.iter().take(count) {
        if store.rows.get(&pod.name).is_some_and(|row| row.uid == *uid) {
            store.rows.remove(&pod.name);
            store.version += 1;
        }
    }
    for pod in lives.released.iter().take(count) {
        store.hold(&pod.name, false);
    }
}

/// What the store keeps of a state: whole seconds, rounded up, and no state that follows from the others.
fn kept(state: State) -> State {
    let whole = |left_ms: u64| left_ms.div_ceil(1000) * 1000;
    match state {
        State::None | State::Inactive | State::Removed => State::Inactive,
        State::Active | State::SelfActive => State::Active,
        State::InactiveGrace { left_ms } => State::InactiveGrace { left_ms: whole(left_ms) },
        State::ActiveGrace { left_ms } => State::ActiveGrace { left_ms: whole(left_ms) },
        State::HandedOver { left_ms } => State::HandedOver { left_ms: whole(left_ms) },
    }
}

/// Everything that was decided, to be compared.
pub(crate) fn shown(lives: &Lives) -> String {
    let Lives { plan, standings, records, removed, released, alarms, next_ms, yielding } = lives;
    let pods: Vec<_> = plan.pods.iter().map(|planned| (&planned.rendering.pod, planned.activity)).collect();
    let untouched = &plan.untouched;
    format!(
        "{pods:?} {untouched:?} {standings:?} {records:?} {removed:?} {released:?} {alarms:?} {next_ms:?} {yielding}"
    )
}

/// What the rules say of the node of the world.
pub(crate) fn rules(world: &World) -> Rules {
    Rules { pods_max: Some(world.room), others: OTHERS, ..Rules::default() }
}
