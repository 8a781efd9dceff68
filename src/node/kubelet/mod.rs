//! The kubelet of this node: its process, the configuration that it really uses, its records of pulled images.
//!
//! Its `/pods` endpoint is not asked: with the usual webhook authorisation it answers 403 to the node's own credentials,
//! and 500 to everybody once the authoriser's cache has run out with the API server away, which is just when it would be
//! needed. Nor is `healthz`: a kubelet that is not healthy yet restarts its containers all the same, so its process alone
//! counts.

pub mod command_line;
pub mod configuration;
pub mod process;
pub mod pull_records;
mod unit;
pub mod watch;
