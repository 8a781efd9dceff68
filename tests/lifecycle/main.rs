//! When a copy stands in for its parent: the predecessor's table replayed, ours spelled out, and random histories of a node.

<<<<<<< HEAD
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failure here is the failure of a test")]
=======
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]
#![allow(clippy::print_stdout, reason = "a history is told to whoever asks for it")]
>>>>>>> i4-table

mod agent;
mod histories;
mod pods;
mod random;
mod replay;
mod table;
mod world;
