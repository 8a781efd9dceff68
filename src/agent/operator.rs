//! What an operator says while no agent runs: hold a copy down or let it go, make a store this node's, clear the node.

use std::collections::{BTreeMap, BTreeSet};

use store_format::Identity;

use super::pass::Target;
use crate::checkpoint::look::{ContainerState, Runtime};
use crate::checkpoint::node::Fact;
use crate::checkpoint::rendering::{Plan, PodName};
use crate::materialize::{MaterializeError, Materializer, Report, on_disk};
use crate::store::{Backend, Change, Committed, Snapshot, StoreError, Update};

/// What became of a pod that an operator holds down.
pub struct HeldDown {
    /// What was recorded. A pod that is not stored is among the rejected.
    pub update: Committed<Update>,
    /// Whether its manifest was in the kubelet's directory and is there no more, or why it still is.
    pub taken_down: Result<bool, MaterializeError>,
}

/// Records that the copy of `pod` is held down, then takes it down. For a store that no agent has open.
///
/// # Errors
/// Nothing was recorded, and nothing was taken down.
pub fn hold(store: &mut dyn Backend, pod: &PodName, target: &Target, now_unix_ms: u64) -> Result<HeldDown, StoreError> {
    let update = store.update(vec![Change::Hold { pod: pod.clone(), held: true }], now_unix_ms)?;
    let taken_down = if update.get().rejected.is_empty() {
        Materializer::open(target.roots.clone(), target.secret_root, target.owners)
            .and_then(|materializer| materializer.take_down(&update.derive(|_| pod.clone()), now_unix_ms / 1000))
    } else {
        Ok(false)
    };
    Ok(HeldDown { update, taken_down })
}

/// Records that the copy of `pod` is no longer held down; what comes of it the next start of the agent decides.
///
/// # Errors
/// Nothing was recorded.
pub fn release(store: &mut dyn Backend, pod: &PodName, now_unix_ms: u64) -> Result<Committed<Update>, StoreError> {
    store.update(vec![Change::Hold { pod: pod.clone(), held: false }], now_unix_ms)
}

/// What an adoption would change, or has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// The node before and after.
    pub node: (String, String),
    /// SHA-256 of the SubjectPublicKeyInfo of each CA of the cluster, before and after.
    pub ca_sha256: (Vec<[u8; 32]>, Vec<[u8; 32]>),
}

impl Adoption {
    /// What making a store of this identity the node's would change; `None` if it is its store already.
    #[must_use]
    pub fn of(identity: &Identity, node_name: &str, ca_sha256: &[[u8; 32]]) -> Option<Self> {
        let (known, found): (BTreeSet<_>, BTreeSet<_>) =
            (identity.cluster_ca_sha256.iter().collect(), ca_sha256.iter().collect());
        // Credentials that name no CA say nothing of the cluster.
        let same_cluster = ca_sha256.is_empty() || known == found;
        if identity.node_name == node_name && same_cluster {
            return None;
        }
        let cas = if ca_sha256.is_empty() { identity.cluster_ca_sha256.clone() } else { ca_sha256.to_vec() };
        Some(Self {
            node: (identity.node_name.clone(), node_name.to_owned()),
            ca_sha256: (identity.cluster_ca_sha256.clone(), cas),
        })
    }

    /// The change that carries it out.
    #[must_use]
    pub fn change(&self) -> Change {
        Change::Adopt { node_name: self.node.1.clone(), ca_sha256: self.ca_sha256.1.clone() }
    }
}

/// Takes everything that was rendered off the node, pass by pass: manifests in the first, trees when their containers are
/// gone. Nothing that others made is touched.
pub struct Clearing {
    target: Target,
    materializer: Materializer,
    /// Pods of whose copies no container was seen, and how often in a row.
    unseen: BTreeMap<PodName, u32>,
}

/// A copy may be starting when its manifest goes. This many looks in a row have to see nothing of it.
const UNSEEN: u32 = 3;

impl Clearing {
    /// For the directories of `target`, which no agent renders to meanwhile.
    ///
    /// # Errors
    /// They can't be used, or an agent renders to them.
    pub fn begin(target: &Target) -> Result<Self, MaterializeError> {
        let materializer = Materializer::open(target.roots.clone(), target.secret_root, target.owners)?;
        Ok(Self { target: target.clone(), materializer, unseen: BTreeMap::new() })
    }

