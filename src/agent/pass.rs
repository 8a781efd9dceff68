//! What a durable snapshot says of each pod: its verdict, its rendering, and what is on record of its checkpoint.

use store_format::Lifecycle;

use crate::checkpoint::decide::{Decision, PodNetwork, decide};
use crate::checkpoint::examine::{Examined, Parent, examine};
use crate::checkpoint::images::NodeImages;
use crate::checkpoint::lifecycle::{Checkpoint, State};
use crate::checkpoint::object::{Kind, ObjectKey};
use crate::checkpoint::rendering::{Plan, PodName, Untouched};
use crate::checkpoint::settings::{ActivationPolicy, KubeletVersion, Settings};
use crate::checkpoint::verdict::{NotMeant, Note, Verdict};
use crate::materialize::{MaterializeError, Materializer, Owners, Report, Roots, SecretRootPolicy};
use crate::store::{Committed, Finding, Snapshot};

/// Where a pass renders to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The directories.
    pub roots: Roots,
    /// What the secret root must be.
    pub secret_root: SecretRootPolicy,
    /// Who owns what is rendered.
    pub owners: Owners,
}

/// Why a pass could not begin.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The store says that it is another node's; nothing was rendered.
    #[error(
        "the store belongs to node {stored}, but this node goes by {own} (--node-name or NODE_NAME); nothing was rendered"
    )]
    OtherNode {
        /// The node that the store names.
        stored: String,
        /// The name that this node goes by.
        own: String,
    },
    /// Nothing can be asked.
    #[error("cannot look at the node")]
    Runtime(#[source] std::io::Error),
    /// The directories for manifests can't be used.
    #[error("cannot render")]
    Materialize(#[from] MaterializeError),
}

/// What a pass found out without doing anything.
pub struct Outcome {
    /// What was decided, as if no parent ran.
    pub decision: Decision,
    /// Each stored pod, with what is on record of its checkpoint. Their renderings are in the decision.
    pub checkpoints: Vec<Checkpoint>,
    /// The settings with what the store knows of the node filled in.
    pub settings: Settings,
}

/// Judges every stored pod. Pure: the same snapshot gives the same outcome.
///
/// # Errors
/// [`PassError::OtherNode`] if `own_name` is given and is not the store's.
pub fn assess(
    snapshot: &Snapshot,
    settings: &Settings,
    own_name: Option<&str>,
    network: PodNetwork,
    images: &NodeImages,
) -> Result<Outcome, PassError> {
    let stored = refuse_other_node(snapshot, own_name)?;
    let mut settings = settings.clone();
    settings.node_name = own_name.unwrap_or(stored).to_owned();
    settings.kubelet_version = settings
        .kubelet_version
        .or_else(|| snapshot.identity().and_then(|identity| parse_kubelet_version(&identity.kubelet_version)));
    let services = snapshot.all(Kind::Service);
    let authenticated: std::collections::BTreeMap<_, _> =
        snapshot.objects().map(|object| (object.key.clone(), object.authenticated)).collect();
    let mut examined = Vec::new();
    let mut checkpoints = Vec::new();
    for pod in &snapshot.all(Kind::Pod) {
        let republished = snapshot.republished(&pod.key);
        let parent = Parent {
            object: pod,
            ran: snapshot.ran(&pod.key),
            ended: snapshot.ended(&pod.key).is_some(),
            authenticated: authenticated.get(&pod.key).copied().unwrap_or_default(),
            republished,
        };
        let mut one = examine(parent, snapshot, &services, &settings, images);
        let rendering = one.rendering.take();
        // Static pods and copies, by their mirror pods, are nobody's checkpoint.
        let is_parent = one.verdict != Verdict::NotMeant(NotMeant::NotAParent);
        checkpoints.extend(is_parent.then(|| Checkpoint {
            examined: one.clone(),
            state: snapshot.lifecycle(&pod.key).map_or(State::None, state),
            gone: snapshot.gone(&pod.key),
            held: snapshot.held(&pod.key),
            republished,
            ended: snapshot.ended(&pod.key).map(str::to_owned),
        }));
        examined.push(Examined { rendering, ..one });
    }
    let mut decision = decide(examined, network);
    leave_the_lost(&mut decision.plan, snapshot, settings.activation);
    doubt_service_environment(&mut decision, snapshot);
    Ok(Outcome { decision, checkpoints, settings })
}

/// The name of the store's node.
///
/// # Errors
/// [`PassError::OtherNode`] if `own_name` is given and is another.
pub(super) fn refuse_other_node<'a>(snapshot: &'a Snapshot, own_name: Option<&str>) -> Result<&'a str, PassError> {
    let stored = snapshot.node_name().unwrap_or_default();
    match own_name {
        Some(own) if !stored.is_empty() && own != stored => {
            Err(PassError::OtherNode { stored: stored.to_owned(), own: own.to_owned() })
        }
        Some(_) | None => Ok(stored),
    }
}

