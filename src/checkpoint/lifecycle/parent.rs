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
    /// Those of other pods of the parent's name: one that was there before, or one that is not stored yet.
    pub(super) namesakes: Vec<&'a Sandbox>,
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
        let namesakes = others.into_iter().filter(|sandbox| sandbox.pod == *pod).collect();
        Some(Self { parent, copy, namesakes })
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

    /// Whether another pod of the parent's name runs.
    pub(super) fn namesake_runs(&self) -> bool {
        !running(&self.namesakes).is_empty()
    }

    /// The containers of the parent and of others of its name, in whatever state.
    pub(super) fn containers(&self) -> BTreeSet<String> {
        let containers = self.parent.iter().chain(&self.namesakes).flat_map(|sandbox| &sandbox.containers);
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

/// Whether the kubelet of now knows the parents that the API server named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// The API server has answered in its time.
    Knows,
    /// Nobody can tell.
    MayKnow,
    /// It was started since, or will be: it does not start them.
    Forgot,
}

impl Knowledge {
    /// What follows from a look; `parents`: the UIDs of all stored parents.
    pub(super) fn of(look: &Look, parents: &BTreeSet<&str>) -> Self {
        if look.api.reach == Answers::Answering {
            return Self::Knows;
        }
        let since_ms = match &look.kubelet {
            Fact::Known(Kubelet::Running { since_ms }) => *since_ms,
            // The next one will not know them.
            Fact::Known(Kubelet::NotRunning) => return Self::Forgot,
            Fact::Unknown(_) => return Self::MayKnow,
        };
        match look.api.last_answer_ms {
            Some(answered_ms) if since_ms > answered_ms => Self::Forgot,
            Some(_) => Self::Knows,
            // Nobody saw an answer in this boot. If the kubelet had, there would be a sandbox.
            None if matches!(look.boot, Fact::Known(Boot::New { .. })) && !any_sandbox(look, parents) => Self::Forgot,
            None => Self::MayKnow,
        }
    }
}

/// Whether any parent has a ready sandbox, or may have one.
fn any_sandbox(look: &Look, parents: &BTreeSet<&str>) -> bool {
    let Fact::Known(runtime) = &look.runtime else { return true };
    let mut ready = runtime.sandboxes.iter().filter(|sandbox| sandbox.ready && sandbox.parent_uid.is_none());
    ready.any(|sandbox| parents.contains(sandbox.uid.as_str()))
}

/// Whether the parent runs (lifecycle.md, "What is looked at"). `idle_ms`: for how long no container of its name has come or
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
    let held = sandboxes.namesakes.iter().any(|sandbox| sandbox.ready) && !is_abandoned(look, idle_ms);
    if held || sandboxes.namesake_runs() { Running::Unknown } else { Running::No }
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
        DeadNamesake,
        NoAnswer,
    }

    /// The whole table. The API server answered last at 100 s, and has been silent since then; it is 200 s now.
    #[test]
    fn whether_the_parent_runs() {
        use ContainerState::{Created, Exited, Running as Runs, Unknown as Doubt};
        use Left::{DeadNamesake, DeadSandbox, Empty, Namesake, NoAnswer, Nothing, RunningInDead, With};
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
            (DeadNamesake,     kubelet(50),  &same,     Some(100),  0,      Unknown),
            (DeadNamesake,     kubelet(50),  &same,     Some(100),  360,    No),
            (DeadNamesake,     kubelet(150), &same,     Some(100),  0,      No),
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
                DeadNamesake => node.parent("web", "c1", Some(Exited)).sandboxes()[0].uid = "uid-another".to_owned(),
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
            let want = match left {
                DeadNamesake => Unknown,
                _ if has_sandbox => Held,
                _ => want,
            };
            assert_eq!(answering, want, "answering: {about}");
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
    fn what_the_kubelet_knows() {
        use Answers::{Answering, Refusing, Silent};
        use Knowledge::{Forgot, Knows, MayKnow};
        let runs = |since_ms| Fact::Known(Kubelet::Running { since_ms });
        let off = || Fact::Known(Kubelet::NotRunning);
        let unseen = || Fact::Unknown("?".to_owned());
        let (same, new) = (Fact::Known(Boot::Same), Fact::Known(Boot::New { kubelet_ran: true }));
        let nobody = Fact::Unknown("?".to_owned());
        #[rustfmt::skip]
        let rows = [
            //                  boot     answered   no sandbox  a parent's  no runtime
            (Answering, runs(15), &same,   Some(10), [Knows,     Knows,      Knows]),
            (Silent,    runs(5),  &same,   Some(10), [Knows,     Knows,      Knows]),
            (Silent,    runs(15), &same,   Some(10), [Forgot,    Forgot,     Forgot]),
            (Refusing,  runs(15), &same,   Some(10), [Forgot,    Forgot,     Forgot]),
            (Silent,    runs(15), &same,   None,     [MayKnow,   MayKnow,    MayKnow]),
            (Silent,    runs(15), &new,    None,     [Forgot,    MayKnow,    MayKnow]),
            (Silent,    runs(15), &nobody, None,     [MayKnow,   MayKnow,    MayKnow]),
            (Silent,    off(),    &same,   Some(10), [Forgot,    Forgot,     Forgot]),
            (Silent,    off(),    &nobody, None,     [Forgot,    Forgot,     Forgot]),
            (Silent,    unseen(), &new,    None,     [MayKnow,   MayKnow,    MayKnow]),
        ];
        for (reach, kubelet, boot, answered, wants) in rows {
            let mut node = Node::dark([plain("web")]);
            (node.look.api.reach, node.look.api.last_answer_ms) = (reach, answered);
            (node.look.kubelet, node.look.boot) = (kubelet.clone(), boot.clone());
            let parents = ["uid-web"].into();
            let about = format!("{reach:?} {kubelet:?} {boot:?} {answered:?}");
            assert_eq!(Knowledge::of(&node.look, &parents), wants[0], "{about}");
            node.parent("web", "1", None);
            assert_eq!(Knowledge::of(&node.look, &parents), wants[1], "{about}, a sandbox");
            assert_eq!(Knowledge::of(&node.look, &[].into()), wants[0], "{about}, another's");
            node.look.runtime = Fact::Unknown("?".to_owned());
            assert_eq!(Knowledge::of(&node.look, &parents), wants[2], "{about}, no runtime");
        }
    }
}