    /// One pass. `empty` is a snapshot of whatever store: the plan is that there is nothing.
    ///
    /// With `runtime` known, trees of pods of which it has no container any more go at once; otherwise, when their
    /// containers must have ended.
    pub fn pass(&mut self, empty: &Committed<Snapshot>, runtime: &Fact<Runtime>, now_unix_s: u64) -> Report {
        let unseen = match runtime {
            Fact::Known(runtime) => {
                let there = on_disk(&self.target.roots).map(|there| there.trees).unwrap_or_default();
                let gone = there.into_iter().filter(|pod| !has_copy(runtime, pod));
                gone.map(|pod| (pod.clone(), self.unseen.get(&pod).map_or(1, |looks| looks + 1))).collect()
            }
            Fact::Unknown(_) => BTreeMap::new(),
        };
        self.unseen = unseen;
        let stopped = self.unseen.iter().filter(|(_, looks)| **looks >= UNSEEN).map(|(pod, _)| pod.clone()).collect();
        let plan = empty.derive(|_| Plan { stopped, ..Plan::default() });
        self.materializer.reconcile(&plan, empty.get(), now_unix_s)
    }

    /// Removes the directories that are empty now; those that stay, with the reason.
    #[must_use]
    pub fn end(self) -> Vec<(std::path::PathBuf, std::io::Error)> {
        self.materializer.remove_roots()
    }
}

/// Whether the runtime has anything of a copy of `pod` that runs or is about to.
fn has_copy(runtime: &Runtime, pod: &PodName) -> bool {
    let runs = |state| match state {
        ContainerState::Created | ContainerState::Running | ContainerState::Unknown => true,
        ContainerState::Exited => false,
    };
    runtime.sandboxes.iter().any(|sandbox| {
        // A static pod is called `<name>-<node>`. Of which node does not matter: one too many is kept.
        let named = sandbox.pod.namespace == pod.namespace
            && sandbox.pod.name.strip_prefix(&pod.name).is_some_and(|rest| rest.starts_with('-'));
        let alive = sandbox.ready || sandbox.containers.iter().any(|container| runs(container.state));
        sandbox.parent_uid.is_some() && named && alive
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::look::{Container, Sandbox};

    #[test]
    fn whose_store_it_becomes() {
        let (a, b) = ([1; 32], [2; 32]);
        let identity = |name: &str, cas: &[[u8; 32]]| Identity {
            cluster_ca_sha256: cas.to_vec(),
            ..Identity::new(store_format::StoreId([7; 16]), 0, name)
        };
        #[rustfmt::skip]
        type Whose<'a> = (&'a str, &'a [[u8; 32]]);
        let rows: [(Whose<'_>, Whose<'_>, bool); 7] = [
            // stored             present         adopts
            (("n", &[a]), ("n", &[a]), false),
            (("n", &[a, b]), ("n", &[b, a]), false),
            (("n", &[a]), ("n", &[]), false),
            (("n", &[a]), ("m", &[a]), true),
            (("n", &[a]), ("n", &[b]), true),
            (("n", &[a]), ("n", &[a, b]), true),
            (("", &[]), ("n", &[a]), true),
        ];
        for ((name, cas), (present, found), want) in rows {
            let adoption = Adoption::of(&identity(name, cas), present, found);
            assert_eq!(adoption.is_some(), want, "{name} {cas:?} {present} {found:?}");
        }
        let kept = Adoption::of(&identity("n", &[a]), "m", &[]).unwrap();
        assert_eq!(kept.ca_sha256, (vec![a], vec![a]), "credentials without a CA say nothing of the cluster");
    }

    #[test]
    fn what_counts_as_a_copy_that_is_there() {
        let sandbox = |namespace: &str, name: &str, ready, parent: Option<&str>, container| Sandbox {
            id: String::new(),
            pod: PodName { namespace: namespace.to_owned(), name: name.to_owned() },
            uid: String::new(),
            ready,
            parent_uid: parent.map(str::to_owned),
            created_at_unix_ns: 0,
            containers: vec![Container { id: String::new(), name: "c".to_owned(), state: container, attempt: 0 }],
        };
        use ContainerState::{Exited, Running, Unknown};
        #[rustfmt::skip]
        let rows = [
            (sandbox("shop", "web-edge-1",   true,  Some("u"), Running), true),
            (sandbox("shop", "web-edge-1",   true,  Some("u"), Exited),  true),
            (sandbox("shop", "web-edge-1",   false, Some("u"), Running), true),
            (sandbox("shop", "web-edge-1",   false, Some("u"), Unknown), true),
            (sandbox("shop", "web-edge-1",   false, Some("u"), Exited),  false),
            (sandbox("shop", "web-edge-1",   true,  None,      Running), false), // a pod of the API server
            (sandbox("shop", "webs-edge-1",  true,  Some("u"), Running), false),
            (sandbox("shop", "web",          true,  Some("u"), Running), false),
            (sandbox("home", "web-edge-1",   true,  Some("u"), Running), false),
        ];
        let pod = PodName { namespace: "shop".to_owned(), name: "web".to_owned() };
        for (sandbox, want) in rows {
            let shown = format!("{sandbox:?}");
            assert_eq!(has_copy(&Runtime { sandboxes: vec![sandbox] }, &pod), want, "{shown}");
        }
    }
}
