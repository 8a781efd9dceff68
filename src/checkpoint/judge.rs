//! Which pods are meant to come back, whatever they are made of: parents that were at work when the power went.

use std::collections::BTreeSet;

use serde_json::Value;

use super::json::{items, text};
use super::object::Object;
use super::pod::ParentPod;
use super::translate::{host_ports, writes_shared_storage};
use super::verdict::NotMeant;
use super::{ANNOTATION_CHECKPOINT_OF, ANNOTATION_OPT_OUT};

/// Where the kubelet says that it got a pod from: `api`, `file` or `http`.
const ANNOTATION_CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// On the API server's reflection of a static pod.
const ANNOTATION_CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// Pods of this priority are critical to the system (`scheduling.SystemCriticalPriority`).
const SYSTEM_CRITICAL_PRIORITY: i64 = 2_000_000_000;

/// Reasons that a graceful node shutdown gives to every pod of the node: no outcome of the pod itself.
const SHUTDOWN_REASONS: [&str; 3] = ["Terminated", "NodeShutdown", "Shutdown"];

/// Whether the pod has run on its node, as its status tells: a container that is or was running, a restart, or a phase
/// that comes after Pending.
///
/// A pod without any status is a hand-written manifest: who gave it to us vouches for it, and it counts as run. A body
/// that is no Pod has not run.
#[must_use]
pub fn has_run(pod: &Object) -> bool {
    ParentPod::parse(pod).is_ok_and(|pod| status_shows_run(pod.status()))
}

fn status_shows_run(status: &Value) -> bool {
    if status.as_object().is_none_or(serde_json::Map::is_empty) {
        return true;
    }
    let has_started = |container: &Value| {
        let entered = |state: &str| {
            container
                .get(state)
                .is_some_and(|state| state.get("running").is_some() || state.get("terminated").is_some())
        };
        entered("state")
            || entered("lastState")
            || container.get("restartCount").and_then(Value::as_u64).is_some_and(|restarts| restarts > 0)
    };
    matches!(text(status, "phase"), Some("Running" | "Succeeded" | "Failed"))
        || ["containerStatuses", "initContainerStatuses"].iter().any(|list| items(status, list).iter().any(has_started))
}

/// How the pod ended, as its status tells: `Succeeded`, `Failed`, or `Failed: ` and the kubelet's reason. `None` if it has
/// not, or if a graceful shutdown of the node ended it, which is no outcome. A body that is no Pod has not ended.
///
/// Final for this UID: a later status that says otherwise comes from an older state of the API server.
#[must_use]
pub fn outcome(pod: &Object) -> Option<String> {
    status_outcome(ParentPod::parse(pod).ok()?.status())
}

fn status_outcome(status: &Value) -> Option<String> {
    let phase = text(status, "phase").filter(|phase| matches!(*phase, "Succeeded" | "Failed"))?;
    if phase == "Succeeded" {
        return Some(phase.to_owned());
    }
    match text(status, "reason") {
        Some(reason) if SHUTDOWN_REASONS.contains(&reason) => None,
        Some(reason) if !reason.is_empty() => Some(format!("{phase}: {reason}")),
        Some(_) | None => Some(phase.to_owned()),
    }
}

/// What a pod's status tells of its past: whether it [has run](has_run), and its [outcome].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) ran: bool,
    pub(crate) outcome: Option<String>,
}

impl Past {
    /// Of a body that is no Pod nothing is known.
    pub(crate) fn of(pod: &Object) -> Self {
        ParentPod::parse(pod).map(|pod| Self::told_by(&pod)).unwrap_or_default()
    }

    /// The same of a pod that was read already.
    pub(crate) fn told_by(pod: &ParentPod) -> Self {
        Self { ran: status_shows_run(pod.status()), outcome: status_outcome(pod.status()) }
    }
}

/// Whether the pod is being deleted (`metadata.deletionTimestamp`). A body that is no Pod is not.
#[must_use]
pub fn is_being_deleted(pod: &Object) -> bool {
    ParentPod::parse(pod).is_ok_and(|pod| pod.metadata().get("deletionTimestamp").is_some())
}

/// Why the pod is not supposed to come back, if so. The first that holds, from identity to habit.
///
/// `ended`: it is on record that the pod has ended, whatever its status says now.
pub(crate) fn not_meant(pod: &ParentPod, ended: bool) -> Option<NotMeant> {
    let static_source = matches!(pod.annotation(ANNOTATION_CONFIG_SOURCE), Some("file" | "http"));
    if static_source
        || pod.annotation(ANNOTATION_CONFIG_MIRROR).is_some()
        || pod.annotation(ANNOTATION_CHECKPOINT_OF).is_some()
    {
        return Some(NotMeant::NotAParent);
    }
    if pod.annotation(ANNOTATION_OPT_OUT) == Some("false") {
        return Some(NotMeant::OptedOut);
    }
    if ended || status_outcome(pod.status()).is_some() {
        return Some(NotMeant::Finished);
    }
    if pod.metadata().get("deletionTimestamp").is_some() {
        return Some(NotMeant::Deleting);
    }
    // Absent means Always.
    let runs_once = text(pod.spec(), "restartPolicy").is_some_and(|policy| policy != "Always");
    if runs_once && !pod.annotated() {
        return Some(NotMeant::RunsOnce);
    }
    None
}

