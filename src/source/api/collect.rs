//! Gathers each pod with the objects that it names into one step. Pure: events and a clock value in, actions out.
//!
//! Rights to an object vanish with the last pod that names it, and the store drops such an object in the transaction that
//! removes the pod. So the collector knows at each moment what the store holds: an object is stored if, and only if, a
//! pod that was emitted names it. Bodies are held only until they are emitted.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::Keys;
use crate::checkpoint::closure::references;
pub use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::{Object, ObjectKey};
use crate::checkpoint::pod::PodError;

/// One pod and what it names, as far as it could be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// The pod.
    pub pod: Object,
    /// Objects that it names and that no step before this one has carried.
    pub with: Vec<Object>,
    /// Objects that it names and that are not to be had.
    pub absent: Vec<(ObjectKey, Absence)>,
}

/// One consistent step of the source, to be stored in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A complete listing of the node's pods. What it lacks is not proven to be gone.
    Listing {
        /// The pods, with everything that they name and that was not carried before.
        pods: Vec<Gathered>,
        /// `metadata.resourceVersion` of the listing.
        position: String,
    },
    /// A pod is new or different.
    Pod(Gathered),
    /// A pod is gone, proven by a second, consistent read.
    PodGone {
        /// Which one.
        key: ObjectKey,
        /// Its UID; another pod of that name stays.
        uid: String,
    },
    /// A ConfigMap or Secret that a stored pod names is new or different.
    Object(Object),
    /// A ConfigMap or Secret that a stored pod names is not to be had. `NotFound` is proven by a listing; what is stored of
    /// it is deleted then. `Forbidden` deletes nothing.
    ObjectAbsent {
        /// Which one.
        key: ObjectKey,
        /// Why.
        why: Absence,
    },
    /// This node itself.
    Node(Object),
    /// Services of the namespaces that have pods here.
    Services {
        /// What there is.
        services: Vec<Object>,
        /// Whether these are all, so that a stored one that is not among them is gone.
        complete: bool,
    },
}

/// What the driver tells the collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A complete listing of the node's pods.
    Listed {
        /// The pods.
        pods: Vec<Object>,
        /// `metadata.resourceVersion` of the listing.
        position: String,
    },
    /// A pod is there, new or different or told once more.
    Pod(Object),
    /// A pod is gone; the driver has proven it by a second, consistent read.
    PodGone {
        /// Which one.
        key: ObjectKey,
        /// Its UID.
        uid: String,
    },
    /// A tracker's answer: the first one after [`Action::Track`] or [`Action::Refetch`], and every later change.
    Answer {
        /// The tracked object.
        key: ObjectKey,
        /// What the API server says of it.
        answer: Answer,
    },
}

/// What a tracker found out about its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The object is there.
    Found(Object),
    /// It is not to be had. `NotFound` is proven by a listing.
    Absent(Absence),
    /// A GET did not find it, and a listing, which alone would prove that, is not allowed. What is stored stays, and nothing
    /// waits for it any more.
    NotSeen,
    /// No answer is to be had now. What is known and stored stays, and a pod that waits for an answer goes on waiting.
    Failed,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Follow this object from now on.
    Track(ObjectKey),
    /// Read this tracked object anew: the store drops it with a pod, and a pod that waits needs it.
    Refetch(ObjectKey),
    /// Stop following this object.
    Untrack(ObjectKey),
    /// Hand this step to the store.
    Emit(Step),
}

/// Joins pods and the answers about their objects into steps.
///
/// A pod waits until each object that it names has an answer, at most for the patience; meanwhile its newer versions
/// replace it, and other pods are not held up. A listing waits for all its pods, and while it waits, everything that is
/// seen of pods is folded into it. What an emitted pod names goes to the store as soon as it is told.
pub struct Collector {
    patience_ms: u64,
    pods: BTreeMap<ObjectKey, Known>,
    objects: BTreeMap<ObjectKey, Followed>,
    listing: Option<WaitingListing>,
}

