//! How far long work on a store has come, for whoever shows it: a count of records, and what is done with them.
//!
//! One for the whole process, since nobody does two such things at once that anybody looks at. It says nothing of success.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

static PHASE: AtomicU8 = AtomicU8::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The file's structure is being checked, and its records read. How many there are is not known yet.
    Reading,
    /// Records are being checked, and opened where there is a key.
    Checking,
    /// Records are being written to a new file.
    Writing,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// So many records are done.
    pub done: u64,
    /// Of so many; 0 where that is not known.
    pub total: u64,
}

/// How far the work of the moment has come.
#[must_use]
pub fn progress() -> Progress {
    let phase = match PHASE.load(Relaxed) {
        0 => Phase::Reading,
        1 => Phase::Checking,
        _ => Phase::Writing,
    };
    Progress { phase, done: DONE.load(Relaxed), total: TOTAL.load(Relaxed) }
}

pub(super) fn begin(phase: Phase, total: usize) {
    let code = match phase {
        Phase::Reading => 0,
        Phase::Checking => 1,
        Phase::Writing => 2,
    };
    DONE.store(0, Relaxed);
    TOTAL.store(total as u64, Relaxed);
    PHASE.store(code, Relaxed);
}

pub(super) fn step() {
    DONE.fetch_add(1, Relaxed);
}
