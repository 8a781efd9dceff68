//! The store's thread and the streams that wait for it: group commit, order, failures, and what a consumer reads back.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod adapter;
mod model;
mod support;
mod thread;
