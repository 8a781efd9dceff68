//! What is not as it should be among the pod-checkpointer's files: a line each, with what follows from it.

use std::path::PathBuf;

use crate::checkpoint::object::{ObjectKey, Shown};
use crate::checkpoint::rendering::PodName;

/// Something that an operator should know of before the pod-checkpointer's files are gone. Never carries a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A file or directory can't be read.
    #[error("{} can't be read ({why}); what it holds is not adopted", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        why: String,
    },
    /// A manifest of length zero: a power cut came before its contents.
    #[error("{} is empty, as after a power cut; its pod is not adopted", .0.display())]
    EmptyManifest(PathBuf),
    /// A manifest is not the JSON of a Pod.
    #[error("{} can't be decoded ({why}); its pod is not adopted, and files that may be its are kept", .path.display())]
    Undecodable {
        /// Which.
        path: PathBuf,
        /// Where it is wrong.
        why: String,
    },
    /// A manifest is a copy's, but the pod in it is none that the API server would take.
    #[error("{} holds a pod that is not adopted: {why}", .path.display())]
    BadPod {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Two manifests of one pod in one directory.
    #[error("{} is a second manifest of {pod}; only the first is looked at", .path.display())]
    Twice {
        /// The second.
        path: PathBuf,
        /// The pod.
        pod: PodName,
    },
    /// An active manifest that does not have the name that the pod-checkpointer gives it.
    #[error("{} is not named as the pod-checkpointer names the manifest of {pod}; the pod is adopted, this file is left alone: remove it when its copy may stop", .path.display())]
    FileName {
        /// Which.
        path: PathBuf,
        /// The pod in it.
        pod: PodName,
    },
    /// Two pods have one file name, and this one's manifest was overwritten.
    #[error(
        "{pod} has no manifest: that of {other} has its file name, {file}; it is not adopted, and comes back when the API server answers"
    )]
    Collision {
        /// The pod that is lost.
        pod: PodName,
        /// The other one.
        other: PodName,
        /// The file's name.
        file: String,
    },
    /// Files of a pod that has no manifest.
    #[error("{0} has values of Secrets or ConfigMaps, but no manifest; it is not adopted")]
    NoManifest(PodName),
    /// A volume's directory is missing.
    #[error(
        "{pod} mounts {object}, of which there is no directory; it does not come back before the API server has given it (whether it is optional was not kept)"
    )]
    MissingObject {
        /// The pod.
        pod: PodName,
        /// The object.
        object: ObjectKey,
    },
    /// The pod names an object that the pod-checkpointer never keeps.
    #[error(
        "{pod} names {object} ({field}), which the pod-checkpointer does not keep; it does not come back before the API server has given it"
    )]
    NotKept {
        /// The pod.
        pod: PodName,
        /// The object.
        object: ObjectKey,
        /// The field that names it.
        field: String,
    },
    /// An object's directory holds nothing.
    #[error("{object} of {pod} has no value at all; it is adopted so")]
    NoValues {
        /// The pod.
        pod: PodName,
        /// The object.
        object: ObjectKey,
    },
    /// A value of length zero.
    #[error("{object} of {pod}: the file of key {key} is empty, as after a power cut; it is adopted so")]
    EmptyValue {
        /// The pod.
        pod: PodName,
        /// The object.
        object: ObjectKey,
        /// The data key.
        key: Shown,
    },
    /// A value that was not written when the others of its object were.
    #[error(
        "{object} of {pod}: key {key} was written {older_s} s before the others and may be gone from the object since; it is adopted with it"
    )]
    StaleKey {
        /// The pod.
        pod: PodName,
        /// The object.
        object: ObjectKey,
        /// The data key.
        key: Shown,
        /// By how many seconds.
        older_s: u64,
    },
    /// A file that can't be a value.
    #[error("{} is no value of an object ({why}); it is not adopted", .path.display())]
    NoValue {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// An object as a whole is none that the API server would take.
    #[error("{object} of {pod} is not adopted: {why}")]
    BadObject {
        /// The pod.
        pod: PodName,
        /// The object.
        object: ObjectKey,
        /// What is wrong.
        why: String,
    },
    /// Two pods have one object with different values.
    #[error("{object} differs between {one} and {other}; that of {one} is newer, and is adopted")]
    Differs {
        /// The object.
        object: ObjectKey,
        /// The pod whose version is taken.
        one: PodName,
        /// The other.
        other: PodName,
    },
    /// A temporary file of a write that was cut short.
    #[error("{} was left over by a write that was cut short; it is not adopted", .0.display())]
    Temporary(PathBuf),
    /// A directory of an object that the pod does not mount, any more.
    #[error("{} is not mounted by {pod}; it is not adopted", .path.display())]
    Unmounted {
        /// The directory.
        path: PathBuf,
        /// The pod.
        pod: PodName,
    },
    /// A volume that names a directory below the roots that is not the pod's own.
    #[error("{pod}: volume {volume} is a directory of the host that belongs to another pod, and stays one")]
    OthersDirectory {
        /// The pod.
        pod: PodName,
        /// The volume.
        volume: Shown,
    },
    /// A manifest that current kubelets refuse.
    #[error("{} is refused by kubelets since 1.34 ({field}); its pod is adopted, and where no copy of it runs a manifest that they accept takes its place", .path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// The field, as a JSON path.
        field: String,
    },
    /// A pod of another node.
    #[error("{pod} is bound to node {node}; it is not adopted")]
    OtherNode {
        /// The pod.
        pod: PodName,
        /// The node that it names.
        node: String,
    },
    /// The pod-checkpointer's own manifest.
    #[error("{} is the pod-checkpointer itself; it is not adopted: it must not run beside ckpt-db", .0.display())]
    ItsOwn(PathBuf),
}
