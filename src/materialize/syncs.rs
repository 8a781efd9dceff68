//! What has to be durable before the next step, made so together: a disk takes many syncs at once in about the time of one.
//!
//! A directory that is [`Dir::together`](super::dir::Dir::together) hands its syncs to a [`Syncs`] instead of waiting for each.
//! Whoever gave it that asks [`Syncs::all`] before it shows anything that they cover. Until then threads of its own sync what is
//! complete, while the next files are written.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;

use super::error::MaterializeError;
use super::gate::{Gate, Step};

/// So many files are open at most, waiting to be synced; far below what a process may have (1024, as systemd has it).
const OPEN_MAX: usize = 200;

/// So many are synced at the same time. Each sync ends with a flush of the disk's cache, and the kernel makes one flush of those
/// that wait for it at the same time; so the slower the flushes of a disk are, the more this helps.
const AT_ONCE: usize = 32;

/// So many are waited for before threads are woken for them: each would be followed by a flush of its own otherwise.
const BUNCH: usize = 16;

/// They do nothing but sync.
const STACK_BYTES: usize = 128 * 1024;

/// Syncs that are still to be made. The threads that make them end with the last clone.
#[derive(Clone, Default)]
pub(super) struct Syncs(Arc<Team>);

#[derive(Default)]
struct Team(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to sync, or nothing will ever be again.
    wanted: Condvar,
    /// Something was synced.
    synced: Condvar,
}

#[derive(Default)]
struct State {
    /// For whom the syncs are that come next.
    owner: usize,
    /// What was added and not yet asked for, by path: a directory that changes again meanwhile is synced once.
    pending: BTreeMap<OsString, Pending>,
    /// What is to be synced now.
    queue: VecDeque<(OsString, OwnedFd)>,
    /// Descriptors that are held here and by threads.
    open: usize,
    /// What could not be synced.
    failed: Vec<(OsString, Errno)>,
    threads: Vec<JoinHandle<()>>,
    /// How many of them wait for something to sync.
    idle: usize,
    closed: bool,
}

struct Pending {
    step: Step,
    /// `None` for what is being synced or has been, and for what lies in memory.
    fd: Option<OwnedFd>,
    owners: Vec<usize>,
}

/// Whether anything can still be added to what is to be synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    /// A directory in which further names may appear: it is synced when it is asked for.
    May,
    /// It is complete, and is synced at once.
    No,
}

impl Syncs {
    /// What is added from now on is for `owner`, who fails if it can't be synced.
    pub(super) fn of(&self, owner: usize) {
        self.0.0.lock().owner = owner;
    }

    /// Adds a file, or a directory whose entries changed; `fd` is asked for a descriptor of its own where one is needed, and has
    /// none for what lies in memory, where a sync means nothing. Where too many are open already, it waits for some of them.
    ///
    /// # Errors
    /// That of `fd`: nothing was added.
    pub(super) fn add<E>(
        &self,
        step: Step,
        path: PathBuf,
        more: More,
        fd: impl FnOnce() -> Result<Option<OwnedFd>, E>,
    ) -> Result<(), E> {
        let mut state = self.0.0.lock();
        let (owner, path) = (state.owner, path.into_os_string());
        let known = state.pending.get(&path);
        // A directory that waits is synced with what it has by then.
        let waits = known.is_some_and(|pending| pending.fd.is_some());
        let mut fd = if waits { None } else { fd()? };
        let has_one = fd.is_some();
        let now = fd.take_if(|_| more == More::No).map(|fd| (path.clone(), fd));
        let pending = state.pending.entry(path);
        let pending = pending.or_insert(Pending { step, fd: None, owners: Vec::new() });
        if pending.owners.last() != Some(&owner) {
            pending.owners.push(owner);
        }
        if has_one {
            pending.fd = fd;
            state.queue.extend(now);
            state.open += 1;
            if state.open > OPEN_MAX {
                state.start();
            }
            drop(self.work(state, OPEN_MAX));
        }
        Ok(())
    }

