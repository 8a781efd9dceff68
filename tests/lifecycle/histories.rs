//! Random histories of a node, and what must hold at each step of each of them.
//!
//! `CKPT_DB_HISTORIES` says how many, or which (`5000..10000`); `CKPT_DB_HISTORY` replays the one with this seed and tells it. Seeds of failures that were
//! found are in `tests/lifecycle/regressions.txt`, and are always among those that run.

use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ckpt_db::checkpoint::lifecycle::{Rules, Running, Standing, Why};
use ckpt_db::checkpoint::look::Answers;

use super::agent::{Agent, Death, Decided, Store, rules};
use super::random::Random;
use super::world::{ApiPod, Kind, Mode, Phase, World};

const HISTORIES: u64 = 200;
const EVENTS: u64 = 30;
const GRACE_S: u64 = 60;
const DELAY_S: u64 = 30;
/// For how long copies make way after a sign of life.
const WAY_S: u64 = 30;

/// A world with an agent in it, and what has to be remembered to judge it.
struct History {
    world: World,
    store: Store,
    agent: Option<Agent>,
    rules: Rules,
    /// When the agent comes back by itself.
    agent_at: Option<u64>,
    death: Option<Death>,
    /// Older states of the API server, as backups.
    backups: Vec<BTreeMap<String, ApiPod>>,
    /// When an agent that runs last saw something else than silence.
    unsilent_at: u64,
    /// For how many seconds an agent has had it from the API server that the pod with this UID is gone or over.
    over_s: BTreeMap<String, u64>,
    /// How often a copy was started in this time of silence, and how often something happened that may have made it so.
    starts: BTreeMap<String, u32>,
    disturbances: u32,
    /// The copies that have made way in this outage, and when.
    ways: BTreeMap<String, u64>,
    tells: bool,
}

impl History {
    fn new(seed: u64) -> Self {
        let world = World::new(Random::new(seed));
        let store = Store::default();
        let agent = Some(Agent::start(&world, &store));
        let rules = rules(&world);
        let unsilent_at = world.t;
        let tells = env::var("CKPT_DB_HISTORY").is_ok();
        let mut history = Self {
            world,
            store,
            agent,
            rules,
            agent_at: None,
            death: None,
            backups: Vec::new(),
            unsilent_at,
            over_s: BTreeMap::new(),
            starts: BTreeMap::new(),
            disturbances: 0,
            ways: BTreeMap::new(),
            tells,
        };
        history.tell(&format!("{:?}, room for {}", history.world.kinds, history.world.room));
        history.pass(45);
        history
    }

    fn tell(&self, what: &str) {
        if self.tells {
            eprintln!("{:>6} {what}", self.world.t);
        }
    }

