//! A small node, one second at a time: an API server, a kubelet and a container runtime, as far as they matter for who runs.
//! It knows nothing of the code under test.

use std::collections::{BTreeMap, BTreeSet};

use ckpt_db::checkpoint::look::{Container, ContainerState, Sandbox};
use serde_json::{Value, json};

use super::pods::{ANNOTATED, name};
use super::random::Random;

pub(crate) const NODE: &str = "edge-1";
/// Static pods of others.
pub(crate) const OTHERS: u32 = 1;
/// A kubelet tries a crashing container again at the latest after this.
const LONGEST_BACK_OFF_S: u64 = 300;

/// What kind of pod it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Annotated,
    Critical,
    HostPort,
    AnnotatedHostPort,
    Writer,
    HostNetwork,
    AnnotatedHostNetwork,
    StatefulSet,
    AnnotatedStatefulSet,
    RunsOnce,
    CrashLoops,
}

pub(crate) const KINDS: [Kind; 12] = [
    Kind::Plain,
    Kind::Annotated,
    Kind::Critical,
    Kind::HostPort,
    Kind::AnnotatedHostPort,
    Kind::Writer,
    Kind::HostNetwork,
    Kind::AnnotatedHostNetwork,
    Kind::StatefulSet,
    Kind::AnnotatedStatefulSet,
    Kind::RunsOnce,
    Kind::CrashLoops,
];

impl Kind {
    pub(crate) fn annotated(self) -> bool {
        matches!(
            self,
            Self::Annotated | Self::AnnotatedHostPort | Self::AnnotatedHostNetwork | Self::AnnotatedStatefulSet
        )
    }

    /// Whether its copy is started without waiting for silence.
    pub(crate) fn urgent(self) -> bool {
        self.annotated() || self == Self::Critical
    }

    /// Whether a copy of it is ever started.
    pub(crate) fn is_copied(self) -> bool {
        !matches!(self, Self::StatefulSet | Self::RunsOnce)
    }

    /// Whether parent and copy must not be there at the same time.
    pub(crate) fn yields(self) -> bool {
        self.host_port() || matches!(self, Self::Writer | Self::StatefulSet | Self::AnnotatedStatefulSet)
    }

    /// Whether its copy goes when the API server gives a sign of life.
    pub(crate) fn makes_way(self) -> bool {
        self.yields()
    }

    fn host_port(self) -> bool {
        matches!(self, Self::HostPort | Self::AnnotatedHostPort)
    }

    /// Whether parent and copy can't both serve.
    pub(crate) fn host_network(self) -> bool {
        matches!(self, Self::HostNetwork | Self::AnnotatedHostNetwork)
    }