    /// Begins to sync whatever was added, and waits for nothing.
    pub(super) fn start(&self) {
        let mut state = self.0.0.lock();
        state.start();
        self.0.0.employ(&mut state, 1);
    }

    /// Syncs everything that was added. Who fails, and why: the first reason of each.
    pub(super) fn all(&self, gate: &Gate) -> BTreeMap<usize, MaterializeError> {
        let mut state = self.0.0.lock();
        state.start();
        let mut state = self.work(state, 0);
        let pending = std::mem::take(&mut state.pending);
        let errors: BTreeMap<OsString, Errno> = std::mem::take(&mut state.failed).into_iter().collect();
        drop(state);
        let mut failed = BTreeMap::new();
        for (path, Pending { step, owners, .. }) in pending {
            let path = Path::new(&path);
            let synced = errors.get(path.as_os_str()).map_or(Ok(()), |errno| Err(*errno));
            // This is the moment from which on it is taken for durable.
            if let Err(errno) = gate.pass(step, path).and(synced) {
                let error = error(step, path, errno);
                for owner in owners {
                    failed.entry(owner).or_insert_with(|| error.clone());
                }
            }
        }
        failed
    }

    /// Has the queue worked off, by this thread too as long as more than `open_max` descriptors are held.
    fn work<'a>(&'a self, mut state: MutexGuard<'a, State>, open_max: usize) -> MutexGuard<'a, State> {
        let shared = &self.0.0;
        let at_least = if state.open > open_max { 1 } else { BUNCH };
        shared.employ(&mut state, at_least);
        while state.open > open_max {
            state = match state.queue.pop_front() {
                Some(job) => shared.sync(state, job),
                None => shared.synced.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes or starts threads for what is to be synced, if that is so much. Where the system starts none, whoever waits does it
    /// all.
    fn employ(self: &Arc<Self>, state: &mut State, at_least: usize) {
        if state.queue.len() < at_least {
            return;
        }
        for _ in 0..state.queue.len().min(state.idle) {
            self.wanted.notify_one();
        }
        while state.queue.len() > state.idle && state.threads.len() < AT_ONCE {
            let shared = Arc::clone(self);
            let builder = thread::Builder::new().name("sync".to_owned()).stack_size(STACK_BYTES);
            let Ok(thread) = builder.spawn(move || shared.serve()) else { return };
            state.threads.push(thread);
            // It counts as idle until it takes something.
            state.idle += 1;
        }
    }

    /// What each thread does.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            state = match state.queue.pop_front() {
                Some(job) => {
                    state.idle -= 1;
                    let mut state = self.sync(state, job);
                    state.idle += 1;
                    state
                }
                None if state.closed => return,
                None => self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn sync<'a>(&'a self, state: MutexGuard<'a, State>, (path, fd): (OsString, OwnedFd)) -> MutexGuard<'a, State> {
        drop(state);
        let synced = rustix::fs::fsync(&fd);
        drop(fd);
        let mut state = self.lock();
        state.open -= 1;
        state.failed.extend(synced.err().map(|errno| (path, errno)));
        self.synced.notify_one();
        state
    }
}

impl State {
    /// What waited is to be synced now.
    fn start(&mut self) {
        for (path, pending) in &mut self.pending {
            self.queue.extend(pending.fd.take().map(|fd| (path.clone(), fd)));
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        self.0.wanted.notify_all();
        for thread in threads {
            // It can't panic, and has nothing to say.
            let _ = thread.join();
        }
    }
}

fn error(step: Step, path: &Path, errno: Errno) -> MaterializeError {
    MaterializeError::io(if step == Step::SyncDir { "sync directory" } else { "sync" }, path, errno)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::gate::{Cut, Script};
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

    fn file(syncs: &Syncs, (path, fd): (PathBuf, Option<OwnedFd>)) {
        syncs.add(Step::SyncFile, path, More::No, || Ok::<_, Errno>(fd)).unwrap();
    }

    #[test]
    fn only_those_fail_whose_sync_fails() {
        let directory = tempfile::tempdir().unwrap();
        let (syncs, gate) = (Syncs::default(), Gate::default());
        for owner in 0..40 {
            syncs.of(owner);
            file(&syncs, good(&directory, &format!("{owner}")));
            syncs.add(Step::SyncDir, directory.path().to_owned(), More::May, || Ok::<_, Errno>(None)).unwrap();
            if owner % 10 == 7 {
                file(&syncs, (format!("bad {owner}").into(), bad()));
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
            syncs.add(Step::SyncDir, "shared".into(), More::May, || Ok::<_, Errno>(bad())).unwrap();
        }
        assert_eq!(syncs.all(&gate).keys().copied().collect::<Vec<_>>(), [3, 5]);
    }

    #[test]
    fn no_more_files_are_open_than_a_process_may_have() {
        let directory = tempfile::tempdir().unwrap();
        let (syncs, gate) = (Syncs::default(), Gate::default());
        syncs.of(1);
        for number in 0..3 * OPEN_MAX {
            file(&syncs, good(&directory, &format!("{number}")));
            assert!(syncs.0.0.lock().open <= OPEN_MAX);
        }
        file(&syncs, ("bad".into(), bad()));
        for number in 0..2 * OPEN_MAX {
            file(&syncs, good(&directory, &format!("more {number}")));
        }
        // One that was synced before it was asked for is told all the same.
        assert_eq!(syncs.all(&gate).keys().copied().collect::<Vec<_>>(), [1]);
    }

    /// Between two moments at which it is asked, each change of a directory is followed by a sync of it.
    #[test]
    fn a_directory_that_changes_after_its_sync_has_begun_is_synced_again() {
        let (syncs, gate) = (Syncs::default(), Gate::default());
        let opened = Mutex::new(0);
        let add = || {
            let open = || {
                *opened.lock().unwrap() += 1;
                Ok::<_, Errno>(Some(File::open("/").unwrap().into()))
            };
            syncs.add(Step::SyncDir, "dir".into(), More::May, open).unwrap();
            *opened.lock().unwrap()
        };
        assert_eq!((add(), add()), (1, 1), "one sync for both");
        syncs.start();
        assert_eq!((add(), add()), (2, 2), "the one that has begun may be too early for these");
        assert!(syncs.all(&gate).is_empty());
        let state = syncs.0.0.lock();
        assert_eq!((state.open, state.queue.len(), state.pending.len()), (0, 0, 0));
    }

    /// What the gate refuses failed, whatever the disk says; and what failed before that is told in any case.
    #[test]
    fn durable_is_what_the_gate_let_pass() {
        let directory = tempfile::tempdir().unwrap();
        let script = Arc::new(Mutex::new(Script { cut: Some(Cut::Only(1)), ..Script::default() }));
        let gate = Gate { script: Some(Arc::clone(&script)) };
        let syncs = Syncs::default();
        for owner in 0..3 {
            syncs.of(owner);
            file(&syncs, good(&directory, &format!("{owner}")));
        }
        assert!(script.lock().unwrap().log.is_empty(), "nothing counts as durable before it is asked for");
        assert_eq!(syncs.all(&gate).keys().copied().collect::<Vec<_>>(), [1]);
        assert_eq!(script.lock().unwrap().log.len(), 3);
    }

    #[test]
    fn threads_end_with_the_last_clone() {
        let directory = tempfile::tempdir().unwrap();
        let syncs = Syncs::default();
        let clone = syncs.clone();
        for number in 0..100 {
            file(&syncs, good(&directory, &format!("{number}")));
        }
        drop(syncs);
        let shared = Arc::clone(&clone.0.0);
        assert!((1..=AT_ONCE).contains(&shared.lock().threads.len()));
        drop(clone);
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}
