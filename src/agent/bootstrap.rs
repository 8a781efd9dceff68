//! Bootstrap checkpoints: the annotated pods, a file each, beside the store. For whoever used the kubelet's flag of this name,
//! and for a node that loses its store.
//!
//! What a commit changes is written to these files before anybody else learns of the commit: [`Mirrored`] stands between the
//! store and all that asks it. That a file can't be written holds nothing up; it is logged, counted, and tried again with the
//! next change.
//!
//! The store is the truth about which pods there are, from its first complete listing on: a file that is left over, because its
//! removal failed or was cut short, does not bring a deleted pod back. Before that, and of pods whose records are damaged, the
//! files tell ([`untold`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cause::chain;
use crate::checkpoint::lookup::{Lookup, Objects as _};
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::materialize::{Folder, MaterializeError};
use crate::ops::status;
use crate::source::bootstrap::{
    Checkpoint, FILE_MAX_BYTES, Unreadable, Writer, file_name, is_wanted, read, uid_of, write,
};
use crate::store::{Change, Committed, Finding, Missing, Snapshot, Update};

mod mirrored;
#[cfg(test)]
mod tests;

pub use mirrored::Mirrored;

/// The directory of the files, and what is known of it.
pub struct Bootstrap {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The UID in the name of each pod's file, as far as there is one.
    files: BTreeMap<ObjectKey, String>,
    /// What is still to be done to the files of these UIDs.
    pending: BTreeMap<String, Work>,
    /// How often something failed, all in all.
    failures: u64,
    writes_failed: u64,
    removals_failed: u64,
    /// What was wrong when something was last done.
    problem: Option<String>,
}

/// What a file shall be.
enum Work {
    Write(Object),
    Remove,
}

/// What stands in the directory.
#[derive(Default)]
pub struct Found {
    /// Checkpoints, in the order of their names.
    pub checkpoints: Vec<Checkpoint>,
    /// Files that have the name of a checkpoint, and are none. They stay where they are.
    pub unreadable: Vec<NotRead>,
}

/// A file that has the name of a checkpoint, and is none.
#[derive(Debug, thiserror::Error)]
#[error("bootstrap checkpoint {path:?} is left out, and left as it is")]
pub struct NotRead {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub why: NoCheckpoint,
}

/// Why a file is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum NoCheckpoint {
    /// By its contents.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Whoever may write to it could have any pod started here.
    #[error("others than its owner may write to it: chmod go-w, if it is right")]
    WritableByOthers,
    /// It is a link, a directory, or too large.
    #[error("it is no regular file of at most {FILE_MAX_BYTES} bytes")]
    NoFile,
}

/// Why a file is not as it should be.
#[derive(Debug, thiserror::Error)]
enum NotKept {
    #[error("{0} has a UID that is no part of a file name, or none")]
    Uid(ObjectKey),
    #[error("{0} has no body that can be written")]
    Body(ObjectKey),
    #[error("{0:?} is damaged, and can't be moved out of the way: there is an older one already. Move both away")]
    Damaged(PathBuf),
    #[error(transparent)]
    Files(#[from] MaterializeError),
}

impl Bootstrap {
    /// The files in `directory`, which is made when the first one is written.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), state: Mutex::default() }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads every file. A directory that is not there has none.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn read(&self) -> Result<Found, MaterializeError> {
        match self.directory.try_exists() {
            Ok(false) => Ok(Found::default()),
            Ok(true) | Err(_) => read_all(&Folder::open(&self.directory)?),
        }
    }

    /// Brings the files in line with what is durable: writes what is missing or different, removes what is left over.
    ///
    /// What somebody else has written for a pod that is not stored stays, and so does what is damaged: it gets another name
    /// where its own is needed.
    pub fn sync(&self, durable: &Committed<Snapshot>) {
        let snapshot = durable.get();
        let found = match self.read() {
            Ok(found) => found,
            Err(error) => {
                let mut state = self.state();
                return state.fails(&chain(&error));
            }
        };
        let mut state = self.state();
        // All of it is looked at anew.
        state.pending.clear();
        state.files = found.checkpoints.iter().map(|found| (found.pod.key.clone(), found.pod.uid.clone())).collect();
        for pod in snapshot.all(Kind::Pod) {
            if is_wanted(&pod) && !snapshot.gone(&pod.key) {
                state.keep(pod);
            }
        }
        for Checkpoint { pod, writer } in found.checkpoints {
            if state.pending.contains_key(&pod.uid) {
                continue;
            }
            let stored = snapshot.objects().find(|object| *object.key == pod.key);
            let is_stored = stored.is_some_and(|object| object.uid == pod.uid);
            if is_stored || writer == Writer::Us && knows_all_pods(snapshot) && !is_damaged(snapshot, &pod.key) {
                state.forget(&pod.key, &pod.uid);
            }
        }
        state.work(&self.directory);
    }

