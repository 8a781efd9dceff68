//! Where pods come from: the API server, or manifest files.

mod admit;
pub mod api;
mod document;
pub mod manifests;
pub mod stamp;
mod tree;
