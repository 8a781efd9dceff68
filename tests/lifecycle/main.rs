//! When a copy stands in for its parent: the predecessor's table replayed, ours spelled out, and random histories of a node.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failure here is the failure of a test")]

mod agent;
mod histories;
mod pods;
mod random;
mod replay;
mod table;
mod world;