    /// What these changes say of pods, to be given to [`Bootstrap::follow`] when they are durable.
    pub(super) fn said(changes: &[Change]) -> Said {
        let mut said = Said::default();
        for change in changes {
            match change {
                Change::Apply { object, with } => with.iter().chain([object]).for_each(|object| said.tells(object)),
                Change::Reset { objects, kinds, missing } => {
                    if *missing == Missing::Delete && kinds.contains(&Kind::Pod) {
                        // What came before it in the same batch is not there any more. What is stored is named as removed.
                        said.pods.clear();
                    }
                    objects.iter().for_each(|object| said.tells(object));
                }
                Change::Delete { key, uid } => said.is_deleted(key, uid),
                Change::Gone { key, uid } => said.gone.push((key.clone(), uid.clone())),
                Change::Absent { .. }
                | Change::Complete
                | Change::NodeName(_)
                | Change::Cluster { .. }
                | Change::Position(_)
                | Change::Decided { .. }
                | Change::Hold { .. }
                | Change::Adopt { .. }
                | Change::Boot(_) => {}
            }
        }
        said
    }

    /// Brings the files in line with a commit, and with what could not be done before.
    pub(super) fn follow(&self, durable: &Committed<Update>, said: Said) {
        let update = durable.get();
        let mut state = self.state();
        for key in update.removed.iter().filter(|key| key.kind() == Kind::Pod) {
            if let Some(uid) = state.files.get(key).cloned() {
                state.forget(key, &uid);
            }
        }
        for (key, tells) in said.pods {
            // What can't be stored is not what is stored.
            let refused = update.rejected.iter().any(|rejected| rejected.object == key);
            if refused || update.removed.contains(&key) {
                continue;
            }
            let file = state.files.get(&key).cloned();
            match tells {
                Tells::Wanted(pod) if file.as_ref() != Some(&pod.uid) || update.stored.contains(&key) => {
                    state.keep(pod)
                }
                Tells::Wanted(_) => {}
                Tells::Unwanted => {
                    if let Some(uid) = file {
                        state.forget(&key, &uid);
                    }
                }
            }
        }
        for (key, gone) in said.gone {
            // It is kept in the store for its grace period, and should not come back without one.
            if let Some(uid) = state.files.get(&key).filter(|uid| gone.is_empty() || **uid == gone).cloned() {
                state.forget(&key, &uid);
            }
        }
        state.work(&self.directory);
    }