    /// Time passes.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second();
        }
    }

    fn second(&mut self) {
        if self.agent_at.is_some_and(|at| self.world.t >= at) {
            self.agent_at = None;
            if self.agent.is_none() {
                self.agent = Some(Agent::start(&self.world, &self.store));
                self.disturbances += 1;
                // It knows nothing of what was before.
                self.world.sign_at = None;
                self.ways.clear();
            }
        }
        self.keep();
        self.world.step();
        assert!(self.world.evicted.is_empty(), "a running pod was evicted: {:?}", self.world.evicted);
        if !self.world.rejected.is_empty() {
            let rejected = std::mem::take(&mut self.world.rejected);
            // Nobody gives way where nobody is: two seconds are what an agent that runs takes at most.
            let awake = self.agent.as_ref().is_some_and(|agent| agent.since + 2 <= self.world.t);
            assert!(!awake, "rejected beside a copy: {rejected:?}");
        }
    }

    /// The agent's part of a second.
    fn keep(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        if self.world.reach() != Mode::Down {
            self.unsilent_at = self.world.t;
        }
        for (pod, row) in &self.store.rows {
            let over = self.world.pods.get(pod).is_none_or(|api| api.uid != row.uid || api.is_over());
            match (self.world.reach(), over) {
                (Mode::Up, true) => *self.over_s.entry(row.uid.clone()).or_default() += 1,
                (Mode::Up, false) => drop(self.over_s.remove(&row.uid)),
                (Mode::Down | Mode::Refusing, _) => {}
            }
        }
        if self.world.reach() == Mode::Up {
            self.ways.clear();
        }
        let before = self.store.clone();
        let death = self.death;
        let Some(decided) = agent.tick(&mut self.world, &mut self.store, &self.rules, death) else { return };
        for pod in &decided.started {
            self.tell(&format!("copy of {pod} started"));
            self.check_start(pod, &before, &decided);
        }
        for pod in &decided.stopped {
            self.tell(&format!("copy of {pod} stopped"));
            self.check_stop(pod, &before, &decided);
        }
        self.check_removals(&before, &decided);
        if death.is_some() {
            self.tell(&format!("the agent dies: {death:?}"));
            (self.agent, self.death) = (None, None);
            self.agent_at = Some(self.world.t + 5);
            return;
        }
        self.check_twice();
    }

    // ---- What must hold ----------------------------------------------------------------------------------------------

    fn check_start(&mut self, pod: &str, before: &Store, decided: &Decided) {
        // What the agent decided by, which this second's listing may have changed.
        let row = self.store.rows.get(pod).or_else(|| before.rows.get(pod)).unwrap();
        let (kind, uid) = (row.kind, &row.uid);
        let Decided { look, .. } = decided;
        assert!(!self.world.name_runs(pod), "{pod}: its parent runs, or another pod of its name, {uid}");
        assert!(kind.is_copied(), "{pod}: {kind:?} is not to be copied");
        assert!(row.ended.is_none(), "{pod}: it has ended: {:?}", row.ended);
        assert!(!before.rows.get(pod).is_some_and(|row| row.held), "{pod}: it is held");
        match look.api.reach {
            Answers::Silent => {}
            // A parent that is named comes; one that a shutdown of the node has ended is not.
            Answers::Answering => {
                let named = look.api.sighted.keys().any(|named| named.name == *pod);
                assert!(kind.annotated() && !(kind.yields() && named), "{pod}: the API server answers");
            }
            Answers::Refusing => assert!(self.ways.contains_key(pod), "{pod}: the API server refuses"),
        }
        let way_s = look.api.sign_ms.map(|at_ms| (look.now_ms - at_ms) / 1000);
        assert!(!kind.makes_way() || way_s.is_none_or(|way_s| way_s >= WAY_S), "{pod}: in its parent's way");
        let returns = self.ways.get(pod).is_some_and(|at| self.world.t - at >= WAY_S);
        let silent_s = self.world.t - self.unsilent_at.max(self.agent.as_ref().unwrap().since);
        assert!(kind.urgent() || silent_s >= DELAY_S || returns, "{pod}: started after {silent_s} s");
        let starts = self.starts.entry(pod.to_owned()).or_default();
        *starts += 1;
        assert!(*starts <= 1 + self.disturbances, "{pod}: started {starts} times, {} disturbances", self.disturbances);
    }

    fn check_stop(&mut self, pod: &str, before: &Store, decided: &Decided) {
        let runs = self.world.copy_runs(pod);
        let Some(row) = before.rows.get(pod) else { return assert!(!runs, "{pod}: nobody knew it") };
        let Decided { look, .. } = decided;
        let answers = look.api.reach == Answers::Answering;
        let now = self.store.rows.get(pod).unwrap_or(row);
        let named = answers && look.api.sighted.keys().any(|named| named.name == pod);
        let full = self.world.room < 110;
        let over_s = self.over_s.get(&row.uid).copied().unwrap_or_default();
        let way = look.api.sign_ms.is_some_and(|at_ms| look.now_ms - at_ms < WAY_S * 1000);
        let makes_way = way && !answers && (row.kind.makes_way() || full && !row.kind.host_network());
        if makes_way && !row.held && !self.world.parent_runs(&now.uid) {
            let again = self.ways.insert(pod.to_owned(), self.world.t);
            assert_eq!(again, None, "{pod}: it makes way twice in one outage");
        }
        if !runs {
            return;
        }
        let why = [
            ("held", row.held),
            ("makes way", makes_way),
            ("yields", named && (row.kind.yields() || full)),
            ("the parent runs", self.world.parent_runs(&now.uid)),
            ("its successor runs", named && self.world.name_runs(pod)),
            ("the parent comes", answers && row.kind.host_network() && self.world.parent_has_container(&now.uid)),
            ("the grace period has ended", answers && over_s >= GRACE_S),
        ];
        assert!(
            why.iter().any(|(_, holds)| *holds),
            "{pod}: stopped though it runs, over for {over_s} s: {:?}",
            decided.lives.standings
        );
        let yields = row.kind.yields() || full && named || makes_way;
        let waits = row.kind.host_network() || yields || row.held || over_s >= GRACE_S;
        // No gap: the parent runs well, or is ready.
        let standing = decided.lives.standings.iter().find(|standing| standing.pod.name == pod);
        assert!(waits || standing.is_none_or(|standing| standing.running == Running::Yes), "{pod}: a gap");
    }

    fn check_removals(&self, before: &Store, decided: &Decided) {
        for (pod, uid) in &decided.lives.removed {
            let over_s = self.over_s.get(uid).copied().unwrap_or_default();
            assert_eq!(decided.look.api.reach, Answers::Answering, "{pod} removed without an answer");
            assert!(over_s >= GRACE_S, "{pod} removed after {over_s} s");
            assert!(self.world.pods.values().all(|api| api.uid != *uid), "{pod} removed, and it is there");
        }
        for (pod, row) in &before.rows {
            let removed = decided.lives.removed.iter().any(|(_, uid)| *uid == row.uid);
            let replaced = decided.look.api.reach == Answers::Answering && self.world.pods.contains_key(pod);
            assert!(self.store.rows.contains_key(pod) || removed || replaced, "{pod} was lost");
        }
    }

    fn check_twice(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let directory = self.world.directory.clone();
        let (_, lives) = agent.decide_again(&self.world, &self.store, &self.rules);
        for planned in &lives.plan.pods {
            let pod = &planned.rendering.pod.name;
            let active = directory.contains_key(pod);
            let standing = lives.standings.iter().find(|standing| standing.pod == planned.rendering.pod).unwrap();
            assert_eq!(standing.state.is_active(), active, "{pod}: the second decision wants something else");
        }
        if !self.store.read_only {
            assert!(lives.records.is_empty(), "the second decision records {:?}", lives.records);
            assert!(lives.removed.is_empty(), "the second decision removes {:?}", lives.removed);
        }
    }

    // ---- What happens ------------------------------------------------------------------------------------------------

    fn event(&mut self) {
        let names: Vec<String> = self.world.kinds.keys().cloned().collect();
        let pod = self.world.random.pick(&names);
        let what = self.world.random.below(33);
        self.disturbances += 1;
        self.world.version += 1;
        match what {
            0..=2 => self.set_api(Mode::Down),
            3..=5 => self.set_api(Mode::Up),
            30 => self.sign(),
            // As it starts: it takes connections some seconds before it answers.
            31..=32 => {
                self.sign();
                let seconds = self.world.random.below(40);
                self.pass(seconds);
                self.set_api(Mode::Up);
            }
            6 => self.set_api(Mode::Refusing),
            7..=10 => {
                let off = self.world.random.below(100);
                self.reboot(off);
            }
            11 => {
                self.tell("the kubelet stops");
                self.world.kubelet = None;
            }
            12 => {
                self.tell("the kubelet is started anew");
                self.world.kubelet = None;
                self.world.start_kubelet();
            }
            13..=14 => {
                self.tell("a container is killed");
                self.world.kill_container();
            }
            15 => {
                self.tell("a sandbox is killed");
                self.world.kill_sandbox();
            }
            16 => {
                self.world.runtime_fails = !self.world.runtime_fails;
                self.tell(&format!("the runtime fails: {}", self.world.runtime_fails));
            }
            17..=18 => {
                self.tell(&format!("{pod} is deleted"));
                if let Some(api) = self.world.pods.get_mut(&pod) {
                    api.deleting = true;
                }
            }
            19 => {
                self.tell(&format!("{pod} is deleted by force"));
                self.world.pods.remove(&pod);
            }
            20..=21 => {
                self.tell(&format!("{pod} is made anew"));
                self.world.create(&pod);
            }
            22 => {
                let phase =
                    self.world.random.pick(&[Phase::Succeeded, Phase::Failed("Evicted"), Phase::Failed("Terminated")]);
                self.tell(&format!("{pod} ends: {phase:?}"));
                if let Some(api) = self.world.pods.get_mut(&pod).filter(|api| !api.is_over()) {
                    api.phase = phase;
                }
            }
            23 => {
                self.tell("a backup is made");
                self.backups.push(self.world.pods.clone());
            }
            24 => {
                if let Some(backup) = self.backups.pop() {
                    self.tell("the backup is restored");
                    self.world.pods = backup;
                }
            }
            25 => {
                let deaths =
                    [Death::BeforeActing, Death::AfterFirstFile, Death::BeforeRecording, Death::AfterFirstRecord];
                self.death = Some(self.world.random.pick(&deaths));
            }
            26 => {
                self.tell("the agent is stopped");
                (self.agent, self.death) = (None, None);
                self.agent_at = Some(self.world.t + self.world.random.below(200));
            }
            27 => {
                self.store.read_only = !self.store.read_only;
                self.tell(&format!("the store is read-only: {}", self.store.read_only));
            }
            28 => {
                self.tell(&format!("{pod} is held"));
                self.store.hold(&pod, true);
            }
            _ => {
                self.tell(&format!("{pod} is released"));
                self.store.hold(&pod, false);
            }
        }
    }

    fn sign(&mut self) {
        self.tell("the API server takes connections");
        self.world.sign();
    }

    fn set_api(&mut self, mode: Mode) {
        if self.world.api == mode {
            return;
        }
        self.tell(&format!("the API server is {mode:?}"));
        self.world.set_api(mode);
        (self.starts, self.disturbances) = (BTreeMap::new(), 0);
    }

    /// The agent starts before the kubelet, or late, or with it.
    fn reboot(&mut self, off: u64) {
        self.tell(&format!("the power goes for {off} s"));
        self.world.reboot(off);
        (self.agent, self.death) = (None, None);
        self.agent_at = Some(self.world.t + self.world.random.pick(&[0, 0, 0, 2, 100]));
        if self.agent_at == Some(self.world.t) {
            self.second();
        }
        let kubelet_after = self.world.random.below(20);
        self.pass(kubelet_after);
        self.world.start_kubelet();
        self.world.version += 1;
        self.tell("the kubelet starts");
    }

    // ---- How it ends -------------------------------------------------------------------------------------------------

    /// Everything works but the API server: whatever can come back runs again.
    fn recovers(&mut self) {
        self.set_api(Mode::Down);
        self.mend();
        self.settle(20 * 60, "does not run", |history, standing, is_planned| {
            let pod = &standing.pod.name;
            let row = &history.store.rows[pod];
            let excused = !is_planned
                || !row.kind.is_copied()
                || row.gone
                || row.kind == Kind::CrashLoops
                || standing.why == Why::NoRoom
                || history.world.kubelet_knows(&row.uid);
            excused || history.world.name_runs(pod) || history.world.copy_runs(pod)
        });
    }

    /// Then the API server is back: every parent runs, and no copy is left.
    fn hands_over(&mut self) {
        self.set_api(Mode::Up);
        self.mend();
        // Whatever makes pods makes those anew that have ended or were never there.
        for pod in self.world.kinds.clone().keys() {
            if self.world.pods.get(pod).is_none_or(ApiPod::is_over) {
                self.world.create(pod);
            }
        }
        self.settle(25 * 60, "was not handed over", |history, standing, _| {
            let pod = &standing.pod.name;
            let api = history.world.pods.get(pod);
            let rejected = api.is_some_and(|api| matches!(api.phase, Phase::Failed(_)));
            let loops = history.world.kinds[pod] == Kind::CrashLoops;
            let runs = api.is_some_and(|api| history.world.parent_runs(&api.uid));
            rejected || !standing.state.is_active() && (runs || loops)
        });
        let left = self.world.directory.keys().filter(|pod| !self.store.rows.contains_key(*pod)).count();
        assert_eq!(left, 0, "files of nobody are left");
    }

    /// Waits until `holds` of every checkpoint, and for a while more.
    fn settle(&mut self, seconds: u64, wrong: &str, holds: impl Fn(&Self, &Standing, bool) -> bool) {
        let until = self.world.t + seconds;
        let mut held = false;
        loop {
            self.pass(20);
            let agent = self.agent.as_mut().unwrap();
            let (_, lives) = agent.decide_again(&self.world, &self.store, &self.rules);
            let planned = |standing: &Standing| lives.plan.pods.iter().any(|one| one.rendering.pod == standing.pod);
            let bad = lives.standings.iter().find(|standing| !holds(self, standing, planned(standing)));
            match bad {
                None if held => return,
                None => {
                    held = true;
                    self.pass(100);
                }
                Some(bad) => {
                    held = false;
                    assert!(self.world.t < until, "{} {wrong}: {bad:?}", bad.pod);
                }
            }
        }
    }

    fn mend(&mut self) {
        self.tell("everything is mended");
        self.disturbances += 1;
        self.world.version += 1;
        self.world.runtime_fails = false;
        self.store.read_only = false;
        for pod in self.world.kinds.clone().keys() {
            self.store.hold(pod, false);
        }
        self.world.start_kubelet();
        self.death = None;
        if self.agent.is_none() {
            self.agent_at = Some(self.world.t);
        }
    }
}

