//! The whole way on a real node: what the agent does, told by the containers that run in the end.

mod canary;
mod daemon_set;
mod env_file;
mod hand_over;
mod harm;
mod own_pod;
mod pod_checkpointer;
mod pods;
mod power_cut;
mod reboot;
mod shutdown;
mod silence;

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::{collection, one};
use crate::control_plane::{Cluster, Options as ClusterOptions};
use crate::node::{Container, Options, PATIENCE, RealNode};
use crate::until;

pub(crate) const NODE: &str = "edge-1";

/// How long the API server has to be silent before pods are activated that are neither annotated nor critical. Shorter than
/// what an operator wants, longer than it takes an API server to answer.
pub(crate) const DELAY_S: u64 = 5;

/// How long a copy outlives its parent.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// A control plane, a node that has joined it, and the agent on that node as its service runs it.
///
/// The node goes first: it holds connections.
pub(crate) struct Stage {
    pub(crate) node: RealNode,
    pub(crate) cluster: Cluster,
}

impl Stage {
    /// `None` where this machine can't hold them, which is said on standard error.
    pub(crate) fn set(options: &Options) -> Option<Self> {
        let mut stage = Self::set_without_agent(options)?;
        stage.start_agent();
        Some(stage)
    }

    /// As [`Stage::set`], and no agent runs.
    pub(crate) fn set_without_agent(options: &Options) -> Option<Self> {
        Self::of(Cluster::start(ClusterOptions::default())?, options)
    }

    /// The same with a control plane of one's own.
    pub(crate) fn of(cluster: Cluster, options: &Options) -> Option<Self> {
        let node = RealNode::start(&cluster, NODE, options)?;
        let stage = Self { node, cluster };
        until("the node to register", PATIENCE, || {
            match stage.cluster.admin().get(&format!("/api/v1/nodes/{NODE}")).status {
                200 => Ok(()),
                other => Err(other.to_string()),
            }
        });
        Some(stage)
    }

    /// Starts the agent with the settings of these tests, and does not wait.
    pub(crate) fn start_agent(&mut self) {
        let [delay, grace] = [DELAY_S, GRACE.as_secs()].map(|seconds| format!("{seconds}s"));
        self.node.start_agent(&["--activation-delay", &delay, "--checkpoint-grace-period", &grace]);
    }

    /// Boots the node in the order of its units: the runtime, the agent until it is ready, the kubelet. Returns when the agent
    /// and the kubelet were started.
    pub(crate) fn boot(&mut self) -> Booted {
        self.node.boot();
        self.node.start_containerd();
        let agent = Instant::now();
        self.start_agent();
        self.node.until_ready();
        let kubelet = Instant::now();
        self.node.start_kubelet();
        Booted { agent, kubelet }
    }

    /// Creates objects, each in its namespace, which has to be there.
    #[track_caller]
    pub(crate) fn create(&self, objects: &[Value]) {
        for object in objects {
            let plural = match object["kind"].as_str().unwrap() {
                "Pod" => "pods",
                "Secret" => "secrets",
                "ConfigMap" => "configmaps",
                other => panic!("{other}"),
            };
            self.cluster.admin().create(&collection(plural, namespace(object)), object).ok();
        }
    }

    /// Creates pods and what they name, and waits until they run and the agent would bring them back.
    #[track_caller]
    pub(crate) fn run(&self, objects: &[Value]) {
        self.create(objects);
        for pod in objects.iter().filter(|object| object["kind"] == "Pod") {
            self.node.until_running(&key(pod), PATIENCE);
            self.until_prepared(&key(pod));
        }
    }

    /// Waits until the agent knows that the pod runs, and has what it needs to bring it back.
    #[track_caller]
    pub(crate) fn until_prepared(&self, pod: &str) {
        let (namespace, name) = pod.split_once('/').unwrap();
        let prepared = self.node.path(&format!("etc/kubernetes/inactive-manifests/{namespace}_{name}.json"));
        until(&format!("{pod} to be prepared"), PATIENCE, || {
            // A link where the manifest has a value of a Secret.
            if prepared.symlink_metadata().is_ok() { Ok(()) } else { Err(self.node.agent_log()) }
        });
    }

    /// A pod as the API server has it, by `namespace/name`; `None` if it has none.
    #[track_caller]
    pub(crate) fn pod(&self, pod: &str) -> Option<Value> {
        let (namespace, name) = pod.split_once('/').unwrap();
        let answer = self.cluster.admin().get(&one("pods", namespace, name));
        if answer.status == 404 { None } else { Some(answer.ok()) }
    }

    /// Waits until a copy of the pod runs.
    #[track_caller]
    pub(crate) fn until_copied(&self, pod: &str) -> Container {
        self.node.until_running(&copy_of(pod), PATIENCE)
    }

    /// Waits until the parent runs, its copy is gone, and the kubelet has told the API server so.
    #[track_caller]
    pub(crate) fn until_handed_over(&self, pod: &str) {
        until(&format!("{pod} to be handed over"), PATIENCE, || {
            let running = self.node.running();
            let of = |name: &str| running.iter().filter(|container| container.pod == name).count();
            let parent = self.pod(pod).unwrap_or_default();
            let phase = parent["status"]["phase"].as_str().unwrap_or_default();
            match (of(pod), of(&copy_of(pod)), phase) {
                (1.., 0, "Running") => Ok(()),
                (_, _, "Failed") => panic!("{pod} was rejected: {}", parent["status"]),
                (parents, copies, phase) => Err(format!(
                    "{parents} containers of it run and {copies} of its copy, and it is {phase:?}; the agent says\n{}",
                    self.node.agent_log()
                )),
            }
        });
    }

    /// What the pod's container `c` has written, once it has written all that it sees: see [`pods::VIEW`].
    #[track_caller]
    pub(crate) fn view(&self, container: &Container) -> String {
        until(&format!("the view of {}", container.pod), PATIENCE, || {
            let log = self.node.log_of(container);
            match log.split_once("\nEND\n") {
                Some((view, _)) => Ok(view.to_owned()),
                None => Err(log),
            }
        })
    }
}

/// When what was started.
#[derive(Clone, Copy)]
pub(crate) struct Booted {
    pub(crate) agent: Instant,
    pub(crate) kubelet: Instant,
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap()
}

/// `namespace/name` of a pod.
pub(crate) fn key(pod: &Value) -> String {
    format!("{}/{}", namespace(pod), pod["metadata"]["name"].as_str().unwrap())
}

/// The same of its copy.
pub(crate) fn copy_of(pod: &str) -> String {
    format!("{pod}-{NODE}")
}

/// The manifest's file of a pod's copy.
pub(crate) fn file_of(pod: &str) -> String {
    format!("{}.json", pod.replace('/', "_"))
}

/// As it is printed.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
