//! What grows, and how far: the store's file, memory, descriptors, and what happens when there is no room on a disk.
//!
//! `CKPT_DB_BOUNDS=full cargo test --profile campaign --test bounds -- --nocapture --test-threads 1` (`just bounds`) is the long
//! form, which prints the figures: 100,000 changes, 1,000,000 events, 10,000 reconnects, 20,000 rounds. Otherwise a sample of each.
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

#[allow(dead_code, reason = "tests/program uses the rest")]
#[path = "../program/agent.rs"]
mod agent;
#[path = "../common/mod.rs"]
mod common;
mod descriptors;
mod disk_full;
#[path = "../fake/mod.rs"]
mod fake;
mod file_size;
mod follower;
mod memory;
mod rounds;
#[allow(dead_code, reason = "tests/program uses the rest")]
#[path = "../program/scene.rs"]
mod scene;

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts what is allocated, for [`memory`].
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// So many in the long form, and so many otherwise.
fn amount(full: usize, sample: usize) -> usize {
    match std::env::var("CKPT_DB_BOUNDS").as_deref() {
        Ok("full") => full,
        Ok(other) => panic!("CKPT_DB_BOUNDS is {other:?}; only \"full\" means something"),
        Err(_) => sample,
    }
}

/// Tests that count what this process has take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