/// Whether a StatefulSet of any API group owns the pod: such a pod is at-most-one in the whole cluster.
pub(crate) fn is_of_stateful_set(pod: &ParentPod) -> bool {
    items(pod.metadata(), "ownerReferences").iter().any(|owner| text(owner, "kind") == Some("StatefulSet"))
}

/// `spec.priority`, which the API server resolves; for a hand-written manifest, what its built-in class stands for.
pub(crate) fn priority(pod: &ParentPod) -> i64 {
    pod.spec().get("priority").and_then(Value::as_i64).unwrap_or(match text(pod.spec(), "priorityClassName") {
        Some("system-cluster-critical") => 2_000_000_000,
        Some("system-node-critical") => 2_000_001_000,
        Some(_) | None => 0,
    })
}

/// Whether the pod is activated at once, without waiting for the API server's silence.
pub(crate) fn is_system_critical(pod: &ParentPod) -> bool {
    priority(pod) >= SYSTEM_CRITICAL_PRIORITY
}

/// Whether the copy has to go before the kubelet sees its parent again: side by side, the parent would be rejected for
/// good (host port), or both would write the same storage, or there would be two of a StatefulSet's pod.
///
/// Ports of a pod on the node's network do not count: its copy declares none, so that the kubelet takes the parent beside
/// it. Whatever serves the API offline is such a pod, and must not go at the first answer.
pub(crate) fn yields_first(pod: &ParentPod) -> bool {
    let contends = !pod.host_network() && !host_ports(pod).is_empty();
    contends || writes_shared_storage(pod) || is_of_stateful_set(pod)
}

/// The names of the pod's containers, init containers aside.
pub(crate) fn container_names(pod: &ParentPod) -> Vec<String> {
    items(pod.spec(), "containers").iter().filter_map(|container| text(container, "name")).map(str::to_owned).collect()
}