/// What is on record, in the words of the core.
fn state(recorded: Lifecycle) -> State {
    let ms = |left_s: u32| u64::from(left_s) * 1000;
    match recorded {
        Lifecycle::Inactive => State::Inactive,
        Lifecycle::InactiveGrace { left_s } => State::InactiveGrace { left_ms: ms(left_s) },
        Lifecycle::Active => State::Active,
        Lifecycle::ActiveGrace { left_s } => State::ActiveGrace { left_ms: ms(left_s) },
        Lifecycle::HandedOver { left_s } => State::HandedOver { left_ms: ms(left_s) },
    }
}

/// The same, to be recorded. `None` for what leaves the store instead.
pub(super) fn lifecycle(state: State) -> Option<Lifecycle> {
    // Rounded up: a period that has not ended does not end by a restart.
    let s = |left_ms: u64| u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX);
    Some(match state {
        State::None | State::Inactive => Lifecycle::Inactive,
        State::InactiveGrace { left_ms } => Lifecycle::InactiveGrace { left_s: s(left_ms) },
        State::Active | State::SelfActive => Lifecycle::Active,
        State::ActiveGrace { left_ms } => Lifecycle::ActiveGrace { left_s: s(left_ms) },
        State::HandedOver { left_ms } => Lifecycle::HandedOver { left_s: s(left_ms) },
        State::Removed => return None,
    })
}

/// Renders everything to a place where no kubelet reads, as if no parent ran.
///
/// # Errors
/// [`PassError`]; then nothing was rendered. Pods that fail one by one are in the report.
pub fn render(
    snapshot: &Committed<Snapshot>,
    settings: &Settings,
    own_name: Option<&str>,
    target: &Target,
    now_unix_s: u64,
) -> Result<(Decision, Report), PassError> {
    let outcome = assess(snapshot.get(), settings, own_name, PodNetwork::Unknown, &NodeImages::unknown())?;
    let materializer = Materializer::open(target.roots.clone(), target.secret_root, target.owners)?
        .naming_secrets(settings.secret_root.clone().into());
    // The plan follows from the committed snapshot alone, and so is as durable as it is.
    let plan = snapshot.derive(|_| outcome.decision.plan.clone());
    let report = materializer.reconcile(&plan, snapshot.get(), now_unix_s);
    Ok((outcome.decision, report))
}

/// A lost Service takes variables out of the manifests of its namespace, or of all if it is the API server's: a copy that
/// runs with them goes on, and one that has to be made anew says so.
fn doubt_service_environment(decision: &mut Decision, snapshot: &Snapshot) {
    let hidden = snapshot.findings().iter().any(|finding| match finding {
        Finding::Structure(_) => true,
        Finding::Hidden { kind, .. } => Kind::from_name(kind) == Some(Kind::Service),
        Finding::Record { .. } | Finding::Missing { .. } | Finding::Revision { .. } => false,
    });
    let lost: Vec<_> = snapshot.damaged().filter(|key| key.kind() == Kind::Service).collect();
    let doubtful = |pod: &PodName| {
        let of_all = |key: &&ObjectKey| (key.namespace(), key.name()) == ("default", "kubernetes");
        hidden || lost.iter().any(|key| key.namespace() == pod.namespace || of_all(key))
    };
    for planned in &decision.plan.pods {
        let pod = &planned.rendering.pod;
        if doubtful(pod) {
            decision.plan.unsure.insert(pod.clone());
        }
    }
    for (pod, _, verdict) in &mut decision.verdicts {
        if let (true, Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes }) = (doubtful(pod), verdict) {
            notes.push(Note::ServicesDamaged);
        }
    }
}