    /// For the status document.
    #[must_use]
    pub fn status(&self) -> status::Bootstrap {
        let state = self.state();
        let writes = state.pending.iter().filter(|(_, work)| matches!(work, Work::Write(_))).count();
        status::Bootstrap {
            path: self.directory.display().to_string(),
            files: state.files.len().saturating_sub(writes),
            failures: state.failures,
            writes_failed: state.writes_failed,
            removals_failed: state.removals_failed,
            problem: state.problem.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What changes say of pods, the last word of each.
#[derive(Default)]
pub(super) struct Said {
    pods: BTreeMap<ObjectKey, Tells>,
    gone: Vec<(ObjectKey, String)>,
}

impl Said {
    fn tells(&mut self, object: &Object) {
        if object.key.kind() == Kind::Pod {
            // A pod that is there again is not gone.
            self.gone.retain(|(key, _)| *key != object.key);
            let pod = if is_wanted(object) { Tells::Wanted(object.clone()) } else { Tells::Unwanted };
            self.pods.insert(object.key.clone(), pod);
        }
    }

    /// A pod that comes and goes in one batch is never stored.
    fn is_deleted(&mut self, key: &ObjectKey, uid: &str) {
        if let Some(Tells::Wanted(pod)) = self.pods.get(key)
            && (uid.is_empty() || pod.uid == uid)
        {
            self.pods.remove(key);
        }
    }
}

enum Tells {
    Wanted(Object),
    Unwanted,
}

impl State {
    fn keep(&mut self, pod: Object) {
        if let Some(old) = self.files.insert(pod.key.clone(), pod.uid.clone()).filter(|old| *old != pod.uid) {
            // Another pod of the same name.
            self.pending.insert(old, Work::Remove);
        }
        self.pending.insert(pod.uid.clone(), Work::Write(pod));
    }

    fn forget(&mut self, key: &ObjectKey, uid: &str) {
        if self.files.get(key).is_some_and(|file| file == uid) {
            self.files.remove(key);
        }
        self.pending.insert(uid.to_owned(), Work::Remove);
    }

    /// Does what is to be done. What fails stays to be done.
    fn work(&mut self, directory: &Path) {
        if self.pending.is_empty() {
            self.problem = None;
            return;
        }
        let mut failed = Vec::new();
        let mut done = Vec::new();
        match Folder::open(directory) {
            Ok(folder) => {
                for (uid, work) in &self.pending {
                    match carry_out(&folder, uid, work) {
                        Ok(()) => done.push(uid.clone()),
                        Err(error) => failed.push(chain(&error)),
                    }
                }
                if let Err(error) = folder.sync() {
                    // None of it is known to be durable.
                    done.clear();
                    failed.push(chain(&error));
                }
            }
            Err(error) => failed.push(chain(&error)),
        }
        self.pending.retain(|uid, _| !done.contains(uid));
        for work in self.pending.values() {
            match work {
                Work::Write(_) => self.writes_failed += 1,
                Work::Remove => self.removals_failed += 1,
            }
        }
        self.failures += self.pending.len() as u64;
        match failed.as_slice() {
            [] => self.problem = None,
            all => all.iter().for_each(|why| self.says(why)),
        }
    }

    /// Counts that nothing could be looked at, and says it.
    fn fails(&mut self, why: &str) {
        self.failures += 1;
        self.says(why);
    }

    /// Says what failed, unless that was the last thing said.
    fn says(&mut self, why: &str) {
        if self.problem.as_deref() != Some(why) {
            tracing::error!("a bootstrap checkpoint is not as it should be; tried again with the next change: {why}");
            self.problem = Some(why.to_owned());
        }
    }
}

fn carry_out(folder: &Folder, uid: &str, work: &Work) -> Result<(), NotKept> {
    let name = file_name(uid);
    match (work, name) {
        (Work::Write(pod), None) => Err(NotKept::Uid(pod.key.clone())),
        // Such a file can't be there.
        (Work::Remove, None) => Ok(()),
        (Work::Remove, Some(name)) => {
            // A pod that is gone has no use for a damaged file either, but that is not for us to say.
            if readable(folder, &name, uid)? {
                folder.remove(&name)?;
            }
            Ok(())
        }
        (Work::Write(pod), Some(name)) => {
            let text = write(pod).map_err(|_| NotKept::Body(pod.key.clone()))?;
            if folder.has(&name)? && !readable(folder, &name, uid)? {
                if !folder.set_aside(&name, &format!("{name}.damaged"))? {
                    return Err(NotKept::Damaged(folder.path_of(&name)));
                }
                tracing::warn!("{:?} is damaged: it is kept with .damaged behind its name", folder.path_of(&name));
            }
            folder.publish(&name, text.expose())?;
            Ok(())
        }
    }
}

/// Whether a file is there and is a checkpoint of the pod.
fn readable(folder: &Folder, name: &str, uid: &str) -> Result<bool, MaterializeError> {
    Ok(folder.read(name, FILE_MAX_BYTES)?.is_some_and(|found| read(uid, found.bytes.expose()).is_ok()))
}

fn read_all(folder: &Folder) -> Result<Found, MaterializeError> {
    let mut all = Found::default();
    for name in folder.names()? {
        let Some(uid) = uid_of(&name) else { continue };
        let why = match folder.read(&name, FILE_MAX_BYTES)? {
            None => NoCheckpoint::NoFile,
            Some(found) if found.writable_by_others => NoCheckpoint::WritableByOthers,
            Some(found) => match read(uid, found.bytes.expose()) {
                Ok(checkpoint) => {
                    all.checkpoints.push(checkpoint);
                    continue;
                }
                Err(why) => why.into(),
            },
        };
        all.unreadable.push(NotRead { path: folder.path_of(&name), why });
    }
    Ok(all)
}

/// The pods of `found` that only the files tell of, where `stored` is what could be read of the store, and the others.
///
/// A store that ever held a complete listing, and in which nothing is hidden, knows which pods there are: one that it lacks was
/// deleted, and only the damaged records in it are made good. Where both have a pod the store's is the newer one, since a file
/// is written after its commit.
#[must_use]
pub fn untold(found: Vec<Checkpoint>, stored: Option<&Snapshot>) -> (Vec<Object>, Vec<Object>) {
    let is_untold = |pod: &Object| match stored {
        None => true,
        Some(snapshot) if knows_all_pods(snapshot) => is_damaged(snapshot, &pod.key),
        Some(snapshot) => match snapshot.get(&pod.key) {
            Lookup::Missing | Lookup::Damaged => true,
            Lookup::Found(_) | Lookup::Forbidden | Lookup::Sealed | Lookup::NoKeyYet => false,
        },
    };
    found.into_iter().map(|found| found.pod).partition(is_untold)
}

fn knows_all_pods(snapshot: &Snapshot) -> bool {
    let hides = |finding: &Finding| match finding {
        Finding::Structure(_) => true,
        Finding::Hidden { kind, .. } => Kind::from_name(kind) == Some(Kind::Pod),
        Finding::Record { .. } | Finding::Missing { .. } | Finding::Revision { .. } => false,
    };
    snapshot.populated() && !snapshot.findings().iter().any(hides)
}

fn is_damaged(snapshot: &Snapshot, key: &ObjectKey) -> bool {
    snapshot.damaged().any(|damaged| damaged == key)
}