    /// What makes it such a pod; `n` tells it from others of its kind.
    pub(crate) fn body(self, n: usize) -> Value {
        let mut body = match self {
            Self::Plain | Self::Annotated | Self::CrashLoops => json!({}),
            Self::Critical => json!({"spec": {"priority": 2_000_000_000}}),
            Self::HostPort | Self::AnnotatedHostPort => json!({"spec": {"containers": [
                {"name": "c", "image": "i:1", "ports": [{"containerPort": 80, "hostPort": 8000 + n}]}]}}),
            Self::Writer => json!({"spec": {
                "volumes": [{"name": "v", "hostPath": {"path": "/data"}}],
                "containers": [{"name": "c", "image": "i:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}),
            Self::HostNetwork | Self::AnnotatedHostNetwork => json!({"spec": {"hostNetwork": true}}),
            Self::StatefulSet | Self::AnnotatedStatefulSet => json!({"metadata": {"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "u"}]}}),
            Self::RunsOnce => json!({"spec": {"restartPolicy": "Never"}}),
        };
        if self.annotated() {
            body["metadata"]["annotations"][ANNOTATED] = json!("true");
        }
        body
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed(&'static str),
}

/// A pod as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiPod {
    pub(crate) uid: String,
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
    pub(crate) deleting: bool,
    pub(crate) ready: BTreeSet<String>,
}

impl ApiPod {
    /// Whether the kubelet won't run it (any more).
    pub(crate) fn is_over(&self) -> bool {
        self.deleting || matches!(self.phase, Phase::Succeeded | Phase::Failed(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    Down,
    Refusing,
}

/// The kubelet's process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) since: u64,
    /// The version of the world in which it read its directory.
    read: u64,
    /// When it will have seen its pods.
    sees_at: Option<u64>,
    /// The API's pods that it has admitted, by UID.
    admitted: BTreeMap<String, (String, Kind)>,
    /// The files that it runs, by the UID that it makes up.
    statics: BTreeMap<String, Static>,
}

#[derive(Clone, Debug)]
struct Static {
    pod: String,
    parent_uid: String,
    kind: Kind,
    runs: bool,
}

/// A manifest of ours in the kubelet's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) uid: String,
    pub(crate) kind: Kind,
    pub(crate) republished: u32,
}

pub(crate) struct World {
    pub(crate) random: Random,
    /// Counts what changes.
    pub(crate) version: u64,
    /// Seconds since the beginning; what no clock of the node shows.
    pub(crate) t: u64,
    pub(crate) booted: u64,
    pub(crate) boot: u32,
    /// When the network is up in this boot.
    pub(crate) route_at: u64,
    pub(crate) api: Mode,
    pub(crate) api_since: u64,
    /// When it gave its first sign of life in this outage: it took connections, and answered nobody.
    pub(crate) sign_at: Option<u64>,
    pub(crate) pods: BTreeMap<String, ApiPod>,
    pub(crate) kinds: BTreeMap<String, Kind>,
    uids: u32,
    pub(crate) kubelet: Option<Process>,
    pub(crate) kubelet_ran: bool,
    pub(crate) directory: BTreeMap<String, Manifest>,
    pub(crate) sandboxes: Vec<Sandbox>,
    /// By container: since when it runs, or since when it does not.
    changed: BTreeMap<String, u64>,
    containers: u32,
    pub(crate) runtime_fails: bool,
    pub(crate) room: u32,
    /// Running pods that had to go for a copy.
    pub(crate) evicted: Vec<String>,
    /// Parents that found no place because of a copy.
    pub(crate) rejected: Vec<String>,
}

impl World {
    pub(crate) fn new(mut random: Random) -> Self {
        let names = ["a", "b", "c", "d", "e"];
        let kinds: BTreeMap<String, Kind> =
            names.into_iter().map(|name| (name.to_owned(), random.pick(&KINDS))).collect();
        let room = random.pick(&[110, 110, 6, 7, 8]);
        let mut world = Self {
            random,
            version: 1,
            t: 1000,
            booted: 900,
            boot: 1,
            route_at: 0,
            api: Mode::Up,
            api_since: 0,
            sign_at: None,
            pods: BTreeMap::new(),
            kinds,
            uids: 0,
            kubelet: None,
            kubelet_ran: true,
            directory: BTreeMap::new(),
            sandboxes: Vec::new(),
            changed: BTreeMap::new(),
            containers: 0,
            runtime_fails: false,
            room,
            evicted: Vec::new(),
            rejected: Vec::new(),
        };
        for name in names {
            world.create(name);
        }
        world.start_kubelet();
        world
    }

    // ---- What happens to it ------------------------------------------------------------------------------------------

    pub(crate) fn create(&mut self, name: &str) {
        self.uids += 1;
        let uid = format!("{name}-{}", self.uids);
        let kind = self.kinds[name];
        let pod = ApiPod { uid, kind, phase: Phase::Pending, deleting: false, ready: BTreeSet::new() };
        self.pods.insert(name.to_owned(), pod);
        self.version += 1;
    }

    pub(crate) fn set_api(&mut self, mode: Mode) {
        if self.api != mode {
            if self.api == Mode::Up {
                self.sign_at = None;
            }
            (self.api, self.api_since) = (mode, self.t);
        }
    }

    /// The API server takes connections, though it answers nobody: a sign of life, if anybody can see it.
    pub(crate) fn sign(&mut self) {
        if self.api == Mode::Down && self.t >= self.route_at {
            self.sign_at.get_or_insert(self.t);
        }
    }

    pub(crate) fn start_kubelet(&mut self) {
        if self.kubelet.is_none() {
            self.kubelet_ran = true;
            let (admitted, statics) = (BTreeMap::new(), BTreeMap::new());
            self.kubelet = Some(Process { since: self.t, read: 0, sees_at: None, admitted, statics });
        }
    }

    /// The power goes, and comes back after `off` seconds: nothing runs, and nobody has started anything yet.
    pub(crate) fn reboot(&mut self, off: u64) {
        self.t += off;
        (self.booted, self.boot) = (self.t, self.boot + 1);
        self.sign_at = None;
        self.route_at = self.t + self.random.below(40);
        (self.kubelet, self.kubelet_ran) = (None, false);
        self.runtime_fails = false;
        let forgets = self.random.one_in(2);
        self.sandboxes.retain(|_| !forgets);
        for sandbox in &mut self.sandboxes {
            sandbox.ready = false;
            for container in &mut sandbox.containers {
                container.state = ContainerState::Exited;
            }
        }
    }

    /// Some container ends.
    pub(crate) fn kill_container(&mut self) {
        let running: Vec<String> = self.running().map(|(_, container)| container.id.clone()).collect();
        if !running.is_empty() {
            let id = self.random.pick(&running);
            self.exit(&id);
        }
    }

    /// Some sandbox dies with what is in it.
    pub(crate) fn kill_sandbox(&mut self) {
        let ready: Vec<String> = self.sandboxes.iter().filter(|s| s.ready).map(|s| s.id.clone()).collect();
        if !ready.is_empty() {
            let id = self.random.pick(&ready);
            self.remove_sandboxes(|sandbox| sandbox.id == id);
        }
    }

    // ---- What is true of it ------------------------------------------------------------------------------------------

    /// Whether the API server can be asked.
    pub(crate) fn reach(&self) -> Mode {
        if self.t < self.route_at { Mode::Down } else { self.api }
    }

    /// Milliseconds since the machine was switched on.
    pub(crate) fn now_ms(&self) -> u64 {
        self.ms(self.t)
    }

    pub(crate) fn ms(&self, t: u64) -> u64 {
        t.saturating_sub(self.booted) * 1000
    }

    fn running(&self) -> impl Iterator<Item = (&Sandbox, &Container)> {
        let all = self.sandboxes.iter().flat_map(|sandbox| sandbox.containers.iter().map(move |c| (sandbox, c)));
        all.filter(|(_, container)| container.state == ContainerState::Running)
    }

    /// Whether the parent with this UID has a running container.
    pub(crate) fn parent_runs(&self, uid: &str) -> bool {
        self.running().any(|(sandbox, _)| sandbox.parent_uid.is_none() && sandbox.uid == uid)
    }

    /// Whether any pod of the API with this name has a running container.
    pub(crate) fn name_runs(&self, pod: &str) -> bool {
        self.running().any(|(sandbox, _)| sandbox.parent_uid.is_none() && sandbox.pod.name == pod)
    }

    /// Whether the parent with this UID has a container in a ready sandbox.
    pub(crate) fn parent_has_container(&self, uid: &str) -> bool {
        let mut own = self.sandboxes.iter().filter(|s| s.ready && s.parent_uid.is_none() && s.uid == uid);
        own.any(|sandbox| !sandbox.containers.is_empty())
    }

    /// Whether a copy of the pod has a running container.
    pub(crate) fn copy_runs(&self, pod: &str) -> bool {
        let copy = format!("{pod}-{NODE}");
        self.running().any(|(sandbox, _)| sandbox.parent_uid.is_some() && sandbox.pod.name == copy)
    }

    /// Whether the kubelet has heard of the API server since it runs.
    pub(crate) fn kubelet_knows(&self, uid: &str) -> bool {
        self.kubelet.as_ref().is_some_and(|kubelet| kubelet.admitted.contains_key(uid))
    }

    // ---- One second --------------------------------------------------------------------------------------------------

    pub(crate) fn step(&mut self) {
        self.t += 1;
        self.crash();
        let Some(mut kubelet) = self.kubelet.take() else { return };
        self.read_directory(&mut kubelet);
        self.see_pods(&mut kubelet);
        self.run_pods(&kubelet);
        self.report(&kubelet);
        self.kubelet = Some(kubelet);
    }

    /// What crashes, and what can't get its port.
    fn crash(&mut self) {
        let mut ended = Vec::new();
        for (sandbox, container) in self.running() {
            let age = self.t - self.changed[&container.id];
            let pod = sandbox.pod.name.trim_end_matches(&format!("-{NODE}")).to_owned();
            let Some(&kind) = self.kinds.get(&pod) else { continue };
            let taken = kind.host_network()
                && self.running().any(|(other, c)| {
                    other.pod.name.trim_end_matches(&format!("-{NODE}")) == pod
                        && other.id != sandbox.id
                        && self.changed[&c.id] < self.changed[&container.id]
                });
            if taken || kind == Kind::CrashLoops && age >= 4 {
                ended.push(container.id.clone());
            }
        }
        for id in ended {
            self.exit(&id);
        }
    }

    fn exit(&mut self, id: &str) {
        let mut containers = self.sandboxes.iter_mut().flat_map(|sandbox| &mut sandbox.containers);
        if let Some(container) = containers.find(|container| container.id == id) {
            container.state = ContainerState::Exited;
            self.changed.insert(id.to_owned(), self.t);
            self.version += 1;
        }
    }

    fn remove_sandboxes(&mut self, of: impl Fn(&Sandbox) -> bool) {
        let before = self.sandboxes.len();
        self.sandboxes.retain(|sandbox| !of(sandbox));
        self.version += u64::from(self.sandboxes.len() != before);
    }

    /// Static pods: what is there runs, and what makes place for it is evicted.
    fn read_directory(&mut self, kubelet: &mut Process) {
        if kubelet.statics.len() == self.directory.len() && kubelet.read == self.version {
            return;
        }
        kubelet.read = self.version;
        let there: BTreeMap<String, (String, Manifest)> = self
            .directory
            .iter()
            .map(|(pod, manifest)| {
                let uid = format!("static-{pod}-{}-{}", manifest.uid, manifest.republished);
                (uid, (pod.clone(), manifest.clone()))
            })
            .collect();
        kubelet.statics.retain(|uid, _| there.contains_key(uid));
        self.remove_sandboxes(|sandbox| sandbox.parent_uid.is_some() && !kubelet.statics.contains_key(&sandbox.uid));
        for (uid, (pod, manifest)) in there {
            if kubelet.statics.contains_key(&uid) {
                continue;
            }
            let port = manifest.kind.host_port()
                && kubelet.admitted.values().any(|(other, kind)| *other == pod && kind.host_port());
            while !port && self.count(kubelet) >= self.room && !kubelet.admitted.is_empty() {
                let (evicted, _) = kubelet.admitted.pop_first().unwrap();
                if self.parent_runs(&evicted) {
                    self.evicted.push(format!("{evicted} for a copy of {pod}"));
                }
                self.remove_sandboxes(|sandbox| sandbox.uid == evicted);
            }
            // Now and then a kubelet or a runtime does not manage, until it is told anew; not for ever.
            let runs = !port && (!self.random.one_in(10) || manifest.republished >= 2);
            kubelet.statics.insert(uid, Static { pod, parent_uid: manifest.uid, kind: manifest.kind, runs });
        }
    }

    fn count(&self, kubelet: &Process) -> u32 {
        OTHERS + u32::try_from(kubelet.admitted.len() + kubelet.statics.len()).unwrap()
    }

    /// What the API server says, once it was asked; then it is followed.
    fn see_pods(&mut self, kubelet: &mut Process) {
        if self.reach() != Mode::Up {
            kubelet.sees_at = None;
            return;
        }
        // A request that waited in the server is answered as soon as anybody's is. Without a sign before it nobody can be
        // faster than that, so it is left out.
        let waited = self.sign_at.is_some_and(|at| (3..25).contains(&(self.t - at))) && self.random.one_in(2);
        self.sign_at = None;
        let delay = if waited { 0 } else { 2 + self.random.below(27) };
        let sees_at = *kubelet.sees_at.get_or_insert(self.t + delay);
        if self.t < sees_at {
            return;
        }
        let bound: BTreeMap<String, String> =
            self.pods.iter().map(|(pod, api)| (api.uid.clone(), pod.clone())).collect();
        kubelet.admitted.retain(|uid, _| bound.contains_key(uid));
        self.remove_sandboxes(|sandbox| {
            let of_api = sandbox.parent_uid.is_none() && !sandbox.uid.starts_with("static");
            of_api && !bound.contains_key(&sandbox.uid)
        });
        for (uid, pod) in bound {
            let api = self.pods[&pod].clone();
            if api.is_over() {
                kubelet.admitted.remove(&uid);
                self.remove_sandboxes(|sandbox| sandbox.uid == uid);
                if api.deleting {
                    self.pods.remove(&pod);
                    self.version += 1;
                }
                continue;
            }
            if kubelet.admitted.contains_key(&uid) {
                continue;
            }
            let copies = kubelet.statics.values().filter(|copy| copy.kind.host_port() && api.kind.host_port());
            let port = copies.filter(|copy| copy.pod == pod).count() > 0;
            let full = self.count(kubelet) >= self.room;
            if port || full {
                let by_copies = port || OTHERS + u32::try_from(kubelet.admitted.len()).unwrap() < self.room;
                if by_copies {
                    self.rejected.push(format!("{uid}: {}", if port { "NodePorts" } else { "OutOfpods" }));
                }
                let reason = if port { "NodePorts" } else { "OutOfpods" };
                self.pods.get_mut(&pod).unwrap().phase = Phase::Failed(reason);
                self.version += 1;
                self.remove_sandboxes(|sandbox| sandbox.uid == uid);
                continue;
            }
            kubelet.admitted.insert(uid, (pod, api.kind));
        }
    }

    fn run_pods(&mut self, kubelet: &Process) {
        if !self.sandboxes.iter().any(|sandbox| sandbox.ready && sandbox.uid == "static-of-others") {
            self.run("static-of-others", &format!("other-{NODE}"), None);
        }
        let parents = kubelet.admitted.iter().map(|(uid, (pod, _))| (uid.clone(), pod.clone(), None));
        let copies = kubelet.statics.iter().filter(|(_, copy)| copy.runs);
        let copies =
            copies.map(|(uid, copy)| (uid.clone(), format!("{}-{NODE}", copy.pod), Some(copy.parent_uid.clone())));
        let all: Vec<_> = parents.chain(copies).collect();
        for (uid, pod, parent_uid) in all {
            self.run(&uid, &pod, parent_uid);
        }
    }

    fn run(&mut self, uid: &str, pod: &str, parent_uid: Option<String>) {
        if self.runtime_fails {
            return;
        }
        let at = match self.sandboxes.iter().position(|sandbox| sandbox.ready && sandbox.uid == uid) {
            Some(at) => at,
            None => {
                self.remove_sandboxes(|sandbox| sandbox.uid == uid);
                self.containers += 1;
                self.sandboxes.push(Sandbox {
                    id: format!("s{}", self.containers),
                    pod: name(pod),
                    uid: uid.to_owned(),
                    ready: true,
                    parent_uid,
                    // The wall clock jumps to and fro all the time.
                    created_at_unix_ns: (i64::try_from(self.t * 7919 % 100_000).unwrap() - 50_000) * 1_000_000_000,
                    containers: Vec::new(),
                });
                self.sandboxes.len() - 1
            }
        };
        let last = self.sandboxes[at].containers.last();
        let attempt = last.map_or(0, |container| container.attempt + 1);
        let back_off = 10 * 2_u64.saturating_pow(attempt.saturating_sub(1)).min(LONGEST_BACK_OFF_S / 10);
        let starts = last.is_none_or(|container| {
            container.state != ContainerState::Running && self.t - self.changed[&container.id] >= back_off
        });
        if starts {
            self.containers += 1;
            self.version += 1;
            let id = format!("c{}", self.containers);
            let container = Container { id: id.clone(), name: "c".to_owned(), state: ContainerState::Running, attempt };
            self.sandboxes[at].containers = vec![container];
            self.changed.insert(id, self.t);
        }
    }

    /// What the kubelet tells of its pods.
    fn report(&mut self, kubelet: &Process) {
        if kubelet.sees_at.is_none_or(|sees_at| self.t < sees_at) || self.runtime_fails {
            return;
        }
        for (uid, (pod, _)) in &kubelet.admitted {
            let running: Vec<String> = self
                .running()
                .filter(|(sandbox, _)| sandbox.uid == *uid)
                .map(|(_, container)| container.id.clone())
                .collect();
            let ready = running.iter().filter(|id| self.t - self.changed[*id] >= 5).cloned().collect();
            let Some(api) = self.pods.get_mut(pod).filter(|api| api.uid == *uid && !api.is_over()) else { continue };
            let phase = if running.is_empty() { api.phase } else { Phase::Running };
            if (api.phase, &api.ready) != (phase, &ready) {
                (api.phase, api.ready) = (phase, ready);
                self.version += 1;
            }
        }
    }
}