/// A pod that was seen and is not gone.
#[derive(Default)]
struct Known {
    /// The version that was emitted last.
    emitted: Option<Version>,
    /// What the stored version names.
    stored_names: Keys,
    /// The newest version, if it was not emitted yet.
    waiting: Option<Box<Waiting>>,
    /// Why the references of the newest version can't be followed.
    refused: Option<PodError>,
}

impl Known {
    /// Whether the version that waits was emitted before: as a member of a listing it is emitted once more.
    fn waits_unchanged(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| self.emitted == Some(Version::of(&waiting.pod)))
    }
}

struct Waiting {
    pod: Object,
    /// Empty for a pod whose references can't be followed: the store names the problem.
    names: Keys,
    deadline_ms: u64,
}

struct WaitingListing {
    /// Pods that were listed or seen since; those that wait no more are gone.
    members: BTreeSet<ObjectKey>,
    position: String,
    deadline_ms: u64,
}

/// An object that some known pod names.
#[derive(Default)]
struct Followed {
    /// Pods that were emitted and name it: while there is one, the store keeps the object.
    stored_for: Keys,
    /// Pods that wait for it or with it.
    wanted_by: Keys,
    latest: Latest,
}

/// The last answer about an object.
#[derive(Default)]
enum Latest {
    #[default]
    Unanswered,
    /// Found, and not emitted since no emitted pod names it.
    Held(Box<Object>),
    /// Found and emitted. After a listing the version is open: the server may have been restored, and then it may give the
    /// same version to other contents. So the next answer is emitted, and the store compares.
    Stored(Option<Version>),
    /// Emitted as well, if an emitted pod names it.
    Absent(Absence),
    /// Not found, without a proof: nothing is emitted.
    NotSeen,
}

/// Compared for equality only: after a restore of etcd, resourceVersions go backwards.
#[derive(Clone, PartialEq, Eq)]
struct Version {
    uid: String,
    resource_version: String,
}

impl Version {
    fn of(object: &Object) -> Self {
        Self { uid: object.uid.clone(), resource_version: object.resource_version.clone() }
    }
}

/// What a call has to say.
#[derive(Default)]
struct Said {
    actions: Vec<Action>,
    /// Objects that a pod has stopped naming.
    loose: BTreeSet<ObjectKey>,
    /// Pods that go when the step that is being made is stored.
    replaced: Vec<Step>,
}

impl Said {
    fn emit(&mut self, step: Step) {
        self.actions.push(Action::Emit(step));
        self.actions.extend(self.replaced.drain(..).map(Action::Emit));
    }
}

impl Collector {
    /// A collector that has seen nothing. A pod waits at most `patience_ms` milliseconds for what it names.
    #[must_use]
    pub fn new(patience_ms: u64) -> Self {
        Self { patience_ms, pods: BTreeMap::new(), objects: BTreeMap::new(), listing: None }
    }

    /// Takes in what was seen at `now_ms` (monotonic) and says what is to be done, in order.
    ///
    /// Answers about objects that are not tracked (any more) are ignored.
    #[must_use = "each action has to be carried out"]
    pub fn see(&mut self, seen: Seen, now_ms: u64) -> Vec<Action> {
        let mut said = Said::default();
        match seen {
            Seen::Listed { pods, position } => self.listed(pods, position, now_ms, &mut said),
            Seen::Pod(pod) => self.pod(pod, now_ms, &mut said),
            Seen::PodGone { key, uid } => self.pod_gone(key, uid, &mut said),
            Seen::Answer { key, answer } => self.answer(key, answer, &mut said),
        }
        self.release(&mut said);
        self.emit_due(now_ms, &mut said);
        said.actions
    }

