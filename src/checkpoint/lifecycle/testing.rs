//! What the unit tests of this room share: a small node, by hand.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checkpoint, Lives, Rules, State, Timeline, decide};
use crate::checkpoint::decide::PodNetwork;
use crate::checkpoint::examine::Examined;
use crate::checkpoint::look::{Answers, ApiServer, Boot, Container, ContainerState, Kubelet, Look, Runtime, Sandbox};
use crate::checkpoint::node::Fact;
use crate::checkpoint::rendering::{Activity, Manifest, PodName, Rendering};
use crate::checkpoint::verdict::Verdict;
use crate::clear::Clear;

pub(super) fn name(name: &str) -> PodName {
    PodName { namespace: "default".to_owned(), name: name.to_owned() }
}

/// An ordinary pod that runs and has one container `c`; its UID is `uid-` and its name.
pub(super) fn plain(pod: &str) -> Examined {
    let uid = format!("uid-{pod}");
    let manifest = Manifest { json: Clear::default(), carries_secret: false };
    Examined {
        rendering: Some(Rendering { pod: name(pod), uid: uid.clone(), manifest, trees: Vec::new() }),
        pod: name(pod),
        uid,
        verdict: Verdict::Recoverable { notes: Vec::new() },
        priority: 0,
        annotated: false,
        system_critical: false,
        activate: true,
        contends: true,
        host_ports: Vec::new(),
        host_network: false,
        yield_first: false,
        containers: vec!["c".to_owned()],
        ready: None,
    }
}

pub(super) fn annotated(pod: &str) -> Examined {
    Examined { annotated: true, ..plain(pod) }
}

pub(super) fn checkpoint(examined: Examined) -> Checkpoint {
    Checkpoint { examined, state: State::None, gone: false, held: false, republished: 0, ended: None }
}

pub(super) fn yields(pod: &str) -> Examined {
    Examined { yield_first: true, ..annotated(pod) }
}

pub(super) fn host_network(pod: &str) -> Examined {
    Examined { host_network: true, ..annotated(pod) }
}

/// Copies that have run for a while, with a kubelet that knows nothing, and nobody to ask.
pub(super) fn standing_in(pods: impl IntoIterator<Item = Examined>) -> Node {
    let mut node = Node::dark(pods);
    node.look.kubelet = Fact::Known(Kubelet::Running { since_ms: 0 });
    node.later(200).decide();
    let names: Vec<_> = node.checkpoints.iter().map(|one| one.examined.pod.name.clone()).collect();
    for pod in &names {
        node.copy(pod, Some(ContainerState::Running));
    }
    node.later(200);
    assert_eq!(node.active(), names.join(" "));
    node
}

/// A sandbox with one container `c`, or with none.
fn sandbox(id: &str, pod: &str, uid: &str, container: Option<ContainerState>) -> Sandbox {
    let containers = container.map(|state| Container { id: id.to_owned(), name: "c".to_owned(), state, attempt: 0 });
    Sandbox {
        id: format!("sandbox-{uid}"),
        pod: name(pod),
        uid: uid.to_owned(),
        ready: true,
        parent_uid: None,
        created_at_unix_ns: 0,
        containers: containers.into_iter().collect(),
    }
}

/// A node, and what is kept of it from look to look.
pub(super) struct Node {
    pub(super) look: Look,
    pub(super) rules: Rules,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) timeline: Timeline,
    pub(super) lives: Option<Lives>,
}

impl Node {
    /// A machine that was switched on: nothing runs, and nobody answers, though there is a route.
    pub(super) fn dark(pods: impl IntoIterator<Item = Examined>) -> Self {
        let api = ApiServer::silent();
        let look = Look {
            now_ms: 0,
            api,
            runtime: Fact::Known(Runtime::default()),
            kubelet: Fact::Known(Kubelet::NotRunning),
            boot: Fact::Known(Boot::New { kubelet_ran: false }),
            manifests: Fact::Known(BTreeMap::new()),
        };
        let checkpoints = pods.into_iter().map(checkpoint).collect();
        Self { look, rules: Rules::default(), checkpoints, timeline: Timeline::default(), lives: None }
    }

    /// One that has been up for an hour, with a kubelet as old and an API server that has answered all the time; it names
    /// every pod.
    pub(super) fn bright(pods: impl IntoIterator<Item = Examined>) -> Self {
        let mut node = Self::dark(pods);
        node.look.now_ms = 3_600_000;
        node.look.kubelet = Fact::Known(Kubelet::Running { since_ms: 10_000 });
        node.look.boot = Fact::Known(Boot::Same);
        node.api(Answers::Answering);
        node.look.api.since_ms = 10_000;
        node
    }

