//! What a look shows of one parent and of its copy: whether it runs, whether it takes over.

use std::collections::BTreeSet;

use super::state::{HANDED_OVER_MS, Running};
use crate::checkpoint::look::{Answers, Boot, Container, ContainerState, Kubelet, Look, Sandbox};
use crate::checkpoint::node::Fact;
use crate::checkpoint::rendering::PodName;

/// How long a kubelet takes at most between two attempts at a container.
pub(super) const LONGEST_PAUSE_MS: u64 = HANDED_OVER_MS;

/// When the copy of a pod goes, once the API server answers again (lifecycle.md, "Hand-over").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Before its parent comes: side by side the parent would be rejected for good, or both would write the same storage.
    YieldFirst,
    /// When the parent has a container: it starts even if removing the copy takes the API server away.
    HostNetwork,
    /// When the parent runs. No gap.
    Overlap,
}

/// How the copy of a pod does, by the container runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyStatus {
    /// It has no running container yet.
    Starting,
    /// Its containers run.
    Running,
    /// It did not start in time, or is dead.
    Failing(String),
    /// The runtime does not say.
    Unknown,
}

/// The sandboxes of one parent, and those of its copies.
pub(super) struct Sandboxes<'a> {
    pub(super) parent: Vec<&'a Sandbox>,
    pub(super) copy: Vec<&'a Sandbox>,
    /// Whether another pod of the parent's name runs: one that was there before, or one that is not stored yet.
    pub(super) namesake_runs: bool,
}

impl<'a> Sandboxes<'a> {
    /// Those of the parent with this UID, and of the pod whom the API server names so now, which may not be stored. A copy
    /// stands in for whoever has its parent's name, so it is told by that.
    pub(super) fn of(look: &'a Look, pod: &PodName, uid: &str, copied: &str) -> Option<Self> {
        let Fact::Known(runtime) = &look.runtime else { return None };
        let sighted = look.api.sighted.get(pod).filter(|_| look.api.reach == Answers::Answering);
        let is_parent =
            |sandbox: &&Sandbox| sandbox.uid == uid || sighted.is_some_and(|sighted| *sighted == sandbox.uid);
        let (copies, others): (Vec<_>, Vec<_>) =
            runtime.sandboxes.iter().partition(|sandbox| sandbox.parent_uid.is_some());
        let copy = copies.into_iter().filter(|sandbox| sandbox.parent_uid.as_deref() == Some(copied)).collect();
        let (parent, others): (Vec<_>, Vec<_>) = others.into_iter().partition(is_parent);
        let namesakes: Vec<_> = others.into_iter().filter(|sandbox| sandbox.pod == *pod).collect();
        Some(Self { parent, copy, namesake_runs: !running(&namesakes).is_empty() })
    }

    /// Whether the parent has a ready sandbox.
    pub(super) fn ready(&self) -> bool {
        self.parent.iter().any(|sandbox| sandbox.ready)
    }

    /// Whether the parent is on its way: in a ready sandbox there is a container that is none of `stale`. Its volumes are
    /// mounted then, and its kubelet knows it.
    pub(super) fn comes(&self, stale: &BTreeSet<String>) -> bool {
        let ready = self.parent.iter().filter(|sandbox| sandbox.ready);
        ready.flat_map(|sandbox| &sandbox.containers).any(|container| !stale.contains(&container.id))
    }

    /// The parent's containers, in whatever state.
    pub(super) fn containers(&self) -> BTreeSet<String> {
        let containers = self.parent.iter().flat_map(|sandbox| &sandbox.containers);
        containers.map(|container| container.id.clone()).collect()
    }

    /// Whether the runtime does not know of a container in a ready sandbox of the parent whether it runs.
    fn in_doubt(&self) -> bool {
        let ready = self.parent.iter().filter(|sandbox| sandbox.ready);
        ready.flat_map(|sandbox| &sandbox.containers).any(|container| container.state == ContainerState::Unknown)
    }

    /// The containers of the parent that run: name and id.
    pub(super) fn running(&self) -> BTreeSet<(String, String)> {
        running(&self.parent)
    }

    /// Whether a copy has a ready sandbox.
    pub(super) fn copy_lives(&self) -> bool {
        self.copy.iter().any(|sandbox| sandbox.ready)
    }

    /// Whether a copy has a running container.
    pub(super) fn copy_runs(&self) -> bool {
        !running(&self.copy).is_empty()
    }
}

fn running(sandboxes: &[&Sandbox]) -> BTreeSet<(String, String)> {
    let containers = sandboxes.iter().flat_map(|sandbox| &sandbox.containers);
    let running = containers.filter(|container| container.state == ContainerState::Running);
    running.map(|Container { name, id, .. }| (name.clone(), id.clone())).collect()
}

/// Whether the kubelet of now can't know the parents that the API server told an earlier one: it does not start them.
///
/// Not knowing is `false`: then the kubelet counts as knowing them.
pub(super) fn kubelet_forgot(look: &Look) -> bool {
    if look.api.reach == Answers::Answering {
        return false;
    }
    match &look.kubelet {
        Fact::Known(Kubelet::Running { since_ms }) => match look.api.last_answer_ms {
            Some(answered_ms) => *since_ms > answered_ms,
            // Nobody saw an answer in this boot. The kubelet may have, if the boot is not new to us.
            None => matches!(look.boot, Fact::Known(Boot::New { .. })),
        },
        // The next one will not know them.
        Fact::Known(Kubelet::NotRunning) => true,
        Fact::Unknown(_) => false,
    }
}

/// Whether the parent runs (lifecycle.md, "What is looked at"). `idle_ms`: for how long none of its containers has come or
/// gone.
pub(super) fn parent_running(look: &Look, sandboxes: Option<&Sandboxes<'_>>, idle_ms: u64) -> Running {
    let Some(sandboxes) = sandboxes else {
        return match look.boot {
            // Nothing can run: no kubelet has started anything since the machine did.
            Fact::Known(Boot::New { kubelet_ran: false }) => Running::No,
            Fact::Known(Boot::New { kubelet_ran: true } | Boot::Same) | Fact::Unknown(_) => Running::Unknown,
        };
    };
    if !sandboxes.running().is_empty() {
        return Running::Yes;
    }
    if sandboxes.in_doubt() {
        return Running::Unknown;
    }
    if sandboxes.ready() && !is_abandoned(look, idle_ms) {
        return Running::Held;
    }
    // Which of the two is the parent of now is not known.
    if sandboxes.namesake_runs { Running::Unknown } else { Running::No }
}

/// Whether no kubelet restarts what is left of a parent with a ready sandbox.
fn is_abandoned(look: &Look, idle_ms: u64) -> bool {
    if look.api.reach == Answers::Answering {
        return false;
    }
    let restarted = match (&look.kubelet, look.api.last_answer_ms) {
        (Fact::Known(Kubelet::Running { since_ms }), Some(answered_ms)) => *since_ms > answered_ms,
        // Nobody saw an answer. The sandbox is there, so a kubelet was told of it once, and this one may be it.
        (Fact::Known(Kubelet::Running { .. } | Kubelet::NotRunning) | Fact::Unknown(_), _) => false,
    };
    // A kubelet that knows it tries again at least this often. One that was started while the API server answered for a
    // moment may not have heard of it.
    restarted || idle_ms.min(look.now_ms.saturating_sub(look.api.since_ms)) >= LONGEST_PAUSE_MS
}
