//! Where pods come from: the API server, manifest files, or what a predecessor left.

mod admit;
pub mod api;
mod document;
pub mod manifests;
pub mod pod_checkpointer;
pub mod stamp;
mod tree;