/// If the pod's status calls it ready (condition `Ready`): the ids of the containers that it speaks of.
pub(crate) fn ready_containers(pod: &ParentPod) -> Option<BTreeSet<String>> {
    let status = pod.status();
    let ready = items(status, "conditions")
        .iter()
        .any(|condition| text(condition, "type") == Some("Ready") && text(condition, "status") == Some("True"));
    // `containerd://<id>`.
    let id = |status: &Value| text(status, "containerID")?.rsplit_once("://").map(|(_, id)| id.to_owned());
    ready.then(|| items(status, "containerStatuses").iter().filter_map(id).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::object::{Kind, ObjectKey};
    use super::*;

    fn object(mut pod: Value) -> Object {
        if pod.get("spec").is_none() {
            pod["spec"] = json!({});
        }
        if pod["spec"].get("containers").is_none() {
            pod["spec"]["containers"] = json!([{"name": "c"}]);
        }
        let key = ObjectKey::new(Kind::Pod, "default", "web").unwrap();
        Object { key, uid: String::new(), resource_version: String::new(), body: pod.to_string().into() }
    }

    #[test]
    fn which_status_shows_that_a_pod_has_run() {
        let containers = |status| json!({"phase": "Pending", "containerStatuses": [status]});
        #[rustfmt::skip]
        let rows = [
            (json!(null),                                                               true),
            (json!({}),                                                                 true),
            (json!({"phase": "Pending"}),                                               false),
            (json!({"phase": "Unknown"}),                                               false),
            (json!({"phase": "Running"}),                                               true),
            (json!({"phase": "Succeeded"}),                                             true),
            (json!({"phase": "Failed"}),                                                true),
            (containers(json!({"state": {"waiting": {}}, "restartCount": 0})),          false),
            (containers(json!({"state": {"waiting": {}}, "restartCount": 1})),          true),
            (containers(json!({"state": {"running": {}}})),                             true),
            (containers(json!({"state": {"terminated": {}}})),                          true),
            (containers(json!({"state": {"waiting": {}}, "lastState": {"terminated": {}}})), true),
            (json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}), true),
        ];
        for (status, want) in rows {
            assert_eq!(has_run(&object(json!({"status": status}))), want, "{status}");
        }
    }

    #[test]
    fn which_pods_are_meant_to_come_back() {
        use NotMeant::{Deleting, Finished, NotAParent, OptedOut, RunsOnce};
        let note = |name: &str, value: &str| json!({"metadata": {"annotations": {name: value}}});
        let policy = |policy: &str| json!({"spec": {"restartPolicy": policy}});
        let failed = |reason: &str| json!({"status": {"phase": "Failed", "reason": reason}});
        let wanted = |policy: &str| {
            json!({"spec": {"restartPolicy": policy},
            "metadata": {"annotations": {"checkpointer.alpha.coreos.com/checkpoint": "true"}}})
        };
        #[rustfmt::skip]
        let rows = [
            (json!({}),                                                        None),
            (note("kubernetes.io/config.source", "api"),                       None),
            (note("kubernetes.io/config.source", "file"),                      Some(NotAParent)),
            (note("kubernetes.io/config.source", "http"),                      Some(NotAParent)),
            (note("kubernetes.io/config.mirror", "x"),                         Some(NotAParent)),
            (note("checkpointer.alpha.coreos.com/checkpoint-of", "x"),         Some(NotAParent)),
            (note("ckpt-db.io/checkpoint", "true"),                            None),
            (note("ckpt-db.io/checkpoint", "false"),                           Some(OptedOut)),
            (json!({"status": {"phase": "Running"}}),                          None),
            (json!({"status": {"phase": "Succeeded"}}),                        Some(Finished)),
            (json!({"status": {"phase": "Failed"}}),                           Some(Finished)),
            (failed("Evicted"),                                                Some(Finished)),
            (failed("OutOfcpu"),                                               Some(Finished)),
            (failed("NodeLost"),                                               Some(Finished)),
            (failed("Terminated"),                                             None),
            (failed("NodeShutdown"),                                           None),
            (failed("Shutdown"),                                               None),
            (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), Some(Deleting)),
            (policy("Always"),                                                 None),
            (policy("OnFailure"),                                              Some(RunsOnce)),
            (policy("Never"),                                                  Some(RunsOnce)),
            (wanted("Never"),                                                  None),
        ];
        for (pod, want) in rows {
            let parent = ParentPod::parse(&object(pod.clone())).unwrap();
            assert_eq!(not_meant(&parent, false), want, "{pod}");
            // What is on record counts as what the status says, and goes no further than that.
            let on_record = match want {
                Some(NotAParent | OptedOut) => want,
                Some(_) | None => Some(Finished),
            };
            assert_eq!(not_meant(&parent, true), on_record, "{pod}");
        }
    }

    #[test]
    fn how_a_pod_ended() {
        #[rustfmt::skip]
        let rows = [
            (json!(null),                                           None),
            (json!({"phase": "Pending"}),                           None),
            (json!({"phase": "Running"}),                           None),
            (json!({"phase": "Unknown", "reason": "NodeLost"}),     None),
            (json!({"phase": "Succeeded"}),                         Some("Succeeded")),
            (json!({"phase": "Succeeded", "reason": "Shutdown"}),   Some("Succeeded")),
            (json!({"phase": "Failed"}),                            Some("Failed")),
            (json!({"phase": "Failed", "reason": ""}),              Some("Failed")),
            (json!({"phase": "Failed", "reason": 7}),               Some("Failed")),
            (json!({"phase": "Failed", "reason": "Evicted"}),       Some("Failed: Evicted")),
            (json!({"phase": "Failed", "reason": "OutOfcpu"}),      Some("Failed: OutOfcpu")),
            (json!({"phase": "Failed", "reason": "Terminated"}),    None),
            (json!({"phase": "Failed", "reason": "NodeShutdown"}),  None),
            (json!({"phase": "Failed", "reason": "Shutdown"}),      None),
        ];
        for (status, want) in rows {
            assert_eq!(outcome(&object(json!({"status": status}))).as_deref(), want, "{status}");
        }
    }

    #[test]
    fn which_copies_yield_first() {
        let mounted = |volume: Value, read_only: bool| {
            let mut volume = volume;
            volume["name"] = json!("v");
            json!({"spec": {"volumes": [volume], "containers": [{"name": "c",
                "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": read_only}]}]}})
        };
        let ports = |ports: Value| json!({"spec": {"containers": [{"name": "c", "ports": ports}]}});
        let on_the_nodes_network = |mut pod: Value| {
            pod["spec"]["hostNetwork"] = json!(true);
            pod
        };
        #[rustfmt::skip]
        let rows = [
            (json!({}),                                                               false),
            (ports(json!([{"containerPort": 80}])),                                   false),
            (ports(json!([{"containerPort": 80, "hostPort": 80}])),                   true),
            // As the API server has a pod on the node's network, and as one writes it by hand.
            (on_the_nodes_network(ports(json!([{"containerPort": 80, "hostPort": 80}]))), false),
            (on_the_nodes_network(ports(json!([{"containerPort": 80}]))),             false),
            (on_the_nodes_network(mounted(json!({"hostPath": {"path": "/d"}}), false)), true),
            (mounted(json!({"emptyDir": {}}), false),                                 false),
            (mounted(json!({"hostPath": {"path": "/d"}}), false),                     true),
            (mounted(json!({"hostPath": {"path": "/d"}}), true),                      false),
            (mounted(json!({"nfs": {"server": "s", "path": "/"}}), false),            true),
            (mounted(json!({"nfs": {"server": "s", "path": "/", "readOnly": true}}), false), false),
            (json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/d"}}]}}), false),
            (json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "u"}]}}), true),
        ];
        for (pod, want) in rows {
            assert_eq!(yields_first(&ParentPod::parse(&object(pod.clone())).unwrap()), want, "{pod}");
        }
    }
}
