//! The pure core: which objects a pod needs, whether it would come back offline, and what it becomes as a static pod.
//!
//! Arguments in, values out: no clock, no file, no log line, no network.

pub mod closure;
pub mod data;
pub mod decide;
pub mod difference;
pub mod env_file;
pub mod examine;
pub mod images;
mod json;
pub mod judge;
pub mod lifecycle;
pub mod look;
pub mod lookup;
pub mod network;
pub mod node;
pub mod node_finding;
pub mod object;
mod own_pod;
pub mod pod;
pub mod rendering;
pub mod settings;
pub mod translate;
pub mod verdict;

/// Annotation of the file-based pod-checkpointer: `"true"` asks for checkpointing (and earliest activation).
pub const ANNOTATION_CHECKPOINT: &str = "checkpointer.alpha.coreos.com/checkpoint";
/// On a copy: the name of its parent (the file-based pod-checkpointer's annotation).
pub const ANNOTATION_CHECKPOINT_OF: &str = "checkpointer.alpha.coreos.com/checkpoint-of";
/// On a copy: the UID of its parent.
pub const ANNOTATION_PARENT_UID: &str = "ckpt-db.io/parent-uid";
/// On a copy: how often it was published anew because it did not run. Each number gives it a new UID.
pub const ANNOTATION_REPUBLISHED: &str = "ckpt-db.io/republished";
/// On a stored object: which predecessor's files it was made of, until the API server says what it is.
pub const ANNOTATION_IMPORTED_FROM: &str = "ckpt-db.io/imported-from";
/// `"false"` on a pod: it is stored, but never rendered.
pub const ANNOTATION_OPT_OUT: &str = "ckpt-db.io/checkpoint";

/// In every container of the copy of the agent's own pod: the UID of its parent, so that the program knows what it is.
pub const VARIABLE_COPY_OF: &str = "CKPT_DB_COPY_OF";

/// Stands where a parent's UID would, and is none: names the parent of a copy that the file-based pod-checkpointer made,
/// which says only what its parent is called.
#[must_use]
pub fn named_parent(namespace: &str, name: &str) -> String {
    format!("pod-checkpointer:{namespace}/{name}")
}
