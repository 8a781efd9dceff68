//! What has to be durable before the next step, made so together: a disk takes many syncs at once in about the time of one.
//!
//! A directory that is [`Dir::together`](super::dir::Dir::together) hands its syncs to a [`Syncs`] instead of waiting for each.
//! Whoever gave it that asks [`Syncs::all`] before it shows anything that they cover.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::Errno;

use super::error::MaterializeError;
use super::gate::{Gate, Step};

/// So many files are open at most, waiting to be synced; far below what a process may have (1024, as systemd has it).
const OPEN_MAX: usize = 200;

/// So many are synced at the same time. More do not make it faster: the disk writes them together already.
const AT_ONCE: usize = 8;

/// Syncs that are still to be made.
#[derive(Clone, Default)]
pub(super) struct Syncs(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// For whom the syncs are that come next.
    owner: usize,
    /// By path: a directory that changes again meanwhile is synced once.
    pending: BTreeMap<PathBuf, Pending>,
    open: usize,
    failed: BTreeMap<usize, MaterializeError>,
}

struct Pending {
    step: Step,
    /// `None` for what lies in memory, where a sync means nothing.
    fd: Option<OwnedFd>,
    owners: BTreeSet<usize>,
}

impl Syncs {
    /// What is added from now on is for `owner`, who fails if it can't be synced.
    pub(super) fn of(&self, owner: usize) {
        self.lock().owner = owner;
    }

    /// Adds a file, or a directory whose entries changed. Where too many are open already, all are synced now.
    pub(super) fn add(&self, step: Step, path: PathBuf, fd: Option<OwnedFd>, gate: &Gate) {
        let mut state = self.lock();
        let owner = state.owner;
        state.open += usize::from(fd.is_some());
        let pending = state.pending.entry(path);
        pending.or_insert(Pending { step, fd, owners: BTreeSet::new() }).owners.insert(owner);
        if state.open > OPEN_MAX {
            state.sync(gate);
        }
    }

    /// Syncs everything that was added. Who fails, and why: the first reason of each.
    pub(super) fn all(&self, gate: &Gate) -> BTreeMap<usize, MaterializeError> {
        let mut state = self.lock();
        state.sync(gate);
        std::mem::take(&mut state.failed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole before anything in it could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sync(&mut self, gate: &Gate) {
        self.open = 0;
        let mut jobs = Vec::new();
        for (path, Pending { step, fd, owners }) in std::mem::take(&mut self.pending) {
            match (gate.pass(step, &path), fd) {
                (Ok(()), Some(fd)) => jobs.push((path, step, fd, owners)),
                (Ok(()), None) => {}
                (Err(errno), _) => self.fail(&owners, &error(step, &path, errno)),
            }
        }
        for (job, errno) in side_by_side(&jobs) {
            let (path, step, _, owners) = &jobs[job];
            self.fail(owners, &error(*step, path, errno));
        }
    }

    fn fail(&mut self, owners: &BTreeSet<usize>, error: &MaterializeError) {
        for owner in owners {
            self.failed.entry(*owner).or_insert_with(|| error.clone());
        }
    }
}

fn error(step: Step, path: &std::path::Path, errno: Errno) -> MaterializeError {
    MaterializeError::io(if step == Step::SyncDir { "sync directory" } else { "sync" }, path, errno)
}

/// Syncs each; those that failed, in their order.
fn side_by_side(jobs: &[(PathBuf, Step, OwnedFd, BTreeSet<usize>)]) -> BTreeMap<usize, Errno> {
    let (next, failed) = (Mutex::new(0..jobs.len()), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let Some(job) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
            if let Err(errno) = rustix::fs::fsync(&jobs[job].2) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).insert(job, errno);
            }
        }
    };
    thread::scope(|scope| {
        // This thread is one of them, and all of them where the system starts no other.
        for _ in 1..AT_ONCE.min(jobs.len()) {
            if thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// A descriptor that can't be synced.
    fn bad() -> Option<OwnedFd> {
        let (read, _write) = std::io::pipe().unwrap();
        Some(read.into())
    }

    fn good(directory: &tempfile::TempDir, name: &str) -> (PathBuf, Option<OwnedFd>) {
        let path = directory.path().join(name);
        let file = File::create(&path).unwrap();
        (path, Some(file.into()))
    }

    #[test]
    fn only_those_fail_whose_sync_fails() {
        let directory = tempfile::tempdir().unwrap();
        let (syncs, gate) = (Syncs::default(), Gate::default());
        for owner in 0..40 {
            syncs.of(owner);
            let (path, fd) = good(&directory, &format!("{owner}"));
            syncs.add(Step::SyncFile, path, fd, &gate);
            syncs.add(Step::SyncDir, directory.path().to_owned(), None, &gate);
            if owner % 10 == 7 {
                syncs.add(Step::SyncFile, format!("bad {owner}").into(), bad(), &gate);
            }
        }
        let failed = syncs.all(&gate);
        assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [7, 17, 27, 37]);
        assert!(failed[&17].to_string().contains("bad 17"), "{}", failed[&17]);
        assert!(syncs.all(&gate).is_empty(), "what failed was told");
    }

    #[test]
    fn a_directory_that_several_need_fails_all_of_them() {
        let (syncs, gate) = (Syncs::default(), Gate::default());
        for owner in [3, 5] {
            syncs.of(owner);
            syncs.add(Step::SyncDir, "shared".into(), bad(), &gate);
        }
        assert_eq!(syncs.all(&gate).keys().copied().collect::<Vec<_>>(), [3, 5]);
    }

    #[test]
    fn no_more_files_are_open_than_a_process_may_have() {
        let directory = tempfile::tempdir().unwrap();
        let (syncs, gate) = (Syncs::default(), Gate::default());
        syncs.of(1);
        for number in 0..3 * OPEN_MAX {
            let (path, fd) = good(&directory, &format!("{number}"));
            syncs.add(Step::SyncFile, path, fd, &gate);
            assert!(syncs.lock().open <= OPEN_MAX);
        }
        syncs.add(Step::SyncFile, "bad".into(), bad(), &gate);
        for number in 0..2 * OPEN_MAX {
            let (path, fd) = good(&directory, &format!("more {number}"));
            syncs.add(Step::SyncFile, path, fd, &gate);
        }
        // One that was synced before it was asked for is told all the same.
        assert_eq!(syncs.all(&gate).keys().copied().collect::<Vec<_>>(), [1]);
    }
}