    /// When [`Collector::tick`] has to be called: a waiting pod or listing is then emitted without what it lacks.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        let waits = |waiting: &Waiting| (!self.is_complete(waiting)).then_some(waiting.deadline_ms);
        match &self.listing {
            // The last of its members, since it waits for all.
            Some(listing) => {
                let members = listing.members.iter().filter_map(|key| self.waiting(key));
                Some(members.filter_map(waits).max().unwrap_or(0).min(listing.deadline_ms))
            }
            None => self.pods.values().filter_map(|known| known.waiting.as_deref().and_then(waits)).min(),
        }
    }

    /// Emits what has waited long enough. Harmless at any time.
    #[must_use = "each action has to be carried out"]
    pub fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        let mut said = Said::default();
        self.emit_due(now_ms, &mut said);
        said.actions
    }

    /// Starts from nothing, for a full resync: whatever is seen from now on is emitted with all its objects.
    #[must_use = "each action has to be carried out"]
    pub fn forget(&mut self) -> Vec<Action> {
        self.pods.clear();
        self.listing = None;
        std::mem::take(&mut self.objects).into_keys().map(Action::Untrack).collect()
    }

    /// Each pod that was seen and is not gone, with its UID; one name may stand with two of them, the one that was emitted
    /// and the one that waits to replace it. What a listing lacks of these has to be proven gone, name and UID.
    pub fn known(&self) -> impl Iterator<Item = (&ObjectKey, &str)> {
        self.pods.iter().flat_map(|(key, known)| {
            let emitted = known.emitted.as_ref().map(|version| version.uid.as_str());
            let waiting = known.waiting.as_ref().map(|waiting| waiting.pod.uid.as_str());
            let waiting = waiting.filter(|uid| emitted != Some(*uid));
            emitted.into_iter().chain(waiting).map(move |uid| (key, uid))
        })
    }

    /// The known pods that no step has carried yet, with their UIDs. What a listing lacks of these, no comparison with the
    /// store will find.
    pub fn not_emitted(&self) -> impl Iterator<Item = (&ObjectKey, &str)> {
        let waiting = self.pods.iter().filter_map(|(key, known)| Some((key, known.waiting.as_ref()?, &known.emitted)));
        let uids = waiting.map(|(key, waiting, emitted)| (key, waiting.pod.uid.as_str(), emitted));
        uids.filter(|(_, uid, emitted)| emitted.as_ref().is_none_or(|emitted| emitted.uid != *uid))
            .map(|(key, uid, _)| (key, uid))
    }

    /// The known pods whose references can't be followed, and why; they are emitted without objects, and the store names
    /// the problem too.
    pub fn refused(&self) -> impl Iterator<Item = &PodError> {
        self.pods.values().filter_map(|known| known.refused.as_ref())
    }

    fn listed(&mut self, pods: Vec<Object>, position: String, now_ms: u64, said: &mut Said) {
        let own_ms = now_ms.saturating_add(self.patience_ms);
        let members: BTreeSet<ObjectKey> = pods.iter().map(|pod| pod.key.clone()).collect();
        for followed in self.objects.values_mut() {
            if let Latest::Stored(version) = &mut followed.latest {
                *version = None;
            }
        }
        let former = self.listing.take();
        // A listing that replaces a waiting one is due with it, or listings in quick succession would put it off for ever.
        let deadline_ms = former.as_ref().map_or(own_ms, |former| former.deadline_ms);
        for pod in pods {
            self.wait(pod, deadline_ms, said);
        }
        for left_out in former.iter().flat_map(|former| former.members.difference(&members)) {
            if self.pods.get(left_out).is_some_and(Known::waits_unchanged) {
                self.stop_waiting(left_out, said);
            }
        }
        self.listing = Some(WaitingListing { members, position, deadline_ms });
    }

    fn pod(&mut self, pod: Object, now_ms: u64, said: &mut Said) {
        if let Some(listing) = &mut self.listing {
            listing.members.insert(pod.key.clone());
        } else if self.pods.get(&pod.key).is_some_and(|known| known.emitted == Some(Version::of(&pod))) {
            self.stop_waiting(&pod.key, said);
            return;
        }
        self.wait(pod, now_ms.saturating_add(self.patience_ms), said);
    }

    fn pod_gone(&mut self, key: ObjectKey, uid: String, said: &mut Said) {
        let known = self.pods.get(&key);
        let waiting = known.and_then(|known| known.waiting.as_ref()).map(|waiting| &waiting.pod.uid);
        let emitted = known.and_then(|known| known.emitted.as_ref()).map(|version| &version.uid);
        let gone = match (waiting, emitted) {
            // The one of this name that was emitted before had been replaced by it.
            (Some(waiting), emitted) if *waiting == uid => emitted.cloned().unwrap_or(uid),
            (None, Some(emitted)) if *emitted == uid => uid,
            // Its successor replaces it in one transaction, with the objects that both name.
            (Some(_), Some(emitted)) if *emitted == uid => return,
            // Another one of that name, which an earlier run of the program may have stored. The store compares UIDs.
            (Some(_) | None, _) => return said.emit(Step::PodGone { key, uid }),
        };
        self.stop_waiting(&key, said);
        for name in self.pods.remove(&key).unwrap_or_default().stored_names {
            self.no_longer_stored_for(&key, name, said);
        }
        said.emit(Step::PodGone { key, uid: gone });
    }

    fn answer(&mut self, key: ObjectKey, answer: Answer, said: &mut Said) {
        let Some(followed) = self.objects.get_mut(&key) else { return };
        let stored = !followed.stored_for.is_empty();
        match answer {
            Answer::Found(object) if !stored => followed.latest = Latest::Held(Box::new(object)),
            Answer::Found(object) => {
                let version = Version::of(&object);
                if !matches!(&followed.latest, Latest::Stored(Some(before)) if *before == version) {
                    followed.latest = Latest::Stored(Some(version));
                    said.emit(Step::Object(object));
                }
            }
            Answer::Absent(why) => {
                if !matches!(followed.latest, Latest::Absent(before) if before == why) {
                    followed.latest = Latest::Absent(why);
                    if stored {
                        said.emit(Step::ObjectAbsent { key, why });
                    }
                }
            }
            Answer::NotSeen if matches!(followed.latest, Latest::Unanswered) => followed.latest = Latest::NotSeen,
            Answer::NotSeen | Answer::Failed => {}
        }
    }

    /// Lets `pod` wait, in the place of an earlier version and then no longer than that one would have.
    fn wait(&mut self, pod: Object, deadline_ms: u64, said: &mut Said) {
        let key = pod.key.clone();
        let (names, refused) = match references(&pod) {
            Ok(found) => (found.into_iter().map(|reference| reference.key).collect(), None),
            Err(error) => (Keys::default(), Some(error)),
        };
        let before = self.stop_waiting(&key, said);
        let deadline_ms = before.map_or(deadline_ms, |before| before.min(deadline_ms));
        for name in names.iter() {
            let followed = self.objects.entry(name.clone()).or_insert_with(|| {
                said.actions.push(Action::Track(name.clone()));
                Followed::default()
            });
            followed.wanted_by.insert(key.clone());
        }
        let known = self.pods.entry(key).or_default();
        known.refused = refused;
        known.waiting = Some(Box::new(Waiting { pod, names, deadline_ms }));
    }

    /// Drops the waiting version of a pod and tells its deadline.
    fn stop_waiting(&mut self, key: &ObjectKey, said: &mut Said) -> Option<u64> {
        let waiting = self.pods.get_mut(key)?.waiting.take()?;
        for name in waiting.names {
            if let Some(followed) = self.objects.get_mut(&name) {
                followed.wanted_by.remove(key);
            }
            said.loose.insert(name);
        }
        Some(waiting.deadline_ms)
    }

    fn no_longer_stored_for(&mut self, pod: &ObjectKey, name: ObjectKey, said: &mut Said) {
        if let Some(followed) = self.objects.get_mut(&name) {
            followed.stored_for.remove(pod);
        }
        said.loose.insert(name);
    }

    /// Looks at the objects that lost a pod: nobody needs them, or the store drops them while a pod waits for them.
    fn release(&mut self, said: &mut Said) {
        for name in std::mem::take(&mut said.loose) {
            let Some(followed) = self.objects.get_mut(&name) else { continue };
            if !followed.stored_for.is_empty() {
                continue;
            }
            if followed.wanted_by.is_empty() {
                self.objects.remove(&name);
                said.actions.push(Action::Untrack(name));
            } else if matches!(followed.latest, Latest::Stored(_)) {
                followed.latest = Latest::Unanswered;
                said.actions.push(Action::Refetch(name));
            }
        }
    }

    fn waiting(&self, key: &ObjectKey) -> Option<&Waiting> {
        self.pods.get(key)?.waiting.as_deref()
    }

    fn is_complete(&self, waiting: &Waiting) -> bool {
        let answered = |followed: &Followed| !matches!(followed.latest, Latest::Unanswered);
        waiting.names.iter().all(|name| self.objects.get(name).is_some_and(answered))
    }

    fn is_due(&self, waiting: &Waiting, now_ms: u64) -> bool {
        waiting.deadline_ms <= now_ms || self.is_complete(waiting)
    }

    fn emit_due(&mut self, now_ms: u64, said: &mut Said) {
        if let Some(listing) = &self.listing {
            let due = |key: &ObjectKey| self.waiting(key).is_none_or(|waiting| self.is_due(waiting, now_ms));
            if listing.deadline_ms > now_ms && !listing.members.iter().all(due) {
                return;
            }
            self.emit_listing(now_ms, said);
        }
        while let Some(key) = self.next_due(now_ms) {
            if let Some(gathered) = self.gather(&key, said) {
                said.emit(Step::Pod(gathered));
            }
            self.release(said);
        }
    }

    /// New pods come before changed ones: these may stop naming an object that those are ready to take.
    fn next_due(&self, now_ms: u64) -> Option<ObjectKey> {
        let due = self
            .pods
            .iter()
            .filter(|(_, known)| known.waiting.as_ref().is_some_and(|waiting| self.is_due(waiting, now_ms)));
        due.min_by_key(|(_, known)| known.emitted.is_some()).map(|(key, _)| key.clone())
    }

    fn emit_listing(&mut self, now_ms: u64, said: &mut Said) {
        let Some(listing) = self.listing.take() else { return };
        let mut pods = Vec::new();
        for key in listing.members {
            // A pod that joined the listing late keeps its own patience. Those that were listed have the listing's.
            if self.waiting(&key).is_some_and(|waiting| self.is_due(waiting, now_ms)) {
                pods.extend(self.gather(&key, said));
            }
        }
        said.emit(Step::Listing { pods, position: listing.position });
        self.release(said);
    }

    /// Takes the waiting version of a pod, with everything that it names and that no step has carried.
    fn gather(&mut self, key: &ObjectKey, said: &mut Said) -> Option<Gathered> {
        let known = self.pods.get_mut(key)?;
        let waiting = *known.waiting.take()?;
        let before = known.emitted.replace(Version::of(&waiting.pod));
        let mut gathered = Gathered { pod: waiting.pod, with: Vec::new(), absent: Vec::new() };
        let former = if known.refused.is_none() {
            std::mem::replace(&mut known.stored_names, waiting.names.clone())
        } else {
            // The store keeps the last version that it could take; one of another pod of this name has to go.
            match before {
                Some(before) if before.uid != gathered.pod.uid => {
                    said.replaced.push(Step::PodGone { key: key.clone(), uid: before.uid });
                    std::mem::take(&mut known.stored_names)
                }
                Some(_) | None => Keys::default(),
            }
        };
        for name in waiting.names.iter() {
            let Some(followed) = self.objects.get_mut(name) else { continue };
            followed.wanted_by.remove(key);
            followed.stored_for.insert(key.clone());
            match std::mem::take(&mut followed.latest) {
                Latest::Held(object) => {
                    followed.latest = Latest::Stored(Some(Version::of(&object)));
                    gathered.with.push(*object);
                }
                Latest::Absent(why) => {
                    followed.latest = Latest::Absent(why);
                    gathered.absent.push((name.clone(), why));
                }
                told @ (Latest::Unanswered | Latest::Stored(_) | Latest::NotSeen) => followed.latest = told,
            }
        }
        for name in former.difference(&waiting.names) {
            self.no_longer_stored_for(key, name.clone(), said);
        }
        Some(gathered)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
