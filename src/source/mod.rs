//! Where pods come from: the API server, manifest files, or what a predecessor left.

mod admit;
pub mod api;
pub mod bootstrap;
pub mod cluster;
mod document;
pub mod manifests;
pub mod pod_checkpointer;
pub mod stamp;
pub mod text;
mod tree;
