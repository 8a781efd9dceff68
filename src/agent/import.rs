//! Takes manifests into a store that nobody has open: what is added, what changes, what is refused and why. Never removes what
//! the manifests do not name, but for what no pod names any more.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::closure::references;
use crate::checkpoint::lookup::{Lookup, Objects as _};
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::source::manifests::bound_to;
use crate::source::text::says_the_same;
use crate::store::{Change, LockState, Snapshot, Update};

/// Why an object is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The store has another object of this name.
    #[error("the store has another one of this name (UID {stored}, and this one is {given}); it stays")]
    OtherUid {
        /// The UID of the stored one.
        stored: String,
        /// That of the one that was given.
        given: String,
    },
    /// A pod that may be the stored one or another.
    #[error(
        "it has no metadata.uid, and the store has a pod of this name (UID {stored}), which may be another one; it stays"
    )]
    NoUid {
        /// The UID of the stored one.
        stored: String,
    },
    /// A pod of another node, or another Node.
    #[error("it is of node {node}, and the store of node {own}")]
    OtherNode {
        /// Its node.
        node: String,
        /// The store's.
        own: String,
    },
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is new in the store.
    Created,
    /// It takes the place of what the store has of it.
    Configured,
    /// The store has it already.
    Unchanged,
    /// No stored pod names it, so that it is not stored.
    Unreferenced,
    /// It is a Secret, and the store has no key yet.
    NoKey,
    /// It was stored, and no pod names it any more.
    Removed,
}

/// What an import comes to.
pub struct Import {
    /// Objects that are not taken.
    pub refused: Vec<(ObjectKey, Conflict)>,
    /// What becomes of the others, as far as it can be told beforehand.
    pub fates: BTreeMap<ObjectKey, Fate>,
    /// To be stored in one transaction.
    pub changes: Vec<Change>,
    /// What the store had.
    known: BTreeSet<ObjectKey>,
}

impl Import {
    /// What taking `objects` into a store of node `own` comes to; `stored` is the store, if there is one. Changes nothing.
    #[must_use]
    pub fn new(objects: Vec<Object>, stored: Option<&Snapshot>, own: &str) -> Self {
        let mut import = Self {
            refused: Vec::new(),
            fates: BTreeMap::new(),
            changes: Vec::new(),
            known: stored.iter().flat_map(|stored| stored.objects()).map(|object| object.key.clone()).collect(),
        };
        let mut pods = named_by_pods(stored);
        let mut taken = Vec::new();
        for object in objects {
            if let Some(conflict) = conflict(&object, stored, own) {
                import.refused.push((object.key, conflict));
                continue;
            }
            if object.key.kind() == Kind::Pod {
                // What names nothing that could be followed was refused when it was read.
                let named = references(&object).unwrap_or_default();
                pods.insert(object.key.clone(), named.into_iter().map(|reference| reference.key).collect());
            }
            taken.push(object);
        }
        let named: BTreeSet<&ObjectKey> = pods.values().flatten().collect();
        let keyless = stored.is_some_and(|stored| stored.lock_state() == LockState::Keyless);
        for object in taken {
            let kind = object.key.kind();
            let needs_a_pod = matches!(kind, Kind::ConfigMap | Kind::Secret);
            let found = stored.map_or(Lookup::Missing, |stored| stored.get(&object.key));
            let fate = match found {
                _ if needs_a_pod && !named.contains(&object.key) => Fate::Unreferenced,
                Lookup::Found(known) if says_the_same(&object, &known) => Fate::Unchanged,
                _ if kind.row().sealed && keyless => Fate::NoKey,
                _ if import.known.contains(&object.key) => Fate::Configured,
                _ => Fate::Created,
            };
            import.fates.insert(object.key.clone(), fate);
            match fate {
                // Written again, it would lose the version that was left out.
                Fate::Unchanged | Fate::Unreferenced => {}
                Fate::Created | Fate::Configured | Fate::NoKey | Fate::Removed => {
                    import.changes.push(Change::Apply { object, with: Vec::new() });
                }
            }
        }
        let touched: BTreeSet<String> = import
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Apply { object, .. } => Some(object.key.namespace().to_owned()),
                _ => None,
            })
            .collect();
        let orphans = import.known.iter().filter(|key| {
            matches!(key.kind(), Kind::ConfigMap | Kind::Secret)
                && !named.contains(key)
                && touched.contains(key.namespace())
        });
        import.fates.extend(orphans.map(|key| (key.clone(), Fate::Removed)));
        import
    }

    /// What became of the objects, after the transaction.
    #[must_use]
    pub fn done(&self, update: &Update) -> BTreeMap<ObjectKey, Fate> {
        let stored = |key: &ObjectKey| if self.known.contains(key) { Fate::Configured } else { Fate::Created };
        let of_given = |key: &&ObjectKey| self.fates.contains_key(*key);
        let mut fates: BTreeMap<ObjectKey, Fate> = self
            .fates
            .iter()
            .filter(|(_, fate)| matches!(fate, Fate::Unchanged | Fate::Unreferenced))
            .map(|(key, fate)| (key.clone(), *fate))
            .collect();
        fates.extend(update.stored.iter().filter(of_given).map(|key| (key.clone(), stored(key))));
        fates.extend(update.removed.iter().map(|key| (key.clone(), Fate::Removed)));
        fates.extend(update.unreferenced.iter().map(|key| (key.clone(), Fate::Unreferenced)));
        fates.extend(update.unsealed.iter().map(|key| (key.clone(), Fate::NoKey)));
        fates
    }
}

fn conflict(object: &Object, stored: Option<&Snapshot>, own: &str) -> Option<Conflict> {
    let node = match object.key.kind() {
        Kind::Pod => bound_to(object),
        Kind::Node => Some(object.key.name().to_owned()),
        Kind::ConfigMap | Kind::Secret | Kind::Service => None,
    };
    if let Some(node) = node.filter(|node| node != own) {
        return Some(Conflict::OtherNode { node, own: own.to_owned() });
    }
    let known = stored?.objects().find(|known| *known.key == object.key)?;
    let (stored, given) = (known.uid.to_owned(), object.uid.clone());
    match (stored.is_empty(), given.is_empty()) {
        (true, _) => None,
        (false, true) if object.key.kind() == Kind::Pod => Some(Conflict::NoUid { stored }),
        // Somebody who changes a ConfigMap by hand need not know its UID.
        (false, true) => None,
        (false, false) => (stored != given).then_some(Conflict::OtherUid { stored, given }),
    }
}

/// What each stored pod names.
fn named_by_pods(stored: Option<&Snapshot>) -> BTreeMap<ObjectKey, BTreeSet<ObjectKey>> {
    let pods = stored.map(|stored| stored.all(Kind::Pod)).unwrap_or_default();
    let named = |pod: &Object| references(pod).unwrap_or_default().into_iter().map(|reference| reference.key).collect();
    pods.iter().map(|pod| (pod.key.clone(), named(pod))).collect()
}
