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

#[cfg(test)]
mod tests {
    use super::super::testing::{Node, name, plain};
    use super::*;

    /// What is left of the parent in the runtime.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Left {
        Nothing,
        DeadSandbox,
        Empty,
        With(ContainerState),
        RunningInDead,
        Namesake,
        NoAnswer,
    }

    /// The whole table. The API server answered last at 100 s, and has been silent since then; it is 200 s now.
    #[test]
    fn whether_the_parent_runs() {
        use ContainerState::{Created, Exited, Running as Runs, Unknown as Doubt};
        use Left::{DeadSandbox, Empty, Namesake, NoAnswer, Nothing, RunningInDead, With};
        use Running::{Held, No, Unknown, Yes};
        let kubelet = |since_s: u64| Fact::Known(Kubelet::Running { since_ms: since_s * 1000 });
        let off = || Fact::Known(Kubelet::NotRunning);
        let unseen = || Fact::Unknown("not found".to_owned());
        let (same, new, fresh) = (
            Fact::Known(Boot::Same),
            Fact::Known(Boot::New { kubelet_ran: true }),
            Fact::Known(Boot::New { kubelet_ran: false }),
        );
        let nobody = || Fact::Unknown("no boot id".to_owned());
        #[rustfmt::skip]
        let rows = [
            // left            kubelet       boot       answered    idle s  is
            (With(Runs),       kubelet(50),  &same,     Some(100),  0,      Yes),
            (With(Runs),       kubelet(150), &new,      None,       1000,   Yes),
            (RunningInDead,    kubelet(50),  &same,     Some(100),  0,      Yes),
            // A sandbox without a running container: it depends on whether the kubelet knows the pod.
            (Empty,            kubelet(50),  &same,     Some(100),  0,      Held),
            (With(Exited),     kubelet(50),  &same,     Some(100),  0,      Held),
            (With(Created),    kubelet(50),  &same,     Some(100),  0,      Held),
            (With(Exited),     kubelet(100), &same,     Some(100),  0,      Held),
            (With(Exited),     kubelet(150), &same,     Some(100),  0,      No),
            (Empty,            kubelet(150), &same,     Some(100),  0,      No),
            (With(Exited),     kubelet(150), &new,      Some(100),  0,      No),
            // Nobody saw an answer: a sandbox is a sign of one.
            (With(Exited),     kubelet(150), &same,     None,       0,      Held),
            (With(Exited),     kubelet(150), &new,      None,       0,      Held),
            (With(Exited),     off(),        &same,     Some(100),  0,      Held),
            (With(Exited),     unseen(),     &same,     Some(100),  0,      Held),
            // Whatever kubelet it was, it has given up.
            (With(Exited),     kubelet(50),  &same,     Some(100),  359,    Held),
            (With(Exited),     kubelet(50),  &same,     Some(100),  360,    No),
            (With(Exited),     kubelet(150), &new,      None,       360,    No),
            (With(Exited),     off(),        &same,     Some(100),  360,    No),
            // The runtime does not know.
            (With(Doubt),      kubelet(50),  &same,     Some(100),  0,      Unknown),
            (With(Doubt),      kubelet(150), &same,     Some(100),  360,    Unknown),
            // No sandbox.
            (Nothing,          kubelet(50),  &same,     Some(100),  0,      No),
            (Nothing,          kubelet(150), &new,      None,       0,      No),
            (Nothing,          off(),        &fresh,    None,       0,      No),
            (DeadSandbox,      kubelet(50),  &same,     Some(100),  0,      No),
            // A pod of its name that is not the stored one.
            (Namesake,         kubelet(50),  &same,     Some(100),  0,      Unknown),
            (Namesake,         off(),        &new,      None,       360,    Unknown),
            // The runtime does not answer: the boot alone may tell.
            (NoAnswer,         off(),        &fresh,    None,       0,      No),
            (NoAnswer,         off(),        &new,      None,       0,      Unknown),
            (NoAnswer,         kubelet(150), &new,      None,       1000,   Unknown),
            (NoAnswer,         kubelet(50),  &same,     Some(100),  0,      Unknown),
            (NoAnswer,         off(),        &same,     None,       0,      Unknown),
            (NoAnswer,         off(),        &nobody(), None,       0,      Unknown),
        ];
        for (left, kubelet, boot, answered_s, idle_s, want) in rows {
            let mut node = Node::dark([plain("web")]);
            node.look.now_ms = 200_000 + idle_s * 1000;
            node.look.api.since_ms = if idle_s == 0 { 100_000 } else { 200_000 };
            node.look.api.last_answer_ms = answered_s.map(|s: u64| s * 1000);
            (node.look.kubelet, node.look.boot) = (kubelet.clone(), boot.clone());
            match left {
                Nothing => {}
                Empty => {
                    node.parent("web", "c1", None);
                }
                With(state) => {
                    node.parent("web", "c1", Some(state));
                }
                DeadSandbox => node.parent("web", "c1", Some(Exited)).sandboxes()[0].ready = false,
                RunningInDead => node.parent("web", "c1", Some(Runs)).sandboxes()[0].ready = false,
                Namesake => node.parent("web", "c1", Some(Runs)).sandboxes()[0].uid = "uid-another".to_owned(),
                NoAnswer => node.look.runtime = Fact::Unknown("no answer".to_owned()),
            }
            let sandboxes = Sandboxes::of(&node.look, &name("web"), "uid-web", "uid-web");
            let is = parent_running(&node.look, sandboxes.as_ref(), idle_s * 1000);
            let about = format!("{left:?} {kubelet:?} {boot:?} {answered_s:?} {idle_s}");
            assert_eq!(is, want, "{about}");

            // While the API server answers, the kubelet knows what there is to know.
            node.look.api.reach = Answers::Answering;
            let sandboxes = Sandboxes::of(&node.look, &name("web"), "uid-web", "uid-web");
            let answering = parent_running(&node.look, sandboxes.as_ref(), idle_s * 1000);
            let has_sandbox = matches!(left, Empty | With(Exited | Created));
            assert_eq!(answering, if has_sandbox { Held } else { want }, "answering: {about}");
        }
    }

    /// A pod that the API server names and that is not stored yet is the parent of now.
    #[test]
    fn the_parent_is_who_the_api_server_names() {
        let mut node = Node::bright([plain("web")]);
        node.parent("web", "c1", Some(ContainerState::Running)).sandboxes()[0].uid = "uid-new".to_owned();
        for (sighted, want) in [("uid-new", Running::Yes), ("uid-web", Running::Unknown)] {
            node.look.api.sighted = [(name("web"), sighted.to_owned())].into();
            let sandboxes = Sandboxes::of(&node.look, &name("web"), "uid-web", "uid-web");
            assert_eq!(parent_running(&node.look, sandboxes.as_ref(), 0), want, "{sighted}");
        }
    }

    #[test]
    fn which_kubelets_have_forgotten_their_pods() {
        use Answers::{Answering, Refusing, Silent};
        let runs = |since_ms| Fact::Known(Kubelet::Running { since_ms });
        let off = || Fact::Known(Kubelet::NotRunning);
        let (same, new) = (Fact::Known(Boot::Same), Fact::Known(Boot::New { kubelet_ran: true }));
        let unknown = || Fact::Unknown("?".to_owned());
        #[rustfmt::skip]
        let rows = [
            (Silent,    runs(5),            &same,  Some(10), false),
            (Silent,    runs(15),           &same,  Some(10), true),
            (Refusing,  runs(15),           &same,  Some(10), true),
            (Answering, runs(15),           &same,  Some(10), false),
            (Silent,    runs(15),           &same,  None,     false),
            (Silent,    runs(15),           &new,   None,     true),
            (Silent,    off(),              &same,  Some(10), true),
            (Silent,    Fact::Unknown("?".to_owned()), &new, None, false),
        ];
        for (reach, kubelet, boot, answered, want) in rows {
            let mut node = Node::dark([]);
            (node.look.api.reach, node.look.api.last_answer_ms) = (reach, answered);
            (node.look.kubelet, node.look.boot) = (kubelet.clone(), boot.clone());
            assert_eq!(kubelet_forgot(&node.look), want, "{reach:?} {kubelet:?} {boot:?} {answered:?}");
        }
        let mut node = Node::dark([]);
        (node.look.kubelet, node.look.boot) = (runs(15), unknown());
        assert!(!kubelet_forgot(&node.look), "not knowing the boot is not knowing");
    }
}
