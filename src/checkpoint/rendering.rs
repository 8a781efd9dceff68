//! What translation produces: one static pod manifest and the trees that it mounts, as values.
//!
//! A tree names the objects its files come from instead of carrying their contents, so that whoever writes it holds one
//! object's clear text at a time.

use std::collections::BTreeSet;
use std::fmt;

use super::object::ObjectKey;
use crate::clear::Clear;

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything that makes one pod start from files alone.
#[derive(Clone)]
pub struct Rendering {
    /// The parent.
    pub pod: PodName,
    /// Its UID; empty where the parent has none.
    pub uid: String,
    /// The static pod manifest.
    pub manifest: Manifest,
    /// The trees its hostPath volumes point at; must be published before the manifest.
    pub trees: Vec<Tree>,
}

/// A static pod manifest.
#[derive(Clone)]
pub struct Manifest {
    /// Canonical JSON and one trailing newline. The same parent and objects give the same bytes.
    pub json: Clear,
    /// Whether any value of a Secret stands in it: then it is a file below the secret root, and the kubelet's directory
    /// holds a link.
    pub carries_secret: bool,
}

impl Manifest {
    /// The file name in the kubelet's directory: `<namespace>_<name>.json` (an underscore occurs in neither).
    #[must_use]
    pub fn file_name(pod: &PodName) -> String {
        format!("{}_{}.json", pod.namespace, pod.name)
    }
}

/// Below which root a tree lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TreeRoot {
    /// Holds clear text of Secrets: memory-backed.
    Secrets,
    /// ConfigMaps and downward API values.
    ConfigMaps,
}

/// One published directory, as the kubelet's atomic writer makes it (`..data` link, a link per top-level entry).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Which root.
    pub root: TreeRoot,
    /// Directory below `<root>/<namespace>/<pod>/`: one or two plain file names, e.g. `["etcd-certs"]` or
    /// `["kubernetes.io~projected", "kube-api-access-x"]`.
    pub path: Vec<String>,
    /// The files, sorted by path; no path twice.
    pub files: Vec<TreeFile>,
    /// `securityContext.fsGroup`: group of the tree, files |= 0440, directories |= 02550.
    pub fs_group: Option<u32>,
}

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    /// Relative path inside the tree, its components plain file names (never empty, `.`, or starting with `..`).
    pub path: Vec<String>,
    /// Permission bits before `fsGroup` is applied, e.g. 0o644.
    pub mode: u32,
    /// Where the contents come from.
    pub contents: Contents,
}

/// Where a file's contents come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// A value that is no secret, such as a downward API field.
    Inline(Vec<u8>),
    /// One data key of a stored Secret or ConfigMap.
    Data {
        /// The object.
        object: ObjectKey,
        /// Its key in `data` or `binaryData`.
        key: String,
    },
}

/// Where a pod's manifest belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activity {
    /// Rendered and ready, outside of the kubelet's directory.
    Prepared,
    /// In the kubelet's directory.
    Active,
    /// Nobody knows whether it may run: an active manifest stays as it is, otherwise the pod is prepared.
    AsItIs,
}

/// One pod of a plan.
#[derive(Clone)]
pub struct PlannedPod {
    /// Its files.
    pub rendering: Rendering,
    /// Where its manifest belongs.
    pub activity: Activity,
}

/// What the rendered files of this node should be; whatever else of ours exists goes.
#[derive(Clone, Default)]
pub struct Plan {
    /// The pods, in the order of activation.
    pub pods: Vec<PlannedPod>,
    /// Other pods whose files stay as they are: not knowing something is no reason to stop a copy that runs.
    pub untouched: Untouched,
    /// Pods of the plan whose rendering may lack something that was lost: it is published where there is nothing, and
    /// never over an active manifest, which would restart the copy for the worse.
    pub unsure: BTreeSet<PodName>,
    /// Pods of which the runtime says that no sandbox of a copy is ready. Trees that one of them left behind go at once,
    /// unless its manifest was active when the pass began: its copy may be starting at this moment. Any other pod's wait
    /// until its containers must have ended.
    pub stopped: BTreeSet<PodName>,
}

/// Pods that are not in a plan and must not be cleaned up either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untouched {
    /// These.
    Only(BTreeSet<PodName>),
    /// All of them: which pods there are is not known for sure.
    All,
}

impl Default for Untouched {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

impl Untouched {
    /// Whether the files of `pod` stay as they are.
    #[must_use]
    pub fn covers(&self, pod: &PodName) -> bool {
        match self {
            Self::Only(pods) => pods.contains(pod),
            Self::All => true,
        }
    }
}
