//! A node on which the file-based pod-checkpointer ran becomes one of ours: adopted as its files lie there, known defects
//! included, and without a copy that runs being restarted.
//!
//! The files are laid out from the documented behaviour of that program (`predecessor.rs`), and by no code of this one.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]
#![allow(dead_code, reason = "shared files: each test binary uses its part")]

mod adopting;
#[path = "../common/mod.rs"]
mod common;
mod defects;
mod leftovers;
#[path = "../manifest_checker/mod.rs"]
mod manifest_checker;
mod predecessor;
mod taking_over;
