//! One look at the world around the store: what runs here, and whether the API server answers. Values only; whoever
//! looked says why something is not known.
//!
//! Times are milliseconds of `CLOCK_BOOTTIME`, which no wrong wall clock moves.

use std::collections::{BTreeMap, BTreeSet};

use super::node::Fact;
use super::rendering::PodName;

/// Everything that was seen at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// When it was looked, in milliseconds since boot.
    pub now_ms: u64,
    /// How the API server stands to us.
    pub api: ApiServer,
    /// What the container runtime has.
    pub runtime: Fact<Runtime>,
    /// The kubelet's process.
    pub kubelet: Fact<Kubelet>,
    /// Whether this boot is another one than that of the last commit.
    pub boot: Fact<Boot>,
    /// Manifests of ours in the kubelet's directory, each with the UID of the parent that it stands in for; empty where
    /// that can't be read any more. Of one that was taken over from the pod-checkpointer: [`super::named_parent`].
    pub manifests: Fact<BTreeMap<PodName, String>>,
}

/// How the API server stands to us, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// Whether it answers.
    pub reach: Answers,
    /// Since when without a break, in milliseconds since boot.
    pub since_ms: u64,
    /// Since when without a break it could have been reached and was not: attempts without a network say nothing of it.
    /// `None` while there was no such attempt.
    pub routed_since_ms: Option<u64>,
    /// When it gave the first sign of life of this outage that mattered to a copy, in milliseconds since boot: it takes
    /// connections, or has proven who it is, and answers nobody yet. Only an answer ends an outage, and with it this; further
    /// signs change nothing.
    pub sign_ms: Option<u64>,
    /// When it answered last in this boot; `None` if nobody knows of an answer.
    pub last_answer_ms: Option<u64>,
    /// The pods of this node that it named when it was last asked and that are neither finished nor being deleted, with
    /// their UIDs: a sighting, which may not be stored yet. Empty unless it answers.
    pub sighted: BTreeMap<PodName, String>,
    /// Whether what the store holds of pods is what it says now: a listing of this time of answering is durable.
    pub in_step: bool,
}

impl ApiServer {
    /// One of which nothing was heard since the node's boot, although it could have been reached.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            reach: Answers::Silent,
            since_ms: 0,
            routed_since_ms: Some(0),
            sign_ms: None,
            last_answer_ms: None,
            sighted: BTreeMap::new(),
            in_step: false,
        }
    }
}

/// The three ways in which an API server can stand to us; only `Answering` carries facts about parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answers {
    /// It answers requests for the pods of this node.
    Answering,
    /// Nothing is heard of it, or there are no credentials to ask with.
    Silent,
    /// It, or something in its place, answers and gives no facts.
    Refusing,
}

/// What the container runtime has of pods (CRI v1 `ListPodSandbox` and `ListContainers`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Every sandbox, dead ones too; of each pod the ready one first, and then the newest.
    pub sandboxes: Vec<Sandbox>,
}

/// A pod sandbox and its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's name for it.
    pub id: String,
    /// The pod that it is of, by the kubelet's labels. A static pod's name ends with `-<node>`.
    pub pod: PodName,
    /// `io.kubernetes.pod.uid`: of an API pod its UID; of a static pod a hash that the kubelet makes.
    pub uid: String,
    /// Whether it is `SANDBOX_READY`.
    pub ready: bool,
    /// Of a copy of ours: the UID of its parent (annotation `ckpt-db.io/parent-uid`). Of one that the pod-checkpointer made:
    /// [`super::named_parent`].
    pub parent_uid: Option<String>,
    /// When it was made, in nanoseconds since 1970 by the clock of that time.
    pub created_at_unix_ns: i64,
    /// Its containers, dead ones too; of each name the newest first.
    pub containers: Vec<Container>,
}

/// A container of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime's name for it.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// What it is doing.
    pub state: ContainerState,
    /// How many there were of this name in the sandbox before it.
    pub attempt: u32,
}

/// CRI v1 `ContainerState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// It has ended.
    Exited,
    /// The runtime doesn't know.
    Unknown,
}

/// An image that the node has (CRI v1 `Image`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The runtime's name for it: of containerd and CRI-O the digest of its configuration, `sha256:...` or bare.
    pub id: String,
    /// The tags by which it is known, with registry: `registry.k8s.io/pause:3.9`.
    pub repo_tags: Vec<String>,
    /// The digests by which it is known, with registry: `registry.k8s.io/pause@sha256:...`. Empty where it was imported.
    pub repo_digests: Vec<String>,
    /// Whether kubelets leave it alone when they collect garbage.
    pub pinned: bool,
}

/// The kubelet of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubelet {
    /// There is no such process now.
    NotRunning,
    /// It runs.
    Running {
        /// Since when, in milliseconds since boot.
        since_ms: u64,
    },
}

/// This boot, compared with that of the last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The same, or no boot was recorded.
    Same,
    /// Another one.
    New {
        /// Whether a kubelet has run in this boot; where nobody knows, it counts as having run.
        kubelet_ran: bool,
    },
}

/// What a kubelet since 1.35 keeps of the images that it pulled (`<root>/image_manager/{pulling,pulled}`). An image that
/// no record names counts as preloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullRecords {
    /// What was pulled, and with what.
    pub pulled: Vec<PullRecord>,
    /// Images as pods name them, with tag or digest, whose pull has begun and has not been recorded as done. Such an image
    /// is no preloaded one, though it may be present.
    pub pulling: BTreeSet<String>,
    /// Why a record could not be read, if one could not: an image that no other record names may be that one's. The kubelet
    /// itself lets no pod use such an image without a new pull.
    pub unreadable: Option<String>,
}

/// How one image came to this node (`kubelet.config.k8s.io` `ImagePulledRecord`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRecord {
    /// The image as the container runtime names it (`imageRef`), which is its ID or a digest.
    pub image_ref: String,
    /// With what it was pulled, by the pods' name of the image without tag and digest (`credentialMapping`). Under a name
    /// that is not in here every pod must pull it again.
    pub by_image: BTreeMap<String, PulledWith>,
}

/// With what an image was pulled (`ImagePullCredentials`), and so which pods may use it without a new pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PulledWith {
    /// The node's credentials, or none: any pod may use it.
    Node,
    /// Pull secrets, as `namespace/name`: pods that name one of them. Service accounts beside them are left out.
    Secrets(Vec<String>),
    /// Service accounts, as `namespace/name`: their pods.
    ServiceAccounts(Vec<String>),
    /// Nothing was recorded: no pod may use it without a new pull.
    Nothing,
}

/// Which images the kubelet lets a pod use only if the pod could pull them (`imagePullCredentialsVerificationPolicy`, the
/// feature `KubeletEnsureSecretPulledImages`, on by default since 1.35).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ImageVerification {
    /// The feature is switched off, or the policy is `NeverVerify`: none.
    Never,
    /// `NeverVerifyPreloadedImages`, the default: those that it has pulled itself.
    #[default]
    Pulled,
    /// `NeverVerifyAllowlistedImages`: all that are not in this list, whoever pulled them
    /// (`preloadedImagesVerificationAllowlist`: full names without tag or digest, or prefixes that end in `/*`).
    AllBut(Vec<String>),
    /// `AlwaysVerify`: all.
    All,
}