    /// The API server stands so from now on. If it answers, it names every pod, and what is stored is in step.
    pub(super) fn api(&mut self, reach: Answers) -> &mut Self {
        let now_ms = self.look.now_ms;
        let answers = reach == Answers::Answering;
        if answers || self.look.api.reach == Answers::Answering {
            self.look.api.last_answer_ms = Some(now_ms);
        }
        let all = self.checkpoints.iter().map(|one| (one.examined.pod.clone(), one.examined.uid.clone()));
        self.look.api.sighted = all.filter(|_| answers).collect();
        self.look.api.in_step = answers;
        if answers {
            self.look.api.sign_ms = None;
        }
        self.look.api.routed_since_ms = (reach == Answers::Silent).then_some(now_ms);
        (self.look.api.reach, self.look.api.since_ms) = (reach, now_ms);
        self
    }

    /// The API server gives a sign of life.
    pub(super) fn sign(&mut self) -> &mut Self {
        let now_ms = self.look.now_ms;
        self.look.api.sign_ms.get_or_insert(now_ms);
        self
    }

    pub(super) fn sandboxes(&mut self) -> &mut Vec<Sandbox> {
        match &mut self.look.runtime {
            Fact::Known(runtime) => &mut runtime.sandboxes,
            Fact::Unknown(why) => panic!("the runtime does not answer: {why}"),
        }
    }

    /// The parent has a ready sandbox with this container, and no other.
    pub(super) fn parent(&mut self, pod: &str, id: &str, container: Option<ContainerState>) -> &mut Self {
        let uid = self.uid(pod);
        self.sandboxes().retain(|sandbox| sandbox.uid != uid);
        let made = sandbox(id, pod, &uid, container);
        self.sandboxes().push(made);
        self
    }

    /// A copy of it has a ready sandbox with this container.
    pub(super) fn copy(&mut self, pod: &str, container: Option<ContainerState>) -> &mut Self {
        let uid = self.uid(pod);
        self.sandboxes().retain(|sandbox| sandbox.parent_uid.as_ref() != Some(&uid));
        let made = sandbox(&format!("copy-{pod}"), &format!("{pod}-node"), &format!("static-{pod}"), container);
        self.sandboxes().push(Sandbox { parent_uid: Some(uid), ..made });
        self
    }

    fn uid(&self, pod: &str) -> String {
        let known = self.checkpoints.iter().find(|checkpoint| checkpoint.examined.pod.name == pod);
        known.map_or_else(|| format!("uid-{pod}"), |checkpoint| checkpoint.examined.uid.clone())
    }

    pub(super) fn checkpoint(&mut self, pod: &str) -> &mut Checkpoint {
        self.checkpoints.iter_mut().find(|checkpoint| checkpoint.examined.pod.name == pod).unwrap()
    }

    /// So many seconds later.
    pub(super) fn later(&mut self, seconds: u64) -> &mut Self {
        self.look.now_ms += seconds * 1000;
        self
    }

    /// Decides, acts and records.
    pub(super) fn decide(&mut self) -> &mut Self {
        let examined = self.checkpoints.iter().map(|checkpoint| checkpoint.examined.clone()).collect();
        let decision = crate::checkpoint::decide::decide(examined, PodNetwork::Yes);
        let lives = decide(decision, &self.checkpoints, &self.look, &self.rules, &mut self.timeline);
        if let Fact::Known(manifests) = &mut self.look.manifests {
            let before = std::mem::take(manifests);
            let stays = before.into_iter().filter(|(pod, _)| lives.plan.untouched.covers(pod));
            manifests.extend(stays);
            let active = lives.plan.pods.iter().filter(|planned| planned.activity != Activity::Prepared);
            manifests.extend(active.map(|planned| (planned.rendering.pod.clone(), planned.rendering.uid.clone())));
        }
        for record in &lives.records {
            let checkpoint = self.checkpoint(&record.pod.name);
            (checkpoint.state, checkpoint.republished) = (record.state, record.republished);
        }
        let gone: BTreeSet<_> = lives.removed.iter().map(|(pod, _)| pod.clone()).collect();
        self.checkpoints.retain(|checkpoint| !gone.contains(&checkpoint.examined.pod));
        for pod in &lives.released {
            self.checkpoint(&pod.name).held = false;
        }
        self.lives = Some(lives);
        self
    }

    /// Decides, and names the pods whose copies are active then.
    pub(super) fn active(&mut self) -> String {
        self.decide();
        let lives = self.lives.as_ref().unwrap();
        let active = lives.standings.iter().filter(|standing| standing.state.is_active());
        active.map(|standing| standing.pod.name.clone()).collect::<Vec<_>>().join(" ")
    }

    /// Where a checkpoint stood in the last decision.
    pub(super) fn standing(&self, pod: &str) -> &super::Standing {
        let lives = self.lives.as_ref().unwrap();
        lives.standings.iter().find(|standing| standing.pod.name == pod).unwrap()
    }
}
