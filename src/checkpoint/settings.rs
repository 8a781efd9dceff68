//! What the operator decides about translation. Every value is an argument of the pure core; the defaults are the safe ones.

use super::env_file::NoHelper;
use super::rendering::PodName;

/// What to do with environment values that come from a Secret (the manifest becomes a mirror pod that others may read).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretEnv {
    /// Through an env file where that is possible; else literal for pods that are annotated for checkpointing, and refused
    /// for all others.
    #[default]
    Auto,
    /// Through a file in memory, which an init container writes and the kubelet reads (`valueFrom.fileKeyRef`, since 1.35).
    /// Where that is not possible, such a pod is not recoverable.
    EnvFile,
    /// Written into the manifest in clear text.
    Literal,
    /// Such a pod is not recoverable.
    Refuse,
}

/// What to do with projected service account tokens, which nobody can issue offline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenPolicy {
    /// The rest of the volume is rendered without the token.
    #[default]
    Omit,
    /// A pod with such a token is not recoverable.
    Refuse,
}

/// Which of the stored pods are activated. All are stored in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationPolicy {
    /// None, and nothing is rendered: store and report only.
    Off,
    /// Those annotated `checkpointer.alpha.coreos.com/checkpoint: "true"`.
    Annotated,
    /// All that a power cut should not stop.
    #[default]
    All,
}

/// A kubelet's `major.minor`; rules that say *since* compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KubeletVersion {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
}

/// Settings of translation and activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of this node.
    pub node_name: String,
    /// `Node.status.nodeInfo.kubeletVersion`, where known. Unknown counts as the newest.
    pub kubelet_version: Option<KubeletVersion>,
    /// Absolute path of the secret root as the kubelet sees it.
    pub secret_root: String,
    /// Absolute path of the ConfigMap root as the kubelet sees it.
    pub configmap_root: String,
    /// Which pods are activated.
    pub activation: ActivationPolicy,
    /// Environment values from Secrets.
    pub secret_env: SecretEnv,
    /// Absolute path, as the kubelet sees it, of a static build of this program, which copies run to write their env file;
    /// or why there is none.
    pub env_file_helper: Result<String, NoHelper>,
    /// Projected service account tokens.
    pub tokens: TokenPolicy,
    /// Keep the parent's labels (Services, PDBs and controllers will then count the copy).
    pub keep_labels: bool,
    /// Keep resource requests (a copy that does not fit evicts running pods).
    pub keep_requests: bool,
    /// Drop `runtimeClassName` and `overhead` instead of refusing the pod (weakens its sandbox).
    pub drop_runtime_class: bool,
    /// Annotations that runtimes and CNI plugins read: exact names, or prefixes that end in `/` or `*`.
    pub kept_annotations: Vec<String>,
    /// Refuse records that no key authenticates.
    pub require_authentication: bool,
    /// The pod that this program runs in, if it runs in one: its copy has to know what it is, and needs credentials that
    /// a copy keeps.
    pub own_pod: Option<PodName>,
}

/// Annotations that runtimes and CNI plugins read, kept on the copy by default.
pub const KEPT_ANNOTATIONS: [&str; 6] = [
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/pod",
    "io.kubernetes.cri-o.*",
    "kubernetes.io/ingress-bandwidth",
    "kubernetes.io/egress-bandwidth",
];

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            kubelet_version: None,
            secret_root: "/etc/kubernetes/checkpoint-secrets".to_owned(),
            configmap_root: "/etc/kubernetes/checkpoint-configmaps".to_owned(),
            activation: ActivationPolicy::default(),
            secret_env: SecretEnv::default(),
            env_file_helper: Err(NoHelper::NotGiven),
            tokens: TokenPolicy::default(),
            keep_labels: false,
            keep_requests: false,
            drop_runtime_class: false,
            kept_annotations: KEPT_ANNOTATIONS.map(str::to_owned).to_vec(),
            require_authentication: false,
            own_pod: None,
        }
    }
}
