//! Whether the store holds what a batch says: what a consumer that reads the store back has to find.

use std::collections::BTreeMap;

use ckpt_db::agent::Batch;
use ckpt_db::checkpoint::closure::references;
use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::source::api::collect::{Absence, Gathered, Step};
use ckpt_db::source::api::feed::Told;
use ckpt_db::store::{LockState, Snapshot};

/// What a batch says of an object last.
enum Word<'a> {
    Is(&'a Object),
    /// With its UID; empty if any.
    Gone(&'a str),
}

/// What of a batch the store does not hold.
pub(crate) fn not_held(batch: &Batch<Told>, snapshot: &Snapshot) -> Vec<String> {
    let mut last: BTreeMap<&ObjectKey, Word<'_>> = BTreeMap::new();
    for told in &batch.items {
        let Told::Step(step) = told else { continue };
        match step {
            Step::Listing { pods, .. } => pods.iter().for_each(|pod| gathered(pod, &mut last)),
            Step::Pod(pod) => gathered(pod, &mut last),
            Step::PodGone { key, uid } => {
                let another = matches!(last.get(key), Some(Word::Is(pod)) if pod.uid != *uid);
                if !another {
                    last.insert(key, Word::Gone(uid));
                }
            }
            Step::Object(object) | Step::Node(object) => drop(last.insert(&object.key, Word::Is(object))),
            Step::ObjectAbsent { key, why: Absence::NotFound } => drop(last.insert(key, Word::Gone(""))),
            Step::ObjectAbsent { why: Absence::Forbidden, .. } => {}
            Step::Services { services, .. } => {
                last.extend(services.iter().map(|service| (&service.key, Word::Is(service))));
            }
        }
    }
    let mut problems = Vec::new();
    for (key, word) in last {
        match (word, snapshot.get(key)) {
            (Word::Is(object), Lookup::Found(found)) if found == *object => {}
            (Word::Is(_), Lookup::NoKeyYet) if snapshot.lock_state() == LockState::Keyless => {}
            // Nothing keeps an object that no stored pod names.
            (Word::Is(_), Lookup::Missing) if key.kind() != Kind::Pod && !is_named(key, snapshot) => {}
            (Word::Is(_), Lookup::Missing) if batch.update.rejected.iter().any(|rejected| rejected.object == *key) => {}
            (Word::Is(object), _) => problems.push(format!("{object:?} is not stored")),
            (Word::Gone(_), Lookup::Missing | Lookup::NoKeyYet) => {}
            (Word::Gone(uid), Lookup::Found(other)) if !uid.is_empty() && other.uid != uid => {}
            (Word::Gone(uid), _) => problems.push(format!("{key} of UID {uid:?} is still stored")),
        }
    }
    problems
}

fn gathered<'a>(pod: &'a Gathered, last: &mut BTreeMap<&'a ObjectKey, Word<'a>>) {
    last.insert(&pod.pod.key, Word::Is(&pod.pod));
    last.extend(pod.with.iter().map(|object| (&object.key, Word::Is(object))));
}

fn is_named(key: &ObjectKey, snapshot: &Snapshot) -> bool {
    let pods = snapshot.all(Kind::Pod);
    pods.iter().any(|pod| references(pod).is_ok_and(|all| all.iter().any(|reference| reference.key == *key)))
}