fn run(seed: u64) {
    let mut history = History::new(seed);
    let events = 1 + history.world.random.below(EVENTS);
    for _ in 0..events {
        history.event();
        let seconds = history.world.random.pick(&[0, 1, 2, 3, 5, 10, 20, 40, 70, 130]);
        history.pass(seconds);
    }
    history.recovers();
    history.hands_over();
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn random_histories() {
    if let Some(seed) = number("CKPT_DB_HISTORY") {
        return run(seed);
    }
    let known = include_str!("regressions.txt").lines().filter(|line| !line.starts_with('#'));
    let known = known.map(|line| line.split_whitespace().next().unwrap().parse().unwrap());
    let histories = env::var("CKPT_DB_HISTORIES").map_or(0..HISTORIES, |text| {
        // A part of them, so that each core can have its own.
        let (from, to) = text.split_once("..").unwrap_or(("0", &text));
        from.parse().expect("CKPT_DB_HISTORIES is N or FROM..TO")
            ..to.parse().expect("CKPT_DB_HISTORIES is N or FROM..TO")
    });
    let mut failed = Vec::new();
    let mut count = 0;
    for seed in known.chain(histories) {
        count += 1;
        if catch_unwind(AssertUnwindSafe(|| run(seed))).is_err() {
            failed.push(seed);
        }
        assert!(failed.len() < 10, "histories with these seeds fail (CKPT_DB_HISTORY=seed tells one): {failed:?}");
    }
    assert!(failed.is_empty(), "histories with these seeds fail (CKPT_DB_HISTORY=seed tells one): {failed:?}");
    println!("campaign: histories: {count} judged, 0 wrong");
}
