//! Sandboxes and containers, as the runtime lists them, become what is looked at.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::failure::Problem;
use super::messages::{self, CONTAINER_CREATED, CONTAINER_EXITED, CONTAINER_RUNNING, SANDBOX_NOTREADY, SANDBOX_READY};
use crate::checkpoint::look::{Container, ContainerState, Runtime, Sandbox};
use crate::checkpoint::rendering::PodName;
use crate::checkpoint::{ANNOTATION_CHECKPOINT_OF, ANNOTATION_PARENT_UID, named_parent};

// The labels by which a kubelet finds its own (`k8s.io/kubernetes/pkg/kubelet/types`).
const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Whether the sandbox of a container is missing: the two lists are not of one moment.
pub(super) fn misses_sandbox(containers: &[messages::Container], sandboxes: &[messages::PodSandbox]) -> bool {
    let ids: BTreeSet<&str> = sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect();
    containers.iter().any(|container| !ids.contains(container.pod_sandbox_id.as_str()))
}

/// Puts containers into their sandboxes: of each pod the ready sandbox first and then the newest, and of each name the
/// newest container.
///
/// A container without a sandbox is not lost: by its own labels it makes one that is not ready. What no kubelet has made,
/// so that nobody knows of which pod it is, is left out.
pub(super) fn join(
    containers: Vec<messages::Container>,
    sandboxes: Vec<messages::PodSandbox>,
) -> Result<Runtime, Problem> {
    let mut by_id: BTreeMap<String, Sandbox> = BTreeMap::new();
    for mut sandbox in sandboxes {
        let metadata = sandbox.metadata.take().unwrap_or_default();
        let Some((pod, uid)) = identity(&mut sandbox.labels, metadata.namespace, metadata.name, metadata.uid) else {
            continue;
        };
        let ready = match sandbox.state {
            SANDBOX_READY => true,
            SANDBOX_NOTREADY => false,
            other => return Err(Problem::Garbage(format!("state {other} of a sandbox is none of CRI v1"))),
        };
        let parent = sandbox.annotations.remove(ANNOTATION_PARENT_UID);
        let of_predecessor = sandbox.annotations.get(ANNOTATION_CHECKPOINT_OF);
        let of_predecessor = of_predecessor.map(|name| named_parent(&pod.namespace, name));
        let made = Sandbox {
            id: sandbox.id.clone(),
            pod,
            uid,
            ready,
            parent_uid: parent.or(of_predecessor),
            created_at_unix_ns: sandbox.created_at,
            containers: Vec::new(),
        };
        by_id.insert(sandbox.id, made);
    }
    for mut container in containers {
        if !by_id.contains_key(&container.pod_sandbox_id) {
            let nothing = String::new;
            let Some((pod, uid)) = identity(&mut container.labels, nothing(), nothing(), nothing()) else { continue };
            let id = container.pod_sandbox_id.clone();
            let created_at_unix_ns = container.created_at;
            let containers = Vec::new();
            let made = Sandbox { id, pod, uid, ready: false, parent_uid: None, created_at_unix_ns, containers };
            by_id.insert(container.pod_sandbox_id.clone(), made);
        }
        if let Some(sandbox) = by_id.get_mut(&container.pod_sandbox_id) {
            sandbox.containers.push(made_of(container));
        }
    }
    let mut sandboxes: Vec<_> = by_id.into_values().collect();
    for sandbox in &mut sandboxes {
        sandbox
            .containers
            .sort_by(|a, b| (&a.name, Reverse(a.attempt), &a.id).cmp(&(&b.name, Reverse(b.attempt), &b.id)));
    }
    // A ready one is the newest, even where the clock was set back since an older one was made.
    sandboxes.sort_by(|a, b| {
        let age = |sandbox: &Sandbox| Reverse((sandbox.ready, sandbox.created_at_unix_ns));
        (&a.pod, age(a), &a.id).cmp(&(&b.pod, age(b), &b.id))
    });
    Ok(Runtime { sandboxes })
}

/// Of which pod something is: by its labels, and where one is missing, by its metadata.
fn identity(
    labels: &mut BTreeMap<String, String>,
    namespace: String,
    name: String,
    uid: String,
) -> Option<(PodName, String)> {
    let mut one = |label, otherwise: String| {
        let value = labels.remove(label).filter(|value: &String| !value.is_empty()).unwrap_or(otherwise);
        (!value.is_empty()).then_some(value)
    };
    let namespace = one(LABEL_POD_NAMESPACE, namespace)?;
    let name = one(LABEL_POD_NAME, name)?;
    let uid = one(LABEL_POD_UID, uid)?;
    Some((PodName { namespace, name }, uid))
}

fn made_of(mut container: messages::Container) -> Container {
    let metadata = container.metadata.unwrap_or_default();
    let name = container.labels.remove(LABEL_CONTAINER_NAME).filter(|name| !name.is_empty()).unwrap_or(metadata.name);
    let state = match container.state {
        CONTAINER_CREATED => ContainerState::Created,
        CONTAINER_RUNNING => ContainerState::Running,
        CONTAINER_EXITED => ContainerState::Exited,
        // `CONTAINER_UNKNOWN`, and what a later version may add.
        _ => ContainerState::Unknown,
    };
    Container { id: container.id, name, state, attempt: metadata.attempt }
}