/// Pods whose records are damaged are not in the plan, and are not gone either: what runs of them goes on running.
pub(super) fn leave_the_lost(plan: &mut Plan, snapshot: &Snapshot, policy: ActivationPolicy) {
    let hidden = snapshot.findings().iter().any(|finding| match finding {
        Finding::Structure(_) => true,
        Finding::Hidden { kind, .. } => Kind::from_name(kind) == Some(Kind::Pod),
        Finding::Record { .. } | Finding::Missing { .. } | Finding::Revision { .. } => false,
    });
    // A store that never held a complete listing does not know which pods there are.
    let hidden = hidden || !snapshot.populated();
    match (&mut plan.untouched, policy) {
        // Whoever chooses this wants every copy gone.
        (untouched, ActivationPolicy::Off) => *untouched = Untouched::default(),
        (untouched, ActivationPolicy::Annotated | ActivationPolicy::All) if hidden => *untouched = Untouched::All,
        (Untouched::Only(pods), ActivationPolicy::Annotated | ActivationPolicy::All) => {
            let damaged = snapshot.damaged().filter(|key| key.kind() == Kind::Pod);
            pods.extend(
                damaged.map(|key| PodName { namespace: key.namespace().to_owned(), name: key.name().to_owned() }),
            );
        }
        (Untouched::All, ActivationPolicy::Annotated | ActivationPolicy::All) => {}
    }
}

/// `v1.34.2+k3s1` -> 1.34.
fn parse_kubelet_version(text: &str) -> Option<KubeletVersion> {
    let mut parts = text.strip_prefix('v')?.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.trim_end_matches('+').parse().ok()?;
    Some(KubeletVersion { major, minor })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::lookup::Absence;
    use crate::checkpoint::object::Object;
    use crate::checkpoint::verdict::{NotMeant, Reason};
    use crate::crypto::SystemEntropy;
    use crate::store::{Backend as _, Change, MemoryStore};

    /// What the store has on record decides, where the stored pod does not tell.
    #[test]
    fn endings_and_absences_on_record_reach_the_verdict() {
        let identity = store_format::Identity::new(store_format::StoreId([7; 16]), 0, "edge-1");
        let mut store = MemoryStore::new(identity, Box::new(SystemEntropy)).unwrap();
        let key = |kind, name| ObjectKey::new(kind, "default", name).unwrap();
        let pod = |phase: &str| {
            let body = serde_json::json!({
                "spec": {"containers": [{"name": "c", "image": "i:1"}],
                    "volumes": [{"name": "v", "secret": {"secretName": "tls"}}]},
                "status": {"phase": phase},
            });
            let body = body.to_string().into();
            let object =
                Object { key: key(Kind::Pod, "web"), uid: "u1".to_owned(), resource_version: String::new(), body };
            Change::Apply { object, with: Vec::new() }
        };
        let mut verdict_after = |changes| {
            let _ = store.update(changes, 0).unwrap();
            let snapshot = store.snapshot().unwrap().into_inner();
            let mut outcome =
                assess(&snapshot, &Settings::default(), None, PodNetwork::Yes, &NodeImages::unknown()).unwrap();
            outcome.decision.verdicts.remove(0).2
        };
        let forbidden = Change::Absent { key: key(Kind::Secret, "tls"), why: Absence::Forbidden };
        let Verdict::NotRecoverable { reasons } = verdict_after(vec![pod("Running"), forbidden]) else { panic!() };
        assert_eq!(reasons.iter().map(Reason::code).collect::<Vec<_>>(), ["Forbidden"]);
        assert_eq!(verdict_after(vec![pod("Succeeded")]), Verdict::NotMeant(NotMeant::Finished));
        assert_eq!(verdict_after(vec![pod("Running")]), Verdict::NotMeant(NotMeant::Finished));
    }

    #[test]
    fn kubelet_versions() {
        #[rustfmt::skip]
        let rows = [
            ("v1.34.2",       Some((1, 34))),
            ("v1.30.0+k3s1",  Some((1, 30))),
            ("v1.27+",        Some((1, 27))),
            ("1.34.2",        None),
            ("",              None),
            ("v1",            None),
        ];
        for (text, want) in rows {
            let found = parse_kubelet_version(text).map(|version| (version.major, version.minor));
            assert_eq!(found, want, "{text:?}");
        }
    }
}
