//! Where pods come from: the API server, or manifest files.

mod admit;
pub mod api;
pub mod bootstrap;
pub mod cluster;
mod document;
pub mod manifests;
pub mod stamp;
pub mod text;
mod tree;
