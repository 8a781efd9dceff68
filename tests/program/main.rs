//! `ckpt-db run` on the API server as its users meet it: the program as a process of its own, against the fake API server.
//!
//! Nothing is waited for by the clock: every step ends with a line that the program prints, a request that the server
//! logs, or a file that appears. Whole lines are compared, since they are what an operator reads at 3 a.m.
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../fake/mod.rs"]
mod fake;

mod agent;
mod backup;
mod bootstrap;
mod connections;
mod damage;
mod diff;
mod gates;
mod hostile;
mod instances;
mod keys;
mod lines;
mod logs;
mod memory;
mod metrics;
mod power_cut;
mod quiet;
mod refusal;
mod reload;
mod rendering;
mod rotation;
mod scene;
mod start;
mod store;
mod terminal;
