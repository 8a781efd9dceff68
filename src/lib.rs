//! Keeps a Kubernetes node able to bring its pods back with no API server.
//!
//! Every pod bound to the node, and every ConfigMap and Secret it names, is stored in one transactional file. After a
//! reboot the static pod manifests and the trees they mount are rendered from that file alone.
//!
//! This is the library of the program `ckpt-db`. Another program that wants the store as its persistence finds what it may
//! rely on in [`embed`]; everything else may change with any version.

pub mod agent;
pub mod checkpoint;
pub mod clear;
pub mod crypto;
pub mod date;
pub mod embed;
pub mod feature_gates;
pub mod hardening;
pub mod keys;
pub mod layout;
mod lock;
pub mod materialize;
pub mod new_directory;
pub mod node;
pub mod ops;
pub mod regular_file;
pub mod source;
pub mod store;
