//! Where pods come from. Manifest files for now; the API server later.

mod admit;
mod document;
pub mod manifests;
pub mod stamp;
mod tree;
