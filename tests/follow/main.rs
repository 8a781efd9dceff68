//! The agent follows the API server through faults: the fake server misbehaves, and what the store holds is compared.
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

#[path = "../fake/mod.rs"]
mod fake;

mod appearing;
mod bodies;
mod cluster;
mod deletion;
mod harness;
mod held;
mod load;
mod objects;
mod restored;
mod silence;
mod watches;
