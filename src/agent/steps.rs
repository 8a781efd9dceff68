//! What each step of the API server means for the store. Pure.

use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::Kind;
use crate::source::api::collect::{Gathered, Step};
use crate::store::{Change, Missing};

/// What becomes of a pod whose parent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Departed {
    /// It is removed at once, with what only it needed.
    Remove,
    /// It is kept, and known to be gone: it has a grace period.
    Keep,
}

/// The changes that carry out `step`, to go into one transaction.
#[must_use]
pub fn changes(step: &Step, departed: Departed) -> Vec<Change> {
    match step {
        Step::Listing { pods, position } => {
            let objects = pods.iter().flat_map(|pod| [&pod.pod].into_iter().chain(&pod.with)).cloned().collect();
            // What the listing lacks is not gone yet: that needs a proof.
            let mut changes = vec![Change::Reset { objects, kinds: vec![Kind::Pod], missing: Missing::Report }];
            changes.extend(pods.iter().flat_map(absent));
            changes.push(Change::Position(position.clone()));
            changes
        }
        Step::Pod(gathered) => {
            let mut changes = vec![Change::Apply { object: gathered.pod.clone(), with: gathered.with.clone() }];
            changes.extend(absent(gathered));
            // A feed begins with a listing.
            changes.push(Change::Complete);
            changes.push(Change::Position(gathered.pod.resource_version.clone()));
            changes
        }
        Step::PodGone { key, uid } => {
            let (key, uid) = (key.clone(), uid.clone());
            vec![match departed {
                Departed::Remove => Change::Delete { key, uid },
                Departed::Keep => Change::Gone { key, uid },
            }]
        }
        Step::Object(object) | Step::Node(object) => vec![Change::Apply { object: object.clone(), with: Vec::new() }],
        Step::ObjectAbsent { key, why } => {
            let absent = Change::Absent { key: key.clone(), why: *why };
            match why {
                Absence::NotFound => vec![Change::Delete { key: key.clone(), uid: String::new() }, absent],
                // Not being let in says nothing of what is stored.
                Absence::Forbidden => vec![absent],
            }
        }
        Step::Services { services, complete: true } => {
            vec![Change::Reset { objects: services.clone(), kinds: vec![Kind::Service], missing: Missing::Delete }]
        }
        Step::Services { services, complete: false } => {
            services.iter().map(|service| Change::Apply { object: service.clone(), with: Vec::new() }).collect()
        }
    }
}

fn absent(gathered: &Gathered) -> impl Iterator<Item = Change> {
    gathered.absent.iter().map(|(key, why)| Change::Absent { key: key.clone(), why: *why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::object::ObjectKey;

    #[test]
    fn a_departed_pod_is_removed_or_kept() {
        let key = ObjectKey::new(Kind::Pod, "default", "web").unwrap();
        let step = Step::PodGone { key: key.clone(), uid: "u1".to_owned() };
        let removed = changes(&step, Departed::Remove);
        assert!(matches!(removed.as_slice(), [Change::Delete { key: of, uid }] if *of == key && uid == "u1"));
        let kept = changes(&step, Departed::Keep);
        assert!(matches!(kept.as_slice(), [Change::Gone { key: of, uid }] if *of == key && uid == "u1"));
    }
}
